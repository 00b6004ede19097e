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
pub(in crate::read) mod listing;
pub(in crate::read) mod local;
pub(in crate::read) mod next_use;
mod open;
mod retry;
pub(in crate::read) mod settings;
mod timeout;

pub use crate::stop::Stop;
pub use cache::Cache;
pub use cache_folder::CacheMode;
#[cfg(feature = "cloud")]
pub use cloud::Cloud;
pub use coalesce::Coalesce;
pub(crate) use coalesce::TOGETHER_BYTES_MAX;
pub use limit::Limit;
pub use listing::Listing;
pub use local::LocalFiles;
pub use retry::Retry;
pub use settings::{Credentials, Storage};
pub use timeout::Timeout;

use crate::error::Error;
use crate::url::{without_query, without_secrets};
use std::fmt::Debug;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Weak;
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
pub struct RangeRequest<'a> {
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

impl RangeRequest<'_> {
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
    /// As [`ReadErrorKind`] tells.
    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError>;

    /// Several reads, each as [`Source::get`] and into its own of `into`: what is needed soon, in that order. Gives as many
    /// results. [`Coalesce`] makes one `get` of neighbours, and a wrapper around it has to pass them on together.
    fn get_many(&self, wants: &[RangeRequest<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        wants.iter().zip(into).map(|(want, into)| self.get(want, into)).collect()
    }

    /// The objects whose keys begin with `prefix`, in the bytewise order of their keys. None is no error.
    ///
    /// # Errors
    /// As [`ReadErrorKind`] tells.
    fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError>;

    /// What is known of one object.
    ///
    /// # Errors
    /// As [`ReadErrorKind`] tells.
    fn head(&self, key: &str, stop: &Stop) -> Result<Object, ReadError>;

    /// The cache among the wrappers of this source, if there is one.
    fn cache(&self) -> Option<&dyn SourceCache> {
        None
    }
}

/// Tells when the samples of a data set are needed next, in epochs since the run began: 3.25 is a quarter into epoch 3.
pub trait NextUse: Send + Sync {
    /// When the sample is needed next, after any use that has begun.
    fn next_use(&self, sample: u64) -> f64;
}

/// What the cache among the wrappers of a source can be told and asked.
pub trait SourceCache: Send + Sync {
    /// Tells which objects, and which ranges of them, the samples of a data set are, and asks `next_use` from then on when
    /// each is needed next; until that is dropped.
    ///
    /// # Errors
    /// A cache that is too small for one sample.
    fn follow(
        &self,
        samples: &mut dyn Iterator<Item = (u64, (&Object, Range<u64>))>,
        next_use: Weak<dyn NextUse>,
    ) -> crate::error::Result<()>;

    /// What a person should know of it, in words.
    fn remark(&self) -> Option<&str>;

    /// What it did so far.
    fn counts(&self) -> CacheCounts;
}

/// What a cache did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Reads that the cache answered.
    pub hits: u64,
    /// Reads that went to the source.
    pub misses: u64,
    /// Entries that were written.
    pub written: u64,
    /// Entries that had to go.
    pub evicted: u64,
    /// Entries that were damaged, and were removed.
    pub damaged: u64,
    /// Entries that could not be written; the disk is full, say.
    pub failed: u64,
}

/// What kind of failure it was: decides whether another try makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadErrorKind {
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

impl ReadErrorKind {
    /// Whether another try may well succeed.
    pub(crate) fn is_passing(self) -> bool {
        matches!(self, ReadErrorKind::Busy | ReadErrorKind::Broken | ReadErrorKind::TimedOut)
    }
}

/// A read that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{problem}")]
pub struct ReadError {
    /// The kind.
    pub kind: ReadErrorKind,
    /// Which object, as [`Source::location`] gives it.
    pub location: String,
    /// What happened, and what may be done about it.
    pub problem: String,
    /// How long the place asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl ReadError {
    /// A failure of `location`.
    pub fn new(kind: ReadErrorKind, location: String, problem: impl Into<String>) -> ReadError {
        let (location, problem) = (without_query(&location), without_secrets(&problem.into()));
        ReadError { kind, location, problem, retry_after: None }
    }

    /// What a reader finds that was called off.
    pub fn stopped(location: String) -> ReadError {
        ReadError::new(ReadErrorKind::Stopped, location, "it was called off")
    }

    /// As an error of this crate, "failed to read LOCATION: ...".
    pub fn into_error(self) -> Error {
        let kind = match self.kind {
            ReadErrorKind::Missing => std::io::ErrorKind::NotFound,
            ReadErrorKind::Damaged => std::io::ErrorKind::InvalidData,
            ReadErrorKind::Denied => std::io::ErrorKind::PermissionDenied,
            ReadErrorKind::TimedOut => std::io::ErrorKind::TimedOut,
            _ => std::io::ErrorKind::Other,
        };
        let path = PathBuf::from(self.location.clone());
        Error::Io { action: "read", path, source: std::io::Error::new(kind, self) }
    }
}
