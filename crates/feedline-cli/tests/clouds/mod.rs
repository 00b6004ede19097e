//! The recipe lidar as a user meets it: infos, training, evaluation, pictures, kills.

use super::{expect, feedline, final_model, losses, run, steps_reported, wait_for_steps};
use feedline_recipes::lidar::demo::{DemoOptions, write_demo_data};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// 8 training and 3 validation frames of a coarse lidar.
pub(super) fn streets(dir: &Path) -> PathBuf {
    let options = DemoOptions { train: 8, val: 3, test: 1, seed: 1, beams: 16, steps: 96 };
    write_demo_data(&dir.join("streets"), &options, |_, _| ()).unwrap();
    dir.join("streets")
}

/// Coarse pillars, so that a network is quick.
const PROCESS: &str = "clouds.process=[{ name = \"mask_points_and_boxes_outside_range\", remove_outside_boxes = true }, \
    { name = \"transform_points_to_voxels\", voxel_size = [0.8, 0.8, 4.0], max_points_per_voxel = 8, \
    max_number_of_voxels = { train = 2000, test = 2000 } }]";
const SIZES: [&str; 2] = ["--set", PROCESS];

/// Flags of a short run with a checkpoint every other step: 3 epochs of 4 steps.
pub(super) fn clouds<'a>(data: &'a Path, out: &'a Path) -> Vec<&'a str> {
    let (data, out) = (data.to_str().unwrap(), out.to_str().unwrap());
    let mut args = vec!["train", "--recipe", "lidar", "--data", data, "--out", out, "--epochs", "3"];
    args.extend(["--batch-size", "2", "--num-workers", "1", "--set", "model.channels=4"]);
    args.extend(["--set", "model.blocks=[{ layers = 0, channels = 4, up_channels = 4 }]"]);
    args.extend(["--set", "train.checkpoint_steps=2", "--set", "train.save_period=0"]);
    // So that a network that has hardly learnt finds something.
    args.extend(["--set", "model.score_threshold=0.01", "--set", "model.nms_most=[200, 50]"]);
    args.extend(SIZES);
    args
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn clouds_are_trained_evaluated_shown_and_proved() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (streets(dir.path()), dir.path().join("run"));
    // Infos made anew by the command are those of the demo data.
    let infos = fs::read(data.join("kitti_infos_train.jsonl")).unwrap();
    fs::remove_file(data.join("kitti_infos_train.jsonl")).unwrap();
    expect(&run(&["lidar", "infos", "--data", data.to_str().unwrap(), "--overwrite"]), 0, &[]);
    assert_eq!(fs::read(data.join("kitti_infos_train.jsonl")).unwrap(), infos);

    let words =
        ["8 training and 3 validation frames", "map_3d", "validation mean AP in space", "Pedestrian", "frames/s"];
    expect(&run(&clouds(&data, &out)), 0, &words);
    for name in ["config.toml", "samples.txt", "events.jsonl", "epoch_loss.png", "ledger.jsonl"] {
        assert!(fs::metadata(out.join(name)).unwrap().len() > 0, "{name}");
    }
    expect(&run(&["verify", out.to_str().unwrap()]), 0, &[]);
    let summary = json(&out.join("summary.json"));
    assert_eq!((&summary["epochs"], summary["classes"].as_array().unwrap().len()), (&3.into(), 3));

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
    assert!(text.contains("3 frames\nCar AP@0.70, 0.70, 0.70:\nbbox AP:") && text.contains("Cyclist AP_R40"), "{text}");
    assert_eq!(figures["mean_ap_3d"], summary["val_mean_ap_3d"]);
    assert_eq!(figures["classes"][2], summary["classes"][1], "of two sets of overlaps a class the strict one");
    assert_eq!(eval(&["--data", data.to_str().unwrap()]).1, figures);
    let detections = fs::read_to_string(dir.path().join("eval/detections/000009.txt")).unwrap();
    let fields: Vec<usize> = detections.lines().map(|line| line.split(' ').count()).collect();
    assert!(!fields.is_empty() && fields.iter().all(|count| *count == 16), "{detections}");
    let last = out.join("checkpoints/last");
    let logits = ["eval", last.to_str().unwrap(), "--logits", "l.csv"];
    expect(&run(&logits), 2, &["--logits makes no sense for the recipe lidar"]);

    let sheet = |step: &str| {
        let png = dir.path().join("batch.png");
        let args = ["show", "--recipe", "lidar", "--data", data.to_str().unwrap(), "--step", step];
        let output = run(&[&args, &["--out", png.to_str().unwrap()][..]].concat());
        expect(&output, 0, &[]);
        fs::read(png).unwrap()
    };
    let first = sheet("0");
    assert!(first.starts_with(b"\x89PNG") && sheet("0") == first && sheet("1") != first);
    let bench = ["bench", "--recipe", "lidar", "--data", data.to_str().unwrap(), "--epochs", "2", "--json"];
    let output = run(&bench);
    expect(&output, 0, &[]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["samples"], 8);
}

#[test]
fn a_run_of_clouds_killed_and_resumed_is_the_run_never_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (data, whole, out) = (streets(dir.path()), dir.path().join("whole"), dir.path().join("killed"));
    expect(&run(&clouds(&data, &whole)), 0, &[]);
    assert_eq!(losses(&whole).len(), 3 * 4 + 3);
    let mut child = feedline(&clouds(&data, &out)).stderr(Stdio::null()).spawn().unwrap();
    for steps in [3, 4] {
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
}
