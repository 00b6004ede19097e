//! The run folder: the files that a training run leaves for people and programs. Owns their names; the figures arrive
//! as events.
//!
//! ```text
//! config.toml                     the settings, complete (a recipe may add files of its own, such as classes.txt)
//! events.jsonl                    every event, one JSON object a line
//! events.out.tfevents.*           loss/train, loss/val, <metric>/val, lr, data_wait for TensorBoard
//! epoch_loss.txt, epoch_val_loss.txt, epoch_loss.png
//! quarantine.jsonl                samples that were replaced, if any
//! checkpoints/                    see `train::checkpoint`
//! summary.json                    the end, once it is reached
//! lock                            whose process works on it, while one does: see `train::lock`
//! earlier-start-1/                files of a start in which nothing was trained, if there was one
//! ```
#![expect(clippy::disallowed_methods, reason = "owns the run folder, whose name has the time")]

use super::checkpoint::Checkpoints;
use super::disk::{make_dir, open_lines, write_whole};
use super::history::{EVENTS, write_history};
use super::lock::{FolderLock, LOCK};
use super::tensorboard::EventWriter;
use crate::error::{Error, Result};
use crate::event::{EpochRecord, Event, Sink};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the folder of the run's checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";

/// First bytes of a checkpoint's line in it.
const CHECKPOINT: &[u8] = b"{\"event\":\"checkpoint\"";

/// Prefix of the names of folders that keep an earlier start.
const EARLIER: &str = "earlier-start-";

/// Files that a run writes before its first checkpoint, except those of TensorBoard.
const FILES: [&str; 11] = [
    "checkpoints",
    "classes.txt",
    "config.toml",
    "epoch_loss.png",
    "epoch_loss.txt",
    "epoch_val_loss.txt",
    "events.jsonl",
    "ledger.jsonl",
    "quarantine.jsonl",
    "samples.txt",
    "val_samples.txt",
];

/// The folder of one training run, locked against other processes; as a [`Sink`] it records events.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    lock: FolderLock,
    /// The folder that an earlier start was moved to.
    earlier: Option<PathBuf>,
    metric_names: &'static [&'static str],
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    events: File,
    tensorboard: EventWriter,
    history: Vec<EpochRecord>,
}

impl RunFolder {
    /// Creates a new run folder with its `config.toml`. A start in which nothing was trained (see
    /// [`RunFolder::nothing_trained`]) is moved aside.
    ///
    /// # Errors
    /// A folder that already holds something else, that another process has locked, or that cannot be created.
    pub fn create(dir: &Path, config_toml: &str, metric_names: &'static [&'static str]) -> Result<RunFolder> {
        let refuse = |holds| match holds {
            Holds::More => Err(Error::config(
                format!("the run folder {} is not empty", dir.display()),
                format!("Go on with that run by --resume {}, or choose another folder", dir.display()),
            )),
            other => Ok(other),
        };
        refuse(Holds::of(dir)?)?;
        make_dir(dir)?;
        let lock = FolderLock::take(dir)?;
        // Checked again: another process may have been faster.
        let earlier = match refuse(Holds::of(dir)?)? {
            Holds::Start => Some(set_aside(dir)?),
            _ => None,
        };
        write_whole(&dir.join("config.toml"), config_toml.as_bytes())?;
        Ok(RunFolder { earlier, ..RunFolder::open(lock, metric_names, vec![])? })
    }

    /// True if `dir` is a run folder without any training that a resume could continue: it has settings, no checkpoint,
    /// not even a broken one, and no file that is not a run's.
    pub fn nothing_trained(dir: &Path) -> bool {
        Holds::of(dir).is_ok_and(|holds| holds == Holds::Start)
    }

    /// Opens the locked folder of a run to continue it; `history` is its history.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn open(
        lock: FolderLock,
        metric_names: &'static [&'static str],
        history: Vec<EpochRecord>,
    ) -> Result<RunFolder> {
        let dir = lock.dir().to_path_buf();
        let open = Open { events: open_lines(&dir.join(EVENTS))?, tensorboard: EventWriter::create(&dir)?, history };
        Ok(RunFolder { dir, lock, earlier: None, metric_names, open: Mutex::new(open) })
    }

    /// Messages for the user about how the folder was taken.
    pub fn notes(&self) -> Vec<String> {
        let moved = self.earlier.as_ref().map(|earlier| {
            format!(
                "nothing was trained in an earlier start in this folder; its files are in {} now",
                earlier.display()
            )
        });
        self.lock.note().map(str::to_owned).into_iter().chain(moved).collect()
    }

    /// Checks that the run in `dir`, which has no checkpoint, never had one.
    ///
    /// # Errors
    /// Its events mention one; or they cannot be read.
    pub fn check_had_no_checkpoint(dir: &Path) -> Result<()> {
        let path = dir.join(EVENTS);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file.map_err(|e| Error::io("read", &path, e))?,
        };
        let mut last = None;
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(|e| Error::io("read", &path, e))?;
            if line.starts_with(CHECKPOINT) {
                last = serde_json::from_slice::<serde_json::Value>(&line).ok().or(last);
            }
        }
        let Some(last) = last else { return Ok(()) };
        Err(Error::Checkpoint {
            path: dir.join(CHECKPOINTS),
            problem: format!("there is no checkpoint in it, and {EVENTS} tells of {}", last["path"]),
            remedy: "Bring it back from a copy, or begin a new run in another folder".into(),
        })
    }

    /// Its path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its checkpoints.
    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(self.dir.join(CHECKPOINTS))
    }

    /// Writes a file of the folder atomically.
    ///
    /// # Errors
    /// A failed write; the old file is then untouched.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_whole(&self.dir.join(name), bytes)
    }

    fn epoch_end(&self, open: &mut Open, record: &EpochRecord) -> Result<()> {
        let time_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let mut scalars = vec![
            ("loss/train".to_string(), record.train_loss),
            ("loss/val".to_string(), record.val_loss),
            ("lr".to_string(), record.lr),
            ("data_wait".to_string(), record.data_wait_share),
        ];
        for (name, value) in self.metric_names.iter().zip(&record.val_metrics) {
            scalars.push((format!("{name}/val"), *value));
        }
        for (tag, value) in scalars {
            open.tensorboard.scalar(&tag, record.epoch, value, time_s)?;
        }
        open.tensorboard.flush()?;
        open.history.push(record.clone());
        write_history(&self.dir, &open.history)
    }
}

/// The contents of a folder, from the view of a new run.
#[derive(Debug, PartialEq)]
enum Holds {
    Nothing,
    /// A run in which nothing was trained.
    Start,
    More,
}

impl Holds {
    /// # Errors
    /// A folder that cannot be listed: it may hold anything.
    fn of(dir: &Path) -> Result<Holds> {
        let names = |dir: &Path| -> Result<Vec<String>> {
            let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
            match fs::read_dir(dir).and_then(|entries| entries.map(name).collect()) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                names => names.map_err(|e| Error::io("list the folder", dir, e)),
            }
        };
        let mut names_in = names(dir)?;
        names_in.retain(|name| name != LOCK && !name.starts_with(EARLIER));
        if names_in.is_empty() {
            return Ok(Holds::Nothing);
        }
        // Another folder may have a file of such a name, too, and must not be touched.
        let is_ours = |name: &String| {
            let name = name.strip_suffix(".tmp").unwrap_or(name);
            name.starts_with("events.out.tfevents.") || FILES.contains(&name)
        };
        // A leftover of a killed save is no checkpoint.
        let has_checkpoint = names(&dir.join(CHECKPOINTS))?.iter().any(|name| !name.starts_with("tmp-"));
        let has_settings = ["config.toml", "config.toml.tmp"].iter().any(|name| dir.join(name).is_file());
        let has_lost_one = RunFolder::check_had_no_checkpoint(dir).is_err();
        if has_settings && names_in.iter().all(is_ours) && !has_checkpoint && !has_lost_one {
            Ok(Holds::Start)
        } else {
            Ok(Holds::More)
        }
    }
}

/// Moves all files of a start into a new folder in `dir`.
fn set_aside(dir: &Path) -> Result<PathBuf> {
    let failed = |e: io::Error| Error::io("move an earlier start aside in", dir, e);
    let mut number = 1;
    let to = loop {
        let to = dir.join(format!("{EARLIER}{number}"));
        match fs::create_dir(&to) {
            Ok(()) => break to,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(failed(e)),
        }
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
    }
    names.retain(|name| name != LOCK && !name.to_string_lossy().starts_with(EARLIER));
    // The settings last: as long as they are in place, a kill in between leaves a start, which can be moved again.
    names.sort_by_key(|name| name == "config.toml");
    for name in names {
        fs::rename(dir.join(&name), to.join(&name)).map_err(failed)?;
    }
    Ok(to)
}

impl Sink for RunFolder {
    fn emit(&self, event: &Event) -> Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join(EVENTS);
        open.events.write_all(line(event)?.as_bytes()).map_err(|e| Error::io("write", &path, e))?;
        match event {
            Event::EpochEnd(record) => self.epoch_end(&mut open, record),
            Event::Replaced(replaced) => {
                let path = self.dir.join("quarantine.jsonl");
                let line = line(replaced)?;
                open_lines(&path)?.write_all(line.as_bytes()).map_err(|e| Error::io("write", &path, e))
            }
            _ => Ok(()),
        }
    }
}

fn line(value: &impl serde::Serialize) -> Result<String> {
    let json = serde_json::to_string(value);
    json.map(|json| json + "\n").map_err(|e| Error::train(format!("an event is not JSON: {e}"), "Please report this"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.filter(|name| !name.starts_with("events.out")).collect();
        names.sort();
        names
    }

    #[test]
    fn a_start_that_trained_nothing_is_moved_aside_and_all_else_refused() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let create = |text: &str| RunFolder::create(&run, text, &[]);
        let first = create("seed = 1").unwrap();
        assert_eq!(first.notes(), Vec::<String>::new());
        assert!(create("seed = 2").unwrap_err().to_string().contains("is under way"));
        drop(first);
        assert!(RunFolder::nothing_trained(&run));
        fs::create_dir_all(run.join("checkpoints/tmp-12")).unwrap();
        let second = create("seed = 2").unwrap();
        assert!(second.notes()[0].contains("earlier-start-1"), "{:?}", second.notes());
        assert_eq!(fs::read_to_string(run.join("earlier-start-1/config.toml")).unwrap(), "seed = 1");
        assert_eq!(names(&run), ["config.toml", "earlier-start-1", "events.jsonl", "lock"]);
        drop(second);
        assert_eq!(
            names(&create("seed = 3").unwrap().dir),
            ["config.toml", "earlier-start-1", "earlier-start-2", "events.jsonl", "lock"]
        );

        // A checkpoint, even an unusable one, or the end of a run, or a folder that is no run at all.
        for name in ["checkpoints/ep001-step00000000", "summary.json", "src"] {
            fs::create_dir_all(run.join(name)).unwrap();
            assert!(!RunFolder::nothing_trained(&run));
            assert!(create("").unwrap_err().to_string().contains("is not empty"), "{name}");
            assert!(!run.join(LOCK).exists());
            fs::remove_dir(run.join(name)).unwrap();
        }
        // A folder whose checkpoints cannot be listed may hold any.
        fs::remove_dir(run.join(CHECKPOINTS)).unwrap();
        fs::write(run.join(CHECKPOINTS), "of another program").unwrap();
        assert!(!RunFolder::nothing_trained(&run));
        let error = create("").unwrap_err().to_string();
        assert!(error.contains("failed to list the folder") && error.contains("checkpoints"), "{error}");
        assert_eq!(fs::read_to_string(run.join(CHECKPOINTS)).unwrap(), "of another program");
        fs::remove_file(run.join("config.toml")).unwrap();
        fs::remove_file(run.join(CHECKPOINTS)).unwrap();
        assert!(create("").unwrap_err().to_string().contains("is not empty"));
    }

    #[test]
    fn half_a_line_of_a_killed_process_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("events.jsonl"), "{\"event\":\"resumed\"}\n{\"event\":\"st").unwrap();
        let folder = RunFolder::open(FolderLock::take(dir.path()).unwrap(), &[], vec![]).unwrap();
        folder.emit(&Event::Resumed { epoch: 1, step: 2 }).unwrap();
        let text = fs::read_to_string(dir.path().join("events.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{text}");
    }

    #[test]
    fn a_run_that_lost_its_checkpoints_is_told_from_one_that_had_none() {
        let dir = tempfile::tempdir().unwrap();
        RunFolder::check_had_no_checkpoint(dir.path()).unwrap();
        let folder = RunFolder::create(&dir.path().join("a/run"), "epochs = 3\n", &[]).unwrap();
        folder.emit(&Event::Resumed { epoch: 1, step: 0 }).unwrap();
        RunFolder::check_had_no_checkpoint(folder.dir()).unwrap();
        let path = "runs/a/checkpoints/ep000-step00000002".to_string();
        folder.emit(&Event::Checkpoint { path, epoch: 0, step: 2, best: false }).unwrap();
        let error = RunFolder::check_had_no_checkpoint(folder.dir()).unwrap_err().to_string();
        assert!(error.contains("events.jsonl tells of") && error.contains("ep000-step00000002"), "{error}");
    }
}
