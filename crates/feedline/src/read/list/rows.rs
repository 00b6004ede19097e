//! Rows of equal size in one file, read by number from many threads at once. Owns the open file and, if it is small,
//! its bytes in memory; does not interpret rows.
//!
//! There is no memory map: if a mapped file shrinks, the process is killed; a read returns an error instead. A read
//! costs a system call, which is little for a row of 100 KB, but several times the copy for a row of 1 KB; so a file
//! within the limit is held in memory once a part is first read, and then a row costs its copy.

use crate::error::{Error, Result};
use crate::hash::{hash_name, hash_words};
use crate::read::file::open_regular;
use crate::sample::{Array, DType};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Bytes per read of a file that is held: small enough that a first batch of scattered rows does not wait long.
const BLOCK_BYTES: usize = 64 << 10;

/// A file that is `offset_bytes` of header and then rows of `row_bytes`.
#[derive(Debug)]
pub struct RowFile {
    path: PathBuf,
    file: File,
    offset_bytes: u64,
    row_bytes: usize,
    rows: u64,
    /// Whole rows in each block (the last may be shorter); `None` if the file is not held.
    held: Option<Vec<OnceLock<Array>>>,
}

impl RowFile {
    /// Opens a file of `rows` rows. It stays open, and in memory if the rows are at most `held_bytes_max` together.
    ///
    /// # Errors
    /// A file that is not exactly as long as that, with both sizes; a row of no bytes; no row at all.
    pub fn open(path: &Path, offset_bytes: u64, row_bytes: usize, rows: u64, held_bytes_max: u64) -> Result<RowFile> {
        let file = open_regular(path).map_err(|source| Error::io("open", path, source))?;
        let size_bytes = file.metadata().map_err(|source| Error::io("look at", path, source))?.len();
        if row_bytes == 0 || rows == 0 {
            return Err(Error::dataset(
                path,
                format!("it has {rows} rows of {row_bytes} bytes: there is no sample in it"),
                "Store one sample per row, along the first axis",
            ));
        }
        let data_bytes = rows.checked_mul(row_bytes as u64);
        if data_bytes.and_then(|bytes| bytes.checked_add(offset_bytes)) != Some(size_bytes) {
            let problem = format!(
                "{offset_bytes} bytes of header and {rows} rows of {row_bytes} bytes do not make its {size_bytes} bytes"
            );
            return Err(Error::dataset(path, problem, "It was cut, or more was appended: write it again"));
        }
        let is_held = data_bytes.is_some_and(|bytes| bytes <= held_bytes_max);
        let blocks = rows.div_ceil(rows_per_block(row_bytes));
        let held = is_held.then(|| (0..blocks).map(|_| OnceLock::new()).collect());
        Ok(RowFile { path: path.to_path_buf(), file, offset_bytes, row_bytes, rows, held })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Hash of the file's name and its division into rows; its folder is not included.
    pub fn fingerprint(&self) -> u64 {
        rows_fingerprint(&self.path, self.offset_bytes, self.row_bytes as u64, self.rows)
    }

    /// Copies row `row` to `into`, which must be one row long.
    ///
    /// # Errors
    /// A row or a length that does not match the file; a file that was truncated since it was opened; any error of the
    /// file system.
    pub fn read_row(&self, row: u64, into: &mut [u8]) -> io::Result<()> {
        if row >= self.rows || into.len() != self.row_bytes {
            let problem = format!("no row {row} of {} bytes among {} of {}", into.len(), self.rows, self.row_bytes);
            return Err(io::Error::new(ErrorKind::InvalidInput, problem));
        }
        let Some(blocks) = &self.held else { return self.read_at(row, into) };
        let per_block = rows_per_block(self.row_bytes);
        let block = &blocks[(row / per_block) as usize];
        let bytes = match block.get() {
            Some(bytes) => bytes,
            None => {
                let first = row / per_block * per_block;
                let count = per_block.min(self.rows - first) as usize;
                let bytes = Array::try_zeros(DType::U8, [count * self.row_bytes]);
                let mut bytes = bytes.map_err(|error| io::Error::new(ErrorKind::OutOfMemory, error.to_string()))?;
                self.read_at(first, bytes.as_bytes_mut())?;
                // Another thread may have been faster; its bytes are the same.
                block.get_or_init(|| bytes)
            }
        };
        into.copy_from_slice(&bytes.as_bytes()[(row % per_block) as usize * self.row_bytes..][..self.row_bytes]);
        Ok(())
    }

    /// Reads rows from row `first` on.
    fn read_at(&self, first: u64, into: &mut [u8]) -> io::Result<()> {
        let start_byte = self.offset_bytes + first * self.row_bytes as u64;
        self.file.read_exact_at(into, start_byte).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => {
                let end_byte = start_byte + into.len() as u64;
                let now = self.file.metadata().map_or_else(|_| "fewer".into(), |metadata| metadata.len().to_string());
                io::Error::new(
                    ErrorKind::UnexpectedEof,
                    format!("the file was cut while in use: {end_byte} bytes are needed, {now} are left"),
                )
            }
            _ => error,
        })
    }
}

/// [`RowFile::fingerprint`] of a file of rows, local or remote.
pub fn rows_fingerprint(path: &Path, offset_bytes: u64, row_bytes: u64, rows: u64) -> u64 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    hash_words(&[hash_name(&name), offset_bytes, row_bytes, rows])
}

fn rows_per_block(row_bytes: usize) -> u64 {
    (BLOCK_BYTES / row_bytes).max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of 3 bytes of header and rows that hold their number; the folder that holds it; the content.
    fn written(rows: usize, row_bytes: usize) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        let data: Vec<u8> = (0..rows * row_bytes).map(|i| ((i / row_bytes) * 31 + i) as u8).collect();
        std::fs::write(&path, [b"abc", &data[..]].concat()).unwrap();
        (dir, path, data)
    }

    #[test]
    fn every_row_is_the_files_whether_held_or_not() {
        // Rows that divide a block, that do not, and that are larger than one; a partial last block.
        for (rows, row_bytes) in [(1000, 1024), (333, 1000), (5, BLOCK_BYTES + 8), (1, 1), (200_000, 1)] {
            let (_dir, path, data) = written(rows, row_bytes);
            for held_bytes_max in [0, data.len() as u64 - 1, data.len() as u64] {
                let file = RowFile::open(&path, 3, row_bytes, rows as u64, held_bytes_max).unwrap();
                assert_eq!(file.held.is_some(), held_bytes_max >= data.len() as u64);
                let mut row = vec![0; row_bytes];
                for at in (0..rows).rev().step_by(rows / 100 + 1) {
                    file.read_row(at as u64, &mut row).unwrap();
                    assert_eq!(row, data[at * row_bytes..][..row_bytes]);
                }
                assert!(file.read_row(rows as u64, &mut row).is_err());
                assert!(file.read_row(0, &mut [0; 7][..]).is_err());
            }
        }
    }

    #[test]
    fn threads_that_touch_a_block_at_once_get_the_same() {
        let (_dir, path, data) = written(500, 256);
        let file = RowFile::open(&path, 3, 256, 500, u64::MAX).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut row = [0; 256];
                    for at in 0..500 {
                        file.read_row(at, &mut row).unwrap();
                        assert_eq!(row, data[at as usize * 256..][..256]);
                    }
                });
            }
        });
    }

    #[test]
    fn a_file_of_another_size_is_refused_before_a_row_is_read() {
        let (_dir, path, _) = written(10, 100);
        for (offset, row_bytes, rows) in [(3, 100, 11), (3, 100, 9), (4, 100, 10), (3, 101, 10), (3, 2, u64::MAX)] {
            let text = RowFile::open(&path, offset, row_bytes, rows, 0).unwrap_err().to_string();
            assert!(text.contains("its 1003 bytes") && text.contains("write it again"), "{text}");
        }
        for (row_bytes, rows) in [(0, 10), (100, 0)] {
            let text = RowFile::open(&path, 3, row_bytes, rows, 0).unwrap_err().to_string();
            assert!(text.contains("no sample"), "{text}");
        }
    }

    #[test]
    fn a_file_cut_while_in_use_is_an_error_that_says_so() {
        for held_bytes_max in [0, u64::MAX] {
            let (_dir, path, data) = written(1000, 1000);
            let file = RowFile::open(&path, 3, 1000, 1000, held_bytes_max).unwrap();
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(500_000).unwrap();
            let mut row = [0; 1000];
            file.read_row(0, &mut row).unwrap();
            assert_eq!(row, data[..1000]);
            let text = file.read_row(999, &mut row).unwrap_err().to_string();
            assert!(text.contains("cut while in use") && text.contains("500000 are left"), "{text}");
        }
    }
}
