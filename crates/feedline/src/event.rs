//! Events of the engine: one enum for the progress bar, the JSON lines, TensorBoard and callers alike.

use crate::error::Result;
use crate::meter::StatsSnapshot;
use crate::sample::Replaced;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An event of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A message for a person; the run continues.
    Warning { message: String },
    /// Things among the samples were skipped: how many of each kind, and the names of the first. `message` says it for a
    /// person, and what to do about it.
    Skipped { kinds: BTreeMap<String, u64>, first: Vec<String>, message: String },
    /// A sample was replaced by another.
    Replaced(Replaced),
    /// A pass over the training split begins, or goes on at `step`; `lr` is that of the next step. Epochs count from 1 here
    /// and in every file a person reads. `metric_names` are the names of the metrics in all events, in order.
    EpochStart {
        epoch: u64,
        epochs: u64,
        steps: u64,
        step: u64,
        frozen: bool,
        batch_size: u64,
        lr: f64,
        metric_names: &'static [&'static str],
    },
    /// One optimiser step is done; loss and metrics of the running epoch so far.
    Step {
        epoch: u64,
        step: u64,
        steps: u64,
        loss: f64,
        metrics: Vec<f64>,
        lr: f64,
        images_per_second: f64,
        data_wait_share: f64,
    },
    /// Evaluation begins or goes on.
    Validate { epoch: u64, step: u64, steps: u64 },
    /// An epoch and its evaluation are done.
    EpochEnd(EpochRecord),
    /// A checkpoint was published.
    Checkpoint { path: String, epoch: u64, step: u64, best: bool },
    /// The run resumes from a checkpoint. Events after that checkpoint, already emitted before the stop, occur again.
    Resumed { epoch: u64, step: u64 },
}

/// The figures of one epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 1.
    pub epoch: u64,
    #[serde(deserialize_with = "or_nan")]
    pub train_loss: f64,
    #[serde(deserialize_with = "or_nan")]
    pub val_loss: f64,
    /// Each metric, in the order of the task's names.
    #[serde(deserialize_with = "each_or_nan")]
    pub train_metrics: Vec<f64>,
    #[serde(deserialize_with = "each_or_nan")]
    pub val_metrics: Vec<f64>,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Training samples per second of training time (evaluation excluded).
    pub images_per_second: f64,
    /// Share of the training time spent waiting for a batch, 0..1.
    pub data_wait_share: f64,
    pub train_seconds: f64,
    pub val_seconds: f64,
    /// Statistics of the loader's stages in this epoch.
    pub stages: StatsSnapshot,
}

/// A number of a JSON file, which writes NaN as null.
fn or_nan<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// Does what [`or_nan`] does, with each number of a list.
fn each_or_nan<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<f64>, D::Error> {
    let numbers: Vec<Option<f64>> = Vec::deserialize(from)?;
    Ok(numbers.into_iter().map(|number| number.unwrap_or(f64::NAN)).collect())
}

/// A consumer of events.
pub trait Sink: Send + Sync {
    /// Takes one event. Must not block for long: the engine waits.
    ///
    /// # Errors
    /// The event cannot be recorded. The run then stops, because its record would be incomplete.
    fn emit(&self, event: &Event) -> Result<()>;
}

/// Prints a line to standard error as `eprintln!` does, but ignores a failure: a closed terminal or a full disk must not end
/// a training.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($words)*);
    }};
}

/// Prints only warnings, to standard error: the default sink of a loader.
#[derive(Debug, Clone, Copy, Default)]
pub struct Warnings;

impl Sink for Warnings {
    fn emit(&self, event: &Event) -> Result<()> {
        if let Event::Warning { message } | Event::Skipped { message, .. } = event {
            crate::say!("feedline: {message}");
        }
        Ok(())
    }
}

/// Passes every event to several sinks, in order.
pub struct MultiSink(pub Vec<Arc<dyn Sink>>);

impl Sink for MultiSink {
    fn emit(&self, event: &Event) -> Result<()> {
        self.0.iter().try_for_each(|sink| sink.emit(event))
    }
}
