//! Slices of files by number, local or remote: reads the objects of a database that are parts of samples. Owns where
//! each begins and ends.

use crate::error::{Error, Result};
use crate::read::list::files::FileList;
use crate::read::list::sample_reader::{FileSlice, SampleReader};
use crate::read::source::ReadError;
use crate::stop::Stop;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Slices of files by number.
#[derive(Debug)]
pub struct FileSlices {
    paths: Vec<PathBuf>,
    pieces: Vec<FileSlice>,
    /// Reads the slices if the files are remote or in archives; each slice is a sample.
    stored: Option<SampleReader>,
}

impl FileSlices {
    /// The slices of some of `files`.
    ///
    /// # Errors
    /// The error that `outside` returns for the first slice that is not within its file; files that are compressed in
    /// archives.
    pub fn new(files: &FileList, pieces: Vec<FileSlice>, outside: impl Fn(usize) -> Error) -> Result<FileSlices> {
        let within = |piece: &FileSlice| {
            let file = files.entries.get(piece.file);
            let end = piece.start.checked_add(piece.size_bytes);
            file.is_some_and(|file| end.is_some_and(|end| end <= file.size_bytes))
        };
        if let Some(at) = pieces.iter().position(|piece| !within(piece)) {
            return Err(outside(at));
        }
        let stored = files.stored.as_ref().map(|stored| stored.pieces(&pieces)).transpose();
        let stored = stored.map_err(ReadError::into_error)?;
        Ok(FileSlices { paths: files.entries.iter().map(|file| file.path.clone()).collect(), pieces, stored })
    }

    /// The size of a piece.
    pub fn size_bytes(&self, piece: usize) -> u64 {
        self.pieces[piece].size_bytes
    }

    /// The file of a piece.
    pub fn path(&self, piece: usize) -> &Path {
        &self.paths[self.pieces[piece].file]
    }

    /// Reads some pieces, each into its own of `into`.
    ///
    /// # Errors
    /// [`Error::Io`] with the file's name or URL.
    pub fn read_many(&self, which: &[usize], stop: &Stop, into: &mut [Vec<u8>]) -> Result<()> {
        if let Some(stored) = &self.stored {
            let which: Vec<u64> = which.iter().map(|&at| at as u64).collect();
            return stored
                .read_many(&which, stop, into)
                .into_iter()
                .try_for_each(|result| result.map_err(ReadError::into_error));
        }
        let mut open: Option<(usize, File)> = None;
        for (&at, bytes) in which.iter().zip(into) {
            let FileSlice { file, start, size_bytes } = self.pieces[at];
            let mut read = || -> std::io::Result<()> {
                let mut handle = match open.take() {
                    Some((number, handle)) if number == file => handle,
                    _ => File::open(&self.paths[file])?,
                };
                handle.seek(SeekFrom::Start(start))?;
                bytes.resize(size_bytes as usize, 0);
                handle.read_exact(bytes)?;
                open = Some((file, handle));
                Ok(())
            };
            read().map_err(|e| Error::io("read", &self.paths[file], e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::Storage;

    #[test]
    fn pieces_are_parts_of_files_and_none_lies_outside() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = ["a", "b"].iter().map(|name| dir.path().join(name)).collect();
        std::fs::write(&paths[0], b"0123456789").unwrap();
        std::fs::write(&paths[1], b"abc").unwrap();
        let missing = |_| Error::config("missing", "");
        let outside = |at| Error::config(format!("piece {at}"), "");
        let piece = |file, start, size_bytes| FileSlice { file, start, size_bytes };
        // Locally, and the same through a remote source.
        for files in [
            FileList::of_paths(paths.clone(), &Storage::default(), missing).unwrap(),
            FileList::of_paths(
                paths.iter().map(|path| format!("file://{}", path.display()).into()).collect(),
                &Storage::default(),
                missing,
            )
            .unwrap(),
        ] {
            let all = vec![piece(0, 2, 3), piece(1, 0, 3), piece(0, 9, 1), piece(1, 3, 0)];
            let pieces = FileSlices::new(&files, all, outside).unwrap();
            let mut into = vec![Vec::new(); 4];
            pieces.read_many(&[2, 0, 1, 3], &Stop::default(), &mut into).unwrap();
            assert_eq!(into, [&b"9"[..], b"234", b"abc", b""]);
            assert_eq!((pieces.size_bytes(0), pieces.path(1).ends_with("b")), (3, true));
            for bad in [piece(0, 9, 2), piece(2, 0, 1), piece(1, u64::MAX, 2)] {
                let error = FileSlices::new(&files, vec![piece(0, 0, 1), bad], outside).unwrap_err().to_string();
                assert!(error.contains("piece 1"), "{error}");
            }
        }
    }
}
