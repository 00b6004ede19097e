//! What every [`Source`] has to do, as a suite to call from a test: `conformance::check(&source, &objects)`, and
//! `conformance::check_wrapper` for a source around another. The backends and wrappers of this crate pass it; one of your
//! own should.

use crate::error::Result as OrError;
use crate::hash::hash_words;
use crate::read::source::{CacheCounts, NextUse, Object, RangeRequest, ReadError, ReadErrorKind, Source, SourceCache};
use crate::stop::Stop;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Checks `source`, which must hold exactly `objects`: keys and contents. These should be some twenty, in folders, with
/// one that is empty, one of a byte, one of some megabytes, and keys with spaces and letters beyond ASCII.
///
/// # Errors
/// The first violation of the contract of [`Source`], in words.
pub fn check(source: &dyn Source, objects: &[(String, Vec<u8>)]) -> Result<(), String> {
    let stop = Stop::default();
    let mut expect: Vec<&(String, Vec<u8>)> = objects.iter().collect();
    expect.sort();
    let listed = source.list("", &stop).map_err(|e| format!("list: {} {e}", e.location))?;
    let keys = |prefix: &str| -> Vec<&str> {
        expect.iter().map(|(key, _)| key.as_str()).filter(|key| key.starts_with(prefix)).collect()
    };
    same("the keys listed", &listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), &keys(""))?;
    for (object, (key, content)) in listed.iter().zip(&expect) {
        same(&format!("the size of {key}"), &object.size_bytes, &(content.len() as u64))?;
        same(&format!("head of {key}"), &source.head(key, &stop).map_err(|e| format!("head {key}: {e}"))?, object)?;
        if !source.location(key).starts_with(&source.location("")) || !source.location(key).ends_with(key.as_str()) {
            return Err(format!("the location of {key} is {}", source.location(key)));
        }
    }
    let mut prefixes: Vec<String> = expect.iter().map(|(key, _)| key.chars().take(3).collect()).collect();
    prefixes.extend(expect.iter().filter_map(|(key, _)| Some(format!("{}/", key.rsplit_once('/')?.0))));
    prefixes.push("there is none".into());
    for prefix in prefixes {
        let found = source.list(&prefix, &stop).map_err(|e| format!("list {prefix}: {e}"))?;
        same(
            &format!("the keys under {prefix:?}"),
            &found.iter().map(|o| o.key.as_str()).collect::<Vec<_>>(),
            &keys(&prefix),
        )?;
    }

    // Twice, to check what a cache returns, too; and with one buffer for all, longer or shorter than needed.
    let mut bytes = vec![7; 1000];
    for _ in 0..2 {
        for (object, (key, content)) in listed.iter().zip(&expect) {
            let len = content.len() as u64;
            for range in [0..len, 0..len.min(1), len / 3..len, len / 2..len / 2, len.saturating_sub(1)..len] {
                let want =
                    RangeRequest { key, range: range.clone(), version: &object.version, until: None, stop: &stop };
                source.get(&want, &mut bytes).map_err(|e| format!("get {range:?} of {key}: {e}"))?;
                if bytes != content[range.start as usize..range.end as usize] {
                    return Err(format!("get {range:?} of {key} gave {} other bytes", bytes.len()));
                }
            }
        }
    }

    // Several at once: adjacent ones, the same twice; one missing object must not affect the others.
    let mut wants = Vec::new();
    for (object, (_, content)) in listed.iter().zip(&expect) {
        let len = content.len() as u64;
        for range in [0..len / 2, len / 2..len, len / 3..len, 0..len / 2] {
            wants.push((
                RangeRequest { key: &object.key, range, version: &object.version, until: None, stop: &stop },
                content,
            ));
        }
    }
    for missing in [None, Some("there/is none")] {
        let mut gets: Vec<RangeRequest<'_>> = wants.iter().map(|(get, _)| get.clone()).collect();
        if let Some(key) = missing {
            gets[1] = RangeRequest { key, version: "", range: 0..1, ..gets[1].clone() };
        }
        let mut many = vec![vec![7; 10]; gets.len()];
        let results = source.get_many(&gets, &mut many);
        same("results of get_many", &results.len(), &gets.len())?;
        for (at, (result, bytes)) in results.iter().zip(&many).enumerate() {
            let (get, content) = &wants[at];
            let is_right = match (missing, at, result) {
                (Some(_), 1, Err(error)) => error.kind == ReadErrorKind::Missing,
                (Some(_), 1, Ok(())) => false,
                (_, _, Ok(())) => *bytes == content[get.range.start as usize..get.range.end as usize],
                (_, _, Err(_)) => false,
            };
            if !is_right {
                return Err(format!("get_many: {:?} of {} is not what it should be: {result:?}", get.range, get.key));
            }
        }
    }

    // A failed read has the right kind of error, which names the object.
    let (object, (key, content)) = (&listed[0], expect[0]);
    let len = content.len() as u64;
    let want = |key, range, version| RangeRequest { key, range, version, until: None, stop: &stop };
    fails(source, &want("there/is none", 0..1, ""), &[ReadErrorKind::Missing])?;
    fails(source, &want(key, 0..len, "another version"), &[ReadErrorKind::Changed])?;
    let beyond = [ReadErrorKind::Changed, ReadErrorKind::Broken, ReadErrorKind::Other];
    fails(source, &want(key, 0..len + 10, &object.version), &beyond)?;
    fails(source, &want(key, len + 5..len + 10, &object.version), &beyond)?;
    match source.head("there/is none", &stop) {
        Err(error) if error.kind == ReadErrorKind::Missing => {}
        other => return Err(format!("head of a missing object gave {other:?}")),
    }

    // A cancelled read returns without waiting, and does not affect the next.
    let off = Stop::default();
    off.stop();
    let begun = Instant::now();
    let outcome =
        source.get(&RangeRequest { key, range: 0..len, version: &object.version, until: None, stop: &off }, &mut bytes);
    if begun.elapsed() > Duration::from_secs(1) {
        return Err(format!("a read that was called off took {:?}", begun.elapsed()));
    }
    if let Err(error) = outcome
        && error.kind != ReadErrorKind::Stopped
    {
        return Err(format!("a read that was called off gave {error:?}"));
    }

    // Concurrent reads each get their own bytes.
    let wrong = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8usize)
            .map(|thread| {
                let (listed, expect, stop) = (&listed, &expect, &stop);
                scope.spawn(move || {
                    let mut bytes = Vec::new();
                    let at = |i: usize| (i * 5 + thread) % listed.len();
                    (0..listed.len()).map(at).find(|&at| {
                        let (key, content) = expect[at];
                        let range = 0..content.len() as u64;
                        let want = RangeRequest { key, range, version: &listed[at].version, until: None, stop };
                        source.get(&want, &mut bytes).is_err() || bytes != *content
                    })
                })
            })
            .collect();
        threads.into_iter().find_map(|thread| thread.join().unwrap_or(Some(usize::MAX)))
    });
    match wrong {
        None => Ok(()),
        Some(at) => Err(format!("eight threads at once: sample {at} was not read as it is")),
    }
}

/// Checks the wrapper that `wrap` makes around a source: all that [`check`] does, with `objects` as there; and that it
/// passes on what has a default in [`Source`]: neighbouring ranges that are asked for together, and the cache.
///
/// # Errors
/// The first thing that is not as [`Source`] says, in words.
pub fn check_wrapper(
    wrap: impl FnOnce(Arc<dyn Source>) -> Arc<dyn Source>,
    objects: &[(String, Vec<u8>)],
) -> Result<(), String> {
    let inner = Arc::new(Inner::new(objects));
    let wrapper = wrap(Arc::clone(&inner) as Arc<dyn Source>);
    check(&*wrapper, objects)?;

    // Ranges that `check` did not read, so that they are in no cache.
    let largest = inner.objects.iter().max_by_key(|(object, _)| object.size_bytes);
    let Some((object, content)) = largest.filter(|(object, _)| object.size_bytes > 2 * NEIGHBOURS) else {
        return Err("no object has more than a few bytes".into());
    };
    let stop = Stop::default();
    let step = ((object.size_bytes - 1) / NEIGHBOURS).min(1000);
    let want = |at: u64| {
        let (range, version) = (1 + at * step..1 + (at + 1) * step, &*object.version);
        RangeRequest { key: &object.key, range, version, until: None, stop: &stop }
    };
    let wants: Vec<RangeRequest<'_>> = (0..NEIGHBOURS).map(want).collect();
    let (mut read, before) = (vec![Vec::new(); wants.len()], inner.calls.load(Relaxed));
    let results = wrapper.get_many(&wants, &mut read);
    same("results of get_many", &results.len(), &wants.len())?;
    for ((want, result), bytes) in wants.iter().zip(results).zip(&read) {
        result.map_err(|error| format!("get_many: {:?} of {}: {error}", want.range, want.key))?;
        if *bytes != content[want.range.start as usize..want.range.end as usize] {
            return Err(format!("get_many: {:?} of {} gave {} other bytes", want.range, want.key, bytes.len()));
        }
    }
    match inner.calls.load(Relaxed) - before {
        0 | 1 => {}
        calls => {
            return Err(format!(
                "{NEIGHBOURS} neighbouring ranges asked for by one get_many reach the source inside by {calls} calls: \
                 the wrapper has to pass get_many on"
            ));
        }
    }
    match wrapper.cache() {
        Some(_) => Ok(()),
        None => Err("the source inside has a cache, the wrapper has none: it has to pass cache on".into()),
    }
}

/// So many ranges are asked for together.
const NEIGHBOURS: u64 = 8;

/// Objects in memory that count how often they are asked for, and pass for a source with a cache.
#[derive(Debug)]
struct Inner {
    /// Sorted by key.
    objects: Vec<(Object, Vec<u8>)>,
    calls: AtomicUsize,
}

impl Inner {
    fn new(objects: &[(String, Vec<u8>)]) -> Inner {
        let mut objects: Vec<(Object, Vec<u8>)> = objects.iter().cloned().map(listed).collect();
        objects.sort_by(|(one, _), (other, _)| one.key.cmp(&other.key));
        Inner { objects, calls: AtomicUsize::new(0) }
    }

    fn read(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        let failed = |kind, problem: &str| Err(ReadError::new(kind, self.location(want.key), problem));
        if want.stop.is_stopped() {
            return Err(ReadError::stopped(self.location(want.key)));
        }
        let Some((object, content)) = self.objects.iter().find(|(object, _)| object.key == want.key) else {
            return failed(ReadErrorKind::Missing, "there is no such object");
        };
        if !want.version.is_empty() && want.version != object.version {
            return failed(ReadErrorKind::Changed, "it has another version");
        }
        let Some(bytes) = content.get(want.range.start as usize..want.range.end as usize) else {
            return failed(ReadErrorKind::Changed, "it is shorter");
        };
        into.clear();
        into.extend_from_slice(bytes);
        Ok(())
    }
}

/// An object with this key and content, as a listing has it.
fn listed((key, content): (String, Vec<u8>)) -> (Object, Vec<u8>) {
    let words: Vec<u64> = content.iter().map(|byte| u64::from(*byte)).collect();
    let version = format!("{:016x}", hash_words(&words));
    (Object { key, size_bytes: content.len() as u64, version, changed_ns: 0 }, content)
}

impl Source for Inner {
    fn location(&self, key: &str) -> String {
        format!("memory://conformance/{key}")
    }

    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        self.calls.fetch_add(1, Relaxed);
        self.read(want, into)
    }

    fn get_many(&self, wants: &[RangeRequest<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        self.calls.fetch_add(1, Relaxed);
        wants.iter().zip(into).map(|(want, into)| self.read(want, into)).collect()
    }

    fn list(&self, prefix: &str, _: &Stop) -> Result<Vec<Object>, ReadError> {
        let objects = self.objects.iter().map(|(object, _)| object);
        Ok(objects.filter(|object| object.key.starts_with(prefix)).cloned().collect())
    }

    fn cache(&self) -> Option<&dyn SourceCache> {
        Some(self)
    }
}

impl SourceCache for Inner {
    fn follow(&self, _: &mut dyn Iterator<Item = (u64, (&Object, Range<u64>))>, _: Weak<dyn NextUse>) -> OrError<()> {
        Ok(())
    }

    fn remark(&self) -> Option<&str> {
        None
    }

    fn counts(&self) -> CacheCounts {
        CacheCounts::default()
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expect: &T) -> Result<(), String> {
    if found == expect { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expect:?}")) }
}

fn fails(source: &dyn Source, want: &RangeRequest<'_>, faults: &[ReadErrorKind]) -> Result<(), String> {
    match source.get(want, &mut Vec::new()) {
        Ok(()) => Err(format!("get {:?} of {}, version {:?}, is no error", want.range, want.key, want.version)),
        Err(error) if !faults.contains(&error.kind) => {
            Err(format!("get {:?} of {}, version {:?}, is {error:?}", want.range, want.key, want.version))
        }
        Err(error) if error.location != source.location(want.key) => Err(format!("{error:?} does not name the object")),
        Err(_) => Ok(()),
    }
}
