//! Why bytes did not become data, and how room is made for data without taking the system's refusal for a crash.

use crate::error::{Error, Stage};
use std::fmt;

/// Why bytes did not become data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The bytes cannot be used, for this reason.
    Bad(String),
    /// The system has not so much memory in one piece. This is no fault of the bytes.
    NoMemory {
        /// What the memory is for.
        what: String,
        /// How much.
        bytes: u64,
    },
}

impl Fault {
    /// The same, said of a part of the file.
    pub(super) fn of(self, part: &str) -> Fault {
        match self {
            Fault::Bad(problem) => Fault::Bad(format!("{part}: {problem}")),
            Fault::NoMemory { what, bytes } => Fault::NoMemory { what: format!("{part}: {what}"), bytes },
        }
    }

    /// The error at a sample: [`Error::Sample`] where its bytes are bad, [`Error::Run`] where memory is short, so that no
    /// sample is taken for bad because others take the memory.
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

/// Gives `list` the length `len`, what is new in it being `value`; a refusal of the allocator is an error.
pub(crate) fn grown<T: Clone>(list: &mut Vec<T>, len: usize, value: T, what: &str) -> Result<(), Fault> {
    let bytes = len.saturating_mul(size_of::<T>()) as u64;
    list.try_reserve_exact(len.saturating_sub(list.len())).map_err(|_| no_memory(what, bytes))?;
    list.resize(len, value);
    Ok(())
}
