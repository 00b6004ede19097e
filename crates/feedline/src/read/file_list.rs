//! The files of one folder, one sample each. Owns their order, which depends on their names alone, and their sizes; never
//! opens them.

use super::folder::Folder;
use super::read_start;
use super::source::ReadError;
use super::stored::Stored;
use crate::error::{Error, Result};
use crate::plan::rng::{hash_name, hash_words};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Where it is.
    pub path: PathBuf,
    /// Its size when it was listed.
    pub size_bytes: u64,
}

/// The files of one kind in a folder, in the bytewise order of their names. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileList {
    /// The extension they share, in lower case.
    pub extension: String,
    /// The files in their fixed order.
    pub entries: Vec<FileEntry>,
    /// What reads them, if they are not files of this machine.
    pub stored: Option<Stored>,
}

impl FileList {
    /// The files directly in `folder` that have one of `extensions` (lower case; any case matches). Hidden files and
    /// folders are skipped, symlinks followed.
    ///
    /// # Errors
    /// A folder that cannot be listed, has no such file, or has files of two of the extensions.
    pub fn of_folder(folder: impl Into<Folder>, extensions: &[&str]) -> Result<FileList> {
        let folder = &folder.into();
        let known = || extensions.iter().map(|extension| format!("*.{extension}")).collect::<Vec<_>>().join(", ");
        let mut entries: Vec<FileEntry> = Vec::new();
        let mut found: Option<&str> = None;
        for (name, is_dir) in folder.names()? {
            let path = folder.path().join(name);
            let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
            let Some(extension) = extensions.iter().find(|known| known.eq_ignore_ascii_case(extension)) else {
                continue;
            };
            if is_dir? {
                continue;
            }
            match found {
                Some(other) if other != *extension => {
                    return Err(Error::dataset(
                        folder.path(),
                        format!("it has files *.{other} and *.{extension}"),
                        "Keep one kind of file in a folder",
                    ));
                }
                _ => found = Some(extension),
            }
            entries.push(FileEntry { path, size_bytes: 0 });
        }
        let Some(extension) = found else {
            return Err(Error::dataset(
                folder.path(),
                format!("there is no file {} directly in it", known()),
                "Name the folder that holds the files",
            ));
        };
        let stored = folder.stored(entries.iter().map(|entry| &*entry.path));
        let stored =
            stored.map_err(|at| Error::dataset(&entries[at].path, "it is not there", "List the bucket anew"))?;
        for (at, entry) in (0u64..).zip(&mut entries) {
            entry.size_bytes = match &stored {
                Some(stored) => stored.size_bytes(at),
                None => fs::metadata(&entry.path).map_err(|source| Error::io("look at", &entry.path, source))?.len(),
            };
        }
        Ok(FileList { extension: extension.into(), entries, stored })
    }

    /// The first bytes of a file, at most `most_bytes`.
    ///
    /// # Errors
    /// [`Error::Io`] with the file's name or URL.
    pub fn read_start(&self, at: usize, most_bytes: usize) -> Result<Vec<u8>> {
        let (mut start, path) = (Vec::new(), &self.entries[at].path);
        match &self.stored {
            None => read_start(path, most_bytes).map_err(|source| Error::io("read", path, source)),
            Some(stored) => {
                stored.read_start(at as u64, most_bytes, &mut start).map(|()| start).map_err(ReadError::into_error)
            }
        }
    }

    /// Hash of the names and sizes of the files in their order; the folder's own name has no part in it.
    pub fn fingerprint(&self) -> u64 {
        let name = |entry: &FileEntry| hash_name(&entry.path.file_name().unwrap_or_default().to_string_lossy());
        let words: Vec<u64> = self.entries.iter().flat_map(|entry| [name(entry), entry.size_bytes]).collect();
        hash_words(&words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, usize)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, size) in files {
            fs::write(dir.path().join(name), vec![0; *size]).unwrap();
        }
        dir
    }

    #[test]
    fn files_are_listed_by_name_with_their_sizes() {
        let dir = folder(&[("b.bin", 2), ("a.BIN", 1), ("10.bin", 3), ("9.bin", 4), (".x.bin", 5), ("c.txt", 6)]);
        fs::create_dir(dir.path().join("d.bin")).unwrap();
        let list = FileList::of_folder(dir.path(), &["npy", "bin"]).unwrap();
        let name = |e: &FileEntry| e.path.file_name().unwrap().to_str().unwrap().to_owned();
        let got: Vec<_> = list.entries.iter().map(|e| (name(e), e.size_bytes)).collect();
        let expect = [("10.bin", 3), ("9.bin", 4), ("a.BIN", 1), ("b.bin", 2)];
        assert_eq!(got, expect.map(|(name, size)| (name.to_owned(), size)));
        assert_eq!(list.extension, "bin");
    }

    #[test]
    fn two_kinds_or_none_are_refused() {
        let dir = folder(&[("a.bin", 1), ("b.npy", 1)]);
        let text = FileList::of_folder(dir.path(), &["npy", "bin"]).unwrap_err().to_string();
        assert!(text.contains("files *.bin and *.npy") && text.contains("one kind"), "{text}");
        let text = FileList::of_folder(dir.path(), &["png"]).unwrap_err().to_string();
        assert!(text.contains("no file *.png") && text.contains(dir.path().to_str().unwrap()), "{text}");
        let text = FileList::of_folder(dir.path().join("none").as_path(), &["png"]).unwrap_err().to_string();
        assert!(text.contains("Check the path"), "{text}");
    }

    #[test]
    fn the_fingerprint_is_of_names_and_sizes() {
        let files = [("a.bin", 1), ("b.bin", 2)];
        let print =
            |files: &[(&str, usize)]| FileList::of_folder(folder(files).path(), &["bin"]).unwrap().fingerprint();
        assert_eq!(print(&files), print(&files));
        for other in [&[("a.bin", 1), ("b.bin", 3)][..], &[("a.bin", 1), ("c.bin", 2)], &[("a.bin", 1)]] {
            assert_ne!(print(&files), print(other));
        }
    }
}
