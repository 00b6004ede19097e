//! The layout of a folder of labelled pictures: in which folders its splits are, or that it has none. Goes by the names of
//! folders; opens no picture.

use crate::error::{Error, Result};
use crate::read::list::folder::Folder;
use crate::read::list::folder::names::Kind;
use crate::read::location::compressed;
use crate::read::names::{Split, is_compressed, is_junk, is_picture, split_named};
use std::path::Path;

/// Number of names that an error or a warning lists.
const NAMED: usize = 4;

/// The splits of a folder of labelled pictures.
#[derive(Debug, Clone)]
pub enum Layout {
    /// Folders of splits, each with a folder for each class.
    Splits {
        /// `DIR/train`, or `training`, in any case.
        train: Option<Folder>,
        /// `DIR/test`, or else `val`, `valid` or `validation`, in any case.
        val: Option<Folder>,
        /// Folders beside them that are not read, in words.
        warnings: Vec<String>,
    },
    /// A folder for each class, or archives that carry their labels, and no splits.
    Classes(Folder),
}

impl Layout {
    /// The layout of `dir`. The splits may lie in `dir/images`, or in the only folder of `dir`, as in an archive of a folder.
    /// A folder that is called as a split, and has pictures directly in it beside other folders with pictures, is a class.
    ///
    /// # Errors
    /// A folder that is missing, unreadable or has nothing to read; two folders that are called as the same split.
    pub fn of(dir: &Folder) -> Result<Layout> {
        dir.check_is_there()?;
        if let Some(layout) = splits_in(dir)? {
            return Ok(layout);
        }
        let folders = dir.folders()?;
        let only = folders.first().filter(|_| folders.len() == 1);
        if let Some(inner) = folders.iter().find(|name| name.eq_ignore_ascii_case("images")).or(only)
            && let Some(layout) = splits_in(&dir.join(inner))?
        {
            return Ok(layout);
        }
        if !folders.is_empty() || dir.is_labelled() {
            return Ok(Layout::Classes(dir.clone()));
        }
        let names = dir.names()?;
        if let Some((name, _)) = names.iter().find(|(name, _)| name.to_str().is_some_and(is_compressed)) {
            return Err(compressed(dir.path().join(name)));
        }
        let names = names.iter().filter(|(name, _)| !is_junk(name)).map(|(name, _)| name.display().to_string());
        let names: Vec<String> = names.collect();
        let found = if names.is_empty() { "it is empty".into() } else { format!("but {}", first(&names)) };
        Err(Error::dataset(
            dir.path(),
            format!("there is no folder `train` and no class folder in it, {found}"),
            "Put the images of each class into a folder of its own: DIR/<class>/*.jpg, or DIR/{train,test}/<class>/*.jpg",
        ))
    }
}

/// The splits in `dir`, if a folder in it is called as one.
fn splits_in(dir: &Folder) -> Result<Option<Layout>> {
    let folders = dir.folders()?;
    let (mut named, mut others): (Vec<String>, Vec<String>) =
        folders.into_iter().partition(|name| split_named(name).is_some());
    if named.is_empty() {
        return Ok(None);
    }
    let mut has_classes = false;
    for name in &others {
        has_classes = has_classes || holds_pictures(&dir.join(name))?;
    }
    if has_classes {
        // A class may be called `train`.
        for name in std::mem::take(&mut named) {
            let folder = dir.join(&name);
            let is_split = folder.is_labelled() || !folder.folders()?.is_empty();
            if is_split { named.push(name) } else { others.push(name) }
        }
        if named.is_empty() {
            return Ok(None);
        }
    }
    let of = |split: Split| -> Result<Option<&String>> {
        let found: Vec<&String> = named.iter().filter(|name| split_named(name) == Some(split)).collect();
        match found[..] {
            [one, other, ..] => Err(Error::dataset(
                dir.path(),
                format!("there are `{one}` and `{other}` in it, and only one of them can be the split"),
                "Rename or move the other one, or name the folder to read",
            )),
            _ => Ok(found.first().copied()),
        }
    };
    let (train, test, val) = (of(Split::Train)?, of(Split::Test)?, of(Split::Val)?);
    let mut warnings = Vec::new();
    if let (Some(test), Some(val)) = (test, val) {
        warnings.push(format!("{}: `{val}` is not read, since there is `{test}`", dir.path().display()));
    }
    if !others.is_empty() {
        let (place, folders) = (dir.path().display(), if others.len() == 1 { "folder" } else { "folders" });
        warnings.push(format!("{place}: {} {folders} beside the splits not read: {}", others.len(), first(&others)));
    }
    let [train, val] = [train, test.or(val)].map(|name| name.map(|name| dir.join(name)));
    Ok(Some(Layout::Splits { train, val, warnings }))
}

/// True if there are pictures directly in the folder.
fn holds_pictures(folder: &Folder) -> Result<bool> {
    Ok(folder.names()?.iter().any(|(name, kind)| matches!(kind, Ok(Kind::File)) && is_picture(Path::new(name))))
}

/// The first few names.
fn first(names: &[String]) -> String {
    let more = if names.len() > NAMED { ", ..." } else { "" };
    names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ") + more
}
