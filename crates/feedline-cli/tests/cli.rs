//! The binary as a user meets it: real processes, real files, real signals.

mod clouds;
mod folders;
mod ranks;
mod report;
mod runs;
mod scenes;
mod using;

use feedline_recipes::classification::demo::{DemoOptions, write_demo_data};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A demo data set of 96 + 24 pictures, made once for all tests.
fn data() -> &'static Path {
    static DATA: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = DATA.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        write_demo_data(&dir.path().join("d"), &DemoOptions { train: 96, test: 24, seed: 1 }, |_, _| ()).unwrap();
        dir
    });
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| dir.path().join("d"))
}

/// A copy of the data set, to be spoilt.
fn copy_of_data(to: &Path) -> PathBuf {
    let status = Command::new("cp").arg("-r").arg(data()).arg(to).status().unwrap();
    assert!(status.success());
    to.to_path_buf()
}

fn feedline(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_feedline"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    feedline(args).output().unwrap()
}

#[track_caller]
fn expect(output: &Output, code: i32, parts: &[&str]) {
    let [said, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert_eq!(output.status.code(), Some(code), "stderr: {stderr}");
    for part in parts {
        assert!(stderr.contains(part) || said.contains(part), "{part:?} is not in: {stderr}{said}");
    }
}

/// Flags of a short run with a checkpoint every other step: 3 epochs of 6 steps.
fn short<'a>(data: &'a Path, out: &'a Path) -> Vec<&'a str> {
    let (data, out) = (data.to_str().unwrap(), out.to_str().unwrap());
    vec![
        "train",
        "--data",
        data,
        "--out",
        out,
        "--epochs",
        "3",
        "--batch-size",
        "16",
        "--seed",
        "7",
        "--set",
        "train.checkpoint_steps=2",
        "--set",
        "train.save_period=0",
    ]
}

fn events(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("events.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The reported losses of each step and epoch; the last one if there are several, since a resumed run repeats some.
fn losses(run: &Path) -> BTreeMap<(u64, u64), String> {
    let mut found = BTreeMap::new();
    for event in events(run) {
        let epoch = event["epoch"].as_u64().unwrap_or(0);
        match event["event"].as_str() {
            Some("step") => found.insert((epoch, event["step"].as_u64().unwrap()), event["loss"].to_string()),
            Some("epoch_end") => found.insert((epoch, u64::MAX), event["val_loss"].to_string()),
            _ => None,
        };
    }
    found
}

fn steps_reported(run: &Path) -> usize {
    events(run).iter().filter(|event| event["event"] == "step").count()
}

fn wait_for_steps(run: &Path, steps: usize, child: &mut Child) {
    let since = Instant::now();
    while steps_reported(run) < steps && child.try_wait().unwrap().is_none() {
        assert!(since.elapsed() < Duration::from_secs(60), "no {steps} steps within a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn final_model(run: &Path) -> Vec<u8> {
    fs::read(run.join("checkpoints/last/model.safetensors")).unwrap()
}

/// Entries of a folder that no finished write leaves behind.
fn leftovers(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("tmp-") || name.ends_with(".tmp")).collect()
}

#[test]
fn a_run_killed_at_any_moment_and_resumed_is_the_run_never_killed() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    expect(&run(&short(data(), &whole)), 0, &["validation accuracy"]);
    let expect_losses = losses(&whole);
    assert_eq!(expect_losses.len(), 3 * 6 + 3);

    // Killed again and again: after so many more steps, plus a moment, which falls anywhere in step, save or evaluation.
    for (at, pauses_ms) in [[1, 0], [3, 2], [2, 5], [6, 9]].into_iter().enumerate() {
        let out = dir.path().join(format!("killed{at}"));
        let mut child = feedline(&short(data(), &out)).stderr(Stdio::null()).spawn().unwrap();
        let mut kills = 0;
        loop {
            wait_for_steps(&out, steps_reported(&out) + pauses_ms[0], &mut child);
            std::thread::sleep(Duration::from_millis(pauses_ms[1] as u64));
            child.kill().unwrap();
            let done = child.wait().unwrap().success();
            if done {
                break;
            }
            kills += 1;
            // Later lives are longer, so that the run ends: a life shorter than two steps reaches no checkpoint.
            let resume = ["train", "--resume", out.to_str().unwrap()];
            if kills >= 4 {
                expect(&run(&resume), 0, &["validation accuracy"]);
                break;
            }
            child = feedline(&resume).stderr(Stdio::null()).spawn().unwrap();
        }
        assert!(kills >= 1);
        assert_eq!(losses(&out), expect_losses, "pauses {pauses_ms:?}");
        assert_eq!(final_model(&out), final_model(&whole), "the final weights, byte for byte");
        assert_eq!(leftovers(&out.join("checkpoints")), Vec::<String>::new());
        let text = |run: &Path| fs::read_to_string(run.join("epoch_loss.txt")).unwrap();
        assert_eq!(text(&out), text(&whole));
    }
}

#[test]
fn signals_save_a_checkpoint_and_say_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let out = dir.path().join(signal);
        let (data, out_text) = (data().to_str().unwrap(), out.to_str().unwrap());
        let args = ["train", "--data", data, "--out", out_text, "--epochs", "500"];
        let mut child = feedline(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_steps(&out, 3, &mut child);
        let asked = Instant::now();
        assert!(Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(10));
        expect(&output, code, &["a checkpoint is saved", "train --resume"]);
        assert!(out.join("checkpoints/last/checkpoint.toml").is_file());
        assert!(!out.join("summary.json").exists());
    }
}

#[test]
fn a_finished_run_leaves_the_files_that_the_docs_name() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    expect(&run(&short(data(), &out)), 0, &["epoch   3", "everything is in"]);
    for name in ["config.toml", "events.jsonl", "epoch_loss.txt", "epoch_val_loss.txt", "epoch_loss.png"] {
        assert!(fs::metadata(out.join(name)).unwrap().len() > 0, "{name}");
    }
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(out.join("summary.json")).unwrap()).unwrap();
    for key in [
        "best_val_accuracy",
        "val_accuracy",
        "train_loss",
        "val_loss",
        "train_seconds",
        "images_per_second",
        "data_wait_share",
    ] {
        assert!(summary[key].is_f64(), "{key} in {summary}");
    }
    assert_eq!(summary["epochs"], 3);
    assert_eq!(summary["classes"].as_array().unwrap().len(), 6);
    assert!(summary["classes"][0]["recall"].is_number() && summary["classes"][0]["name"] == "circle");

    // A run folder is not used twice, and a finished run resumed is finished.
    expect(&run(&short(data(), &out)), 2, &["is not empty", "--resume"]);
    let before = losses(&out);
    expect(&run(&["train", "--resume", out.to_str().unwrap()]), 0, &["validation accuracy"]);
    assert_eq!(losses(&out), before);

    // Evaluation does not depend on the batch size, and agrees with the run's own.
    let eval = |batch: &str| {
        let to = dir.path().join(format!("eval{batch}"));
        let best = out.join("checkpoints/last");
        let args = ["eval", best.to_str().unwrap(), "--batch-size", batch, "--out", to.to_str().unwrap()];
        expect(&run(&args), 0, &[]);
        assert!(to.join("confusion_matrix.png").is_file());
        let figures: serde_json::Value = serde_json::from_slice(&fs::read(to.join("eval.json")).unwrap()).unwrap();
        (fs::read_to_string(to.join("confusion_matrix.csv")).unwrap(), figures)
    };
    let (csv, figures) = eval("32");
    assert_eq!(eval("7").0, csv);
    assert_eq!((&figures["samples"], &figures["top1"]), (&24.into(), &summary["val_accuracy"]));

    // Other data needs no training split, but must have the classes that the network knows.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    copy_of_data(&dir.path().join("copy"));
    fs::rename(dir.path().join("copy/test"), other.join("test")).unwrap();
    let last = out.join("checkpoints/last");
    let on = |data: &Path| run(&["eval", last.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    expect(&on(&other), 0, &[]);
    fs::rename(other.join("test/ring"), other.join("test/rang")).unwrap();
    expect(&on(&other), 3, &["rang"]);
    expect(&run(&["train", "--resume", other.to_str().unwrap()]), 6, &["not a run folder"]);
}

#[test]
fn evaluation_finds_the_newest_and_the_best_checkpoint_without_links() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    expect(&run(&short(data(), &out)), 0, &[]);
    let eval = |name: &str| {
        let to = dir.path().join("eval");
        let checkpoint = out.join(name);
        expect(&run(&["eval", checkpoint.to_str().unwrap(), "--out", to.to_str().unwrap()]), 0, &[]);
        fs::read_to_string(to.join("eval.json")).unwrap()
    };
    let all = || ["", "checkpoints/last", "checkpoints/best"].map(eval);
    let with_links = all();
    assert_eq!(with_links[0], with_links[1]);
    for link in ["last", "best"] {
        fs::remove_file(out.join("checkpoints").join(link)).unwrap();
        // Of another step, as a copy leaves it that is not made anew.
        std::os::unix::fs::symlink("ep001-step00000002", out.join("checkpoints").join(link)).unwrap();
    }
    assert_eq!(all(), with_links);
    let text = fs::read_to_string(out.join("config.toml")).unwrap();
    fs::write(out.join("config.toml"), text.replace("input_px = 0", "input_px = 32")).unwrap();
    expect(&run(&["eval", out.to_str().unwrap()]), 6, &["config.toml", "was made with", "Restore it"]);
}

#[test]
fn every_worker_count_trains_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let trained = |workers: &'static str| {
        let out = dir.path().join(workers);
        let mut args = short(data(), &out);
        args.extend(["--num-workers", workers]);
        expect(&run(&args), 0, &[]);
        (losses(&out), final_model(&out))
    };
    let serial = trained("0");
    assert!(trained("1") == serial && trained("5") == serial);
}

#[test]
fn lists_with_difficult_paths_train() {
    let dir = tempfile::tempdir().unwrap();
    let root = copy_of_data(&dir.path().join("a b;c"));
    let mut lists = BTreeMap::<&str, String>::new();
    for split in ["train", "test"] {
        for (label, class) in ["circle", "cross", "ring"].iter().enumerate() {
            for file in fs::read_dir(root.join(split).join(class)).unwrap() {
                // Relative to the list, as upstream's tool writes them.
                let path = file.unwrap().path();
                let path = path.strip_prefix(dir.path()).unwrap().display().to_string();
                lists.entry(split).or_default().push_str(&format!("{label};{path}\r\n"));
            }
        }
    }
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    fs::write(at("cls_train.txt"), &lists["train"]).unwrap();
    fs::write(at("cls_test.txt"), &lists["test"]).unwrap();
    fs::write(at("cls_classes.txt"), "circle\ncross\nring\n").unwrap();
    let (train, test, classes, out) = (at("cls_train.txt"), at("cls_test.txt"), at("cls_classes.txt"), at("run"));
    let args = |train: &str| {
        let list = [
            "train",
            "--train-list",
            train,
            "--val-list",
            &test,
            "--classes",
            &classes,
            "--out",
            &out,
            "--epochs",
            "1",
        ];
        list.map(String::from)
    };
    let try_list = |text: &str| {
        fs::write(at("broken.txt"), text).unwrap();
        feedline(&args(&at("broken.txt")).each_ref().map(String::as_str)).output().unwrap()
    };
    expect(&try_list("0;a b;c/train/circle/0000.jpg\ncircle.jpg\n"), 3, &["broken.txt", "line 2", "circle.jpg"]);
    expect(&try_list("3;a b;c/train/circle/0000.jpg\n"), 3, &["broken.txt", "line 1", "3"]);
    expect(&try_list("0;nowhere.jpg\n"), 3, &["nowhere.jpg"]);
    expect(
        &run(&args(&train).each_ref().map(String::as_str)),
        0,
        &["48 training and 12 validation images of 3 classes"],
    );
}

#[test]
fn bad_input_is_refused_by_name_and_leaves_nothing() {
    let hostile = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/hostile"));
    let dir = tempfile::tempdir().unwrap();
    let spoilt = |name: &str, spoil: &dyn Fn(&Path)| {
        let root = copy_of_data(&dir.path().join(name));
        spoil(&root);
        let out = dir.path().join(format!("{name}-run"));
        (run(&short(&root, &out)), out)
    };
    let first = "train/circle/0000.jpg";
    for (name, file, parts) in [
        ("truncated", "truncated.jpg", vec!["decode", "truncated"]),
        ("zero", "zero.jpg", vec!["decode", "0 bytes"]),
        ("text", "text.jpg", vec!["decode", "not a JPEG, PNG, WebP"]),
        ("huge", "huge_header.png", vec!["decode", "60000"]),
    ] {
        let (output, out) = spoilt(name, &|root| {
            fs::copy(hostile.join(file), root.join(first)).unwrap();
        });
        let parts: Vec<&str> = parts.into_iter().chain([first]).collect();
        expect(&output, 4, &parts);
        assert_eq!(leftovers(&out.join("checkpoints")), Vec::<String>::new());
    }
    let (output, out) = spoilt("empty-class", &|root| fs::create_dir(root.join("train/zebra")).unwrap());
    expect(&output, 3, &["zebra"]);
    assert!(!out.exists(), "nothing is written before the data is known to be good");
    let (output, _) =
        spoilt("foreign-class", &|root| fs::rename(root.join("test/ring"), root.join("test/rang")).unwrap());
    expect(&output, 3, &["rang"]);

    let out = dir.path().join("none");
    let out = out.to_str().unwrap();
    let nowhere = dir.path().join("nowhere");
    expect(
        &run(&["train", "--data", nowhere.to_str().unwrap(), "--out", out]),
        3,
        &["nowhere", "there is no such file or folder"],
    );
    let small = ["train", "--data", data().to_str().unwrap(), "--out", out, "--batch-size", "97"];
    expect(&run(&small), 3, &["train", "96 samples", "batch of 97", "数据集过小，无法继续进行训练，请扩充数据集。"]);
    let config = dir.path().join("my.toml");
    fs::write(&config, "[train]\nepoch = 3\n").unwrap();
    let args = ["train", "--data", data().to_str().unwrap(), "--out", out, "--config", config.to_str().unwrap()];
    expect(&run(&args), 2, &["my.toml", "train.epoch", "Did you mean epochs?"]);
    expect(
        &run(&["train", "--data", data().to_str().unwrap(), "--out", out, "--backbone", "vgg"]),
        2,
        &["vgg", "resnet18"],
    );
    let weights = ["train", "--data", data().to_str().unwrap(), "--out", out, "--pretrained", config.to_str().unwrap()];
    expect(&run(&weights), 6, &["my.toml", ".safetensors, .pth"]);
    assert!(!Path::new(out).exists());
}

#[test]
fn bad_samples_can_be_replaced_and_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let root = copy_of_data(&dir.path().join("d"));
    fs::write(root.join("train/circle/0000.jpg"), "no picture").unwrap();
    fs::write(root.join("train/star/0003.jpg"), "").unwrap();
    let trained = |name: &str, workers: &'static str| {
        let out = dir.path().join(name);
        let mut args = short(&root, &out);
        args.extend(["--on-bad-sample", "replace", "--num-workers", workers]);
        expect(&run(&args), 0, &["replaced a bad sample"]);
        let quarantine = fs::read_to_string(out.join("quarantine.jsonl")).unwrap();
        let summary: serde_json::Value = serde_json::from_slice(&fs::read(out.join("summary.json")).unwrap()).unwrap();
        assert_eq!(summary["bad_samples"], quarantine.lines().count());
        for name in ["circle/0000.jpg", "star/0003.jpg"] {
            assert!(quarantine.contains(name), "{quarantine}");
        }
        (quarantine, losses(&out))
    };
    assert_eq!(trained("serial", "0"), trained("parallel", "4"));
}

#[test]
fn a_full_disk_loses_nothing_that_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("full"));
    expect(&run(&short(data(), &whole)), 0, &[]);
    let mut child = feedline(&short(data(), &out)).stderr(Stdio::null()).spawn().unwrap();
    wait_for_steps(&out, 5, &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    let saved = fs::read_link(out.join("checkpoints/last")).unwrap();

    // No file may grow past 100 blocks of 512 bytes: the next checkpoint's tensors do not fit.
    let binary = env!("CARGO_BIN_EXE_feedline");
    let limited = format!("trap '' XFSZ; ulimit -f 100; exec {binary} train --resume {}", out.display());
    let output = Command::new("sh").args(["-c", &limited]).output().unwrap();
    expect(&output, 5, &["model.safetensors", "Free some space", "untouched"]);
    assert_eq!(fs::read_link(out.join("checkpoints/last")).unwrap(), saved);
    assert_eq!(leftovers(&out.join("checkpoints")), Vec::<String>::new());

    expect(&run(&["train", "--resume", out.to_str().unwrap()]), 0, &[]);
    assert_eq!(final_model(&out), final_model(&whole));
}

#[test]
fn a_run_is_not_resumed_on_other_data() {
    let dir = tempfile::tempdir().unwrap();
    let root = copy_of_data(&dir.path().join("d"));
    let out = dir.path().join("run");
    expect(&run(&short(&root, &out)), 0, &[]);
    fs::remove_file(root.join("train/star/0001.jpg")).unwrap();
    fs::copy(root.join("train/star/0002.jpg"), root.join("train/star/new.jpg")).unwrap();
    let resume = ["train", "--resume", out.to_str().unwrap()];
    let changed = ["1 added (star/new.jpg)", "1 removed (star/0001.jpg)", "--allow-changed-data"];
    expect(&run(&resume), 6, &changed);
    expect(&run(&[&resume[..], &["--allow-changed-data"]].concat()), 0, &["all 3 epochs are done"]);
    expect(&run(&resume), 0, &["all 3 epochs are done"]);
    expect(&run(&[&resume[..], &["--seed", "99"]].concat()), 2, &["when the run began and is now 99"]);
    fs::write(out.join("checkpoints/last/checkpoint.toml"), "version = 1\n").unwrap();
    expect(&run(&["train", "--resume", out.to_str().unwrap()]), 6, &["checkpoint.toml"]);
}

#[test]
fn the_contact_sheet_is_a_function_of_epoch_and_step() {
    let dir = tempfile::tempdir().unwrap();
    let sheet = |epoch: &str, step: &str, name: &str| {
        let out = dir.path().join(name);
        let data = data().to_str().unwrap();
        let args = [
            "show",
            "--data",
            data,
            "--epoch",
            epoch,
            "--step",
            step,
            "--batch-size",
            "12",
            "--out",
            out.to_str().unwrap(),
        ];
        expect(&run(&args), 0, &[]);
        fs::read(out).unwrap()
    };
    let first = sheet("0", "0", "a.png");
    assert_eq!(&first[1..4], b"PNG");
    assert_eq!(sheet("0", "0", "b.png"), first);
    assert!(sheet("1", "0", "c.png") != first && sheet("0", "1", "d.png") != first);
    let data = data().to_str().unwrap();
    expect(&run(&["show", "--data", data, "--step", "3"]), 2, &["has 3 batches of 32", "the last one is 2"]);
    let small = ["fewer than one batch of 1000", "lower the batch size to"];
    expect(&run(&["show", "--data", data, "--batch-size", "1000"]), 3, &small);
}

#[test]
fn plan_prints_torchs_indices_and_marks_padding() {
    let plan = |args: &[&str]| {
        let output = run(&[&["plan", "--len", "10", "--num-replicas", "3"], args].concat());
        expect(&output, 0, &[]);
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(plan(&["--rank", "1", "--epoch", "1", "--format", "indices"]), "6\n0\n3\n5\n");
    assert_eq!(plan(&["--rank", "2", "--no-shuffle", "--tail", "drop", "--format", "indices"]), "2\n5\n8\n");
    let table = plan(&[]);
    assert!(table.contains("0      4 5 0 2  1 3 8 4*  7 9 6 1*") && table.contains("set_epoch"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&plan(&["--format", "json", "--tail", "exact"])).unwrap();
    assert_eq!((&json["total_size"], json["ranks"].as_array().unwrap().len()), (&10.into(), 3));
    expect(&run(&["plan", "--len", "10", "--num-replicas", "3", "--rank", "3"]), 2, &["[0, 2]"]);
    let json: serde_json::Value = serde_json::from_str(&plan(&["--timing", "--rank", "1"])).unwrap();
    // Rank 1 has 1, 3, 8, 4: 1*1 + 2*3 + 3*8 + 4*4 = 47.
    assert_eq!((json["indices"].as_u64(), json["checksum"].as_str()), (Some(4), Some("000000000000002f")));
    for key in ["start_seconds", "first_index_seconds", "draw_seconds"] {
        assert!(json[key].is_f64(), "{key}");
    }
}

/// An epoch of this length is never drawn whole.
#[test]
fn plan_writes_what_it_draws_and_ends_when_nobody_reads_on() {
    for (format, begin) in [("indices", ""), ("json", "{\"epoch\":0,\"len\":1000000000000,")] {
        let mut args = vec!["plan", "--len", "1000000000000", "--num-replicas", "2"];
        args.extend(["--permutation", "feistel", "--format", format]);
        let mut process = feedline(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 4096];
        process.stdout.take().unwrap().read_exact(&mut first).unwrap();
        assert!(first.starts_with(begin.as_bytes()), "{}", String::from_utf8_lossy(&first));
        let begun = Instant::now();
        while process.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = process.kill();
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn plan_shows_orders_that_are_not_one_pass_an_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("weights");
    std::fs::write(&weights, "1\n0\n 2.5\n0\n").unwrap();
    let weights = weights.to_str().unwrap();
    let plan =
        |args: &[&str]| run(&[&["plan", "--len", "4", "--num-replicas", "1", "--format", "indices"], args].concat());
    let indices = |args: &[&str]| -> Vec<u64> {
        let output = plan(args);
        expect(&output, 0, &[]);
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect()
    };
    let passes = [indices(&[]), indices(&["--epoch", "1"])].concat();
    assert_eq!(indices(&["--epoch-length", "3", "--epoch", "1"]), passes[3..6]);
    let mut merged = indices(&["--merge-epochs", "2"]);
    merged.sort_unstable();
    assert_eq!(merged, [0, 0, 1, 1, 2, 2, 3, 3]);
    assert!(indices(&["--weights", weights, "--epoch-length", "50"]).iter().all(|index| index % 2 == 0));
    assert_eq!(indices(&["--mix", "3:0,1:1"]), [3; 4]);
    expect(&plan(&["--mix", "3:1"]), 2, &["the sources of the mixture hold 3 samples, the data set 4"]);
    expect(&plan(&["--weights", weights, "--mix", "4:1"]), 2, &["two of"]);
    std::fs::write(weights, "1\n2\nx\n").unwrap();
    expect(&plan(&["--weights", weights]), 2, &["line 3", "no number: x"]);
}

#[test]
#[cfg(not(feature = "wgpu"))]
fn a_gpu_without_its_back_end_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let refused = run(&[&short(data(), &out)[..], &["--device", "gpu"]].concat());
    expect(&refused, 7, &["device gpu", "cargo build --release --features wgpu", "--device cpu"]);
    assert!(!out.exists());
    expect(&run(&[&short(data(), &out)[..], &["--device", "tpu"]].concat()), 2, &["tpu", "gpu"]);
}

#[test]
fn settings_may_begin_with_a_byte_order_mark_or_come_out_of_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let (file, pipe) = (dir.path().join("s.toml"), dir.path().join("pipe.toml"));
    let text = format!("\u{feff}[data]\r\ndir = {:?}\r\n[train]\r\nbatch_size = 5\r\n", data().display().to_string());
    fs::write(&file, &text).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writes = text.clone();
    let to = pipe.clone();
    let writer = std::thread::spawn(move || fs::write(to, writes).unwrap());
    for file in [&file, &pipe] {
        let output = run(&["bench", "--config", file.to_str().unwrap(), "--epochs", "1"]);
        expect(&output, 0, &["96 samples, batch 5"]);
    }
    writer.join().unwrap();
    fs::write(&file, text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let output = run(&["bench", "--config", file.to_str().unwrap(), "--epochs", "1"]);
    expect(&output, 2, &["s.toml: the text is in UTF-16"]);
}

#[test]
fn bench_measures_the_loader_and_says_what_limits_it() {
    let (dir, data) = (tempfile::tempdir().unwrap(), data().to_str().unwrap());
    let trace = dir.path().join("trace.json");
    let flags = ["bench", "--data", data, "--epochs", "3", "--workers", "2", "--json"];
    let output = run(&[&flags[..], &["--trace", trace.to_str().unwrap(), "--decoded-cache", "100000000"]].concat());
    expect(&output, 0, &[]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rates = found["images_per_second"].as_array().unwrap();
    assert_eq!((rates.len(), &found["samples"]), (3, &serde_json::json!(96)));
    assert!(rates.iter().all(|rate| rate.as_f64().unwrap() > 0.0));
    assert!(found["first_batch_seconds"].as_f64().unwrap() > 0.0);
    assert!(found["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    // Decoded once, in the first epoch, which is not counted; but the next one is begun before its last sample is done.
    let uncached: serde_json::Value = serde_json::from_slice(&run(&flags).stdout).unwrap();
    let decoded_bytes = |of: &serde_json::Value| of["stages"]["decode"]["bytes"].as_u64().unwrap();
    assert!(4 * decoded_bytes(&found) < decoded_bytes(&uncached), "{found}\n{uncached}");
    assert!(found["stages"]["augment"]["items"].as_u64().unwrap() >= 96);
    let spans: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(&trace).unwrap()).unwrap();
    assert!(spans.iter().filter(|span| span["name"] == "augment").count() >= 3 * 96);

    let words = run(&["bench", "--data", data, "--epochs", "1", "--workers", "1", "--augment", "none"]);
    expect(&words, 0, &["epoch 0", "96 samples"]);
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    assert!(words.contains("first batch after") && words.contains("one worker makes"), "{words}");

    // A list of operations is measured as it is trained with: not at the 224 px and the batch of 64 of work A.
    let ops = r#"augment.ops=[{ op = "resize", size_px = [64, 64] }, { op = "horizontal_flip", p = 0.5 }]"#;
    let listed = ["bench", "--data", data, "--epochs", "1", "--workers", "1", "--set", ops];
    expect(&run(&listed), 0, &["96 samples, batch 32"]);
    let both = run(&[&listed[..], &["--augment", "light"]].concat());
    expect(&both, 2, &["augment.preset is light and augment.ops is a list"]);
}

#[test]
fn one_giant_picture_among_small_ones_stays_within_the_memory_budget() {
    let dir = tempfile::tempdir().unwrap();
    let data = copy_of_data(&dir.path().join("d"));
    // 100 megapixels: 300 MB once decoded.
    let (width, height) = (12_500, 8_000);
    let pixels = vec![90; width * height];
    let giant = libjpeg_turbo_rs::Encoder::new(&pixels, width, height, libjpeg_turbo_rs::PixelFormat::Grayscale);
    fs::write(data.join("train/circle/giant.jpg"), giant.encode().unwrap()).unwrap();
    drop(pixels);
    let peak = |data: &Path| {
        let flags = ["--epochs", "2", "--workers", "4", "--memory-budget", "50000000", "--json"];
        let output = run(&[&["bench", "--data", data.to_str().unwrap()], &flags[..]].concat());
        expect(&output, 0, &[]);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        found["peak_memory_bytes"].as_u64().unwrap()
    };
    let (with, without) = (peak(&data), peak(self::data()));
    assert!(with < without + 50_000_000, "{with} bytes with the giant, {without} without");
}
