//! The end of a command: success, or an error with its exit code.

use feedline::Error;

/// The good ends of a command.
pub(crate) enum Done {
    Ok,
    /// By a signal, after saving a checkpoint.
    #[cfg(feature = "train")]
    Interrupted(i32),
    /// With the exit code of another process, which has said why.
    #[cfg(feature = "train")]
    Code(i32),
    /// Some samples could not be used, each of which was named; the rest of the work was done.
    #[cfg(feature = "train")]
    BadSamples,
    /// `verify` did its work and found that not everything was delivered as planned.
    NotProved,
}

/// The exit code that an error ends the process with.
pub(crate) fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Config { .. } => 2,
        Error::Dataset { .. } | Error::SplitTooSmall { .. } => 3,
        Error::Sample { .. } | Error::Step { .. } | Error::TooManyBadSamples { .. } => 4,
        Error::Run { source, .. } => exit_code(source),
        Error::Io { .. } => 5,
        Error::Resume { .. } | Error::Checkpoint { .. } => 6,
        Error::Unsupported { .. } => 7,
        Error::Train { .. } => 8,
        Error::Group { .. } => 9,
        _ => 1,
    }
}
