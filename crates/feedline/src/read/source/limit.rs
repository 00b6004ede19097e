//! Limits the number of concurrent requests. Owns the permits; waiting for one does not count towards the timeout.

use crate::read::source::{Object, RangeRequest, ReadError, Source, SourceCache};
use crate::stop::{PATIENCE, Stop};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Lets only a limited number of requests of all threads through at once.
#[derive(Debug)]
pub struct Limit {
    inner: Arc<dyn Source>,
    free: Mutex<usize>,
    freed: Condvar,
}

/// The right to send one request.
struct Permit<'a>(&'a Limit);

impl Limit {
    /// Wraps `inner`, with at most `requests` at once, and at least one.
    pub fn new(inner: Arc<dyn Source>, requests: usize) -> Limit {
        Limit { inner, free: Mutex::new(requests.max(1)), freed: Condvar::new() }
    }

    fn permit(&self, key: &str, stop: &Stop) -> Result<Permit<'_>, ReadError> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            if stop.is_stopped() {
                return Err(ReadError::stopped(self.location(key)));
            }
            free = self.freed.wait_timeout(free, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Ok(Permit(self))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[deny(clippy::missing_trait_methods)]
impl Source for Limit {
    fn location(&self, key: &str) -> String {
        self.inner.location(key)
    }

    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        let _permit = self.permit(want.key, want.stop)?;
        self.inner.get(want, into)
    }

    /// Together they count as one request: a source that makes several of them makes one after the other.
    fn get_many(&self, wants: &[RangeRequest<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        let Some(first) = wants.first() else { return Vec::new() };
        match self.permit(first.key, first.stop) {
            Ok(_permit) => self.inner.get_many(wants, into),
            Err(error) => vec![Err(error); wants.len()],
        }
    }

    fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError> {
        let _permit = self.permit(prefix, stop)?;
        self.inner.list(prefix, stop)
    }

    fn head(&self, key: &str, stop: &Stop) -> Result<Object, ReadError> {
        let _permit = self.permit(key, stop)?;
        self.inner.head(key, stop)
    }

    fn cache(&self) -> Option<&dyn SourceCache> {
        self.inner.cache()
    }
}
