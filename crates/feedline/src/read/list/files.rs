//! The files of one folder, or those that a list names, local or remote. Owns their order, which depends on their names
//! or the list alone, and their sizes; never opens them.

use crate::error::{Error, Result};
use crate::hash::{hash_name, hash_words};
use crate::read::file::{no_file, read_start};
use crate::read::list::folder::Folder;
use crate::read::list::folder::names::Kind;
use crate::read::list::sample_reader::{SampleReader, read_sample};
use crate::read::location::{Location, Place, holds_archives};
use crate::read::source::ReadError;
use crate::read::source::settings::Storage;
use crate::stop::Stop;
use crate::url::is_url;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its path.
    pub path: PathBuf,
    /// Its size when it was listed.
    pub size_bytes: u64,
}

/// The files of one kind in a folder, in the bytewise order of their names, or those of a list in its order. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileList {
    /// The extension that the files of a folder share, in lower case; empty for those of a list.
    pub extension: String,
    /// The files in their fixed order.
    pub entries: Vec<FileEntry>,
    /// Reads the files if they are remote or in archives.
    pub stored: Option<SampleReader>,
    /// Warnings for the user about what was left out of the list.
    pub warnings: Vec<String>,
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
        let mut remarks = folder.remarks();
        for (name, kind) in folder.names()? {
            let path = folder.path().join(&name);
            let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
            let extension = extensions.iter().find(|known| known.eq_ignore_ascii_case(extension));
            let extension = match (kind, extension) {
                (Ok(Kind::Folder), _) => {
                    remarks.leave_out("folders", name.display());
                    continue;
                }
                (Ok(Kind::Unusual(kind)), _) => {
                    remarks.leave_out(&format!("{kind}s"), name.display());
                    continue;
                }
                (Ok(Kind::BrokenLink), None) => {
                    remarks.leave_out("broken links", name.display());
                    continue;
                }
                (_, None) => {
                    remarks.leave_out_file(&name.display().to_string());
                    continue;
                }
                (Err(error), Some(_)) => return Err(error),
                (Ok(Kind::BrokenLink), Some(_)) => {
                    return Err(Error::io("look into", path, std::io::ErrorKind::NotFound.into()));
                }
                (Ok(Kind::File), Some(extension)) => extension,
            };
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
        let remedy = format!("Files are {}, directly in the folder", known());
        let warnings = remarks.words(folder.path().display(), &remedy);
        FileList { extension: extension.into(), entries, stored, warnings }.sized()
    }

    /// The files at `paths`, at least one: all of them local, below one URL, or in archives in their deepest common
    /// folder. The error for a missing file is `missing`'s, given its index.
    ///
    /// # Errors
    /// A place that cannot be opened or listed; files in several places; the error of `missing` for the first missing
    /// file.
    pub fn of_paths(paths: Vec<PathBuf>, storage: &Storage, missing: impl Fn(usize) -> Error) -> Result<FileList> {
        let mut paths: Vec<PathBuf> = paths.iter().map(|path| storage.resolve(path)).collect();
        let urls = paths.iter().filter(|path| is_url(path)).count();
        if urls > 0 && urls < paths.len() {
            let (mine, other) = (paths.iter().find(|path| !is_url(path)), paths.iter().find(|path| is_url(path)));
            let [mine, other] = [mine, other].map(|path| path.map_or(String::new(), |path| path.display().to_string()));
            return Err(Error::config(
                format!("{mine} is a file of this machine, but {other} is not"),
                "Keep all files of a data set in one place",
            ));
        }
        let mut folder = None;
        if urls > 0 {
            folder = Some(Folder::of_files(&paths, storage)?);
        } else if paths.iter().any(|path| !path.is_file()) {
            let root = common_folder(&paths).map(Location::parse).transpose()?;
            let is_archived = |root: &Location| root.place != Place::Local || holds_archives(&root.path);
            if let Some(location) = root.filter(is_archived) {
                let root = location.path.clone();
                let opened = Folder::at(location, storage)?;
                let inside = |path: &PathBuf| opened.path().join(path.strip_prefix(&root).unwrap_or(path));
                paths = paths.iter().map(inside).collect();
                folder = Some(opened);
            }
        }
        let stored = match &folder {
            Some(folder) => folder.stored(paths.iter().map(|path| &**path)).map_err(&missing)?,
            None => match paths.iter().position(|path| !path.is_file()) {
                Some(at) => match no_file(&paths[at]) {
                    Some(words) => {
                        let problem = words.trim_start_matches("; ");
                        return Err(Error::dataset(&paths[at], problem, "Put the file itself in its place"));
                    }
                    None => return Err(missing(at)),
                },
                None => None,
            },
        };
        let entries = paths.into_iter().map(|path| FileEntry { path, size_bytes: 0 }).collect();
        let warnings = folder.map_or_else(Vec::new, |folder| folder.remarks().strange(folder.path().display()));
        FileList { extension: String::new(), entries, stored, warnings }.sized()
    }

    fn sized(mut self) -> Result<FileList> {
        self.warnings.extend(self.stored.as_ref().and_then(SampleReader::remark));
        for (at, entry) in (0u64..).zip(&mut self.entries) {
            entry.size_bytes = match &self.stored {
                Some(stored) => stored.size_bytes(at),
                None => fs::metadata(&entry.path).map_err(|source| Error::io("look at", &entry.path, source))?.len(),
            };
        }
        Ok(self)
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// [`Error::Io`] with the file's name or URL.
    pub fn read_whole(&self, at: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        read_sample(self.stored.as_ref(), at as u64, &self.entries[at].path, &Stop::default(), &mut bytes)?;
        Ok(bytes)
    }

    /// Reads the first bytes of a file, at most `most_bytes`.
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

    /// Hash of the names and sizes of the files in their order; the folder's own name is not included.
    pub fn fingerprint(&self) -> u64 {
        let name = |entry: &FileEntry| hash_name(&entry.path.file_name().unwrap_or_default().to_string_lossy());
        let words: Vec<u64> = self.entries.iter().flat_map(|entry| [name(entry), entry.size_bytes]).collect();
        hash_words(&words)
    }
}

/// The deepest folder that contains all `paths`.
fn common_folder(paths: &[PathBuf]) -> Option<PathBuf> {
    let folders = paths.iter().map(|path| path.parent().unwrap_or(Path::new("")));
    let common = folders
        .reduce(|common, folder| common.ancestors().find(|common| folder.starts_with(common)).unwrap_or(Path::new("")));
    common.map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_list_keep_its_order_and_the_first_missing_one_is_named() {
        let dir = folder(&[("b.bin", 2), ("a.bin", 1)]);
        let paths = |names: &[&str]| names.iter().map(|name| dir.path().join(name)).collect::<Vec<_>>();
        let missing = |at: usize| Error::dataset(Path::new("list"), format!("line {at} is not there"), "Correct it");
        let list = FileList::of_paths(paths(&["b.bin", "a.bin", "b.bin"]), &Storage::default(), missing).unwrap();
        assert_eq!(list.entries.iter().map(|entry| entry.size_bytes).collect::<Vec<_>>(), [2, 1, 2]);
        assert_eq!(list.read_whole(0).unwrap(), [0, 0]);
        let error = FileList::of_paths(paths(&["b.bin", "c.bin"]), &Storage::default(), missing).unwrap_err();
        assert!(error.to_string().contains("line 1 is not there"), "{error}");
        let mixed = [paths(&["b.bin"]), vec!["s3://bucket/a.bin".into()]].concat();
        let error = FileList::of_paths(mixed, &Storage::default(), missing).unwrap_err();
        assert!(error.to_string().contains("one place"), "{error}");
    }

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
    fn what_is_no_file_of_the_kind_is_left_out_and_named_or_refused_in_a_list() {
        let dir = folder(&[("b.bin", 2), ("a.txt", 1), (".c.bin", 1)]);
        let pipe = dir.path().join("d.bin");
        crate::read::file::tests::fifo(&pipe);
        fs::create_dir(dir.path().join("e.bin")).unwrap();
        let list = FileList::of_folder(dir.path(), &["bin"]).unwrap();
        assert_eq!(list.entries.len(), 1);
        let expect = "3 files and folders skipped: 1 *.txt (a.txt), 1 FIFOs (d.bin), 1 folders (e.bin). Files are \
                      *.bin, directly in the folder";
        assert!(matches!(&list.warnings[..], [one] if one.ends_with(expect)), "{:?}", list.warnings);
        let missing = |_| Error::dataset(Path::new("list"), "it is not there", "");
        for (path, kind) in [(pipe, "FIFO"), (dir.path().join("e.bin"), "folder")] {
            let error = FileList::of_paths(vec![path], &Storage::default(), missing).unwrap_err().to_string();
            assert!(error.contains(&format!("it is a {kind}, and no regular file")), "{error}");
        }
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
