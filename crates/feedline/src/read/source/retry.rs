//! Retries reads after temporary failures. Owns the waiting: exponential with jitter, never shorter than the server
//! asks for, and bounded in total.

use crate::read::source::{Object, RangeRequest, ReadError, ReadErrorKind, Source, SourceCache, answers};
use crate::stop::Stop;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The wait after the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(100);

/// The longest wait that no server asked for.
const MOST: Duration = Duration::from_secs(20);

/// Retries reads of a source after temporary failures.
#[derive(Debug)]
pub struct Retry {
    inner: Arc<dyn Source>,
    budget: Duration,
}

impl Retry {
    /// Wraps `inner`, with `budget` of time for one read and all its tries.
    pub fn new(inner: Arc<dyn Source>, budget: Duration) -> Retry {
        Retry { inner, budget }
    }

    /// Makes attempts within the budget of a read that has `begun`.
    fn tried<T>(
        &self,
        begun: Instant,
        stop: &Stop,
        mut attempt: impl FnMut() -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        for tries in 1u32.. {
            let mut error = match attempt() {
                Err(error) if error.kind.is_passing() => error,
                other => return other,
            };
            // Not trusted: a server may ask for a year, or for `u64::MAX` seconds.
            let asked = error.retry_after.unwrap_or_default();
            let wait = backoff(tries).max(asked);
            if wait > self.budget.saturating_sub(begun.elapsed()) {
                let asks = match asked.as_secs() {
                    0 => String::new(),
                    seconds => format!(", and asks to be left alone for {seconds} s"),
                };
                error.problem = format!(
                    "{}{asks} ({tries} {} in {:.1} s; storage.retry_s is {})",
                    error.problem,
                    if tries == 1 { "try" } else { "tries" },
                    begun.elapsed().as_secs_f64(),
                    self.budget.as_secs_f64(),
                );
                return Err(error);
            }
            if !stop.sleep(wait) {
                return Err(ReadError { kind: ReadErrorKind::Stopped, ..error });
            }
        }
        unreachable!("the loop ends by returning")
    }
}

/// Half of the exponential wait and a random share of the other half, so that readers that failed together do not
/// return together. The only random number here that does not depend on the seed; it affects timing, not data.
fn backoff(tries: u32) -> Duration {
    let wait = FIRST.saturating_mul(1 << (tries - 1).min(16)).min(MOST);
    let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    wait.mul_f64(0.5 + random / 2.0)
}

#[deny(clippy::missing_trait_methods)]
impl Source for Retry {
    fn location(&self, key: &str) -> String {
        self.inner.location(key)
    }

    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        self.tried(Instant::now(), want.stop, || self.inner.get(want, into))
    }

    /// Those that failed are tried again one after the other, within one budget.
    fn get_many(&self, wants: &[RangeRequest<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        let begun = Instant::now();
        let results = answers(self, self.inner.get_many(wants, into), wants.len()).into_iter().zip(wants).zip(into);
        let again = |((result, want), into): ((Result<(), ReadError>, &RangeRequest<'_>), &mut Vec<u8>)| {
            let mut first = Some(result);
            self.tried(begun, want.stop, || first.take().unwrap_or_else(|| self.inner.get(want, into)))
        };
        results.map(again).collect()
    }

    fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError> {
        self.tried(Instant::now(), stop, || self.inner.list(prefix, stop))
    }

    fn head(&self, key: &str, stop: &Stop) -> Result<Object, ReadError> {
        self.tried(Instant::now(), stop, || self.inner.head(key, stop))
    }

    fn cache(&self) -> Option<&dyn SourceCache> {
        self.inner.cache()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_differ() {
        for tries in 1..40 {
            let most = FIRST.saturating_mul(1 << (tries - 1).min(16)).min(MOST);
            let waits: Vec<Duration> = (0..50).map(|_| backoff(tries)).collect();
            assert!(waits.iter().all(|wait| (most / 2..=most).contains(wait)), "{tries}: {waits:?}");
            assert!(waits.iter().max().unwrap().as_secs_f64() > 1.2 * waits.iter().min().unwrap().as_secs_f64());
        }
    }
}
