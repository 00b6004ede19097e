//! A deadline after which a request counts as lost. Owns its computation; the backend gives up at the deadline.

use crate::read::source::{Object, RangeRequest, ReadError, ReadErrorKind, Source, SourceCache, answers};
use crate::stop::Stop;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes per timeout: a larger object gets several.
const BYTES: u64 = 16 << 20;

/// Gives every request a deadline.
#[derive(Debug)]
pub struct Timeout {
    inner: Arc<dyn Source>,
    time: Duration,
}

impl Timeout {
    /// `inner`, with `time` for every 16 MiB that are asked for, begun ones included.
    pub fn new(inner: Arc<dyn Source>, time: Duration) -> Timeout {
        Timeout { inner, time }
    }

    /// The time for `len_bytes`.
    fn time_for(&self, len_bytes: u64) -> Duration {
        self.time.saturating_mul(u32::try_from(1 + len_bytes / BYTES).unwrap_or(u32::MAX))
    }
}

/// `want`, to be done within `time` from now, or earlier if it says so.
fn within<'a>(want: &RangeRequest<'a>, time: Duration) -> RangeRequest<'a> {
    let until = match (Instant::now().checked_add(time), want.until) {
        (Some(own), Some(given)) => Some(own.min(given)),
        (own, given) => own.or(given),
    };
    RangeRequest { until, ..want.clone() }
}

/// `error`, which says how long was waited if it was too long.
fn named(error: ReadError, time: Duration) -> ReadError {
    match error.kind {
        ReadErrorKind::TimedOut => ReadError {
            problem: format!("{} within {:.1} s (storage.timeout_s)", error.problem, time.as_secs_f64()),
            ..error
        },
        _ => error,
    }
}

#[deny(clippy::missing_trait_methods)]
impl Source for Timeout {
    fn location(&self, key: &str) -> String {
        self.inner.location(key)
    }

    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        let time = self.time_for(want.len_bytes());
        self.inner.get(&within(want, time), into).map_err(|error| named(error, time))
    }

    /// Each has the time of those before it besides its own, since they may be read one after the other.
    fn get_many(&self, wants: &[RangeRequest<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        let times = wants.iter().scan(Duration::ZERO, |sum, want| {
            *sum = sum.saturating_add(self.time_for(want.len_bytes()));
            Some(*sum)
        });
        let times: Vec<Duration> = times.collect();
        let timed: Vec<_> = wants.iter().zip(&times).map(|(want, time)| within(want, *time)).collect();
        let results = answers(self, self.inner.get_many(&timed, into), wants.len()).into_iter().zip(times);
        results.map(|(result, time)| result.map_err(|error| named(error, time))).collect()
    }

    fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError> {
        self.inner.list(prefix, stop)
    }

    fn head(&self, key: &str, stop: &Stop) -> Result<Object, ReadError> {
        self.inner.head(key, stop)
    }

    fn cache(&self) -> Option<&dyn SourceCache> {
        self.inner.cache()
    }
}
