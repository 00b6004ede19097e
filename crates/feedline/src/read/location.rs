//! The place of data as a person writes it: a path, a URL, named archives, a folder inside them. Owns how such a name
//! is parsed, and what is refused of it.

use crate::error::{Error, Result};
use crate::read::names::{INCOMPLETE, is_archive, is_openable, is_parquet, is_split};
use crate::url::{is_url, without_query};
use std::fs;
use std::path::{Path, PathBuf};

/// Checks that the URL of data contains no secret: a query, which in a presigned URL is a signature, or a user name and
/// password. URLs are printed and stored in files.
///
/// # Errors
/// A URL that does.
pub fn check_url(url: &str) -> Result<()> {
    let Some((scheme, rest)) = url.split_once("://").filter(|_| is_url(Path::new(url))) else { return Ok(()) };
    let host = rest.split('/').next().unwrap_or_default();
    if scheme == "file" || !host.contains('@') && !rest.contains(['?', '#']) {
        return Ok(());
    }
    let shown = without_query(url);
    Err(Error::config(
        format!(
            "{}: a URL of data holds no credentials and no query, and nothing behind a `#`",
            shown.split('#').next().unwrap_or_default()
        ),
        "Give the credentials in the environment, with a bucket as s3://BUCKET/FOLDER; what presigned URLs name has to be \
         downloaded",
    ))
}

/// The reason why no request can name the object with this key, if there is one. Keys go into URLs unchanged, where `/`
/// separates parts, and `..` leads out of a folder.
pub(in crate::read) fn unreadable(key: &str) -> Option<&'static str> {
    match key {
        "" => Some("its name is empty"),
        _ if key.starts_with('/') => Some("its name begins with `/`"),
        _ if key.ends_with('/') => Some("its name ends in `/`, as that of a folder"),
        _ if key.split('/').any(|part| matches!(part, "." | "..")) => Some("a part of its name is `.` or `..`"),
        _ if key.contains(|letter: char| letter.is_ascii_control()) => Some("its name holds a control character"),
        _ => None,
    }
}

/// A place with data as a person writes it, taken apart once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::read) struct Location {
    /// The path or URL.
    pub(in crate::read) path: PathBuf,
    pub(in crate::read) place: Place,
}

/// What a path or URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::read) enum Place {
    /// A file or folder of this machine, which need not be there.
    Local,
    /// A file or folder at this URL.
    Url(String),
    /// Archives, at a URL or of this machine.
    Archives(NamedArchives),
}

/// Archives that a path or URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::read) struct NamedArchives {
    /// The folder that they lie in. Of a [`Location`] it is a URL, `file://` if it is one of this machine.
    pub(in crate::read) folder: String,
    pub(in crate::read) names: Vec<String>,
    /// A folder or file inside of them; empty for all that they hold.
    pub(in crate::read) inside: String,
}

impl Location {
    /// Takes a path or URL apart. Whether a part of it is an archive or a folder of that name is looked up.
    ///
    /// # Errors
    /// A relative path where the current directory cannot be told.
    pub(in crate::read) fn parse(path: PathBuf) -> Result<Location> {
        let place = match (archives_named(&path), path.to_str().filter(|_| is_url(&path))) {
            (Some(named), Some(_)) => Place::Archives(named),
            (Some(_), None) => archives_named(Path::new(&file_url(&path)?)).map_or(Place::Local, Place::Archives),
            (None, Some(url)) => Place::Url(url.to_owned()),
            (None, None) => Place::Local,
        };
        Ok(Location { path, place })
    }

    /// Whether it is a path of this machine, in an archive or not.
    pub(in crate::read) fn is_local(&self) -> bool {
        !is_url(&self.path)
    }
}

/// The URL of a file or folder of this machine.
///
/// # Errors
/// A name that is not UTF-8; a relative path where the current directory cannot be told.
pub(in crate::read) fn file_url(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
    match absolute.to_str() {
        Some(text) => Ok(format!("file://{text}")),
        None => Err(Error::dataset(path, "its name is not UTF-8", "Rename it: it is read as a URL")),
    }
}

fn archives_named(path: &Path) -> Option<NamedArchives> {
    let text = path.to_str()?;
    let local = if is_url(path) { text.strip_prefix("file://") } else { Some(text) };
    // The name of a bucket or a host is not that of an archive.
    let rest = local.or_else(|| text.split_once("://")?.1.split_once('/').map(|(_, rest)| rest))?;
    let mut start = 0;
    for part in rest.split('/') {
        let end = start + part.len();
        if is_openable(part) && !local.is_some_and(|local| Path::new(&local[..end]).is_dir()) {
            let folder = &text[..text.len() - rest.len() + start];
            let folder = folder.strip_suffix('/').unwrap_or(folder);
            let (folder, inside) = (folder.to_owned(), rest[end..].trim_matches('/').to_owned());
            return Some(NamedArchives { folder, names: expand(part), inside });
        }
        start = end + 1;
    }
    None
}

/// True if a path leads to or into an archive that it names.
pub fn is_in_archive(path: &Path) -> bool {
    archives_named(path).is_some()
}

/// The local folder and the names of the archives that a path names; `None` if it names none.
pub fn local_archives(path: &Path) -> Option<(PathBuf, Vec<String>)> {
    let NamedArchives { folder, names, inside } = archives_named(path).filter(|_| !is_url(path))?;
    let folder = match &*folder {
        "" if path.is_absolute() => "/",
        "" => ".",
        folder => folder,
    };
    inside.is_empty().then(|| (folder.into(), names))
}

/// True if a local folder, or that of a split in it, contains archives.
pub fn holds_archives(folder: &Path) -> bool {
    let names_in = |folder: &Path| -> Vec<String> {
        let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.into_string().ok()).collect()
    };
    let holds = |folder: &Path, names: &[String]| {
        // A Parquet file beside class folders describes them ([`crate::read::archive::finder`]).
        let has_folders = || names.iter().any(|name| !name.starts_with('.') && folder.join(name).is_dir());
        names.iter().any(|name| is_archive(name) && !is_parquet(name))
            || names.iter().any(|name| is_parquet(name)) && !has_folders()
    };
    let names = names_in(folder);
    holds(folder, &names)
        || names
            .iter()
            .filter(|name| is_split(name))
            .map(|name| folder.join(name))
            .any(|split| holds(&split, &names_in(&split)))
}

/// Maximum number of names that a pattern stands for.
const NAMES_MAX: usize = 1 << 20;

/// `a{08..10}b` as a08b, a09b, a10b, for each pair of braces. Anything that is no range, or has too many names, stays
/// as it is.
fn expand(name: &str) -> Vec<String> {
    let Some((before, (range, after))) =
        name.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    else {
        return vec![name.to_owned()];
    };
    let rests = expand(after);
    let numbers = range.split_once("..").and_then(|(first, last)| {
        let (from, to): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        (from <= to && to - from < (NAMES_MAX / rests.len()) as u64).then_some((from..=to, first.len()))
    });
    match numbers {
        None => rests.iter().map(|rest| format!("{before}{{{range}}}{rest}")).collect(),
        Some((numbers, digits)) => numbers
            .flat_map(|number| rests.iter().map(move |rest| format!("{before}{number:0digits$}{rest}")))
            .collect(),
    }
}

/// The text of a URL after parsing as a path, which drops one of its two `/`.
pub(in crate::read) fn url_of(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains("://") { text } else { text.replacen(":/", "://", 1) }
}

/// The error for an archive that is compressed as a whole.
pub(in crate::read) fn compressed(path: impl Into<PathBuf>) -> Error {
    Error::dataset(
        path,
        "compressed archives are not read: nothing in them can be found without unpacking the whole",
        "Write them without compression; pictures hardly get smaller",
    )
}

/// The error for a folder that contains [`INCOMPLETE`].
pub(in crate::read) fn incomplete(folder: impl Into<PathBuf>) -> Error {
    let problem = format!("`feedline pack` has not finished this folder: there is a file {INCOMPLETE} in it");
    let remedy = "Remove the folder and pack again. If this is a copy of one that was finished since, copy the rest, remove \
                  the file here too, and list a bucket anew: feedline index --refresh URL";
    Error::dataset(folder, problem, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_path_a_url_or_archives_whose_folder_is_a_url() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().display();
        let archives = |folder: &str, names: &[&str], inside: &str| {
            let names = names.iter().map(|name| name.to_string()).collect();
            Place::Archives(NamedArchives { folder: folder.into(), names, inside: inside.into() })
        };
        for (path, place, is_local) in [
            ("s3://b/data".into(), Place::Url("s3://b/data".into()), false),
            (format!("{dir}/data"), Place::Local, true),
            ("data".into(), Place::Local, true),
            ("s3://b/x-{0..1}.tar/a".into(), archives("s3://b", &["x-0.tar", "x-1.tar"], "a"), false),
            (format!("{dir}/x.zip/./a/"), archives(&format!("file://{dir}"), &["x.zip"], "a"), true),
            ("/x.zip".into(), archives("file://", &["x.zip"], ""), true),
        ] {
            let path: String = path;
            let location = Location::parse(path.clone().into()).unwrap();
            assert_eq!((location.is_local(), &*location.path), (is_local, Path::new(&path)));
            assert_eq!(location.place, place, "{path}");
        }
    }

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
            let found =
                named.as_ref().map(|NamedArchives { folder, names, inside }| (&**folder, names.clone(), &**inside));
            let expect = expect.map(|(folder, names, inside)| {
                (folder, names.iter().map(|name| name.to_string()).collect::<Vec<_>>(), inside)
            });
            assert_eq!(found, expect, "{path}");
        }
        assert_eq!(expand("{0..1}-{08..09}.tar"), ["0-08.tar", "0-09.tar", "1-08.tar", "1-09.tar"]);
        assert_eq!(expand("x{a}-{0..1}{.tar"), ["x{a}-0{.tar", "x{a}-1{.tar"]);
        assert_eq!(expand("{0..9999999}-{0..9999999}").len(), 1, "too many");
    }
}
