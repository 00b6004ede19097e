//! A local folder as a source: for a slow file system that is worth a cache (a cluster's), and for tests. Owns the
//! mapping of files to objects: the key is the path below the folder, the version the time of last change.

use crate::read::file::{open_at_once, regular, unusual};
use crate::read::names::{is_data, is_openable};
use crate::read::source::{Object, RangeRequest, ReadError, ReadErrorKind, Source};
use crate::stop::Stop;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The files below a folder.
#[derive(Debug)]
pub struct LocalFiles {
    root: PathBuf,
}

impl LocalFiles {
    /// The files below `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> LocalFiles {
        LocalFiles { root: root.into() }
    }

    fn failed(&self, key: &str, error: &std::io::Error) -> ReadError {
        let kind = match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => ReadErrorKind::Missing,
            ErrorKind::PermissionDenied => ReadErrorKind::Denied,
            _ if is_passing(error) => ReadErrorKind::Broken,
            _ => ReadErrorKind::Other,
        };
        ReadError::new(kind, self.location(key), error.to_string())
    }

    /// Adds the files below `folder`, whose key is `key`.
    fn walk(&self, folder: &Path, key: &str, prefix: &str, into: &mut Vec<Object>) -> Result<(), ReadError> {
        for entry in fs::read_dir(folder).map_err(|e| self.failed(key, &e))? {
            let entry = entry.map_err(|e| self.failed(key, &e))?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                let problem = format!("the name {} in it is not UTF-8", entry.file_name().display());
                return Err(ReadError::new(ReadErrorKind::Other, self.location(key), problem));
            };
            let key = if key.is_empty() { name } else { format!("{key}/{name}") };
            if !key.starts_with(prefix) && !prefix.starts_with(&format!("{key}/")) {
                continue;
            }
            // Follows links, as reading does.
            let metadata = fs::metadata(entry.path()).map_err(|e| self.failed(&key, &e))?;
            if metadata.is_dir() {
                self.walk(&entry.path(), &key, prefix, into)?;
            } else if key.starts_with(prefix) && is_file(&metadata, &key).map_err(|e| self.failed(&key, &e))? {
                into.push(object(key, &metadata));
            }
        }
        Ok(())
    }
}

/// True for a regular file. Anything else that is named like data is an error: a reader would wait for a pipe for ever.
fn is_file(metadata: &Metadata, key: &str) -> std::io::Result<bool> {
    match unusual(metadata.file_type()) {
        None => Ok(true),
        Some(kind) if is_data(key) || is_openable(key) => {
            let problem =
                format!("it is a {kind}, and no regular file: remove it from the data, or name another folder");
            Err(std::io::Error::new(ErrorKind::InvalidInput, problem))
        }
        Some(_) => Ok(false),
    }
}

/// Waits between the tries of [`tried`]. A cluster's file system that fails over takes longer, and then the run fails.
const WAITS: [Duration; 3] = [Duration::from_millis(20), Duration::from_millis(200), Duration::from_secs(1)];

/// True if the file system may well succeed on another try: a file server that has moved or does not answer, too many
/// open files, a device that failed once.
fn is_passing(error: &std::io::Error) -> bool {
    const EIO: i32 = 5;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(
        error.kind(),
        ErrorKind::Interrupted
            | ErrorKind::TimedOut
            | ErrorKind::WouldBlock
            | ErrorKind::StaleNetworkFileHandle
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
    ) || matches!(error.raw_os_error(), Some(EIO | ENFILE | EMFILE))
}

/// Calls `read`, up to four times while its failures may be temporary.
pub(in crate::read) fn tried(stop: &Stop, mut read: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    for wait in WAITS {
        match read() {
            Err(error) if is_passing(&error) && stop.sleep(wait) => {}
            other => return other,
        }
    }
    read()
}

fn object(key: String, metadata: &Metadata) -> Object {
    let changed_ns = metadata.mtime().max(0) as u64 * 1_000_000_000 + metadata.mtime_nsec().max(0) as u64;
    Object { key, size_bytes: metadata.len(), version: version(metadata), changed_ns }
}

fn version(metadata: &Metadata) -> String {
    format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec())
}

impl Source for LocalFiles {
    fn location(&self, key: &str) -> String {
        format!("file://{}/{key}", self.root.display().to_string().trim_end_matches('/'))
    }

    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        if want.stop.is_stopped() {
            return Err(ReadError::stopped(self.location(want.key)));
        }
        let failed = |e: std::io::Error| self.failed(want.key, &e);
        let file = open_at_once(&self.root.join(want.key)).map_err(failed)?;
        let metadata = regular(&file).map_err(failed)?;
        let (now, end) = (version(&metadata), want.range.end);
        if !want.version.is_empty() && now != want.version || metadata.len() < end {
            let problem = format!("the file was changed since it was listed: it has {} bytes now", metadata.len());
            return Err(ReadError::new(ReadErrorKind::Changed, self.location(want.key), problem));
        }
        let len_bytes = want.len_bytes() as usize;
        into.reserve_exact(len_bytes.saturating_sub(into.len()));
        into.resize(len_bytes, 0);
        file.read_exact_at(into, want.range.start).map_err(failed)
    }

    fn list(&self, prefix: &str, _: &Stop) -> Result<Vec<Object>, ReadError> {
        let mut objects = Vec::new();
        match self.walk(&self.root, "", prefix, &mut objects) {
            Err(error) if error.kind == ReadErrorKind::Missing && !self.root.exists() => {}
            other => other?,
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    fn head(&self, key: &str, _: &Stop) -> Result<Object, ReadError> {
        let metadata = fs::metadata(self.root.join(key)).map_err(|e| self.failed(key, &e))?;
        if metadata.is_dir() {
            return Err(ReadError::new(ReadErrorKind::Missing, self.location(key), "it is a folder"));
        }
        if let Some(kind) = unusual(metadata.file_type()) {
            let problem = format!("it is a {kind}, and no regular file");
            return Err(ReadError::new(ReadErrorKind::Other, self.location(key), problem));
        }
        Ok(object(key.into(), &metadata))
    }
}
