//! Runs of the recipe on tiny drawn rooms: their files, their rates, going on.

use super::*;
use crate::recipe::Recipe;
use crate::scene_completion::demo::{DemoOptions, write_demo_data};
use crate::settings::SettingsBuilder;
use feedline::event::{Event, Warnings};
use feedline::train::group::{Group, SingleRank};
use feedline::train::proof::verify;
use feedline::train::threads::ThreadGroup;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Remembers the steps.
#[derive(Default)]
struct Steps(Mutex<Vec<(u64, u64, f64, f64)>>);

impl Sink for Steps {
    fn emit(&self, event: &Event) -> Result<()> {
        if let Event::Step { epoch, step, loss, lr, .. } = event {
            self.0.lock().unwrap().push((*epoch, *step, *loss, *lr));
        }
        Ok(())
    }
}

/// 7 training and 3 test scenes of 24 x 32 px and 6 x 4 x 6 voxels.
fn rooms(dir: &Path) {
    let options = DemoOptions { train: 7, test: 3, seed: 1, image_px: [24, 32], grid: [6, 4, 6] };
    write_demo_data(dir, &options, |_, _| ()).unwrap();
}

fn config(dir: &Path, more: &[&str]) -> Config {
    let text = dir.to_str().unwrap();
    let fixed = [
        format!("data.dir={text}"),
        "data.image_px=[24, 32]".into(),
        "data.grid=[6, 4, 6]".into(),
        "data.num_workers=1".into(),
        "model.channels=4".into(),
        "train.epochs=3".into(),
        "train.batch_size=2".into(),
        "train.checkpoint_steps=2".into(),
        "train.checkpoint_seconds=0".into(),
    ];
    let all = fixed.iter().map(String::as_str).chain(more.iter().copied());
    all.fold(SettingsBuilder::defaults(), |builder, assignment| builder.assign(assignment).unwrap()).resolve().unwrap()
}

#[test]
fn a_run_leaves_its_files_and_its_figures() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("rooms"), dir.path().join("run"));
    rooms(&data);
    let steps = Arc::new(Steps::default());
    let mut run = Run::create(config(&data, &["data.epoch_samples=8"]), &out, Arc::new(SingleRank)).unwrap();
    let summary = run.train(steps.clone(), &|| false).unwrap().unwrap();
    assert!(summary.val_ssc_miou > 0.0 && summary.best_val_ssc_miou >= summary.val_ssc_miou, "{summary:?}");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    for key in ["best_val_ssc_miou", "val_sc_iou", "val_sc_precision", "val_sc_recall", "train_loss", "val_loss"] {
        assert!(json.get(key).is_some(), "{key} in {json}");
    }
    assert_eq!((&json["epochs"], &json["bad_samples"]), (&3.into(), &0.into()));
    assert_eq!(json["classes"].as_array().unwrap().len(), 12);
    assert_eq!(json["classes"][1]["name"], "ceiling");
    let text = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert!(text("classes.txt").starts_with("empty\nceiling\n") && text("samples.txt").starts_with("0001\n0002\n"));
    assert!(text("config.toml").starts_with("recipe = \"scene_completion\"\n"));
    // Four steps an epoch, as the length of 8 says, and TorchSSC's rate for each.
    let expect: Vec<(u64, u64, f64)> = (0..12).map(|at| (at / 4 + 1, at % 4 + 1, poly_lr(0.05, 0.9, at, 12))).collect();
    let found: Vec<(u64, u64, f64)> = steps.0.lock().unwrap().iter().map(|step| (step.0, step.1, step.3)).collect();
    for (found, expect) in found.iter().zip(&expect) {
        assert!(
            (found.0, found.1) == (expect.0, expect.1) && (found.2 - expect.2).abs() < 1e-15,
            "{found:?} {expect:?}"
        );
    }
    assert_eq!(found.len(), 12);
    assert!(verify(&out).unwrap().proved);
    // Evaluated by itself, it has the scores of the run, whatever the batch size.
    let again = config(&data, &["train.batch_size=3"]);
    let val = SceneCompletion::open(&again, Split::Val).unwrap();
    let scores =
        evaluate::evaluate(run.task_mut(), &val, &again, &SingleRank, Arc::new(Warnings), &mut |_| Ok(())).unwrap();
    assert_eq!((scores.ssc_miou(), scores.sc_iou()), (summary.val_ssc_miou, summary.val_sc_iou));
}

#[test]
fn a_run_stopped_and_resumed_is_the_run_never_stopped_and_is_proved() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("rooms");
    rooms(&data);
    let whole = Arc::new(Steps::default());
    let mut run = Run::create(config(&data, &[]), &dir.path().join("whole"), Arc::new(SingleRank)).unwrap();
    run.train(whole.clone(), &|| false).unwrap().unwrap();
    let out = dir.path().join("stopped");
    let steps = Arc::new(Steps::default());
    let mut run = Run::create(config(&data, &[]), &out, Arc::new(SingleRank)).unwrap();
    for _ in 0..50 {
        let asked = AtomicU64::new(0);
        if run.train(steps.clone(), &|| asked.fetch_add(1, Ordering::Relaxed) >= 2).unwrap().is_some() {
            break;
        }
        drop(run); // which gives the folder back
        run = Run::resume(&out, Ok, false, Arc::new(SingleRank)).unwrap();
    }
    assert_eq!(*steps.0.lock().unwrap(), *whole.0.lock().unwrap());
    assert_eq!(steps.0.lock().unwrap().len(), 9);
    assert!(verify(&out).unwrap().proved);
}

#[test]
fn changed_data_is_told_by_id_and_settings_stay_what_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("rooms"), dir.path().join("run"));
    rooms(&data);
    let mut run = Run::create(config(&data, &[]), &out, Arc::new(SingleRank)).unwrap();
    assert!(run.train(Arc::new(Warnings), &|| true).unwrap().is_none());
    let error = Run::resume(&out, Ok, false, Arc::new(SingleRank)).err().unwrap().to_string();
    assert!(error.contains("is under way"), "{error}");
    drop(run);
    let other_rate = |mut config: Config| {
        config.train.lr = 0.1;
        Ok(config)
    };
    let error = Run::resume(&out, other_rate, false, Arc::new(SingleRank)).err().unwrap().to_string();
    assert!(error.contains("train.lr was 0.05 when the run began"), "{error}");
    let list = data.join("train.txt");
    let text = std::fs::read_to_string(&list).unwrap();
    std::fs::write(&list, text.replace("0003\n", "")).unwrap();
    let error = Run::resume(&out, Ok, false, Arc::new(SingleRank)).err().unwrap().to_string();
    assert!(error.contains("1 removed (0003)") && error.contains("--allow-changed-data"), "{error}");
    let mut run = Run::resume(&out, Ok, true, Arc::new(SingleRank)).unwrap();
    assert!(run.notes()[0].contains("begins anew"), "{:?}", run.notes());
    run.train(Arc::new(Warnings), &|| false).unwrap().unwrap();
    assert!(verify(&out).unwrap().proved);
}

#[test]
fn two_ranks_train_the_run_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("rooms");
    rooms(&data);
    let trained = |ranks: usize| -> Vec<(u64, u64, f64, f64)> {
        let (out, steps) = (dir.path().join(format!("on{ranks}")), Arc::new(Steps::default()));
        std::thread::scope(|scope| {
            for group in ThreadGroup::new(ranks) {
                let (out, steps, config) = (out.clone(), steps.clone(), config(&data, &[]));
                scope.spawn(move || {
                    let sink: Arc<dyn Sink> = if group.rank() == 0 { steps } else { Arc::new(Warnings) };
                    let mut run = Run::create(config, &out, Arc::new(group)).unwrap();
                    run.train(sink, &|| false).unwrap().unwrap();
                });
            }
        });
        assert!(verify(&out).unwrap().proved);
        steps.0.lock().unwrap().clone()
    };
    let (one, two) = (trained(1), trained(2));
    assert_eq!(one.len(), two.len());
    for (one, two) in one.iter().zip(&two) {
        assert!((one.2 - two.2).abs() <= 1e-4 * one.2.abs() && one.3 == two.3, "{one:?} {two:?}");
    }
}

#[test]
fn a_segmentation_list_is_refused_for_training() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("rooms"), dir.path().join("run"));
    rooms(&data);
    std::fs::write(data.join("pairs.txt"), "RGB/NYU0001_colors.png\tRGB/NYU0001_colors.png\n").unwrap();
    let list = format!("data.train_list={}", data.join("pairs.txt").display());
    let error = Run::create(config(&data, &[&list, "model.use_hha=false"]), &out, Arc::new(SingleRank)).err().unwrap();
    assert!(error.to_string().contains("the network labels voxels"), "{error}");
    assert!(!out.exists());
}
