//! Samples inside tar archives (shards), without unpacking them: where each member lies, found out once and kept. Owns
//! the index and what is refused of an archive; the headers are read by the crate `tar`.
//!
//! A member stands for the file that unpacking the archive where it lies would give: `train/000.tar` with the member
//! `cat/1.jpg` is `train/cat/1.jpg`. So shards and the folder they were packed from are the same data set.

use super::source::{Get, Object, ReadError, Source, Stop};
use super::storage::Storage;
use crate::error::{Error, Result};
use crate::plan::rng::{hash_name, hash_words};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tar::EntryType;

/// Ends the name of an archive.
pub const EXTENSION: &str = ".tar";

/// Ends the name of an index that lies beside its archive.
pub const INDEX_EXTENSION: &str = ".tar.index";

/// What is read at once while an archive is indexed: with members of 100 KB, one request for eighty of them.
const WINDOW_BYTES: u64 = 8 << 20;

/// One file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in the archive, with `/` between folders.
    pub name: String,
    /// Where its bytes begin.
    pub start: u64,
    /// How many there are.
    pub size_bytes: u64,
}

/// An archive as a file that is read in windows.
struct Windows<'a> {
    source: &'a dyn Source,
    object: &'a Object,
    at: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl Read for Windows<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let size = self.object.size_bytes;
        let held = self.window_start..self.window_start + self.window.len() as u64;
        if !held.contains(&self.at) && self.at < size {
            let range = self.at..size.min(self.at + WINDOW_BYTES);
            let stop = Stop::default();
            let Object { key, version, .. } = self.object;
            let want = Get { key, range, version, until: None, stop: &stop };
            self.source.get(&want, &mut self.window).map_err(io::Error::other)?;
            self.window_start = self.at;
        }
        let rest = self.window.get((self.at - self.window_start) as usize..).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Windows<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.object.size_bytes.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

/// The files in an archive, in the order of their names.
///
/// # Errors
/// An archive that cannot be read, is damaged or cut, has two members of one name, a link, a device, or a name that
/// would lead out of the folder it lies in: with the name of the member.
pub fn index(source: &dyn Source, object: &Object) -> Result<Vec<Member>> {
    let location = source.location(&object.key);
    let wrong = |problem: String| Error::dataset(&location, problem, "Write the archive again, with files only");
    let windows = Windows { source, object, at: 0, window: Vec::new(), window_start: 0 };
    let mut archive = tar::Archive::new(windows);
    let mut members = Vec::new();
    let failed = |e: io::Error, after: Option<&Member>| match e.downcast::<ReadError>() {
        Ok(error) => error.into_error(),
        Err(e) => wrong(match after {
            None => format!("it is no tar archive: {e}"),
            Some(member) => format!("it is damaged or cut after the member {}: {e}", member.name),
        }),
    };
    for entry in archive.entries_with_seek().map_err(|e| failed(e, None))? {
        let entry = entry.map_err(|e| failed(e, members.last()))?;
        let name = entry.path_bytes();
        let Ok(name) = std::str::from_utf8(&name) else {
            return Err(wrong(format!("the name of the member {} is not UTF-8", String::from_utf8_lossy(&name))));
        };
        match entry.header().entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            EntryType::Regular | EntryType::Continuous => {}
            other => {
                let kind = match other {
                    EntryType::Link | EntryType::Symlink => "a link",
                    EntryType::GNUSparse => "a sparse file",
                    _ => "no file",
                };
                return Err(wrong(format!("the member {name} is {kind}")));
            }
        }
        let parts: Option<Vec<&str>> = Path::new(name)
            .components()
            .filter(|part| *part != Component::CurDir)
            .map(|part| if let Component::Normal(part) = part { part.to_str() } else { None })
            .collect();
        let Some(parts) = parts.filter(|parts| !parts.is_empty() && !name.contains(['\n', '\t', '\r'])) else {
            return Err(wrong(format!("the name of the member {name:?} leads out of its folder, or is none")));
        };
        let member = Member { name: parts.join("/"), start: entry.raw_file_position(), size_bytes: entry.size() };
        if member.start.checked_add(member.size_bytes).is_none_or(|end| end > object.size_bytes) {
            return Err(wrong(format!(
                "the member {} claims {} bytes from byte {} on, but the archive ends at {}",
                member.name, member.size_bytes, member.start, object.size_bytes
            )));
        }
        members.push(member);
    }
    if members.is_empty() {
        return Err(wrong("there is no file in it".into()));
    }
    members.sort_by(|a, b| a.name.cmp(&b.name));
    match members.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(wrong(format!("it has two members of the name {}", pair[0].name))),
        None => Ok(members),
    }
}

const HEADER: &str = "feedline tar index 1";
const END: &str = "end\n";

/// An index as text: of which size its archive is, then start, size and name of each member.
pub fn to_text(members: &[Member], archive_bytes: u64) -> String {
    let lines = members.iter().map(|member| format!("{}\t{}\t{}\n", member.start, member.size_bytes, member.name));
    format!("{HEADER}\t{archive_bytes}\n{}{END}", lines.collect::<String>())
}

/// The index that `text` holds, if it is one, is whole, and is of an archive of this size.
fn parse(text: &str, archive_bytes: u64) -> Option<Vec<Member>> {
    let mut lines = text.strip_suffix(END)?.lines();
    let size: u64 = lines.next()?.strip_prefix(HEADER)?.trim().parse().ok()?;
    let member = |line: &str| {
        let mut parts = line.splitn(3, '\t');
        let (start, size_bytes) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let end: u64 = u64::checked_add(start, size_bytes)?;
        (end <= archive_bytes).then_some(Member { name: parts.next()?.into(), start, size_bytes })
    };
    let members: Option<Vec<Member>> = lines.map(member).collect();
    members.filter(|members| size == archive_bytes && !members.is_empty())
}

/// The members of each of `archives`: from the index beside it, else from the one that was kept, else indexed now, many at
/// once, and kept. `objects` is the whole listing, sorted. `progress` hears how many are done.
///
/// # Errors
/// As [`index`], of the first archive that has something wrong.
pub fn indexes(
    source: &dyn Source,
    archives: &[&Object],
    objects: &[Object],
    storage: &Storage,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Vec<Member>>> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found: Mutex<Vec<Option<Result<Vec<Member>>>>> = Mutex::new(archives.iter().map(|_| None).collect());
    let work = || {
        while let Some((at, archive)) = Some(next.fetch_add(1, Relaxed)).and_then(|at| Some((at, archives.get(at)?))) {
            let members = of(source, archive, objects, storage);
            let failed = members.is_err();
            found.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(members);
            if failed {
                next.store(archives.len(), Relaxed);
            }
            progress(done.fetch_add(1, Relaxed) + 1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..storage.requests_in_flight.min(archives.len()) {
            scope.spawn(work);
        }
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    if found.iter().all(|members| matches!(members, Some(Ok(_)))) {
        return found.into_iter().flatten().collect();
    }
    match found.into_iter().flatten().find_map(Result::err) {
        Some(error) => Err(error),
        None => unreachable!("an archive that was left out comes after one that failed"),
    }
}

fn of(source: &dyn Source, archive: &Object, objects: &[Object], storage: &Storage) -> Result<Vec<Member>> {
    let beside = format!("{}.index", archive.key);
    if let Ok(at) = objects.binary_search_by(|object| object.key.cmp(&beside)) {
        let (mut text, stop) = (Vec::new(), Stop::default());
        let Object { key, size_bytes, version } = &objects[at];
        let want = Get { key, range: 0..*size_bytes, version, until: None, stop: &stop };
        source.get(&want, &mut text).map_err(ReadError::into_error)?;
        return parse(&String::from_utf8_lossy(&text), archive.size_bytes).ok_or_else(|| {
            let problem = "this index is damaged, or of another archive than the one beside it";
            Error::dataset(source.location(key), problem, "Remove it; the archive is indexed anew")
        });
    }
    let name = hash_words(&[hash_name(&archive.key), hash_name(&archive.version), archive.size_bytes]);
    let kept: PathBuf = storage.listing_path(source).with_extension(format!("{name:016x}.index"));
    if let Some(members) = fs::read_to_string(&kept).ok().and_then(|text| parse(&text, archive.size_bytes)) {
        return Ok(members);
    }
    let members = index(source, archive)?;
    // Kept if that is possible; an archive can be indexed again.
    let _ = super::storage::keep_text(&kept, &to_text(&members, archive.size_bytes));
    Ok(members)
}
