//! The example as its user meets it: it trains, is evaluated, drawn, measured and resumed, beside Feedline's own recipes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn run(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_own_recipe")).args(words).current_dir(dir).output().unwrap()
}

/// Runs what must succeed, and gives its standard output and error.
#[track_caller]
fn done(dir: &Path, words: &[&str]) -> (String, String) {
    let output = run(dir, words);
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{words:?}: {err}");
    (out, err)
}

/// The one folder in a folder.
fn named(dir: &Path) -> PathBuf {
    let mut entries = fs::read_dir(dir).unwrap();
    let path = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none());
    path
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_recipe_trains_resumes_and_is_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let train = |out: &str| {
        let flags = ["train", "--recipe", "regression", "--out", out, "--epochs", "40", "--seed", "3"];
        done(dir, &[&flags[..], &["--num-workers", "1", "--set", "train.checkpoint_seconds=0"]].concat())
    };
    // Without --data on the demo data, which the recipe makes.
    let (said, words) = train("whole");
    let words = words + &said;
    for part in ["128 training and 32 validation pictures", "best_val_mae 0.0", "val_mae 0.0", "pictures/s"] {
        assert!(words.contains(part), "{part:?} is not in: {words}");
    }
    let whole = dir.join("whole");
    let epochs: Vec<f64> =
        fs::read_to_string(whole.join("epoch_loss.txt")).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(epochs.len(), 40);
    assert!(epochs[39] < epochs[0] / 20.0, "the loss falls: {epochs:?}");
    let summary = json(&whole.join("summary.json"));
    assert!(summary["val_mae"].as_f64().unwrap() < 0.05, "{summary}");
    let [best, last] = ["best_val_mae", "val_mae"].map(|key| summary[key].as_f64().unwrap());
    assert!(best <= last + 1e-9, "of an error the smallest is best: {summary}");
    let (proof, _) = done(dir, &["verify", "whole"]);
    assert!(proof.contains("each of 128 samples exactly once"), "{proof}");

    // Killed in the middle and resumed: the same losses and the same weights.
    let flags = ["train", "--recipe", "regression", "--out", "broken", "--epochs", "40", "--seed", "3"];
    let more = ["--num-workers", "1", "--set", "train.checkpoint_steps=3"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_own_recipe"))
        .args(flags)
        .args(more)
        .current_dir(dir)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let broken = dir.join("broken");
    while !fs::read_to_string(broken.join("events.jsonl")).is_ok_and(|events| events.matches("\"step\"").count() > 4) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was stopped");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    done(dir, &["train", "--resume", "broken"]);
    let last = |run: &Path| fs::read(run.join("checkpoints/last/model.safetensors")).unwrap();
    assert_eq!(last(&broken), last(&whole), "the final weights, byte for byte");
    let text = |run: &Path| fs::read_to_string(run.join("epoch_val_loss.txt")).unwrap();
    assert_eq!(text(&broken), text(&whole));

    let (text, _) = done(dir, &["eval", "whole/checkpoints/last"]);
    assert!(text.starts_with("32 pictures\nloss 0.0") && text.contains("\nmae 0.0"), "{text}");
    let figures = json(&named(&whole.join("eval")).join("eval.json"));
    assert_eq!((&figures["mae"], &figures["samples"]), (&summary["val_mae"], &32.into()));
}

#[test]
fn its_data_is_drawn_and_measured() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    done(dir, &["demo-data", "regression", "--out", "data"]);
    let of = |words: &[&str]| done(dir, &[words, &["--recipe", "regression", "--data", "data"]].concat());
    of(&["show", "--split", "val", "--out", "val.png"]);
    of(&["show", "--epoch", "1", "--step", "2", "--out", "train.png"]);
    let pictures = ["val.png", "train.png"].map(|name| fs::read(dir.join(name)).unwrap());
    assert!(pictures.iter().all(|bytes| bytes.starts_with(b"\x89PNG") && bytes.len() > 2000));
    assert_ne!(pictures[0], pictures[1]);
    let refused = run(dir, &["show", "--recipe", "regression", "--data", "data", "--step", "8"]);
    assert_eq!(refused.status.code(), Some(2));

    let (measured, _) = of(&["bench", "--epochs", "2", "--num-workers", "1", "--json"]);
    let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
    assert!(measured.to_string().contains("verdict"), "{measured}");
    let refused = run(dir, &["bench", "--recipe", "regression", "--data", "data", "--work", "a"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn the_help_and_the_settings_know_it() {
    let dir = tempfile::tempdir().unwrap();
    let (help, _) = done(dir.path(), &["train", "--help"]);
    for part in ["classification:", "regression:", "a CSV file of name,value"] {
        assert!(help.contains(part), "{part:?} is not in: {help}");
    }
    let (settings, _) = done(dir.path(), &["train", "--recipe", "regression", "--print-config"]);
    // Its own keys, and those of every recipe: a file of them all is one for --config.
    for part in ["side_px = 16 ", "lr = 0.01 ", "num_workers = -1 ", "[storage] ", "checkpoint_seconds = 30.0 "] {
        assert_eq!(settings.matches(&format!("\n{part}")).count(), 1, "{part:?} in: {settings}");
    }
    fs::write(dir.path().join("all.toml"), &settings).unwrap();
    done(dir.path(), &["show", "--recipe", "regression", "--config", "all.toml"]);
    let refused = run(dir.path(), &["train", "--recipe", "regresion"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("'regression'"));
}
