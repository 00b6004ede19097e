//! The classes of labelled pictures: the folders that are called as they are, or the lines of a file. Owns what is no class;
//! opens no picture.
#![expect(clippy::disallowed_types, reason = "classes are looked up by name, never listed")]

use crate::error::{Error, Result};
use crate::read::list::folder::Folder;
use crate::read::list::folder::names::{JUNK, Kind, LINKS_UP};
use crate::read::list::open_file::read_whole;
use crate::read::location::compressed;
use crate::read::names::{REMEDY, is_compressed, is_junk, looks_like_picture};
use crate::read::remarks::Remarks;
use crate::read::source::settings::Storage;
use crate::read::text::text_of;
use std::collections::HashMap;
use std::path::Path;

/// The class names of a file with one name per line, as upstream's `cls_classes.txt`.
///
/// # Errors
/// An unreadable or empty file, a blank line between names (it would shift the labels), or a repeated name.
pub fn read_classes(file: &Path, storage: &Storage) -> Result<Vec<String>> {
    parse_classes(read_whole(file, storage)?, file)
}

pub(super) fn parse_classes(text: Vec<u8>, file: &Path) -> Result<Vec<String>> {
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

/// The names of the folders in `folder`, sorted bytewise; anything else is left out.
pub(super) fn class_folders(folder: &Folder, remarks: &mut Remarks) -> Result<Vec<String>> {
    let mut classes = Vec::new();
    let mut packed = None;
    let mut beside = Remarks::default();
    for (name, kind) in folder.all_names()? {
        let (is_hidden, shown) = (name.as_encoded_bytes().starts_with(b"."), name.display());
        match kind {
            _ if is_junk(&name) => beside.leave_out(JUNK, shown),
            Ok(Kind::Folder) if is_hidden => beside.leave_out("hidden folders", shown),
            _ if is_hidden && looks_like_picture(Path::new(&name)) => beside.leave_out("hidden pictures", shown),
            _ if is_hidden => beside.leave_out("hidden files", shown),
            // An unreadable class folder must be an error, not a missing class.
            Err(error) => return Err(error),
            Ok(Kind::Folder) if folder.leads_up(Path::new(&name))? => beside.leave_out(LINKS_UP, shown),
            Ok(Kind::Folder) => {
                let name = name.into_string().map_err(|name| {
                    let problem = "the folder's name is not UTF-8";
                    Error::dataset(folder.join(name).path(), problem, "Rename it: the name becomes the class's name")
                })?;
                classes.push(name);
            }
            Ok(Kind::BrokenLink) => beside.leave_out("broken links", shown),
            Ok(Kind::Unusual(kind)) => beside.leave_out(&format!("{kind}s"), shown),
            Ok(Kind::File) => {
                if name.to_str().is_some_and(is_compressed) {
                    packed.get_or_insert_with(|| name.clone());
                }
                beside.leave_out_file(&name.display().to_string());
            }
        }
    }
    if let (true, Some(name)) = (classes.is_empty(), packed) {
        return Err(compressed(folder.join(name).path()));
    }
    if classes.is_empty() {
        let others = if beside.is_empty() { String::new() } else { format!(", but {}", beside.kinds()) };
        return Err(Error::dataset(
            folder.path(),
            format!("there is no class folder in it{others}"),
            format!("Put the images of each class into a folder of its own: <class>/*.jpg. {REMEDY}"),
        ));
    }
    remarks.append(&beside, "");
    Ok(classes)
}
