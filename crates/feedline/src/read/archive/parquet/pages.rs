//! Reads the pages of a column in a Parquet file in order: checks and unpacks them. Owns which pages are refused;
//! [`super`] uses their values.

use super::{footer, values};
use crate::read::archive::member::{ArchiveReader, FormatError, Problem};
use crate::read::archive::parquet::footer::{Chunk, Leaf, PageHeader};
use crate::read::archive::parquet_value::{CODECS, Codec, PAGE_BYTES_MAX};
use std::io::{Read, Seek, SeekFrom};
use zlib_rs::{Inflate, InflateFlush, Status};

type Result<T, E = Problem> = std::result::Result<T, E>;

/// Maximum size of a page header.
const HEADER_BYTES_MAX: u64 = 4 << 20;

/// Limits on unpacking: a file may expand to this many times its size and a constant, and so may a page; more is
/// hostile.
pub(super) const BYTES_PER_BYTE_MAX: u64 = 1032;
pub(super) const BYTES_IN_ANY_CASE: u64 = 16 << 20;

pub(super) fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(FormatError(what.into()).into())
}

/// The values of a page, unpacked.
pub(super) struct Section<'a> {
    pub bytes: &'a [u8],
    /// Number of bytes of the page before them.
    pub at: u32,
    /// The position of the page in the file.
    pub start: u64,
    pub stored_bytes: u64,
    pub page_bytes: u32,
    pub codec: Option<Codec>,
}

/// The pages of a file.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    reader: ArchiveReader<'a>,
    /// Bytes that the rest may still unpack to.
    budget_bytes: u64,
    stored: Vec<u8>,
    unpacked: Vec<u8>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(reader: ArchiveReader<'a>, budget_bytes: u64) -> Pages<'a> {
        Pages { reader, budget_bytes, stored: Vec::new(), unpacked: Vec::new() }
    }

    /// Reads one value of a column for each of `rows` rows. `decode` reads the given number of values in an encoding,
    /// or returns false if it does not support it.
    pub(super) fn read<T: Copy>(
        &mut self,
        what: &str,
        (chunk, leaf): (&Chunk, &Leaf<'_>),
        first_row: u64,
        rows: usize,
        into: &mut Vec<T>,
        decode: impl Fn(u64, &Section<'_>, usize, &mut Vec<T>) -> Result<bool, FormatError>,
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
        let damaged = |FormatError(problem): FormatError| {
            FormatError(format!("it is damaged: {what}s of the rows from {first_row} on: {problem}"))
        };
        let mut dictionary: Vec<T> = Vec::new();
        let (mut at, end) = (chunk.start, chunk.start + chunk.stored_bytes);
        while into.len() < rows {
            if at >= end {
                let problem = format!("there are {} for {rows} rows", into.len());
                return Err(damaged(FormatError(problem)).into());
            }
            let header = self.header(at, end).map_err(|problem| match problem {
                Problem::Format(problem) => damaged(FormatError(problem)).into(),
                read => read,
            })?;
            at += header.bytes as u64;
            let count = header.values as usize;
            if header.kind == footer::INDEX {
                at = at.saturating_add(header.stored_bytes.into());
                continue;
            }
            let room =
                if header.kind == footer::DICTIONARY { self.reader.size_bytes() as usize } else { rows - into.len() };
            if count > room {
                return Err(damaged(FormatError("a page holds more values than there are rows".into())).into());
            }
            let levels_bytes = self.page(&header, at, end, codec, leaf.present).map_err(|problem| match problem {
                Problem::Format(problem) => damaged(FormatError(problem)).into(),
                read => read,
            })?;
            let is_v2 = header.kind == footer::DATA_V2;
            let codec = codec.filter(|_| !(is_v2 && header.is_plain));
            // Levels of version 2 are in front of the compressed part.
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
                    if is_missing { Err(FormatError(String::new())) } else { Ok(()) }
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
                        None => Err(FormatError(format!("its dictionary has no value {number}"))),
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
        // Its size is written nowhere, and its statistics may hold a whole picture as the minimum of its page.
        let mut most_bytes = 4 << 10;
        loop {
            self.stored.resize((end - at).min(most_bytes) as usize, 0);
            read_into(&mut self.reader, at, &mut self.stored)?;
            match PageHeader::parse(&self.stored) {
                Ok(header) => return Ok(header),
                Err(problem) if end - at <= most_bytes || most_bytes >= HEADER_BYTES_MAX => return Err(problem.into()),
                Err(_) => most_bytes *= 32,
            }
        }
    }

    /// Reads the page at `at` into `stored`, and unpacks it into `unpacked` if it is compressed; returns the number of
    /// bytes that its levels take.
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
        read_into(&mut self.reader, at, &mut self.stored)?;
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
                unpack_page(codec, packed, unpacked_bytes - before, &mut self.unpacked).map_err(FormatError)?;
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

pub(super) fn read_into(reader: &mut ArchiveReader<'_>, at: u64, into: &mut [u8]) -> Result<()> {
    let read = reader.seek(SeekFrom::Start(at)).and_then(|_| reader.read_exact(into));
    read.map_err(|e| Problem::of(e, |_| format!("it is cut: it ends before byte {}", at + into.len() as u64)))
}

/// Unpacks a page to its original bytes.
pub(super) fn unpack_page(codec: Codec, packed: &[u8], page_bytes: u32, into: &mut Vec<u8>) -> Result<(), String> {
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
        // Some writers store no bytes for an empty page.
        _ if page_bytes == 0 => true,
        Codec::Snappy => snap::raw::Decoder::new().decompress(packed, into).is_ok_and(|bytes| bytes == into.len()),
        Codec::Zstd => zstd::bulk::decompress_to_buffer(packed, &mut into[..]).is_ok_and(|bytes| bytes == into.len()),
        Codec::Lz4 => lz4_flex::block::decompress_into(packed, into).is_ok_and(|bytes| bytes == into.len()),
        Codec::Gzip => {
            // Window bits plus 16 select the gzip format.
            let mut inflate = Inflate::new(true, 15 + 16);
            let status = inflate.decompress(packed, into, InflateFlush::Finish);
            status == Ok(Status::StreamEnd) && inflate.total_out() == u64::from(page_bytes)
        }
    };
    if is_whole { Ok(()) } else { Err("a page does not unpack to what its header says".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_never_larger_than_its_compression_allows() {
        let content = vec![7; 5000];
        let snappy = snap::raw::Encoder::new().compress_vec(&content).unwrap();
        let zstd = zstd::bulk::compress(&content, 1).unwrap();
        let lz4 = lz4_flex::block::compress(&content);
        for (codec, packed) in [(Codec::Snappy, snappy), (Codec::Zstd, zstd), (Codec::Lz4, lz4)] {
            let mut page = vec![1; 7];
            unpack_page(codec, &packed, 5000, &mut page).unwrap();
            assert_eq!(page, content);
            for claim in [0u32, 1, 4999, 5001, 1 << 25, u32::MAX] {
                let mut page = Vec::new();
                let is_refused = unpack_page(codec, &packed, claim, &mut page).is_err();
                assert!(is_refused || claim == 0, "{codec:?} {claim}");
                assert!(page.capacity() <= BYTES_IN_ANY_CASE as usize, "{codec:?} {claim}");
            }
        }
    }
}
