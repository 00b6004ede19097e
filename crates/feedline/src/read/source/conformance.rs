//! Tests that a [`Source`] keeps the contract; call `conformance::check(&source, &objects)` from a test. The backends
//! and wrappers of this crate pass it; one of your own should.

use crate::read::source::{RangeRequest, ReadErrorKind, Source};
use crate::stop::Stop;
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
