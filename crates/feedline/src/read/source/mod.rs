//! `Source`: reads byte ranges from a folder or a bucket, optionally through a cache. One backend or wrapper per file
//! of this folder; [`conformance`] is the test suite that each of them passes.
//!
//! Calls block. To have many reads under way, make them from as many threads; that costs a stack each, and a wrapper
//! stays a plain function around another.

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
mod subfolder;
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
    /// Changes whenever the content does: an ETag, or a time of change. Empty where the source has neither.
    pub version: String,
    /// Time of the last change, in nanoseconds since 1970; 0 where the source does not tell.
    pub changed_ns: u64,
}

/// A byte range of an object to read, and the limits on the time that it may take.
#[derive(Debug, Clone)]
pub struct RangeRequest<'a> {
    /// The object.
    pub key: &'a str,
    /// The bytes to read.
    pub range: Range<u64>,
    /// The required version; empty accepts any.
    pub version: &'a str,
    /// Deadline; `None` is no limit.
    pub until: Option<Instant>,
    /// Cancels the read when stopped.
    pub stop: &'a Stop,
}

impl RangeRequest<'_> {
    /// Number of bytes asked for.
    pub fn len_bytes(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

/// Reads byte ranges of objects. Called from many threads at once.
pub trait Source: Debug + Send + Sync {
    /// The object as people write it: `s3://bucket/folder/key`. Never contains a credential. The location of the empty
    /// key is a prefix of all others.
    fn location(&self, key: &str) -> String;

    /// Reads the requested bytes into `into`; its old content is dropped, its allocation reused. On success it holds
    /// exactly the range of exactly the version; on an error its content is unspecified.
    ///
    /// # Errors
    /// As [`ReadErrorKind`] tells.
    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError>;

    /// Several reads, each as [`Source::get`] and into its own of `into`: what is needed soon, in that order. Gives as many
    /// results. [`Coalesce`] makes one `get` of neighbours, and a wrapper around it has to pass them on together
    /// ([`conformance::check_wrapper`]).
    fn get_many(&self, wants: &[RangeRequest<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        wants.iter().zip(into).map(|(want, into)| self.get(want, into)).collect()
    }

    /// The objects whose keys begin with `prefix`, in bytewise order of their keys. An empty list is no error.
    ///
    /// # Errors
    /// As [`ReadErrorKind`] tells.
    fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError>;

    /// What is known of one object, the same as in the listing. A place that can be asked for one object without listing
    /// others overrides this.
    ///
    /// # Errors
    /// As [`ReadErrorKind`] tells.
    fn head(&self, key: &str, stop: &Stop) -> Result<Object, ReadError> {
        // Among the keys that begin with this one it is the first.
        let first = self.list(key, stop)?.into_iter().next().filter(|object| object.key == key);
        first.ok_or_else(|| ReadError::new(ReadErrorKind::Missing, self.location(key), "there is no such object"))
    }

    /// The cache among the wrappers of this source, if there is one. A wrapper passes on that of its inner source.
    fn cache(&self) -> Option<&dyn SourceCache> {
        None
    }
}

impl PartialEq for dyn Source {
    /// Two sources are the same if they have the same location.
    fn eq(&self, other: &dyn Source) -> bool {
        self.location("") == other.location("")
    }
}

/// Tells when the samples of a data set are needed next, in epochs since the run began: 3.25 is a quarter into epoch 3.
pub trait NextUse: Send + Sync {
    /// The next use of the sample, after any use that has begun.
    fn next_use(&self, sample: u64) -> f64;
}

/// The results of a [`Source::get_many`] of `count` requests, with an error for each that `source` left without a result.
pub(in crate::read) fn answers(
    source: &dyn Source,
    mut results: Vec<Result<(), ReadError>>,
    count: usize,
) -> Vec<Result<(), ReadError>> {
    results
        .resize_with(count, || Err(ReadError::new(ReadErrorKind::Other, source.location(""), "there was no answer")));
    results
}

/// The interface to the cache among the wrappers of a source.
pub trait SourceCache: Send + Sync {
    /// Tells the cache which object ranges the samples of a data set are. The cache evicts by `next_use` from then on,
    /// until that is dropped.
    ///
    /// # Errors
    /// A cache that is too small for one sample.
    fn follow(
        &self,
        samples: &mut dyn Iterator<Item = (u64, (&Object, Range<u64>))>,
        next_use: Weak<dyn NextUse>,
    ) -> crate::error::Result<()>;

    /// A warning for the user, if there is one.
    fn remark(&self) -> Option<&str>;

    /// Counts since the cache was opened.
    fn counts(&self) -> CacheCounts;
}

/// Counters of a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Reads that the cache answered.
    pub hits: u64,
    /// Reads that went to the source.
    pub misses: u64,
    /// Entries that were written.
    pub written: u64,
    /// Entries that were evicted.
    pub evicted: u64,
    /// Entries that were damaged, and were removed.
    pub damaged: u64,
    /// Entries that could not be written, for example because the disk is full.
    pub failed: u64,
}

/// The kind of a failed read; decides whether another try makes sense.
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
    /// The server asks for fewer requests.
    Busy,
    /// A connection broke, a body was cut off, or the server failed.
    Broken,
    /// It took too long.
    TimedOut,
    /// It was cancelled.
    Stopped,
    /// Any other failure, which another try would meet again.
    Other,
}

impl ReadErrorKind {
    /// True if another try may succeed.
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
    /// The object, as [`Source::location`] gives it.
    pub location: String,
    /// The failure, and advice on how to fix it.
    pub problem: String,
    /// Time that the server asks to wait before the next try.
    pub retry_after: Option<Duration>,
}

impl ReadError {
    /// A failure of `location`.
    pub fn new(kind: ReadErrorKind, location: String, problem: impl Into<String>) -> ReadError {
        let (location, problem) = (without_query(&location), without_secrets(&problem.into()));
        ReadError { kind, location, problem, retry_after: None }
    }

    /// The error of a read that was cancelled.
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
