//! Packs a folder or a list into archives of about one size, with an index beside each, and reads them back to verify
//! them. A marker file stays in every folder until all is written. Owns which file goes where; [`crate::read::archive`]
//! interprets archives.

use crate::error::{Error, Result};
use crate::read::archive::encoding::Encoding;
use crate::read::archive::member::Member;
use crate::read::archive::{index_as, to_text};
use crate::read::file::write_whole;
use crate::read::list::images::{ImageEntry, ImageList};
use crate::read::list::sample_reader::read_sample;
use crate::read::names::{CLASSES_FILE, Format, INCOMPLETE, INDEX_EXTENSION, SPLITS, is_archive, is_picture};
use crate::read::source::listing::Listing;
use crate::read::source::local::LocalFiles;
use crate::read::source::settings::Storage;
use crate::read::source::{Object, RangeRequest, ReadError, Source};
use crate::stop::Stop;
use crate::url::is_url;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Extension of an archive that is not complete yet.
const NEW: &str = "tar.new";

/// The result of packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Number of files, and of archives that they are in now.
    pub files: u64,
    pub archives: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// Options of packing.
#[derive(Clone, Copy)]
pub struct PackOptions<'a> {
    /// Maximum bytes of files in one archive; a larger file gets its own.
    pub shard_bytes: u64,
    /// Archives that are written at the same time.
    pub threads: usize,
    /// Called with the number of files done, and the total.
    pub progress: &'a (dyn Fn(u64, u64) + Sync),
}

/// A file on its way into an archive.
struct Input {
    /// `train`, say; empty without splits.
    split: &'static str,
    name: String,
    label: Option<u32>,
    /// The number by which it is read.
    number: u64,
    size_bytes: u64,
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
/// bytes. Every archive is read back and compared before it gets its name. Until all are there, `out` is refused wherever
/// data is read, by the file [`INCOMPLETE`] in it.
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
    let Listing { objects: mut listed, left_out } = storage.listing(&*source, false)?;
    if let Some((why, location)) = left_out.first() {
        let problem = format!("{} objects cannot be read; of the first {why}: {location:?}", left_out.len());
        return Err(Error::dataset(&dir, problem, "Give them other names, or remove them: a pack is whole"));
    }
    listed.retain(|object| !object.key.split('/').any(|part| part.starts_with('.')));
    let refused = |key: &str| match key.rsplit_once('.') {
        _ if key.split('/').any(str::is_empty) => Some("which no folder can hold: a part of its name is empty"),
        Some((_, "cls")) => Some("which in an archive would be the label of a picture: pack a list instead"),
        _ if is_archive(key) => Some("which is an archive, and nobody looks into an archive in another"),
        _ => None,
    };
    if let Some((object, why)) = listed.iter().find_map(|object| Some((object, refused(&object.key)?))) {
        let problem = format!("there is {} in it, {why}", object.key);
        return Err(Error::dataset(&dir, problem, "Keep it elsewhere, and pack the rest"));
    }
    let input = |(number, object): (u64, &Object)| {
        let (top, rest) = object.key.split_once('/').unwrap_or_default();
        let split = SPLITS.into_iter().find(|split| *split == top);
        let name = if split.is_some() { rest } else { &object.key }.to_owned();
        Input { split: split.unwrap_or_default(), name, label: None, number, size_bytes: object.size_bytes }
    };
    let mut inputs: Vec<Input> = (0..).zip(&listed).map(input).collect();
    // Files beside the splits sort before and behind them.
    inputs.sort_by_key(|input| input.split);
    let stop = Stop::default();
    let read = |number: u64, bytes: &mut Vec<u8>| {
        let object = &listed[number as usize];
        let (key, version, range) = (&*object.key, &*object.version, 0..object.size_bytes);
        source
            .get(&RangeRequest { key, range, version, until: None, stop: &stop }, bytes)
            .map_err(ReadError::into_error)
    };
    pack_inputs(&dir, &inputs, &read, None, out, options)
}

/// Packs the pictures of `list` as WebDataset has it: `00000000.jpg` with its label in `00000000.cls`, in the order of the
/// list, into `out/000000.tar`, ...; the names of the classes into `out/classes.txt`. Otherwise as [`pack`].
///
/// # Errors
/// As [`pack`].
pub fn pack_list(list: &ImageList, out: &Path, options: PackOptions<'_>) -> Result<Packed> {
    let digits = (list.entries.len().max(2) - 1).to_string().len().max(8);
    let input = |(number, entry): (u64, &ImageEntry)| {
        let size_bytes = match &list.stored {
            Some(stored) => stored.size_bytes(number),
            None => fs::metadata(&entry.path).map_err(|e| Error::io("look at", &entry.path, e))?.len(),
        };
        // Decoders go by its first bytes; the name must only be that of a picture.
        let extension = entry.path.extension().filter(|_| is_picture(&entry.path)).unwrap_or("jpg".as_ref());
        let name = format!("{number:0digits$}.{}", extension.to_string_lossy().to_lowercase());
        Ok(Input { split: "", name, label: Some(entry.class), number, size_bytes })
    };
    let inputs = (0u64..).zip(&list.entries).map(input).collect::<Result<Vec<Input>>>()?;
    let read = |number: u64, bytes: &mut Vec<u8>| {
        read_sample(list.stored.as_ref(), number, &list.entries[number as usize].path, &Stop::default(), bytes)
    };
    pack_inputs(Path::new(&list.split), &inputs, &read, Some(&list.classes), out, options)
}

fn pack_inputs(
    from: &Path,
    inputs: &[Input],
    read: Read<'_>,
    classes: Option<&[String]>,
    out: &Path,
    options: PackOptions<'_>,
) -> Result<Packed> {
    if inputs.is_empty() {
        return Err(Error::dataset(from, "there is no file in it", "Name the folder that holds the data"));
    }
    if is_url(out) {
        let problem = format!("{} is no folder of this machine", out.display());
        return Err(Error::config(problem, "Pack into one, and upload it: aws s3 sync DIR URL"));
    }
    if out.join(INCOMPLETE).exists() {
        return Err(Error::config(
            format!("the folder {} holds a pack that is not finished: it is under way, or was killed", out.display()),
            "Wait for its end; or remove the folder and pack again",
        ));
    }
    let not_empty = || {
        Error::config(
            format!("the folder {} is not empty", out.display()),
            "Name a new one, or remove it: archives of two times must not mix",
        )
    };
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(not_empty());
    }
    let PackOptions { shard_bytes, threads, progress } = options;
    let mut shards: Vec<Shard<'_>> = Vec::new();
    let (mut begin, mut number, mut held_bytes) = (0, 0, 0);
    for at in 0..=inputs.len() {
        let split = inputs[begin].split;
        let is_new_split = inputs.get(at).is_none_or(|input| input.split != split);
        let is_full = at > begin
            && inputs.get(at).is_some_and(|input| held_bytes + input.size_bytes > shard_bytes)
            && held_bytes > 0;
        if is_new_split || is_full {
            let path = out.join(split).join(format!("{number:06}.tar"));
            shards.push(Shard { path, files: &inputs[begin..at] });
            number = if is_new_split { 0 } else { number + 1 };
            (begin, held_bytes) = (at.min(inputs.len() - 1), 0);
        }
        held_bytes += inputs.get(at).map_or(0, |input| input.size_bytes);
    }
    let folders: BTreeSet<&Path> =
        shards.iter().filter_map(|shard| shard.path.parent()).chain(std::iter::once(out)).collect();
    mark(out)?;
    // Another process may have been faster, and have finished.
    let mut others = fs::read_dir(out).into_iter().flatten().flatten().filter(|entry| entry.file_name() != INCOMPLETE);
    let is_foreign = others.next().is_some();
    let marked = match is_foreign {
        false => folders.iter().filter(|folder| **folder != out).try_for_each(|folder| mark(folder)),
        true => Err(not_empty()),
    };
    let written = marked.and_then(|()| write_all(&shards, read, inputs.len() as u64, threads, progress));
    if let Err(error) = written {
        if is_foreign || !shards.iter().any(|shard| shard.path.exists()) {
            // Nothing was written, so nothing must be refused.
            folders.iter().rev().for_each(|folder| {
                let _ = fs::remove_file(folder.join(INCOMPLETE));
                let _ = fs::remove_dir(folder); // only if it is empty
            });
        }
        return Err(error);
    }
    if let Some(classes) = classes {
        let path = out.join(CLASSES_FILE);
        write_whole(&path, &(classes.join("\n") + "\n")).map_err(|e| Error::io("write", path, e))?;
    }
    // All names are on disk before the first marker is removed; that of `out` is the last.
    let sync = |folder: &&Path| {
        let sync = File::open(folder).and_then(|folder| folder.sync_all());
        sync.map_err(|e| Error::io("flush the folder", folder, e))
    };
    folders.iter().try_for_each(sync)?;
    for folder in folders.iter().rev() {
        let path = folder.join(INCOMPLETE);
        fs::remove_file(&path).map_err(|e| Error::io("remove", path, e))?;
    }
    folders.iter().try_for_each(sync)?;
    let bytes = inputs.iter().map(|input| input.size_bytes).sum();
    Ok(Packed { files: inputs.len() as u64, archives: shards.len() as u64, bytes })
}

/// Marks a folder as incomplete.
fn mark(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    let path = folder.join(INCOMPLETE);
    let text = "feedline pack removes this file when everything is written. If no pack is under way, it was killed: remove \
                the folder and pack again.\n";
    let write = || {
        let mut file = File::create_new(&path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|e| Error::io("write", &path, e))
}

fn write_all(
    shards: &[Shard<'_>],
    read: Read<'_>,
    total: u64,
    threads: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<()> {
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || -> Result<()> {
        while let Some(shard) = shards.get(next.fetch_add(1, Relaxed)) {
            let outcome = write(shard, read, &|| progress(done.fetch_add(1, Relaxed) + 1, total));
            if outcome.is_err() {
                let _ = fs::remove_file(shard.path.with_extension(NEW)); // of no use, and perhaps not there
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
    })
}

/// Writes one archive, reads it back, and gives it its final name.
fn write(shard: &Shard<'_>, read: Read<'_>, progress: &dyn Fn()) -> Result<()> {
    let folder = shard.path.parent().unwrap_or(Path::new(""));
    let failed = |e: io::Error| Error::io("write", &shard.path, e);
    fs::create_dir_all(folder).map_err(failed)?;
    let new = shard.path.with_extension(NEW);
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

    // Read by the same code that reads data sets.
    let source = LocalFiles::new(folder);
    let key = new.file_name().unwrap_or_default().to_string_lossy();
    let stop = Stop::default();
    let object = source.head(&key, &stop).map_err(ReadError::into_error)?;
    let index = index_as(&source, &object, Format::Tar)?;
    let members = &index.members;
    sums.sort();
    let differs = |problem: &str| {
        Error::dataset(&shard.path, format!("it was written, and {problem}"), "Pack it again; the disk may be failing")
    };
    if members.len() != sums.len() {
        return Err(differs("does not hold as many files as were packed"));
    }
    for (member, expect) in members.iter().zip(sums) {
        let Member { name, start, stored_bytes, encoding, class } = member;
        let range = *start..start + stored_bytes;
        let want = RangeRequest { key: &key, range, version: &object.version, until: None, stop: &stop };
        source.get(&want, &mut bytes).map_err(ReadError::into_error)?;
        if (name, *stored_bytes, crc32c::crc32c(&bytes), *class) != expect || *encoding != Encoding::Plain {
            return Err(differs(&format!("{name} does not read back as it was")));
        }
    }
    let beside = PathBuf::from(format!("{}{INDEX_EXTENSION}", shard.path.display()));
    write_whole(&beside, &to_text(&index, object.size_bytes)).map_err(failed)?;
    fs::rename(&new, &shard.path).map_err(failed)
}
