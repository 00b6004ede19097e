//! Sources and their wrappers: conformance, a cache under kills and full disks, and a real S3 server behind a proxy
//! with faults.

mod archives;
mod cache;
#[cfg(feature = "cloud")]
mod cloud;
#[cfg(feature = "cloud")]
mod keys;
#[cfg(feature = "cloud")]
mod odd;
mod own;
#[cfg(feature = "parquet")]
mod parquet;
#[cfg(feature = "cloud")]
mod proxy;
#[cfg(feature = "cloud")]
mod server;

use feedline::read::conformance::{check, check_wrapper};
use feedline::read::{
    Cache, CacheMode, Coalesce, Limit, LocalFiles, Object, RangeRequest, ReadError, Retry, Source, Stop, Timeout,
};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

/// Some twenty objects for [`check`].
fn objects() -> Vec<(String, Vec<u8>)> {
    let bytes = |len: usize, seed: u32| -> Vec<u8> {
        (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 11) as u8).collect()
    };
    let mut objects = vec![
        ("a".to_owned(), bytes(1, 1)),
        ("empty".to_owned(), Vec::new()),
        ("large.bin".to_owned(), bytes(3_000_000, 2)),
        ("with space/and ümlaut 猫.txt".to_owned(), bytes(777, 3)),
        ("sorted/a-b".to_owned(), bytes(10, 4)),
        ("sorted/a/b".to_owned(), bytes(11, 5)),
        ("sorted/a.b".to_owned(), bytes(12, 6)),
    ];
    objects.extend((0..13).map(|i| (format!("deep/er/{i:02}.jpg"), bytes(5000 + 997 * i, i as u32))));
    objects
}

fn write_objects(folder: &Path) {
    for (key, content) in objects() {
        let path = folder.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// Runs the test `name` of this binary in a process of its own.
fn child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]);
    command
}

fn succeeded(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

/// All bytes of each object through `source`, read by several threads.
fn read_all(source: &dyn Source, threads: usize) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
    let stop = Stop::default();
    let listed = source.list("", &stop)?;
    let next = std::sync::atomic::AtomicUsize::new(0);
    let read = || {
        let mut read = Vec::new();
        while let Some(object) = listed.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            let mut bytes = Vec::new();
            let (key, version, range) = (&*object.key, &*object.version, 0..object.size_bytes);
            source.get(&RangeRequest { key, range, version, until: None, stop: &stop }, &mut bytes)?;
            read.push((key.to_owned(), bytes));
        }
        Ok(read)
    };
    let parts: Vec<Result<_, ReadError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = parts.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    all.sort();
    Ok(all)
}

#[test]
fn local_files_and_every_wrapper_conform() {
    let dir = tempfile::tempdir().unwrap();
    write_objects(dir.path());
    let files = || -> Arc<dyn Source> { Arc::new(LocalFiles::new(dir.path())) };
    let cached = tempfile::tempdir().unwrap();
    let cache = |budget| Cache::open(files(), cached.path(), budget, CacheMode::Private).unwrap();
    check(&*files(), &objects()).unwrap();
    check(&Retry::new(files(), Duration::from_secs(1)), &objects()).unwrap();
    check(&Limit::new(files(), 1), &objects()).unwrap();
    check(&Coalesce::new(files()), &objects()).unwrap();
    let (coalesced, apart) = (Arc::new(Coalesce::new(files())), tempfile::tempdir().unwrap());
    check(&Cache::open(coalesced, apart.path(), 1 << 30, CacheMode::Private).unwrap(), &objects()).unwrap();
    check(&Timeout::new(files(), Duration::from_secs(5)), &objects()).unwrap();
    check(&cache(1 << 30), &objects()).unwrap();
    check(&cache(1 << 30), &objects()).unwrap(); // warm
    check(&cache(100_000), &objects()).unwrap(); // nearly nothing fits
}

#[test]
fn every_wrapper_passes_on_what_has_a_default() {
    let dir = tempfile::tempdir().unwrap();
    let a_minute = Duration::from_secs(60);
    check_wrapper(|inner| Arc::new(Retry::new(inner, a_minute)), &objects()).unwrap();
    check_wrapper(|inner| Arc::new(Limit::new(inner, 1)), &objects()).unwrap();
    check_wrapper(|inner| Arc::new(Timeout::new(inner, a_minute)), &objects()).unwrap();
    check_wrapper(|inner| Arc::new(Coalesce::new(inner)), &objects()).unwrap();
    let cache = |inner| Cache::open(inner, dir.path(), 1 << 30, CacheMode::Private).unwrap();
    check_wrapper(|inner| Arc::new(cache(inner)), &objects()).unwrap();
}

/// A wrapper that leaves out what has a default, or one part of it.
#[derive(Debug)]
struct Losing {
    inner: Arc<dyn Source>,
    keeps_get_many: bool,
}

impl Source for Losing {
    fn location(&self, key: &str) -> String {
        self.inner.location(key)
    }
    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        self.inner.get(want, into)
    }
    fn get_many(&self, wants: &[RangeRequest<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        match self.keeps_get_many {
            true => self.inner.get_many(wants, into),
            false => wants.iter().zip(into).map(|(want, into)| self.get(want, into)).collect(),
        }
    }
    fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError> {
        self.inner.list(prefix, stop)
    }
}

#[test]
fn a_wrapper_that_loses_get_many_or_the_cache_does_not_conform() {
    let check =
        |keeps_get_many| check_wrapper(|inner| Arc::new(Losing { inner, keeps_get_many }), &objects()).unwrap_err();
    let error = check(false);
    assert!(error.contains("by 8 calls") && error.contains("pass get_many on"), "{error}");
    let error = check(true);
    assert!(error.contains("pass cache on"), "{error}");
}
