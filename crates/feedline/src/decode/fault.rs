//! Errors of decoding, and allocation that reports a lack of memory as an error instead of a crash.

use crate::error::{Error, Stage};
use std::fmt;

/// An error of decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The bytes cannot be used; the text is the reason.
    Bad(String),
    /// The system refuses this much memory in one piece. The bytes are not at fault.
    NoMemory {
        /// Purpose of the memory.
        what: String,
        /// Size of the request.
        bytes: u64,
    },
}

impl Fault {
    /// The same error, with the name of a part of the file in front.
    pub(super) fn of(self, part: &str) -> Fault {
        match self {
            Fault::Bad(problem) => Fault::Bad(format!("{part}: {problem}")),
            Fault::NoMemory { what, bytes } => Fault::NoMemory { what: format!("{part}: {what}"), bytes },
        }
    }

    /// The error at a sample: [`Error::Sample`] if its bytes are bad, [`Error::Run`] if memory is short, so that no
    /// sample counts as bad because others use the memory.
    pub fn at(self, stage: Stage, index: u64, location: String) -> Error {
        match self {
            Fault::Bad(problem) => Error::Sample { stage, index, location, problem },
            Fault::NoMemory { what, bytes } => {
                Error::Run { stage, index, location, source: Box::new(Error::memory(what, bytes)) }
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Bad(problem) => f.write_str(problem),
            Fault::NoMemory { what, bytes } => Error::memory(what, *bytes).fmt(f),
        }
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for String {
    fn from(fault: Fault) -> String {
        fault.to_string()
    }
}

impl From<String> for Fault {
    fn from(problem: String) -> Fault {
        Fault::Bad(problem)
    }
}

impl From<&str> for Fault {
    fn from(problem: &str) -> Fault {
        Fault::Bad(problem.into())
    }
}

pub(crate) fn no_memory(what: &str, bytes: u64) -> Fault {
    Fault::NoMemory { what: what.into(), bytes }
}

/// Sets the length of `list` to `len` and fills new places with `value`; a refusal of the allocator is an error.
pub(crate) fn grown<T: Clone>(list: &mut Vec<T>, len: usize, value: T, what: &str) -> Result<(), Fault> {
    let bytes = len.saturating_mul(size_of::<T>()) as u64;
    list.try_reserve_exact(len.saturating_sub(list.len())).map_err(|_| no_memory(what, bytes))?;
    list.resize(len, value);
    Ok(())
}
