//! The files in an archive, and the archive as a file that is read in large pieces: the basis of each format's index.
//! Owns the rules for names of members.

use crate::read::archive::encoding::Encoding;
use crate::read::source::{Object, RangeRequest, ReadError, Source};
use crate::stop::Stop;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path};

/// One file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in the archive, with `/` between folders.
    pub name: String,
    /// First byte to read in the archive.
    pub start: u64,
    /// Number of bytes to read.
    pub stored_bytes: u64,
    /// The encoding of the file in them.
    pub(crate) encoding: Encoding,
    /// Its label, if the archive says so.
    pub class: Option<u32>,
}

impl Member {
    /// Size of the file.
    pub fn size_bytes(&self) -> u64 {
        self.encoding.size_bytes(self.stored_bytes)
    }
}

/// The reason why an archive has no index.
#[derive(Debug)]
pub(in crate::read) enum Problem {
    /// It could not be read.
    Read(ReadError),
    /// Its content is invalid.
    Format(String),
}

/// The reason why an archive is invalid.
#[derive(Debug)]
pub(in crate::read) struct FormatError(pub(in crate::read) String);

impl From<FormatError> for Problem {
    fn from(FormatError(problem): FormatError) -> Problem {
        Problem::Format(problem)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Problem {
        Problem::Read(error)
    }
}

impl Problem {
    /// The [`ReadError`] inside an error that a library returned from [`ArchiveReader`]; `words` describe any other.
    pub(in crate::read) fn of(error: io::Error, words: impl FnOnce(io::Error) -> String) -> Problem {
        match error.downcast::<ReadError>() {
            Ok(error) => Problem::Read(error),
            Err(error) => Problem::Format(words(error)),
        }
    }
}

/// True for members that macOS adds to its archives, which are useless elsewhere and would count as an extra class or
/// sample: file attributes (`._NAME`, `__MACOSX/`), and the display settings of a folder.
pub(in crate::read) fn is_of_macos(name: &[u8]) -> bool {
    let mut parts = name.split(|byte| *byte == b'/').rev().skip_while(|part| part.is_empty());
    parts.clone().next().is_some_and(|file| file.starts_with(b"._") || file == b".DS_Store")
        || parts.any(|part| part == b"__MACOSX")
}

/// The name of a member without redundant parts, if it stays within its folder.
pub(in crate::read) fn clean_name(name: &[u8]) -> Result<String, FormatError> {
    let Ok(name) = std::str::from_utf8(name) else {
        return Err(FormatError(format!("the name of the member {} is not UTF-8", String::from_utf8_lossy(name))));
    };
    if name.contains('\0') {
        return Err(FormatError(format!(
            "the name of the member {name:?} has a NUL byte in it, which no file's name can have"
        )));
    }
    if name.contains('\\') {
        return Err(FormatError(format!("the name of the member {name:?} has a backslash in it instead of a `/`")));
    }
    let parts: Option<Vec<&str>> = Path::new(name)
        .components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| if let Component::Normal(part) = part { part.to_str() } else { None })
        .collect();
    match parts.filter(|parts| !parts.is_empty() && !name.contains(['\n', '\t', '\r'])) {
        Some(parts) => Ok(parts.join("/")),
        None => Err(FormatError(format!("the name of the member {name:?} leads out of its folder, or is none"))),
    }
}

/// Bytes of one request while an archive is indexed: with members of 100 KB, one request for eighty of them.
const WINDOW_BYTES: u64 = 8 << 20;

/// An archive as a file that is read in large pieces.
#[derive(Debug)]
pub(in crate::read) struct ArchiveReader<'a> {
    source: &'a dyn Source,
    object: &'a Object,
    at: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> ArchiveReader<'a> {
    pub(super) fn new(source: &'a dyn Source, object: &'a Object) -> ArchiveReader<'a> {
        ArchiveReader { source, object, at: 0, window: Vec::new(), window_start: 0 }
    }

    /// Name of the archive, without its folder.
    pub(in crate::read) fn name(&self) -> &'a str {
        self.object.key.rsplit('/').next().unwrap_or_default()
    }

    /// Size of the archive.
    pub(in crate::read) fn size_bytes(&self) -> u64 {
        self.object.size_bytes
    }

    /// The bytes from `at` on, at least one unless the archive ends there. `is_last` says that bytes before `at` are
    /// needed next, so that near the end of the archive the window reaches back.
    pub(in crate::read) fn from(&mut self, at: u64, is_last: bool) -> Result<&[u8], ReadError> {
        let size = self.object.size_bytes;
        let held = self.window_start..self.window_start + self.window.len() as u64;
        if !held.contains(&at) && at < size {
            let start = if is_last { at.min(size.saturating_sub(WINDOW_BYTES)) } else { at };
            let stop = Stop::default();
            let Object { key, version, .. } = self.object;
            let range = start..size.min(start + WINDOW_BYTES);
            self.source.get(&RangeRequest { key, range, version, until: None, stop: &stop }, &mut self.window)?;
            self.window_start = start;
        }
        Ok(self.window.get(at.saturating_sub(self.window_start) as usize..).unwrap_or_default())
    }
}

impl Read for ArchiveReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = self.from(self.at, false).map_err(io::Error::other)?;
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for ArchiveReader<'_> {
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
