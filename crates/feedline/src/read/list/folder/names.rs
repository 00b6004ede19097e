//! The names in a folder, their kinds, and the pictures below it in the order of torchvision's `ImageFolder`.

use crate::error::{Error, Result};
use crate::read::file::unusual;
use crate::read::list::folder::Folder;
use crate::read::names::{is_junk, is_picture, looks_like_picture};
use crate::read::remarks::Remarks;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

/// The kind of a name in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::read) enum Kind {
    File,
    Folder,
    /// Not a readable file: a FIFO, a socket, a device.
    Unusual(&'static str),
    /// A link that leads nowhere, or in a circle.
    BrokenLink,
}

/// The kind of what operating systems leave in folders, where it is counted.
pub(in crate::read) const JUNK: &str = "system files";

/// The kind of links that would have no end, where they are counted.
pub(in crate::read) const LINKS_UP: &str = "links to a folder that they lie in";

impl Folder {
    /// The names in it that are not hidden, sorted bytewise, and their kinds, if those can be told.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub(in crate::read) fn names(&self) -> Result<Vec<(OsString, Result<Kind>)>> {
        let mut names = self.all_names()?;
        names.retain(|(name, _)| !is_hidden(name));
        Ok(names)
    }

    /// As [`Folder::names`], including hidden ones.
    pub(in crate::read) fn all_names(&self) -> Result<Vec<(OsString, Result<Kind>)>> {
        let mut names: Vec<(OsString, Result<Kind>)> = Vec::new();
        let Some(tree) = &self.tree else {
            let failed = |source| Error::io("list the folder", &self.path, source);
            for entry in fs::read_dir(&self.path).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                names.push((entry.file_name(), kind_of(&entry)));
            }
            names.sort_by(|a, b| a.0.as_encoded_bytes().cmp(b.0.as_encoded_bytes()));
            return Ok(names);
        };
        for (name, is_dir) in tree.below(&self.path) {
            if names.last().is_none_or(|(last, _)| last != name) {
                names.push((name.into(), Ok(if is_dir { Kind::Folder } else { Kind::File })));
            }
        }
        if names.is_empty() {
            return Err(Error::io("list the folder", &self.path, std::io::ErrorKind::NotFound.into()));
        }
        // Keys are sorted with their `/`, which sorts after some other characters.
        names.sort_by(|a, b| a.0.as_encoded_bytes().cmp(b.0.as_encoded_bytes()));
        Ok(names)
    }

    /// The names of the folders in it that are not hidden and no system's, sorted bytewise. Names that are not UTF-8 are
    /// left out.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub(in crate::read) fn folders(&self) -> Result<Vec<String>> {
        let names = self.names()?.into_iter().filter(|(name, kind)| matches!(kind, Ok(Kind::Folder)) && !is_junk(name));
        Ok(names.filter_map(|(name, _)| name.into_string().ok()).collect())
    }

    /// The pictures in it and in folders below, in the order of torchvision's `ImageFolder`: sorted by the path of their
    /// folder as a text, then by name, both bytewise. Links to folders are followed. Anything else is left out.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub(in crate::read) fn pictures(&self, remarks: &mut Remarks) -> Result<Vec<PathBuf>> {
        let mut found: Vec<(PathBuf, OsString)> = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(below) = folders.pop() {
            let folder = if below.as_os_str().is_empty() { self.clone() } else { self.join(&below) };
            let first = folders.len();
            for (name, kind) in folder.all_names()? {
                let (is_hidden, path) = (is_hidden(&name), below.join(&name));
                let shown = path.display();
                match kind {
                    _ if is_junk(&name) => remarks.leave_out(JUNK, shown),
                    Ok(Kind::Folder) if is_hidden => remarks.leave_out("hidden folders", shown),
                    _ if is_hidden && looks_like_picture(&path) => remarks.leave_out("hidden pictures", shown),
                    _ if is_hidden => remarks.leave_out("hidden files", shown),
                    Ok(Kind::BrokenLink) => remarks.leave_out("broken links", shown),
                    Ok(Kind::Unusual(kind)) => remarks.leave_out(&format!("{kind}s"), shown),
                    Ok(Kind::Folder) if self.leads_up(&path)? => remarks.leave_out(LINKS_UP, shown),
                    Ok(Kind::Folder) => folders.push(path),
                    Err(error) if !is_picture(&path) => return Err(error),
                    _ if is_picture(&path) => found.push((below.clone(), name)),
                    _ => remarks.leave_out_file(&shown.to_string()),
                }
            }
            folders[first..].reverse(); // so that the first of what is left out is named
        }
        let key = |(below, name): &(PathBuf, OsString)| {
            [below.as_os_str(), name].map(|part| part.as_encoded_bytes().to_vec())
        };
        found.sort_by_cached_key(key);
        Ok(found.into_iter().map(|(below, name)| self.path.join(below).join(name)).collect())
    }

    /// True if the folder at `below` is a link to one that it lies in, here or further up: to follow it would have no end.
    ///
    /// # Errors
    /// A folder that cannot be looked into.
    pub(in crate::read) fn leads_up(&self, below: &Path) -> Result<bool> {
        let path = self.path.join(below);
        if self.tree.is_some() || !path.is_symlink() {
            return Ok(false);
        }
        let real = |path: &Path| path.canonicalize().map_err(|source| Error::io("look into", path, source));
        let (target, mut above) = (real(&path)?, real(&self.path)?);
        // On the way down there may be links, too.
        for part in below.parent().into_iter().flatten() {
            if above.starts_with(&target) {
                return Ok(true);
            }
            above = real(&above.join(part))?;
        }
        Ok(above.starts_with(&target))
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn kind_of(entry: &fs::DirEntry) -> Result<Kind> {
    let failed = |source| Error::io("look into", entry.path(), source);
    let mut file_type = entry.file_type().map_err(failed)?;
    if file_type.is_symlink() {
        file_type = match fs::metadata(entry.path()) {
            Err(error) if leads_nowhere(&error) => return Ok(Kind::BrokenLink),
            found => found.map_err(failed)?.file_type(),
        };
    }
    Ok(match unusual(file_type) {
        None => Kind::File,
        Some(_) if file_type.is_dir() => Kind::Folder,
        Some(kind) => Kind::Unusual(kind),
    })
}

/// True if a link has no target, or is one of links in a circle (`ELOOP`, of Linux and of macOS).
fn leads_nowhere(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || matches!(error.raw_os_error(), Some(40 | 62))
}
