//! Labelled pictures in Parquet files, as the library `datasets` of Hugging Face writes them, and files of any kind in
//! a lone column of bytes. Owns the choice of columns, and the positions of pictures in the file; the layout is in
//! `parquet/{footer,pages,values}.rs`.
//!
//! In an uncompressed page a picture is a range of the file, in a compressed one a range of the unpacked page. Indexing
//! reads and unpacks the whole file once to find these ranges, so a later read needs only the page, and of the format
//! only its compression.

use crate::read::archive::encoding::Encoding;
use crate::read::archive::member::{ArchiveReader, FormatError, Member, Problem};
use crate::read::archive::parquet_value::ParquetValue;
use crate::read::names::CLASSES_FILE;
use crate::read::source::ReadError;
use footer::{BYTE_ARRAY, Footer, INT32, INT64, Leaf};
use pages::{BYTES_IN_ANY_CASE, BYTES_PER_BYTE_MAX, Pages, Section, read_into, unpack_page, wrong};
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::BTreeMap;

mod footer;
mod pages;
mod values;

type Result<T, E = Problem> = std::result::Result<T, E>;

/// Accepted names of the picture column, where several columns hold bytes.
const PICTURES: [&str; 9] = ["image", "img", "picture", "photo", "jpg", "jpeg", "png", "image_bytes", "bytes"];

/// Accepted names of the label column, where several columns hold whole numbers.
const LABELS: [&str; 8] = ["label", "labels", "class", "cls", "target", "y", "fine_label", "category"];

/// The first and the last bytes of a file.
const MAGIC: &[u8; 4] = b"PAR1";

/// Maximum size of a footer.
const FOOTER_BYTES_MAX: u64 = 32 << 20;

/// The pictures in the file, named by their rows, with their labels, and the names of the classes, if it has them; or
/// the values of the only column, named by row and file type.
pub(in crate::read) fn index(mut reader: ArchiveReader<'_>) -> Result<Vec<Member>> {
    let size_bytes = reader.size_bytes();
    let (footer_start, bytes) = read_footer(&mut reader)?;
    let damaged = |FormatError(problem)| FormatError(format!("it is no Parquet file, or damaged: {problem}"));
    let footer = Footer::parse(&bytes).map_err(damaged)?;
    let features = footer.described.map_or(Ok(BTreeMap::new()), |(_, json)| features(json))?;
    let columns = Columns::choose(&footer.leaves, &features)?;
    let chunks = || footer.groups.iter().flat_map(|group| columns.all().map(|at| group.chunks[at]));
    let stored_bytes = chunks().fold(0, |sum: u64, chunk| sum.saturating_add(chunk.stored_bytes));
    let rows = footer.groups.iter().fold(0, |sum: u64, group| sum.saturating_add(group.rows));
    if chunks().any(|chunk| chunk.start.checked_add(chunk.stored_bytes).is_none_or(|end| end > footer_start))
        || stored_bytes > size_bytes
        || rows > size_bytes
    {
        return wrong("it is damaged or cut: its columns claim more bytes than it has");
    }
    let budget_bytes = size_bytes.saturating_mul(BYTES_PER_BYTE_MAX).saturating_add(BYTES_IN_ANY_CASE);
    let mut pages = Pages::new(reader, budget_bytes);
    let mut members = Vec::new();
    let (mut places, mut labels): (Vec<Place>, Vec<i64>) = (Vec::new(), Vec::new());
    for group in &footer.groups {
        places.clear();
        labels.clear();
        let column = |at: usize| (&group.chunks[at], &footer.leaves[at]);
        let (picture, label) = (column(columns.picture), columns.label.map(column));
        let (first_row, rows) = (members.len() as u64, group.rows as usize);
        let mut read_pictures =
            |pages: &mut Pages<'_>| pages.read("picture", picture, first_row, rows, &mut places, Place::decode);
        let mut read_labels = |pages: &mut Pages<'_>| {
            let Some(label) = label else { return Ok(()) };
            let width_bytes = if label.1.kind == INT32 { 4 } else { 8 };
            pages.read("label", label, first_row, rows, &mut labels, |encoding, section, count, into| match encoding {
                values::PLAIN => values::plain_numbers(section.bytes, width_bytes, count, into).map(|()| true),
                values::DELTA_BINARY_PACKED => values::delta_numbers(section.bytes, count, into).map(|()| true),
                _ => Ok(false),
            })
        };
        // In file order, so that the file is read front to back.
        if label.is_none_or(|label| picture.0.start < label.0.start) {
            read_pictures(&mut pages)?;
            read_labels(&mut pages)?;
        } else {
            read_labels(&mut pages)?;
            read_pictures(&mut pages)?;
        }
        for (at, Place { start, stored_bytes, encoding, extension }) in places.drain(..).enumerate() {
            let row = members.len();
            let (name, class) = match labels.get(at).map(|label| (label, u32::try_from(*label))) {
                None => (format!("{row:07}.{extension}"), None),
                Some((_, Ok(class))) => (format!("{row:07}"), Some(class)),
                Some((label, Err(_))) => {
                    return wrong(format!("row {row}: its label {label} is negative or too large; -1 stands for none"));
                }
            };
            members.push(Member { name, start, stored_bytes, encoding, class });
        }
    }
    if let (Some((at, json)), Some(feature)) = (footer.described, columns.named) {
        let (size_bytes, crc32) = (names(json, feature)?.len() as u32, crc32fast::hash(json));
        members.push(Member {
            name: CLASSES_FILE.into(),
            start: footer_start + at as u64,
            stored_bytes: json.len() as u64,
            encoding: Encoding::Parquet(ParquetValue::Names { feature, size_bytes, crc32 }),
            class: None,
        });
    }
    Ok(members)
}

/// The start of the footer, and its bytes.
fn read_footer(reader: &mut ArchiveReader<'_>) -> Result<(u64, Vec<u8>)> {
    let Some(end) = reader.size_bytes().checked_sub(8).filter(|end| *end >= MAGIC.len() as u64) else {
        return wrong("it is no Parquet file: it is too short");
    };
    // The read for the last bytes brings most footers, too.
    reader.from(end, true)?;
    let mut tail = [0; 8];
    read_into(reader, end, &mut tail)?;
    let [bytes @ .., b'P', b'A', b'R', b'1'] = tail else {
        return wrong(match &tail[4..] {
            b"PARE" => "it is encrypted",
            _ => "it is no Parquet file, or cut: it does not end as one",
        });
    };
    let bytes = u64::from(u32::from_le_bytes(bytes));
    let Some(start) = end.checked_sub(bytes).filter(|start| *start >= MAGIC.len() as u64 && bytes <= FOOTER_BYTES_MAX)
    else {
        return wrong(format!("it is damaged: its footer claims {bytes} bytes"));
    };
    let mut footer = vec![0; bytes as usize];
    reader.from(start, true)?;
    read_into(reader, start, &mut footer)?;
    Ok((start, footer))
}

/// The columns as `datasets` describes them; only class names are used.
type Features = BTreeMap<String, serde_json::Value>;

fn features(json: &[u8]) -> Result<Features, FormatError> {
    #[derive(Deserialize)]
    struct Described {
        info: Option<Info>,
    }
    #[derive(Deserialize)]
    struct Info {
        features: Option<Features>,
    }
    let described: Described = serde_json::from_slice(json).map_err(|e| {
        FormatError(format!("it is damaged: its description under the key `huggingface` is wrong: {e}"))
    })?;
    Ok(described.info.and_then(|info| info.features).unwrap_or_default())
}

/// The class names of a feature, if it has them.
fn class_names(feature: &serde_json::Value) -> Option<Vec<&str>> {
    let names = feature.get("names").filter(|_| feature.get("_type").is_some_and(|kind| kind == "ClassLabel"))?;
    names.as_array()?.iter().map(|name| name.as_str()).collect()
}

/// The class names, one per line.
fn names(json: &[u8], feature: u32) -> Result<String, FormatError> {
    let features = features(json)?;
    let names = features.values().nth(feature as usize).and_then(class_names).unwrap_or_default();
    match names.iter().position(|name| name.trim().is_empty() || name.contains(['\n', '\r', '\0'])) {
        Some(class) => Err(FormatError(format!(
            "the name of its class {class} is blank, of several lines, or has a NUL byte in it"
        ))),
        None => Ok(names.iter().flat_map(|name| [name, "\n"]).collect()),
    }
}

/// The columns that are read.
struct Columns {
    picture: usize,
    /// `None`: the values are files of any kind.
    label: Option<usize>,
    /// Index of the label among the features, sorted by name, if it has class names.
    named: Option<u32>,
}

impl Columns {
    fn all(&self) -> impl Iterator<Item = usize> + use<> {
        std::iter::once(self.picture).chain(self.label)
    }

    fn choose(leaves: &[Leaf<'_>], features: &Features) -> Result<Columns, FormatError> {
        let of = |is: &dyn Fn(&Leaf<'_>) -> bool| -> Vec<usize> {
            leaves.iter().enumerate().filter(|(_, leaf)| !leaf.is_repeated && is(leaf)).map(|(at, _)| at).collect()
        };
        let is_bytes = |leaf: &Leaf<'_>| leaf.kind == BYTE_ARRAY && leaf.converted.is_none() && leaf.logical.is_none();
        let called = |at: usize| leaves[at].group.unwrap_or(leaves[at].name);
        let mut pictures = of(&|leaf| is_bytes(leaf) && leaf.group.is_some() && leaf.name == "bytes");
        if pictures.is_empty() {
            pictures = of(&|leaf| is_bytes(leaf) && leaf.depth == 0);
        }
        if pictures.len() > 1 {
            pictures.retain(|at| PICTURES.contains(&called(*at)));
        }
        let is_label = |leaf: &Leaf<'_>| {
            // Converted types 11 to 18 are integers; so is logical type 10, which newer writers use.
            leaf.depth == 0
                && [INT32, INT64].contains(&leaf.kind)
                && leaf.converted.is_none_or(|kind| (11..=18).contains(&kind))
                && leaf.logical.is_none_or(|kind| kind == 10)
        };
        let mut labels = of(&is_label);
        let names_classes = |at: &usize| features.get(leaves[*at].name).and_then(class_names).is_some();
        if labels.len() > 1 && labels.iter().any(names_classes) {
            labels.retain(names_classes);
        }
        if labels.len() > 1 {
            labels.retain(|at| LABELS.contains(&leaves[*at].name));
        }
        match (&*pictures, &*labels) {
            ([picture], [label]) => {
                let place = || features.keys().position(|name| name == leaves[*label].name);
                let named = names_classes(label).then(place).flatten().map(|place| place as u32);
                Ok(Columns { picture: *picture, label: Some(*label), named })
            }
            // No other columns, except in the group of this one.
            ([value], [])
                if leaves
                    .iter()
                    .all(|leaf| leaf.group.is_some() && leaf.group == leaves[*value].group || leaves.len() == 1) =>
            {
                Ok(Columns { picture: *value, label: None, named: None })
            }
            _ => {
                let kind = |leaf: &Leaf<'_>| match leaf.kind {
                    BYTE_ARRAY if is_bytes(leaf) => "bytes",
                    BYTE_ARRAY => "text",
                    INT32 | INT64 if is_label(leaf) => "whole numbers",
                    _ => "something else",
                };
                let name = |leaf: &Leaf<'_>| match leaf.group {
                    Some(group) => format!("{group}.{}: {}", leaf.name, kind(leaf)),
                    None => format!("{}: {}", leaf.name, kind(leaf)),
                };
                let found: Vec<String> = leaves.iter().take(20).map(name).collect();
                Err(FormatError(format!(
                    "its columns are {}; one of bytes (`image` with `bytes` in it, or of several the one called {}) must \
                     hold the picture, and one of whole numbers (of several the one called {}) its label",
                    found.join(", "),
                    PICTURES.join(", "),
                    LABELS.join(", ")
                )))
            }
        }
    }
}

/// A range of the file, the encoding of the value in it, and the extension that its first bytes imply.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u64,
    stored_bytes: u64,
    encoding: Encoding,
    extension: &'static str,
}

/// First bytes of the file types that get an extension of their own; all others get `bin`.
const BEGINNINGS: [(&[u8], &str); 3] = [(b"\x93NUMPY", "npy"), (b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpg")];

impl Place {
    fn decode(encoding: u64, section: &Section<'_>, count: usize, into: &mut Vec<Place>) -> Result<bool, FormatError> {
        if encoding != values::PLAIN {
            return Ok(false);
        }
        let (mut at, bytes) = (0usize, section.bytes);
        for _ in 0..count {
            let length = bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|size| u32::from_le_bytes(*size));
            let end = length.and_then(|length| (at + 4).checked_add(length as usize));
            let (Some(size_bytes), Some(end)) = (length, end.filter(|end| *end <= bytes.len())) else {
                return Err(FormatError("a page in it ends within a picture".into()));
            };
            let begin = section.at + at as u32 + 4;
            let is_begun = |(beginning, _): &&(&[u8], &str)| bytes[at + 4..end].starts_with(beginning);
            let extension = BEGINNINGS.iter().find(is_begun).map_or("bin", |(_, extension)| *extension);
            into.push(match section.codec {
                None => Place {
                    start: section.start + u64::from(begin),
                    stored_bytes: size_bytes.into(),
                    encoding: Encoding::Plain,
                    extension,
                },
                Some(codec) => {
                    let packed = ParquetValue::Value { codec, page_bytes: section.page_bytes, at: begin, size_bytes };
                    let Section { start, stored_bytes, .. } = *section;
                    Place { start, stored_bytes, encoding: Encoding::Parquet(packed), extension }
                }
            });
            at = end;
        }
        Ok(true)
    }
}

/// Decodes the stored bytes in place.
///
/// # Errors
/// A damaged or mismatched value, in words.
pub(in crate::read) fn unpack(packed: ParquetValue, bytes: &mut Vec<u8>) -> Result<(), String> {
    match packed {
        ParquetValue::Names { feature, crc32, .. } => {
            if crc32fast::hash(bytes) != crc32 {
                return Err("the names of the classes are not the ones that were indexed: it is damaged".into());
            }
            *bytes = names(bytes, feature).map_err(|FormatError(problem)| problem)?.into_bytes();
            Ok(())
        }
        ParquetValue::Value { codec, page_bytes, .. } => {
            let mut page = Vec::new();
            unpack_page(codec, bytes, page_bytes, &mut page)?;
            pick(packed, &page, bytes)
        }
    }
}

/// Copies a value from its unpacked page.
fn pick(packed: ParquetValue, page: &[u8], into: &mut Vec<u8>) -> Result<(), String> {
    let ParquetValue::Value { at, size_bytes, .. } = packed else { return Err("it is no value of a page".into()) };
    let value = (at as usize).checked_add(size_bytes as usize).and_then(|end| page.get(at as usize..end));
    into.clear();
    into.extend_from_slice(value.ok_or("its page is too short")?);
    Ok(())
}

/// Threads keep no page larger than this.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// The page to read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::read) struct Wanted<'a> {
    /// The file, as its source names it.
    pub location: &'a str,
    /// Its version; without one the page is not kept.
    pub version: &'a str,
    /// Start of the page in the file.
    pub start: u64,
}

/// An unpacked page and its origin.
#[derive(Default)]
struct Kept {
    location: String,
    version: String,
    start: u64,
    page: Vec<u8>,
}

thread_local! {
    /// The page that a thread unpacked last: reading rows in order unpacks each page once.
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// Copies a value from its page: the page that this thread unpacked last, or else the one that `read` gets, which is
/// then unpacked and kept for the next value.
///
/// # Errors
/// As `read`; or, inside, a damaged page.
pub(in crate::read) fn read_value(
    packed: ParquetValue,
    wanted: &Wanted<'_>,
    into: &mut Vec<u8>,
    read: impl FnOnce(&mut Vec<u8>) -> Result<(), ReadError>,
) -> Result<Result<(), String>, ReadError> {
    let ParquetValue::Value { codec, page_bytes, .. } = packed else {
        return Ok(Err("it is no value of a page".into()));
    };
    KEPT.with_borrow_mut(|kept| {
        let is_kept = !kept.version.is_empty()
            && *wanted == Wanted { location: &kept.location, version: &kept.version, start: kept.start }
            && kept.page.len() == page_bytes as usize;
        if !is_kept {
            kept.version.clear();
            let mut stored = Vec::new();
            read(&mut stored)?;
            if let Err(problem) = unpack_page(codec, &stored, page_bytes, &mut kept.page) {
                return Ok(Err(problem));
            }
            wanted.location.clone_into(&mut kept.location);
            wanted.version.clone_into(&mut kept.version);
            kept.start = wanted.start;
        }
        let picked = pick(packed, &kept.page, into);
        if kept.page.len() > KEPT_BYTES_MAX {
            *kept = Kept::default();
        }
        Ok(picked)
    })
}
