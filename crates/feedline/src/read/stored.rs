//! Files of a data set by number, wherever they lie: what a list of samples needs to find its files and to read them.
//! Owns the tree of names that a source has, and the outlook that a cache is told.

use super::archive::{self, Member, Packing};
use super::cache::Outlook;
use super::image_list::sorted_names;
use super::source::{Fault, Get, Object, ReadError, Source, Stop};
use super::storage::{Storage, is_url};
use super::{coalesce, read_file_into};
use crate::error::{Error, Result};
use crate::plan::Plan;
use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// A folder to look for data in: of this machine, or the URL of a source.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    tree: Option<Arc<Tree>>,
}

/// A source and the files in it, sorted by name.
#[derive(Debug)]
struct Tree {
    source: Arc<dyn Source>,
    objects: Arc<[Object]>,
    files: Vec<File>,
    requests_in_flight: usize,
}

/// An object, or a member of one that is an archive.
#[derive(Debug)]
struct File {
    name: Box<str>,
    extent: Extent,
    class: Option<u32>,
}

impl File {
    fn size_bytes(&self) -> u64 {
        self.extent.packing.size_bytes(self.extent.stored_bytes)
    }
}

/// Where the bytes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    object: u32,
    start: u64,
    stored_bytes: u64,
    packing: Packing,
}

impl From<&Path> for Folder {
    /// A folder of this machine.
    fn from(path: &Path) -> Folder {
        Folder { path: path.to_path_buf(), tree: None }
    }
}

impl Folder {
    /// A folder of this machine, or what lies at a URL: then its listing is loaded, or made and kept. Archives in it, or in
    /// the folder of a split, count as the files that they hold ([`super::archive`]).
    ///
    /// An archive may be named itself, `birds.zip`, or several, `train-{000..146}.tar`, and a folder inside: then nothing
    /// is listed, and what they hold is all there is.
    ///
    /// # Errors
    /// A URL that cannot be opened or listed; an archive with something wrong.
    pub fn open(path: &Path, storage: &Storage) -> Result<Folder> {
        let mut path = storage.resolve(path);
        if !is_url(&path) {
            let mut splits = ["", "train", "test", "val", "valid"].iter();
            if !is_in_archive(&path) && !splits.any(|split| has_archives(&path.join(split))) {
                return Ok(Folder { path, tree: None });
            }
            let absolute = std::path::absolute(&path).map_err(|e| Error::io("find", &path, e))?;
            path = format!("file://{}", absolute.display()).into();
        }
        if let Some(Named { folder, names, inside }) = archives_named(&path) {
            return Ok(Folder::of_objects(folder, &names, storage)?.join(inside));
        }
        let Some(url) = path.to_str() else {
            return Err(Error::dataset(&path, "its name is not UTF-8", "Rename it: it is read as a URL"));
        };
        let source = storage.open(url)?;
        let objects = storage.listing(&*source, false)?;
        if objects.is_empty() {
            return Err(Error::dataset(
                &path,
                "there is no object",
                "Check bucket and folder; if objects were added since, forget the old listing: feedline index --refresh URL",
            ));
        }
        let path = root_of(&*source);
        let is_archive = archive::finder(&objects);
        let tree = Tree::new(source, objects, &is_archive, storage)?;
        Ok(Folder { path, tree: Some(Arc::new(tree)) })
    }

    /// The deepest folder of all `paths`, which are URLs. A plain HTTP server lists nothing, so there each file is asked
    /// for.
    pub(super) fn of_files(paths: &[PathBuf], storage: &Storage) -> Result<Folder> {
        let common = paths.iter().map(|path| path.parent().unwrap_or(path)).reduce(|common, folder| {
            common.ancestors().find(|common| folder.starts_with(common)).unwrap_or(Path::new(""))
        });
        let common = common.unwrap_or(Path::new(""));
        if common.iter().count() < 2 {
            return Err(Error::config(
                format!("the files of one list lie in several places, such as {} and elsewhere", paths[0].display()),
                "Keep them in one bucket",
            ));
        }
        let url = url_of(common);
        if !url.starts_with("http") {
            return Folder::open(Path::new(&url), storage);
        }
        let base = format!("{}/", url.trim_end_matches('/'));
        let keys = paths.iter().map(|path| url_of(path).strip_prefix(&base).unwrap_or_default().to_owned());
        Folder::of_objects(&url, &keys.collect::<Vec<_>>(), storage)
    }

    /// Some objects of the folder at `url`, each of which is asked for.
    ///
    /// # Errors
    /// The first that is not there.
    pub(super) fn of_objects(url: &str, keys: &[String], storage: &Storage) -> Result<Folder> {
        let source = storage.open(url)?;
        let next = AtomicUsize::new(0);
        let ask = || -> Result<Vec<Object>> {
            let mut found = Vec::new();
            while let Some(key) = keys.get(next.fetch_add(1, Relaxed)) {
                found.push(source.head(key, &Stop::default()).map_err(ReadError::into_error)?);
                // An index that lies beside its archive saves the reading of the whole.
                if archive::is_openable(key) {
                    match source.head(&format!("{key}{}", archive::INDEX_EXTENSION), &Stop::default()) {
                        Err(error) if error.fault == Fault::Missing => {}
                        index => found.push(index.map_err(ReadError::into_error)?),
                    }
                }
            }
            Ok(found)
        };
        let mut objects = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..storage.requests_in_flight.min(keys.len())).map(|_| scope.spawn(ask)).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Vec<Object>>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?
        .concat();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects.dedup();
        let path = root_of(&*source);
        let tree = Tree::new(source, objects, &|key| archive::is_openable(key), storage)?;
        Ok(Folder { path, tree: Some(Arc::new(tree)) })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many files are known below the whole of it: 0 for a folder of this machine, which is looked at when it is needed.
    pub fn files(&self) -> usize {
        self.tree.as_ref().map_or(0, |tree| tree.files.len())
    }

    /// A folder in it, which need not be there.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> Folder {
        Folder { path: self.path.join(name), tree: self.tree.clone() }
    }

    /// What it was joined from: the folder of all files that are known.
    fn root(&self) -> Folder {
        let root = self.tree.as_ref().map(|tree| root_of(&*tree.source));
        Folder { path: root.unwrap_or_else(|| self.path.clone()), tree: self.tree.clone() }
    }

    /// Whether it is there.
    pub fn is_dir(&self) -> bool {
        match &self.tree {
            None => self.path.is_dir(),
            Some(tree) => tree.below(&self.path).next().is_some(),
        }
    }

    /// The names in it that are not hidden, bytewise sorted, and which of them are folders, if that can be told.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub(super) fn names(&self) -> Result<Vec<(OsString, Result<bool>)>> {
        let Some(tree) = &self.tree else {
            let look = |name: OsString| {
                let path = self.path.join(&name);
                let metadata = fs::metadata(&path).map_err(|source| Error::io("look into", &path, source));
                (name, metadata.map(|metadata| metadata.is_dir()))
            };
            return Ok(sorted_names(&self.path)?.into_iter().map(look).collect());
        };
        let mut names: Vec<(OsString, Result<bool>)> = Vec::new();
        for (name, is_dir) in tree.below(&self.path) {
            if !name.starts_with('.') && names.last().is_none_or(|(last, _)| last != name) {
                names.push((name.into(), Ok(is_dir)));
            }
        }
        if names.is_empty() {
            return Err(Error::io("list the folder", &self.path, std::io::ErrorKind::NotFound.into()));
        }
        // Keys are sorted with their `/`, which comes after some other characters.
        names.sort_by(|a, b| a.0.as_encoded_bytes().cmp(b.0.as_encoded_bytes()));
        Ok(names)
    }

    /// Whether files in it, folders and all, carry their labels.
    pub fn is_labelled(&self) -> bool {
        self.tree.as_ref().is_some_and(|tree| tree.files_below(&self.path).any(|file| file.class.is_some()))
    }

    /// If files in it, folders and all, carry their labels: all of them, sorted by name.
    pub(super) fn labelled(&self) -> Vec<(PathBuf, Option<u32>)> {
        let Some(tree) = self.tree.as_ref().filter(|_| self.is_labelled()) else { return Vec::new() };
        let root = tree.source.location("");
        tree.files_below(&self.path).map(|file| (format!("{root}{}", file.name).into(), file.class)).collect()
    }

    /// The whole of a file directly in it, if that is there and it is no folder of this machine.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        match self.stored(std::iter::once(&*path)) {
            Ok(Some(stored)) => stored.read_whole().map(Some).map_err(ReadError::into_error),
            _ => Ok(None),
        }
    }

    /// What reads `paths`, files below the source's root; `None` where they are files of this machine.
    ///
    /// # Errors
    /// The place of the first path that is not there.
    pub(super) fn stored<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> Result<Option<Stored>, usize> {
        let Some(tree) = &self.tree else { return Ok(None) };
        let find = |(at, path): (usize, &'a Path)| tree.key(path).and_then(|key| tree.find(key)).ok_or(at);
        let extents: Result<Vec<Extent>, usize> = paths.enumerate().map(find).collect();
        Ok(Some(Stored {
            source: Arc::clone(&tree.source),
            objects: Arc::clone(&tree.objects),
            extents: Extents::Listed(extents?.into()),
            requests_in_flight: tree.requests_in_flight,
            outlook: Arc::default(),
        }))
    }
}

impl Tree {
    /// The files in `objects`, which are sorted by key; in those that are archives, what they hold.
    fn new(
        source: Arc<dyn Source>,
        objects: Vec<Object>,
        is_archive: &dyn Fn(&str) -> bool,
        storage: &Storage,
    ) -> Result<Tree> {
        let archives: Vec<&Object> = objects.iter().filter(|object| is_archive(&object.key)).collect();
        let mut members = archive::indexes(&*source, &archives, &objects, storage, &|_| ())?.into_iter();
        let mut files = Vec::with_capacity(objects.len());
        for (at, object) in (0u32..).zip(&objects) {
            if object.key.strip_suffix(archive::INDEX_EXTENSION).is_some_and(is_archive) {
                continue; // no file of the data set
            }
            if !is_archive(&object.key) {
                let stored_bytes = object.size_bytes;
                let extent = Extent { object: at, start: 0, stored_bytes, packing: Packing::Plain };
                files.push(File { name: object.key.as_str().into(), extent, class: None });
                continue;
            }
            let folder = object.key.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
            for Member { name, start, stored_bytes, packing, class } in members.next().unwrap_or_default() {
                let extent = Extent { object: at, start, stored_bytes, packing };
                let name = match class {
                    None => format!("{folder}{name}"),
                    Some(_) => format!("{}/{name}", object.key),
                };
                files.push(File { name: name.into(), extent, class });
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let object = |file: &File| &objects[file.extent.object as usize];
        let is_member = |file: &File| is_archive(&object(file).key);
        // An archive may lie beside what was unpacked from it.
        files.dedup_by(|other, one| {
            // Archives may bring the names of the classes, all the same ones; a file of that name comes first.
            let [one_brings, other_brings] = [&*one, &*other].map(|file| file.extent.packing.is_class_names());
            if one.name == other.name && (one_brings || other_brings) {
                if one_brings && !other_brings {
                    std::mem::swap(one, other);
                }
                return one_brings != other_brings || one.extent.packing == other.extent.packing;
            }
            let is_same = one.name == other.name && one.size_bytes() == other.size_bytes();
            if is_same && is_member(one) && !is_member(other) {
                std::mem::swap(one, other);
            }
            is_same && !is_member(one) && is_member(other)
        });
        if let Some([one, other]) = files.array_windows().find(|[one, other]| one.name == other.name) {
            return Err(Error::dataset(
                source.location(&object(other).key),
                format!("{} is in it, and in {} too", one.name, source.location(&object(one).key)),
                "Keep each file once: in one archive, or beside them",
            ));
        }
        let objects = objects.into();
        Ok(Tree { source, objects, files, requests_in_flight: storage.requests_in_flight })
    }

    /// The key of a path below the root.
    fn key<'a>(&self, path: &'a Path) -> Option<&'a str> {
        let root = self.source.location("");
        let path = path.to_str()?;
        if root.strip_suffix('/') == Some(path) { Some("") } else { path.strip_prefix(&root) }
    }

    fn find(&self, key: &str) -> Option<Extent> {
        let at = self.files.binary_search_by(|file| (*file.name).cmp(key)).ok()?;
        Some(self.files[at].extent)
    }

    fn files_below(&self, folder: &Path) -> impl Iterator<Item = &File> {
        let prefix = self.key(folder).map(|key| if key.is_empty() { String::new() } else { format!("{key}/") });
        let start =
            prefix.as_ref().map_or(self.files.len(), |prefix| self.files.partition_point(|file| *file.name < **prefix));
        self.files[start..].iter().take_while(move |file| file.name.starts_with(prefix.as_deref().unwrap_or_default()))
    }

    /// For each file below a folder: the next part of its name, and whether more follows.
    fn below(&self, folder: &Path) -> impl Iterator<Item = (&str, bool)> {
        let depth = self.key(folder).map_or(0, |key| if key.is_empty() { 0 } else { key.len() + 1 });
        let rests = self.files_below(folder).map(move |file| &file.name[depth..]);
        // What ends in `/` is a mark that some tools leave for a folder.
        rests.filter(|rest| !rest.is_empty() && !rest.ends_with('/')).map(|rest| match rest.split_once('/') {
            Some((name, _)) => (name, true),
            None => (rest, false),
        })
    }
}

/// Files by the number of their sample, or rows of one file, and what reads them.
#[derive(Debug, Clone)]
pub struct Stored {
    source: Arc<dyn Source>,
    objects: Arc<[Object]>,
    extents: Extents,
    requests_in_flight: usize,
    outlook: Arc<Mutex<Option<Arc<Order>>>>,
}

/// Where the bytes of each sample are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Extents {
    Listed(Arc<[Extent]>),
    /// One behind the other, from `first` on.
    Rows {
        first: Extent,
        rows: u64,
    },
}

impl Extents {
    fn len(&self) -> u64 {
        match self {
            Extents::Listed(extents) => extents.len() as u64,
            Extents::Rows { rows, .. } => *rows,
        }
    }

    fn get(&self, sample: u64) -> Extent {
        match self {
            Extents::Listed(extents) => extents[sample as usize],
            Extents::Rows { first, .. } => Extent { start: first.start + sample * first.stored_bytes, ..*first },
        }
    }
}

impl PartialEq for Stored {
    fn eq(&self, other: &Stored) -> bool {
        (&self.objects, &self.extents) == (&other.objects, &other.extents)
            && self.source.location("") == other.source.location("")
    }
}

impl Eq for Stored {}

impl Stored {
    /// Requests that may be under way at once.
    pub fn requests_in_flight(&self) -> usize {
        self.requests_in_flight
    }

    /// Size of a sample's file.
    pub fn size_bytes(&self, sample: u64) -> u64 {
        let Extent { stored_bytes, packing, .. } = self.extents.get(sample);
        packing.size_bytes(stored_bytes)
    }

    /// The archive that holds a sample's file, if one does.
    pub fn archive(&self, sample: u64) -> Option<String> {
        let object = &self.objects[self.extents.get(sample).object as usize];
        archive::is_openable(&object.key).then(|| self.source.location(&object.key))
    }

    /// Reads the file of a sample.
    ///
    /// # Errors
    /// As [`Source::get`].
    pub fn read_into(&self, sample: u64, stop: &Stop, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
        let (Object { key, version, .. }, range) = self.place(sample);
        #[cfg(feature = "parquet")]
        if let Some(packed) = self.in_page(sample) {
            let location = self.source.location(key);
            let wanted = super::parquet::Wanted { location: &location, version, start: range.start };
            let read = |page: &mut Vec<u8>| {
                self.source.get(&Get { key, range: range.clone(), version, until: None, stop }, page)
            };
            let picked = super::parquet::read_value(packed, &wanted, bytes, read)?;
            return picked.map_err(|problem| ReadError::new(Fault::Other, location, problem));
        }
        self.source.get(&Get { key, range, version, until: None, stop }, bytes)?;
        self.unpack(sample, key, bytes)
    }

    /// How a sample that shares a compressed page with others comes out of it.
    #[cfg(feature = "parquet")]
    fn in_page(&self, sample: u64) -> Option<super::parquet::Packed> {
        match self.extents.get(sample).packing {
            packing if packing.is_class_names() => None,
            Packing::Parquet(packed) => Some(packed),
            _ => None,
        }
    }

    /// Whether two samples' files lie so close together that [`Stored::read_many`] reads both in one request.
    pub fn is_near(&self, one: u64, next: u64) -> bool {
        let ((one, one_range), (next, next_range)) = (self.place(one), self.place(next));
        std::ptr::eq(one, next) && (one_range == next_range || coalesce::is_near(&one_range, &next_range))
    }

    /// Reads the files of several samples, each into its own of `into`; as many results.
    pub fn read_many(&self, samples: &[u64], stop: &Stop, into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        // Samples of one page one behind the other read it once.
        #[cfg(feature = "parquet")]
        if samples.iter().any(|sample| self.in_page(*sample).is_some()) {
            return samples.iter().zip(into).map(|(sample, into)| self.read_into(*sample, stop, into)).collect();
        }
        let want = |sample: &u64| {
            let (Object { key, version, .. }, range) = self.place(*sample);
            Get { key, range, version, until: None, stop }
        };
        let wants: Vec<Get<'_>> = samples.iter().map(want).collect();
        let mut results = self.source.get_many(&wants, into);
        for (((result, bytes), want), sample) in results.iter_mut().zip(into).zip(&wants).zip(samples) {
            if result.is_ok() {
                *result = self.unpack(*sample, want.key, bytes);
            }
        }
        results
    }

    fn unpack(&self, sample: u64, key: &str, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
        let unpacked = self.extents.get(sample).packing.unpack(bytes);
        unpacked.map_err(|problem| ReadError::new(Fault::Other, self.source.location(key), problem))
    }

    /// The first bytes of a sample's file, at most `most_bytes`: for headers that say how to read the rest.
    ///
    /// # Errors
    /// As [`Source::get`].
    pub fn read_start(&self, sample: u64, most_bytes: usize, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
        let stop = Stop::default();
        let Some(Extent { start, stored_bytes, .. }) = self.in_place(sample)? else {
            self.read_into(sample, &stop, bytes)?;
            bytes.truncate(most_bytes);
            return Ok(());
        };
        let (Object { key, version, .. }, _) = self.place(sample);
        let range = start..start + stored_bytes.min(most_bytes as u64);
        self.source.get(&Get { key, range, version, until: None, stop: &stop }, bytes)
    }

    /// The rows of the first file, which begin behind `offset_bytes` of header and fill it; `None` if it is compressed, so
    /// that no part of it can be read alone.
    ///
    /// # Errors
    /// As [`Source::get`].
    pub fn rows(&self, offset_bytes: u64, row_bytes: u64, rows: u64) -> Result<Option<Stored>, ReadError> {
        let file = self.in_place(0)?;
        Ok(file.map(|file| {
            let first = Extent { start: file.start + offset_bytes, stored_bytes: row_bytes, ..file };
            Stored { extents: Extents::Rows { first, rows }, outlook: Arc::default(), ..self.clone() }
        }))
    }

    /// The whole of the first file, in pieces that are read at once.
    ///
    /// # Errors
    /// As [`Source::get`].
    pub fn read_whole(&self) -> Result<Vec<u8>, ReadError> {
        let (stop, mut whole) = (Stop::default(), Vec::new());
        let Some(file) = self.in_place(0)?.filter(|file| file.stored_bytes > PIECE_BYTES) else {
            return self.read_into(0, &stop, &mut whole).map(|()| whole);
        };
        whole.resize(file.stored_bytes as usize, 0);
        let Object { key, version, .. } = &self.objects[file.object as usize];
        let pieces =
            Mutex::new((file.start..).step_by(PIECE_BYTES as usize).zip(whole.chunks_mut(PIECE_BYTES as usize)));
        let read = || -> Result<(), ReadError> {
            let mut bytes = Vec::new();
            loop {
                let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((start, piece)) = next else { return Ok(()) };
                let range = start..start + piece.len() as u64;
                self.source.get(&Get { key, range, version, until: None, stop: &stop }, &mut bytes)?;
                piece.copy_from_slice(&bytes);
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.requests_in_flight.min(PIECES_AT_ONCE)).map(|_| scope.spawn(read)).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<(), ReadError>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().try_for_each(join)
        })?;
        Ok(whole)
    }

    /// Where the file itself stands, without what comes before it in an archive; `None` if it is compressed.
    fn in_place(&self, sample: u64) -> Result<Option<Extent>, ReadError> {
        let extent = self.extents.get(sample);
        let packed = match extent.packing {
            Packing::Plain => return Ok(Some(extent)),
            Packing::Zip(packed) => packed,
            #[cfg(feature = "parquet")]
            Packing::Parquet(_) => return Ok(None),
        };
        if packed.is_deflated {
            return Ok(None);
        }
        let (Object { key, version, .. }, range) = self.place(sample);
        let (stop, mut header) = (Stop::default(), Vec::new());
        let range = range.start..range.end.min(range.start + super::zip::HEADER_BYTES);
        self.source.get(&Get { key, range, version, until: None, stop: &stop }, &mut header)?;
        let start = super::zip::data_start(&header)
            .filter(|start| *start as u64 + packed.packed_bytes <= extent.stored_bytes)
            .ok_or_else(|| {
                let problem = "the header of a member of the zip archive is damaged";
                ReadError::new(Fault::Other, self.source.location(key), problem)
            })?;
        let (start, stored_bytes) = (extent.start + start as u64, packed.packed_bytes);
        Ok(Some(Extent { start, stored_bytes, packing: Packing::Plain, ..extent }))
    }

    fn place(&self, sample: u64) -> (&Object, Range<u64>) {
        let Extent { object, start, stored_bytes, .. } = self.extents.get(sample);
        (&self.objects[object as usize], start..start + stored_bytes)
    }

    /// Tells a cache the order in which samples will be asked for.
    ///
    /// # Errors
    /// A cache that is too small for one sample.
    pub fn follow(&self, plan: &Plan) -> Result<()> {
        let Some(cache) = self.source.cache() else { return Ok(()) };
        let order = Arc::new(Order::new(plan.clone()));
        let weak = Arc::downgrade(&order);
        cache.follow((0..self.extents.len()).map(|sample| self.place(sample)), weak)?;
        *self.outlook.lock().unwrap_or_else(PoisonError::into_inner) = Some(order);
        Ok(())
    }

    /// Notes how far the reading has come.
    pub fn reached(&self, epoch: u64, position: u64) {
        if self.source.cache().is_some()
            && let Some(order) = &*self.outlook.lock().unwrap_or_else(PoisonError::into_inner)
        {
            order.reached(epoch, position);
        }
    }

    /// What the cache did, if there is one.
    pub fn cache_counts(&self) -> Option<super::CacheCounts> {
        Some(self.source.cache()?.counts())
    }
}

/// A large file is read in pieces of this size, which is the most that one `timeout_s` is for.
const PIECE_BYTES: u64 = 16 << 20;

/// So many of them at once.
const PIECES_AT_ONCE: usize = 8;

/// Samples above which no place is remembered: eight bytes for each.
const MOST_SAMPLES: u64 = 1 << 27;

/// The order of a run, as a cache wants to know it: at which place of this epoch and the next a sample is needed.
#[derive(Debug)]
struct Order {
    plan: Plan,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    epoch: u64,
    position: u64,
    /// For this epoch and the next: the place of each sample. Empty until somebody asks.
    places: [Vec<u32>; 2],
}

/// No place.
const NOWHERE: u32 = u32::MAX;

impl Order {
    fn new(plan: Plan) -> Order {
        Order { plan, now: Mutex::default() }
    }

    fn reached(&self, epoch: u64, position: u64) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let now = &mut *now;
        let [this, next] = &mut now.places;
        if epoch == now.epoch + 1 {
            (*this, *next) = (std::mem::take(next), Vec::new());
        } else if epoch != now.epoch {
            (*this, *next) = (Vec::new(), Vec::new());
        } else if position <= now.position {
            return;
        }
        (now.epoch, now.position) = (epoch, position);
    }

    /// The first place of each sample in an epoch.
    fn places(&self, epoch: u64) -> Vec<u32> {
        let mut places = vec![NOWHERE; self.plan.len() as usize];
        let order = self.plan.epoch(epoch);
        for position in (0..order.total_size()).rev() {
            places[order.at(position).index as usize] = position as u32;
        }
        places
    }
}

impl Outlook for Order {
    fn next_use(&self, sample: u64) -> f64 {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (epoch, len) = (now.epoch, self.plan.epoch_len().max(1) as f64);
        if self.plan.len() > MOST_SAMPLES {
            return epoch as f64 + 1.0;
        }
        for ahead in 0..2 {
            if now.places[ahead].is_empty() {
                now.places[ahead] = self.places(epoch + ahead as u64);
            }
            let place = now.places[ahead].get(sample as usize).copied().unwrap_or(NOWHERE);
            if place != NOWHERE && (ahead == 1 || u64::from(place) > now.position) {
                return (epoch + ahead as u64) as f64 + f64::from(place) / len;
            }
        }
        epoch as f64 + 2.0
    }
}

/// The folder of all that a source holds, as one may join a name to it.
fn root_of(source: &dyn Source) -> PathBuf {
    let root = source.location("");
    let is_root = root.ends_with(":///");
    if is_root { root.into() } else { root.trim_end_matches('/').into() }
}

/// Whether a folder of this machine holds an archive.
fn has_archives(folder: &Path) -> bool {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    // A Parquet file beside class folders says something about them ([`archive::finder`]).
    let has_folders = || names.iter().any(|name| !name.starts_with('.') && folder.join(name).is_dir());
    let (mut parquets, mut others) = (names.iter().map(|name| &**name), names.iter());
    others.any(|name| archive::is_archive(name) && !archive::is_parquet(name))
        || parquets.any(archive::is_parquet) && !has_folders()
}

/// Whether a path leads to an archive that it names, or into one.
pub fn is_in_archive(path: &Path) -> bool {
    archives_named(path).is_some()
}

/// A path that names archives: the folder they lie in, their names, and the rest, a folder inside of them.
struct Named<'a> {
    folder: &'a str,
    names: Vec<String>,
    inside: &'a str,
}

fn archives_named(path: &Path) -> Option<Named<'_>> {
    let text = path.to_str()?;
    let local = if is_url(path) { text.strip_prefix("file://") } else { Some(text) };
    // The name of a bucket or a host is none of an archive.
    let rest = local.or_else(|| text.split_once("://")?.1.split_once('/').map(|(_, rest)| rest))?;
    let mut start = 0;
    for part in rest.split('/') {
        let end = start + part.len();
        if archive::is_openable(part) && !local.is_some_and(|local| Path::new(&local[..end]).is_dir()) {
            let folder = &text[..text.len() - rest.len() + start];
            let folder = folder.strip_suffix('/').unwrap_or(folder);
            return Some(Named { folder, names: expand(part), inside: rest[end..].trim_matches('/') });
        }
        start = end + 1;
    }
    None
}

/// `a{08..10}b` as a08b, a09b, a10b, each pair of braces in turn; what is no such thing stays as it is.
fn expand(name: &str) -> Vec<String> {
    let range = name.split_once('{').and_then(|(before, rest)| {
        let (range, after) = rest.split_once('}')?;
        let (first, last) = range.split_once("..")?;
        let (from, to): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        (from <= to && to - from < 1 << 24).then_some((before, from..=to, first.len(), after))
    });
    let Some((before, numbers, digits, after)) = range else { return vec![name.to_owned()] };
    let rests = expand(after);
    numbers.flat_map(|number| rests.iter().map(move |rest| format!("{before}{number:0digits$}{rest}"))).collect()
}

/// The text of a URL that was taken apart as a path, which loses one of its two `/`.
fn url_of(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains("://") { text } else { text.replacen(":/", "://", 1) }
}

/// The whole of a small file: of this machine, or at a URL.
///
/// # Errors
/// [`Error::Io`] with the file's name or URL.
pub(super) fn read_whole(path: &Path, storage: &Storage) -> Result<Vec<u8>> {
    let path = storage.resolve(path);
    let mut bytes = Vec::new();
    if !is_url(&path) {
        read_file_into(&path, &mut bytes).map_err(|e| Error::io("read the list", path, e))?;
        return Ok(bytes);
    }
    match open_file(&path, storage)? {
        Some((_, stored)) => stored.read_whole().map_err(ReadError::into_error),
        None => Err(Error::dataset(path, "it cannot be opened", "Check the URL")),
    }
}

/// One file that is not simply a file of this machine: at a URL, or in an archive that is named, `rows.npz` or
/// `rows.npz/x.npy`. With its path, archive and all. `None` if it is one.
///
/// # Errors
/// A URL that cannot be opened; a file that is not there; an archive that is named alone and holds several.
pub fn open_file(path: &Path, storage: &Storage) -> Result<Option<(PathBuf, Stored)>> {
    let mut path = storage.resolve(path);
    if let Some(inside) = archives_named(&path).map(|named| named.inside.to_owned()) {
        let mut folder = Folder::open(&path, storage)?;
        let names = folder.root().names()?;
        if let ([(only, Ok(false))], true) = (&*names, inside.is_empty()) {
            folder = folder.join(only);
            path = path.join(only);
        }
        if let Ok(Some(stored)) = folder.stored(std::iter::once(folder.path())) {
            return Ok(Some((path, stored)));
        }
        let names: Vec<String> = names.iter().take(20).map(|(name, _)| name.display().to_string()).collect();
        let problem = if inside.is_empty() { "it holds several files" } else { "there is no such file in the archive" };
        return Err(Error::dataset(
            &path,
            problem,
            format!("Name one behind the archive and a `/`: {}", names.join(", ")),
        ));
    }
    if !is_url(&path) {
        return Ok(None);
    }
    let url = path.display().to_string();
    let (folder, key) = url.rsplit_once('/').unwrap_or((&url, ""));
    let folder = Folder::of_objects(folder, &[key.to_owned()], storage)?.join(key);
    let stored = folder.stored(std::iter::once(folder.path())).ok().flatten();
    let stored = stored.ok_or_else(|| Error::dataset(&path, "there is no such object", "Check the URL"))?;
    Ok(Some((path, stored)))
}

/// Reads a file of this machine, or the object of a sample.
///
/// # Errors
/// [`Error::Io`] with the file's name or URL.
pub fn read_sample(stored: Option<&Stored>, sample: u64, path: &Path, stop: &Stop, bytes: &mut Vec<u8>) -> Result<()> {
    match stored {
        None => read_file_into(path, bytes).map_err(|e| Error::io("read", path, e)),
        Some(stored) => stored.read_into(sample, stop, bytes).map_err(ReadError::into_error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_that_a_path_names_are_told_from_buckets_hosts_and_folders() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder.zip");
        fs::create_dir(&folder).unwrap();
        let folder = folder.display();
        let long = ["x-08.tar", "x-09.tar", "x-10.tar"];
        for (path, expect) in [
            ("s3://b.zip/x.tar".into(), Some(("s3://b.zip", &["x.tar"][..], ""))),
            ("s3://b/a/x-{08..10}.tar/train/cat/".into(), Some(("s3://b/a", &long, "train/cat"))),
            ("https://example.zip".into(), None),
            ("https://example.zip/train".into(), None),
            ("https://host/x.mds".into(), Some(("https://host", &["x.mds"], ""))),
            ("file:///x.npz/a.npy".into(), Some(("file://", &["x.npz"], "a.npy"))),
            (format!("file://{folder}/x.tar"), Some((&*format!("file://{folder}"), &["x.tar"], ""))),
            (format!("{folder}/train"), None),
            ("x.zip".into(), Some(("", &["x.zip"], ""))),
            ("s3://b/x.tar.index".into(), None),
            ("x-{3..1}.tar".into(), Some(("", &["x-{3..1}.tar"], ""))),
        ] {
            let path: String = path;
            let named = archives_named(Path::new(&path));
            let found = named.as_ref().map(|Named { folder, names, inside }| (*folder, names.clone(), *inside));
            let expect = expect.map(|(folder, names, inside)| {
                (folder, names.iter().map(|name| name.to_string()).collect::<Vec<_>>(), inside)
            });
            assert_eq!(found, expect, "{path}");
        }
        assert_eq!(expand("{0..1}-{08..09}.tar"), ["0-08.tar", "0-09.tar", "1-08.tar", "1-09.tar"]);
    }
}
