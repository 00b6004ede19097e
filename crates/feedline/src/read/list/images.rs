//! The list of labelled image files of a split: from a tree of class folders, or from upstream's `class;path` lists.
//! Owns the order of the files, which depends on their names alone; never opens an image.
#![expect(clippy::disallowed_types, reason = "classes are looked up by name, never listed")]

use crate::error::{Error, Result};
use crate::hash::{hash_name, hash_words};
use crate::read::archive;
use crate::read::file::no_file;
use crate::read::list::classes::{class_folders, parse_classes};
use crate::read::list::folder::Folder;
use crate::read::list::layout::Layout;
use crate::read::list::open_file::read_whole;
use crate::read::list::sample_reader::SampleReader;
use crate::read::location::is_in_archive;
use crate::read::names::{CLASSES_FILE, REMEDY, is_picture, is_split};
use crate::read::remarks::{Remarks, Skipped};
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
    /// Where the images are, for messages: a folder, or a list, or a part of the images of one.
    pub place: String,
    /// The folder, or that of the list: names of images begin behind it.
    root: PathBuf,
    /// The images in their fixed order.
    pub entries: Vec<ImageEntry>,
    /// Class names; a label is an index into this list.
    pub classes: Vec<String>,
    /// Reads the images if they are remote or in archives.
    pub stored: Option<SampleReader>,
    /// Warnings for the user: about what was left out of the list, and what is strange.
    pub warnings: Vec<String>,
    /// What was left out of the list; `warnings` has it in words, too.
    pub skipped: Option<Skipped>,
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

    /// The training images of `dir` ([`Layout::of`]), read as by [`ImageList::from_folder`]: `dir/train/<class>/*.jpg`, or
    /// all images of class folders directly in `dir`.
    ///
    /// # Errors
    /// A folder that is missing, unreadable or without images, by name.
    pub fn train(dir: impl Into<Folder>) -> Result<ImageList> {
        ImageList::train_of(&Layout::of(&dir.into())?)
    }

    /// The images to validate on: `dir/test`, or else `dir/val` or another name of it ([`Layout::of`]), read as by
    /// [`ImageList::from_folder`] with the labels of the training split's `classes`. A class may have no folder here.
    ///
    /// # Errors
    /// As [`ImageList::train`], no such folder, and a class folder that is not one of `classes`.
    pub fn val(dir: impl Into<Folder>, classes: &[String]) -> Result<ImageList> {
        let dir = dir.into();
        let list = ImageList::val_of(&Layout::of(&dir)?, Some(classes.to_vec()))?;
        list.ok_or_else(|| {
            Error::dataset(
                dir.path(),
                "there is no folder `test`, `val` or `valid` in it",
                "Move some images of each class from DIR/train/<class>/ to DIR/test/<class>/",
            )
        })
    }

    /// The training images of a folder; without splits, all of them.
    ///
    /// # Errors
    /// As [`ImageList::from_folder`], and a folder that has a validation split alone.
    pub fn train_of(layout: &Layout) -> Result<ImageList> {
        match layout {
            Layout::Classes(folder) => ImageList::of_classes(folder, "train", None),
            Layout::Splits { train: Some(folder), warnings, .. } => {
                let mut list = ImageList::of_classes(folder, "train", None)?;
                list.warnings.extend_from_slice(warnings);
                Ok(list)
            }
            Layout::Splits { train: None, val, .. } => Err(Error::dataset(
                val.as_ref().and_then(|val| val.path().parent()).unwrap_or(Path::new("")),
                "there is no folder `train` in it",
                "The layout is DIR/{train,test}/<class>/*.jpg, or DIR/<class>/*.jpg without splits",
            )),
        }
    }

    /// The validation images of a folder; `None` if it has no validation split.
    ///
    /// # Errors
    /// As [`ImageList::from_folder`].
    pub fn val_of(layout: &Layout, classes: Option<Vec<String>>) -> Result<Option<ImageList>> {
        let Layout::Splits { val: Some(folder), warnings, .. } = layout else { return Ok(None) };
        let name = folder.path().file_name().unwrap_or_default().to_string_lossy();
        let mut list = ImageList::of_classes(folder, &name, classes)?;
        list.warnings.extend_from_slice(warnings);
        Ok(Some(list))
    }

    /// The images below the folders `folder/<class>`, at any depth, in the order of torchvision's `ImageFolder`: the classes
    /// are the folders in bytewise order; the images of a class are sorted by the path of their folder, then by name. So the
    /// list does not depend on the file system. Hidden files and folders are skipped, links followed. `classes`, if given,
    /// decide the labels, and one of them may have no folder here. Or, if archives in it label their samples, all of these;
    /// without `classes`, the class names are those of a file `classes.txt` beside the archives, or those in the
    /// archives, or numbers.
    ///
    /// # Errors
    /// A folder that is missing, unreadable or without images; one that holds splits, without `classes`; a class folder that
    /// is not one of `classes`; a label that is not below their number.
    pub fn from_folder(folder: impl Into<Folder>, split: &str, classes: Option<Vec<String>>) -> Result<ImageList> {
        let folder = &folder.into();
        folder.check_is_there()?;
        if classes.is_none()
            && !folder.is_labelled()
            && let Layout::Splits { train: Some(train), .. } = Layout::of(folder)?
        {
            let remedy = format!("Name one of them: {}", train.path().display());
            return Err(Error::dataset(folder.path(), "it holds splits, and no class folders", remedy));
        }
        ImageList::of_classes(folder, split, classes)
    }

    /// As [`ImageList::from_folder`], of a folder that is known to hold no splits.
    fn of_classes(folder: &Folder, split: &str, classes: Option<Vec<String>>) -> Result<ImageList> {
        folder.check_is_there()?;
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
            is_split(&first).then_some(first)
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
        ImageList::of_folder(folder, split, entries, classes, &remarks, archive::REMEDY).found(folder)
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
            let (class_folder, mut left_out) = (folder.join(class_name), Remarks::default());
            let pictures = class_folder.pictures(&mut left_out)?;
            if pictures.is_empty() {
                let others = if left_out.is_empty() { String::new() } else { format!(", but {}", left_out.kinds()) };
                return Err(Error::dataset(
                    class_folder.path(),
                    format!("this class folder has no image in it{others}"),
                    "Add images to it or remove the folder",
                ));
            }
            remarks.append(&left_out, &format!("{class_name}/"));
            entries.extend(pictures.into_iter().map(|path| ImageEntry { path, class: class as u32 }));
        }
        Ok(ImageList::of_folder(folder, split, entries, classes, &remarks, REMEDY))
    }

    fn of_folder(
        folder: &Folder,
        split: &str,
        entries: Vec<ImageEntry>,
        classes: Vec<String>,
        remarks: &Remarks,
        remedy: &str,
    ) -> ImageList {
        let (place, root) = (folder.path().display().to_string(), folder.path().to_path_buf());
        let (warnings, skipped) = (remarks.words(&place, remedy), remarks.skipped(&place, remedy));
        ImageList { split: split.into(), place, root, entries, classes, stored: None, warnings, skipped }
    }

    /// A list that names its images.
    pub(in crate::read) fn of_list(
        place: &Path,
        split: &str,
        entries: Vec<ImageEntry>,
        classes: Vec<String>,
    ) -> ImageList {
        let root = place.parent().unwrap_or(Path::new("")).to_path_buf();
        let place = place.display().to_string();
        ImageList {
            split: split.into(),
            place,
            root,
            entries,
            classes,
            stored: None,
            warnings: Vec::new(),
            skipped: None,
        }
    }

    /// Two lists, of the images to train on and to validate on: of each class of n images the first round(`fraction` * n) in
    /// the order of a hash of (`seed`, name behind the folder or that of the list) are validation, but at least one where
    /// there are two, and never all. Both keep the order of this one. Which image is where depends on its class's names and
    /// the seed alone: files that are added move few others.
    pub fn split(&self, fraction: f64, seed: u64) -> (ImageList, ImageList) {
        let mut of_class: Vec<Vec<(u64, usize)>> = vec![Vec::new(); self.classes.len()];
        for (at, entry) in self.entries.iter().enumerate() {
            let name = entry.path.strip_prefix(&self.root).unwrap_or(&entry.path);
            let name = name.iter().map(OsStr::to_string_lossy).collect::<Vec<_>>().join("/");
            of_class[entry.class as usize].push((hash_words(&[seed, hash_name(&name)]), at));
        }
        let mut is_val = vec![false; self.entries.len()];
        for images in &mut of_class {
            images.sort_unstable();
            let least = usize::from(images.len() > 1);
            let count = ((fraction * images.len() as f64).round() as usize)
                .clamp(least, images.len().saturating_sub(1).max(least));
            images.iter().take(count).for_each(|(_, at)| is_val[*at] = true);
        }
        let part = |is_mine: bool, split: &str, words: &str| {
            let chosen: Vec<u64> =
                (0..self.entries.len() as u64).filter(|at| is_val[*at as usize] == is_mine).collect();
            ImageList {
                split: split.into(),
                place: format!("{} ({words} {fraction} of each class, split seed {seed})", self.place),
                entries: chosen.iter().map(|at| self.entries[*at as usize].clone()).collect(),
                stored: self.stored.as_ref().map(|stored| stored.select(&chosen)),
                ..self.clone()
            }
        };
        let (train, val) = (part(false, "train", "all but"), part(true, "validation", "the share"));
        (train, ImageList { warnings: Vec::new(), skipped: None, ..val })
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
        ImageList::read_list(list_file, split, Some(classes), storage)
    }

    /// As [`ImageList::from_list`], with classes that are named by their numbers.
    ///
    /// # Errors
    /// As [`ImageList::from_list`], and a label above a million.
    pub fn from_numbered_list(list_file: &Path, split: &str, storage: &Storage) -> Result<ImageList> {
        ImageList::read_list(list_file, split, None, storage)
    }

    fn read_list(list_file: &Path, split: &str, classes: Option<&[String]>, storage: &Storage) -> Result<ImageList> {
        let num_classes = classes.map_or(MOST_CLASSES as usize, <[String]>::len);
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
                Ok(class) if (class as usize) < num_classes => class,
                Ok(class) => {
                    return bad(
                        format!("label {class} is outside the {num_classes} classes"),
                        &format!(
                            "Labels count from 0 to {}; correct the line or complete the class list",
                            num_classes.saturating_sub(1)
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
        let largest = entries.iter().map(|entry| entry.class).max().unwrap_or_default();
        let numbered = || (0..=largest).map(|class| class.to_string()).collect();
        ImageList::of_list(list_file, split, entries, classes.map_or_else(numbered, <[String]>::to_vec))
            .found_in_place(storage)
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
            None => ImageList::of_list(Path::new(""), split, entries, classes).found_in_place(storage),
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

fn folders(path: &Path) -> Vec<&OsStr> {
    path.parent().map(|parent| parent.iter().collect()).unwrap_or_default()
}

fn clipped(text: &str) -> String {
    if text.chars().count() <= 60 { text.into() } else { text.chars().take(57).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests;
