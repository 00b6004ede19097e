//! Tests of checkpoints: every bit comes back, the newest whole one is found after kills, only needed ones are kept.

use super::format::{MODEL, OPTIMIZER, PROGRESS};
use super::*;
use crate::sample::Array;
use crate::train::Tally;
use std::process::Command;

fn state(value: f32) -> TaskState {
    let mut state = TaskState::default();
    state.model.insert("layer.weight".into(), Array::from_slice([2, 1], &[value, f32::NAN]));
    state.optimizer.insert("momentum/layer.weight".into(), Array::from_slice([2], &[0.1f64, -0.0]));
    state.scalars.insert("loss_scale".into(), 65536.0.into());
    state
}

/// The progress of a run whose epochs had these validation losses.
fn progress(losses: &[f64], step: u64) -> Progress {
    let tally = Tally { samples: 3, loss_sum: 0.1 + 0.2, metric_sums: vec![1.0 / 3.0] };
    let history = losses.iter().zip(1..).map(|(&val_loss, epoch)| EpochRecord {
        epoch,
        train_loss: f64::NAN,
        val_loss,
        train_metrics: vec![2.0 / 3.0],
        lr: 1e-3,
        ..EpochRecord::default()
    });
    Progress { epoch: losses.len() as u64, step, tally, history: history.collect(), ..Progress::default() }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn link(dir: &Path, name: &str) -> String {
    fs::read_link(dir.join(name)).unwrap().into_os_string().into_string().unwrap()
}

fn newest(dir: &Path) -> (String, Vec<String>) {
    let found = Checkpoints::new(dir).newest().unwrap().unwrap();
    (found.path.file_name().unwrap().to_str().unwrap().to_string(), found.passed_over)
}

fn copy(from: &Path, to: &Path, flags: &str) {
    assert!(Command::new("cp").args([flags, "--"]).args([from, to]).status().unwrap().success());
}

/// A run of three epochs, of which the second was the best, and two steps of the fourth.
fn run(dir: &Path) -> Checkpoints {
    let checkpoints = Checkpoints::new(dir).with_settings("epochs = 4\n".into());
    for (at, losses) in [&[3.0][..], &[3.0, 1.0], &[3.0, 1.0, 2.0]].into_iter().enumerate() {
        checkpoints.save(&progress(losses, 0), &state(at as f32 + 1.0), false).unwrap();
    }
    checkpoints.save(&progress(&[3.0, 1.0, 2.0], 2), &state(4.0), false).unwrap();
    checkpoints
}

const WHOLE: [&str; 4] = ["best", "ep002-step00000000", "ep003-step00000002", "last"];

fn weight(dir: &Path) -> f32 {
    load_model(dir).unwrap()["layer.weight"].as_slice::<f32>()[0]
}

#[test]
fn every_bit_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(dir.path().join("checkpoints")).with_settings("a = \"é\\\\\"\n".into());
    assert!(checkpoints.newest().unwrap().is_none());
    let saved = checkpoints.save(&progress(&[5e-324], 7), &state(1.5), false).unwrap();
    assert_eq!(
        (saved.path.file_name().unwrap().to_str(), saved.warnings),
        (
            Some("ep001-step00000007"),
            vec![format!(
                "{}/checkpoints: the best checkpoint, of the end of epoch 1, is not there any more",
                dir.path().display()
            )]
        )
    );
    let found = checkpoints.newest().unwrap().unwrap();
    let back = found.progress;
    assert_eq!(format!("{back:?}"), format!("{:?}", progress(&[5e-324], 7)), "Debug shows every digit and NaN");
    assert_eq!(back.tally.loss_sum.to_bits(), (0.1f64 + 0.2).to_bits());
    assert_eq!((found.state.model, found.state.optimizer), (state(1.5).model, state(1.5).optimizer));
    assert_eq!(found.state.scalars["loss_scale"].as_f64(), Some(65536.0));
    assert_eq!((found.settings.as_deref(), found.passed_over), (Some("a = \"é\\\\\"\n"), vec![]));
}

#[test]
fn the_best_epoch_is_the_last_that_is_no_worse_than_all_before() {
    for (losses, best) in [
        (&[][..], 0),
        (&[2.0], 1),
        (&[2.0, 3.0, 1.0, 1.5], 3),
        (&[2.0, 1.0, 1.0, 4.0], 3),
        (&[f64::NAN, 1.0], 1),
        (&[2.0, f64::NAN, 1.0], 1),
    ] {
        assert_eq!(best_epoch(&progress(losses, 0).history), best, "{losses:?}");
    }
}

#[test]
fn only_what_is_needed_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mine = ["ep002-step00000000-mine", "my-copy", "notes.txt", "tmp-mybest-3", "tmp-of-mine"];
    for name in mine {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    // Leftovers of killed processes: no process has that id.
    for name in ["tmp-4194999", "tmp-gone-4194999"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join(MODEL), "half").unwrap();
    }
    std::os::unix::fs::symlink("ep009", dir.path().join("tmp-link-4194999")).unwrap();
    let checkpoints = Checkpoints::new(dir.path());
    for (losses, keep) in
        [(&[1.0][..], false), (&[1.0, 2.0], true), (&[1.0, 2.0, 2.0], false), (&[1.0, 2.0, 2.0, 2.0], false)]
    {
        checkpoints.save(&progress(losses, 0), &state(losses.len() as f32), keep).unwrap();
    }
    let last = progress(&[1.0, 2.0, 2.0, 2.0], 0);
    checkpoints.save(&last, &state(40.0), false).unwrap();
    let mut expect = vec!["best", "ep001-step00000000", "ep002-step00000000-kept", "ep004-step00000000-2", "last"];
    expect.extend(mine);
    expect.sort();
    assert_eq!(names(dir.path()), expect);
    assert_eq!((weight(&dir.path().join("last")), weight(&dir.path().join("best"))), (40.0, 1.0));
    // And once more: at every moment there is a checkpoint of that step.
    checkpoints.save(&last, &state(41.0), false).unwrap();
    assert_eq!(link(dir.path(), "last"), "ep004-step00000000");
    assert_eq!((weight(&dir.path().join("last")), names(dir.path()).len()), (41.0, expect.len()));
}

#[test]
fn the_newest_is_found_without_links_with_wrong_ones_and_with_folders_in_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let checkpoints = run(&whole);
    assert_eq!(
        (names(&whole), newest(&whole)),
        (WHOLE.map(String::from).to_vec(), ("ep003-step00000002".into(), vec![]))
    );
    assert_eq!((link(&whole, "last").as_str(), link(&whole, "best").as_str()), (WHOLE[2], WHOLE[1]));
    let best = checkpoints.best(&progress(&[3.0, 1.0, 2.0], 2).history).unwrap().unwrap();
    assert_eq!(best.file_name().unwrap(), "ep002-step00000000");

    type Spoil = fn(&Path);
    let spoils: [(&str, &str, Spoil); 6] = [
        ("no links", "", |dir| ["last", "best"].iter().for_each(|link| fs::remove_file(dir.join(link)).unwrap())),
        ("dangling", "last names a checkpoint that is not there", |dir| {
            for name in ["last", "best"] {
                fs::remove_file(dir.join(name)).unwrap();
                std::os::unix::fs::symlink("ep001-step00000004", dir.join(name)).unwrap();
            }
        }),
        ("swapped", "", |dir| {
            for (name, to) in [("last", WHOLE[1]), ("best", WHOLE[2])] {
                fs::remove_file(dir.join(name)).unwrap();
                std::os::unix::fs::symlink(to, dir.join(name)).unwrap();
            }
        }),
        ("folders", "", |dir| {
            for name in ["last", "best"] {
                let to = dir.join(link(dir, name));
                fs::remove_file(dir.join(name)).unwrap();
                copy(&to, &dir.join(name), "-rL");
            }
        }),
        ("only folders", "", |dir| {
            for name in ["last", "best"] {
                let to = dir.join(link(dir, name));
                fs::remove_file(dir.join(name)).unwrap();
                fs::rename(to, dir.join(name)).unwrap();
            }
        }),
        ("moved away", "", |dir| {
            // An older version, killed while it saved the same step again.
            fs::rename(dir.join(WHOLE[2]), dir.join("tmp-old-4194999")).unwrap();
            fs::remove_file(dir.join("last")).unwrap();
        }),
    ];
    for (what, word, spoil) in spoils {
        let copied = dir.path().join(what);
        copy(&whole, &copied, "-r");
        spoil(&copied);
        let checkpoints = Checkpoints::new(&copied);
        let found = checkpoints.newest().unwrap().unwrap();
        assert_eq!(found.progress.step, 2, "{what}");
        assert!(found.passed_over.join("").contains(word) && word.is_empty() == found.passed_over.is_empty(), "{what}");
        let best = checkpoints.best(&found.progress.history).unwrap().unwrap();
        assert_eq!((weight(&found.path), weight(&best)), (4.0, 2.0), "{what}");
        // Resuming from there leaves the folder as if nothing had happened.
        assert_eq!(checkpoints.settle(&found.path, &found.progress).unwrap(), Vec::<String>::new(), "{what}");
        assert_eq!((weight(&copied.join("last")), weight(&copied.join("best"))), (4.0, 2.0), "{what}");
        checkpoints.save(&progress(&[3.0, 1.0, 2.0, 0.5], 0), &state(5.0), false).unwrap();
        assert_eq!(names(&copied), ["best", "ep004-step00000000", "last"], "{what}");
        assert_eq!(
            (link(&copied, "last"), link(&copied, "best")),
            (names(&copied)[1].clone(), names(&copied)[1].clone())
        );
    }
}

#[test]
fn an_incomplete_checkpoint_is_named_and_kept_and_the_one_before_is_taken() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 8] = [
        ("model.safetensors: it is damaged", |dir| cut(&dir.join(MODEL), 3)),
        ("optimizer.safetensors: it is damaged", |dir| cut(&dir.join(OPTIMIZER), 40)),
        ("checkpoint.toml: it is cut", |dir| cut(&dir.join(PROGRESS), 30)),
        ("checkpoint.toml: it is cut", |dir| {
            // Cut where it is still valid TOML: an epoch of the history would be missing.
            let text = fs::read_to_string(dir.join(PROGRESS)).unwrap();
            fs::write(dir.join(PROGRESS), &text[..text.rfind("[[progress.history]]").unwrap()]).unwrap();
        }),
        ("checkpoint.toml", |dir| fs::write(dir.join(PROGRESS), "").unwrap()),
        ("failed to read", |dir| fs::remove_file(dir.join(OPTIMIZER)).unwrap()),
        ("failed to read", |dir| fs::remove_file(dir.join(PROGRESS)).unwrap()),
        ("model.safetensors: it is damaged: these are not the bytes", |dir| {
            let mut bytes = fs::read(dir.join(MODEL)).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(dir.join(MODEL), bytes).unwrap();
        }),
    ];
    for (word, spoil) in spoils {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = run(dir.path());
        let last = dir.path().join(WHOLE[2]);
        spoil(&last);
        let found = checkpoints.newest().unwrap().unwrap();
        assert_eq!(found.path.file_name().unwrap(), WHOLE[1]);
        assert!(
            found.passed_over[0].contains(word) && found.passed_over[0].contains(WHOLE[2]),
            "{:?}",
            found.passed_over
        );
        let before = names(&last);
        // Resuming from the one before leaves it untouched, up to the same step.
        checkpoints.settle(&found.path, &found.progress).unwrap();
        let warnings = checkpoints.save(&progress(&[3.0, 1.0], 2), &state(6.0), false).unwrap().warnings;
        assert_eq!(warnings.join("").contains("stands further on"), word.contains("not the bytes"), "{warnings:?}");
        assert_eq!(link(dir.path(), "last"), "ep002-step00000002");
        assert_eq!((names(&last), weight(&dir.path().join("best"))), (before, 2.0));

        for name in names(dir.path()) {
            let other = dir.path().join(name);
            if !other.is_symlink() && other != last {
                fs::remove_dir_all(other).unwrap();
            }
        }
        let error = checkpoints.newest().unwrap_err().to_string();
        assert!(error.contains("no checkpoint in it is complete") && error.contains(word), "{error}");
    }
}

fn cut(path: &Path, bytes: usize) {
    let full = fs::read(path).unwrap();
    fs::write(path, &full[..full.len() - bytes]).unwrap();
}

#[test]
fn a_kill_between_any_two_steps_of_a_save_loses_nothing() {
    // Of a save that makes a new best, and of one that does not.
    for losses in [[3.0, 1.0, 2.0, 0.5], [3.0, 1.0, 2.0, 4.0]] {
        let dir = tempfile::tempdir().unwrap();
        let (before, after) = (dir.path().join("before"), dir.path().join("after"));
        run(&before);
        copy(&before, &after, "-r");
        let (place, content) = (progress(&losses, 0), state(5.0));
        let new = "ep004-step00000000";
        let checkpoints = Checkpoints::new(&after).with_settings("epochs = 4\n".into());
        checkpoints.save(&place, &content, false).unwrap();
        let partial = "tmp-4194999";
        let publish = |dir: &Path| copy(&after.join(new), &dir.join(new), "-r");
        let point = |dir: &Path, name: &str| {
            let _ = fs::remove_file(dir.join(name));
            std::os::unix::fs::symlink(link(&after, name), dir.join(name)).unwrap();
        };
        type Step<'a> = Box<dyn Fn(&Path) + 'a>;
        let steps: Vec<Step<'_>> = vec![
            Box::new(|dir| fs::create_dir(dir.join(partial)).unwrap()),
            Box::new(|dir| fs::write(dir.join(partial).join(MODEL), "half").unwrap()),
            Box::new(|dir| copy(&after.join(new).join(MODEL), &dir.join(partial), "-f")),
            Box::new(|dir| copy(&after.join(new).join(OPTIMIZER), &dir.join(partial), "-f")),
            Box::new(|dir| fs::write(dir.join(partial).join(PROGRESS), "# crc32").unwrap()),
            Box::new(|dir| copy(&after.join(new).join(PROGRESS), &dir.join(partial), "-f")),
            Box::new(|dir| {
                fs::remove_dir_all(dir.join(partial)).unwrap();
                publish(dir);
            }),
            Box::new(|dir| std::os::unix::fs::symlink(new, dir.join("tmp-link-4194999")).unwrap()),
            Box::new(|dir| point(dir, "last")),
            Box::new(|dir| point(dir, "best")),
            Box::new(|dir| fs::rename(dir.join("ep003-step00000002"), dir.join("tmp-gone-4194999")).unwrap()),
            Box::new(|dir| fs::remove_file(dir.join("tmp-gone-4194999").join(PROGRESS)).unwrap()),
        ];
        for killed_after in 0..=steps.len() {
            let killed = dir.path().join(format!("killed{killed_after}"));
            copy(&before, &killed, "-r");
            steps[..killed_after].iter().for_each(|step| step(&killed));
            // A resume takes the newest, and a run does the rest again.
            let checkpoints = Checkpoints::new(&killed);
            let found = checkpoints.newest().unwrap().unwrap();
            assert_eq!(found.passed_over, Vec::<String>::new(), "{killed_after}");
            assert_eq!(found.progress.epoch, if killed_after < 7 { 3 } else { 4 }, "{killed_after}");
            checkpoints.settle(&found.path, &found.progress).unwrap();
            if killed_after < 7 {
                assert_eq!(names(&killed), WHOLE, "{killed_after}");
                checkpoints.save(&place, &content, false).unwrap();
            }
            assert_eq!(names(&killed), names(&after), "{killed_after}");
            for name in ["last", "best"] {
                assert_eq!(link(&killed, name), link(&after, name), "{killed_after}");
                assert_eq!(weight(&killed.join(name)), weight(&after.join(name)));
            }
        }
    }
}

#[test]
fn an_epoch_that_begins_anew_comes_after_the_one_that_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = run(dir.path());
    let anew = Progress { restarts: 1, ..progress(&[3.0, 1.0, 2.0], 0) };
    checkpoints.save(&anew, &state(9.0), false).unwrap();
    assert_eq!(newest(dir.path()).0, "ep003-step00000000");
    assert_eq!(names(dir.path()), ["best", "ep002-step00000000", "ep003-step00000000", "last"]);
    // Nor is it taken as the best, if its epoch was the best.
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(dir.path());
    checkpoints.save(&progress(&[3.0], 0), &state(1.0), false).unwrap();
    checkpoints.save(&Progress { restarts: 1, ..progress(&[3.0], 0) }, &state(2.0), false).unwrap();
    assert_eq!(
        (link(dir.path(), "last").as_str(), link(dir.path(), "best").as_str()),
        ("ep001-step00000000-2", "ep001-step00000000")
    );
}

#[test]
fn checkpoints_of_older_versions_are_read() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    for name in &WHOLE[1..3] {
        // Without seal, list of files and settings, as version 0.5 wrote it.
        let path = dir.path().join(name).join(PROGRESS);
        let text = fs::read_to_string(&path).unwrap();
        let mut table: toml::Table = text.parse().unwrap();
        assert!(table.remove("files").is_some() && table.remove("settings").is_some());
        fs::write(&path, toml::to_string(&table).unwrap()).unwrap();
    }
    let checkpoints = Checkpoints::new(dir.path());
    let found = checkpoints.newest().unwrap().unwrap();
    assert_eq!((found.progress.step, found.settings, found.passed_over), (2, None, vec![]));
    assert_eq!(weight(&checkpoints.best(&found.progress.history).unwrap().unwrap()), 2.0);
    cut(&dir.path().join(WHOLE[2]).join(MODEL), 1);
    assert!(newest(dir.path()).1[0].contains("model.safetensors: it is damaged"));
}

#[test]
fn damage_is_named_and_a_newer_format_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = run(dir.path());
    let path = dir.path().join(WHOLE[2]);
    cut(&path.join(MODEL), 3);
    let error = load(&path).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("damaged"), "{error}");
    fs::write(path.join(PROGRESS), "version = 2").unwrap();
    for error in [load(&path).unwrap_err(), checkpoints.newest().unwrap_err()] {
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains("checkpoint.toml"), "{error}");
    }
    // Other tools keep only the model.
    let alone = dir.path().join("alone");
    fs::create_dir(&alone).unwrap();
    fs::copy(dir.path().join(WHOLE[1]).join(MODEL), alone.join(MODEL)).unwrap();
    assert_eq!(weight(&alone), 2.0);
}

#[test]
fn what_stands_in_the_place_of_a_link_is_left_alone_and_told_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("last"), "ep000-step00000001").unwrap();
    let checkpoints = Checkpoints::new(dir.path());
    let save = |step| checkpoints.save(&progress(&[], step), &state(1.0), false).unwrap().warnings;
    assert!(save(1)[0].contains("last stays as it is: it is no link"));
    assert_eq!((save(2), newest(dir.path()).0.as_str()), (vec![], "ep000-step00000002"));
    assert_eq!(fs::read_to_string(dir.path().join("last")).unwrap(), "ep000-step00000001");
}
