//! Local files: opened without blocking, read into reused memory, written atomically.

use std::fs::{File, FileType, Metadata};
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Files below this size are read without asking for their size first.
const SMALL_FILE_BYTES: usize = 4096;

/// Reads a whole file into `bytes`; its old content is dropped, its allocation reused.
///
/// # Errors
/// Any error of the file system; `bytes` is then unspecified.
pub fn read_file_into(path: &Path, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let mut file = open_at_once(path)?;
    // For a small file the system calls are the cost: one read for the bytes and one that sees the end are fewer than
    // `read_to_end` needs, which first asks for size and position.
    bytes.resize(SMALL_FILE_BYTES, 0);
    let mut len_bytes = 0;
    while len_bytes < SMALL_FILE_BYTES {
        match file.read(&mut bytes[len_bytes..]) {
            Ok(0) => {
                bytes.truncate(len_bytes);
                // Opened without blocking, a pipe reads as empty.
                return if len_bytes == 0 { regular(&file).map(drop) } else { Ok(()) };
            }
            Ok(more) => len_bytes += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // `read_to_end` reserves the rest first; an absurd size is an error, not an abort.
    regular(&file)?;
    file.read_to_end(bytes).map(|_| ())
}

/// Opens a file without blocking: a pipe would block the reader until someone writes.
pub(super) fn open_at_once(path: &Path) -> std::io::Result<File> {
    match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        // Another program holds a lease on the file and must release it first; a pipe does not refuse.
        Err(error) if error.kind() == ErrorKind::WouldBlock && path.is_file() => File::open(path),
        other => other,
    }
}

/// Opens a data file, which must be a regular file or a link to one.
///
/// # Errors
/// Any error of the file system; a folder, a pipe, a socket or a device, in words.
pub(crate) fn open_regular(path: &Path) -> std::io::Result<File> {
    let file = open_at_once(path)?;
    regular(&file).map(|_| file)
}

pub(super) fn regular(file: &File) -> std::io::Result<Metadata> {
    let metadata = file.metadata()?;
    match unusual(metadata.file_type()) {
        None => Ok(metadata),
        Some(kind) => Err(Error::new(ErrorKind::InvalidInput, format!("it is a {kind}, and no regular file"))),
    }
}

/// The kind of anything that is not a regular file, in a word.
pub(crate) fn unusual(file_type: FileType) -> Option<&'static str> {
    match file_type {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some("folder"),
        kind if kind.is_fifo() => Some("FIFO"),
        kind if kind.is_socket() => Some("socket"),
        _ => Some("device"),
    }
}

/// Reads a file that must be exactly `head` and then `body`, straight into them, without a buffer in between.
///
/// # Errors
/// A file of another size, with both sizes in the text; any error of the file system. The content of both is then
/// unspecified.
pub fn read_exactly(path: &Path, head: &mut [u8], body: &mut [u8]) -> std::io::Result<()> {
    let mut file = open_at_once(path)?;
    let (size_bytes, expect_bytes) = (regular(&file)?.len(), (head.len() + body.len()) as u64);
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
/// Any error of the file system.
pub fn read_start(path: &Path, most_bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::new();
    open_regular(path)?.take(most_bytes as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// Writes a file atomically: it is there as a whole or not at all.
pub(super) fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder)?;
    let new = folder.join(format!("{}.{}.new", path.file_stem().unwrap_or_default().display(), std::process::id()));
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path)
}

/// The kind of an existing path that is not a regular file, in words.
pub(in crate::read) fn no_file(path: &Path) -> Option<String> {
    let kind = unusual(path.metadata().ok()?.file_type())?;
    Some(format!("; it is a {kind}, and no regular file"))
}

#[cfg(test)]
pub(in crate::read) mod tests {
    use super::*;

    /// A pipe that nobody writes to.
    pub(in crate::read) fn fifo(path: &Path) {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    #[test]
    fn what_is_no_regular_file_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let [pipe, folder, socket] = ["a.png", "b.png", "c.png"].map(|name| dir.path().join(name));
        fifo(&pipe);
        std::fs::create_dir(&folder).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, words) in
            [(&*pipe, "it is a FIFO"), (Path::new("/dev/zero"), "it is a device"), (Path::new("/dev/null"), "a device")]
        {
            let mut bytes = Vec::new();
            for result in [
                read_file_into(path, &mut bytes),
                read_start(path, 10).map(drop),
                read_exactly(path, &mut [0; 2], &mut [0; 2]),
                open_regular(path).map(drop),
            ] {
                let error = result.unwrap_err().to_string();
                assert!(error.contains(words), "{}: {error}", path.display());
            }
        }
        for path in [&folder, &socket] {
            assert!(read_file_into(path, &mut Vec::new()).is_err() && open_regular(path).is_err());
        }
        // Also through a link, and with a writer, since bytes in a pipe can be read only once.
        let link = dir.path().join("link.png");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        let _both = File::options().read(true).write(true).open(&pipe).unwrap();
        assert!(read_file_into(&link, &mut Vec::new()).is_err());
    }

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
