//! Labelled pictures in Parquet files, as the library `datasets` of Hugging Face writes them. Owns the choice of columns,
//! and where in the file the bytes of a picture are; `parquet/footer.rs` and `parquet/values.rs` have the layout.
//!
//! In a page that is not compressed a picture is a range of the file. In one that is, it is a range of what the page
//! unpacks to. Where that is, is found out by reading and unpacking the whole file once, so a later read needs no more
//! than the page, and no more of the format than its compression.

use super::archive::{Member, Packing, Problem, Windows, Wrong};
use super::image_list::CLASSES_FILE;
use super::source::ReadError;
use footer::{BYTE_ARRAY, Chunk, Footer, INT32, INT64, Leaf, PageHeader};
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use zlib_rs::{Inflate, InflateFlush, Status};

mod footer;
mod values;

type Result<T, E = Problem> = std::result::Result<T, E>;

/// What a column of pictures is called where several hold bytes.
const PICTURES: [&str; 9] = ["image", "img", "picture", "photo", "jpg", "jpeg", "png", "image_bytes", "bytes"];

/// What a column of labels is called where several hold whole numbers.
const LABELS: [&str; 8] = ["label", "labels", "class", "cls", "target", "y", "fine_label", "category"];

/// Begins and ends a file.
const MAGIC: &[u8; 4] = b"PAR1";

/// No footer is larger, and no header of a page.
const FOOTER_BYTES_MAX: u64 = 32 << 20;
const HEADER_BYTES_MAX: u64 = 4 << 20;

/// No page is larger, as it is or unpacked.
const PAGE_BYTES_MAX: u32 = 1 << 30;

/// A file that unpacks to more than this for each of its bytes, and a page in it, makes much of nothing.
const BYTES_PER_BYTE_MAX: u64 = 1032;
const BYTES_IN_ANY_CASE: u64 = 16 << 20;

/// How pages are compressed, as `parquet.thrift` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    Snappy = 1,
    Gzip = 2,
    Zstd = 6,
    Lz4 = 7,
}

const CODECS: [(Codec, &str); 4] =
    [(Codec::Snappy, "snappy"), (Codec::Gzip, "gzip"), (Codec::Zstd, "zstd"), (Codec::Lz4, "lz4")];

/// How a file comes out of a part of a Parquet file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packed {
    /// A range of what a page unpacks to.
    Value { codec: Codec, page_bytes: u32, at: u32, size_bytes: u32 },
    /// The names of the classes, a line each, out of the description in JSON that has this checksum; `feature` is the
    /// place of the label among the features, sorted by name.
    Names { feature: u32, size_bytes: u32, crc32: u32 },
}

impl Packed {
    pub(super) fn size_bytes(self) -> u64 {
        match self {
            Packed::Value { size_bytes, .. } | Packed::Names { size_bytes, .. } => size_bytes.into(),
        }
    }

    pub(super) fn to_text(self) -> String {
        match self {
            Packed::Value { codec, page_bytes, at, size_bytes } => {
                let name = CODECS.iter().find(|(known, _)| *known == codec).map_or("", |(_, name)| name);
                format!("{name}:{page_bytes}:{at}:{size_bytes}")
            }
            Packed::Names { feature, size_bytes, crc32 } => format!("names:{feature}:{size_bytes}:{crc32}"),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Packed> {
        let mut parts = text.split(':');
        let kind = parts.next()?;
        let numbers: Option<Vec<u32>> = parts.map(|part| part.parse().ok()).collect();
        match (kind, numbers?.as_slice()) {
            ("names", &[feature, size_bytes, crc32]) => Some(Packed::Names { feature, size_bytes, crc32 }),
            (name, &[page_bytes, at, size_bytes]) => {
                let (codec, _) = CODECS.iter().find(|(_, known)| *known == name)?;
                let is_inside = u64::from(at) + u64::from(size_bytes) <= u64::from(page_bytes.min(PAGE_BYTES_MAX));
                is_inside.then_some(Packed::Value { codec: *codec, page_bytes, at, size_bytes })
            }
            _ => None,
        }
    }
}

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(Wrong(what.into()).into())
}

/// The pictures in the file, named by their rows, with their labels; and the names of the classes, if it has them.
pub(super) fn index(mut windows: Windows<'_>) -> Result<Vec<Member>> {
    let size_bytes = windows.size_bytes();
    let (footer_start, bytes) = read_footer(&mut windows)?;
    let damaged = |Wrong(problem)| Wrong(format!("it is no Parquet file, or damaged: {problem}"));
    let footer = Footer::parse(&bytes).map_err(damaged)?;
    let features = footer.described.map_or(Ok(BTreeMap::new()), |(_, json)| features(json))?;
    let columns = Columns::choose(&footer.leaves, &features)?;
    let chunks = || footer.groups.iter().flat_map(|group| columns.both().map(|at| group.chunks[at]));
    let stored_bytes = chunks().fold(0, |sum: u64, chunk| sum.saturating_add(chunk.stored_bytes));
    let rows = footer.groups.iter().fold(0, |sum: u64, group| sum.saturating_add(group.rows));
    if chunks().any(|chunk| chunk.start.checked_add(chunk.stored_bytes).is_none_or(|end| end > footer_start))
        || stored_bytes > size_bytes
        || rows > size_bytes
    {
        return wrong("it is damaged or cut: its columns claim more bytes than it has");
    }
    let budget_bytes = size_bytes.saturating_mul(BYTES_PER_BYTE_MAX).saturating_add(BYTES_IN_ANY_CASE);
    let mut pages = Pages { windows, budget_bytes, stored: Vec::new(), unpacked: Vec::new() };
    let mut members = Vec::new();
    let (mut places, mut labels): (Vec<Place>, Vec<i64>) = (Vec::new(), Vec::new());
    for group in &footer.groups {
        places.clear();
        labels.clear();
        let [picture, label] = columns.both().map(|at| (&group.chunks[at], &footer.leaves[at]));
        let (first_row, rows) = (members.len() as u64, group.rows as usize);
        let mut read_pictures =
            |pages: &mut Pages<'_>| pages.read("picture", picture, first_row, rows, &mut places, Place::decode);
        let width_bytes = if label.1.kind == INT32 { 4 } else { 8 };
        let mut read_labels = |pages: &mut Pages<'_>| {
            pages.read("label", label, first_row, rows, &mut labels, |encoding, section, count, into| match encoding {
                values::PLAIN => values::plain_numbers(section.bytes, width_bytes, count, into).map(|()| true),
                values::DELTA_BINARY_PACKED => values::delta_numbers(section.bytes, count, into).map(|()| true),
                _ => Ok(false),
            })
        };
        // In the order of the file, which is the one to read it in.
        if picture.0.start < label.0.start {
            read_pictures(&mut pages)?;
            read_labels(&mut pages)?;
        } else {
            read_labels(&mut pages)?;
            read_pictures(&mut pages)?;
        }
        for (Place { start, stored_bytes, packing }, label) in places.iter().zip(&labels) {
            let row = members.len();
            let Ok(class) = u32::try_from(*label) else {
                return wrong(format!("row {row}: its label {label} is negative or too large; -1 stands for none"));
            };
            let (start, stored_bytes, packing) = (*start, *stored_bytes, *packing);
            members.push(Member { name: format!("{row:07}"), start, stored_bytes, packing, class: Some(class) });
        }
    }
    if let (Some((at, json)), Some(feature)) = (footer.described, columns.named) {
        let (size_bytes, crc32) = (names(json, feature)?.len() as u32, crc32fast::hash(json));
        members.push(Member {
            name: CLASSES_FILE.into(),
            start: footer_start + at as u64,
            stored_bytes: json.len() as u64,
            packing: Packing::Parquet(Packed::Names { feature, size_bytes, crc32 }),
            class: None,
        });
    }
    Ok(members)
}

/// Where the footer begins, and all of it.
fn read_footer(windows: &mut Windows<'_>) -> Result<(u64, Vec<u8>)> {
    let Some(end) = windows.size_bytes().checked_sub(8).filter(|end| *end >= MAGIC.len() as u64) else {
        return wrong("it is no Parquet file: it is too short");
    };
    // What is read for the last bytes holds most footers, too.
    windows.from(end, true)?;
    let mut tail = [0; 8];
    read_into(windows, end, &mut tail)?;
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
    windows.from(start, true)?;
    read_into(windows, start, &mut footer)?;
    Ok((start, footer))
}

/// A column as `datasets` describes it, of which the class names count.
type Features = BTreeMap<String, serde_json::Value>;

fn features(json: &[u8]) -> Result<Features, Wrong> {
    #[derive(Deserialize)]
    struct Described {
        info: Option<Info>,
    }
    #[derive(Deserialize)]
    struct Info {
        features: Option<Features>,
    }
    let described: Described = serde_json::from_slice(json)
        .map_err(|e| Wrong(format!("it is damaged: its description under the key `huggingface` is wrong: {e}")))?;
    Ok(described.info.and_then(|info| info.features).unwrap_or_default())
}

/// The class names of a feature, if it has them.
fn class_names(feature: &serde_json::Value) -> Option<Vec<&str>> {
    let names = feature.get("names").filter(|_| feature.get("_type").is_some_and(|kind| kind == "ClassLabel"))?;
    names.as_array()?.iter().map(|name| name.as_str()).collect()
}

/// A line for each class.
fn names(json: &[u8], feature: u32) -> Result<String, Wrong> {
    let features = features(json)?;
    let names = features.values().nth(feature as usize).and_then(class_names).unwrap_or_default();
    match names.iter().position(|name| name.trim().is_empty() || name.contains(['\n', '\r'])) {
        Some(class) => Err(Wrong(format!("the name of its class {class} is blank, or of several lines"))),
        None => Ok(names.iter().flat_map(|name| [name, "\n"]).collect()),
    }
}

/// Which columns are read.
struct Columns {
    picture: usize,
    label: usize,
    /// The place among the features of the label, if that names classes.
    named: Option<u32>,
}

impl Columns {
    fn both(&self) -> [usize; 2] {
        [self.picture, self.label]
    }

    fn choose(leaves: &[Leaf<'_>], features: &Features) -> Result<Columns, Wrong> {
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
            // 11 to 18 are whole numbers of some width; 10 is the same for newer writers.
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
                Ok(Columns { picture: *picture, label: *label, named })
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
                Err(Wrong(format!(
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

/// A part of the file, and how a picture comes out of it.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u64,
    stored_bytes: u64,
    packing: Packing,
}

/// Values in a page, unpacked.
struct Section<'a> {
    bytes: &'a [u8],
    /// What of the page comes before them.
    at: u32,
    /// The page in the file.
    start: u64,
    stored_bytes: u64,
    page_bytes: u32,
    codec: Option<Codec>,
}

impl Place {
    fn decode(encoding: u64, section: &Section<'_>, count: usize, into: &mut Vec<Place>) -> Result<bool, Wrong> {
        if encoding != values::PLAIN {
            return Ok(false);
        }
        let (mut at, bytes) = (0usize, section.bytes);
        for _ in 0..count {
            let length = bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|size| u32::from_le_bytes(*size));
            let end = length.and_then(|length| (at + 4).checked_add(length as usize));
            let (Some(size_bytes), Some(end)) = (length, end.filter(|end| *end <= bytes.len())) else {
                return Err(Wrong("a page in it ends within a picture".into()));
            };
            let begin = section.at + at as u32 + 4;
            into.push(match section.codec {
                None => Place {
                    start: section.start + u64::from(begin),
                    stored_bytes: size_bytes.into(),
                    packing: Packing::Plain,
                },
                Some(codec) => {
                    let packed = Packed::Value { codec, page_bytes: section.page_bytes, at: begin, size_bytes };
                    let Section { start, stored_bytes, .. } = *section;
                    Place { start, stored_bytes, packing: Packing::Parquet(packed) }
                }
            });
            at = end;
        }
        Ok(true)
    }
}

/// The pages of a file.
struct Pages<'a> {
    windows: Windows<'a>,
    /// What they may still unpack to.
    budget_bytes: u64,
    stored: Vec<u8>,
    unpacked: Vec<u8>,
}

impl Pages<'_> {
    /// One value of a column for each of `rows` rows. `decode` reads so many values of an encoding, or says that it does
    /// not know it.
    fn read<T: Copy>(
        &mut self,
        what: &str,
        (chunk, leaf): (&Chunk, &Leaf<'_>),
        first_row: u64,
        rows: usize,
        into: &mut Vec<T>,
        decode: impl Fn(u64, &Section<'_>, usize, &mut Vec<T>) -> Result<bool, Wrong>,
    ) -> Result<()> {
        let codec = match chunk.codec {
            0 => None,
            codec => match CODECS.iter().find(|(known, _)| *known as u64 == codec) {
                Some((codec, _)) => Some(*codec),
                None => {
                    let name = ["", "", "", "LZO", "Brotli", "LZ4 of Hadoop"].get(codec as usize).copied();
                    return wrong(format!(
                        "it is compressed by {}; only Snappy, gzip, Zstandard and LZ4 (raw) are understood",
                        name.filter(|name| !name.is_empty()).unwrap_or("something new")
                    ));
                }
            },
        };
        if chunk.is_elsewhere {
            return wrong("its columns are in other files");
        }
        let damaged =
            |Wrong(problem): Wrong| Wrong(format!("it is damaged: {what}s of the rows from {first_row} on: {problem}"));
        let mut dictionary: Vec<T> = Vec::new();
        let (mut at, end) = (chunk.start, chunk.start + chunk.stored_bytes);
        while into.len() < rows {
            if at >= end {
                let problem = format!("there are {} for {rows} rows", into.len());
                return Err(damaged(Wrong(problem)).into());
            }
            let header = self.header(at, end).map_err(|problem| match problem {
                Problem::Wrong(problem) => damaged(Wrong(problem)).into(),
                read => read,
            })?;
            at += header.bytes as u64;
            let count = header.values as usize;
            if header.kind == footer::INDEX {
                at = at.saturating_add(header.stored_bytes.into());
                continue;
            }
            let room =
                if header.kind == footer::DICTIONARY { self.windows.size_bytes() as usize } else { rows - into.len() };
            if count > room {
                return Err(damaged(Wrong("a page holds more values than there are rows".into())).into());
            }
            let levels_bytes = self.page(&header, at, end, codec, leaf.present).map_err(|problem| match problem {
                Problem::Wrong(problem) => damaged(Wrong(problem)).into(),
                read => read,
            })?;
            let is_v2 = header.kind == footer::DATA_V2;
            let codec = codec.filter(|_| !(is_v2 && header.is_plain));
            // Levels of the second version stand before what is compressed.
            let before = if is_v2 { levels_bytes } else { 0 };
            let page: &[u8] = if codec.is_some() { &self.unpacked } else { &self.stored[before..] };
            let section_at = if is_v2 { 0 } else { levels_bytes };
            if header.kind != footer::DICTIONARY && leaf.present > 0 {
                let levels = if is_v2 { self.stored.get(..before) } else { page.get(4..section_at) };
                let (mut row, mut is_missing) = (first_row + into.len() as u64, false);
                let width = leaf.present.ilog2() + 1;
                let check = |level: u32| {
                    is_missing = level != leaf.present;
                    row += 1;
                    if is_missing { Err(Wrong(String::new())) } else { Ok(()) }
                };
                let checked = values::runs(levels.unwrap_or_default(), width, count, check);
                if is_missing {
                    return wrong(format!("row {} has no {what}: it is null", row - 1));
                }
                checked.map_err(damaged)?;
            }
            let section = Section {
                bytes: page.get(section_at..).unwrap_or_default(),
                at: section_at as u32,
                start: at + before as u64,
                stored_bytes: u64::from(header.stored_bytes) - before as u64,
                page_bytes: page.len() as u32,
                codec,
            };
            let is_known = match (header.kind, header.encoding) {
                (footer::DICTIONARY, values::PLAIN | values::PLAIN_DICTIONARY) => {
                    dictionary.clear();
                    decode(values::PLAIN, &section, count, &mut dictionary)
                }
                (footer::DICTIONARY, _) => Ok(false),
                (_, values::PLAIN_DICTIONARY | values::RLE_DICTIONARY) => {
                    let (width, indices) = section.bytes.split_first().unwrap_or((&0, &[]));
                    let push = |number: u32| match dictionary.get(number as usize) {
                        Some(value) => {
                            into.push(*value);
                            Ok(())
                        }
                        None => Err(Wrong(format!("its dictionary has no value {number}"))),
                    };
                    values::runs(indices, u32::from(*width), count, push).map(|()| true)
                }
                (_, encoding) => decode(encoding, &section, count, into),
            };
            if !is_known.map_err(damaged)? {
                return wrong(format!(
                    "its {what}s are written in the encoding {}; only PLAIN and dictionaries are understood, and for \
                     labels DELTA_BINARY_PACKED",
                    header.encoding
                ));
            }
            at += u64::from(header.stored_bytes);
        }
        Ok(())
    }

    /// The header of the page at `at`.
    fn header(&mut self, at: u64, end: u64) -> Result<PageHeader> {
        // It says nowhere how large it is, and may hold a whole picture as the least one of its page.
        let mut most_bytes = 4 << 10;
        loop {
            self.stored.resize((end - at).min(most_bytes) as usize, 0);
            read_into(&mut self.windows, at, &mut self.stored)?;
            match PageHeader::parse(&self.stored) {
                Ok(header) => return Ok(header),
                Err(problem) if end - at <= most_bytes || most_bytes >= HEADER_BYTES_MAX => return Err(problem.into()),
                Err(_) => most_bytes *= 32,
            }
        }
    }

    /// The page at `at` into `stored`, and unpacked into `unpacked` if it is compressed; gives how many bytes its levels
    /// take.
    fn page(&mut self, header: &PageHeader, at: u64, end: u64, codec: Option<Codec>, present: u32) -> Result<usize> {
        let PageHeader { kind, unpacked_bytes, stored_bytes, levels_bytes, repetition_bytes, .. } = *header;
        let is_v2 = match kind {
            footer::DATA | footer::DICTIONARY => false,
            footer::DATA_V2 => true,
            _ => return wrong("a page is of no kind that there is"),
        };
        if at.checked_add(stored_bytes.into()).is_none_or(|page_end| page_end > end)
            || stored_bytes.max(unpacked_bytes) > PAGE_BYTES_MAX
        {
            return wrong(format!("a page claims {stored_bytes} bytes, unpacked {unpacked_bytes}"));
        }
        self.stored.resize(stored_bytes as usize, 0);
        read_into(&mut self.windows, at, &mut self.stored)?;
        if header.crc32.is_some_and(|sum| sum != crc32fast::hash(&self.stored)) {
            return wrong("the checksum of a page is another one");
        }
        let before = if is_v2 { levels_bytes } else { 0 };
        if repetition_bytes > 0 || before > stored_bytes.min(unpacked_bytes) {
            return wrong("the levels of a page are larger than it is, or of lists");
        }
        let page = match codec.filter(|_| !(is_v2 && header.is_plain)) {
            None => &self.stored,
            Some(codec) => {
                let Some(left) = self.budget_bytes.checked_sub(unpacked_bytes.into()) else {
                    return wrong("it unpacks to far more than it can hold");
                };
                self.budget_bytes = left;
                let packed = &self.stored[before as usize..];
                unpack_page(codec, packed, unpacked_bytes - before, &mut self.unpacked).map_err(Wrong)?;
                &self.unpacked
            }
        };
        if is_v2 || kind == footer::DICTIONARY || present == 0 {
            return Ok(before as usize);
        }
        if header.level_encoding != values::RLE {
            return wrong("levels are written in an encoding of old");
        }
        let levels_bytes = page.first_chunk().map(|size| u32::from_le_bytes(*size) as usize);
        match levels_bytes.and_then(|bytes| bytes.checked_add(4)).filter(|end| *end <= page.len()) {
            Some(end) => Ok(end),
            None => wrong("the levels of a page are larger than it is"),
        }
    }
}

fn read_into(windows: &mut Windows<'_>, at: u64, into: &mut [u8]) -> Result<()> {
    let read = windows.seek(SeekFrom::Start(at)).and_then(|_| windows.read_exact(into));
    read.map_err(|e| Problem::of(e, |_| format!("it is cut: it ends before byte {}", at + into.len() as u64)))
}

/// A page as it was before it was compressed.
fn unpack_page(codec: Codec, packed: &[u8], page_bytes: u32, into: &mut Vec<u8>) -> Result<(), String> {
    let most_bytes = (packed.len() as u64).saturating_mul(BYTES_PER_BYTE_MAX).max(BYTES_IN_ANY_CASE);
    let is_possible = match codec {
        Codec::Snappy => snap::raw::decompress_len(packed).is_ok_and(|bytes| bytes == page_bytes as usize),
        Codec::Zstd => zstd::zstd_safe::get_frame_content_size(packed)
            .is_ok_and(|bytes| bytes.is_none_or(|bytes| bytes == u64::from(page_bytes))),
        Codec::Gzip | Codec::Lz4 => true,
    };
    if !is_possible && page_bytes > 0 || u64::from(page_bytes) > most_bytes {
        return Err(format!("a page of {} bytes cannot be {page_bytes} bytes unpacked", packed.len()));
    }
    into.resize(page_bytes as usize, 0);
    let is_whole = match codec {
        // Some write nothing for nothing.
        _ if page_bytes == 0 => true,
        Codec::Snappy => snap::raw::Decoder::new().decompress(packed, into).is_ok_and(|bytes| bytes == into.len()),
        Codec::Zstd => zstd::bulk::decompress_to_buffer(packed, &mut into[..]).is_ok_and(|bytes| bytes == into.len()),
        Codec::Lz4 => lz4_flex::block::decompress_into(packed, into).is_ok_and(|bytes| bytes == into.len()),
        Codec::Gzip => {
            // 16 more than the size of the window says that it is gzip.
            let mut inflate = Inflate::new(true, 15 + 16);
            let status = inflate.decompress(packed, into, InflateFlush::Finish);
            status == Ok(Status::StreamEnd) && inflate.total_out() == u64::from(page_bytes)
        }
    };
    if is_whole { Ok(()) } else { Err("a page does not unpack to what its header says".into()) }
}

/// From what was read to the file.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn unpack(packed: Packed, bytes: &mut Vec<u8>) -> Result<(), String> {
    match packed {
        Packed::Names { feature, crc32, .. } => {
            if crc32fast::hash(bytes) != crc32 {
                return Err("the names of the classes are not the ones that were indexed: it is damaged".into());
            }
            *bytes = names(bytes, feature).map_err(|Wrong(problem)| problem)?.into_bytes();
            Ok(())
        }
        Packed::Value { codec, page_bytes, .. } => {
            let mut page = Vec::new();
            unpack_page(codec, bytes, page_bytes, &mut page)?;
            pick(packed, &page, bytes)
        }
    }
}

/// A value out of its page.
fn pick(packed: Packed, page: &[u8], into: &mut Vec<u8>) -> Result<(), String> {
    let Packed::Value { at, size_bytes, .. } = packed else { return Err("it is no value of a page".into()) };
    let value = (at as usize).checked_add(size_bytes as usize).and_then(|end| page.get(at as usize..end));
    into.clear();
    into.extend_from_slice(value.ok_or("its page is too short")?);
    Ok(())
}

/// A larger page is kept by no thread.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// A page that is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted<'a> {
    /// The file, as its source names it.
    pub location: &'a str,
    /// Its version; without one nothing is kept.
    pub version: &'a str,
    /// Where the page begins.
    pub start: u64,
}

/// A page, unpacked, and whose it is.
#[derive(Default)]
struct Kept {
    location: String,
    version: String,
    start: u64,
    page: Vec<u8>,
}

thread_local! {
    /// The page that a thread unpacked last: rows in their order unpack each page once.
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// A value out of its page, which is the one this thread unpacked last, or `read` and unpacked now. `is_kept` says that
/// the next value may be of the same page.
///
/// # Errors
/// As `read`; or, inside, what is wrong with the page.
pub(super) fn read_value(
    packed: Packed,
    wanted: &Wanted<'_>,
    into: &mut Vec<u8>,
    read: impl FnOnce(&mut Vec<u8>) -> Result<(), ReadError>,
) -> Result<Result<(), String>, ReadError> {
    let Packed::Value { codec, page_bytes, .. } = packed else { return Ok(Err("it is no value of a page".into())) };
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
