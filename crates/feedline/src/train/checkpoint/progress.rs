//! The progress of a training run: the part of a checkpoint beside the model.

use crate::event::EpochRecord;
use crate::plan::Cursor;
use crate::train::Tally;
use serde::{Deserialize, Serialize};

/// The progress of a training run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The running epoch, from 0.
    pub epoch: u64,
    /// Steps of it that are done.
    pub step: u64,
    /// True if the epoch's training is done and its evaluation is next.
    pub trained: bool,
    /// Number of times that the running epoch was restarted with other data.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u64,
    /// Seconds of training in the running epoch so far.
    pub train_seconds: f64,
    /// Seconds of these spent waiting for data.
    pub wait_seconds: f64,
    /// Learning rate of the last step of the running epoch; `None` before its first, or if an older version saved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Sums over the running epoch so far.
    pub tally: Tally,
    /// Epochs that are done.
    pub history: Vec<EpochRecord>,
    /// The position in the data; `None` before the first batch.
    pub cursor: Option<Cursor>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Progress {
    /// Orders the checkpoints of a run: later ones are greater.
    pub(super) fn place(&self) -> (u64, u64, u64, bool) {
        (self.epoch, self.restarts, self.step, self.trained)
    }

    /// True at the end of epoch `epochs`, counted from 1.
    pub(in crate::train) fn ends(&self, epochs: u64) -> bool {
        epochs > 0 && self.place() == (epochs, 0, 0, false) && self.history.len() as u64 == epochs
    }
}
