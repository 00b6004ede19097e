//! Index files: their text, and their place: beside the archive, else cached, else made now.

use super::{index, tar, zip};
use crate::error::{Error, Result};
use crate::hash::{hash_name, hash_words};
use crate::read::archive::encoding::Encoding;
use crate::read::archive::member::Member;
use crate::read::archive::{Index, REMEDY, finder};
use crate::read::file::write_whole;
use crate::read::location::incomplete;
use crate::read::names::{Format, INCOMPLETE, INDEX_EXTENSION, SPLITS, format};
use crate::read::remarks::Remarks;
use crate::read::source::local::LocalFiles;
use crate::read::source::settings::Storage;
use crate::read::source::{Object, RangeRequest, ReadError, Source};
use crate::read::text::text_in;
use crate::stop::Stop;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

const HEADER: &str = "feedline index 3";

/// Older indexes: made when labels were taken by exact extension only, and sparse members were accepted.
const HEADER_BEFORE: &str = "feedline index 2";

const END: &str = "end\n";

/// An index as text: the size of its archive; then remarks; then start, bytes, encoding, label (or `-`) and name of
/// each member.
pub fn to_text(index: &Index, archive_bytes: u64) -> String {
    let line = |Member { name, start, stored_bytes, encoding, class }: &Member| {
        let encoding = encoding.to_text();
        let class = class.map_or("-".to_owned(), |class| class.to_string());
        format!("{start}\t{stored_bytes}\t{encoding}\t{class}\t{name}\n")
    };
    let Index { members, remarks } = index;
    let lines: String = members.iter().map(line).collect();
    format!("{HEADER}\t{archive_bytes}\n{}{lines}{END}", remarks.to_lines())
}

/// The parsed text of an index.
enum Parsed {
    Index(Index),
    /// Complete, but made when less was known of such archives: the archive must be indexed again.
    Old,
    Damaged,
}

/// Parses `text` as the index of an archive of this name and size.
fn parse(text: &str, key: &str, archive_bytes: u64) -> Parsed {
    let parsed = || -> Option<(Index, bool)> {
        let mut lines = text.strip_suffix(END)?.lines().peekable();
        let header = lines.next()?;
        let is_old = header.starts_with(HEADER_BEFORE);
        let size: u64 = header.strip_prefix(if is_old { HEADER_BEFORE } else { HEADER })?.trim().parse().ok()?;
        let mut remarks = Remarks::default();
        while lines.next_if(|line| !is_old && remarks.take_line(line)).is_some() {}
        let members: Option<Vec<Member>> = lines.map(|line| parse_member(line, archive_bytes)).collect();
        let members = members.filter(|members| size == archive_bytes && !members.is_empty())?;
        Some((Index { members, remarks }, is_old))
    };
    match parsed() {
        None => Parsed::Damaged,
        Some((Index { members, .. }, true))
            if format(key) == Some(Format::Tar)
                && members.iter().any(|member| member.class.is_some() || tar::may_be_sparse(&member.name)) =>
        {
            Parsed::Old
        }
        Some((index, _)) => Parsed::Index(index),
    }
}

fn parse_member(line: &str, archive_bytes: u64) -> Option<Member> {
    let mut parts = line.splitn(5, '\t');
    let (start, stored_bytes) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let encoding = Encoding::parse(parts.next()?)?;
    let class = match parts.next()? {
        "-" => None,
        class => Some(class.parse().ok()?),
    };
    let end: u64 = u64::checked_add(start, stored_bytes)?;
    if let Encoding::Zip(packed) = encoding
        && packed.packed_bytes.checked_add(zip::HEADER_BYTES).is_none_or(|least| least > stored_bytes)
    {
        return None;
    }
    let name = parts.next().filter(|name| !name.contains('\0'))?;
    (end <= archive_bytes).then_some(Member { name: name.into(), start, stored_bytes, encoding, class })
}

/// Checks that no folder which holds, or is searched for, archives is an unfinished pack.
///
/// # Errors
/// The first folder that is.
fn check_whole(source: &dyn Source, archives: &[&Object], objects: &[Object]) -> Result<()> {
    let folder = |key: &str| key.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
    let marks = objects.iter().filter(|object| object.key.rsplit('/').next() == Some(INCOMPLETE));
    for folder_of_mark in marks.map(|object| folder(&object.key)) {
        let is_looked_into = folder_of_mark.is_empty() || SPLITS.contains(&&*folder_of_mark);
        if is_looked_into || archives.iter().any(|archive| folder(&archive.key) == folder_of_mark) {
            return Err(incomplete(source.location(&folder_of_mark)));
        }
    }
    Ok(())
}

/// The index of each of `archives`: from the index beside it, else from the cache, else made now, many at once, and
/// cached. `objects` is the whole listing, sorted. `progress` is called with the number done.
///
/// # Errors
/// As [`index`], of the first archive that has something wrong; an unfinished pack among `objects`.
pub fn indexes(
    source: &dyn Source,
    archives: &[&Object],
    objects: &[Object],
    storage: &Storage,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Index>> {
    check_whole(source, archives, objects)?;
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found: Mutex<Vec<Option<Result<Index>>>> = Mutex::new(archives.iter().map(|_| None).collect());
    let work = || {
        while let Some((at, archive)) = Some(next.fetch_add(1, Relaxed)).and_then(|at| Some((at, archives.get(at)?))) {
            let index = of(source, archive, objects, storage);
            let failed = index.is_err();
            found.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(index);
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
    if found.iter().all(|index| matches!(index, Some(Ok(_)))) {
        return found.into_iter().flatten().collect();
    }
    match found.into_iter().flatten().find_map(Result::err) {
        Some(error) => Err(error),
        None => unreachable!("an archive that was left out comes after one that failed"),
    }
}

/// Writes an index beside each archive of `folder`, or beside each of `named`. `progress` is called with the number
/// done and the total. Returns the number of archives, the number of files in them, and the remarks in words.
///
/// # Errors
/// No archive there; as [`index`]; a file that cannot be written.
pub fn index_beside(
    folder: &Path,
    named: Option<&[String]>,
    storage: &Storage,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<(usize, usize, Vec<String>)> {
    let (source, stop) = (LocalFiles::new(folder), Stop::default());
    let objects = match named {
        Some(names) => names.iter().map(|name| source.head(name, &stop)).collect(),
        None => source.list("", &stop),
    };
    let mut objects: Vec<Object> = objects.map_err(ReadError::into_error)?;
    check_whole(&source, &[], &objects)?;
    if named.is_some() && folder.join(INCOMPLETE).exists() {
        return Err(incomplete(folder));
    }
    if named.is_none() {
        let is_archive = finder(&objects);
        objects.retain(|object| is_archive(&object.key));
    }
    if objects.is_empty() {
        return Err(Error::dataset(
            folder,
            "there is no archive in it, nor in its train, test, val or valid",
            "Name a folder with .tar, .zip, .mds or .parquet files, or such files",
        ));
    }
    let archives: Vec<&Object> = objects.iter().collect();
    let indexes = indexes(&source, &archives, &[], storage, &|done| progress(done, archives.len()))?;
    let mut remarks = Remarks::default();
    for (archive, index) in archives.iter().zip(&indexes) {
        let path = folder.join(format!("{}{INDEX_EXTENSION}", archive.key));
        let written = write_whole(&path, &to_text(index, archive.size_bytes));
        written.map_err(|e| Error::io("write", path, e))?;
        remarks.append(&index.remarks, archive.key.rfind('/').map_or("", |at| &archive.key[..=at]));
    }
    let files = indexes.iter().map(|index| index.members.len()).sum();
    Ok((archives.len(), files, remarks.words(folder.display(), REMEDY)))
}

fn of(source: &dyn Source, archive: &Object, objects: &[Object], storage: &Storage) -> Result<Index> {
    #[cfg(not(feature = "parquet"))]
    if crate::read::names::is_parquet(&archive.key) {
        return index(source, archive); // which says what to build
    }
    let beside = format!("{}{INDEX_EXTENSION}", archive.key);
    if let Ok(at) = objects.binary_search_by(|object| object.key.cmp(&beside))
        // An index older than its archive is ignored: it describes another one.
        && objects[at].changed_ns >= archive.changed_ns
    {
        let (mut text, stop) = (Vec::new(), Stop::default());
        let Object { key, size_bytes, version, .. } = &objects[at];
        let want = RangeRequest { key, range: 0..*size_bytes, version, until: None, stop: &stop };
        source.get(&want, &mut text).map_err(ReadError::into_error)?;
        match text_in(text).map_or(Parsed::Damaged, |text| parse(&text, &archive.key, archive.size_bytes)) {
            Parsed::Index(index) => return Ok(index),
            Parsed::Old => {}
            Parsed::Damaged => {
                let problem = "this index is damaged, or of another archive than the one beside it";
                let remedy = "Write it anew: feedline index FOLDER; or remove it";
                return Err(Error::dataset(source.location(key), problem, remedy));
            }
        }
    }
    let name = hash_words(&[hash_name(&archive.key), hash_name(&archive.version), archive.size_bytes]);
    let kept: PathBuf = storage.listing_path(source).with_extension(format!("{name:016x}.index"));
    // Without a version, an old index could not be told from a new one.
    let has_version = !archive.version.is_empty();
    let text = has_version.then(|| fs::read_to_string(&kept).ok()).flatten();
    if let Some(Parsed::Index(index)) = text.map(|text| parse(&text, &archive.key, archive.size_bytes)) {
        return Ok(index);
    }
    let index = index(source, archive)?;
    if !has_version {
        return Ok(index);
    }
    // A failed write is ignored; an archive can be indexed again.
    let _ = write_whole(&kept, &to_text(&index, archive.size_bytes));
    Ok(index)
}
