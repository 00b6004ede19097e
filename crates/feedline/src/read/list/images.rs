//! The list of labelled image files of a split: from a tree of class folders, or from upstream's `class;path` lists.
//! Owns the order of the files, which depends on their names alone; never opens an image.
#![expect(clippy::disallowed_types, reason = "classes are looked up by name, never listed")]

use crate::error::{Error, Result};
use crate::hash::{hash_name, hash_words};
use crate::read::archive;
use crate::read::file::no_file;
use crate::read::list::folder::Folder;
use crate::read::list::folder::names::Kind;
use crate::read::list::open_file::read_whole;
use crate::read::list::sample_reader::SampleReader;
use crate::read::location::{compressed, is_in_archive};
use crate::read::names::{CLASSES_FILE, REMEDY, SPLITS, is_compressed, is_picture, looks_like_picture};
use crate::read::remarks::Remarks;
use crate::read::source::settings::Storage;
use crate::read::text::text_of;
use crate::url::is_url;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// One labelled image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEntry {
    /// A URL, or a path, absolute or relative to the current directory.
    pub path: PathBuf,
    /// Index into [`ImageList::classes`].
    pub class: u32,
}

/// The labelled images of one split. Never empty, and every label is below the number of classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageList {
    /// Name of the split, for messages: "train", "test", ...
    pub split: String,
    /// The images in their fixed order.
    pub entries: Vec<ImageEntry>,
    /// Class names; a label is an index into this list.
    pub classes: Vec<String>,
    /// Reads the images if they are remote or in archives.
    pub stored: Option<SampleReader>,
    /// Warnings for the user about what was left out of the list.
    pub warnings: Vec<String>,
}

/// Maximum number of classes that are named by their numbers.
const MOST_CLASSES: u32 = 1 << 20;

impl ImageList {
    /// The labelled images at `path`: of a folder, an archive, a pattern of archives or a URL of any of these as by
    /// [`ImageList::from_folder`], of any other file, and of a URL that ends in `.txt`, as by [`ImageList::from_list`].
    ///
    /// # Errors
    /// As these two; a list without `classes`.
    pub fn open(path: &Path, split: &str, classes: Option<Vec<String>>, storage: &Storage) -> Result<ImageList> {
        let at = storage.resolve(path);
        let is_folder = at.is_dir() || is_in_archive(&at) || classes.is_none() && !at.exists() && !is_url(&at);
        if is_folder || is_url(&at) && at.extension().is_none_or(|end| end != "txt") {
            return ImageList::from_folder(Folder::open(path, storage)?, split, classes);
        }
        let Some(classes) = classes else {
            return Err(Error::config(
                format!("the classes of the list {} are not named", path.display()),
                "Give classes=[...], in the order of the labels (from Rust: ImagesBuilder::new of an ImageList::from_list)",
            ));
        };
        ImageList::from_list(path, split, &classes, storage)
    }

    /// The images of `dir/train/<class>/*.{jpg,jpeg,png}` (any case). The classes are the folders in bytewise order,
    /// and so are the files of each class, so the list does not depend on the file system. Hidden files and folders
    /// are skipped, symlinks followed.
    ///
    /// # Errors
    /// A folder that is missing, unreadable or without images, by name.
    pub fn train(dir: impl Into<Folder>) -> Result<ImageList> {
        let dir = dir.into();
        let folder = dir.join("train");
        if !folder.is_dir() {
            let names = dir.names().unwrap_or_default();
            if let Some((name, _)) = names.iter().find(|(name, _)| name.to_str().is_some_and(is_compressed)) {
                return Err(compressed(dir.path().join(name)));
            }
            let found: Vec<String> = names.iter().take(4).map(|(name, _)| name.display().to_string()).collect();
            let found = if found.is_empty() { String::new() } else { format!(", but {}", found.join(", ")) };
            return Err(Error::dataset(
                dir.path(),
                format!("there is no folder `train` in it{found}"),
                "The layout is DIR/{train,test}/<class>/*.{jpg,jpeg,png}, with one folder per class; of an archive that holds \
                 DIR, name ARCHIVE/DIR",
            ));
        }
        ImageList::from_folder(folder, "train", None)
    }

    /// The images to validate on: `dir/test`, or else `dir/val` or `dir/valid`, read as by [`ImageList::train`] with
    /// the labels of the training split's `classes`. A class may have no folder here.
    ///
    /// # Errors
    /// As [`ImageList::train`], and a class folder that is not one of `classes`.
    pub fn val(dir: impl Into<Folder>, classes: &[String]) -> Result<ImageList> {
        let dir = dir.into();
        let Some(split) = ["test", "val", "valid"].into_iter().find(|split| dir.join(split).is_dir()) else {
            return Err(Error::dataset(
                dir.path(),
                "there is no folder `test`, `val` or `valid` in it",
                "Move some images of each class from DIR/train/<class>/ to DIR/test/<class>/",
            ));
        };
        let mut list = ImageList::from_folder(dir.join(split), split, Some(classes.to_vec()))?;
        let others = SPLITS.iter().filter(|other| !["train", split].contains(*other) && dir.join(other).is_dir());
        for other in others {
            list.warnings.push(format!("{}: `{other}` is not read, since there is `{split}`", dir.path().display()));
        }
        Ok(list)
    }

    /// The images of `folder/<class>/*.{jpg,jpeg,png}`, read as by [`ImageList::train`]; `classes`, if given, decide
    /// the labels, and one of them may have no folder here. Or, if archives in it label their samples, all of these;
    /// without `classes`, the class names are those of a file `classes.txt` beside the archives, or those in the
    /// archives, or numbers.
    ///
    /// # Errors
    /// As [`ImageList::train`], a class folder that is not one of `classes`, a label that is not below their number.
    pub fn from_folder(folder: impl Into<Folder>, split: &str, classes: Option<Vec<String>>) -> Result<ImageList> {
        let folder = &folder.into();
        let labelled = folder.labelled();
        if !labelled.is_empty() {
            return ImageList::from_labelled(folder, labelled, split, classes);
        }
        let mut remarks = folder.remarks();
        let found = class_folders(folder, &mut remarks)?;
        let Some(classes) = classes else {
            return ImageList::from_class_folders(folder, split, found, remarks)?.found(folder);
        };
        let numbered = (0..classes.len() as u32).zip(&classes).rev(); // of two that are called alike the first stays
        let places: HashMap<&str, u32> = numbered.map(|(place, class)| (&**class, place)).collect();
        if let Some(unknown) = found.iter().find(|name| !places.contains_key(&***name)) {
            return Err(Error::dataset(
                folder.join(unknown).path(),
                format!("`{unknown}` is not one of the {} classes of the training split", classes.len()),
                "Remove or rename this folder, or add training images of this class",
            ));
        }
        let mut list = ImageList::from_class_folders(folder, split, found, remarks)?;
        for entry in &mut list.entries {
            // Cannot fail: checked above.
            entry.class = places[&*list.classes[entry.class as usize]];
        }
        list.entries.sort_by_key(|entry| entry.class); // stable, so files stay in their order
        list.classes = classes;
        list.found(folder)
    }

    fn from_labelled(
        folder: &Folder,
        labelled: Vec<(PathBuf, Option<u32>)>,
        split: &str,
        classes: Option<Vec<String>>,
    ) -> Result<ImageList> {
        if let Some((path, _)) = labelled.iter().find(|(path, class)| class.is_none() && is_picture(path)) {
            return Err(Error::dataset(
                path,
                format!("this picture has no label, and archives in {} carry theirs", folder.path().display()),
                "Keep archives with labels and class folders apart",
            ));
        }
        let split_of = |path: &Path| {
            let first = path.strip_prefix(folder.path()).ok()?.iter().next()?.to_str()?.to_owned();
            SPLITS.contains(&&*first).then_some(first)
        };
        let splits: BTreeSet<String> = labelled.iter().filter_map(|(path, _)| split_of(path)).collect();
        if splits.len() > 1 {
            let names = splits.into_iter().collect::<Vec<_>>();
            let remedy = format!("Name one: {}", folder.path().join(&names[0]).display());
            return Err(Error::dataset(folder.path(), format!("it holds the splits {}", names.join(", ")), remedy));
        }
        let mut remarks = folder.remarks();
        let mut take = |(path, class): (PathBuf, Option<u32>)| {
            // Files that describe the samples are no forgotten samples.
            if class.is_none() && ![CLASSES_FILE, "index.json"].iter().any(|name| path.ends_with(name)) {
                let below = path.strip_prefix(folder.path()).unwrap_or(&path);
                remarks.leave_out_file(&below.display().to_string());
            }
            Some((path, class?))
        };
        let labelled: Vec<(PathBuf, u32)> = labelled.into_iter().filter_map(&mut take).collect();
        let largest = labelled.iter().map(|(_, class)| *class).max().unwrap_or_default();
        let named = match classes {
            None => folder.read_beside(CLASSES_FILE)?.map(|(path, text)| parse_classes(text, &path)).transpose()?,
            classes => classes,
        };
        let classes = match named {
            Some(classes) => classes,
            None if largest < MOST_CLASSES => (0..=largest).map(|class| class.to_string()).collect(),
            None => {
                let problem = format!("a label in it is {largest}, and no class has a name");
                return Err(Error::dataset(folder.path(), problem, "Labels count from 0; or name the classes"));
            }
        };
        if let Some((path, class)) = labelled.iter().find(|(_, class)| *class as usize >= classes.len()) {
            return Err(Error::dataset(
                path,
                format!("its label {class} is outside the {} classes", classes.len()),
                "Labels count from 0; correct it or complete the classes",
            ));
        }
        let entries = labelled.into_iter().map(|(path, class)| ImageEntry { path, class }).collect();
        let warnings = remarks.words(folder.path().display(), archive::REMEDY);
        ImageList { split: split.into(), entries, classes, stored: None, warnings }.found(folder)
    }

    /// Adds the reader, unless the files are plain local ones.
    pub(in crate::read) fn found(mut self, folder: &Folder) -> Result<ImageList> {
        let stored = folder.stored(self.entries.iter().map(|entry| &*entry.path));
        self.stored = stored.map_err(|at| {
            let path = &self.entries[at].path;
            Error::dataset(
                path,
                "there is no such object",
                "Correct the list; or list the bucket anew: feedline index --refresh URL",
            )
        })?;
        self.warnings.extend(self.stored.as_ref().and_then(SampleReader::remark));
        Ok(self)
    }

    fn from_class_folders(
        folder: &Folder,
        split: &str,
        classes: Vec<String>,
        mut remarks: Remarks,
    ) -> Result<ImageList> {
        let mut entries = Vec::new();
        for (class, class_name) in classes.iter().enumerate() {
            let before = entries.len();
            let (class_folder, left_out) = (folder.join(class_name), remarks.left_out());
            for (name, kind) in class_folder.all_names()? {
                let is_hidden = name.as_encoded_bytes().starts_with(b".");
                if is_hidden && !is_hidden_picture(&name) {
                    continue;
                }
                let path = class_folder.path().join(&name);
                let shown = || format!("{class_name}/{}", name.display());
                match kind {
                    Ok(Kind::Folder) => class_folder.remark_nested(&name, &shown(), &mut remarks),
                    Ok(Kind::Unusual(kind)) => remarks.leave_out(&format!("{kind}s"), shown()),
                    _ if is_hidden => remarks.leave_out("hidden pictures", shown()),
                    _ if is_picture(&path) => entries.push(ImageEntry { path, class: class as u32 }),
                    _ => remarks.leave_out_file(&shown()),
                }
            }
            if entries.len() == before {
                let what = match remarks.left_out() - left_out {
                    0 => String::new(),
                    others => format!(", but {others} other things"),
                };
                return Err(Error::dataset(
                    class_folder.path(),
                    format!("this class folder has no image (*.jpg, *.png, ...) directly in it{what}"),
                    "Add images to it or remove the folder",
                ));
            }
        }
        let warnings = remarks.words(folder.path().display(), REMEDY);
        Ok(ImageList { split: split.into(), entries, classes, stored: None, warnings })
    }

    /// The images of a list file with lines `class;path`, as upstream's `cls_train.txt`. A line is cut at its first
    /// `;`, so paths may hold spaces and `;`. A path may be a URL, or become one by [`Storage::map`]; all of them or none.
    /// A relative path is resolved beside the list file, then in the current directory. Blank lines, a byte order mark
    /// and CRLF are tolerated.
    ///
    /// # Errors
    /// A line without `;`, with a label that is not a number below the number of classes, or without a path (file and
    /// line number are named); an empty list; files that do not exist (the first one and their number are named).
    pub fn from_list(list_file: &Path, split: &str, classes: &[String], storage: &Storage) -> Result<ImageList> {
        let text = text_of(read_whole(list_file, storage)?, list_file)?;
        let folder = list_file.parent().unwrap_or(Path::new(""));
        let mut entries = Vec::new();
        let mut missing = 0u64;
        let (mut first_missing, mut unusual) = (None, String::new());
        for (line_number, line) in (1u64..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let bad = |problem: String, remedy: &str| {
                Err(Error::dataset(list_file, format!("line {line_number}: {problem}"), remedy))
            };
            let Some((label, path)) = line.split_once(';') else {
                return bad(
                    format!("`{}` has no `;`", clipped(line)),
                    "Each line is `class;path`, for example `0;datasets/train/cat/1.jpg`",
                );
            };
            let class = match label.trim().parse::<u32>() {
                Ok(class) if (class as usize) < classes.len() => class,
                Ok(class) => {
                    return bad(
                        format!("label {class} is outside the {} classes", classes.len()),
                        &format!(
                            "Labels count from 0 to {}; correct the line or complete the class list",
                            classes.len().saturating_sub(1)
                        ),
                    );
                }
                Err(_) => {
                    return bad(
                        format!("the label `{}` is not a whole number", clipped(label)),
                        "The label is the class's place in the class list, counted from 0",
                    );
                }
            };
            let path = Path::new(path.trim());
            if path.as_os_str().is_empty() {
                return bad("there is no path behind the `;`".into(), "Each line is `class;path`");
            }
            // `join` keeps an absolute path as it is.
            let places = if is_url(path) { vec![path.into()] } else { vec![folder.join(path), path.to_path_buf()] };
            let mut places = places.into_iter().map(|path| storage.resolve(&path));
            // URLs are checked once all are known.
            let found = places.find(|path| is_url(path) || path.is_file());
            match found {
                Some(path) => entries.push(ImageEntry { path, class }),
                None => {
                    missing += 1;
                    if first_missing.is_none() {
                        first_missing = Some((line_number, path.to_path_buf()));
                        unusual =
                            [folder.join(path), path.to_path_buf()].iter().find_map(|p| no_file(p)).unwrap_or_default();
                    }
                }
            }
        }
        if let Some((line_number, path)) = first_missing {
            return Err(Error::dataset(
                list_file,
                format!(
                    "{missing} of the {} files listed cannot be found, the first in line {line_number}: {}{unusual}",
                    missing + entries.len() as u64,
                    path.display()
                ),
                "Relative paths count from the list's own folder or from the current directory: start there, or correct \
                 the list",
            ));
        }
        if entries.is_empty() {
            return Err(Error::dataset(list_file, "the list is empty", "Add lines of the form `class;path`"));
        }
        let warnings = Vec::new();
        let list = ImageList { split: split.into(), entries, classes: classes.to_vec(), stored: None, warnings };
        list.found_in_place(storage)
    }

    /// Adds the reader, if the paths are URLs.
    pub(in crate::read) fn found_in_place(self, storage: &Storage) -> Result<ImageList> {
        let urls: Vec<PathBuf> =
            self.entries.iter().map(|entry| &entry.path).filter(|path| is_url(path)).cloned().collect();
        if urls.is_empty() {
            return Ok(self);
        }
        if let Some(other) = self.entries.iter().find(|entry| !is_url(&entry.path)) {
            return Err(Error::dataset(
                &other.path,
                format!("it is a file of this machine, but {} is not", urls[0].display()),
                "Keep all files of a list in one place",
            ));
        }
        let folder = Folder::of_files(&urls, storage)?;
        let mut list = self.found(&folder)?;
        // Only strange findings: other files in that place are not meant by the list.
        list.warnings.extend(folder.remarks().strange(folder.path().display()));
        Ok(list)
    }

    /// Images in the given order. Without `classes`, these are named by their numbers. Local files are not checked for
    /// existence.
    ///
    /// # Errors
    /// No entry; a label that is not below the number of classes, by its index; a URL of a missing object.
    pub fn from_entries(
        mut entries: Vec<ImageEntry>,
        split: &str,
        classes: Option<Vec<String>>,
        storage: &Storage,
    ) -> Result<ImageList> {
        entries.iter_mut().for_each(|entry| entry.path = storage.resolve(&entry.path));
        let Some(largest) = entries.iter().map(|entry| entry.class).max() else {
            return Err(Error::config("the list of images is empty", "Give one path and one label for each image"));
        };
        let classes = classes.unwrap_or_else(|| (0..=largest).map(|class| class.to_string()).collect());
        match entries.iter().find(|entry| entry.class as usize >= classes.len()) {
            Some(ImageEntry { path, class }) => Err(Error::dataset(
                path,
                format!("its label {class} is outside the {} classes", classes.len()),
                "Labels count from 0; correct it or complete the classes",
            )),
            None => {
                let warnings = Vec::new();
                ImageList { split: split.into(), entries, classes, stored: None, warnings }.found_in_place(storage)
            }
        }
    }

    /// The file names in their order, from the deepest common folder on: the same for the same data under another root,
    /// or on another machine.
    pub fn names(&self) -> Vec<String> {
        let common = self.entries.iter().map(|entry| folders(&entry.path)).reduce(|common, other| {
            let same = common.iter().zip(&other).take_while(|(a, b)| a == b).count();
            common[..same].to_vec()
        });
        let common = common.map_or(0, |common| common.len());
        let name = |entry: &ImageEntry| {
            entry.path.iter().skip(common).map(OsStr::to_string_lossy).collect::<Vec<_>>().join("/")
        };
        self.entries.iter().map(name).collect()
    }

    /// Hash of the class names, labels and [`ImageList::names`].
    pub fn fingerprint(&self) -> u64 {
        let names = self.names();
        let samples = self.entries.iter().zip(&names).map(|(entry, name)| (entry.class, name.as_str()));
        fingerprint(self.classes.iter().map(String::as_str), samples)
    }
}

/// [`ImageList::fingerprint`] of a list with these class names, labels and image names.
pub(crate) fn fingerprint<'a>(
    classes: impl Iterator<Item = &'a str>,
    samples: impl Iterator<Item = (u32, &'a str)>,
) -> u64 {
    let mut words = vec![0];
    words.extend(classes.map(hash_name));
    words[0] = words.len() as u64 - 1;
    for (class, name) in samples {
        words.extend([u64::from(class), hash_name(name)]);
    }
    hash_words(&words)
}

/// The class names of a file with one name per line, as upstream's `cls_classes.txt`.
///
/// # Errors
/// An unreadable or empty file, a blank line between names (it would shift the labels), or a repeated name.
pub fn read_classes(file: &Path, storage: &Storage) -> Result<Vec<String>> {
    parse_classes(read_whole(file, storage)?, file)
}

fn parse_classes(text: Vec<u8>, file: &Path) -> Result<Vec<String>> {
    let text = text_of(text, file)?;
    let names: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    if names.is_empty() {
        return Err(Error::dataset(file, "there is no class in it", "Write one class name per line"));
    }
    let mut lines: HashMap<&str, usize> = HashMap::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        let problem = if name.is_empty() {
            "is blank, which would shift the labels".to_owned()
        } else if let Some(first) = lines.insert(name, at) {
            format!("repeats the class `{name}` of line {}", first + 1)
        } else {
            continue;
        };
        return Err(Error::dataset(file, format!("line {} {problem}", at + 1), "Write one class name per line"));
    }
    Ok(names)
}

/// True for a hidden name of a picture, unless macOS put the file beside one.
fn is_hidden_picture(name: &OsStr) -> bool {
    looks_like_picture(Path::new(name)) && !name.as_encoded_bytes().starts_with(b"._")
}

fn folders(path: &Path) -> Vec<&OsStr> {
    path.parent().map(|parent| parent.iter().collect()).unwrap_or_default()
}

fn clipped(text: &str) -> String {
    if text.chars().count() <= 60 { text.into() } else { text.chars().take(57).chain("...".chars()).collect() }
}

/// The names of the folders in `folder`, sorted bytewise; anything else is left out.
fn class_folders(folder: &Folder, remarks: &mut Remarks) -> Result<Vec<String>> {
    let mut classes = Vec::new();
    let mut packed = None;
    for (name, kind) in folder.all_names()? {
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        match kind {
            Ok(Kind::Folder) if is_hidden => remarks.leave_out("hidden folders", name.display()),
            _ if is_hidden && !is_hidden_picture(&name) => {}
            // An unreadable class folder must be an error, not a missing class.
            Err(error) if !is_hidden => return Err(error),
            Ok(Kind::Folder) => {
                let name = name.into_string().map_err(|name| {
                    let problem = "the folder's name is not UTF-8";
                    Error::dataset(folder.join(name).path(), problem, "Rename it: the name becomes the class's name")
                })?;
                classes.push(name);
            }
            Ok(Kind::Unusual(kind)) => remarks.leave_out(&format!("{kind}s"), name.display()),
            _ => {
                if name.to_str().is_some_and(is_compressed) {
                    packed.get_or_insert_with(|| name.clone());
                }
                remarks.leave_out_file(&name.display().to_string());
            }
        }
    }
    if let (true, Some(name)) = (classes.is_empty(), packed) {
        return Err(compressed(folder.join(name).path()));
    }
    if classes.is_empty() {
        return Err(Error::dataset(
            folder.path(),
            "there is no class folder in it",
            "The layout is DIR/{train,test}/<class>/*.{jpg,jpeg,png}, with one folder per class",
        ));
    }
    Ok(classes)
}

#[cfg(test)]
mod tests;
