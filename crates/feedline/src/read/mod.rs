//! Read: bytes of a sample, and the list of what there is to read. The only stage that does I/O on the data set; it
//! must not look inside the bytes.

pub mod archive;
mod cache;
#[cfg(feature = "cloud")]
mod cloud;
mod coalesce;
pub mod conformance;
mod file_list;
mod folder;
mod image_list;
mod limit;
mod local;
mod mds;
mod outlook;
pub mod pack;
#[cfg(feature = "parquet")]
mod parquet;
mod pieces;
mod retry;
mod row_file;
mod source;
mod storage;
mod stored;
mod tar;
mod timeout;
mod zip;

pub use cache::{Cache, CacheCounts, Outlook};
#[cfg(feature = "cloud")]
pub use cloud::Cloud;
pub use coalesce::Coalesce;
pub(crate) use coalesce::TOGETHER_BYTES_MAX;
pub use folder::{Folder, holds_archives, is_in_archive, local_archives, open_file};
pub use limit::Limit;
pub use local::LocalFiles;
#[cfg(feature = "parquet")]
pub use parquet::{Packed as ParquetPacked, ParquetCodec};
pub use pieces::{Piece, Pieces};
pub use retry::Retry;
pub use source::{Fault, Get, Object, ReadError, Source, Stop};
pub use storage::{Credentials, Storage, is_url};
pub use stored::{Stored, read_sample};
pub use timeout::Timeout;
pub use zip::Packed;

pub use file_list::{FileEntry, FileList};
pub use image_list::{ImageEntry, ImageList, read_classes};
pub use row_file::{RowFile, rows_fingerprint};

use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::Path;

/// Files below this size are read without asking for their size first.
const SMALL_FILE_BYTES: usize = 4096;

/// Reads a whole file into `bytes`, whose old content is dropped and whose allocation is used again.
///
/// # Errors
/// Whatever the file system reports; `bytes` is then unspecified.
pub fn read_file_into(path: &Path, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    // A small file costs little but its system calls: a read that gets it and one that sees the end are fewer than
    // `read_to_end` needs, which asks for size and place before.
    bytes.resize(SMALL_FILE_BYTES, 0);
    let mut len_bytes = 0;
    while len_bytes < SMALL_FILE_BYTES {
        match file.read(&mut bytes[len_bytes..]) {
            Ok(0) => {
                bytes.truncate(len_bytes);
                return Ok(());
            }
            Ok(more) => len_bytes += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // Makes room for what is left first; an absurd size is an error, not an abort.
    file.read_to_end(bytes).map(|_| ())
}

/// Reads a file that must be exactly `head` and then `body`, straight into them: no buffer in between.
///
/// # Errors
/// A file of another size, with both sizes in the text; whatever the file system reports. What the two hold is then
/// unspecified.
pub fn read_exactly(path: &Path, head: &mut [u8], body: &mut [u8]) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let (size_bytes, expect_bytes) = (file.metadata()?.len(), (head.len() + body.len()) as u64);
    if size_bytes != expect_bytes {
        let problem = format!("the file has {size_bytes} bytes instead of {expect_bytes}");
        return Err(Error::new(ErrorKind::InvalidData, problem));
    }
    if !head.is_empty() {
        file.read_exact(head)?;
    }
    file.read_exact(body)
}

/// The first bytes of a file, at most `most_bytes`: for headers that say how to read the rest.
///
/// # Errors
/// Whatever the file system reports.
pub fn read_start(path: &Path, most_bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(most_bytes as u64).read_to_end(&mut start)?;
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_holds_only_the_last_file() {
        let dir = tempfile::tempdir().unwrap();
        let (long, short) = (dir.path().join("long"), dir.path().join("short"));
        std::fs::write(&long, vec![7; 100_000]).unwrap();
        std::fs::write(&short, b"abc").unwrap();
        let mut bytes = Vec::new();
        read_file_into(&long, &mut bytes).unwrap();
        assert_eq!(bytes, vec![7; 100_000]);
        let (start, capacity) = (bytes.as_ptr(), bytes.capacity());
        read_file_into(&short, &mut bytes).unwrap();
        assert_eq!(bytes, b"abc");
        read_file_into(&long, &mut bytes).unwrap();
        assert_eq!((bytes.as_ptr(), bytes.capacity(), bytes.len()), (start, capacity, 100_000));
        assert_eq!(
            read_file_into(&dir.path().join("none"), &mut bytes).unwrap_err().kind(),
            std::io::ErrorKind::NotFound
        );
    }

    #[test]
    fn files_of_every_size_are_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut bytes = vec![1; 10_000];
        for size in [0, 1, SMALL_FILE_BYTES - 1, SMALL_FILE_BYTES, SMALL_FILE_BYTES + 1, 300_000, 5] {
            let content: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
            std::fs::write(&path, &content).unwrap();
            read_file_into(&path, &mut bytes).unwrap();
            assert_eq!(bytes, content);
            let (mut head, mut body) = ([0; 1], vec![0; size.saturating_sub(1)]);
            if size > 0 {
                read_exactly(&path, &mut head, &mut body).unwrap();
                assert_eq!([&head[..], &body].concat(), content);
            }
            assert_eq!(read_start(&path, 100).unwrap(), content[..size.min(100)]);
        }
    }

    #[test]
    fn a_file_of_another_size_is_refused_with_both_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for size in [0, 9, 11] {
            std::fs::write(&path, vec![0; size]).unwrap();
            let text = read_exactly(&path, &mut [0; 4], &mut [0; 6]).unwrap_err().to_string();
            assert_eq!(text, format!("the file has {size} bytes instead of 10"));
        }
    }
}
