//! The cache: which entries it keeps and evicts; kills, full disks and damage cost nothing but time.

use super::{child, objects, read_all, succeeded, write_objects};
use feedline::plan::Plan;
use feedline::read::{
    Cache, CacheMode, FileList, Folder, ImageList, LocalFiles, RangeRequest, Source, SourceCache, Stop, Storage,
};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn open(data: &Path, cache: &Path, budget_bytes: u64) -> Cache {
    Cache::open(Arc::new(LocalFiles::new(data)), cache, budget_bytes, CacheMode::Private).unwrap()
}

/// Files of the cache that are entries, and those that are not finished.
fn files(cache: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let folder = cache.join("feedline-cache-1");
    let (mut entries, mut new) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(&folder).unwrap().flatten() {
        if entry.path().is_dir() {
            entries.extend(fs::read_dir(entry.path()).unwrap().flatten().map(|entry| entry.path()));
        } else if entry.file_name().to_str().unwrap().starts_with("new-") {
            new.push(entry.path());
        }
    }
    (entries, new)
}

fn bytes_of(files: &[PathBuf]) -> u64 {
    files.iter().filter_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn a_second_pass_reads_nothing_from_the_source() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_objects(data.path());
    let cache = open(data.path(), dir.path(), 1 << 30);
    let expect = read_all(&cache, 4).unwrap();
    assert_eq!((cache.counts().hits, cache.counts().misses), (0, 20));
    assert_eq!(read_all(&cache, 4).unwrap(), expect);
    assert_eq!((cache.counts().hits, cache.counts().misses, cache.counts().written), (20, 20, 20));
    // Another process on the machine finds it, too.
    let other = open(data.path(), dir.path(), 1 << 30);
    assert_eq!(read_all(&other, 4).unwrap(), expect);
    assert_eq!((other.counts().hits, other.counts().misses), (20, 0));
}

#[test]
fn a_new_version_is_another_entry() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(data.path().join("x"), "one").unwrap();
    let cache = open(data.path(), dir.path(), 1 << 20);
    read_all(&cache, 1).unwrap();
    fs::write(data.path().join("x"), "two").unwrap();
    let later = fs::metadata(data.path().join("x")).unwrap().modified().unwrap() + Duration::from_secs(5);
    fs::File::options().write(true).open(data.path().join("x")).unwrap().set_modified(later).unwrap();
    assert_eq!(read_all(&cache, 1).unwrap(), [("x".to_owned(), b"two".to_vec())]);
}

#[test]
fn damage_is_found_out_and_read_again() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_objects(data.path());
    let expect = read_all(&open(data.path(), dir.path(), 1 << 30), 1).unwrap();
    let (entries, _) = files(dir.path());
    assert_eq!(entries.len(), 20);
    for (at, path) in entries.iter().enumerate() {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        match at % 4 {
            0 => bytes[middle] ^= 1,
            1 => bytes.truncate(middle),
            2 => bytes.extend(b"more"),
            // Intact, but of another object.
            _ => bytes = fs::read(&entries[(at + 4) % 20]).unwrap(),
        }
        fs::write(path, bytes).unwrap();
    }
    let cache = open(data.path(), dir.path(), 1 << 30);
    assert_eq!(read_all(&cache, 2).unwrap(), expect);
    assert_eq!((cache.counts().damaged, cache.counts().hits), (20, 0));
    assert_eq!(read_all(&cache, 2).unwrap(), expect);
    assert_eq!(cache.counts().hits, 20);
}

#[test]
fn the_budget_holds_and_what_is_not_its_own_stays() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_objects(data.path());
    let budget = 60_000;
    let cache = open(data.path(), dir.path(), budget);
    let foreign: Vec<PathBuf> =
        ["precious.jpg", "feedline-cache-1/notes", "feedline-cache-1/00/notes", "feedline-cache-1/00/0123"]
            .map(|name| dir.path().join(name))
            .into();
    foreign.iter().for_each(|path| fs::write(path, vec![1; 50_000]).unwrap());
    for _ in 0..3 {
        assert_eq!(read_all(&cache, 3).unwrap().len(), 20);
        let (entries, new) = files(dir.path());
        let own: Vec<PathBuf> = entries.into_iter().filter(|path| !foreign.contains(path)).collect();
        assert!(bytes_of(&own) <= budget && !own.is_empty() && new.is_empty(), "{} bytes", bytes_of(&own));
    }
    assert!(foreign.iter().all(|path| path.exists()));
}

/// 400 small pictures' worth of objects, listed, with a cache that holds `share` of them.
fn pictures(data: &Path, cache_dir: &Path, share: f64) -> (ImageList, Storage) {
    fs::create_dir_all(data.join("train/a")).unwrap();
    for i in 0..400 {
        let path = data.join(format!("train/a/{i:03}.jpg"));
        if !path.exists() {
            fs::write(path, vec![i as u8; 1000]).unwrap();
        }
    }
    let storage = Storage {
        cache_dir: cache_dir.into(),
        cache_bytes: (400.0 * share * 1150.0) as u64,
        listings_dir: cache_dir.join("listings"),
        ..Storage::default()
    };
    let folder = Folder::open(Path::new(&format!("file://{}", data.display())), &storage).unwrap();
    (ImageList::train(folder).unwrap(), storage)
}

/// The files of a sample among the 400: one or several consecutive ones.
fn files_of(index: u64, plan: &Plan) -> std::ops::Range<u64> {
    let parts = 400 / plan.len();
    index * parts..(index + 1) * parts
}

/// Reads epochs in the order of `plan` and gives the share of hits in each.
fn shares_of_hits(list: &ImageList, plan: &Plan, epochs: u64) -> Vec<f64> {
    let stored = list.stored.as_ref().unwrap();
    stored.follow_parts(plan, 400 / plan.len()).unwrap();
    let (mut bytes, stop) = (Vec::new(), Stop::default());
    let mut shares = Vec::new();
    for epoch in 0..epochs {
        let before = stored.cache_counts().unwrap().hits;
        for request in plan.epoch(epoch).rank(0) {
            stored.reached(request.epoch, request.position);
            for file in files_of(request.index, plan) {
                stored.read_into(file, &stop, &mut bytes).unwrap();
                assert_eq!(bytes, vec![file as u8; 1000]);
            }
        }
        shares.push((stored.cache_counts().unwrap().hits - before) as f64 / 400.0);
    }
    shares
}

/// Hits of a cache of `capacity` objects with Belady's eviction (1966), computed independently.
fn best_shares(plan: &Plan, capacity: usize, epochs: u64) -> Vec<f64> {
    let files = |epoch| plan.epoch(epoch).rank(0).flat_map(|r| files_of(r.index, plan)).collect::<Vec<_>>();
    let uses: Vec<u64> = (0..epochs + 1).flat_map(files).collect();
    let mut held: Vec<u64> = Vec::new();
    let mut hits = vec![0; epochs as usize];
    for (at, index) in uses.iter().enumerate().take(400 * epochs as usize) {
        if held.contains(index) {
            hits[at / 400] += 1;
            continue;
        }
        held.push(*index);
        if held.len() > capacity {
            let next = |index: &u64| uses[at + 1..].iter().position(|later| later == index).unwrap_or(usize::MAX);
            let last = (0..held.len()).max_by_key(|&i| next(&held[i])).unwrap();
            held.swap_remove(last);
        }
    }
    hits.iter().map(|&hits| f64::from(hits) / 400.0).collect()
}

#[test]
fn what_is_needed_last_goes_first() {
    for share in [0.1, 0.5, 0.9] {
        let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (list, _) = pictures(data.path(), dir.path(), share);
        let plan = Plan::new(400, 1).unwrap().with_seed(3);
        let found = shares_of_hits(&list, &plan, 4);
        let entry_bytes = fs::metadata(&files(dir.path()).0[0]).unwrap().len();
        let best = best_shares(&plan, ((400.0 * share * 1150.0) as u64 / entry_bytes) as usize, 4);
        assert_eq!(found[0], 0.0);
        for (epoch, (found, best)) in found.iter().zip(&best).enumerate().skip(1) {
            assert!(
                *found >= best - 0.01 && *found > share - 0.1,
                "epoch {epoch}, {share} fits: {found}, best is {best}"
            );
        }
    }
}

/// In passes over all samples any fixed part is as good as the best, so these are draws: a cache that mistakes a file
/// for a sample, or knows nothing, keeps little more than the half that fits.
#[test]
fn samples_of_several_files_are_kept_by_when_they_are_needed() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (list, _) = pictures(data.path(), dir.path(), 0.5);
    let plan = Plan::new(100, 1).unwrap().with_seed(3).with_weights(&[1.0; 100]).unwrap();
    let found = shares_of_hits(&list, &plan, 6);
    let mean = found[1..].iter().sum::<f64>() / 5.0;
    assert!(mean > 0.63, "{found:?}");
}

#[test]
fn many_at_once_stay_within_the_budget() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plan = Plan::new(400, 1).unwrap().with_seed(1);
    // Two lists act as two jobs: each has a cache of its own on the folder.
    let lists = [pictures(data.path(), dir.path(), 0.3).0, pictures(data.path(), dir.path(), 0.3).0];
    lists.iter().for_each(|list| list.stored.as_ref().unwrap().follow(&plan).unwrap());
    let budget = (400.0 * 0.3 * 1150.0) as u64;
    let reading = std::sync::atomic::AtomicUsize::new(16);
    let most = std::thread::scope(|scope| {
        for thread in 0..16 {
            let (list, plan, reading) = (&lists[thread % 2], &plan, &reading);
            scope.spawn(move || {
                let (stored, mut bytes, stop) = (list.stored.as_ref().unwrap(), Vec::new(), Stop::default());
                for epoch in 0..8 {
                    for request in plan.epoch(epoch).rank(0).filter(|r| r.position as usize % 8 == thread / 2) {
                        stored.reached(request.epoch, request.position);
                        stored.read_into(request.index, &stop, &mut bytes).unwrap();
                        assert_eq!(bytes, vec![request.index as u8; 1000]);
                    }
                }
                reading.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        let mut most = 0;
        // While it is locked, nothing is evicted and nothing begun; entries that were begun may appear.
        let usage = fs::File::open(dir.path().join("feedline-cache-1/usage")).unwrap();
        while reading.load(std::sync::atomic::Ordering::SeqCst) > 0 {
            usage.lock().unwrap();
            most = most.max(bytes_of(&files(dir.path()).0));
            usage.unlock().unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        most
    });
    let left = bytes_of(&files(dir.path()).0);
    assert!(most <= budget && left <= budget && left > budget / 2, "{most} at most, {left} left, {budget} allowed");
    assert!(lists.iter().all(|list| list.stored.as_ref().unwrap().cache_counts().unwrap().damaged == 0));
}

#[test]
fn a_budget_below_one_object_is_refused() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (list, _) = pictures(data.path(), dir.path(), 0.002);
    let plan = Plan::new(400, 1).unwrap();
    let error = list.stored.as_ref().unwrap().follow(&plan).unwrap_err().to_string();
    assert!(error.contains("storage.cache_bytes is 920") && error.contains("000.jpg has 1000 bytes"), "{error}");
}

#[test]
fn another_jobs_fresh_entries_are_left_to_it() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (list, _) = pictures(data.path(), dir.path(), 0.5);
    let plan = Plan::new(400, 1).unwrap();
    shares_of_hits(&list, &plan, 1);
    let entries = files(dir.path()).0;
    // Another data set, while the first job runs or has just ended; and when it ended long ago.
    let (others, plan) = (tempfile::tempdir().unwrap(), Plan::new(400, 1).unwrap());
    let (other, _) = pictures(others.path(), dir.path(), 0.5);
    assert_eq!(shares_of_hits(&other, &plan, 2), [0.0, 0.0]);
    assert_eq!(files(dir.path()).0.len(), entries.len());
    for path in &entries {
        let old = std::time::SystemTime::now() - Duration::from_secs(7200);
        fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    let (other, _) = pictures(others.path(), dir.path(), 0.5);
    assert!(shares_of_hits(&other, &plan, 2)[1] > 0.4);
}

/// The folders of the data and of the cache that the process was told; else new ones, with what keeps them.
fn folders() -> (PathBuf, PathBuf, Option<tempfile::TempDir>) {
    let told = |name: &str| std::env::var_os(name).map(PathBuf::from);
    if let Some((data, cache)) = told("READER_DATA").zip(told("READER_CACHE")) {
        return (data, cache, None);
    }
    let dir = tempfile::tempdir().unwrap();
    write_objects(&dir.path().join("data"));
    (dir.path().join("data"), dir.path().join("cache"), Some(dir))
}

fn told<T: std::str::FromStr<Err: std::fmt::Debug>>(name: &str, otherwise: T) -> T {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Other tests run this one in processes of their own, several at once.
#[test]
fn a_reader_gets_every_object_again_and_again() {
    let (data, cache, _keep) = folders();
    let (seconds, budget) = (told("READER_SECONDS", 0.1), told("READER_BUDGET", 1 << 30));
    let begun = Instant::now();
    let mut expect = objects();
    expect.sort();
    let mut last = None;
    while begun.elapsed().as_secs_f64() < seconds {
        let cache = open(&data, &cache, budget);
        assert!(read_all(&cache, 3).unwrap() == expect);
        last = Some(cache.counts());
    }
    println!("{last:?}");
}

fn reader_of(data: &Path, cache: &Path, budget: u64, seconds: f64) -> std::process::Command {
    let mut command = child("cache::a_reader_gets_every_object_again_and_again");
    command.env("READER_DATA", data).env("READER_CACHE", cache);
    command.env("READER_BUDGET", budget.to_string()).env("READER_SECONDS", seconds.to_string());
    command
}

#[test]
fn jobs_that_are_killed_leave_nothing_wrong() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_objects(data.path());
    let mut expect = objects();
    expect.sort();
    let mut leftovers = 0;
    for (round, budget) in [1 << 30, 60_000, 3_100_000, 60_000, 1 << 30, 3_100_000].into_iter().enumerate() {
        let spawn = |seconds| {
            let mut command = reader_of(data.path(), dir.path(), budget, seconds);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        };
        // Two are killed at arbitrary moments, one continues.
        let (mut first, mut second, third) = (spawn(60.0), spawn(60.0), spawn(1.0));
        std::thread::sleep(Duration::from_millis(83 + 97 * round as u64));
        first.kill().unwrap();
        std::thread::sleep(Duration::from_millis(41 * round as u64));
        second.kill().unwrap();
        first.wait().unwrap();
        second.wait().unwrap();
        leftovers += files(dir.path()).1.len();
        succeeded(&third.wait_with_output().unwrap());
        // No process is left to hold a lock, and unfinished entries are removed.
        let cache = open(data.path(), dir.path(), budget);
        assert!(files(dir.path()).1.is_empty());
        assert!(read_all(&cache, 2).unwrap() == expect);
        assert_eq!(cache.counts().damaged, 0);
    }
    println!("{leftovers} unfinished entries were left by kills");
}

#[test]
fn a_full_disk_costs_the_cache_and_nothing_else() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_objects(data.path());
    open(data.path(), dir.path(), 1 << 30);
    // No file may grow beyond 4 KiB (8 blocks of 512): most entries cannot be written.
    let inner = reader_of(data.path(), dir.path(), 1 << 30, 0.5);
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\""])
        .arg(inner.get_program())
        .args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    succeeded(&output);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("failed: 0") && text.contains("failed: "), "{text}");
    let (entries, new) = files(dir.path());
    assert!(new.is_empty() && !entries.is_empty() && bytes_of(&entries) < 6 * 4096, "{} bytes", bytes_of(&entries));
    // With room again, all is kept.
    let cache = open(data.path(), dir.path(), 1 << 30);
    read_all(&cache, 2).unwrap();
    read_all(&cache, 2).unwrap();
    assert_eq!((cache.counts().damaged, files(dir.path()).0.len()), (0, 20));
}

#[test]
fn what_has_no_version_is_not_kept() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(data.path().join("x"), "one").unwrap();
    let cache = open(data.path(), dir.path(), 1 << 20);
    let (mut bytes, stop) = (Vec::new(), Stop::default());
    cache.get(&RangeRequest { key: "x", range: 0..3, version: "", until: None, stop: &stop }, &mut bytes).unwrap();
    assert!(bytes == b"one" && files(dir.path()).0.is_empty());
}

/// Other tests run this one as several users of the machine, and look at what it prints.
#[test]
fn a_visitor_reads_every_object_or_is_refused() {
    let (data, cache, _keep) = folders();
    let mode = match told("READER_MODE", "private".to_owned()).as_str() {
        "all" => CacheMode::All,
        "group" => CacheMode::Group,
        _ => CacheMode::Private,
    };
    let files = Arc::new(LocalFiles::new(data));
    match Cache::open(files, &cache, told("READER_BUDGET", 1 << 30), mode) {
        Err(error) => println!("refused: {error}"),
        Ok(cache) => {
            let mut expect = objects();
            expect.sort();
            assert!(read_all(&cache, 1).unwrap() == expect);
            println!("{:?} remark: {:?}", cache.counts(), cache.remark());
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// A folder that all may enter; in it objects, a folder for a cache that all may write to, and the binary of the tests.
fn open_house() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for name in ["data", "cache"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    write_objects(&dir.path().join("data"));
    mode(dir.path(), 0o755);
    mode(&dir.path().join("cache"), 0o1777);
    fs::copy(std::env::current_exe().unwrap(), dir.path().join("tests")).unwrap();
    mode(&dir.path().join("tests"), 0o755);
    dir
}

/// What the test above prints as this user and group.
fn visit(house: &Path, user: u32, group: u32, mode: &str, budget: u64) -> String {
    let mut command = std::process::Command::new(house.join("tests"));
    command
        .args(["cache::a_visitor_reads_every_object_or_is_refused", "--exact", "--nocapture"])
        .current_dir("/")
        .uid(user)
        .gid(group);
    command.env("READER_DATA", house.join("data")).env("READER_CACHE", house.join("cache"));
    let output = command.env("READER_BUDGET", budget.to_string()).env("READER_MODE", mode).output().unwrap();
    succeeded(&output);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn users_share_a_cache_if_they_say_so() {
    if !is_root() {
        eprintln!("a test with several users is skipped: only root can act as others");
        return;
    }
    let large = 1 << 30;
    let house = open_house();
    let said = visit(house.path(), 4711, 4711, "all", large);
    assert!(said.contains("hits: 0, misses: 20, written: 20") && said.contains("remark: None"), "{said}");
    let said = visit(house.path(), 4712, 4712, "all", large);
    assert!(said.contains("hits: 20, misses: 0") && said.contains("remark: None"), "{said}");
    // No user can remove or change another's entries, and each user's entries count for all.
    let said = visit(house.path(), 4712, 4712, "all", 60_000);
    assert!(said.contains("hits: 20"), "{said}");
    let (entries, new) = files(&house.path().join("cache"));
    assert!(entries.len() == 20 && new.is_empty());
    assert!(entries.iter().all(|path| fs::metadata(path).unwrap().mode() & 0o7777 == 0o644));
    fs::write(house.path().join("data/a"), "b").unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(house.path().join("data/a")).unwrap().set_modified(later).unwrap();
    let said = format!("{:?}", {
        let files = Arc::new(LocalFiles::new(house.path().join("data")));
        let cache = Cache::open(files, &house.path().join("cache"), large, CacheMode::All).unwrap();
        read_all(&cache, 1).unwrap();
        cache.counts()
    });
    assert!(said.contains("hits: 19, misses: 1, written: 1"), "root is one more user: {said}");
    // Another user's cache is not private.
    let said = visit(house.path(), 4713, 4713, "private", large);
    assert!(said.contains("refused") && said.contains("belongs to another user"), "{said}");

    // A group shares its entries, and each member may evict those of others.
    let house = open_house();
    let said = visit(house.path(), 4711, 5000, "group", large);
    assert!(said.contains("written: 20"), "{said}");
    assert!(visit(house.path(), 4712, 5000, "group", large).contains("hits: 20"));
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    let entries = files(&house.path().join("cache")).0;
    for path in &entries {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o660);
        fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    let folder = house.path().join("cache/feedline-cache-1");
    // The smallest: that of the empty object, which is not the first to be read.
    let one = entries.iter().min_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o2770);
    assert_eq!(fs::metadata(one.parent().unwrap()).unwrap().mode() & 0o7777, 0o2770);
    // A use by another user than the writer is recorded, too.
    visit(house.path(), 4712, 5000, "group", large);
    assert!(fs::metadata(one).unwrap().modified().unwrap() > old + Duration::from_secs(3600));
    for path in &entries {
        fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    fs::remove_file(one).unwrap();
    let said = visit(house.path(), 4712, 5000, "group", 1_000_000);
    assert!(!said.contains("evicted: 0"), "{said}");
    // A user outside the group gets an error.
    let said = visit(house.path(), 4713, 4713, "group", large);
    assert!(said.contains("refused") && said.contains("failed to open the cache"), "{said}");
}

#[test]
fn a_cache_that_cannot_be_written_to_is_read() {
    let house = open_house();
    let cache = house.path().join("cache");
    let shared = Cache::open(Arc::new(LocalFiles::new(house.path().join("data"))), &cache, 1 << 30, CacheMode::All);
    read_all(&shared.unwrap(), 1).unwrap();
    let before = files(&cache).0;
    // One entry less, and a damaged one: both are read from the source.
    fs::remove_file(&before[0]).unwrap();
    let mut bytes = fs::read(&before[1]).unwrap();
    bytes[0] ^= 1;
    fs::write(&before[1], bytes).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let folder = cache.join("feedline-cache-1");
    let folders: Vec<PathBuf> = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path()).collect();
    folders.iter().filter(|path| path.is_dir()).for_each(|path| mode(path, 0o555));
    mode(&folder.join("usage"), 0o444);
    mode(&folder, 0o555);
    let said = if is_root() {
        visit(house.path(), 4711, 4711, "all", 1 << 30)
    } else {
        let files = Arc::new(LocalFiles::new(house.path().join("data")));
        // Its owner, in mode `private`, leaves it unchanged.
        let cache = Cache::open(files, &cache, 1 << 30, CacheMode::Private).unwrap();
        read_all(&cache, 1).unwrap();
        format!("{:?} remark: {:?}", cache.counts(), cache.remark())
    };
    assert!(said.contains("hits: 18, misses: 2, written: 0, evicted: 0, damaged: 1, failed: 0"), "{said}");
    assert!(said.contains("cannot be written to") && said.contains("what is in it is used"), "{said}");
    assert_eq!(files(&cache).0.len(), 19);
    if !is_root() {
        // The code that opens the data gets the warning.
        let url = format!("file://{}", house.path().join("data").display());
        let storage = Storage { cache_dir: cache.clone(), cache_bytes: 1 << 30, ..Storage::default() };
        let list =
            FileList::of_folder(Folder::open(Path::new(&url), &storage).unwrap().join("deep/er"), &["jpg"]).unwrap();
        assert!(list.warnings.iter().any(|words| words.contains("cannot be written to")), "{:?}", list.warnings);
    }
    folders.iter().chain([&folder]).filter(|path| path.is_dir()).for_each(|path| mode(path, 0o755));
}

#[test]
fn a_hostile_neighbour_can_neither_stop_a_reader_nor_reach_outside() {
    let (data, dir, outside) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_objects(data.path());
    let mut expect = objects();
    expect.sort();
    let open = |mode, budget| Cache::open(Arc::new(LocalFiles::new(data.path())), dir.path(), budget, mode);
    let folder = dir.path().join("feedline-cache-1");
    assert_eq!(read_all(&open(CacheMode::All, 1 << 30).unwrap(), 1).unwrap(), expect);
    let entries = files(dir.path()).0;
    let precious: Vec<PathBuf> = entries
        .iter()
        .map(|path| outside.path().join(path.file_name().unwrap()))
        .chain([outside.path().join("x")])
        .collect();
    precious.iter().for_each(|path| fs::write(path, "precious").unwrap());
    // Links, pipes and folders in place of entries.
    for (at, path) in entries.iter().enumerate() {
        fs::remove_file(path).unwrap();
        match at % 3 {
            0 => symlink(&precious[at], path).unwrap(),
            1 => rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o666)).unwrap(),
            _ => fs::create_dir(path).unwrap(),
        }
    }
    // Links in place of files of the cache itself.
    fs::remove_file(folder.join("CACHEDIR.TAG")).unwrap();
    symlink(&precious[0], folder.join("CACHEDIR.TAG")).unwrap();
    symlink(&precious[1], folder.join("new-1-1")).unwrap();
    for budget in [1 << 30, 60_000] {
        let cache = open(CacheMode::All, budget).unwrap();
        assert_eq!(read_all(&cache, 2).unwrap(), expect);
        assert_eq!(cache.counts().hits, 0);
    }
    // Links in place of the folders of entries: then nothing can be kept.
    for part in 0..=255u8 {
        let part = folder.join(format!("{part:02x}"));
        fs::remove_dir_all(&part).unwrap();
        symlink(outside.path(), part).unwrap();
    }
    for mode in [CacheMode::All, CacheMode::Group, CacheMode::Private] {
        let cache = open(mode, 60_000).unwrap();
        assert_eq!(read_all(&cache, 2).unwrap(), expect);
        assert_eq!((cache.counts().hits, cache.counts().written, cache.counts().evicted), (0, 0, 0));
    }
    assert!(precious.iter().all(|path| fs::read(path).unwrap() == b"precious"));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), precious.len());
    // The byte count must be neither a link nor a hard link to another file.
    let usage = folder.join("usage");
    for link in [true, false] {
        fs::remove_file(&usage).unwrap();
        if link {
            symlink(&precious[0], &usage).unwrap()
        } else {
            fs::hard_link(&precious[0], &usage).unwrap()
        }
        let error = open(CacheMode::All, 60_000).unwrap_err().to_string();
        assert!(error.contains("failed to open the cache"), "{error}");
    }
    assert!(precious.iter().all(|path| fs::read(path).unwrap() == b"precious"));
}

#[test]
fn a_lock_that_is_not_given_back_costs_the_cache_and_nothing_else() {
    let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_objects(data.path());
    let cache = open(data.path(), dir.path(), 1 << 30);
    let usage = fs::File::open(dir.path().join("feedline-cache-1/usage")).unwrap();
    usage.lock().unwrap();
    let expect = read_all(&cache, 3).unwrap();
    assert_eq!((expect.len(), cache.counts().misses, cache.counts().written), (20, 20, 0));
    drop(usage);
    let cache = open(data.path(), dir.path(), 1 << 30);
    assert_eq!(read_all(&cache, 3).unwrap(), expect);
    assert_eq!(cache.counts().written, 20);
}
