//! The contract of a place that objects are read from: a folder, a bucket, a cache before either. One backend or wrapper
//! per file of this folder; [`conformance`] is what each of them has to pass.
//!
//! The contract is one of blocking calls. Whoever wants many reads under way makes them from as many threads; that costs
//! a stack each, and a wrapper stays a plain function around another.

#[cfg(feature = "cloud")]
mod answer;
mod cache;
mod cache_folder;
#[cfg(feature = "cloud")]
mod cloud;
pub(in crate::read) mod coalesce;
pub mod conformance;
mod limit;
pub(in crate::read) mod local;
pub(in crate::read) mod next_use;
pub(in crate::read) mod open;
mod retry;
mod timeout;

pub use cache::{Cache, CacheCounts, Outlook};
pub use cache_folder::CacheMode;
#[cfg(feature = "cloud")]
pub use cloud::Cloud;
pub use coalesce::Coalesce;
pub(crate) use coalesce::TOGETHER_BYTES_MAX;
pub use limit::Limit;
pub use local::LocalFiles;
pub use open::{Credentials, Listing, Storage, check_url, is_url};
pub(crate) use open::{without_query, without_secrets};
pub use retry::Retry;
pub use timeout::Timeout;

use crate::error::Error;
use std::fmt::Debug;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// One object as it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name within the source, with `/` between folders.
    pub key: String,
    /// Its size.
    pub size_bytes: u64,
    /// What changes when its content does: an ETag, or a time of change. Empty where the place has neither.
    pub version: String,
    /// When it was changed, in nanoseconds since 1970; 0 where the place does not tell.
    pub changed_ns: u64,
}

/// What to read, and how long that may take.
#[derive(Debug, Clone)]
pub struct Get<'a> {
    /// The object.
    pub key: &'a str,
    /// Which of its bytes.
    pub range: Range<u64>,
    /// The version that must be read; any if it is empty.
    pub version: &'a str,
    /// When to give up.
    pub until: Option<Instant>,
    /// Who may call it off.
    pub stop: &'a Stop,
}

impl Get<'_> {
    /// Number of bytes asked for.
    pub fn len_bytes(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

/// A place that objects are read from. Called from many threads at once.
pub trait Source: Debug + Send + Sync {
    /// The object as people write it: `s3://bucket/folder/key`. Never holds a credential. The location of the empty key
    /// is a prefix of all others.
    fn location(&self, key: &str) -> String;

    /// Reads the bytes asked for into `into`, whose old content is dropped and whose allocation is used again. It then
    /// holds exactly the range of exactly the version, or the result is an error and what it holds is unspecified.
    ///
    /// # Errors
    /// As [`Fault`] tells.
    fn get(&self, want: &Get<'_>, into: &mut Vec<u8>) -> Result<(), ReadError>;

    /// Several reads, each as [`Source::get`] and into its own of `into`: what is needed soon, in that order. Gives as many
    /// results. [`Coalesce`] makes one `get` of neighbours, and a wrapper around it has to pass them on together.
    fn get_many(&self, wants: &[Get<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        wants.iter().zip(into).map(|(want, into)| self.get(want, into)).collect()
    }

    /// The objects whose keys begin with `prefix`, in the bytewise order of their keys. None is no error.
    ///
    /// # Errors
    /// As [`Fault`] tells.
    fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError>;

    /// What is known of one object.
    ///
    /// # Errors
    /// As [`Fault`] tells.
    fn head(&self, key: &str, stop: &Stop) -> Result<Object, ReadError>;

    /// The cache among the wrappers of this source, if there is one.
    fn cache(&self) -> Option<&Cache> {
        None
    }
}

/// Calls off what is under way; clones are the same stop.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on every read that was given this ends with [`Fault::Stopped`], within a few tens of milliseconds.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was called off.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps; shorter if it is called off, and then gives false.
    pub fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            if self.is_stopped() {
                return false;
            }
            match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return true,
                left => std::thread::sleep(left.min(PATIENCE)),
            }
        }
    }
}

/// How long a blocked read may take to notice that it was called off.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// What kind of failure it was: decides whether another try makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no such object.
    Missing,
    /// It was read, and its bytes cannot be used.
    Damaged,
    /// The credentials are wrong, expired or not allowed to.
    Denied,
    /// The object is not what it was when it was listed.
    Changed,
    /// The place asks for fewer requests.
    Busy,
    /// A connection, a body or a server broke.
    Broken,
    /// It took too long.
    TimedOut,
    /// It was called off.
    Stopped,
    /// Anything else, which another try would meet again.
    Other,
}

impl Fault {
    /// Whether another try may well succeed.
    pub fn is_passing(self) -> bool {
        matches!(self, Fault::Busy | Fault::Broken | Fault::TimedOut)
    }
}

/// A read that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{problem}")]
pub struct ReadError {
    /// The kind.
    pub fault: Fault,
    /// Which object, as [`Source::location`] gives it.
    pub location: String,
    /// What happened, and what may be done about it.
    pub problem: String,
    /// How long the place asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl ReadError {
    /// A failure of `location`.
    pub fn new(fault: Fault, location: String, problem: impl Into<String>) -> ReadError {
        let (location, problem) = (without_query(&location), without_secrets(&problem.into()));
        ReadError { fault, location, problem, retry_after: None }
    }

    /// What a reader finds that was called off.
    pub fn stopped(location: String) -> ReadError {
        ReadError::new(Fault::Stopped, location, "it was called off")
    }

    /// As an error of this crate, "failed to read LOCATION: ...".
    pub fn into_error(self) -> Error {
        let kind = match self.fault {
            Fault::Missing => std::io::ErrorKind::NotFound,
            Fault::Damaged => std::io::ErrorKind::InvalidData,
            Fault::Denied => std::io::ErrorKind::PermissionDenied,
            Fault::TimedOut => std::io::ErrorKind::TimedOut,
            _ => std::io::ErrorKind::Other,
        };
        let path = PathBuf::from(self.location.clone());
        Error::Io { action: "read", path, source: std::io::Error::new(kind, self) }
    }
}
