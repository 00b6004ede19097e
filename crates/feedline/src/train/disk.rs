//! How a run's files reach the disk: whole or not at all, even after a power cut. Owns the order of write, flush and rename;
//! knows no file by name.
#![expect(clippy::disallowed_methods, reason = "owns how files of a run are written")]

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Replaces a file atomically: readers, at any moment and after a power cut, see the old file or the new one. Leaves
/// nothing behind if it fails.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let unfinished = path.with_file_name(name);
    write_flushed(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, path)).map_err(|source| {
        // Ignored: the first error is the one that counts.
        let _ = fs::remove_file(&unfinished);
        Error::io("write", path, source)
    })?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Writes a new file and returns once its bytes are on disk; its name is on disk after [`sync_dir`].
pub(super) fn write_flushed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Returns once the names in a folder are on disk.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("flush the folder", dir, e))
}

/// Creates a folder and its parents, and returns once their names are on disk.
pub(super) fn make_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = dir.parent().unwrap_or(Path::new("."));
    if !above.as_os_str().is_empty() {
        make_dir(above)?;
    }
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists || !dir.is_dir() => {
            Err(Error::io("make the folder", dir, e))
        }
        _ => sync_dir(above),
    }
}

/// Opens a file of lines to append to. Cuts off half a line at its end, which a kill or a full disk left: otherwise the
/// next line would continue it.
pub(super) fn open_lines(path: &Path) -> Result<File> {
    let open = || -> io::Result<(File, bool)> {
        let is_new = !path.exists();
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let size = file.seek(SeekFrom::End(0))?;
        let (mut whole, mut part) = (size, [0u8; 4096]);
        while whole > 0 {
            let from = whole.saturating_sub(part.len() as u64);
            let part = &mut part[..(whole - from) as usize];
            file.seek(SeekFrom::Start(from))?;
            file.read_exact(part)?;
            match part.iter().rposition(|&byte| byte == b'\n') {
                Some(at) => {
                    whole = from + at as u64 + 1;
                    break;
                }
                None => whole = from,
            }
        }
        if whole < size {
            file.set_len(whole)?;
        }
        Ok((file, is_new))
    };
    let (file, is_new) = open().map_err(|e| Error::io("open", path, e))?;
    if is_new {
        path.parent().map_or(Ok(()), sync_dir)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_is_cut_off_and_whole_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        let long = "x".repeat(10_000);
        for (before, after) in [
            (String::new(), String::new()),
            ("half".into(), String::new()),
            (long.clone(), String::new()),
            ("one\ntwo\n".into(), "one\ntwo\n".into()),
            (format!("one\n{long}"), "one\n".into()),
            (format!("{long}\ntwo\nhalf"), format!("{long}\ntwo\n")),
        ] {
            fs::write(&path, before).unwrap();
            open_lines(&path).unwrap().write_all(b"next\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), after + "next\n");
        }
    }

    #[test]
    fn folders_are_made_with_those_above_and_files_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b/c");
        make_dir(&below).unwrap();
        make_dir(&below).unwrap();
        for text in ["old", "new"] {
            write_whole(&below.join("file"), text.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(below.join("file")).unwrap(), "new");
        assert_eq!(fs::read_dir(&below).unwrap().count(), 1);
        fs::write(dir.path().join("plain"), "").unwrap();
        assert!(make_dir(&dir.path().join("plain/x")).is_err());
    }
}
