//! Runs that go on from what is left of a run folder.

use crate::classification::OptimizerKind;
use crate::classification::config::{ClassWeights, Config, Sampler, Scheduler};
use crate::classification::demo::{DemoOptions, write_demo_data};
use crate::classification::recipe::Classification;
use crate::run::Run;
use crate::settings::{CONFIG, Settings, SettingsBuilder};
use feedline::event::{Event, Sink, Warnings};
use feedline::train::checkpoint::{Checkpoints, load_model, load_raw_model};
use feedline::train::group::SingleRank;
use feedline::train::proof::verify;
use feedline::train::schedule::LrScheduler;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Asks to stop after the first step of the third epoch.
#[derive(Default)]
struct Stop(AtomicBool);

impl Sink for Stop {
    fn emit(&self, event: &Event) -> feedline::Result<()> {
        if let Event::Step { epoch: 3, step: 1, .. } = event {
            self.0.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn config(data: &Path) -> Config {
    let data = format!("data.dir={}", data.display());
    let all = [
        &data,
        "data.num_workers=0",
        "model.input_px=32",
        "train.epochs=4",
        "train.batch_size=8",
        "train.checkpoint_steps=2",
        "train.checkpoint_seconds=0",
        "train.save_period=0",
    ];
    all.into_iter()
        .fold(SettingsBuilder::defaults(), |builder, assignment| builder.assign(assignment).unwrap())
        .resolve()
        .unwrap()
}

/// A run of four epochs that was never stopped, and one that was stopped in its third.
fn runs(dir: &Path) -> (PathBuf, PathBuf) {
    runs_with(dir, config)
}

fn runs_with(dir: &Path, config: impl Fn(&Path) -> Config) -> (PathBuf, PathBuf) {
    let (data, whole, half) = (dir.join("data"), dir.join("whole"), dir.join("half"));
    write_demo_data(&data, &DemoOptions { train: 30, test: 12, seed: 1 }, |_, _| ()).unwrap();
    let mut run = Run::<Classification>::create(config(&data), &whole, Arc::new(SingleRank)).unwrap();
    run.train(Arc::new(Warnings), &|| false).unwrap().unwrap();
    let stop = Arc::new(Stop::default());
    let mut run = Run::<Classification>::create(config(&data), &half, Arc::new(SingleRank)).unwrap();
    assert!(run.train(stop.clone(), &|| stop.0.load(Ordering::Relaxed)).unwrap().is_none());
    (whole, half)
}

fn resume(dir: &Path) -> feedline::Result<Run<Classification>> {
    Run::resume(dir, Ok, false, Arc::new(SingleRank))
}

fn copy(from: &Path, to: &Path, flags: &str) {
    assert!(Command::new("cp").args([flags, "--"]).args([from, to]).status().unwrap().success());
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// With averages, parts, a schedule and a warm-up by step, weights by class, and a patience that runs out.
#[test]
fn a_run_with_every_setting_of_a_step_goes_on_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let config = |data: &Path| {
        let mut config = config(data);
        let train = &mut config.train;
        (train.optimizer, train.init_lr) = (OptimizerKind::AdamW, 2.0);
        train.lr_scheduler = Scheduler(Some(LrScheduler::Poly));
        (train.warmup_steps, train.ema_decay, train.accumulate, train.clip_grad_norm) = (4, 0.5, 2, 1.0);
        (train.class_weights, train.label_smoothing, train.patience) = (ClassWeights::Balanced, 0.1, 2);
        (train.sampler, train.layer_decay) = (Sampler::Balanced, 0.8);
        train.epochs = 9;
        config.check().unwrap();
        config
    };
    let (whole, half) = runs_with(dir.path(), config);
    let mut run = resume(&half).unwrap();
    run.train(Arc::new(Warnings), &|| false).unwrap().unwrap();
    assert_eq!(names(&half.join("checkpoints")), names(&whole.join("checkpoints")));
    for name in ["model.safetensors", "optimizer.safetensors"] {
        let bytes = |dir: &Path| fs::read(dir.join("checkpoints/last").join(name)).unwrap();
        assert!(bytes(&half) == bytes(&whole), "{name}");
    }
    let text = |dir: &Path| fs::read_to_string(dir.join("epoch_val_loss.txt")).unwrap();
    assert_eq!(text(&half), text(&whole));
    let proof = verify(&half).unwrap();
    assert!(proof.proved && proof.epochs.iter().all(|epoch| epoch.wanted_twice), "{proof:?}");
    let losses: Vec<f64> = text(&whole).lines().map(|line| line.parse().unwrap()).collect();
    assert!((3..=9).contains(&losses.len()), "{losses:?}");
    // What is saved as the model is what was evaluated; the weights themselves lie beside it.
    let last = whole.join("checkpoints/last");
    let (model, raw) = (load_model(&last).unwrap(), load_raw_model(&last).unwrap());
    assert!(model.keys().eq(raw.keys()) && model["classifier.weight"] != raw["classifier.weight"]);
    // A run that ran out of patience ends at once when it goes on.
    let mut again = resume(&whole).unwrap();
    again.train(Arc::new(Warnings), &|| false).unwrap().unwrap();
    assert_eq!(text(&whole).lines().count(), losses.len());
}

#[test]
fn whatever_becomes_of_the_links_a_run_goes_on_as_the_one_never_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, half) = runs(dir.path());
    let newest = fs::read_link(half.join("checkpoints/last")).unwrap();
    assert_eq!(newest.to_str(), Some("ep002-step00000001"));
    type Spoil = fn(&Path);
    let spoils: [(&str, &str, &str, Spoil); 5] = [
        ("without_links", "-r", "", |dir| {
            fs::remove_file(dir.join("last")).unwrap();
            fs::remove_file(dir.join("best")).unwrap();
        }),
        ("folders_for_links", "-rL", "", |_| ()),
        ("only_best_is_lost", "-r", "", |dir| fs::remove_file(dir.join("best")).unwrap()),
        ("dangling", "-r", "last names a checkpoint that is not there", |dir| {
            fs::remove_file(dir.join("last")).unwrap();
            std::os::unix::fs::symlink("ep009-step00000000", dir.join("last")).unwrap();
        }),
        ("cut", "-r", "ep002-step00000001/model.safetensors: it is damaged", |dir| {
            let file =
                fs::OpenOptions::new().write(true).open(dir.join("ep002-step00000001/model.safetensors")).unwrap();
            file.set_len(1000).unwrap();
        }),
    ];
    for (what, flags, word, spoil) in spoils {
        let out = dir.path().join(what);
        copy(&half, &out, flags);
        spoil(&out.join("checkpoints"));
        let mut run = resume(&out).unwrap();
        let notes = run.notes().join("\n");
        assert!(
            notes.contains(word) && (what == "cut" || notes.contains("from checkpoints/ep002-step00000001")),
            "{notes}"
        );
        run.train(Arc::new(Warnings), &|| false).unwrap().unwrap();
        for name in ["last", "best"] {
            let (this, never_stopped) = (out.join("checkpoints").join(name), whole.join("checkpoints").join(name));
            assert_eq!(fs::read_link(&this).unwrap(), fs::read_link(&never_stopped).unwrap(), "{what}");
            let model = |dir: PathBuf| fs::read(dir.join("model.safetensors")).unwrap();
            assert!(model(this) == model(never_stopped), "{what}: the weights of {name}");
        }
        let text = |dir: &Path| fs::read_to_string(dir.join("epoch_val_loss.txt")).unwrap();
        assert_eq!(text(&out), text(&whole), "{what}");
        // Incomplete checkpoints stay; all else is as after an uninterrupted run.
        let mut expect = names(&whole.join("checkpoints"));
        if what == "cut" {
            expect.push("ep002-step00000001".into());
            expect.sort();
        }
        assert_eq!(names(&out.join("checkpoints")), expect, "{what}");
        let proof = verify(&out).unwrap();
        assert!(proof.proved && proof.passed_over.is_empty() == (what != "cut"), "{what}: {proof:?}");
    }
}

#[test]
fn checkpoints_that_are_lost_or_all_cut_are_no_reason_to_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (_, half) = runs(dir.path());
    for name in names(&half.join("checkpoints")) {
        let _ = fs::remove_file(half.join("checkpoints").join(name).join("checkpoint.toml"));
    }
    let before = names(&half.join("checkpoints"));
    let error = resume(&half).err().unwrap().to_string();
    assert!(error.contains("no checkpoint in it is complete") && error.contains("ep002-step00000001"), "{error}");
    assert!(verify(&half).unwrap_err().to_string().contains("no checkpoint in it is complete"));
    assert_eq!(names(&half.join("checkpoints")), before);
    fs::remove_dir_all(half.join("checkpoints")).unwrap();
    let error = resume(&half).err().unwrap().to_string();
    assert!(error.contains("events.jsonl tells of") && error.contains("ep002-step00000001"), "{error}");
}

#[test]
fn settings_that_are_cut_or_changed_are_refused_and_nothing_is_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let (_, half) = runs(dir.path());
    let file = half.join(CONFIG);
    let text = fs::read_to_string(&file).unwrap();
    let refused = |text: &str| {
        fs::write(&file, text).unwrap();
        resume(&half).err().unwrap_or_else(|| panic!("taken for whole: {text}")).to_string()
    };
    assert!(refused("").contains("config.toml: it is empty"));
    // Cut at any place but for the end of the last line.
    let (first, _) = text.match_indices('\n').nth(1).unwrap();
    for at in 1..text.trim_end().len() {
        let error = refused(&text[..at]);
        assert!(at < first || error.contains("config.toml: it is cut"), "{error}");
    }
    // As if an older version had written it: only the checkpoint knows.
    let older: String = text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let cut = &older[..older.find("[train]").unwrap()];
    let error = refused(cut);
    assert!(error.contains("train.epochs is 10 in it or left out") && error.contains("made with 4"), "{error}");
    assert!(refused(&older.replace("input_px = 32", "input_px = 64")).contains("model.input_px is 64"));
    fs::write(&file, &older).unwrap();
    resume(&half).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), text, "a resume writes it whole again");
    fs::remove_file(&file).unwrap();
    let error = resume(&half).err().unwrap().to_string();
    assert!(error.contains("config.toml: it is not there") && error.contains("settings"), "{error}");

    // Settings that may change are accepted, and a kill before the next checkpoint does no harm.
    fs::write(&file, &text).unwrap();
    let other_batch = |mut config: Config| {
        config.train.batch_size = 6;
        Ok(config)
    };
    drop(Run::<Classification>::resume(&half, other_batch, false, Arc::new(SingleRank)).unwrap());
    assert_eq!(Config::of_run(&half).unwrap().train.batch_size, 6);
    let mut run = resume(&half).unwrap();
    run.train(Arc::new(Warnings), &|| false).unwrap().unwrap();
    let found = Checkpoints::new(half.join("checkpoints")).newest().unwrap().unwrap();
    assert!(found.settings.unwrap().contains("batch_size = 6\n"));
}

#[test]
fn a_run_of_an_older_version_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, half) = runs(dir.path());
    let text = fs::read_to_string(half.join(CONFIG)).unwrap();
    fs::write(half.join(CONFIG), text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n"))
        .unwrap();
    for name in names(&half.join("checkpoints")).iter().filter(|name| name.starts_with("ep")) {
        // Without first line, list of files and settings.
        let path = half.join("checkpoints").join(name).join("checkpoint.toml");
        let mut table: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        assert!(table.remove("files").is_some() && table.remove("settings").is_some());
        fs::write(&path, toml::to_string(&table).unwrap()).unwrap();
    }
    resume(&half).unwrap().train(Arc::new(Warnings), &|| false).unwrap().unwrap();
    let model = |dir: &Path| fs::read(dir.join("checkpoints/best/model.safetensors")).unwrap();
    assert!(model(&half) == model(&whole));
}
