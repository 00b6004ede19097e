//! From a folder to archives of about one size, with an index beside each, and back again to see that they are right.
//! Owns what goes where; what an archive is understood as is [`super::archive`]'s.

use super::archive::{Format, INDEX_EXTENSION, index_as, to_text};
use super::local::LocalFiles;
use super::read_file_into;
use super::source::{Get, ReadError, Source, Stop};
use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The folders of a data set whose archives are kept apart.
const SPLITS: [&str; 4] = ["train", "test", "val", "valid"];

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Files, and archives that they are in now.
    pub files: u64,
    pub archives: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// One archive to be written: its path, and name and place of each file.
struct Shard {
    path: PathBuf,
    files: Vec<(String, PathBuf)>,
}

/// Packs the files below `dir` into archives `out/{train,test,val,valid}/000000.tar`, ..., or `out/000000.tar`, ... where
/// there are no such folders: in the bytewise order of their names, at most `shard_bytes` in each (or one file), by
/// `threads` threads. The same files give the same bytes. Every archive is read back and compared before it gets its name.
/// `progress` hears how many files are done, of how many.
///
/// # Errors
/// A folder without files, an `out` that is not empty, a file that cannot be read or written, or an archive that does not
/// read back as the files.
pub fn pack(
    dir: &Path,
    out: &Path,
    shard_bytes: u64,
    threads: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Packed> {
    let mut listed = LocalFiles::new(dir).list("", &Stop::default()).map_err(ReadError::into_error)?;
    listed.retain(|object| !object.key.split('/').any(|part| part.starts_with('.')));
    if listed.is_empty() {
        return Err(Error::dataset(dir, "there is no file in it", "Name the folder that holds the data"));
    }
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::config(
            format!("the folder {} is not empty", out.display()),
            "Name a new one, or remove it: archives of two times must not mix",
        ));
    }
    let mut shards: Vec<Shard> = Vec::new();
    let (mut split, mut number, mut held_bytes) = ("", 0, 0);
    for object in &listed {
        let (this, name) = match object.key.split_once('/') {
            Some((top, rest)) if SPLITS.contains(&top) => (top, rest),
            _ => ("", object.key.as_str()),
        };
        let is_full = held_bytes > 0 && held_bytes + object.size_bytes > shard_bytes;
        if shards.is_empty() || this != split || is_full {
            number = if this == split && !shards.is_empty() { number + 1 } else { 0 };
            (split, held_bytes) = (this, 0);
            shards.push(Shard { path: out.join(split).join(format!("{number:06}.tar")), files: Vec::new() });
        }
        held_bytes += object.size_bytes;
        if let Some(shard) = shards.last_mut() {
            shard.files.push((name.to_owned(), dir.join(&object.key)));
        }
    }
    let (next, done, total) = (AtomicUsize::new(0), AtomicU64::new(0), listed.len() as u64);
    let work = || -> Result<()> {
        while let Some(shard) = shards.get(next.fetch_add(1, Relaxed)) {
            let outcome = write(shard, &|| progress(done.fetch_add(1, Relaxed) + 1, total));
            if outcome.is_err() {
                next.store(shards.len(), Relaxed);
                return outcome;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.clamp(1, shards.len())).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<()>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().try_for_each(join)
    })?;
    let bytes = listed.iter().map(|object| object.size_bytes).sum();
    Ok(Packed { files: total, archives: shards.len() as u64, bytes })
}

/// Writes one archive, reads it back, and gives it its name.
fn write(shard: &Shard, progress: &dyn Fn()) -> Result<()> {
    let folder = shard.path.parent().unwrap_or(Path::new(""));
    let failed = |e: io::Error| Error::io("write", &shard.path, e);
    fs::create_dir_all(folder).map_err(failed)?;
    let new = shard.path.with_extension("tar.new");
    let mut builder = tar::Builder::new(BufWriter::new(File::create(&new).map_err(failed)?));
    let mut bytes = Vec::new();
    let mut sums = Vec::with_capacity(shard.files.len());
    for (name, path) in &shard.files {
        read_file_into(path, &mut bytes).map_err(|e| Error::io("read", path, e))?;
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).map_err(failed)?;
        sums.push((name, bytes.len() as u64, crc32c::crc32c(&bytes)));
        progress();
    }
    let file = builder.into_inner().and_then(|writer| writer.into_inner().map_err(io::Error::from));
    file.and_then(|mut file| file.flush().and_then(|()| file.sync_all())).map_err(failed)?;

    // Through the same eyes as it will be read with.
    let source = LocalFiles::new(folder);
    let key = new.file_name().unwrap_or_default().to_string_lossy();
    let stop = Stop::default();
    let object = source.head(&key, &stop).map_err(ReadError::into_error)?;
    let members = index_as(&source, &object, Format::Tar)?;
    sums.sort();
    let differs = |problem: &str| {
        Error::dataset(&shard.path, format!("it was written, and {problem}"), "Pack it again; the disk may be failing")
    };
    if members.len() != sums.len() {
        return Err(differs("does not hold as many files as were packed"));
    }
    for (member, (name, size_bytes, sum)) in members.iter().zip(sums) {
        let range = member.start..member.start + member.stored_bytes;
        let want = Get { key: &key, range, version: &object.version, until: None, stop: &stop };
        source.get(&want, &mut bytes).map_err(ReadError::into_error)?;
        if (&member.name, member.size_bytes(), crc32c::crc32c(&bytes)) != (name, size_bytes, sum) {
            return Err(differs(&format!("{name} does not read back as it was")));
        }
    }
    let beside = PathBuf::from(format!("{}{INDEX_EXTENSION}", shard.path.display()));
    super::storage::keep_text(&beside, &to_text(&members, object.size_bytes)).map_err(failed)?;
    fs::rename(&new, &shard.path).map_err(failed)
}
