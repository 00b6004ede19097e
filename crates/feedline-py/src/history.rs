//! The loss history for Python: text files, a picture and TensorBoard records, as the training loop of the library
//! writes them.

use crate::errors::raise;
use feedline::Result;
use feedline::event::EpochRecord;
use feedline::train::history::write_history;
use feedline::train::tensorboard::EventWriter;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// A folder with the history of a run.
#[pyclass(frozen, module = "feedline._native")]
pub struct History {
    dir: PathBuf,
    written: Mutex<(EventWriter, Vec<EpochRecord>)>,
}

#[pymethods]
impl History {
    #[new]
    fn new(py: Python<'_>, dir: PathBuf) -> PyResult<History> {
        let writer = py.detach(|| EventWriter::create(&dir)).map_err(|e| raise(py, e))?;
        Ok(History { dir, written: Mutex::new((writer, Vec::new())) })
    }

    /// Adds a number to TensorBoard's records.
    fn scalar(&self, py: Python<'_>, tag: &str, step: u64, value: f64) -> PyResult<()> {
        let write = || -> Result<()> {
            let (writer, _) = &mut *self.written.lock().unwrap_or_else(PoisonError::into_inner);
            writer.scalar(tag, step, value, now_s())
        };
        py.detach(write).map_err(|e| raise(py, e))
    }

    /// Writes the buffered records to the file.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.written.lock().unwrap_or_else(PoisonError::into_inner).0.flush()).map_err(|e| raise(py, e))
    }

    /// Adds the losses of an epoch, from 1, and rewrites all files.
    fn append(&self, py: Python<'_>, epoch: u64, train_loss: f64, val_loss: f64) -> PyResult<()> {
        let append = || -> Result<()> {
            let (writer, epochs) = &mut *self.written.lock().unwrap_or_else(PoisonError::into_inner);
            epochs.push(EpochRecord { epoch, train_loss, val_loss, ..EpochRecord::default() });
            writer.scalar("loss", epoch, train_loss, now_s())?;
            writer.scalar("val_loss", epoch, val_loss, now_s())?;
            writer.flush()?;
            write_history(&self.dir, epochs)
        };
        py.detach(append).map_err(|e| raise(py, e))
    }
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
