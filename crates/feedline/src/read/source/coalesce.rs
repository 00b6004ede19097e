//! Merges adjacent ranges of an object into one request. Owns the definition of adjacent; a reader that knows its next
//! reads asks for them together ([`Source::get_many`]).

use crate::read::source::{Object, RangeRequest, ReadError, ReadErrorKind, Source, SourceCache};
use crate::stop::Stop;
use std::ops::Range;
use std::sync::Arc;

/// Maximum size of one request for several ranges.
pub(crate) const TOGETHER_BYTES_MAX: u64 = 4 << 20;

/// The gap between two merged ranges may have this many bytes in any case (headers in an archive, say) ...
const GAP_BYTES: u64 = 4 << 10;

/// ... or the combined length of the two divided by this.
const GAP_PART: u64 = 8;

/// Merges requests for adjacent ranges.
#[derive(Debug)]
pub struct Coalesce {
    inner: Arc<dyn Source>,
}

/// True if `next` begins in or behind `one`, so close that reading the gap costs less than another request. Equal
/// ranges count.
pub(crate) fn is_near(one: &Range<u64>, next: &Range<u64>) -> bool {
    let len_bytes = (one.end - one.start) + (next.end - next.start);
    next.start >= one.start && next.start.saturating_sub(one.end) <= (len_bytes / GAP_PART).max(GAP_BYTES)
}

impl Coalesce {
    /// Wraps `inner`; ranges that are asked for together and lie close together are read in one request.
    pub fn new(inner: Arc<dyn Source>) -> Coalesce {
        Coalesce { inner }
    }

    /// Reads `wants`, which are all in `range` of one object, in one request.
    fn together(&self, range: Range<u64>, wants: &[RangeRequest<'_>], into: &mut [Vec<u8>]) -> Result<(), ReadError> {
        let (start, mut bytes) = (range.start, Vec::new());
        self.inner.get(&RangeRequest { range, ..wants[0].clone() }, &mut bytes)?;
        for (want, into) in wants.iter().zip(into) {
            let start = (want.range.start - start) as usize;
            into.clear();
            into.extend_from_slice(&bytes[start..start + want.len_bytes() as usize]);
        }
        Ok(())
    }
}

/// The number of `wants`, from the first on, that one request covers, and its range.
fn joint(wants: &[RangeRequest<'_>]) -> (usize, Range<u64>) {
    let mut whole = wants[0].range.clone();
    let is_next = |[one, next]: &&[RangeRequest<'_>; 2]| {
        let end = whole.end.max(next.range.end);
        let is_joint = (one.key, one.version) == (next.key, next.version)
            && is_near(&(one.range.start..whole.end), &next.range)
            && (end == whole.end || end - whole.start <= TOGETHER_BYTES_MAX);
        if is_joint {
            whole.end = end;
        }
        is_joint
    };
    let count = 1 + wants.array_windows().take_while(is_next).count();
    (count, whole)
}

#[deny(clippy::missing_trait_methods)]
impl Source for Coalesce {
    fn location(&self, key: &str) -> String {
        self.inner.location(key)
    }

    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        self.inner.get(want, into)
    }

    fn get_many(&self, wants: &[RangeRequest<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        let mut results = Vec::with_capacity(wants.len());
        while results.len() < wants.len() {
            let begin = results.len();
            let (count, range) = joint(&wants[begin..]);
            let end = begin + count;
            let mut failed = None;
            if count > 1 {
                match self.together(range, &wants[begin..end], &mut into[begin..end]) {
                    Ok(()) => {
                        results.resize(end, Ok(()));
                        continue;
                    }
                    // One range may be at fault: they are read one by one, so that only that one fails.
                    Err(error)
                        if matches!(
                            error.kind,
                            ReadErrorKind::Changed | ReadErrorKind::Damaged | ReadErrorKind::Other
                        ) => {}
                    Err(error) => failed = Some(error),
                }
            }
            for at in begin..end {
                // After a failure that was retried long enough, or concerns the whole object, the rest is not tried.
                let result = match &failed {
                    Some(error) => Err(error.clone()),
                    None => self.inner.get(&wants[at], &mut into[at]),
                };
                if let Err(error) = &result
                    && !matches!(error.kind, ReadErrorKind::Changed | ReadErrorKind::Damaged | ReadErrorKind::Other)
                {
                    failed = Some(error.clone());
                }
                results.push(result);
            }
        }
        results
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::LocalFiles;
    use std::sync::Mutex;

    /// Records the requests it gets.
    #[derive(Debug)]
    struct Noting(LocalFiles, Mutex<Vec<(u64, u64)>>);

    impl Source for Noting {
        fn location(&self, key: &str) -> String {
            self.0.location(key)
        }
        fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
            self.1.lock().unwrap().push((want.range.start, want.range.end));
            self.0.get(want, into)
        }
        fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError> {
            self.0.list(prefix, stop)
        }
        fn head(&self, key: &str, stop: &Stop) -> Result<Object, ReadError> {
            self.0.head(key, stop)
        }
    }

    /// Fails with a temporary error, and counts how often.
    #[derive(Debug)]
    struct Broken(Mutex<usize>);

    impl Source for Broken {
        fn location(&self, key: &str) -> String {
            key.into()
        }
        fn get(&self, want: &RangeRequest<'_>, _: &mut Vec<u8>) -> Result<(), ReadError> {
            *self.0.lock().unwrap() += 1;
            Err(ReadError::new(ReadErrorKind::Broken, want.key.into(), "the connection failed"))
        }
        fn list(&self, _: &str, _: &Stop) -> Result<Vec<Object>, ReadError> {
            Ok(Vec::new())
        }
        fn head(&self, key: &str, _: &Stop) -> Result<Object, ReadError> {
            Err(ReadError::new(ReadErrorKind::Missing, key.into(), "there is none"))
        }
    }

    #[test]
    fn neighbours_are_one_request_and_each_gets_its_own_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..9_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for name in ["a", "b"] {
            std::fs::write(dir.path().join(name), &content).unwrap();
        }
        let noting = Arc::new(Noting(LocalFiles::new(dir.path()), Mutex::default()));
        let (source, stop) = (Coalesce::new(Arc::clone(&noting) as Arc<dyn Source>), Stop::default());
        let asked = |ranges: &[(&str, Range<u64>)], version: &str| {
            let wants: Vec<RangeRequest<'_>> = ranges
                .iter()
                .map(|(key, range)| RangeRequest { key, range: range.clone(), version, until: None, stop: &stop })
                .collect();
            let mut into = vec![vec![1; 3]; wants.len()];
            let results = source.get_many(&wants, &mut into);
            for ((result, bytes), (_, range)) in results.iter().zip(&into).zip(ranges) {
                if result.is_ok() {
                    assert!(*bytes == content[range.start as usize..range.end as usize], "{range:?}");
                }
            }
            (results, std::mem::take(&mut *noting.1.lock().unwrap()))
        };
        for (ranges, requests) in [
            // Next to each other, with a header between, empty ones among them.
            (vec![("a", 0..10), ("a", 10..10), ("a", 10..30), ("a", 1054..2000)], vec![(0, 2000)]),
            // Too far apart, and not so for larger ones.
            (vec![("a", 0..10), ("a", 5000..5010)], vec![(0, 10), (5000, 5010)]),
            (vec![("a", 0..30_000), ("a", 37_000..70_000)], vec![(0, 70_000)]),
            // Backwards, overlapping, in two objects.
            (vec![("a", 10..20), ("a", 0..10), ("a", 5..15), ("b", 15..20)], vec![(10, 20), (0, 15), (15, 20)]),
            // Repeated, contained in another, larger than the maximum of a merged request.
            (vec![("a", 7..9000); 64], vec![(7, 9000)]),
            (vec![("a", 7..9000), ("a", 100..200), ("a", 100..200), ("a", 9000..9001)], vec![(7, 9001)]),
            (
                vec![("a", 0..6 << 20), ("a", 0..6 << 20), ("a", 6 << 20..7 << 20)],
                vec![(0, 6 << 20), (6 << 20, 7 << 20)],
            ),
            // More than the maximum of one request.
            (
                vec![("a", 0..3 << 20), ("a", 3 << 20..4 << 20), ("a", 4 << 20..5 << 20)],
                vec![(0, 4 << 20), (4 << 20, 5 << 20)],
            ),
            (vec![], vec![]),
        ] {
            let (results, found) = asked(&ranges, "");
            assert!(results.len() == ranges.len() && results.iter().all(Result::is_ok), "{results:?}");
            assert_eq!(found, requests);
        }
        // A missing object is requested once; a range that cannot be read affects no other.
        let (results, found) = asked(&[("none", 0..10), ("none", 10..20)], "");
        assert!(
            results.iter().all(|result| result.as_ref().is_err_and(|e| e.kind == ReadErrorKind::Missing)),
            "{results:?}"
        );
        assert_eq!(found.len(), 1);
        let (results, found) = asked(&[("a", 8_999_000..9_000_000), ("a", 9_000_000..9_000_001)], "");
        assert!(results[0].is_ok() && results[1].is_err(), "{results:?}");
        assert_eq!(found.len(), 3);
        let (results, _) = asked(&[("a", 0..10), ("a", 10..20)], "another");
        assert!(
            results.iter().all(|result| result.as_ref().is_err_and(|e| e.kind == ReadErrorKind::Changed)),
            "{results:?}"
        );
        // A temporary failure is waited for once, whatever is asked for together.
        let broken = Arc::new(Broken(Mutex::default()));
        let source = Coalesce::new(Arc::clone(&broken) as Arc<dyn Source>);
        let want = RangeRequest { key: "a", range: 0..10, version: "", until: None, stop: &stop };
        let results = source.get_many(&vec![want; 64], &mut vec![Vec::new(); 64]);
        assert!(results.len() == 64 && results.iter().all(Result::is_err) && *broken.0.lock().unwrap() == 1);
        stop.stop();
        let (results, found) = asked(&[("a", 0..10), ("a", 10..20)], "");
        assert!(
            results.iter().all(|result| result.as_ref().is_err_and(|e| e.kind == ReadErrorKind::Stopped)),
            "{results:?}"
        );
        assert_eq!(found.len(), 1);
    }
}
