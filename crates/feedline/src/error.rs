//! All errors of Feedline. Owns the one error enum and its wording; knows nothing of exit codes (the CLI does).
//!
//! A message says what failed, where (file, key, index), which limit was exceeded and how to fix it. The functions that
//! make an error remove the secrets of URLs.

use crate::url::{without_query, without_secrets};
use std::fmt;
use std::path::{Path, PathBuf};

/// The seven stages a sample travels through. The same words name folders, metrics, config keys and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Plan,
    Read,
    Decode,
    Augment,
    Collate,
    Deliver,
    Train,
}

impl Stage {
    /// All stages in travel order.
    pub const ALL: [Stage; 7] =
        [Stage::Plan, Stage::Read, Stage::Decode, Stage::Augment, Stage::Collate, Stage::Deliver, Stage::Train];

    /// The stage's lower-case name, as it stands in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Plan => "plan",
            Stage::Read => "read",
            Stage::Decode => "decode",
            Stage::Augment => "augment",
            Stage::Collate => "collate",
            Stage::Deliver => "deliver",
            Stage::Train => "train",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error type. `Display` gives one or two complete sentences for a person.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is wrong: an unknown key, a value out of range, two that contradict each other.
    #[error("configuration: {problem}. {remedy}")]
    Config { problem: String, remedy: String },

    /// A data set as a whole is unusable: folder missing, nothing in it, a broken list line.
    #[error("{}: {problem}. {remedy}", location.display())]
    Dataset { location: PathBuf, problem: String, remedy: String },

    /// A split has fewer samples than one global batch, so an epoch would have no step at all.
    #[error(
        "the {split} split has {samples} samples, fewer than one batch of {batch_size}, so an epoch would have no \
         step. Add images to the {split} split or lower the batch size to {samples} or less.\n\
         数据集过小，无法继续进行训练，请扩充数据集。（{split} 集只有 {samples} 个样本，不足一个批次 {batch_size}；\
         请扩充该数据集，或把 batch size 调小到 {samples} 以内。）"
    )]
    SplitTooSmall { split: String, samples: u64, batch_size: u64 },

    /// A bad sample: its file is missing, or its bytes were read and cannot be used.
    #[error("failed to {stage} sample {index} ({location}): {problem}")]
    Sample { stage: Stage, index: u64, location: String, problem: String },

    /// The run failed at a sample for a reason that is not the sample's own: a network, credentials, a disk, memory, a bug.
    /// No other sample is ever taken in its place.
    #[error("failed to {stage} sample {index} ({location}): {source}")]
    Run { stage: Stage, index: u64, location: String, source: Box<Error> },

    /// Code panicked. No input may cause this.
    #[error("the code panicked: {problem}. This is a bug, please report it")]
    Bug { problem: String },

    /// A custom step failed on a sample; `source` is its error.
    #[error("step {name} failed on sample {index} ({location}): {source}")]
    Step { name: String, index: u64, location: String, source: Box<dyn std::error::Error + Send + Sync> },

    /// More samples than allowed were bad.
    #[error(
        "{found} bad samples, more than the {limit} allowed (max_bad_samples). Look at quarantine.jsonl, repair or \
         remove the files, or raise the limit. The last one: {last}"
    )]
    TooManyBadSamples { found: u64, limit: u64, last: Box<Error> },

    /// An operation on a file or folder failed.
    #[error("failed to {action} {}: {source}{}", path.display(), io_remedy(source))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    /// The system refuses memory whose size depends on the data or the settings.
    #[error("{what} needs {bytes} bytes of memory in one piece, which the system refuses. {remedy}")]
    Memory { what: String, bytes: u64, remedy: String },

    /// A saved state belongs to other data or another plan.
    #[error(
        "the saved state does not fit this run: {field} was {saved} and is now {now}. Resume with the data and \
         settings the run was started with, or start a new run"
    )]
    Resume { field: &'static str, saved: String, now: String },

    /// A checkpoint or state file cannot be understood.
    #[error("{}: {problem}. {remedy}", path.display())]
    Checkpoint { path: PathBuf, problem: String, remedy: String },

    /// The request is sensible but this build or back end cannot do it.
    #[error("{what} is not supported here. {remedy}")]
    Unsupported { what: String, remedy: String },

    /// The ranks of a run cannot go on together: one has died, cannot be reached, or differs from the others.
    #[error("ranks: {problem}. {remedy}")]
    Group { problem: String, remedy: String },

    /// The training task failed: the model, the loss or the optimiser.
    #[error("training: {problem}. {remedy}")]
    Train { problem: String, remedy: String },
}

impl Error {
    /// A configuration error.
    pub fn config(problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Config { problem: without_secrets(&problem.into()), remedy: remedy.into() }
    }

    /// A data set error.
    pub fn dataset(location: impl Into<PathBuf>, problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        let (location, problem) = (shown(location.into()), without_secrets(&problem.into()));
        Error::Dataset { location, problem, remedy: without_secrets(&remedy.into()) }
    }

    /// A failed file operation; `action` completes "failed to ... PATH".
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Error {
        Error::Io { action, path: shown(path.as_ref().to_path_buf()), source }
    }

    /// True if the sample itself is bad: its file is missing, or its bytes were read and cannot be used. False for every other
    /// error, such as those of a network, a disk or the settings.
    pub(crate) fn is_of_the_sample(&self) -> bool {
        use std::io::ErrorKind as Kind;
        match self {
            Error::Sample { .. } => true,
            Error::Step { source, .. } => !source.is::<Interrupted>() && !source.is::<NotOfTheSample>(),
            Error::Io { source, .. } => matches!(
                source.kind(),
                Kind::NotFound | Kind::NotADirectory | Kind::IsADirectory | Kind::InvalidData | Kind::UnexpectedEof
            ),
            _ => false,
        }
    }

    /// An error for memory that the system refuses.
    pub fn memory(what: impl Into<String>, bytes: u64) -> Error {
        let remedy =
            "Lower the batch size, the number of workers or the size of a sample, or use a machine with more memory";
        Error::Memory { what: what.into(), bytes, remedy: remedy.into() }
    }

    /// Sets the purpose of the memory in [`Error::Memory`]; any other error stays as it is.
    pub(crate) fn needed_for(self, what: impl FnOnce() -> String) -> Error {
        match self {
            Error::Memory { bytes, remedy, .. } => Error::Memory { what: what(), bytes, remedy },
            other => other,
        }
    }

    /// An error between ranks.
    pub fn group(problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Group { problem: problem.into(), remedy: remedy.into() }
    }

    /// A training error.
    pub fn train(problem: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Train { problem: problem.into(), remedy: remedy.into() }
    }
}

/// The error type of a custom step.
pub type StepError = Box<dyn std::error::Error + Send + Sync>;

/// Error of a step that was interrupted (by Ctrl-C, say). The sample is not at fault, so it is not replaced by
/// another.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Interrupted(pub StepError);

/// Error of a step for a reason other than the sample, such as a network, a disk or memory. The sample is
/// not replaced by another.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NotOfTheSample(pub StepError);

/// The path without the secrets of a URL, for messages.
fn shown(path: PathBuf) -> PathBuf {
    let text = path.to_str().map(without_query);
    text.map_or(path, PathBuf::from)
}

fn io_remedy(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
            ". Free some space or choose another folder with --out; what was saved before is untouched"
        }
        std::io::ErrorKind::PermissionDenied => ". Check who may read and write it",
        std::io::ErrorKind::NotFound => ". Check the path",
        _ => "",
    }
}
