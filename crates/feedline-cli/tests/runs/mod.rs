//! Run folders and what else a kill may leave half done: one process at a time, the classes of the beginning, starts that
//! failed, figures that stay, packs that are whole or refused.

use super::{copy_of_data, data, expect, feedline, leftovers, losses, run, short, steps_reported, wait_for_steps};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A long run with a checkpoint every other step, once it has one.
fn under_way(out: &Path) -> Child {
    let args = ["train", "--data", text(data()), "--out", text(out), "--epochs", "500", "--batch-size", "16"];
    let more = ["--set", "train.checkpoint_steps=2", "--set", "train.save_period=0"];
    let mut child =
        feedline(&[&args[..], &more].concat()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_steps(out, 4, &mut child);
    child
}

fn end_by(signal: &str, child: Child) -> std::process::Output {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status().unwrap().success());
    child.wait_with_output().unwrap()
}

#[test]
fn two_processes_do_not_write_one_run_and_a_dead_one_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let child = under_way(&out);
    let who = format!("process {}", child.id());
    let held = ["is under way", &who, "since 20", "kill -TERM"];
    expect(&run(&["train", "--resume", text(&out)]), 2, &held);
    expect(&run(&["train", "--resume", "auto", "--out", text(&out)]), 2, &held);
    expect(&run(&short(data(), &out)), 2, &["is not empty"]);
    assert_eq!(end_by("KILL", child).status.code(), None);
    assert!(out.join("lock").exists());

    let steps = steps_reported(&out);
    let mut child =
        feedline(&["train", "--resume", text(&out)]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_steps(&out, steps + 2, &mut child);
    let ended = end_by("TERM", child);
    expect(&ended, 143, &[&who, "has ended", "is taken over", "a checkpoint is saved"]);
    assert!(!out.join("lock").exists());
    expect(&run(&["verify", text(&out)]), 0, &[]);
}

/// Words for a log on a full disk, or for a terminal that was closed.
#[cfg(target_os = "linux")]
#[test]
fn words_that_nobody_can_read_end_no_run() {
    let dir = tempfile::tempdir().unwrap();
    let (out, full) = (dir.path().join("run"), fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let ended = feedline(&short(data(), &out)).stderr(full).status().unwrap();
    assert_eq!(ended.code(), Some(0));
    expect(&run(&["verify", text(&out)]), 0, &[]);
}

#[test]
fn a_run_goes_on_with_its_classes_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let few = copy_of_data(&dir.path().join("few"));
    for (split, class) in ["train", "test"].into_iter().flat_map(|split| ["ring", "star"].map(|class| (split, class))) {
        fs::remove_dir_all(few.join(split).join(class)).unwrap();
    }
    // Killed before its first checkpoint: nothing but the lists in its folder knows what it began with.
    let out = dir.path().join("early");
    let start = ["train", "--data", text(&few), "--out", text(&out), "--batch-size", "2"];
    let mut child = feedline(&start).stderr(Stdio::null()).spawn().unwrap();
    wait_for_steps(&out, 1, &mut child);
    end_by("KILL", child);
    assert!(!out.join("checkpoints/last").exists());
    let resume = ["train", "--resume", text(&out), "--data", text(data())];
    let changed = ["classes.txt", "has 4 classes, and the data has 6 now: 2 added (ring, star)", "--out"];
    expect(&run(&resume), 6, &changed);
    expect(&run(&[&resume[..], &["--allow-changed-data"]].concat()), 6, &changed);
    assert_eq!(fs::read_to_string(out.join("classes.txt")).unwrap().lines().count(), 4);

    let out = dir.path().join("run");
    expect(&run(&short(&few, &out)), 0, &[]);
    expect(&run(&["verify", text(&out)]), 0, &[]);
    let samples = fs::read_to_string(out.join("samples.txt")).unwrap();
    let resume = ["train", "--resume", text(&out), "--data", text(data()), "--allow-changed-data"];
    expect(&run(&resume), 6, &["2 added (ring, star)", "restore the data", "start a new run"]);
    assert_eq!(fs::read_to_string(out.join("samples.txt")).unwrap(), samples);

    // An overwritten file is detected.
    let not_proved = |name: &str, content: &str, words: &str| {
        let old = fs::read_to_string(out.join(name)).unwrap();
        fs::write(out.join(name), content).unwrap();
        let found = run(&["verify", text(&out)]);
        let said = String::from_utf8_lossy(&found.stdout).into_owned();
        assert!(found.status.code() == Some(10) && said.contains(words), "{words:?} is not in {said}");
        fs::write(out.join(name), old).unwrap();
    };
    not_proved("classes.txt", "circle\ncross\nsquare\n", "is of the class triangle, which is none of the 3");
    not_proved("classes.txt", "cross\ncircle\nsquare\ntriangle\n", "are of other data than attempt 1");
    not_proved("samples.txt", &samples[samples.find('\n').unwrap() + 1..], "lists");
    not_proved("samples.txt", &samples.replacen("circle/", "circlf/", 1), "are of other data");
    expect(&run(&["verify", text(&out)]), 0, &[]);
    // A list that was spoilt is told, and made anew once it is away.
    let classes = fs::read_to_string(out.join("classes.txt")).unwrap();
    fs::write(out.join("classes.txt"), &classes[..9]).unwrap();
    expect(&run(&["train", "--resume", text(&out)]), 6, &["classes.txt", "remove the file"]);
    fs::remove_file(out.join("classes.txt")).unwrap();
    expect(&run(&["train", "--resume", text(&out)]), 0, &[]);
    assert_eq!(fs::read_to_string(out.join("classes.txt")).unwrap(), classes);
}

#[test]
fn a_start_that_failed_may_be_started_again_and_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let spoilt = copy_of_data(&dir.path().join("spoilt"));
    fs::write(spoilt.join("train/circle/0000.jpg"), "no picture").unwrap();
    let unsaved = ["--set", "train.checkpoint_steps=0"];
    let start = |out: &Path, more: &[&str]| run(&[&short(&spoilt, out)[..], &unsaved, more].concat());
    let out = dir.path().join("run");
    expect(&start(&out, &[]), 4, &["circle/0000.jpg"]);
    let anew = ["nothing was trained in an earlier start", "earlier-start-1"];
    expect(&start(&out, &["--on-bad-sample", "replace"]), 0, &anew);
    assert!(out.join("earlier-start-1/config.toml").is_file() && out.join("summary.json").is_file());
    expect(&run(&["verify", text(&out)]), 0, &[]);
    // Now there is something to lose.
    expect(&start(&out, &["--on-bad-sample", "replace"]), 2, &["is not empty"]);

    // `--resume auto` finds a failed start, in --out or as the last of runs/.
    let out = dir.path().join("auto");
    expect(&start(&out, &[]), 4, &[]);
    let auto = ["--resume", "auto", "--on-bad-sample", "replace"];
    expect(&start(&out, &auto), 0, &["passed over", "no checkpoint in it", "earlier-start-1"]);
    let runs = dir.path().join("runs");
    fs::create_dir(&runs).unwrap();
    let (old, new) = (runs.join("20200101-000000-a"), runs.join("20200102-000000-b"));
    expect(&end_by("TERM", under_way(&old)), 143, &[]);
    expect(&start(&new, &[]), 4, &[]);
    let mut command = feedline(&["train", "--resume", "auto"]);
    let mut child = command.current_dir(dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_steps(&old, steps_reported(&old) + 1, &mut child);
    expect(&end_by("TERM", child), 143, &["passed over runs/20200102-000000-b", "run folder   runs/20200101-000000-a"]);

    // A folder that is not a failed start of Feedline is never touched.
    let project = dir.path().join("project");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("config.toml"), "mine = true\n").unwrap();
    fs::write(project.join("main.py"), "").unwrap();
    expect(&start(&project, &[]), 2, &["is not empty"]);
    assert_eq!(fs::read_dir(&project).unwrap().count(), 2);
}

#[test]
fn figures_of_other_data_leave_those_of_the_run_alone() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    expect(&run(&short(data(), &out)), 0, &[]);
    let figures = |folder: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(folder.join("eval.json")).unwrap()).unwrap()
    };
    let evals = out.join("eval");
    let of = |name: &str| evals.join(format!("{name}-ep003-step00000000"));
    expect(&run(&["eval", text(&out), "--batch-size", "7"]), 0, &[]);
    let own = fs::read(of("d").join("eval.json")).unwrap();
    assert_eq!(figures(&of("d"))["data"], text(&data().canonicalize().unwrap()));

    for (place, name) in [("a/birds", "birds-ep003-step00000000"), ("b/birds", "birds-ep003-step00000000-2")] {
        let other = dir.path().join(place);
        fs::create_dir_all(&other).unwrap();
        assert!(Command::new("cp").arg("-r").arg(data().join("test")).arg(&other).status().unwrap().success());
        fs::remove_file(other.join("test/circle/0000.jpg")).unwrap();
        for _again in 0..2 {
            expect(&run(&["eval", text(&out), "--data", text(&other)]), 0, &["not the run's own data", name]);
            assert_eq!(figures(&evals.join(name))["samples"], 23);
        }
        // Another picture under the same name is other data.
        fs::remove_file(other.join("test/circle/0001.jpg")).unwrap();
    }
    // The run's own data by its name is the run's own data; with other settings it is not.
    expect(&run(&["eval", text(&out), "--data", text(data()), "--batch-size", "7"]), 0, &[]);
    let mean = ["eval", text(&out), "--set", "augment.mean=[0.5, 0.5, 0.5]"];
    expect(&run(&mean), 0, &["the figures go to", "d-ep003-step00000000-2"]);
    assert_eq!(figures(&evals.join("d-ep003-step00000000-2"))["changed_settings"]["augment.mean"], "[0.5, 0.5, 0.5]");
    // So is another checkpoint.
    let earlier = fs::read_dir(out.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    let earlier: Vec<PathBuf> = earlier.filter(|path| !path.is_symlink() && !text(path).contains("ep003")).collect();
    for checkpoint in &earlier {
        let name = checkpoint.file_name().unwrap().to_string_lossy().into_owned();
        expect(&run(&["eval", text(checkpoint)]), 0, &[&format!("d-{name}")]);
    }
    assert_eq!(fs::read(of("d").join("eval.json")).unwrap(), own);
    assert_eq!(fs::read_dir(&evals).unwrap().count(), 4 + earlier.len());
    assert_eq!(leftovers(&of("d")), Vec::<String>::new());
}

#[test]
fn a_finished_run_trains_longer_and_another_begins_with_its_weights() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut words = short(data(), &out);
    words[6] = "2";
    let output = run(&words);
    expect(&output, 0, &["epoch   2", "validation accuracy"]);
    // What a pipe keeps: a line for each epoch, and the result.
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().filter(|line| line.starts_with("epoch ")).count(), 2, "{said}");
    assert!(said.contains("validation accuracy") && !said.contains("run folder"), "{said}");

    let longer = |epochs: &str| run(&["train", "--resume", text(&out), "--epochs", epochs]);
    expect(&longer("1"), 2, &["train.epochs is 1, and the run has begun epoch 2", "Give 2 or more"]);
    expect(&longer("2"), 0, &["all 2 epochs are done already"]);
    expect(&longer("4"), 0, &["the run trains to epoch 4 now, not 2: the learning rate of epoch 3 is", "epoch   4"]);
    assert!(fs::read_to_string(out.join("config.toml")).unwrap().contains("epochs = 4"));
    assert_eq!(losses(&out).keys().filter(|(_, step)| *step == u64::MAX).count(), 4);
    expect(&run(&["verify", text(&out)]), 0, &["epochs 1..4: each of 96 samples exactly once"]);

    let next = |name: &str, weights: &Path, more: &[&str]| {
        let out = dir.path().join(name);
        let mut words = short(data(), &out);
        words.extend(["--set", "train.epochs=1", "--pretrained", text(weights)]);
        words.extend(more);
        words[6] = "1";
        run(&words)
    };
    let whole = "loaded 27 tensors, 0 did not match";
    expect(&next("of_run", &out, &[]), 0, &[whole]);
    expect(&next("of_checkpoint", &out.join("checkpoints/last"), &[]), 0, &[whole]);
    expect(&next("of_nothing", dir.path(), &[]), 6, &["it lies in no run folder"]);
}

#[test]
fn the_help_of_a_command_has_the_flags_and_defaults_of_its_recipe() {
    let help = |words: &[&str]| String::from_utf8(run(&[words, &["--help"]].concat()).stdout).unwrap();
    let pictures = help(&["train"]);
    assert!(pictures.contains("--backbone") && pictures.contains("Epochs in total [default: 10]"), "{pictures}");
    let clouds = help(&["train", "--recipe", "lidar"]);
    assert!(!clouds.contains("--backbone") && clouds.contains("Epochs in total [default: 16]"), "{clouds}");
    assert!(clouds.contains("the flags of the recipe lidar") && clouds.contains("--resume"), "{clouds}");
    let rooms = help(&["show", "--recipe=scene_completion"]);
    assert!(!rooms.contains("--decoded-cache") && rooms.contains("[default: 4]"), "{rooms}");
}

/// Kills `feedline pack` once there is an archive in `out`. Whether it was killed before its end.
fn killed(args: &[&str], out: &Path) -> bool {
    let mut child = feedline(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let since = Instant::now();
    let has_archive = || {
        let folders = [out.to_path_buf(), out.join("test"), out.join("train")];
        let mut names = folders.into_iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        names.any(|entry| entry.path().extension().is_some_and(|extension| extension == "tar"))
    };
    while !has_archive() && child.try_wait().unwrap().is_none() {
        assert!(since.elapsed() < Duration::from_secs(60), "no archive within a minute");
    }
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

#[test]
fn a_killed_pack_is_refused_wherever_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut list = String::new();
    for (label, class) in ["circle", "cross", "ring"].iter().enumerate() {
        for file in fs::read_dir(data().join("train").join(class)).unwrap() {
            list += &format!("{label};{}\n", file.unwrap().path().display());
        }
    }
    let (list_file, classes) = (dir.path().join("list.txt"), dir.path().join("classes.txt"));
    fs::write(&list_file, list).unwrap();
    fs::write(&classes, "circle\ncross\nring\n").unwrap();
    let small = ["--shard-bytes", "1", "--num-workers", "1"];
    let pack = |input: &[&str], name: &str| -> (Vec<String>, PathBuf) {
        let out = dir.path().join(name);
        let args = [&["pack"], input, &["--out", text(&out)], &small].concat();
        (args.into_iter().map(String::from).collect(), out)
    };
    let inputs: [&[&str]; 2] = [&[text(data())], &[text(&list_file), "--classes", text(&classes)]];
    let none = dir.path().join("none");
    for (at, input) in inputs.into_iter().enumerate() {
        let caught = (0..20).find_map(|attempt| {
            let (args, out) = pack(input, &format!("killed{at}-{attempt}"));
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            killed(&args, &out).then_some((args.join(" "), out))
        });
        let Some((args, out)) = caught else {
            eprintln!("skipped: no pack could be caught under way here");
            continue;
        };
        let url = format!("file://{}", text(&out));
        let parts = ["has not finished this folder", "pack.incomplete", "pack again"];
        for place in [text(&out), &url] {
            let training = ["train", "--data", place, "--out", text(&none)];
            expect(&run(&training), 3, &parts);
            expect(&run(&["bench", "--data", place]), 3, &parts);
            expect(&run(&["index", place]), 3, &parts);
        }
        expect(&run(&args.split(' ').collect::<Vec<_>>()), 2, &["a pack that is not finished", "remove the folder"]);
        // A copy of it is no better.
        let copy = dir.path().join(format!("copy{at}"));
        assert!(Command::new("cp").arg("-r").arg(&out).arg(&copy).status().unwrap().success());
        expect(&run(&["bench", "--data", text(&copy)]), 3, &parts);
        // And what is finished has no mark left.
        let (args, out) = pack(input, &format!("whole{at}"));
        expect(&run(&args.iter().map(String::as_str).collect::<Vec<_>>()), 0, &[]);
        for folder in ["", "train", "test"] {
            assert!(!out.join(folder).join("pack.incomplete").exists());
        }
    }
    assert!(!none.exists());
}

#[test]
fn demo_data_that_was_killed_leaves_nothing_once_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let names = || -> Vec<String> {
        let entries = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        entries.collect()
    };
    let args = ["demo-data", "lidar", "--out", text(&out)];
    let mut child = feedline(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let since = Instant::now();
    while names().is_empty() {
        assert!(since.elapsed() < Duration::from_secs(60), "nothing is begun within a minute");
    }
    child.kill().unwrap();
    if child.wait().unwrap().success() {
        eprintln!("skipped: it was done before it could be killed");
        return;
    }
    assert_eq!(names(), [format!("demo.tmp-{}", child.id())]);
    let made = run(&args);
    assert_eq!(names(), ["demo"]);
    expect(&made, 0, &["was left by a process that was killed, and is removed"]);
}
