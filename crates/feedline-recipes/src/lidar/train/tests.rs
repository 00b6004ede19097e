//! Runs of the recipe on a few small drawn streets: their files, their rates, going on, sharing.

use super::*;
use crate::lidar::data::splits;
use crate::lidar::demo::{DemoOptions, write_demo_data};
use crate::recipe::load_weights;
use crate::settings::SettingsBuilder;
use feedline::event::{Event, Warnings};
use feedline::train::Task;
use feedline::train::group::{Group, SingleRank};
use feedline::train::proof::verify;
use feedline::train::threads::ThreadGroup;
use std::collections::BTreeMap;
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

/// 6 training and 3 validation frames of a coarse lidar.
fn streets(dir: &Path) {
    let options = DemoOptions { train: 6, val: 3, test: 1, seed: 1, beams: 16, steps: 96 };
    write_demo_data(dir, &options, |_, _| ()).unwrap();
}

fn config(dir: &Path, more: &[&str]) -> Config {
    let text = dir.to_str().unwrap();
    let step = "{ name = \"transform_points_to_voxels\", voxel_size = [0.8, 0.8, 4.0], max_points_per_voxel = 8, \
                max_number_of_voxels = { train = 2000, test = 2000 } }";
    let fixed = [
        format!("data.dir={text}"),
        "data.num_workers=1".into(),
        format!(
            "clouds.process=[{{ name = \"mask_points_and_boxes_outside_range\", remove_outside_boxes = true }}, {step}]"
        ),
        "model.channels=4".into(),
        "model.blocks=[{ layers = 0, channels = 4, up_channels = 4 }, { layers = 0, channels = 6, up_channels = 4 }]"
            .into(),
        // So that an untrained network finds something.
        "model.score_threshold=0.01".into(),
        "model.nms_most=[200, 50]".into(),
        "train.epochs=3".into(),
        "train.batch_size=2".into(),
        "train.checkpoint_steps=2".into(),
        "train.checkpoint_seconds=0".into(),
    ];
    let all = fixed.iter().map(String::as_str).chain(more.iter().copied());
    all.fold(SettingsBuilder::defaults(), |builder, assignment| builder.assign(assignment).unwrap()).resolve().unwrap()
}

#[test]
fn a_run_leaves_its_files_its_figures_and_its_rates() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("streets"), dir.path().join("run"));
    streets(&data);
    let steps = Arc::new(Steps::default());
    let mut run = Run::create(config(&data, &[]), &out, Arc::new(SingleRank)).unwrap();
    let summary = run.train(steps.clone(), &|| false).unwrap().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    for key in ["val_mean_ap_3d", "best_val_map_3d", "val_map_3d", "train_loss", "val_loss", "images_per_second"] {
        assert!(json.get(key).is_some(), "{key} in {json}");
    }
    assert_eq!((&json["epochs"], &json["bad_samples"]), (&3.into(), &0.into()));
    let names: Vec<&str> =
        json["classes"].as_array().unwrap().iter().map(|class| class["class"].as_str().unwrap()).collect();
    assert_eq!(names, ["Car", "Pedestrian", "Cyclist"]);
    let text = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert!(text("samples.txt").starts_with("000000\n000001\n"), "{}", text("samples.txt"));
    assert!(text("config.toml").starts_with("recipe = \"lidar\"\n"));
    // Three steps an epoch, and OpenPCDet's rate by the samples before each.
    let cycle = OneCycle { lr_max: 3e-3, div_factor: 10.0, pct_start: 0.4, moms: (0.95, 0.85), total_steps: 18 };
    let found: Vec<(u64, u64, f64)> = steps.0.lock().unwrap().iter().map(|step| (step.0, step.1, step.3)).collect();
    let expect: Vec<(u64, u64, f64)> = (0..9).map(|at| (at / 3 + 1, at % 3 + 1, cycle.at(2 * at).0)).collect();
    assert_eq!(found, expect);
    assert!(verify(&out).unwrap().proved);

    // Evaluated by itself, it has the figures of the run, whatever the batch size.
    let again = config(&data, &["train.batch_size=3"]);
    let val = splits::open_split(&again, Split::Val).unwrap();
    let alone = evaluate::evaluate(run.task_mut(), &val, &again, &SingleRank, Arc::new(Warnings), &mut |_| ()).unwrap();
    let strict: Vec<ClassFigures> = alone.report.strict().cloned().collect();
    assert_eq!(strict, summary.classes);
    assert_eq!(alone.frames.keys().copied().collect::<Vec<u64>>(), [0, 1, 2]);
    assert!(alone.frames.values().any(|annos| !annos.name.is_empty()));
    // And over ranks, one more than the frames can be dealt to evenly: each frame is there once.
    for ranks in [2, 4] {
        std::thread::scope(|scope| {
            for group in ThreadGroup::new(ranks) {
                let (alone, val, again, task) = (&alone, val.clone(), &again, run.task().state().unwrap());
                scope.spawn(move || {
                    let mut theirs = LidarTask::new(task_options(again, &val).unwrap()).unwrap();
                    load_weights(&mut theirs, task.model.clone()).unwrap();
                    let found =
                        evaluate::evaluate(&mut theirs, &val, again, &group, Arc::new(Warnings), &mut |_| ()).unwrap();
                    assert_eq!(found.report, alone.report);
                    let frames = if group.rank() == 0 { &alone.frames } else { &BTreeMap::new() };
                    assert_eq!(&found.frames, frames);
                });
            }
        });
    }
}

#[test]
fn a_frame_that_cannot_be_read_counts_in_no_figure() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("streets");
    streets(&data);
    let found = |more: &[&str]| {
        let config = config(&data, more);
        let val = splits::open_split(&config, Split::Val).unwrap();
        let mut task = LidarTask::new(task_options(&config, &val).unwrap()).unwrap();
        evaluate::evaluate(&mut task, &val, &config, &SingleRank, Arc::new(Warnings), &mut |_| ())
    };
    let whole = found(&[]).unwrap();
    let broken = data.join("training/velodyne/000007.bin");
    let bytes = std::fs::read(&broken).unwrap();
    std::fs::write(&broken, &bytes[..bytes.len() - 3]).unwrap();
    let error = found(&[]).unwrap_err().to_string();
    assert!(error.contains("000007.bin"), "{error}");
    let rest = found(&["data.on_bad_sample=replace"]).unwrap();
    assert_eq!(rest.frames.keys().copied().collect::<Vec<u64>>(), [0, 2]);
    assert!(rest.frames.iter().all(|(frame, annos)| whole.frames[frame] == *annos));
}

#[test]
fn a_run_stopped_and_resumed_is_the_run_never_stopped_and_is_proved() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("streets");
    streets(&data);
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
fn two_ranks_train_the_run_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("streets");
    streets(&data);
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
        assert!((one.2 - two.2).abs() <= 1e-3 * one.2.abs() && one.3 == two.3, "{one:?} {two:?}");
    }
}

#[test]
fn frames_without_labels_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("streets"), dir.path().join("run"));
    streets(&data);
    let infos = data.join("kitti_infos_val.jsonl");
    let text = std::fs::read_to_string(&infos).unwrap();
    let unlabelled: String = text
        .lines()
        .map(|line| {
            let mut frame: serde_json::Value = serde_json::from_str(line).unwrap();
            frame.as_object_mut().unwrap().remove("annos").unwrap();
            frame.to_string() + "\n"
        })
        .collect();
    std::fs::write(&infos, unlabelled).unwrap();
    let error = Run::create(config(&data, &[]), &out, Arc::new(SingleRank)).err().unwrap().to_string();
    assert!(error.contains("frame 000006 has no labels"), "{error}");
    assert!(!out.exists());
}
