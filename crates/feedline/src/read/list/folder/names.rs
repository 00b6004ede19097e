//! The names in a folder: their kinds, and pictures nested deeper than samples are searched.

use crate::error::{Error, Result};
use crate::read::file::unusual;
use crate::read::list::folder::Folder;
use crate::read::names::looks_like_picture;
use crate::read::remarks::Remarks;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

/// The kind of a name in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::read) enum Kind {
    File,
    Folder,
    /// Not a readable file: a FIFO, a socket, a device.
    Unusual(&'static str),
}

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

    /// Counts the content of the folder `name`, where only files are expected: each picture of any format, or else the
    /// folder itself. Links to folders are not followed.
    pub(in crate::read) fn remark_nested(&self, name: &OsStr, shown: &str, remarks: &mut Remarks) {
        let (folder, mut budget) = (self.join(name), NESTED_MAX);
        if folder.remark_pictures(shown, &mut budget, remarks) == 0 {
            remarks.leave_out("folders", shown);
        }
    }

    fn remark_pictures(&self, shown: &str, budget: &mut u32, remarks: &mut Remarks) -> u64 {
        let mut found = 0;
        // A folder that cannot be listed is left out like any other.
        for (name, kind) in self.names().unwrap_or_default() {
            let Some(left) = budget.checked_sub(1) else { break };
            *budget = left;
            let is_link = || self.tree.is_none() && self.path.join(&name).is_symlink();
            let shown = format!("{shown}/{}", name.display());
            match kind {
                Ok(Kind::Folder) if !is_link() => found += self.join(&name).remark_pictures(&shown, budget, remarks),
                Ok(Kind::File) if looks_like_picture(Path::new(&name)) => {
                    remarks.leave_out("pictures in folders within a class folder", shown);
                    found += 1;
                }
                _ => {}
            }
        }
        found
    }
}

/// Maximum number of names that are checked in folders where no sample is expected.
const NESTED_MAX: u32 = 1 << 20;

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn kind_of(entry: &fs::DirEntry) -> Result<Kind> {
    let failed = |source| Error::io("look into", entry.path(), source);
    let mut file_type = entry.file_type().map_err(failed)?;
    if file_type.is_symlink() {
        file_type = fs::metadata(entry.path()).map_err(failed)?.file_type();
    }
    Ok(match unusual(file_type) {
        None => Kind::File,
        Some(_) if file_type.is_dir() => Kind::Folder,
        Some(kind) => Kind::Unusual(kind),
    })
}
