//! Opens one file: local, at a URL, or in a named archive.

use crate::error::{Error, Result};
use crate::read::list::folder::Folder;
use crate::read::list::folder::names::Kind;
use crate::read::list::sample_reader::SampleReader;
use crate::read::location::archives_named;
use crate::read::source::ReadError;
use crate::read::source::settings::Storage;
use crate::url::is_url;
use std::fs;
use std::path::{Path, PathBuf};

/// Reads a whole small file: local, or at a URL.
///
/// # Errors
/// [`Error::Io`] with the file's name or URL.
pub(in crate::read) fn read_whole(path: &Path, storage: &Storage) -> Result<Vec<u8>> {
    let path = storage.resolve(path);
    if !is_url(&path) {
        // A pipe that is named here is meant to be waited for.
        return fs::read(&path).map_err(|e| Error::io("read the list", path, e));
    }
    match open_file(&path, storage)? {
        Some((_, stored)) => stored.read_whole().map_err(ReadError::into_error),
        None => Err(Error::dataset(path, "it cannot be opened", "Check the URL")),
    }
}

/// Opens one file that is not a plain local file: at a URL, or in a named archive, `rows.npz` or `rows.npz/x.npy`.
/// Returns it with its path, including the archive; `None` for a plain local file.
///
/// # Errors
/// A URL that cannot be opened; a missing file; an archive of several files that is named without one of them.
pub fn open_file(path: &Path, storage: &Storage) -> Result<Option<(PathBuf, SampleReader)>> {
    let mut path = storage.resolve(path);
    if let Some(inside) = archives_named(&path).map(|named| named.inside.to_owned()) {
        let mut folder = Folder::open(&path, storage)?;
        let names = folder.root().names()?;
        // As in NumPy, the name of an array may omit `.npy`.
        if !inside.is_empty() && names.iter().any(|(name, _)| *name == *format!("{inside}.npy")) {
            path = format!("{}.npy", path.display()).into();
            folder = folder.root().join(format!("{inside}.npy"));
        }
        if let ([(only, Ok(Kind::File))], true) = (&*names, inside.is_empty()) {
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
