//! The recipe scene_completion as a user meets it: the same commands, other data, other words.

use super::{data, expect, feedline, final_model, losses, run, short, steps_reported, wait_for_steps};
use feedline_recipes::scene_completion::demo::{DemoOptions, write_demo_data};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// 10 training and 4 test scenes of 24 x 32 px and 6 x 4 x 6 voxels.
pub(super) fn rooms(dir: &Path) -> PathBuf {
    let options = DemoOptions { train: 10, test: 4, seed: 1, image_px: [24, 32], grid: [6, 4, 6] };
    write_demo_data(&dir.join("rooms"), &options, |_, _| ()).unwrap();
    dir.join("rooms")
}

const SIZES: [&str; 4] = ["--set", "data.image_px=[24, 32]", "--set", "data.grid=[6, 4, 6]"];

/// Flags of a short run with a checkpoint every other step: 3 epochs of 5 steps.
pub(super) fn scenes<'a>(data: &'a Path, out: &'a Path) -> Vec<&'a str> {
    let (data, out) = (data.to_str().unwrap(), out.to_str().unwrap());
    let mut args = vec!["train", "--recipe", "scene_completion", "--data", data, "--out", out, "--epochs", "3"];
    args.extend(["--batch-size", "2", "--num-workers", "1", "--set", "model.channels=4"]);
    args.extend(["--set", "train.checkpoint_steps=2", "--set", "train.save_period=0"]);
    args.extend(SIZES);
    args
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn scenes_are_trained_evaluated_shown_and_proved() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (rooms(dir.path()), dir.path().join("run"));
    let words = ["10 training and 4 validation scenes of 12 classes", "ssc_miou", "validation SSC mIoU", "scenes/s"];
    expect(&run(&scenes(&data, &out)), 0, &words);
    for name in ["config.toml", "classes.txt", "samples.txt", "events.jsonl", "epoch_loss.png", "ledger.jsonl"] {
        assert!(fs::metadata(out.join(name)).unwrap().len() > 0, "{name}");
    }
    expect(&run(&["verify", out.to_str().unwrap()]), 0, &[]);
    let summary = json(&out.join("summary.json"));
    assert_eq!((&summary["epochs"], summary["classes"].as_array().unwrap().len()), (&3.into(), 12));

    // Evaluation finds the recipe in the run folder, agrees with the run, and does not depend on the batch size.
    let eval = |more: &[&str]| {
        let to = dir.path().join("eval");
        let last = out.join("checkpoints/last");
        let args = [&["eval", last.to_str().unwrap(), "--out", to.to_str().unwrap()], more].concat();
        let output = run(&args);
        expect(&output, 0, &[]);
        (String::from_utf8(output.stdout).unwrap(), json(&to.join("eval.json")))
    };
    let (text, figures) = eval(&["--batch-size", "3"]);
    assert!(text.contains("4 scenes\nSSC mIoU 0.") && text.contains("furniture"), "{text}");
    for (of_eval, of_run) in
        [("ssc_miou", "val_ssc_miou"), ("sc_iou", "val_sc_iou"), ("sc_recall", "val_sc_recall"), ("classes", "classes")]
    {
        assert_eq!(figures[of_eval], summary[of_run], "{of_eval}");
    }
    assert_eq!(eval(&["--data", data.to_str().unwrap()]).1, figures);
    let last = out.join("checkpoints/last");
    let logits = ["eval", last.to_str().unwrap(), "--logits", "l.csv"];
    expect(&run(&logits), 2, &["--logits makes no sense for the recipe scene_completion"]);

    let sheet = |step: &str| {
        let png = dir.path().join("batch.png");
        let args = ["show", "--recipe", "scene_completion", "--data", data.to_str().unwrap(), "--step", step];
        let output = run(&[&args, &SIZES[..], &["--out", png.to_str().unwrap()]].concat());
        expect(&output, 0, &[]);
        fs::read(png).unwrap()
    };
    let first = sheet("0");
    assert!(first.starts_with(b"\x89PNG") && sheet("0") == first && sheet("1") != first);
    let bench = ["bench", "--recipe", "scene_completion", "--data", data.to_str().unwrap(), "--epochs", "2", "--json"];
    let output = run(&[&bench, &SIZES[..]].concat());
    expect(&output, 0, &[]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["samples"], 10);
    expect(&run(&[&bench[..], &["--work", "a"]].concat()), 2, &["--work and --shape make no sense"]);
}

#[test]
fn a_run_of_scenes_killed_and_resumed_is_the_run_never_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (data, whole, out) = (rooms(dir.path()), dir.path().join("whole"), dir.path().join("killed"));
    expect(&run(&scenes(&data, &whole)), 0, &[]);
    assert_eq!(losses(&whole).len(), 3 * 5 + 3);
    let mut child = feedline(&scenes(&data, &out)).stderr(Stdio::null()).spawn().unwrap();
    for steps in [3, 5] {
        wait_for_steps(&out, steps_reported(&out) + steps, &mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        // Neither recipe nor settings are said again.
        child = feedline(&["train", "--resume", out.to_str().unwrap()]).stderr(Stdio::null()).spawn().unwrap();
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(losses(&out), losses(&whole));
    assert_eq!(final_model(&out), final_model(&whole), "the final weights, byte for byte");
    expect(&run(&["verify", out.to_str().unwrap()]), 0, &[]);

    fs::write(data.join("train.txt"), fs::read_to_string(data.join("train.txt")).unwrap().replace("0002\n", ""))
        .unwrap();
    let resume = ["train", "--resume", out.to_str().unwrap()];
    expect(&run(&resume), 6, &["1 removed (0002)", "--allow-changed-data"]);
    expect(&run(&[&resume[..], &["--allow-changed-data"]].concat()), 0, &["all 3 epochs are done"]);
}

#[test]
fn flags_and_settings_of_another_recipe_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (rooms, out) = (rooms(dir.path()), dir.path().join("run"));
    for flags in [
        &["--backbone", "small"][..],
        &["--input-px", "64"],
        &["--augment", "light"],
        &["--freeze-train"],
        &["--init-lr", "0.1"],
    ] {
        let output = run(&[&scenes(&rooms, &out)[..], flags].concat());
        expect(&output, 2, &[flags[0], "makes no sense for the recipe scene_completion", "--print-config"]);
    }
    assert!(!out.exists());
    let printed = |flags: &[&str]| {
        let output = run(&[&["train", "--print-config"], flags].concat());
        expect(&output, 0, &[]);
        String::from_utf8(output.stdout).unwrap()
    };
    let reference = printed(&["--recipe", "scene_completion"]);
    assert!(reference.contains("hha_order = \"bgr\"") && !printed(&[]).contains("hha_order"));
    let file = dir.path().join("scenes.toml");
    fs::write(&file, &reference).unwrap();
    assert_eq!(printed(&["--config", file.to_str().unwrap()]), reference, "a file says its recipe");
    let config = ["train", "--config", file.to_str().unwrap(), "--recipe", "classification"];
    expect(&run(&config), 2, &["scenes.toml", "settings of the recipe \"scene_completion\""]);
    fs::write(&file, "recipe = \"segmentation\"\n").unwrap();
    expect(
        &run(&["train", "--config", file.to_str().unwrap()]),
        2,
        &["segmentation", "classification, scene_completion"],
    );

    // The run folder decides; one from before there were recipes is of the first.
    let pictures = dir.path().join("pictures");
    expect(&run(&short(data(), &pictures)), 0, &[]);
    let text = fs::read_to_string(pictures.join("config.toml")).unwrap();
    assert!(text.starts_with("recipe = \"classification\"\n"), "{text}");
    let resume = ["train", "--resume", pictures.to_str().unwrap()];
    let other = [&resume[..], &["--recipe", "scene_completion"]].concat();
    expect(&run(&other), 2, &["is of the recipe classification", "Leave --recipe out"]);
    fs::write(pictures.join("config.toml"), text.split_once('\n').unwrap().1).unwrap();
    expect(&run(&resume), 0, &["all 3 epochs are done"]);
    let eval = ["eval", pictures.to_str().unwrap()];
    expect(&run(&eval), 0, &[]);
    expect(&run(&[&eval[..], &["--recipe", "scene_completion"]].concat()), 2, &["is of the recipe classification"]);
}
