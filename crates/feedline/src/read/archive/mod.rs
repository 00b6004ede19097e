//! Archives (shards) as the files in them, without unpacking: where each member lies, found out once and kept. Owns what
//! an index is and what no member may be; how each format is read stands in `tar.rs`, `zip.rs`, `mds.rs` and
//! `parquet.rs`.
//!
//! A member stands for the file that unpacking the archive where it lies would give: `train/000.tar` with the member
//! `cat/1.jpg` is `train/cat/1.jpg`. So archives and the folder they were packed from are the same data set. An archive
//! whose samples carry their labels has no such folder: there the members are `train/000.tar/key.jpg`.

mod mds;
#[cfg(feature = "parquet")]
pub(in crate::read) mod parquet;
mod tar;
pub(in crate::read) mod zip;

#[cfg(feature = "parquet")]
pub use parquet::{Packed as ParquetPacked, ParquetCodec};
pub use zip::Packed;

use super::remarks::Remarks;
use super::source::{Get, Object, ReadError, Source, Stop};
use super::text::text_in;
use crate::error::{Error, Result};
use crate::plan::rng::{hash_name, hash_words};
use crate::read::list::images::is_picture;
use crate::read::source::local::LocalFiles;
use crate::read::source::open::Storage;
use std::collections::HashSet;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Ends the name of an index that lies beside its archive: `000.tar.index`.
pub const INDEX_EXTENSION: &str = ".index";

/// Lies in each folder of a pack until all of it is written. A folder that has it, or a copy of one, is no data set.
pub const INCOMPLETE: &str = "pack.incomplete";

/// What is read at once while an archive is indexed: with members of 100 KB, one request for eighty of them.
const WINDOW_BYTES: u64 = 8 << 20;

/// What an archive holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// Its files, in the order of their names.
    pub members: Vec<Member>,
    /// What else is in it, and what is strange about it.
    pub remarks: Remarks,
}

/// One file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in the archive, with `/` between folders.
    pub name: String,
    /// Where what has to be read of the archive begins.
    pub start: u64,
    /// How many bytes there are to read.
    pub stored_bytes: u64,
    /// How the file comes out of them.
    pub packing: Packing,
    /// Its label, if the archive says so.
    pub class: Option<u32>,
}

/// How a file stands in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    /// Behind a header of its own, perhaps compressed, with a checksum.
    Zip(zip::Packed),
    /// In a page of a Parquet file.
    #[cfg(feature = "parquet")]
    Parquet(parquet::Packed),
}

impl Member {
    /// Size of the file.
    pub fn size_bytes(&self) -> u64 {
        self.packing.size_bytes(self.stored_bytes)
    }
}

impl Packing {
    /// Size of the file that takes `stored_bytes` in the archive.
    pub(in crate::read) fn size_bytes(self, stored_bytes: u64) -> u64 {
        match self {
            Packing::Plain => stored_bytes,
            Packing::Zip(packed) => packed.size_bytes,
            #[cfg(feature = "parquet")]
            Packing::Parquet(packed) => packed.size_bytes(),
        }
    }

    /// From what was read to the file.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(in crate::read) fn unpack(self, bytes: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Packing::Plain => Ok(()),
            Packing::Zip(packed) => zip::unpack(packed, bytes),
            #[cfg(feature = "parquet")]
            Packing::Parquet(packed) => parquet::unpack(packed, bytes),
        }
    }

    fn to_text(self) -> String {
        match self {
            Packing::Plain => "-".to_owned(),
            Packing::Zip(packed) => packed.to_text(),
            #[cfg(feature = "parquet")]
            Packing::Parquet(packed) => packed.to_text(),
        }
    }

    fn parse(text: &str) -> Option<Packing> {
        if text == "-" {
            return Some(Packing::Plain);
        }
        let packing = zip::Packed::parse(text).map(Packing::Zip);
        #[cfg(feature = "parquet")]
        let packing = packing.or_else(|| parquet::Packed::parse(text).map(Packing::Parquet));
        packing
    }

    /// Whether it is the names of the classes that an archive brings, which is no sample and no member in its own right.
    pub(in crate::read) fn is_class_names(self) -> bool {
        match self {
            #[cfg(feature = "parquet")]
            Packing::Parquet(parquet::Packed::Names { .. }) => true,
            _ => false,
        }
    }
}

/// What kinds of archives there are, by the end of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::read) enum Format {
    Tar,
    Zip,
    Mds,
    Parquet,
}

fn format(key: &str) -> Option<Format> {
    let (_, extension) = key.rsplit_once('.')?;
    match extension {
        "tar" => Some(Format::Tar),
        "zip" | "npz" => Some(Format::Zip),
        "mds" => Some(Format::Mds),
        "parquet" => Some(Format::Parquet),
        _ => None,
    }
}

/// Whether an object of this name is an archive, wherever it lies.
pub fn is_archive(key: &str) -> bool {
    format(key).is_some() && !is_sample(key)
}

/// Whether a name is that of an archive, or of a file that is opened as one only when it is named: a folder may hold
/// a million of them, each a sample.
pub(in crate::read) fn is_openable(key: &str) -> bool {
    format(key).is_some()
}

pub(in crate::read) fn is_parquet(key: &str) -> bool {
    format(key) == Some(Format::Parquet)
}

/// The folders of a data set that may hold its splits.
pub(in crate::read) const SPLITS: [&str; 4] = ["train", "test", "val", "valid"];

/// The split that an archive is called after, `train.zip` or `train-000000.tar`.
pub(in crate::read) fn split_of(name: &str) -> Option<&'static str> {
    let rest = |split: &&str| name.strip_prefix(*split).is_some_and(|rest| rest.starts_with(['.', '-', '_']));
    SPLITS.into_iter().find(rest)
}

/// Whether a name is that of an archive that is compressed as a whole, so that nothing in it can be found.
pub(in crate::read) fn is_compressed(name: &str) -> bool {
    let Some((inner, extension)) = name.rsplit_once('.') else { return false };
    let is_packer = ["gz", "bz2", "xz", "zst", "zstd", "lz4", "br", "snappy"].contains(&extension);
    matches!(extension, "tgz" | "tbz2" | "txz") || is_packer && matches!(format(inner), Some(Format::Tar | Format::Mds))
}

/// Which of these objects are archives to look into: those in the folder itself or in that of a split. A Parquet file is
/// one where no picture and no other archive lies in its folder or below: there it says something about them.
pub fn finder(objects: &[Object]) -> impl Fn(&str) -> bool + use<> {
    let folder = |key: &str| key.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
    let is_found = move |key: &str| {
        let folder = folder(key);
        is_archive(key) && (folder.is_empty() || SPLITS.contains(&&*folder))
    };
    let mut described = HashSet::new();
    if objects.iter().any(|object| is_parquet(&object.key)) {
        for Object { key, .. } in objects {
            if is_picture(Path::new(key)) || is_found(key) && !is_parquet(key) {
                let mut folder = folder(key);
                while described.insert(folder.clone()) && !folder.is_empty() {
                    folder.truncate(folder.rfind('/').unwrap_or_default());
                }
            }
        }
    }
    move |key| is_found(key) && !(is_parquet(key) && described.contains(&folder(key)))
}

fn is_sample(key: &str) -> bool {
    key.ends_with(".npz")
}

/// The files in an archive, in the order of their names.
///
/// # Errors
/// An archive that cannot be read, is damaged, cut or of an unknown kind, has two members of one name, a link, a
/// device, or a name that would lead out of the folder it lies in: with the name of the member.
pub fn index(source: &dyn Source, object: &Object) -> Result<Index> {
    match format(&object.key) {
        Some(format) => index_as(source, object, format),
        None => {
            Err(wrong(source, object, "its name does not end as that of an archive: .tar, .zip, .mds, .parquet".into()))
        }
    }
}

/// As [`index`], whatever the object is called.
pub(in crate::read) fn index_as(source: &dyn Source, object: &Object, format: Format) -> Result<Index> {
    let (reader, mut remarks) = (Windows::new(source, object), Remarks::default());
    let mut members = match format {
        Format::Tar => tar::index(reader, &mut remarks),
        Format::Zip => zip::index(reader),
        Format::Mds => mds::index(reader),
        #[cfg(feature = "parquet")]
        Format::Parquet => parquet::index(reader),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => {
            return Err(Error::Unsupported {
                what: format!("reading {}", source.location(&object.key)),
                remedy: "Build with the feature `parquet`: cargo install --path crates/feedline-cli --features parquet"
                    .into(),
            });
        }
    }
    .map_err(|problem| match problem {
        Problem::Read(error) => error.into_error(),
        Problem::Wrong(problem) => wrong(source, object, problem),
    })?;
    if members.is_empty() {
        return Err(wrong(source, object, "there is no file in it".into()));
    }
    if let Some(member) = members
        .iter()
        .find(|member| member.start.checked_add(member.stored_bytes).is_none_or(|end| end > object.size_bytes))
    {
        let problem = format!(
            "the member {} claims {} bytes from byte {} on, but the archive ends at {}",
            member.name, member.stored_bytes, member.start, object.size_bytes
        );
        return Err(wrong(source, object, problem));
    }
    members.sort_by(|a, b| a.name.cmp(&b.name));
    match members.array_windows().find(|[one, other]| one.name == other.name) {
        Some([one, _]) => Err(wrong(source, object, format!("it has two members of the name {}", one.name))),
        None => Ok(Index { members, remarks }),
    }
}

fn wrong(source: &dyn Source, object: &Object, problem: String) -> Error {
    let remedy = "Write the archive again; or move it elsewhere, if it is no part of the data";
    Error::dataset(source.location(&object.key), problem, remedy)
}

/// Why an archive has no index.
#[derive(Debug)]
pub(in crate::read) enum Problem {
    /// It could not be read.
    Read(ReadError),
    /// It is not as it should be.
    Wrong(String),
}

/// What is wrong with an archive.
#[derive(Debug)]
pub(in crate::read) struct Wrong(pub(in crate::read) String);

impl From<Wrong> for Problem {
    fn from(Wrong(problem): Wrong) -> Problem {
        Problem::Wrong(problem)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        Problem::Read(error)
    }
}

impl Problem {
    /// What reading through [`Windows`] failed with, by way of a library; `words` say what else it can be.
    pub(in crate::read) fn of(error: io::Error, words: impl FnOnce(io::Error) -> String) -> Problem {
        match error.downcast::<ReadError>() {
            Ok(error) => Problem::Read(error),
            Err(error) => Problem::Wrong(words(error)),
        }
    }
}

/// Whether a member is one that macOS adds to its archives, which is of no use elsewhere and would be a class or a sample
/// more: what a file has beside its content (`._NAME`, `__MACOSX/`), and how a window shows a folder.
pub(in crate::read) fn is_of_macos(name: &[u8]) -> bool {
    let mut parts = name.split(|byte| *byte == b'/').rev().skip_while(|part| part.is_empty());
    parts.clone().next().is_some_and(|file| file.starts_with(b"._") || file == b".DS_Store")
        || parts.any(|part| part == b"__MACOSX")
}

/// The name of a member with its needless parts left out, if it stays within its folder.
pub(in crate::read) fn clean_name(name: &[u8]) -> Result<String, Wrong> {
    let Ok(name) = std::str::from_utf8(name) else {
        return Err(Wrong(format!("the name of the member {} is not UTF-8", String::from_utf8_lossy(name))));
    };
    if name.contains('\0') {
        return Err(Wrong(format!(
            "the name of the member {name:?} has a NUL byte in it, which no file's name can have"
        )));
    }
    if name.contains('\\') {
        return Err(Wrong(format!("the name of the member {name:?} has a backslash in it instead of a `/`")));
    }
    let parts: Option<Vec<&str>> = Path::new(name)
        .components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| if let Component::Normal(part) = part { part.to_str() } else { None })
        .collect();
    match parts.filter(|parts| !parts.is_empty() && !name.contains(['\n', '\t', '\r'])) {
        Some(parts) => Ok(parts.join("/")),
        None => Err(Wrong(format!("the name of the member {name:?} leads out of its folder, or is none"))),
    }
}

/// An archive as a file that is read in large pieces.
#[derive(Debug)]
pub(in crate::read) struct Windows<'a> {
    source: &'a dyn Source,
    object: &'a Object,
    at: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Windows<'a> {
    fn new(source: &'a dyn Source, object: &'a Object) -> Windows<'a> {
        Windows { source, object, at: 0, window: Vec::new(), window_start: 0 }
    }

    /// Name of the archive, without its folder.
    pub(in crate::read) fn name(&self) -> &'a str {
        self.object.key.rsplit('/').next().unwrap_or_default()
    }

    /// Size of the archive.
    pub(in crate::read) fn size_bytes(&self) -> u64 {
        self.object.size_bytes
    }

    /// What is there from `at` on, at least one byte unless the archive ends there. `is_last` says that what lies before
    /// is wanted next, if the archive ends soon.
    pub(in crate::read) fn from(&mut self, at: u64, is_last: bool) -> Result<&[u8], ReadError> {
        let size = self.object.size_bytes;
        let held = self.window_start..self.window_start + self.window.len() as u64;
        if !held.contains(&at) && at < size {
            let start = if is_last { at.min(size.saturating_sub(WINDOW_BYTES)) } else { at };
            let stop = Stop::default();
            let Object { key, version, .. } = self.object;
            let range = start..size.min(start + WINDOW_BYTES);
            self.source.get(&Get { key, range, version, until: None, stop: &stop }, &mut self.window)?;
            self.window_start = start;
        }
        Ok(self.window.get(at.saturating_sub(self.window_start) as usize..).unwrap_or_default())
    }
}

impl Read for Windows<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = self.from(self.at, false).map_err(io::Error::other)?;
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

/// What may be done about members that are no samples.
pub(in crate::read) const REMEDY: &str = "Nothing of them is read: leave them, or write the archive again without them";

const HEADER: &str = "feedline index 3";
/// Before labels were those of the exact extension, and before sparse members were refused.
const HEADER_BEFORE: &str = "feedline index 2";
const END: &str = "end\n";

/// An index as text: of which size its archive is; then what was remarked, and of each member start, bytes, packing, label
/// (or `-`) and name.
pub fn to_text(index: &Index, archive_bytes: u64) -> String {
    let line = |Member { name, start, stored_bytes, packing, class }: &Member| {
        let packing = packing.to_text();
        let class = class.map_or("-".to_owned(), |class| class.to_string());
        format!("{start}\t{stored_bytes}\t{packing}\t{class}\t{name}\n")
    };
    let Index { members, remarks } = index;
    let lines: String = members.iter().map(line).collect();
    format!("{HEADER}\t{archive_bytes}\n{}{lines}{END}", remarks.to_lines())
}

/// What the text of an index holds.
enum Parsed {
    Index(Index),
    /// It is whole, but was made when less was known of such archives: they have to be looked at again.
    Old,
    Damaged,
}

/// The index that `text` holds, if it is one, is whole, and is of an archive of this name and size.
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
    let packing = Packing::parse(parts.next()?)?;
    let class = match parts.next()? {
        "-" => None,
        class => Some(class.parse().ok()?),
    };
    let end: u64 = u64::checked_add(start, stored_bytes)?;
    if let Packing::Zip(packed) = packing
        && packed.packed_bytes.checked_add(zip::HEADER_BYTES).is_none_or(|least| least > stored_bytes)
    {
        return None;
    }
    let name = parts.next().filter(|name| !name.contains('\0'))?;
    (end <= archive_bytes).then_some(Member { name: name.into(), start, stored_bytes, packing, class })
}

/// What is said of a folder in which [`INCOMPLETE`] lies.
pub(in crate::read) fn incomplete(folder: impl Into<PathBuf>) -> Error {
    let problem = format!("`feedline pack` has not finished this folder: there is a file {INCOMPLETE} in it");
    let remedy = "Remove the folder and pack again. If this is a copy of one that was finished since, copy the rest, remove \
                  the file here too, and list a bucket anew: feedline index --refresh URL";
    Error::dataset(folder, problem, remedy)
}

/// That none of the folders in which archives are looked for, or in which these lie, is a pack that was not finished.
///
/// # Errors
/// The first that is.
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

/// What each of `archives` holds: from the index beside it, else from the one that was kept, else indexed now, many at
/// once, and kept. `objects` is the whole listing, sorted. `progress` hears how many are done.
///
/// # Errors
/// As [`index`], of the first archive that has something wrong; a pack among `objects` that was not finished.
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

/// Writes an index beside each archive of `folder`, or beside each of `named`. `progress` hears how many are done, of how
/// many. Gives the numbers of archives and of files in them, and what was remarked, in words.
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
        let written = crate::read::source::open::keep_text(&path, &to_text(index, archive.size_bytes));
        written.map_err(|e| Error::io("write", path, e))?;
        remarks.append(&index.remarks, archive.key.rfind('/').map_or("", |at| &archive.key[..=at]));
    }
    let files = indexes.iter().map(|index| index.members.len()).sum();
    Ok((archives.len(), files, remarks.words(folder.display(), REMEDY)))
}

fn of(source: &dyn Source, archive: &Object, objects: &[Object], storage: &Storage) -> Result<Index> {
    #[cfg(not(feature = "parquet"))]
    if is_parquet(&archive.key) {
        return index(source, archive); // which says what to build
    }
    let beside = format!("{}{INDEX_EXTENSION}", archive.key);
    if let Ok(at) = objects.binary_search_by(|object| object.key.cmp(&beside))
        // What was written before its archive is of another one.
        && objects[at].changed_ns >= archive.changed_ns
    {
        let (mut text, stop) = (Vec::new(), Stop::default());
        let Object { key, size_bytes, version, .. } = &objects[at];
        let want = Get { key, range: 0..*size_bytes, version, until: None, stop: &stop };
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
    // Without a version nothing would tell an old index from a new one.
    let has_version = !archive.version.is_empty();
    let text = has_version.then(|| fs::read_to_string(&kept).ok()).flatten();
    if let Some(Parsed::Index(index)) = text.map(|text| parse(&text, &archive.key, archive.size_bytes)) {
        return Ok(index);
    }
    let index = index(source, archive)?;
    if !has_version {
        return Ok(index);
    }
    // Kept if that is possible; an archive can be indexed again.
    let _ = crate::read::source::open::keep_text(&kept, &to_text(&index, archive.size_bytes));
    Ok(index)
}
