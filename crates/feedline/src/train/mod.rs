//! Train: the loop that consumes the batches. Knows no tensor framework: a [`Task`] holds the model; this folder holds
//! the order of events, the learning rate, the checkpoints and the history.

pub mod checkpoint;
pub mod consistency;
mod disk;
mod fit;
pub mod group;
pub mod history;
pub mod lock;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod proof;
pub mod ranks;
pub mod run;
pub mod schedule;
pub mod tensorboard;
pub mod threads;

pub use fit::{FitContext, FitData, FitOptions, Outcome, Phase, fit};

use crate::error::{Error, Result};
use crate::sample::{Array, Batch};
use consistency::check_consistent;
use group::Group;
use std::collections::BTreeMap;

/// Named tensors, in a stable order.
pub type Tensors = BTreeMap<String, Array>;

/// Sums over the real samples of one or more batches. Sums, not means, so that steps and ranks can be added up.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Number of samples, without padding.
    pub samples: u64,
    /// Sum of the loss over these samples.
    pub loss_sum: f64,
    /// Sums over these samples from which [`Task::metrics`] computes the metrics: of the metrics themselves, unless the
    /// task defines others.
    pub metric_sums: Vec<f64>,
}

impl Tally {
    /// Adds another tally.
    pub fn add(&mut self, other: &Tally) {
        self.samples += other.samples;
        self.loss_sum += other.loss_sum;
        self.metric_sums.resize(self.metric_sums.len().max(other.metric_sums.len()), 0.0);
        for (sum, more) in self.metric_sums.iter_mut().zip(&other.metric_sums) {
            *sum += more;
        }
    }

    /// Replaces it by the sum over the ranks. All must have the same number of metrics.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    pub fn all_reduce(&mut self, group: &dyn Group) -> Result<()> {
        if group.world_size() == 1 {
            return Ok(());
        }
        let mut sums = vec![self.samples as f64, self.loss_sum];
        sums.extend(&self.metric_sums);
        group.all_reduce_f64(&mut sums)?;
        (self.samples, self.loss_sum) = (sums[0] as u64, sums[1]);
        self.metric_sums.copy_from_slice(&sums[2..]);
        Ok(())
    }

    /// Mean loss; NaN if nothing was counted.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.samples as f64
    }

    /// Mean of metric `at`; NaN if nothing was counted.
    pub fn metric(&self, at: usize) -> f64 {
        self.metric_sums.get(at).copied().unwrap_or(f64::NAN) / self.samples as f64
    }
}

/// All state that a task needs to continue after a restart.
#[derive(Debug, Clone, Default)]
pub struct TaskState {
    /// Parameters and running statistics.
    pub model: Tensors,
    /// Momenta and the like, empty at the start.
    pub optimizer: Tensors,
    /// Small values: loss scale, step counters. A JSON object.
    pub scalars: serde_json::Map<String, serde_json::Value>,
}

/// The error of a task that has no backbone, in a phase that freezes it.
pub fn nothing_to_freeze() -> Error {
    Error::train(
        "a phase of the run freezes the backbone, and the task has none that it could freeze",
        "Leave `frozen` of the phase false, or implement Task::set_frozen",
    )
}

/// What is trained: a model with its loss and optimiser. The loop calls these methods and nothing else. Four of them are
/// enough: `train_step`, `eval_step`, `state` and `load_state`.
pub trait Task {
    /// Names of the metrics, e.g. `["accuracy"]`. By default there is the loss and nothing else.
    fn metric_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// Length of [`Tally::metric_sums`], equal for every tally, since they are summed over the ranks.
    fn metric_sums_len(&self) -> usize {
        self.metric_names().len()
    }

    /// Computes the metrics in the order of [`Task::metric_names`]: means over the samples, unless a metric is
    /// something else, such as a ratio of sums. NaN if nothing was counted.
    fn metrics(&self, tally: &Tally) -> Vec<f64> {
        (0..tally.metric_sums.len()).map(|at| tally.metric(at)).collect()
    }

    /// Freezes the backbone (its parameters and running statistics stay as they are), or thaws it. A task without one need not
    /// implement it.
    ///
    /// # Errors
    /// If there is nothing to freeze: by default always, if `frozen` is true.
    fn set_frozen(&mut self, frozen: bool) -> Result<()> {
        if frozen { Err(nothing_to_freeze()) } else { Ok(()) }
    }

    /// Sets the optimiser's momentum (Adam's beta1) for the steps that follow, in [0, 1). Called only if a phase has a
    /// momentum schedule.
    fn set_momentum(&mut self, _momentum: f64) {}

    /// One optimiser step of the whole group at learning rate `lr`, on the mean over the samples of all ranks; `batch`
    /// is this rank's share. The tally sums the `batch.valid` leading samples of every rank, and is the same on all
    /// ranks.
    ///
    /// # Errors
    /// A batch that does not fit the model, or a loss that is not finite (the parameters are then unchanged).
    fn train_step(&mut self, batch: &Batch, lr: f64, group: &dyn Group) -> Result<Tally>;

    /// Takes over the parameters and running statistics of rank 0; nothing to do in a group of one. Parameters are equal
    /// anyway after every step, statistics of norm layers need not be. By default it goes through [`Task::state`] and
    /// [`Task::load_state`]; a task that can copy the values alone is faster.
    ///
    /// # Errors
    /// If another rank cannot be reached; on every rank, if the tensors of one differ from those of rank 0 in name, type or
    /// shape.
    fn broadcast(&mut self, group: &dyn Group) -> Result<()> {
        if group.world_size() == 1 {
            return Ok(());
        }
        let mut state = self.state()?;
        let described = |(name, tensor): (&String, &Array)| format!("{name} {:?} {:?}", tensor.dtype(), tensor.shape());
        let tensors: Vec<String> = state.model.iter().map(described).collect();
        check_consistent(group, &[("the tensors of the model", tensors.join(", "))])?;
        for tensor in state.model.values_mut() {
            let mut bytes = tensor.as_bytes().to_vec();
            group.broadcast(&mut bytes)?;
            tensor.as_bytes_mut().copy_from_slice(&bytes);
        }
        self.load_state(state)
    }

    /// Loss and metrics of `batch`, this rank's share, in evaluation mode; changes nothing. Not a collective: ranks may
    /// have different numbers of batches.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    fn eval_step(&mut self, batch: &Batch) -> Result<Tally>;

    /// A copy of the state that [`Task::load_state`] takes.
    ///
    /// # Errors
    /// Any error of the back end.
    fn state(&self) -> Result<TaskState>;

    /// Restores a saved state: the task then continues bit for bit as the one that saved it.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape, by name.
    fn load_state(&mut self, state: TaskState) -> Result<()>;
}
