//! Names of files: pictures, archives and other data, and names with a meaning in a data set. Decides by the name
//! alone; opens nothing.

use std::ffi::OsStr;
use std::path::Path;

/// Extension of an index, which lies beside its archive: `000.tar.index`.
pub(crate) const INDEX_EXTENSION: &str = ".index";

/// Lies in each folder of a pack until all of it is written. A folder that contains it, or a copy of one, is no data
/// set.
pub(crate) const INCOMPLETE: &str = "pack.incomplete";

/// The folders of splits that `feedline pack` makes.
pub(in crate::read) const SPLITS: [&str; 4] = ["train", "test", "val", "valid"];

/// The splits of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::read) enum Split {
    Train,
    Test,
    Val,
}

/// The split that a folder of this name holds, in any case.
pub(in crate::read) fn split_named(name: &str) -> Option<Split> {
    let is = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    match () {
        () if is(&["train", "training"]) => Some(Split::Train),
        () if is(&["test", "testing"]) => Some(Split::Test),
        () if is(&["val", "valid", "validation"]) => Some(Split::Val),
        () => None,
    }
}

/// True for the name of a folder that holds a split.
pub(in crate::read) fn is_split(name: &str) -> bool {
    split_named(name).is_some()
}

/// True for what operating systems put beside the files of a person: never a sample, never a class.
pub(in crate::read) fn is_junk(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let known = ["__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"];
    name.starts_with(b"._") || known.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name))
}

/// Class names, one per line, beside archives that carry labels.
pub(in crate::read) const CLASSES_FILE: &str = "classes.txt";

const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "jpe", "jfif", "png"];

/// Pictures that are read with the cargo feature `formats`.
const MORE_EXTENSIONS: [&str; 9] = ["webp", "bmp", "gif", "tif", "tiff", "pbm", "pgm", "ppm", "pnm"];

/// Pictures of formats that are not supported, but that other loaders read.
const OTHER_PICTURES: [&str; 7] = ["jp2", "j2k", "avif", "heic", "heif", "jxl", "dng"];

/// Advice about files that were left out of class folders.
#[cfg(feature = "formats")]
pub(in crate::read) const REMEDY: &str = "Images are *.jpg, *.jpeg, *.jpe, *.jfif, *.png, *.webp, *.bmp, *.gif, *.tif, *.tiff, *.pbm, *.pgm, *.ppm and *.pnm \
     in the folder of their class: move or convert what should be one, or name it in a list";
#[cfg(not(feature = "formats"))]
pub(in crate::read) const REMEDY: &str = "Images are *.jpg, *.jpeg, *.jpe, *.jfif and *.png in the folder of their class: move or convert what should be one, \
     or name it in a list. A build with the cargo feature `formats` reads *.webp, *.bmp, *.gif, *.tif, *.tiff, *.pbm, *.pgm, *.ppm \
     and *.pnm too";

/// The formats of archives, by the end of their names.
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

/// True if an object of this name counts as an archive in a listing.
pub fn is_archive(key: &str) -> bool {
    format(key).is_some() && !is_sample(key)
}

/// True for the name of an archive, or of a file that is opened as one only when it is named (`.npz`): a folder may
/// hold a million of them, each a sample.
pub(in crate::read) fn is_openable(key: &str) -> bool {
    format(key).is_some()
}

pub(in crate::read) fn is_parquet(key: &str) -> bool {
    format(key) == Some(Format::Parquet)
}

fn is_sample(key: &str) -> bool {
    key.ends_with(".npz")
}

/// True for the name of an archive that is compressed as a whole, so that no member can be found.
pub(in crate::read) fn is_compressed(name: &str) -> bool {
    let Some((inner, extension)) = name.rsplit_once('.') else { return false };
    let is_packer = ["gz", "bz2", "xz", "zst", "zstd", "lz4", "br", "snappy"].contains(&extension);
    matches!(extension, "tgz" | "tbz2" | "txz") || is_packer && matches!(format(inner), Some(Format::Tar | Format::Mds))
}

/// The split in an archive's name, `train.zip` or `train-000000.tar`.
pub(in crate::read) fn split_of(name: &str) -> Option<&str> {
    name.split_once(['.', '-', '_']).map(|(split, _)| split).filter(|split| is_split(split))
}

pub(in crate::read) fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let is_one_of = |known: &[&str]| known.iter().any(|known| known.eq_ignore_ascii_case(extension));
    is_one_of(&EXTENSIONS) || cfg!(feature = "formats") && is_one_of(&MORE_EXTENSIONS)
}

/// True for the name of a picture, of a supported format or another.
pub fn looks_like_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let others = MORE_EXTENSIONS.iter().chain(&OTHER_PICTURES);
    is_picture(path) || others.into_iter().any(|known| known.eq_ignore_ascii_case(extension))
}

/// True for the name of a file that contains samples.
pub(in crate::read) fn is_data(name: &str) -> bool {
    let extension = Path::new(name).extension().unwrap_or_default();
    is_picture(Path::new(name)) || extension == "npy" || extension == "bin"
}
