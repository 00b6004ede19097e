//! Names of files: which are pictures, archives or other data, and which a data set gives a meaning. Decides by the name
//! alone; opens nothing.

use std::ffi::OsStr;
use std::path::Path;

/// Ends the name of an index that lies beside its archive: `000.tar.index`.
pub(crate) const INDEX_EXTENSION: &str = ".index";

/// Lies in each folder of a pack until all of it is written. A folder that has it, or a copy of one, is no data set.
pub(crate) const INCOMPLETE: &str = "pack.incomplete";

/// The folders of a data set that may hold its splits.
pub(in crate::read) const SPLITS: [&str; 4] = ["train", "test", "val", "valid"];

/// Beside archives that carry labels: the names of the classes, one a line.
pub(in crate::read) const CLASSES_FILE: &str = "classes.txt";

const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

/// Pictures of formats that are not read, by the names that other loaders know.
const OTHER_PICTURES: [&str; 14] =
    ["ppm", "bmp", "pgm", "tif", "tiff", "webp", "gif", "pbm", "pnm", "jfif", "jp2", "avif", "heic", "jxl"];

/// What kinds of archives there are, by the end of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::read) enum Format {
    Tar,
    Zip,
    Mds,
    Parquet,
}

pub(in crate::read) fn format(key: &str) -> Option<Format> {
    let (_, extension) = key.rsplit_once('.')?;
    match extension {
        "tar" => Some(Format::Tar),
        "zip" | "npz" => Some(Format::Zip),
        "mds" => Some(Format::Mds),
        "parquet" => Some(Format::Parquet),
        _ => None,
    }
}

/// Whether an object of this name is an archive, wherever it lies.
pub fn is_archive(key: &str) -> bool {
    format(key).is_some() && !is_sample(key)
}

/// Whether a name is that of an archive, or of a file that is opened as one only when it is named: a folder may hold
/// a million of them, each a sample.
pub(in crate::read) fn is_openable(key: &str) -> bool {
    format(key).is_some()
}

pub(in crate::read) fn is_parquet(key: &str) -> bool {
    format(key) == Some(Format::Parquet)
}

fn is_sample(key: &str) -> bool {
    key.ends_with(".npz")
}

/// Whether a name is that of an archive that is compressed as a whole, so that nothing in it can be found.
pub(in crate::read) fn is_compressed(name: &str) -> bool {
    let Some((inner, extension)) = name.rsplit_once('.') else { return false };
    let is_packer = ["gz", "bz2", "xz", "zst", "zstd", "lz4", "br", "snappy"].contains(&extension);
    matches!(extension, "tgz" | "tbz2" | "txz") || is_packer && matches!(format(inner), Some(Format::Tar | Format::Mds))
}

/// The split that an archive is called after, `train.zip` or `train-000000.tar`.
pub(in crate::read) fn split_of(name: &str) -> Option<&'static str> {
    let rest = |split: &&str| name.strip_prefix(*split).is_some_and(|rest| rest.starts_with(['.', '-', '_']));
    SPLITS.into_iter().find(rest)
}

pub(in crate::read) fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

/// Whether a name is that of a picture, of a format that is read or of another.
pub(in crate::read) fn looks_like_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    is_picture(path) || OTHER_PICTURES.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

/// Whether a name is that of a file that samples are made of.
pub(in crate::read) fn is_data(name: &str) -> bool {
    let extension = Path::new(name).extension().unwrap_or_default();
    is_picture(Path::new(name)) || extension == "npy" || extension == "bin"
}
