//! Ranges of an object that lie close together, read in one request. Owns what is close; a reader that knows what it needs
//! next asks for it together ([`Source::get_many`]).

use super::source::{Fault, Get, Object, ReadError, Source, Stop};
use std::ops::Range;
use std::sync::Arc;

/// One request reads so much at most, if it is for several ranges.
pub(crate) const TOGETHER_BYTES_MAX: u64 = 4 << 20;

/// What lies between two ranges may be this much in any case (headers in an archive, say) ...
const GAP_BYTES: u64 = 4 << 10;

/// ... or this part of the two.
const GAP_PART: u64 = 8;

/// Reads neighbours together.
#[derive(Debug)]
pub struct Coalesce {
    inner: Arc<dyn Source>,
}

/// Whether `next` follows so closely that reading what lies between costs less than another request.
pub(crate) fn is_near(one: &Range<u64>, next: &Range<u64>) -> bool {
    let len_bytes = (one.end - one.start) + (next.end - next.start);
    next.start.checked_sub(one.end).is_some_and(|gap| gap <= (len_bytes / GAP_PART).max(GAP_BYTES))
}

impl Coalesce {
    /// `inner`, whose ranges are read together where they are asked for together.
    pub fn new(inner: Arc<dyn Source>) -> Coalesce {
        Coalesce { inner }
    }

    /// Reads `wants`, which are of one object and one behind the other, in one request.
    fn together(&self, wants: &[Get<'_>], into: &mut [Vec<u8>]) -> Result<(), ReadError> {
        let (first, last) = (&wants[0], &wants[wants.len() - 1]);
        let mut bytes = Vec::new();
        self.inner.get(&Get { range: first.range.start..last.range.end, ..first.clone() }, &mut bytes)?;
        for (want, into) in wants.iter().zip(into) {
            let start = (want.range.start - first.range.start) as usize;
            into.clear();
            into.extend_from_slice(&bytes[start..start + want.len_bytes() as usize]);
        }
        Ok(())
    }
}

impl Source for Coalesce {
    fn location(&self, key: &str) -> String {
        self.inner.location(key)
    }

    fn get(&self, want: &Get<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        self.inner.get(want, into)
    }

    fn get_many(&self, wants: &[Get<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        let mut results = Vec::with_capacity(wants.len());
        while let Some(first) = wants.get(results.len()) {
            let begin = results.len();
            let is_next = |[one, next]: &&[Get<'_>; 2]| {
                (one.key, one.version) == (next.key, next.version)
                    && is_near(&one.range, &next.range)
                    && next.range.end - first.range.start <= TOGETHER_BYTES_MAX
            };
            let end = begin + 1 + wants[begin..].array_windows().take_while(is_next).count();
            let is_read = match end - begin {
                1 => false,
                _ => match self.together(&wants[begin..end], &mut into[begin..end]) {
                    Ok(()) => true,
                    // One range may be wrong: each for itself, so that it is the only one.
                    Err(error) if matches!(error.fault, Fault::Changed | Fault::Other) => false,
                    // What was tried for long enough, or is the same for all of the object.
                    Err(error) => {
                        results.resize(end, Err(error));
                        continue;
                    }
                },
            };
            for at in begin..end {
                results.push(if is_read { Ok(()) } else { self.inner.get(&wants[at], &mut into[at]) });
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::LocalFiles;
    use std::sync::Mutex;

    /// Notes what is asked of it.
    #[derive(Debug)]
    struct Noting(LocalFiles, Mutex<Vec<(u64, u64)>>);

    impl Source for Noting {
        fn location(&self, key: &str) -> String {
            self.0.location(key)
        }
        fn get(&self, want: &Get<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
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
            let wants: Vec<Get<'_>> = ranges
                .iter()
                .map(|(key, range)| Get { key, range: range.clone(), version, until: None, stop: &stop })
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
            (
                vec![("a", 10..20), ("a", 0..10), ("a", 5..15), ("b", 15..20)],
                vec![(10, 20), (0, 10), (5, 15), (15, 20)],
            ),
            // More than one request should read.
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
        // A missing object is asked for once; a range that cannot be read spoils no other.
        let (results, found) = asked(&[("none", 0..10), ("none", 10..20)], "");
        assert!(results.iter().all(|result| result.as_ref().is_err_and(|e| e.fault == Fault::Missing)), "{results:?}");
        assert_eq!(found.len(), 1);
        let (results, found) = asked(&[("a", 8_999_000..9_000_000), ("a", 9_000_000..9_000_001)], "");
        assert!(results[0].is_ok() && results[1].is_err(), "{results:?}");
        assert_eq!(found.len(), 3);
        let (results, _) = asked(&[("a", 0..10), ("a", 10..20)], "another");
        assert!(results.iter().all(|result| result.as_ref().is_err_and(|e| e.fault == Fault::Changed)), "{results:?}");
        stop.stop();
        let (results, found) = asked(&[("a", 0..10), ("a", 10..20)], "");
        assert!(results.iter().all(|result| result.as_ref().is_err_and(|e| e.fault == Fault::Stopped)), "{results:?}");
        assert_eq!(found.len(), 1);
    }
}
