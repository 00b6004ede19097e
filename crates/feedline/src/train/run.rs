//! The run folder: what a training run leaves for people and programs. Owns the names of its files; the figures come as
//! events.
//!
//! ```text
//! config.toml                     the settings, complete (a recipe may add files of its own, such as classes.txt)
//! events.jsonl                    every event, one JSON object a line
//! events.out.tfevents.*           loss/train, loss/val, <metric>/val, lr, data_wait for TensorBoard
//! epoch_loss.txt, epoch_val_loss.txt, epoch_loss.png
//! quarantine.jsonl                samples that were replaced, if any
//! checkpoints/                    see `train::checkpoint`
//! summary.json                    the end, once it is reached
//! ```

use super::checkpoint::Checkpoints;
use super::history::write_history;
use super::tensorboard::EventWriter;
use crate::error::{Error, Result};
use crate::event::{EpochRecord, Event, Sink};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// The folder of one training run; as a [`Sink`] it writes down what it hears.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
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
    /// Makes a new run folder with its `config.toml`.
    ///
    /// # Errors
    /// A folder that already holds something, or cannot be made.
    pub fn create(dir: &Path, config_toml: &str, metric_names: &'static [&'static str]) -> Result<RunFolder> {
        if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::config(
                format!("the run folder {} is not empty", dir.display()),
                format!("Go on with that run by --resume {}, or choose another folder", dir.display()),
            ));
        }
        fs::create_dir_all(dir).map_err(|e| Error::io("make the folder", dir, e))?;
        let config = dir.join("config.toml");
        fs::write(&config, config_toml).map_err(|e| Error::io("write", &config, e))?;
        RunFolder::open(dir, metric_names, vec![])
    }

    /// Opens a run folder to go on with a run that has this history.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn open(dir: &Path, metric_names: &'static [&'static str], history: Vec<EpochRecord>) -> Result<RunFolder> {
        let path = dir.join("events.jsonl");
        let events = OpenOptions::new().create(true).append(true).open(&path);
        let open = Open {
            events: events.map_err(|e| Error::io("open", &path, e))?,
            tensorboard: EventWriter::create(dir)?,
            history,
        };
        Ok(RunFolder { dir: dir.to_path_buf(), metric_names, open: Mutex::new(open) })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its checkpoints.
    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(self.dir.join("checkpoints"))
    }

    /// Writes a file of the folder as a whole.
    ///
    /// # Errors
    /// A failed write; the old file is then untouched.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        super::history::write_atomically(&self.dir.join(name), bytes)
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

impl Sink for RunFolder {
    fn emit(&self, event: &Event) -> Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join("events.jsonl");
        open.events.write_all(line(event)?.as_bytes()).map_err(|e| Error::io("write", &path, e))?;
        match event {
            Event::EpochEnd(record) => self.epoch_end(&mut open, record),
            Event::Replaced(replaced) => {
                let path = self.dir.join("quarantine.jsonl");
                let line = line(replaced)?;
                let file = OpenOptions::new().create(true).append(true).open(&path);
                let write = file.and_then(|mut file| file.write_all(line.as_bytes()));
                write.map_err(|e| Error::io("write", &path, e))
            }
            _ => Ok(()),
        }
    }
}

fn line(value: &impl serde::Serialize) -> Result<String> {
    let json = serde_json::to_string(value);
    json.map(|json| json + "\n").map_err(|e| Error::train(format!("an event is not JSON: {e}"), "Please report this"))
}
