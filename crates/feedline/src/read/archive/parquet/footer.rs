//! Parses the footer and the page headers of a Parquet file: structs of Thrift's compact protocol. Owns their layout,
//! that of `parquet.thrift`, as far as pictures and labels need it; reads no data.
//!
//! For any input, memory and time stay within a few times its number of bytes.

use crate::read::archive::member::FormatError;

type Result<T> = std::result::Result<T, FormatError>;

/// Maximum nesting depth.
const DEPTH_MAX: usize = 64;

/// Kinds of values in the compact protocol.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

fn wrong<T>(what: &str) -> Result<T> {
    Err(FormatError(what.into()))
}

/// A variable-length integer, seven bits per byte; moves `at` behind it.
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let Some(byte) = bytes.get(*at) else { return wrong("it ends within a number") };
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    wrong("a number in it has more than 64 bits")
}

pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// A reader of the compact protocol.
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Thrift<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let Some(taken) = end.and_then(|end| self.bytes.get(self.at..end)) else { return wrong("it ends too early") };
        self.at += taken.len();
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn int(&mut self, kind: u8) -> Result<i64> {
        match kind {
            BYTE => Ok(i64::from(self.byte()? as i8)),
            I16..=I64 => Ok(zigzag(varint(self.bytes, &mut self.at)?)),
            _ => wrong("something in it is no number where one belongs"),
        }
    }

    /// A number that must not be negative.
    fn count(&mut self, kind: u8) -> Result<u64> {
        self.int(kind)?.try_into().or_else(|_| wrong("a number in it is negative that counts something"))
    }

    fn small_count(&mut self, kind: u8) -> Result<u32> {
        self.count(kind)?.try_into().or_else(|_| wrong("a number in it is too large"))
    }

    fn binary(&mut self, kind: u8) -> Result<&'a [u8]> {
        if kind != BINARY {
            return wrong("something in it is no text where one belongs");
        }
        let count = varint(self.bytes, &mut self.at)?;
        self.take(count)
    }

    fn text(&mut self, kind: u8) -> Result<&'a str> {
        std::str::from_utf8(self.binary(kind)?).or_else(|_| wrong("a text in it is not UTF-8"))
    }

    /// Reads the fields of a struct: `field` gets number and kind of each, and reads it or returns false to skip it.
    fn fields(&mut self, kind: u8, mut field: impl FnMut(&mut Self, i64, u8) -> Result<bool>) -> Result<()> {
        if kind != STRUCT {
            return wrong("something in it is no struct where one belongs");
        }
        let mut number = 0;
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Ok(());
            }
            let kind = byte & 0xf;
            number = if byte >> 4 == 0 { self.int(I16)? } else { number + i64::from(byte >> 4) };
            if !(0..=i64::from(i16::MAX)).contains(&number) {
                return wrong("a field in it has no number");
            }
            if !field(self, number, kind)? {
                self.skip(kind, 0)?;
            }
        }
    }

    /// Reads the items of a list: `item` gets the kind of each and reads it.
    fn items(&mut self, kind: u8, mut item: impl FnMut(&mut Self, u8) -> Result<()>) -> Result<()> {
        if kind != LIST && kind != SET {
            return wrong("something in it is no list where one belongs");
        }
        let byte = self.byte()?;
        let count = if byte >> 4 == 15 { varint(self.bytes, &mut self.at)? } else { u64::from(byte >> 4) };
        for _ in 0..count {
            let before = self.at;
            item(self, byte & 0xf)?;
            if self.at == before {
                return wrong("a list in it has items of no size");
            }
        }
        Ok(())
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return wrong("it is nested too deeply");
        }
        // In a list or a map, a boolean takes a byte, too.
        let skip_item = |thrift: &mut Self, kind: u8| match kind {
            TRUE | FALSE => thrift.byte().map(|_| ()),
            kind => thrift.skip(kind, depth + 1),
        };
        match kind {
            TRUE | FALSE => Ok(()),
            BYTE..=I64 => self.int(kind).map(|_| ()),
            DOUBLE => self.take(8).map(|_| ()),
            BINARY => self.binary(kind).map(|_| ()),
            LIST | SET => self.items(kind, skip_item),
            MAP => {
                let count = varint(self.bytes, &mut self.at)?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                for _ in 0..count {
                    skip_item(self, kinds >> 4)?;
                    skip_item(self, kinds & 0xf)?;
                }
                Ok(())
            }
            STRUCT => self.skip_fields(depth),
            _ => wrong("a field in it is of no kind that there is"),
        }
    }

    fn skip_fields(&mut self, depth: usize) -> Result<()> {
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Ok(());
            }
            if byte >> 4 == 0 {
                self.int(I16)?;
            }
            self.skip(byte & 0xf, depth + 1)?;
        }
    }
}

/// Physical types of columns, as `parquet.thrift` numbers them.
pub(super) const INT32: i64 = 1;
pub(super) const INT64: i64 = 2;
pub(super) const BYTE_ARRAY: i64 = 6;

/// A column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf<'a> {
    pub name: &'a str,
    /// The group that it is in, if that group is at the top level.
    pub group: Option<&'a str>,
    /// Number of groups around it.
    pub depth: usize,
    pub kind: i64,
    /// The converted type (older writers) and the logical type (newer ones), if its bytes are not the plain physical
    /// type.
    pub converted: Option<i64>,
    pub logical: Option<i64>,
    /// The definition level of a value that is present: the number of optional ones among itself and its groups.
    pub present: u32,
    /// True if a row may have several values.
    pub is_repeated: bool,
}

/// The values of one column in one group of rows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Chunk {
    pub codec: u64,
    pub start: u64,
    pub stored_bytes: u64,
    /// True if it is in another file.
    pub is_elsewhere: bool,
}

/// Rows that are stored together, column by column.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub rows: u64,
    pub chunks: Vec<Chunk>,
}

/// The parsed footer.
#[derive(Debug, Default)]
pub(super) struct Footer<'a> {
    pub leaves: Vec<Leaf<'a>>,
    pub groups: Vec<Group>,
    /// The column description of `datasets` as JSON, and its position in the footer.
    pub described: Option<(usize, &'a [u8])>,
}

/// A column, or a group with this many members.
#[derive(Default)]
struct Element<'a> {
    name: &'a str,
    kind: Option<i64>,
    repetition: i64,
    children: u64,
    converted: Option<i64>,
    logical: Option<i64>,
}

/// Values of `repetition`.
const OPTIONAL: i64 = 1;
const REPEATED: i64 = 2;

/// The key under which `datasets` stores its description.
const DESCRIBED: &str = "huggingface";

impl<'a> Footer<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Footer<'a>> {
        let (mut footer, mut elements) = (Footer::default(), Vec::new());
        let mut thrift = Thrift { bytes, at: 0 };
        thrift.fields(STRUCT, |thrift, number, kind| {
            match number {
                2 => thrift.items(kind, |thrift, kind| thrift.element(kind).map(|element| elements.push(element)))?,
                4 => thrift.items(kind, |thrift, kind| thrift.group(kind).map(|group| footer.groups.push(group)))?,
                5 => thrift.items(kind, |thrift, kind| {
                    let (mut key, mut value) = ("", None);
                    thrift.fields(kind, |thrift, number, kind| {
                        match number {
                            1 => key = thrift.text(kind)?,
                            2 => value = thrift.binary(kind).map(|text| Some((thrift.at - text.len(), text)))?,
                            _ => return Ok(false),
                        }
                        Ok(true)
                    })?;
                    if key == DESCRIBED {
                        footer.described = value;
                    }
                    Ok(())
                })?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        footer.leaves = leaves(elements)?;
        match footer.groups.iter().find(|group| group.chunks.len() != footer.leaves.len()) {
            Some(_) => wrong("a group of rows has not as many columns as the file"),
            None => Ok(footer),
        }
    }
}

impl<'a> Thrift<'a> {
    fn element(&mut self, kind: u8) -> Result<Element<'a>> {
        let mut element = Element::default();
        self.fields(kind, |thrift, number, kind| {
            match number {
                1 => element.kind = Some(thrift.int(kind)?),
                3 => element.repetition = thrift.int(kind)?,
                4 => element.name = thrift.text(kind)?,
                5 => element.children = thrift.count(kind)?,
                6 => element.converted = Some(thrift.int(kind)?),
                // A union: the number of the field that is present is the type.
                10 => thrift.fields(kind, |_, number, _| {
                    element.logical = Some(number);
                    Ok(false)
                })?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(element)
    }

    fn group(&mut self, kind: u8) -> Result<Group> {
        let mut group = Group::default();
        self.fields(kind, |thrift, number, kind| {
            match number {
                1 => thrift.items(kind, |thrift, kind| thrift.chunk(kind).map(|chunk| group.chunks.push(chunk)))?,
                3 => group.rows = thrift.count(kind)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(group)
    }

    fn chunk(&mut self, kind: u8) -> Result<Chunk> {
        let (mut chunk, mut dictionary) = (Chunk::default(), None);
        self.fields(kind, |thrift, number, kind| {
            match number {
                1 => chunk.is_elsewhere = !thrift.binary(kind)?.is_empty(),
                3 => thrift.fields(kind, |thrift, number, kind| {
                    match number {
                        4 => chunk.codec = thrift.count(kind)?,
                        7 => chunk.stored_bytes = thrift.count(kind)?,
                        9 => chunk.start = thrift.count(kind)?,
                        11 => dictionary = Some(thrift.count(kind)?),
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        // Some writers note a dictionary at 0 if there is none.
        if let Some(start) = dictionary.filter(|start| *start > 0) {
            chunk.start = chunk.start.min(start);
        }
        Ok(chunk)
    }
}

/// The columns of a schema that is stored as a list, each group before its members.
fn leaves(elements: Vec<Element<'_>>) -> Result<Vec<Leaf<'_>>> {
    /// A group whose members follow.
    struct Open<'a> {
        name: &'a str,
        members_left: u64,
        present: u32,
        is_repeated: bool,
    }
    let mut elements = elements.into_iter();
    let Some(root) = elements.next() else { return wrong("it has no schema") };
    let mut open = vec![Open { name: "", members_left: root.children, present: 0, is_repeated: false }];
    let mut leaves = Vec::new();
    loop {
        while open.last().is_some_and(|group| group.members_left == 0) {
            open.pop();
        }
        let depth = open.len().saturating_sub(1);
        let Some(parent) = open.last_mut() else { break };
        let Some(element) = elements.next() else { return wrong("its schema is cut") };
        parent.members_left -= 1;
        let present = parent.present + u32::from(element.repetition == OPTIONAL || element.repetition == REPEATED);
        let is_repeated = parent.is_repeated || element.repetition == REPEATED;
        let name = element.name;
        match element.kind {
            Some(kind) if element.children == 0 => {
                let group = (depth == 1).then_some(parent.name);
                let Element { converted, logical, .. } = element;
                leaves.push(Leaf { name, group, depth, kind, converted, logical, present, is_repeated });
            }
            _ if depth == DEPTH_MAX => return wrong("its schema is nested too deeply"),
            _ => open.push(Open { name, members_left: element.children, present, is_repeated }),
        }
    }
    match elements.next() {
        Some(_) => wrong("its schema has columns that belong nowhere"),
        None => Ok(leaves),
    }
}

/// Kinds of pages, as `parquet.thrift` numbers them.
pub(super) const DATA: u64 = 0;
pub(super) const INDEX: u64 = 1;
pub(super) const DICTIONARY: u64 = 2;
pub(super) const DATA_V2: u64 = 3;

/// The header of a page.
#[derive(Debug, Default)]
pub(super) struct PageHeader {
    /// Size of this header.
    pub bytes: usize,
    pub kind: u64,
    pub unpacked_bytes: u32,
    pub stored_bytes: u32,
    pub crc32: Option<u32>,
    pub values: u32,
    pub encoding: u64,
    /// The encoding of levels, in pages of version 1.
    pub level_encoding: u64,
    /// Number of bytes that levels take, in pages of version 2.
    pub levels_bytes: u32,
    pub repetition_bytes: u32,
    /// In pages of version 2: the values are not compressed, whatever the column says.
    pub is_plain: bool,
}

impl PageHeader {
    pub(super) fn parse(bytes: &[u8]) -> Result<PageHeader> {
        let mut header = PageHeader { kind: u64::MAX, encoding: u64::MAX, ..PageHeader::default() };
        let mut thrift = Thrift { bytes, at: 0 };
        thrift.fields(STRUCT, |thrift, number, kind| {
            match number {
                1 => header.kind = thrift.count(kind)?,
                2 => header.unpacked_bytes = thrift.small_count(kind)?,
                3 => header.stored_bytes = thrift.small_count(kind)?,
                4 => header.crc32 = Some(thrift.int(kind)? as u32),
                5 | 7 => thrift.fields(kind, |thrift, number, kind| {
                    match number {
                        1 => header.values = thrift.small_count(kind)?,
                        2 => header.encoding = thrift.count(kind)?,
                        3 if kind > FALSE => header.level_encoding = thrift.count(kind)?,
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?,
                8 => thrift.fields(kind, |thrift, number, kind| {
                    match number {
                        1 => header.values = thrift.small_count(kind)?,
                        4 => header.encoding = thrift.count(kind)?,
                        5 => header.levels_bytes = thrift.small_count(kind)?,
                        6 => header.repetition_bytes = thrift.small_count(kind)?,
                        7 => header.is_plain = kind == FALSE,
                        _ => return Ok(false),
                    }
                    Ok(number != 7)
                })?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        header.bytes = thrift.at;
        Ok(header)
    }
}
