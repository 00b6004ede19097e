//! A cache on the local disk, shared by all ranks and jobs of a machine. Owns its entries, the count of their bytes,
//! and eviction: since the order of the samples is known, the entry whose next use is furthest away goes first
//! (Belady).
//!
//! One file is one entry. It is written under another name and then linked into place, so it is whole or not there; its
//! end holds what it is and a checksum, so a file that is neither is found out and read again from the source. The bytes
//! of all entries are counted in one file under a lock, which the system takes back from a process that dies. What a
//! killed process leaves is a file that nobody has locked, and a count that is too high until somebody counts anew.
#![expect(clippy::disallowed_types, reason = "entries are looked up by name; a heap orders those that are listed")]

use crate::error::{Error, Result};
use crate::hash::{hash_name, hash_words};
use crate::read::source::cache_folder::{CacheFolder, CacheMode};
use crate::read::source::{CacheCounts, NextUse, Object, RangeRequest, ReadError, Source, SourceCache, answers};
use crate::stop::Stop;
use std::cmp::Ordering as Order;
use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime};

/// Ends every entry.
const MAGIC: [u8; 8] = *b"FEEDLN01";

/// Size of an entry's trailer: the lengths of content and name (u64, u32), a checksum (u32) and [`MAGIC`].
const TRAILER_BYTES: usize = 24;

/// Entries that other jobs have used within this time are not evicted.
const LEASE: Duration = Duration::from_secs(3600);

/// Resolution of the time of last use: recording it costs a system call.
const TOUCH: Duration = Duration::from_secs(60);

/// A source with a cache in front of it.
#[derive(Debug)]
pub struct Cache {
    inner: Arc<dyn Source>,
    folder: CacheFolder,
    budget_bytes: u64,
    users: RwLock<Vec<User>>,
    victims: Mutex<Victims>,
    counts: [AtomicU64; 6],
}

/// A data set that uses this cache.
struct User {
    /// For each entry name: the sample, and the size of its entry in bytes.
    samples: HashMap<Name, (u64, u64)>,
    outlook: Weak<dyn NextUse>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "User({} samples)", self.samples.len())
    }
}

/// A hash of location, version and range.
type Name = [u64; 2];

/// Candidates for eviction, latest next use first: as of the last count, updated by the uses of this process since.
#[derive(Debug, Default)]
struct Victims {
    heap: BinaryHeap<Victim>,
    /// The epoch in which they were counted: in the next epoch their order is another.
    epoch: u64,
    /// Number of distinct entries at the last count.
    distinct: usize,
}

/// The heap may hold twice the number of entries and this many more before duplicates are removed.
const TWICE: usize = 1024;

/// Stands in for the next use of an entry that this user may not remove.
const NEVER: f64 = f64::NEG_INFINITY;

/// A candidate for eviction.
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
    /// Caches the reads from `inner` in `dir`, shared as `mode` says, up to `budget_bytes` for all processes together.
    /// If `dir` is read-only, its entries are used and none is added.
    ///
    /// # Errors
    /// A folder that can be neither created nor read, or that belongs to another user in mode `private`.
    pub fn open(inner: Arc<dyn Source>, dir: &Path, budget_bytes: u64, mode: CacheMode) -> Result<Cache> {
        let folder = CacheFolder::open(dir, mode)?;
        if folder.is_writable() {
            folder.remove_leftovers();
        }
        Ok(Cache {
            inner,
            budget_bytes,
            folder,
            users: RwLock::default(),
            victims: Mutex::default(),
            counts: Default::default(),
        })
    }

    /// Reads the entry, if it is present and intact.
    fn read(&self, name: Name, identity: &str, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> bool {
        let name = text_of(name);
        let Ok((mut file, metadata)) = self.folder.entry(&name) else { return false };
        let len_bytes = want.len_bytes() as usize;
        let whole_bytes = len_bytes + identity.len() + TRAILER_BYTES;
        into.clear();
        let good = metadata.len() == whole_bytes as u64
            && into.try_reserve_exact(whole_bytes).is_ok()
            && (&mut file).take(whole_bytes as u64).read_to_end(into).is_ok_and(|read| read == whole_bytes)
            && into[len_bytes..whole_bytes - TRAILER_BYTES] == *identity.as_bytes()
            && into[whole_bytes - TRAILER_BYTES..] == trailer(&into[..len_bytes], identity);
        if !good {
            self.counts[4].fetch_add(1, Relaxed);
            self.remove(|folder| folder.remove_entry(&name), metadata.len());
            return false;
        }
        into.truncate(len_bytes);
        let is_old = |time: SystemTime| time.elapsed().is_ok_and(|age| age > TOUCH);
        if self.folder.is_writable() && metadata.modified().is_ok_and(is_old) {
            self.folder.touch(&file);
        }
        true
    }

    /// Answers a read from the cache, if it can.
    fn hit(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> bool {
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

    /// Counts a miss and caches the bytes that were read.
    fn missed(&self, want: &RangeRequest<'_>, bytes: &[u8]) {
        if want.version.is_empty() {
            return;
        }
        self.counts[1].fetch_add(1, Relaxed);
        let location = self.inner.location(want.key);
        let name = name_of(&location, want.version, want.range.start, want.range.end);
        self.keep(name, &identity(&location, want.version, want.range.start, want.range.end), bytes);
    }

    /// Caches `bytes` if there is room, or if an entry needed later can be evicted. Failing to cache is no error.
    fn keep(&self, name: Name, identity: &str, bytes: &[u8]) {
        let size_bytes = (bytes.len() + identity.len() + TRAILER_BYTES) as u64;
        if !self.folder.is_writable() {
            return;
        }
        let Some((file, new)) = self.room_for(size_bytes, self.next_use(name)) else { return };
        match self.write(file, &new, name, identity, bytes) {
            Ok(true) => {
                self.counts[2].fetch_add(1, Relaxed);
                let _ = self.folder.remove_new(&new); // gone already if it was renamed
                self.line_up(name, size_bytes);
            }
            // Another process was quicker.
            Ok(false) => self.remove(|folder| folder.remove_new(&new), size_bytes),
            // For example a full disk: the bytes are delivered all the same.
            Err(_) => {
                self.counts[5].fetch_add(1, Relaxed);
                self.remove(|folder| folder.remove_new(&new), size_bytes);
            }
        }
    }

    /// Adds an entry that was used to the candidates for eviction. Duplicates are allowed; entries that no longer exist
    /// are skipped.
    fn line_up(&self, name: Name, size_bytes: u64) {
        let mut victims = self.victims.lock().unwrap_or_else(PoisonError::into_inner);
        if !victims.heap.is_empty() {
            let next_use = self.next_use(name).unwrap_or(f64::MAX);
            victims.heap.push(Victim { next_use, name, size_bytes });
            if victims.heap.len() > 2 * victims.distinct + TWICE {
                self.thin_out(&mut victims);
            }
        }
    }

    /// Removes duplicates: otherwise the heap would grow with every use until something is evicted.
    fn thin_out(&self, victims: &mut Victims) {
        let mut once: HashMap<Name, Victim> = HashMap::with_capacity(victims.distinct);
        for victim in victims.heap.drain() {
            let known = once.entry(victim.name).or_insert(Victim { next_use: f64::NEG_INFINITY, ..victim });
            known.next_use = known.next_use.max(victim.next_use);
        }
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        for victim in once.values_mut().filter(|victim| victim.next_use != NEVER) {
            victim.next_use = next_use(&users, victim.name).unwrap_or(victim.next_use);
        }
        victims.distinct = once.len();
        victims.heap = once.into_values().collect();
    }

    /// Writes an entry that was begun; false if it exists already.
    fn write(&self, mut file: File, new: &str, name: Name, identity: &str, bytes: &[u8]) -> std::io::Result<bool> {
        file.write_all(bytes)?;
        file.write_all(identity.as_bytes())?;
        file.write_all(&trailer(bytes, identity))?;
        self.folder.publish(&file, new, &text_of(name))
    }

    /// Reserves `size_bytes` of the budget, evicting entries that are needed later if it must, and begins an entry of
    /// that size. `None` if there are no such entries, or the disk is full.
    fn room_for(&self, size_bytes: u64, next_use: Option<f64>) -> Option<(File, String)> {
        if size_bytes > self.budget_bytes {
            return None;
        }
        let lock = self.folder.locked()?;
        let mut used_bytes = lock.used_bytes();
        if used_bytes + size_bytes > self.budget_bytes {
            let mut victims = self.victims.lock().unwrap_or_else(PoisonError::into_inner);
            let epoch = next_use.unwrap_or_default() as u64;
            let mut is_counted = false;
            while used_bytes + size_bytes > self.budget_bytes {
                if !is_counted && (victims.heap.is_empty() || victims.epoch != epoch) {
                    is_counted = true;
                    used_bytes = self.count(&mut victims.heap);
                    (victims.epoch, victims.distinct) = (epoch, victims.heap.len());
                    continue;
                }
                let Some(last) = victims.heap.pop() else {
                    lock.set_used_bytes(used_bytes);
                    return None;
                };
                if last.next_use == NEVER {
                    victims.heap.push(last);
                    lock.set_used_bytes(used_bytes);
                    return None;
                }
                // Its next use may have moved further away since it was added.
                if let Some(now) = self.next_use(last.name)
                    && now > last.next_use
                {
                    victims.heap.push(Victim { next_use: now, ..last });
                    continue;
                }
                if last.next_use < 0.0 || next_use.is_some_and(|next_use| next_use >= last.next_use) {
                    victims.heap.push(last);
                    lock.set_used_bytes(used_bytes);
                    return None;
                }
                if self.folder.remove_entry(&text_of(last.name)).is_ok() {
                    self.counts[3].fetch_add(1, Relaxed);
                    used_bytes = used_bytes.saturating_sub(last.size_bytes);
                }
            }
        }
        let begun = self.folder.begin(size_bytes);
        if begun.is_err() {
            self.counts[5].fetch_add(1, Relaxed);
        }
        // Reserved before the count is known to be writable: a count that is too high does no harm.
        begun.ok().filter(|_| lock.set_used_bytes(used_bytes + size_bytes))
    }

    /// Counts the bytes of all entries, and makes them the candidates for eviction.
    fn count(&self, victims: &mut BinaryHeap<Victim>) -> u64 {
        let mut found = Vec::new();
        // First, so that an entry published meanwhile is counted twice rather than not at all.
        let begun_bytes = self.folder.begun_bytes();
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        let may_remove_all = self.folder.may_remove_all();
        for part in 0..=255u8 {
            self.folder.entries(part, |text, look| {
                // A file without the name of an entry is not ours.
                let Some(name) = parse_name(text) else { return };
                let known = users.iter().find_map(|user| Some(user.samples.get(&name)?.1));
                if let (Some(next_use), Some(size_bytes), true) = (next_use(&users, name), known, may_remove_all) {
                    found.push(Victim { next_use, name, size_bytes });
                    return;
                }
                let Some(entry) = look() else { return };
                let next_use = match next_use(&users, name) {
                    // This user cannot remove it.
                    _ if !entry.is_removable => NEVER,
                    Some(next_use) => next_use,
                    // An entry of another job: protected while it is in use, and after that the first to be evicted.
                    None if entry.changed.elapsed().unwrap_or_default() > LEASE => f64::MAX,
                    None => -1.0,
                };
                found.push(Victim { next_use, name, size_bytes: entry.size_bytes });
            });
        }
        *victims = found.into();
        victims.iter().map(|victim| victim.size_bytes).sum::<u64>() + begun_bytes
    }

    /// The next use of an entry, as far as this process knows.
    fn next_use(&self, name: Name) -> Option<f64> {
        next_use(&self.users.read().unwrap_or_else(PoisonError::into_inner), name)
    }

    /// Removes a file and its share of the budget under one lock, so that no count falls between the two.
    fn remove(&self, remove: impl FnOnce(&CacheFolder) -> std::io::Result<()>, size_bytes: u64) {
        if !self.folder.is_writable() {
            return;
        }
        let lock = self.folder.locked();
        if remove(&self.folder).is_ok()
            && let Some(lock) = lock
        {
            lock.set_used_bytes(lock.used_bytes().saturating_sub(size_bytes));
        }
    }
}

/// The earliest next use of an entry among all users.
fn next_use(users: &[User], name: Name) -> Option<f64> {
    let uses = users.iter().filter_map(|user| Some(user.outlook.upgrade()?.next_use(user.samples.get(&name)?.0)));
    uses.reduce(f64::min)
}

fn name_of(location: &str, version: &str, start: u64, end: u64) -> Name {
    let words = [hash_name(location), hash_name(version), start, end];
    let first = hash_words(&words);
    [first, hash_words(&[first, end, start, hash_name(version).rotate_left(32), hash_name(location)])]
}

/// The name of an entry's file; its first two letters are those of the folder it is in.
fn text_of(name: Name) -> String {
    format!("{:016x}{:016x}", name[0], name[1])
}

fn parse_name(text: &str) -> Option<Name> {
    let word = |text: &str| u64::from_str_radix(text, 16).ok();
    let is_name = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_name.then(|| Some([word(&text[..16])?, word(&text[16..])?])).flatten()
}

/// The full identity of an entry; stored in it, so that a hash collision is detected.
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

impl SourceCache for Cache {
    fn follow(
        &self,
        samples: &mut dyn Iterator<Item = (u64, (&Object, Range<u64>))>,
        next_use: Weak<dyn NextUse>,
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
        users.push(User { samples: entries, outlook: next_use });
        Ok(())
    }

    fn remark(&self) -> Option<&str> {
        self.folder.remark()
    }

    fn counts(&self) -> CacheCounts {
        let counts = self.counts.each_ref().map(|count| count.load(Relaxed));
        let [hits, misses, written, evicted, damaged, failed] = counts;
        CacheCounts { hits, misses, written, evicted, damaged, failed }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Source for Cache {
    fn location(&self, key: &str) -> String {
        self.inner.location(key)
    }

    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        if self.hit(want, into) {
            return Ok(());
        }
        self.inner.get(want, into)?;
        self.missed(want, into);
        Ok(())
    }

    fn get_many(&self, wants: &[RangeRequest<'_>], into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        let is_hit: Vec<bool> = wants.iter().zip(&mut *into).map(|(want, into)| self.hit(want, into)).collect();
        let first = is_hit.iter().position(|is_hit| !is_hit).unwrap_or(wants.len());
        let end = is_hit.iter().rposition(|is_hit| !is_hit).map_or(first, |last| last + 1);
        // Hits between two misses are read again, so that adjacent ranges still share one request.
        let read = answers(self, self.inner.get_many(&wants[first..end], &mut into[first..end]), end - first);
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

    fn cache(&self) -> Option<&dyn SourceCache> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::LocalFiles;

    /// Nothing of it may grow with the number of epochs.
    #[test]
    fn the_line_of_those_that_may_go_stays_as_long_as_there_are_entries() {
        let (data, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        const FILES: usize = 50;
        (0..FILES).for_each(|at| std::fs::write(data.path().join(format!("{at:02}")), [0; 1000]).unwrap());
        let files = Arc::new(LocalFiles::new(data.path()));
        let objects = files.list("", &Stop::default()).unwrap();
        let read = |cache: &Cache, count: usize| {
            for Object { key, version, size_bytes, .. } in &objects[..count] {
                let want = RangeRequest { key, range: 0..*size_bytes, version, until: None, stop: &Stop::default() };
                cache.get(&want, &mut Vec::new()).unwrap();
            }
        };
        // Something was evicted once; from then on a read finds its entry.
        let cache = Cache::open(files.clone(), dir.path(), 1_200 * 40, CacheMode::Private).unwrap();
        read(&cache, FILES);
        let held = |cache: &Cache| cache.victims.lock().unwrap().heap.len();
        assert!(held(&cache) > 0);
        for _ in 0..200 {
            read(&cache, 30);
            assert!(held(&cache) <= 2 * FILES + TWICE + 1, "{} in line", held(&cache));
        }
        // Eviction still works.
        let before = cache.counts();
        read(&cache, FILES);
        assert!(cache.counts().evicted > before.evicted || cache.counts().misses > before.misses);
        assert_eq!(cache.counts().damaged, 0);
    }
}
