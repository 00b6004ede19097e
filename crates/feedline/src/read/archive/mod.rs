//! Archives (shards) as the files in them, without unpacking: each member is located once, and its position cached.
//! Owns which archives are indexed and what an index must hold; the formats are read in `tar.rs`, `zip.rs`, `mds.rs`
//! and `parquet/`, index files in `index_file.rs`.
//!
//! A member stands for the file that unpacking the archive in its folder would create: `train/000.tar` with the member
//! `cat/1.jpg` is `train/cat/1.jpg`. So archives and the folder they were packed from are the same data set. An archive
//! whose samples carry their labels has no such folder: its members are `train/000.tar/key.jpg`.

pub(in crate::read) mod encoding;
mod index_file;
mod mds;
pub(in crate::read) mod member;
#[cfg(feature = "parquet")]
pub(in crate::read) mod parquet;
#[cfg(feature = "parquet")]
pub(in crate::read) mod parquet_value;
mod tar;
pub(in crate::read) mod zip;

pub use index_file::{index_beside, indexes, to_text};
pub use member::Member;

use crate::error::{Error, Result};
use crate::read::names::{Format, format, is_archive, is_parquet, is_picture, is_split};
use crate::read::remarks::Remarks;
use crate::read::source::{Object, Source};
use encoding::Encoding;
use member::{ArchiveReader, Problem};
use std::collections::BTreeSet;
use std::path::Path;

/// The content of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// Its files, in the order of their names.
    pub members: Vec<Member>,
    /// Files that are no samples, and anything strange about the archive.
    pub remarks: Remarks,
}

impl Encoding {
    /// Decodes the stored bytes in place.
    ///
    /// # Errors
    /// A damaged or mismatched file, in words.
    pub(in crate::read) fn unpack(self, bytes: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Encoding::Plain => Ok(()),
            Encoding::Zip(packed) => zip::unpack(packed, bytes),
            #[cfg(feature = "parquet")]
            Encoding::Parquet(packed) => parquet::unpack(packed, bytes),
        }
    }
}

/// A test for which of these objects are archives to index: those in the folder itself or in that of a split. A Parquet
/// file is one only if no picture and no other archive is in its folder or below: otherwise it describes them.
pub fn finder(objects: &[Object]) -> impl Fn(&str) -> bool + use<> {
    let folder = |key: &str| key.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
    let is_found = move |key: &str| {
        let folder = folder(key);
        is_archive(key) && (folder.is_empty() || is_split(&folder))
    };
    let mut described = BTreeSet::new();
    if objects.iter().any(|object| is_parquet(&object.key)) {
        for Object { key, .. } in objects {
            if is_picture(Path::new(key)) || is_found(key) && !is_parquet(key) {
                let mut folder = folder(key);
                while described.insert(folder.clone()) && !folder.is_empty() {
                    folder.truncate(folder.rfind('/').unwrap_or_default());
                }
            }
        }
    }
    move |key| is_found(key) && !(is_parquet(key) && described.contains(&folder(key)))
}

/// The files in an archive, in the order of their names.
///
/// # Errors
/// An archive that cannot be read, is damaged, cut or of an unknown kind, has two members of one name, a link, a
/// device, or a name that would lead out of the folder it lies in: with the name of the member.
pub fn index(source: &dyn Source, object: &Object) -> Result<Index> {
    match format(&object.key) {
        Some(format) => index_as(source, object, format),
        None => {
            Err(wrong(source, object, "its name does not end as that of an archive: .tar, .zip, .mds, .parquet".into()))
        }
    }
}

/// As [`index`], whatever the object's name.
pub(in crate::read) fn index_as(source: &dyn Source, object: &Object, format: Format) -> Result<Index> {
    let (reader, mut remarks) = (ArchiveReader::new(source, object), Remarks::default());
    let mut members = match format {
        Format::Tar => tar::index(reader, &mut remarks),
        Format::Zip => zip::index(reader),
        Format::Mds => mds::index(reader),
        #[cfg(feature = "parquet")]
        Format::Parquet => parquet::index(reader),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => {
            return Err(Error::Unsupported {
                what: format!("reading {}", source.location(&object.key)),
                remedy: "Build with the feature `parquet`: cargo install --locked --path crates/feedline-cli --features parquet"
                    .into(),
            });
        }
    }
    .map_err(|problem| match problem {
        Problem::Read(error) => error.into_error(),
        Problem::Format(problem) => wrong(source, object, problem),
    })?;
    if members.is_empty() {
        return Err(wrong(source, object, "there is no file in it".into()));
    }
    if let Some(member) = members
        .iter()
        .find(|member| member.start.checked_add(member.stored_bytes).is_none_or(|end| end > object.size_bytes))
    {
        let problem = format!(
            "the member {} claims {} bytes from byte {} on, but the archive ends at {}",
            member.name, member.stored_bytes, member.start, object.size_bytes
        );
        return Err(wrong(source, object, problem));
    }
    members.sort_by(|a, b| a.name.cmp(&b.name));
    match members.array_windows().find(|[one, other]| one.name == other.name) {
        Some([one, _]) => Err(wrong(source, object, format!("it has two members of the name {}", one.name))),
        None => Ok(Index { members, remarks }),
    }
}

fn wrong(source: &dyn Source, object: &Object, problem: String) -> Error {
    let remedy = "Write the archive again; or move it elsewhere, if it is no part of the data";
    Error::dataset(source.location(&object.key), problem, remedy)
}

/// Advice about members that are no samples.
pub(in crate::read) const REMEDY: &str = "Nothing of them is read: leave them, or write the archive again without them";
