//! Pictures that a person names one by one, in folders of any depth, in lists, or all of these: what a trained network is to
//! look at. Owns their order, which is that of the names; never opens a picture, and misses none silently.
#![expect(clippy::disallowed_types, reason = "classes are looked up by name, never listed")]

use crate::error::{Error, Result};
use crate::read::list::folder::Folder;
use crate::read::list::images::{ImageEntry, ImageList};
use crate::read::list::open_file::read_whole;
use crate::read::location::{holds_archives, is_in_archive};
use crate::read::names::{REMEDY, is_picture};
use crate::read::source::settings::Storage;
use crate::read::text::{text_in, text_of};
use crate::url::is_url;
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Name of a list that is read from standard input.
const STDIN: &str = "-";

/// Pictures in the order of their names, and the label of each, if it is known.
#[derive(Debug)]
pub struct Pictures {
    /// The pictures; their `class` is the label, or 0 where none is known.
    pub list: ImageList,
    /// An index into the classes for each picture of which one is known.
    pub labels: Vec<Option<u32>>,
}

impl Pictures {
    /// The pictures at `places`, one place after the other. A place is a file; a folder, in which all pictures at any depth
    /// are meant, in the order of torchvision's `ImageFolder`; a list, `*.txt` or `-` for standard input, with a path or `class;path`
    /// a line; a URL of any of these; or, alone, an archive. A relative path of a list is looked for beside it, then in the
    /// current directory. Hidden files are left out. Local files are not checked for existence.
    ///
    /// The label of a picture is what its list or archive says, or else the name of the nearest folder that it lies in, up to
    /// the place, that is one of `classes`; of a file that is named itself, of the folder that it lies in.
    ///
    /// # Errors
    /// A place that cannot be listed or read, a line with a label that is not below the number of classes, no picture at
    /// all; files of this machine and of others; an archive beside other places.
    pub fn at(places: &[PathBuf], classes: &[String], storage: &Storage) -> Result<Pictures> {
        let mut found = Found { classes: classes.len(), ..Found::default() };
        let mut opened = None;
        for place in places {
            opened = found.add(place, storage)?;
            let is_archived = is_in_archive(place) || place.is_dir() && holds_archives(place);
            if is_archived && places.len() > 1 {
                let problem = format!("{} is or holds an archive, and there are other places", place.display());
                return Err(Error::config(problem, "Name it alone: one call for each archive"));
            }
        }
        let Found { entries, mut labels, warnings, .. } = found;
        if entries.is_empty() {
            let place = places.first().cloned().unwrap_or_default();
            return Err(Error::dataset(place, format!("there is no picture{}", said(&warnings)), REMEDY));
        }
        let numbers: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
        let class_of = |folder: &Path| numbers.get(folder.file_name()?.to_str()?).copied();
        let entries = entries.into_iter().zip(&mut labels).map(|((path, depth), label)| {
            let mut folders = path.ancestors().skip(1).take(depth);
            *label = label.or_else(|| folders.find_map(class_of));
            ImageEntry { path, class: label.unwrap_or_default() }
        });
        let (entries, classes) = (entries.collect(), classes.to_vec());
        let mut list = ImageList::of_list(Path::new(""), "predict", entries, classes);
        list.warnings = warnings;
        let list = match opened.filter(|_| places.len() == 1) {
            Some(folder) => list.found(&folder)?,
            None => list.found_in_place(storage)?,
        };
        Ok(Pictures { list, labels })
    }
}

/// What was left out, for an error.
fn said(warnings: &[String]) -> String {
    if warnings.is_empty() { String::new() } else { format!(" ({})", warnings.join(" ")) }
}

#[derive(Default)]
struct Found {
    /// Each with the number of folders above it that may name its class.
    entries: Vec<(PathBuf, usize)>,
    labels: Vec<Option<u32>>,
    warnings: Vec<String>,
    classes: usize,
}

impl Found {
    fn push(&mut self, path: PathBuf, label: Option<u32>) {
        self.entries.push((path, 1));
        self.labels.push(label);
    }

    /// Adds what is at a place, and gives it if it is a folder.
    fn add(&mut self, place: &Path, storage: &Storage) -> Result<Option<Folder>> {
        let at = storage.resolve(place);
        if place == Path::new(STDIN) {
            let mut text = Vec::new();
            std::io::stdin().lock().read_to_end(&mut text).map_err(|e| Error::io("read", "standard input", e))?;
            let text =
                text_in(text).map_err(|problem| Error::dataset("standard input", problem, "Write it in UTF-8"))?;
            self.list(&text, Path::new("standard input"), storage)?;
        } else if at.extension().is_some_and(|end| end.eq_ignore_ascii_case("txt")) && !at.is_dir() {
            let text = text_of(read_whole(place, storage)?, place)?;
            self.list(&text, place, storage)?;
        } else if at.is_dir() || is_in_archive(&at) || is_url(&at) && !is_picture(&at) {
            let folder = Folder::open(place, storage)?;
            let path = folder.path().to_path_buf();
            if is_picture(&path) && matches!(folder.stored(std::iter::once(&*path)), Ok(Some(_))) {
                self.push(path, None);
            } else if folder.is_labelled() {
                for (path, label) in
                    folder.labelled().into_iter().filter(|(path, label)| label.is_some() || is_picture(path))
                {
                    self.push(path, label);
                }
                self.warnings.extend(folder.remarks().words(path.display(), REMEDY));
            } else {
                let mut remarks = folder.remarks();
                for found in folder.pictures(&mut remarks)? {
                    let depth = found.strip_prefix(&path).map_or(1, |below| below.components().count());
                    self.entries.push((found, depth));
                    self.labels.push(None);
                }
                self.warnings.extend(remarks.words(path.display(), REMEDY));
            }
            return Ok(Some(folder));
        } else {
            self.push(at, None);
        }
        Ok(None)
    }

    /// Adds the files that the lines of a list name.
    fn list(&mut self, text: &str, list_file: &Path, storage: &Storage) -> Result<()> {
        let folder = list_file.parent().unwrap_or(Path::new(""));
        for (line_number, line) in (1u64..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            // A path may hold `;` too: only a number before it is a label.
            let labelled =
                line.split_once(';').and_then(|(label, path)| Some((label.trim().parse::<u32>().ok()?, path)));
            let (label, path) = labelled.map_or((None, line), |(label, path)| (Some(label), path));
            if let Some(label) = label.filter(|label| *label as usize >= self.classes) {
                return Err(Error::dataset(
                    list_file,
                    format!("line {line_number}: label {label} is outside the {} classes", self.classes),
                    "Labels count from 0, in the order of the network's classes",
                ));
            }
            let path = Path::new(path.trim());
            let beside = storage.resolve(&folder.join(path));
            let here = storage.resolve(path);
            let is_here = is_url(&here) || !beside.is_file() && here.is_file();
            self.push(if is_here { here } else { beside }, label);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_come_place_by_place_with_the_class_of_the_nearest_folder() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("cat"); // of the place itself, not above it
        for name in ["b.jpg", "dog/deep/c.webp", "dog/a.jpg", "dog/notes.md", "else/cat/d.png", "else/e.png"] {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::fs::write(dir.path().join("list.txt"), "cat/b.jpg\n1;cat/else/e.png\n").unwrap();
        let classes = ["cat", "dog"].map(String::from);
        let found = |places: &[&str]| -> (Vec<(String, Option<u32>)>, Vec<String>) {
            let places: Vec<PathBuf> = places.iter().map(|place| dir.path().join(place)).collect();
            let Pictures { list, labels } = Pictures::at(&places, &classes, &Storage::default()).unwrap();
            let name = |path: &Path| path.strip_prefix(dir.path()).unwrap().display().to_string();
            (list.entries.iter().map(|entry| name(&entry.path)).zip(labels).collect(), list.warnings)
        };
        let (cat, dog) = (Some(0), Some(1));
        let of = |rows: &[(&str, Option<u32>)]| -> Vec<(String, Option<u32>)> {
            rows.iter().map(|(name, label)| ((*name).to_owned(), *label)).collect()
        };
        let (rows, warnings) = found(&["cat"]);
        let all = [
            ("cat/b.jpg", cat),
            ("cat/dog/a.jpg", dog),
            ("cat/dog/deep/c.webp", dog),
            ("cat/else/e.png", cat),
            ("cat/else/cat/d.png", cat),
        ];
        assert_eq!(rows, of(&all));
        assert!(matches!(&warnings[..], [one] if one.contains("1 *.md (dog/notes.md)")), "{warnings:?}");
        let (rows, _) = found(&["cat/else", "cat/dog/deep/c.webp", "list.txt"]);
        let rest = [
            ("cat/else/e.png", None),
            ("cat/else/cat/d.png", cat),
            ("cat/dog/deep/c.webp", None),
            ("cat/b.jpg", cat),
            ("cat/else/e.png", dog),
        ];
        assert_eq!(rows, of(&rest));
    }
}
