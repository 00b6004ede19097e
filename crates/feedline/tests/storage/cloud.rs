//! A real S3 server, and faults on the way to it.

use super::proxy::{Fate, Line, Proxy};
use super::server::{ADDRESS, KEY_ID, SECRET, Server, server};
use super::{child, objects, read_all, succeeded};
use feedline::deliver::{Loader, LoaderOptions, OnBadSample, SampleContext};
use feedline::pipeline::{Pipeline, Raw};
use feedline::plan::{Plan, Request};
use feedline::read::conformance::check;
use feedline::read::pack::PackOptions;
use feedline::read::{Folder, ImageList, RangeRequest, ReadErrorKind, SampleReader, Stop, Storage, read_sample};
use feedline::{DType, Error, FieldSpec, Result, Slot, Stage};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether the body of the test `name` runs here: in a process with credentials in its environment. Where there is a server
/// and this is no such process, starts one, and fails unless it succeeds and prints no credential.
fn has_credentials(name: &str) -> bool {
    if std::env::var_os(ADDRESS).is_some() {
        return true;
    }
    let Some(server) = server() else { return false };
    let mut command = child(&format!("cloud::{name}"));
    command
        .env(ADDRESS, &server.address)
        .env("AWS_ACCESS_KEY_ID", KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_REGION", "us-east-1");
    let output = command.env("AWS_CONFIG_FILE", "/none").output().unwrap();
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(!text.contains(SECRET) && !text.contains(KEY_ID), "a credential was printed:\n{text}");
    succeeded(&output);
    false
}

/// Selects the requests that meet a fault: always the same ones, or those that `tests/campaign` asks for.
fn fault_seed() -> u64 {
    std::env::var("FEEDLINE_FAULT_SEED").map_or(1, |seed| seed.parse().unwrap())
}

/// Tells `tests/campaign` how many requests there were and how many of them met a fault.
fn report_faults(proxy: &Proxy) {
    if let Some(path) = std::env::var_os("FEEDLINE_FAULT_REPORT") {
        let (requests, faults) = proxy.counts();
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{requests} {faults}")).unwrap();
    }
}

pub(super) fn storage(address: &str) -> Storage {
    Storage { endpoint: format!("http://{address}"), timeout_s: 2.0, retry_s: 30.0, ..Storage::default() }
}

fn filled(prefix: &str) -> &'static Server {
    let server = server().unwrap();
    objects().into_iter().for_each(|(key, content)| server.put(&format!("{prefix}/{key}"), content));
    server
}

#[test]
fn buckets_conform() {
    if !has_credentials("buckets_conform") {
        return;
    }
    let server = filled("some folder");
    let mut storage = storage(&server.address);
    check(&*storage.open("s3://bench/some folder").unwrap(), &objects()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    (storage.cache_dir, storage.cache_bytes) = (dir.path().into(), 1 << 30);
    check(&*storage.open("s3://bench/some folder/").unwrap(), &objects()).unwrap();
    check(&*storage.open("s3://bench/some folder/").unwrap(), &objects()).unwrap(); // warm
    storage.cache_bytes = 20_000;
    check(&*storage.open("s3://bench/some folder/").unwrap(), &objects()).unwrap();
    // An empty folder is no error of the source; for data it is one.
    assert!(storage.open("s3://bench/none").unwrap().list("", &Stop::default()).unwrap().is_empty());
    storage.listings_dir = dir.path().join("listings");
    let error = Folder::open(Path::new("s3://bench/none"), &storage).unwrap_err().to_string();
    assert!(error.contains("s3://bench/none: there is no object"), "{error}");
}

#[test]
fn faults_that_pass_lose_nothing() {
    if !has_credentials("faults_that_pass_lose_nothing") {
        return;
    }
    let server = filled("data");
    let proxy = Proxy::start(&server.address);
    let dir = tempfile::tempdir().unwrap();
    let storage = storage(&proxy.address);
    let mut expect = objects();
    expect.sort();
    let fates = [Fate::SlowDown(0), Fate::Cut, Fate::Short, Fate::Long, Fate::Stall, Fate::Reset, Fate::Broken];
    for (round, fate) in fates.into_iter().enumerate() {
        // A cache of its own for each, and then once more from it: nothing wrong was kept.
        // A stalled answer is waited for; all else gets enough time even while a compiler takes the processor.
        let timeout_s = if matches!(fate, Fate::Stall) { 0.5 } else { 10.0 };
        let cache_dir = dir.path().join(round.to_string());
        let storage = Storage { cache_dir, cache_bytes: 1 << 30, timeout_s, ..storage.clone() };
        let source = storage.open("s3://bench/data").unwrap();
        proxy.set_faults(3, vec![fate], (fault_seed() - 1) * 7 + round as u64);
        let before = proxy.counts().1;
        assert!(read_all(&*source, 6).unwrap() == expect, "{fate:?}");
        assert!(proxy.counts().1 > before, "{fate:?}");
        assert!(read_all(&*source, 6).unwrap() == expect, "{fate:?}, from the cache");
        assert_eq!(source.cache().unwrap().counts().damaged, 0);
    }
    report_faults(&proxy);
    // The wait that the server asks for is observed.
    let mut first = true;
    proxy.set(move |_| if std::mem::take(&mut first) { Fate::SlowDown(1) } else { Fate::Fine });
    let begun = Instant::now();
    storage.open("s3://bench/data").unwrap().head("a", &Stop::default()).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn faults_that_stay_are_named() {
    if !has_credentials("faults_that_stay_are_named") {
        return;
    }
    let server = filled("stay");
    let proxy = Proxy::start(&server.address);
    let storage = Storage { retry_s: 1.0, timeout_s: 0.3, ..storage(&proxy.address) };
    let source = storage.open("s3://bench/stay").unwrap();
    let stop = Stop::default();
    let object = source.head("deep/er/03.jpg", &stop).unwrap();
    let get = || {
        let range = 0..object.size_bytes;
        let want = RangeRequest { key: &object.key, range, version: &object.version, until: None, stop: &stop };
        source.get(&want, &mut Vec::new()).unwrap_err()
    };
    for (fate, fault, words) in [
        (Fate::SlowDown(0), ReadErrorKind::Busy, ["503 SlowDown", "tries in", "storage.retry_s is 1"]),
        (Fate::SlowDown(9), ReadErrorKind::Busy, ["503 SlowDown", "1 try in", "storage.retry_s is 1"]),
        (Fate::Cut, ReadErrorKind::Broken, ["connection failed", "tries in", "retry_s"]),
        (Fate::Short, ReadErrorKind::Broken, ["3995 bytes instead of 7991", "tries in", "retry_s"]),
        (Fate::Long, ReadErrorKind::Broken, ["7992 bytes instead of 7991", "tries in", "retry_s"]),
        (Fate::Stall, ReadErrorKind::TimedOut, ["no whole answer", "within 0.3 s (storage.timeout_s)", "tries in"]),
        (Fate::Reset, ReadErrorKind::Broken, ["connection failed", "tries in", "retry_s"]),
        // No wait that a server may name overflows.
        (
            Fate::RetryAfter("18446744073709551615"),
            ReadErrorKind::Busy,
            ["429", "left alone for 18446744073709551615 s", "1 try"],
        ),
        (
            Fate::RetryAfter("18446744073709551616"),
            ReadErrorKind::Busy,
            ["429", "left alone for 18446744073709551615 s", "1 try"],
        ),
        (
            Fate::RetryAfter("Fri, 31 Dec 9999 23:59:59 GMT"),
            ReadErrorKind::Busy,
            ["429", "asks to be left alone", "1 try"],
        ),
        (
            Fate::RetryAfter("Wed, 21 Oct 2015 07:28:00 GMT"),
            ReadErrorKind::Busy,
            ["429", "tries in", "storage.retry_s is 1"],
        ),
        (Fate::Denied, ReadErrorKind::Denied, ["403 AccessDenied", "AWS_SESSION_TOKEN", "credentials"]),
        (Fate::Status("501 Not Implemented"), ReadErrorKind::Other, ["501", "to a request with GET", "server"]),
        (Fate::Status("416 Range Not Satisfiable"), ReadErrorKind::Changed, ["416", "fewer bytes", "feedline index"]),
        (Fate::Expired, ReadErrorKind::Denied, ["400 ExpiredToken", "AWS_SESSION_TOKEN", "credentials"]),
        (Fate::Changed, ReadErrorKind::Changed, ["not the one that was listed", "feedline index", "new run"]),
    ] {
        proxy.set(move |_| fate);
        let error = get();
        assert_eq!(
            (error.kind, error.location.as_str()),
            (fault, "s3://bench/stay/deep/er/03.jpg"),
            "{fate:?}: {error}"
        );
        assert!(words.iter().all(|word| error.problem.contains(word)), "{fate:?}: {error}");
    }
    proxy.set(|_| Fate::Fine);
    // The real server's own words for the rest: changed content, a missing key, wrong credentials.
    server.put("stay/deep/er/03.jpg", vec![0; object.size_bytes as usize]);
    assert_eq!(get().kind, ReadErrorKind::Changed);
    server.delete("stay/deep/er/03.jpg");
    assert_eq!(get().kind, ReadErrorKind::Missing);
    let begun = Instant::now();
    let anonymous = Storage { anonymous: true, ..storage.clone() }.open("s3://bench/stay").unwrap();
    let error = anonymous.head("a", &stop).unwrap_err();
    assert_eq!(error.kind, ReadErrorKind::Denied, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1), "what will not pass is not tried again");
    // Nothing listens there.
    let nobody = Storage { endpoint: "http://127.0.0.1:1".into(), ..storage.clone() }.open("s3://bench/stay").unwrap();
    let error = nobody.head("a", &stop).unwrap_err();
    assert!(error.kind == ReadErrorKind::Broken && error.problem.contains("refused"), "{error:?}");
    // A slow line is not a stalled one.
    proxy.set_line(Line { latency: Duration::from_millis(50), bytes_per_second: 1_000_000 });
    assert_eq!(source.head("a", &stop).unwrap().size_bytes, 1);
}

/// Unchanged files: the first eight bytes of each, and its length.
struct Files {
    list: ImageList,
    fields: Vec<FieldSpec>,
}

impl Files {
    fn open(dir: &Path, storage: &Storage) -> Arc<Files> {
        let list = ImageList::train(Folder::open(dir, storage).unwrap()).unwrap();
        Arc::new(Files {
            list,
            fields: vec![FieldSpec::stack("bytes", DType::U8, [8]), FieldSpec::stack("len", DType::I64, [])],
        })
    }
}

impl Pipeline for Files {
    fn len(&self) -> u64 {
        self.list.entries.len() as u64
    }
    fn fingerprint(&self) -> u64 {
        self.list.fingerprint()
    }
    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }
    fn location(&self, index: u64) -> String {
        self.list.entries[index as usize].path.display().to_string()
    }
    fn read(&self, request: &Request, raw: &mut Raw, clock: &mut SampleContext) -> Result<()> {
        raw.resize_with(1, Vec::new);
        let path = &self.list.entries[request.index as usize].path;
        if let Some(stored) = &self.list.stored {
            stored.reached(request.epoch, request.position);
        }
        read_sample(self.list.stored.as_ref(), request.index, path, clock.stop_signal(), &mut raw[0])?;
        clock.count_bytes(raw[0].len());
        Ok(())
    }
    fn make(&self, _: &Request, raw: &Raw, slot: &mut Slot<'_>, clock: &mut SampleContext) -> Result<()> {
        clock.enter(Stage::Decode);
        slot.dense::<u8>("bytes").copy_from_slice(&raw[0][..8]);
        slot.dense::<i64>("len")[0] = raw[0].len() as i64;
        Ok(())
    }
    fn sample_reader(&self) -> Option<&SampleReader> {
        self.list.stored.as_ref()
    }
}

/// A folder `train` with `count` files of about `bytes` each in two classes, and the same in the bucket.
fn data_set(server: &Server, prefix: &str, count: usize, bytes: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..count {
        let folder = dir.path().join(["train/a", "train/b"][i % 2]);
        std::fs::create_dir_all(&folder).unwrap();
        let content: Vec<u8> = (0..bytes + i).map(|at| (at * 31 + i * 7) as u8).collect();
        std::fs::write(folder.join(format!("{i:04}.jpg")), content).unwrap();
    }
    server.put_folder(dir.path(), prefix);
    dir
}

#[test]
fn refusals_of_a_store_end_the_run_and_replace_nothing() {
    if !has_credentials("refusals_of_a_store_end_the_run_and_replace_nothing") {
        return;
    }
    let server = server().unwrap();
    let proxy = Proxy::start(&server.address);
    data_set(server, "replace", 100, 3000);
    let listings = tempfile::tempdir().unwrap();
    let storage =
        Storage { retry_s: 0.3, timeout_s: 0.3, listings_dir: listings.path().into(), ..storage(&proxy.address) };
    let url = Path::new("s3://bench/replace");
    let files = Files::open(url, &storage);
    let epoch = |workers| -> Result<Vec<_>> {
        let plan = Plan::new(files.len(), 1).unwrap().with_seed(9);
        let options = LoaderOptions {
            batch_size: 16,
            num_workers: workers,
            end_epoch: Some(1),
            on_bad_sample: OnBadSample::Replace,
            ..LoaderOptions::default()
        };
        let mut loader = Loader::new(Arc::clone(&files) as Arc<dyn Pipeline>, plan, options).unwrap();
        loader.iter().collect()
    };
    for workers in [0, 2] {
        for fate in
            [Fate::Denied, Fate::Expired, Fate::Changed, Fate::Broken, Fate::Reset, Fate::Status("401 Unauthorized")]
        {
            // One in five for ever: each retry fails again.
            proxy.set(move |line| if line.contains("7.jpg") || line.contains("3.jpg") { fate } else { Fate::Fine });
            let error = epoch(workers).unwrap_err();
            assert!(matches!(error, Error::Run { stage: Stage::Read, .. }), "{fate:?}: {error:?}");
            assert!(error.to_string().contains("s3://bench/replace/train/"), "{fate:?}: {error}");
        }
    }
    // A missing object is a bad sample, and no other sample is replaced.
    proxy.set(|_| Fate::Fine);
    for at in [13, 50] {
        server.delete(&format!("replace/train/{}/{at:04}.jpg", ["a", "b"][at % 2]));
    }
    for workers in [0, 2] {
        let batches = epoch(workers).unwrap();
        let mut gone: Vec<&str> = batches.iter().flat_map(|batch| &batch.replaced).map(|bad| &*bad.location).collect();
        gone.sort_unstable();
        gone.dedup();
        assert_eq!(gone, ["s3://bench/replace/train/a/0050.jpg", "s3://bench/replace/train/b/0013.jpg"]);
    }
}

fn loader(files: &Arc<Files>, num_workers: usize) -> Loader {
    let plan = Plan::new(files.len(), 1).unwrap().with_seed(9);
    let options = LoaderOptions { batch_size: 16, num_workers, end_epoch: Some(2), ..LoaderOptions::default() };
    Loader::new(Arc::clone(files) as Arc<dyn Pipeline>, plan, options).unwrap()
}

#[test]
fn folder_marks_are_no_samples() {
    if !has_credentials("folder_marks_are_no_samples") {
        return;
    }
    let server = server().unwrap();
    let dir = data_set(server, "marked", 20, 100);
    let local = ImageList::train(dir.path()).unwrap();
    for mark in ["", "train/", "train/a/", "train/b/", "other/", "train/a/deeper/"] {
        server.put_mark(&format!("marked/{mark}"));
    }
    let listings = tempfile::tempdir().unwrap();
    let storage = Storage { listings_dir: listings.path().into(), ..storage(&server.address) };
    for round in ["listed", "kept"] {
        let folder = Folder::open(Path::new("s3://bench/marked"), &storage).unwrap();
        assert_eq!(folder.files(), 20, "{round}");
        let list = ImageList::train(folder).unwrap();
        assert_eq!((&list.classes, list.names()), (&local.classes, local.names()));
        assert_eq!(list.fingerprint(), local.fingerprint());
    }
}

#[test]
fn an_epoch_through_a_bad_network_is_the_one_from_disk() {
    if !has_credentials("an_epoch_through_a_bad_network_is_the_one_from_disk") {
        return;
    }
    let server = server().unwrap();
    let proxy = Proxy::start(&server.address);
    let dir = data_set(server, "set", 500, 3000);
    let local = Files::open(dir.path(), &Storage::default());
    let all = |loader: &mut Loader| -> Vec<_> {
        (0..2).flat_map(|_| loader.iter().map(|batch| batch.unwrap()).collect::<Vec<_>>()).collect()
    };
    let expect = all(&mut loader(&local, 0));
    let cache = tempfile::tempdir().unwrap();
    let url = PathBuf::from("s3://bench/set");
    let fates = vec![Fate::SlowDown(0), Fate::Cut, Fate::Short, Fate::Stall, Fate::Reset, Fate::Long, Fate::Broken];
    proxy.set_faults(10, fates, fault_seed());
    let packed = cache.path().join("packed");
    let options = PackOptions { shard_bytes: 200_000, threads: 2, progress: &|_, _| () };
    feedline::read::pack::pack(dir.path(), &Storage::default(), &packed, options).unwrap();
    server.put_folder(&packed, "packed");
    // A cache of nothing, of everything, and of a third; one file per object, and archives with indexes beside them.
    let archives = PathBuf::from("s3://bench/packed");
    let rounds = [(&url, 0), (&url, 1 << 30), (&url, 600_000), (&archives, 0), (&archives, 600_000)];
    for (round, (url, cache_bytes)) in rounds.into_iter().enumerate() {
        let cache_dir = if cache_bytes == 0 { PathBuf::new() } else { cache.path().join(round.to_string()) };
        let listings_dir = cache.path().join("listings");
        let storage = Storage { timeout_s: 1.0, cache_dir, cache_bytes, listings_dir, ..storage(&proxy.address) };
        let files = Files::open(url, &storage);
        assert_eq!(files.fingerprint(), local.fingerprint());
        for workers in [2, 0] {
            if workers == 0 && round != 1 {
                continue; // one read after the other, each fault waited for: long, but with all in the cache
            }
            assert!(all(&mut loader(&files, workers)) == expect, "cache of {cache_bytes}, {workers} workers");
        }
        // A run that began on disk continues from the bucket, and vice versa.
        let (mut here, mut there) = (loader(&local, 1), loader(&files, 2));
        for turn in 0..6 {
            let (from, to) = if turn % 2 == 0 { (&mut here, &mut there) } else { (&mut there, &mut here) };
            for step in 0..4 {
                assert!(from.next_batch().unwrap().unwrap() == expect[turn * 4 + step], "turn {turn}, step {step}");
            }
            to.load_state_dict(&from.state_dict()).unwrap();
        }
        let counts = files.list.stored.as_ref().unwrap().cache_counts();
        assert!(counts.is_none_or(|counts| counts.hits > 100 && counts.damaged == 0), "{counts:?}");
    }
    assert!(proxy.counts().1 > 50);
    report_faults(&proxy);

    // In the order of the archives adjacent files share a request, with and without a cache.
    proxy.set(|_| Fate::Fine);
    let in_order = |files: &Arc<Files>| -> Vec<_> {
        let options = LoaderOptions { batch_size: 16, num_workers: 2, end_epoch: Some(1), ..LoaderOptions::default() };
        let plan = Plan::unshuffled(files.len(), 1).unwrap();
        let mut loader = Loader::new(Arc::clone(files) as Arc<dyn Pipeline>, plan, options).unwrap();
        loader.iter().map(|batch| batch.unwrap()).collect()
    };
    for (cache, cache_bytes) in [("", 0), ("in order", 1 << 30)] {
        let cache_dir = if cache_bytes == 0 { PathBuf::new() } else { dir.path().join(cache) };
        let listings_dir = dir.path().join("listings");
        let storage = Storage { cache_dir, cache_bytes, listings_dir, ..storage(&proxy.address) };
        let files = Files::open(&archives, &storage);
        let before = proxy.counts().0;
        assert!(in_order(&files) == in_order(&local));
        let requests = proxy.counts().0 - before;
        assert!((8..=60).contains(&requests), "{requests} requests for 500 samples in 8 archives");
    }

    // An unreadable object ends the epoch with an error that names it, and no credential.
    proxy.set(|line| if line.contains("0123.jpg") { Fate::Broken } else { Fate::Fine });
    let listings_dir = cache.path().join("listings");
    let storage = Storage { retry_s: 0.5, listings_dir, ..storage(&proxy.address) };
    let files = Files::open(&url, &storage);
    let error = loader(&files, 2).iter().find_map(|batch| batch.err()).unwrap().to_string();
    for word in ["failed to read sample", "s3://bench/set/train/b/0123.jpg", "500 InternalError", "tries"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(!error.contains(SECRET) && !error.contains(KEY_ID), "{error}");
}

#[test]
fn latency_is_hidden() {
    if !has_credentials("latency_is_hidden") {
        return;
    }
    let server = server().unwrap();
    let proxy = Proxy::start(&server.address);
    data_set(server, "late", 400, 2000);
    let listings = tempfile::tempdir().unwrap();
    proxy.set_line(Line { latency: Duration::from_millis(100), ..Line::default() });
    let mut storage = Storage { listings_dir: listings.path().into(), ..storage(&proxy.address) };
    let mut seconds = |requests_in_flight| {
        storage.requests_in_flight = requests_in_flight;
        let files = Files::open(Path::new("s3://bench/late"), &storage);
        let begun = Instant::now();
        assert_eq!(loader(&files, 2).iter().map(|batch| batch.unwrap().len()).sum::<usize>(), 400);
        begun.elapsed().as_secs_f64()
    };
    // 400 requests of 100 ms, 20 or 80 at once: at least two seconds, or half a second; a tenth of the requests at once
    // would take ten times as long, which differs even from a busy machine.
    let (few, many) = (seconds(20), seconds(80));
    assert!(few >= 2.0 && many >= 0.5 && many < 0.6 * few, "{few} s with 20 requests under way, {many} s with 80");
}
