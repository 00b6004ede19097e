//! From a folder or a list to archives of about one size, with an index beside each, and back again to see that they are
//! right. Owns what goes where; what an archive is understood as is [`super::archive`]'s.

use super::archive::{Format, INDEX_EXTENSION, Member, Packing, index_as, to_text};
use super::image_list::{CLASSES_FILE, ImageList};
use super::local::LocalFiles;
use super::source::{Get, ReadError, Source, Stop};
use super::stored::read_sample;
use super::{Storage, is_url};
use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
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

/// How archives are written.
#[derive(Clone, Copy)]
pub struct PackOptions<'a> {
    /// Bytes of files in one archive, at most; or one file.
    pub shard_bytes: u64,
    /// Archives that are written at the same time.
    pub threads: usize,
    /// Hears how many files are done, of how many.
    pub progress: &'a (dyn Fn(u64, u64) + Sync),
}

/// A file on its way into an archive.
struct Input {
    /// `train`, say, or nothing.
    split: &'static str,
    name: String,
    label: Option<u32>,
    /// What it is asked for by.
    number: u64,
}

/// One archive to be written.
struct Shard<'a> {
    path: PathBuf,
    files: &'a [Input],
}

/// Reads the file with this number.
type Read<'a> = &'a (dyn Fn(u64, &mut Vec<u8>) -> Result<()> + Sync);

/// Packs the files below `dir`, a folder or a URL, into archives `out/{train,test,val,valid}/000000.tar`, ..., or
/// `out/000000.tar`, ... where there are no such folders, in the bytewise order of their names. The same files give the same
/// bytes. Every archive is read back and compared before it gets its name.
///
/// # Errors
/// A folder without files, an `out` that is not empty, a file that cannot be read or written, or an archive that does not
/// read back as the files.
pub fn pack(dir: &Path, storage: &Storage, out: &Path, options: PackOptions<'_>) -> Result<Packed> {
    let dir = storage.resolve(dir);
    let source: Arc<dyn Source> = match dir.to_str().filter(|_| is_url(&dir)) {
        Some(url) => storage.open(url)?,
        None => Arc::new(LocalFiles::new(&*dir)),
    };
    let mut listed = storage.listing(&*source, false)?;
    listed.retain(|object| !object.key.split('/').any(|part| part.is_empty() || part.starts_with('.')));
    let input = |(number, key): (u64, &str)| match key.split_once('/') {
        Some((top, rest)) if SPLITS.contains(&top) => {
            let split = SPLITS.iter().find(|split| **split == top).copied().unwrap_or_default();
            (split, rest.to_owned(), number)
        }
        _ => ("", key.to_owned(), number),
    };
    let inputs = (0..).zip(listed.iter().map(|object| object.key.as_str())).map(input);
    let inputs: Vec<Input> = inputs.map(|(split, name, number)| Input { split, name, label: None, number }).collect();
    let stop = Stop::default();
    let read = |number: u64, bytes: &mut Vec<u8>| {
        let object = &listed[number as usize];
        let (key, version, range) = (&*object.key, &*object.version, 0..object.size_bytes);
        source.get(&Get { key, range, version, until: None, stop: &stop }, bytes).map_err(ReadError::into_error)
    };
    let sizes: Vec<u64> = listed.iter().map(|object| object.size_bytes).collect();
    pack_inputs(&dir, &inputs, &sizes, &read, out, options)
}

/// Packs the pictures of `list` as WebDataset has it: `00000000.jpg` with its label in `00000000.cls`, in the order of the
/// list, into `out/000000.tar`, ...; the names of the classes into `out/classes.txt`. Otherwise as [`pack`].
///
/// # Errors
/// As [`pack`].
pub fn pack_list(list: &ImageList, out: &Path, options: PackOptions<'_>) -> Result<Packed> {
    let digits = (list.entries.len().max(2) - 1).to_string().len().max(8);
    let inputs = (0u64..).zip(&list.entries).map(|(number, entry)| {
        let extension =
            entry.path.extension().map_or("jpg".into(), |extension| extension.to_string_lossy().to_lowercase());
        Input { split: "", name: format!("{number:0digits$}.{extension}"), label: Some(entry.class), number }
    });
    let inputs: Vec<Input> = inputs.collect();
    let size = |(number, entry): (u64, &super::ImageEntry)| match &list.stored {
        Some(stored) => Ok(stored.size_bytes(number)),
        None => fs::metadata(&entry.path).map(|file| file.len()).map_err(|e| Error::io("look at", &entry.path, e)),
    };
    let sizes = (0u64..).zip(&list.entries).map(size).collect::<Result<Vec<u64>>>()?;
    let read = |number: u64, bytes: &mut Vec<u8>| {
        read_sample(list.stored.as_ref(), number, &list.entries[number as usize].path, &Stop::default(), bytes)
    };
    let packed = pack_inputs(Path::new(&list.split), &inputs, &sizes, &read, out, options)?;
    let path = out.join(CLASSES_FILE);
    super::storage::keep_text(&path, &(list.classes.join("\n") + "\n")).map_err(|e| Error::io("write", path, e))?;
    Ok(packed)
}

fn pack_inputs(
    from: &Path,
    inputs: &[Input],
    sizes: &[u64],
    read: Read<'_>,
    out: &Path,
    options: PackOptions<'_>,
) -> Result<Packed> {
    if inputs.is_empty() {
        return Err(Error::dataset(from, "there is no file in it", "Name the folder that holds the data"));
    }
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::config(
            format!("the folder {} is not empty", out.display()),
            "Name a new one, or remove it: archives of two times must not mix",
        ));
    }
    let PackOptions { shard_bytes, threads, progress } = options;
    let mut shards: Vec<Shard<'_>> = Vec::new();
    let (mut begin, mut number, mut held_bytes) = (0, 0, 0);
    for at in 0..=inputs.len() {
        let split = inputs[begin].split;
        let is_new_split = inputs.get(at).is_none_or(|input| input.split != split);
        let is_full = at > begin && sizes.get(at).is_some_and(|size| held_bytes + size > shard_bytes) && held_bytes > 0;
        if is_new_split || is_full {
            let path = out.join(split).join(format!("{number:06}.tar"));
            shards.push(Shard { path, files: &inputs[begin..at] });
            number = if is_new_split { 0 } else { number + 1 };
            (begin, held_bytes) = (at.min(inputs.len() - 1), 0);
        }
        held_bytes += sizes.get(at).copied().unwrap_or_default();
    }
    let (next, done, total) = (AtomicUsize::new(0), AtomicU64::new(0), inputs.len() as u64);
    let work = || -> Result<()> {
        while let Some(shard) = shards.get(next.fetch_add(1, Relaxed)) {
            let outcome = write(shard, read, &|| progress(done.fetch_add(1, Relaxed) + 1, total));
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
    Ok(Packed { files: total, archives: shards.len() as u64, bytes: sizes.iter().sum() })
}

/// Writes one archive, reads it back, and gives it its name.
fn write(shard: &Shard<'_>, read: Read<'_>, progress: &dyn Fn()) -> Result<()> {
    let folder = shard.path.parent().unwrap_or(Path::new(""));
    let failed = |e: io::Error| Error::io("write", &shard.path, e);
    fs::create_dir_all(folder).map_err(failed)?;
    let new = shard.path.with_extension("tar.new");
    let mut builder = tar::Builder::new(BufWriter::new(File::create(&new).map_err(failed)?));
    let mut bytes = Vec::new();
    let mut sums = Vec::with_capacity(shard.files.len());
    let mut append = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).map_err(failed)
    };
    for Input { name, label, number, .. } in shard.files {
        read(*number, &mut bytes)?;
        append(name, &bytes)?;
        if let (Some(label), Some((key, _))) = (label, name.rsplit_once('.')) {
            append(&format!("{key}.cls"), label.to_string().as_bytes())?;
        }
        sums.push((name, bytes.len() as u64, crc32c::crc32c(&bytes), *label));
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
    for (member, expect) in members.iter().zip(sums) {
        let Member { name, start, stored_bytes, packing, class } = member;
        let range = *start..start + stored_bytes;
        let want = Get { key: &key, range, version: &object.version, until: None, stop: &stop };
        source.get(&want, &mut bytes).map_err(ReadError::into_error)?;
        if (name, *stored_bytes, crc32c::crc32c(&bytes), *class) != expect || *packing != Packing::Plain {
            return Err(differs(&format!("{name} does not read back as it was")));
        }
    }
    let beside = PathBuf::from(format!("{}{INDEX_EXTENSION}", shard.path.display()));
    super::storage::keep_text(&beside, &to_text(&members, object.size_bytes)).map_err(failed)?;
    fs::rename(&new, &shard.path).map_err(failed)
}
