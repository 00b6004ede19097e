//! A deadline after which a request counts as lost. Owns its computation; the backend gives up at the deadline.

use crate::read::source::{Object, RangeRequest, ReadError, ReadErrorKind, Source};
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
}

impl Source for Timeout {
    fn location(&self, key: &str) -> String {
        self.inner.location(key)
    }

    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        let time = self.time.saturating_mul(u32::try_from(1 + want.len_bytes() / BYTES).unwrap_or(u32::MAX));
        let until = Instant::now().checked_add(time);
        let until = match (until, want.until) {
            (Some(own), Some(given)) => Some(own.min(given)),
            (own, given) => own.or(given),
        };
        self.inner.get(&RangeRequest { until, ..want.clone() }, into).map_err(|error| match error.kind {
            ReadErrorKind::TimedOut => ReadError {
                problem: format!("{} within {:.1} s (storage.timeout_s)", error.problem, time.as_secs_f64()),
                ..error
            },
            _ => error,
        })
    }

    fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError> {
        self.inner.list(prefix, stop)
    }

    fn head(&self, key: &str, stop: &Stop) -> Result<Object, ReadError> {
        self.inner.head(key, stop)
    }
}
