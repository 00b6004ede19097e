//! Folders and archives to search for data, local or remote. Owns the tree of names in a source, and the meaning of a
//! path: a folder, a URL, named archives.

pub(in crate::read) mod names;

use crate::error::{Error, Result};
use crate::read::archive;
use crate::read::archive::Index;
use crate::read::archive::encoding::Encoding;
use crate::read::archive::member::Member;
use crate::read::list::sample_reader::{Extent, SampleReader};
use crate::read::location::{
    Location, NamedArchives, Place, check_url, compressed, file_url, holds_archives, incomplete, url_of,
};
use crate::read::names::{
    CLASSES_FILE, INCOMPLETE, INDEX_EXTENSION, SPLITS, is_archive, is_compressed, is_data, is_openable, is_split,
    split_of,
};
use crate::read::remarks::Remarks;
use crate::read::source::listing::Listing;
use crate::read::source::settings::Storage;
use crate::read::source::{Object, ReadError, ReadErrorKind, Source};
use crate::stop::Stop;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// A folder to search for data: local, or the URL of a source.
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
    remarks: Remarks,
    requests_in_flight: usize,
}

/// An object, or a member of an archive.
#[derive(Debug)]
struct File {
    name: Box<str>,
    extent: Extent,
    class: Option<u32>,
}

impl From<&Path> for Folder {
    /// A local folder.
    fn from(path: &Path) -> Folder {
        Folder { path: path.to_path_buf(), tree: None }
    }
}

impl Folder {
    /// Opens a local folder, or a URL: then its listing is loaded, or made and cached. Archives in it, or in the folder
    /// of a split, stand for the files in them ([`crate::read::archive`]).
    ///
    /// A path may name an archive, `birds.zip`, or several, `train-{000..146}.tar`, and a folder inside: then nothing
    /// is listed, and the folder contains only their files.
    ///
    /// # Errors
    /// A URL that cannot be opened or listed; an invalid archive.
    pub fn open(path: &Path, storage: &Storage) -> Result<Folder> {
        Folder::at(storage.locate(path)?, storage)
    }

    /// As [`Folder::open`].
    pub(in crate::read) fn at(Location { path, place }: Location, storage: &Storage) -> Result<Folder> {
        if path.to_str().is_some_and(is_compressed) && !path.is_dir() {
            return Err(compressed(path));
        }
        match place {
            Place::Archives(NamedArchives { folder, names, inside }) => {
                Ok(Folder::of_objects(&folder, &names, storage)?.join(inside))
            }
            Place::Url(url) => Folder::listed(&url, storage),
            Place::Local if holds_archives(&path) => Folder::listed(&file_url(&path)?, storage),
            Place::Local => {
                // `feedline pack` was killed before its first archive was written.
                let mut folders = std::iter::once("").chain(SPLITS).map(|split| path.join(split));
                match folders.find(|folder| folder.join(INCOMPLETE).exists()) {
                    Some(folder) => Err(incomplete(folder)),
                    None => Ok(Folder { path, tree: None }),
                }
            }
        }
    }

    /// All that lies at `url`.
    fn listed(url: &str, storage: &Storage) -> Result<Folder> {
        let source = storage.open(url)?;
        let Listing { mut objects, mut left_out } = storage.listing(&*source, false)?;
        // A list may name it. In a folder it is left out: an empty folder name would be a class without a name.
        objects.retain(|object| match object.key.split('/').any(str::is_empty) {
            true => {
                left_out.push(("a part of its name is empty", source.location(&object.key)));
                false
            }
            false => true,
        });
        if objects.is_empty() {
            let more = left_out.first().map(|(why, location)| {
                format!(" that can be read; {} cannot, of the first {why}: {location:?}", left_out.len())
            });
            return Err(Error::dataset(
                url,
                format!("there is no object{}", more.unwrap_or_default()),
                "Check bucket and folder; if objects were added since, forget the old listing: feedline index --refresh URL",
            ));
        }
        let path = root_of(&*source);
        let is_archive = archive::finder(&objects);
        let folder = |key: &str| key.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
        let folders: BTreeSet<String> =
            objects.iter().filter(|object| is_archive(&object.key)).map(|object| folder(&object.key)).collect();
        // Next to archives that are read, it would be missed.
        let lost = |object: &&Object| is_compressed(&object.key) && folders.contains(&folder(&object.key));
        if let Some(object) = objects.iter().find(lost) {
            return Err(compressed(source.location(&object.key)));
        }
        let mut tree = Tree::new(source, objects, &is_archive, true, storage)?;
        for (why, location) in left_out {
            tree.remarks.leave_out(&format!("objects that cannot be read, since {why}"), location);
        }
        Ok(Folder { path, tree: Some(Arc::new(tree)) })
    }

    /// The deepest common folder of `paths`, which are URLs. A plain HTTP server lists nothing, so there each file is
    /// requested. Archives are indexed if one of the paths is none of the objects.
    pub(in crate::read) fn of_files(paths: &[PathBuf], storage: &Storage) -> Result<Folder> {
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
        // In a bucket that lists its keys, `?` may be part of a key.
        if !url.starts_with("s3:") && !url.starts_with("gs:") {
            paths.iter().try_for_each(|path| check_url(&url_of(path)))?;
        }
        if !url.starts_with("http") {
            let source = storage.open(&url)?;
            let objects = storage.listing(&*source, false)?.objects;
            let path = root_of(&*source);
            let plain = Tree::new(source, objects, &|_| false, false, storage)?;
            if paths.iter().all(|path| plain.key(path).is_some_and(|key| plain.find(key).is_some())) {
                return Ok(Folder { path, tree: Some(Arc::new(plain)) });
            }
            return Folder::open(Path::new(&url), storage);
        }
        let base = format!("{}/", url.trim_end_matches('/'));
        let keys = paths.iter().map(|path| url_of(path).strip_prefix(&base).unwrap_or_default().to_owned());
        Folder::of_objects(&url, &keys.collect::<Vec<_>>(), storage)
    }

    /// Some objects of the folder at `url`, each requested by name; for archives also the index that may lie beside
    /// them, and the names of the classes.
    ///
    /// # Errors
    /// The first object that is missing.
    pub(in crate::read) fn of_objects(url: &str, keys: &[String], storage: &Storage) -> Result<Folder> {
        keys.iter().try_for_each(|key| check_url(&format!("{url}/{key}")))?;
        let source = storage.open(url)?;
        let next = AtomicUsize::new(0);
        // A server that forbids listing answers "denied" for a missing object.
        let ask_for = |key: String| match source.head(&key, &Stop::default()) {
            Err(error) if matches!(error.kind, ReadErrorKind::Missing | ReadErrorKind::Denied) => Ok(None),
            other => other.map(Some).map_err(ReadError::into_error),
        };
        let ask = |key: &String| -> Result<Vec<Object>> {
            let mut found = vec![source.head(key, &Stop::default()).map_err(ReadError::into_error)?];
            if is_openable(key) {
                found.extend(ask_for(format!("{key}{}", INDEX_EXTENSION))?);
            }
            Ok(found)
        };
        let all = Mutex::new((Vec::new(), None));
        let work = || {
            while let Some((at, key)) = Some(next.fetch_add(1, Relaxed)).and_then(|at| Some((at, keys.get(at)?))) {
                let asked = ask(key);
                let (objects, failed) = &mut *all.lock().unwrap_or_else(PoisonError::into_inner);
                match asked {
                    Ok(found) => objects.extend(found),
                    Err(error) => {
                        // All earlier ones have been started, so the first failure of all is among those recorded.
                        next.store(keys.len(), Relaxed);
                        if failed.as_ref().is_none_or(|(first, _)| at < *first) {
                            *failed = Some((at, error));
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..storage.requests_in_flight.min(keys.len()) {
                scope.spawn(work);
            }
        });
        let (mut objects, failed) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, error)) = failed {
            return Err(error);
        }
        if keys.iter().any(|key| is_archive(key)) {
            objects.extend(ask_for(CLASSES_FILE.into())?);
        }
        let folders = keys.iter().filter(|key| is_archive(key)).map(|key| match key.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{}", INCOMPLETE),
            None => INCOMPLETE.to_owned(),
        });
        for mark in folders.collect::<BTreeSet<String>>() {
            objects.extend(ask_for(mark)?);
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects.dedup();
        let path = root_of(&*source);
        let tree = Tree::new(source, objects, &|key| is_openable(key), false, storage)?;
        Ok(Folder { path, tree: Some(Arc::new(tree)) })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of known files in the whole source, without class names; 0 for a local folder, which is read only when
    /// needed.
    pub fn files(&self) -> usize {
        let is_file = |file: &&File| &*file.name != CLASSES_FILE && !file.extent.encoding.is_class_names();
        self.tree.as_ref().map_or(0, |tree| tree.files.iter().filter(is_file).count())
    }

    /// A folder inside this one, which need not exist.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> Folder {
        Folder { path: self.path.join(name), tree: self.tree.clone() }
    }

    /// The root folder, which contains all known files.
    pub(in crate::read) fn root(&self) -> Folder {
        let root = self.tree.as_ref().map(|tree| root_of(&*tree.source));
        Folder { path: root.unwrap_or_else(|| self.path.clone()), tree: self.tree.clone() }
    }

    /// Checks that it exists.
    ///
    /// # Errors
    /// A folder that is not there, or a file.
    pub(in crate::read) fn check_is_there(&self) -> Result<()> {
        let (problem, remedy) = match &self.tree {
            _ if self.is_dir() => return Ok(()),
            None if self.path.is_file() => {
                ("it is a file, and a folder is needed", "Name the folder that holds the data")
            }
            None => ("there is no such folder", "Check the path; it may have been moved, or not be mounted here"),
            Some(_) => {
                ("there is no such folder", "Check the path; to list a bucket anew: feedline index --refresh URL")
            }
        };
        Err(Error::dataset(&self.path, problem, remedy))
    }

    /// True if it exists.
    pub fn is_dir(&self) -> bool {
        match &self.tree {
            None => self.path.is_dir(),
            Some(tree) => tree.below(&self.path).next().is_some(),
        }
    }

    /// The remarks from indexing the archives in it, or beside it.
    pub(in crate::read) fn remarks(&self) -> Remarks {
        self.tree.as_ref().map_or_else(Remarks::default, |tree| tree.remarks.clone())
    }

    /// True if files in it, at any depth, carry their labels.
    pub fn is_labelled(&self) -> bool {
        self.tree.as_ref().is_some_and(|tree| tree.files_below(&self.path).any(|file| file.class.is_some()))
    }

    /// All files in it, at any depth, sorted by name, if any of them carry their labels.
    pub(in crate::read) fn labelled(&self) -> Vec<(PathBuf, Option<u32>)> {
        let Some(tree) = self.tree.as_ref().filter(|_| self.is_labelled()) else { return Vec::new() };
        let root = tree.source.location("");
        tree.files_below(&self.path).map(|file| (format!("{root}{}", file.name).into(), file.class)).collect()
    }

    /// Path and content of a file directly in it, or if it is a split, beside it; `None` if there is none, or for a
    /// local folder.
    pub(in crate::read) fn read_beside(&self, name: &str) -> Result<Option<(PathBuf, Vec<u8>)>> {
        let is_split = self.path.file_name().and_then(OsStr::to_str).is_some_and(is_split);
        let parent = self.path.parent().filter(|_| is_split);
        for folder in std::iter::once(&*self.path).chain(parent) {
            let path = folder.join(name);
            if let Ok(Some(stored)) = self.stored(std::iter::once(&*path)) {
                return stored.read_whole().map(|text| Some((path, text))).map_err(ReadError::into_error);
            }
        }
        Ok(None)
    }

    /// The reader of `paths`, files below the source's root; `None` if they are local files.
    ///
    /// # Errors
    /// The index of the first missing path.
    pub(in crate::read) fn stored<'a>(
        &self,
        paths: impl Iterator<Item = &'a Path>,
    ) -> Result<Option<SampleReader>, usize> {
        let Some(tree) = &self.tree else { return Ok(None) };
        let find = |(at, path): (usize, &'a Path)| tree.key(path).and_then(|key| tree.find(key)).ok_or(at);
        let extents: Result<Vec<Extent>, usize> = paths.enumerate().map(find).collect();
        Ok(Some(SampleReader::new(
            Arc::clone(&tree.source),
            Arc::clone(&tree.objects),
            extents?,
            tree.requests_in_flight,
        )))
    }
}

impl Tree {
    /// The files in `objects`, which are sorted by key; for archives, the files in them. Archives that were found, and
    /// not named, count to the split in their name.
    fn new(
        source: Arc<dyn Source>,
        objects: Vec<Object>,
        is_archive: &dyn Fn(&str) -> bool,
        is_found: bool,
        storage: &Storage,
    ) -> Result<Tree> {
        let archives: Vec<&Object> = objects.iter().filter(|object| is_archive(&object.key)).collect();
        let mut indexes = archive::indexes(&*source, &archives, &objects, storage, &|_| ())?.into_iter();
        let mut remarks = Remarks::default();
        let is_loose = |object: &&Object| is_data(&object.key) && !is_archive(&object.key);
        let loose: Vec<&Object> = objects.iter().filter(|_| !archives.is_empty()).filter(is_loose).collect();
        let mut files = Vec::with_capacity(objects.len());
        for (at, object) in (0u32..).zip(&objects) {
            if object.key.strip_suffix(INDEX_EXTENSION).is_some_and(is_archive) {
                continue; // no file of the data set
            }
            if !is_archive(&object.key) {
                let stored_bytes = object.size_bytes;
                let extent = Extent { object: at, start: 0, stored_bytes, encoding: Encoding::Plain };
                files.push(File { name: object.key.as_str().into(), extent, class: None });
                continue;
            }
            let Index { members, remarks: of_archive } = indexes.next().unwrap_or_default();
            let is_in_split = |member: &Member| member.name.split_once('/').is_some_and(|(top, _)| is_split(top));
            let folder = match (object.key.rsplit_once('/'), split_of(&object.key)) {
                (Some((folder, _)), _) => format!("{folder}/"),
                (None, Some(split)) if is_found && !members.iter().any(is_in_split) => format!("{split}/"),
                _ => String::new(),
            };
            if is_copy(&source.location(&object.key), &folder, &members, &loose)? {
                remarks.note("archives that are not read, since all they hold lies beside them", &object.key);
                continue;
            }
            remarks.append(&of_archive, object.key.rfind('/').map_or("", |at| &object.key[..=at]));
            for Member { name, start, stored_bytes, encoding, class } in members {
                let extent = Extent { object: at, start, stored_bytes, encoding };
                let name = match class {
                    // Class names apply to all splits of the folder.
                    None if encoding.is_class_names() => match object.key.rsplit_once('/') {
                        Some((folder, _)) => format!("{folder}/{name}"),
                        None => name,
                    },
                    None => format!("{folder}{name}"),
                    Some(_) => format!("{folder}{}/{name}", object.key.rsplit('/').next().unwrap_or_default()),
                };
                files.push(File { name: name.into(), extent, class });
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let object = |file: &File| &objects[file.extent.object as usize];
        // Archives may each bring the same class names; a file of that name takes precedence.
        files.dedup_by(|other, one| {
            let [one_brings, other_brings] = [&*one, &*other].map(|file| file.extent.encoding.is_class_names());
            if one.name != other.name || !(one_brings || other_brings) {
                return false;
            }
            if one_brings && !other_brings {
                std::mem::swap(one, other);
            }
            one_brings != other_brings || one.extent.encoding == other.extent.encoding
        });
        if let Some([one, other]) = files.array_windows().find(|[one, other]| one.name == other.name) {
            return Err(Error::dataset(
                source.location(&object(other).key),
                format!("{} is in it, and in {} too", one.name, source.location(&object(one).key)),
                "Keep each file once: in one archive, or beside them",
            ));
        }
        let objects = objects.into();
        Ok(Tree { source, objects, files, remarks, requests_in_flight: storage.requests_in_flight })
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

    /// For each file below a folder: the next part of its name, and true if more follows.
    fn below(&self, folder: &Path) -> impl Iterator<Item = (&str, bool)> {
        let depth = self.key(folder).map_or(0, |key| if key.is_empty() { 0 } else { key.len() + 1 });
        let rests = self.files_below(folder).map(move |file| &file.name[depth..]);
        // A name that ends in `/` is a folder marker of some tools.
        rests.filter(|rest| !rest.is_empty() && !rest.ends_with('/')).map(|rest| match rest.split_once('/') {
            Some((name, _)) => (name, true),
            None => (rest, false),
        })
    }
}

/// True if the files beside an archive, with these `members` in `folder`, were unpacked from it; `loose` are all data
/// files outside of archives, sorted. If any lie in `folder`, all data of the archive must be among them, so that no
/// other part of it joins the data set by mistake.
///
/// # Errors
/// A data member that does not lie beside the archive, where others do.
fn is_copy(archive: &str, folder: &str, members: &[Member], loose: &[&Object]) -> Result<bool> {
    let start = loose.partition_point(|object| object.key.as_str() < folder);
    let Some(file) = loose.get(start).filter(|object| object.key.starts_with(folder)) else { return Ok(false) };
    let is_beside = |member: &&Member| {
        let name = format!("{folder}{}", member.name);
        let found = loose.binary_search_by(|object| object.key.cmp(&name));
        found.is_ok_and(|at| loose[at].size_bytes == member.size_bytes())
    };
    let mut data = members.iter().filter(|member| member.class.is_some() || is_data(&member.name));
    match data.find(|member| !is_beside(member)) {
        None => Ok(true),
        Some(Member { name, .. }) => Err(Error::dataset(
            archive,
            format!("it holds {name}, which does not lie beside it, though other data does: {}", file.key),
            "Keep a split in archives or in files: pack the rest too, or move the archive elsewhere",
        )),
    }
}

/// The root folder of a source, in a form to which a name can be joined.
fn root_of(source: &dyn Source) -> PathBuf {
    let root = source.location("");
    let is_root = root.ends_with(":///");
    if is_root { root.into() } else { root.trim_end_matches('/').into() }
}
