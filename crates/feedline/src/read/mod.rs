//! Read: bytes of a sample, and the list of what there is to read. The only stage that does I/O on the data set; it
//! must not look inside the bytes.

mod image_list;

pub use image_list::{ImageEntry, ImageList, read_classes};

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Reads a whole file into `bytes`, whose old content is dropped and whose allocation is used again.
///
/// # Errors
/// Whatever the file system reports; `bytes` is then unspecified.
pub fn read_file_into(path: &Path, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    bytes.clear();
    let mut file = File::open(path)?;
    if let Ok(metadata) = file.metadata() {
        // One byte more, so that the read that finds the end does not grow the buffer. A file system that reports
        // an absurd size must not abort the process.
        let len_bytes = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        bytes.try_reserve(len_bytes.saturating_add(1)).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
    }
    file.read_to_end(bytes).map(|_| ())
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
}
