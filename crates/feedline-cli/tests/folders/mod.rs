//! Folders as people have them: with other things in them, without splits, gone.

use super::{copy_of_data, data, events, expect, run, short};
use std::fs;
use std::process::Command;

#[test]
fn what_is_left_out_of_the_data_is_told_by_every_command_and_in_the_events() {
    let dir = tempfile::tempdir().unwrap();
    let data = copy_of_data(&dir.path().join("d"));
    let class = fs::read_dir(data.join("train")).unwrap().next().unwrap().unwrap().path();
    let picture = fs::read_dir(&class).unwrap().next().unwrap().unwrap().path();
    fs::create_dir(class.join("deep")).unwrap();
    fs::copy(&picture, class.join("deep/.1.jpg")).unwrap();
    fs::write(class.join("2.xcf"), "gimp").unwrap();
    assert!(Command::new("mkfifo").arg(class.join("pipe.jpg")).status().unwrap().success());
    let name = class.file_name().unwrap().to_str().unwrap();
    let told = [
        "3 files skipped: ".to_owned(),
        format!("1 *.xcf ({name}/2.xcf)"),
        format!("1 FIFOs ({name}/pipe.jpg)"),
        format!("1 hidden pictures ({name}/deep/.1.jpg)"),
    ];
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let (path, out) = (data.to_str().unwrap(), dir.path().join("run"));
    let picture = dir.path().join("batch.png");
    for args in [
        vec!["bench", "--data", path, "--epochs", "1", "--work", "d"],
        vec!["show", "--data", path, "--batch-size", "4", "--out", picture.to_str().unwrap()],
        short(&data, &out),
    ] {
        let output = run(&args);
        expect(&output, 0, &told);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.matches("files skipped").count(), 1, "{stderr}");
    }
    let skipped: Vec<_> = events(&out).into_iter().filter(|event| event["event"] == "skipped").collect();
    let [one] = &skipped[..] else { panic!("{skipped:?}") };
    assert!(told.iter().all(|part| one["message"].as_str().unwrap().contains(part)), "{one}");
    assert_eq!(one["kinds"], serde_json::json!({ "*.xcf": 1, "FIFOs": 1, "hidden pictures": 1 }));
    assert_eq!(one["first"][0], format!("{name}/2.xcf"));
    // A validation split beside the one that is used, and of it what is no sample.
    fs::create_dir_all(data.join("val").join(name)).unwrap();
    fs::write(data.join("test").join(name).join("notes.txt"), "x").unwrap();
    let output = run(&["eval", out.to_str().unwrap(), "--data", path]);
    expect(&output, 0, &["1 file skipped", "notes.txt", "`val` is not read, since there is `test`"]);
}

#[test]
fn class_folders_without_splits_train_on_all_but_a_share() {
    let dir = tempfile::tempdir().unwrap();
    let root = copy_of_data(&dir.path().join("d")).join("train");
    let (path, out) = (root.to_str().unwrap(), dir.path().join("run"));
    let without = run(&short(&root, &out));
    expect(&without, 3, &["there is no validation split", "--val-fraction 0.2"]);
    assert!(!out.exists());
    let share = ["--val-fraction", "0.25"];
    let text = ["72 training and 24 validation images of 6 classes", "validation: ", "the share 0.25 of each class"];
    expect(&run(&[&short(&root, &out)[..], &share].concat()), 0, &text);
    let [train, val] = ["samples.txt", "val_samples.txt"].map(|name| fs::read_to_string(out.join(name)).unwrap());
    let lines: std::collections::BTreeSet<&str> = train.lines().chain(val.lines()).collect();
    assert_eq!((val.lines().count(), lines.len()), (24, 96));
    let changed = run(&["train", "--resume", out.to_str().unwrap(), "--val-fraction", "0.5"]);
    expect(&changed, 2, &["data.val_fraction was 0.25 when the run began and is now 0.5"]);

    // The run's own share, whether its data is named or not; of other class folders all pictures; a list; no picture.
    let samples = |data: &[&str]| -> u64 {
        let to = dir.path().join("eval");
        let args = ["eval", out.to_str().unwrap(), "--out", to.to_str().unwrap()];
        expect(&run(&[&args[..], data].concat()), 0, &[]);
        let figures: serde_json::Value = serde_json::from_slice(&fs::read(to.join("eval.json")).unwrap()).unwrap();
        figures["samples"].as_u64().unwrap()
    };
    let (other, list) = (data().join("train"), dir.path().join("list.txt"));
    fs::write(&list, format!("0;{path}/circle/0000.jpg\n1;{path}/cross/0001.jpg\n")).unwrap();
    let named =
        [vec![], vec!["--data", path], vec!["--data", other.to_str().unwrap()], vec!["--data", list.to_str().unwrap()]];
    assert_eq!(named.map(|data| samples(&data)), [24, 24, 96, 2]);
    let picture = root.join("circle/0000.jpg");
    let picture = picture.to_str().unwrap();
    expect(
        &run(&["eval", out.to_str().unwrap(), "--data", picture]),
        3,
        &["a picture without a label", "feedline predict"],
    );
    let sheet = dir.path().join("sheet.png");
    for data in [path, picture, list.to_str().unwrap()] {
        let args = ["show", "--data", data, "--batch-size", "2", "--out", sheet.to_str().unwrap()];
        expect(&run(&args), 0, &[]);
    }
    expect(&run(&["bench", "--data", path, "--epochs", "1"]), 0, &["96 samples"]);
    let one = dir.path().join("one");
    fs::create_dir(&one).unwrap();
    fs::rename(root.join("ring"), one.join("ring")).unwrap();
    let none = dir.path().join("none");
    let args = [&short(&one, &none)[..], &["--val-fraction", "0.5"]].concat();
    expect(&run(&args), 2, &["there is one class only, `ring`"]);
    fs::rename(&root, dir.path().join("gone")).unwrap();
    expect(&run(&["train", "--resume", out.to_str().unwrap()]), 3, &["d/train: there is no such folder"]);
}
