//! A folder of a machine that keeps what was read, for all ranks and jobs there. Owns the entries in it, the count of
//! their bytes, and who has to go: the entry that will be needed last, since the order is known.
//!
//! One file is one entry. It is written under another name and then linked into place, so it is whole or not there; its
//! end holds what it is and a checksum, so a file that is neither is found out and read again from the source. The bytes
//! of all entries are counted in one file under a lock, which the system takes back from a process that dies. What a
//! killed process leaves is a file that nobody has locked, and a count that is too high until somebody counts anew.

use super::source::{Fault, Get, Object, ReadError, Source, Stop};
use crate::error::{Error, Result};
use crate::plan::rng::{hash_name, hash_words};
use std::cmp::Ordering as Order;
use std::collections::{BinaryHeap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime};

/// The folder inside the one that was named; nothing outside of it is ever touched.
const FOLDER: &str = "feedline-cache-1";

/// Ends every entry.
const MAGIC: [u8; 8] = *b"FEEDLN01";

/// What follows the content and the name in an entry: their lengths (u64, u32), a checksum (u32) and [`MAGIC`].
const TRAILER_BYTES: usize = 24;

/// An entry that other jobs have used within this time is not taken from them.
const LEASE: Duration = Duration::from_secs(3600);

/// How exact the time of last use is: to note it costs a call.
const TOUCH: Duration = Duration::from_secs(60);

/// Tells when the samples of a data set are needed next, in epochs since the run began: 3.25 is a quarter into epoch 3.
pub trait Outlook: Send + Sync {
    /// When the sample is needed next, after any use that has begun.
    fn next_use(&self, sample: u64) -> f64;
}

/// What a cache did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Reads that the cache answered.
    pub hits: u64,
    /// Reads that went to the source.
    pub misses: u64,
    /// Entries that were written.
    pub written: u64,
    /// Entries that had to go.
    pub evicted: u64,
    /// Entries that were damaged, and were removed.
    pub damaged: u64,
    /// Entries that could not be written; the disk is full, say.
    pub failed: u64,
}

/// A source with a folder before it.
#[derive(Debug)]
pub struct Cache {
    inner: Arc<dyn Source>,
    folder: PathBuf,
    budget_bytes: u64,
    /// Holds the number of bytes in use, and the lock of the whole folder between processes.
    usage: File,
    /// The lock of a file is one for all threads of a process, so these need their own.
    threads: Mutex<()>,
    users: RwLock<Vec<User>>,
    victims: Mutex<Victims>,
    counts: [AtomicU64; 6],
}

/// A data set that uses this cache.
struct User {
    /// Samples and the sizes of their entries, by name.
    samples: HashMap<Name, (u64, u64)>,
    outlook: Weak<dyn Outlook>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "User({} samples)", self.samples.len())
    }
}

/// A hash of location, version and range.
type Name = [u64; 2];

/// The entries in the order in which they may go, as they were when they were counted, and as this process used them
/// since.
#[derive(Debug, Default)]
struct Victims {
    heap: BinaryHeap<Victim>,
    /// The epoch in which they were counted: in the next one all stand differently.
    epoch: u64,
}

/// An entry that may have to go.
#[derive(Debug)]
struct Victim {
    next_use: f64,
    name: Name,
    size_bytes: u64,
}

impl Ord for Victim {
    fn cmp(&self, other: &Victim) -> Order {
        self.next_use.total_cmp(&other.next_use).then(self.name.cmp(&other.name))
    }
}

impl PartialOrd for Victim {
    fn partial_cmp(&self, other: &Victim) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Victim {
    fn eq(&self, other: &Victim) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Victim {}

impl Cache {
    /// Keeps what is read from `inner` in `dir`, up to `budget_bytes` together with whatever other processes keep there.
    ///
    /// # Errors
    /// A folder that cannot be made or written to.
    pub fn open(inner: Arc<dyn Source>, dir: &Path, budget_bytes: u64) -> Result<Cache> {
        let folder = dir.join(FOLDER);
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |e| Error::io("open the cache", path, e)
        };
        for part in 0..=255u8 {
            let part = folder.join(format!("{part:02x}"));
            fs::create_dir_all(&part).map_err(failed(&part))?;
        }
        // Tells programs that make backups to leave it out (https://bford.info/cachedir/).
        let tag = folder.join("CACHEDIR.TAG");
        fs::write(&tag, "Signature: 8a477f597d28d172789f06886806bc55\n").map_err(failed(&tag))?;
        let path = folder.join("usage");
        let usage = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let cache = Cache {
            inner,
            budget_bytes,
            usage: usage.map_err(failed(&path))?,
            threads: Mutex::default(),
            users: RwLock::default(),
            victims: Mutex::default(),
            counts: Default::default(),
            folder,
        };
        cache.remove_leftovers();
        Ok(cache)
    }

    /// From now on the samples with these objects, or parts of them, each by its number, are kept by when `outlook` says
    /// that they are needed.
    ///
    /// # Errors
    /// A budget that is smaller than the largest object, which is named.
    pub fn follow<'a>(
        &self,
        samples: impl Iterator<Item = (u64, (&'a Object, Range<u64>))>,
        outlook: Weak<dyn Outlook>,
    ) -> Result<()> {
        let mut entries = HashMap::new();
        for (sample, (Object { key, version, .. }, range)) in samples {
            let location = self.inner.location(key);
            let identity = identity(&location, version, range.start, range.end);
            let size_bytes = range.end - range.start;
            let entry_bytes = size_bytes + (identity.len() + TRAILER_BYTES) as u64;
            if entry_bytes > self.budget_bytes {
                return Err(Error::config(
                    format!(
                        "storage.cache_bytes is {}, less than one object takes: {location} has {size_bytes} bytes",
                        self.budget_bytes
                    ),
                    "Raise it to the size of many objects, or leave the cache out",
                ));
            }
            entries.insert(name_of(&location, version, range.start, range.end), (sample, entry_bytes));
        }
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        users.retain(|user| user.outlook.strong_count() > 0);
        users.push(User { samples: entries, outlook });
        Ok(())
    }

    /// What it did so far in this process.
    pub fn counts(&self) -> CacheCounts {
        let counts = self.counts.each_ref().map(|count| count.load(Relaxed));
        let [hits, misses, written, evicted, damaged, failed] = counts;
        CacheCounts { hits, misses, written, evicted, damaged, failed }
    }

    fn path(&self, name: Name) -> PathBuf {
        self.folder.join(format!("{:02x}/{:016x}{:016x}", name[0] >> 56, name[0], name[1]))
    }

    /// The entry, if it is there and whole.
    fn read(&self, name: Name, identity: &str, want: &Get<'_>, into: &mut Vec<u8>) -> bool {
        let path = self.path(name);
        let Ok(mut file) = File::open(&path) else { return false };
        let len_bytes = want.len_bytes() as usize;
        let whole_bytes = len_bytes + identity.len() + TRAILER_BYTES;
        into.clear();
        into.reserve(whole_bytes);
        // A byte more than there may be, so that what is too long is found out.
        let read = (&mut file).take(whole_bytes as u64 + 1).read_to_end(into);
        let good = read.is_ok_and(|read| read == whole_bytes)
            && into[len_bytes..whole_bytes - TRAILER_BYTES] == *identity.as_bytes()
            && into[whole_bytes - TRAILER_BYTES..] == trailer(&into[..len_bytes], identity);
        if !good {
            self.counts[4].fetch_add(1, Relaxed);
            self.remove(&path, file.metadata().map_or(0, |metadata| metadata.len()));
            return false;
        }
        into.truncate(len_bytes);
        let is_old = |time: SystemTime| time.elapsed().is_ok_and(|age| age > TOUCH);
        if file.metadata().and_then(|metadata| metadata.modified()).is_ok_and(is_old) {
            let _ = file.set_modified(SystemTime::now());
        }
        true
    }

    /// Reads what is asked for, if it is there.
    fn hit(&self, want: &Get<'_>, into: &mut Vec<u8>) -> bool {
        if want.version.is_empty() {
            return false; // nothing would tell an old entry from a new one
        }
        let location = self.inner.location(want.key);
        let name = name_of(&location, want.version, want.range.start, want.range.end);
        let identity = identity(&location, want.version, want.range.start, want.range.end);
        let is_hit = self.read(name, &identity, want, into);
        if is_hit {
            self.counts[0].fetch_add(1, Relaxed);
            self.line_up(name, (into.len() + identity.len() + TRAILER_BYTES) as u64);
        }
        is_hit
    }

    /// Keeps what was read instead.
    fn missed(&self, want: &Get<'_>, bytes: &[u8]) {
        if want.version.is_empty() {
            return;
        }
        self.counts[1].fetch_add(1, Relaxed);
        let location = self.inner.location(want.key);
        let name = name_of(&location, want.version, want.range.start, want.range.end);
        self.keep(name, &identity(&location, want.version, want.range.start, want.range.end), bytes);
    }

    /// Keeps `bytes`, if there is room or something is needed later. That it could not be kept is no error.
    fn keep(&self, name: Name, identity: &str, bytes: &[u8]) {
        let size_bytes = (bytes.len() + identity.len() + TRAILER_BYTES) as u64;
        let Some((file, new)) = self.room_for(size_bytes, self.next_use(name)) else { return };
        match self.write(file, &new, name, identity, bytes) {
            Ok(true) => {
                self.counts[2].fetch_add(1, Relaxed);
                let _ = fs::remove_file(&new); // gone already if it was renamed
                self.line_up(name, size_bytes);
            }
            // Another process was quicker.
            Ok(false) => self.remove(&new, size_bytes),
            // The disk is full, say: the bytes are delivered all the same.
            Err(_) => {
                self.counts[5].fetch_add(1, Relaxed);
                self.remove(&new, size_bytes);
            }
        }
    }

    /// Puts an entry that was used where it belongs among those that may go. It may stand there twice; what is gone is
    /// passed over.
    fn line_up(&self, name: Name, size_bytes: u64) {
        let mut victims = self.victims.lock().unwrap_or_else(PoisonError::into_inner);
        if !victims.heap.is_empty() {
            let next_use = self.next_use(name).unwrap_or(f64::MAX);
            victims.heap.push(Victim { next_use, name, size_bytes });
        }
    }

    /// Begins an entry of this size, so that whoever counts finds it.
    fn begin(&self, size_bytes: u64) -> std::io::Result<(File, PathBuf)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let new = self.folder.join(format!("new-{}-{number}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&new)?;
        // The lock is held until it is closed: it says that somebody is at work on it.
        match file.lock().and_then(|()| file.set_len(size_bytes)) {
            Ok(()) => Ok((file, new)),
            Err(e) => {
                let _ = fs::remove_file(&new);
                Err(e)
            }
        }
    }

    /// Writes an entry that was begun; false if there is one already.
    fn write(&self, mut file: File, new: &Path, name: Name, identity: &str, bytes: &[u8]) -> std::io::Result<bool> {
        file.write_all(bytes)?;
        file.write_all(identity.as_bytes())?;
        file.write_all(&trailer(bytes, identity))?;
        match fs::hard_link(new, self.path(name)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            // A file system without links.
            Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                fs::rename(new, self.path(name)).map(|()| true)
            }
            Err(e) => Err(e),
        }
    }

    /// Takes `size_bytes` of the budget, from entries that are needed later if it must be, and begins an entry of that
    /// size. None if there are no such entries, or the disk is full.
    fn room_for(&self, size_bytes: u64, next_use: Option<f64>) -> Option<(File, PathBuf)> {
        if size_bytes > self.budget_bytes {
            return None;
        }
        let _lock = self.locked()?;
        let mut used_bytes = self.used_bytes();
        if used_bytes + size_bytes > self.budget_bytes {
            let mut victims = self.victims.lock().unwrap_or_else(PoisonError::into_inner);
            let epoch = next_use.unwrap_or_default() as u64;
            let mut is_counted = false;
            while used_bytes + size_bytes > self.budget_bytes {
                if !is_counted && (victims.heap.is_empty() || victims.epoch != epoch) {
                    is_counted = true;
                    used_bytes = self.count(&mut victims.heap);
                    victims.epoch = epoch;
                    continue;
                }
                let Some(last) = victims.heap.pop() else {
                    self.set_used_bytes(used_bytes);
                    return None;
                };
                // Another may have used it since it was put there.
                if let Some(now) = self.next_use(last.name)
                    && now > last.next_use
                {
                    victims.heap.push(Victim { next_use: now, ..last });
                    continue;
                }
                if last.next_use < 0.0 || next_use.is_some_and(|next_use| next_use >= last.next_use) {
                    victims.heap.push(last);
                    self.set_used_bytes(used_bytes);
                    return None;
                }
                if fs::remove_file(self.path(last.name)).is_ok() {
                    self.counts[3].fetch_add(1, Relaxed);
                    used_bytes = used_bytes.saturating_sub(last.size_bytes);
                }
            }
        }
        let begun = self.begin(size_bytes);
        if begun.is_err() {
            self.counts[5].fetch_add(1, Relaxed);
        }
        // Counted before it is known that the count can be written: then too much is counted, which does no harm.
        begun.ok().filter(|_| self.set_used_bytes(used_bytes + size_bytes))
    }

    /// Counts what is there, in bytes, and puts it in line.
    fn count(&self, victims: &mut BinaryHeap<Victim>) -> u64 {
        let mut found = Vec::new();
        // First, since what is published meanwhile may rather count twice than not at all.
        let begun_bytes: u64 = self.begun().filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum();
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        for part in 0..=255u8 {
            let Ok(entries) = fs::read_dir(self.folder.join(format!("{part:02x}"))) else { continue };
            for entry in entries.flatten() {
                // What has not the name of an entry is not ours.
                let Some(name) = entry.file_name().to_str().and_then(parse_name) else { continue };
                let known = users.iter().find_map(|user| Some(user.samples.get(&name)?.1));
                if let (Some(next_use), Some(size_bytes)) = (next_use(&users, name), known) {
                    found.push(Victim { next_use, name, size_bytes });
                    continue;
                }
                let Ok(metadata) = entry.metadata() else { continue };
                // Of another job: not to be touched while it is in use, and the first to go after that.
                let unused = metadata.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
                let next_use = if unused > LEASE { f64::MAX } else { -1.0 };
                found.push(Victim { next_use, name, size_bytes: metadata.len() });
            }
        }
        *victims = found.into();
        victims.iter().map(|victim| victim.size_bytes).sum::<u64>() + begun_bytes
    }

    /// Entries that are being written, or were when somebody was killed.
    fn begun(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let is_new = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"new-");
        entries.filter(is_new).map(|entry| entry.path())
    }

    /// When an entry is needed next, as far as this process knows.
    fn next_use(&self, name: Name) -> Option<f64> {
        next_use(&self.users.read().unwrap_or_else(PoisonError::into_inner), name)
    }

    /// Removes a file and its share of the budget: both under the lock, or whoever counts between them would miss it.
    fn remove(&self, path: &Path, size_bytes: u64) {
        let lock = self.locked();
        if fs::remove_file(path).is_ok() && lock.is_some() {
            self.set_used_bytes(self.used_bytes().saturating_sub(size_bytes));
        }
    }

    /// The lock of the folder, over all processes. A process that dies gives it back.
    fn locked(&self) -> Option<Locked<'_>> {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        self.usage.lock().ok()?;
        Some(Locked { file: &self.usage, _threads: threads })
    }

    fn used_bytes(&self) -> u64 {
        let mut bytes = [0; 8];
        // A new file holds nothing yet.
        self.usage.read_exact_at(&mut bytes, 0).map_or(0, |()| u64::from_le_bytes(bytes))
    }

    /// Whether that could be written.
    fn set_used_bytes(&self, used_bytes: u64) -> bool {
        self.usage.write_all_at(&used_bytes.to_le_bytes(), 0).is_ok()
    }

    /// Removes what processes that were killed had begun.
    fn remove_leftovers(&self) {
        for path in self.begun() {
            if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// When an entry is needed next, by those who use it.
fn next_use(users: &[User], name: Name) -> Option<f64> {
    let uses = users.iter().filter_map(|user| Some(user.outlook.upgrade()?.next_use(user.samples.get(&name)?.0)));
    uses.reduce(f64::min)
}

struct Locked<'a> {
    file: &'a File,
    _threads: MutexGuard<'a, ()>,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

fn name_of(location: &str, version: &str, start: u64, end: u64) -> Name {
    let words = [hash_name(location), hash_name(version), start, end];
    let first = hash_words(&words);
    [first, hash_words(&[first, end, start, hash_name(version).rotate_left(32), hash_name(location)])]
}

fn parse_name(text: &str) -> Option<Name> {
    let word = |text: &str| u64::from_str_radix(text, 16).ok();
    let is_name = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_name.then(|| Some([word(&text[..16])?, word(&text[16..])?])).flatten()
}

/// What an entry is of; stands in it, so that no hash has to be believed.
fn identity(location: &str, version: &str, start: u64, end: u64) -> String {
    format!("\n{location}\n{version}\n{start}..{end}\n")
}

fn trailer(bytes: &[u8], identity: &str) -> [u8; TRAILER_BYTES] {
    let mut trailer = [0; TRAILER_BYTES];
    trailer[..8].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    trailer[8..12].copy_from_slice(&(identity.len() as u32).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(bytes), identity.as_bytes());
    trailer[12..16].copy_from_slice(&checksum.to_le_bytes());
    trailer[16..].copy_from_slice(&MAGIC);
    trailer
}

impl Source for Cache {
    fn location(&self, key: &str) -> String {
        self.inner.location(key)
    }

    fn get(&self, want: &Get<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        if self.hit(want, into) {
            return Ok(());
        }
        self.inner.get(want, into)?;
        self.missed(want, into);
        Ok(())
    }

    fn get_many(&self, wants: &[Get<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        let is_hit: Vec<bool> = wants.iter().zip(&mut *into).map(|(want, into)| self.hit(want, into)).collect();
        let first = is_hit.iter().position(|is_hit| !is_hit).unwrap_or(wants.len());
        let end = is_hit.iter().rposition(|is_hit| !is_hit).map_or(first, |last| last + 1);
        // What is there already between two that are not is read with them: else neighbours would be neighbours no more.
        let mut read = self.inner.get_many(&wants[first..end], &mut into[first..end]);
        read.resize_with(end - first, || Err(ReadError::new(Fault::Other, self.location(""), "there was no answer")));
        for at in (first..end).filter(|at| !is_hit[*at] && read[at - first].is_ok()) {
            self.missed(&wants[at], &into[at]);
        }
        let hits = |count: usize| std::iter::repeat_n(Ok(()), count);
        hits(first).chain(read).chain(hits(wants.len() - end)).collect()
    }

    fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError> {
        self.inner.list(prefix, stop)
    }

    fn head(&self, key: &str, stop: &Stop) -> Result<Object, ReadError> {
        self.inner.head(key, stop)
    }

    fn cache(&self) -> Option<&Cache> {
        Some(self)
    }
}
