//! The first directory of a TIFF structure, which EXIF data are too: tags and their numbers. Owns the byte orders and the two
//! widths (classic and BigTIFF); knows no meaning of a tag. Allocates nothing.

/// A directory whose entries lie in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory<'a> {
    bytes: &'a [u8],
    entries: &'a [u8],
    pub(super) is_big_endian: bool,
    /// BigTIFF, with offsets of 64 bits.
    is_wide: bool,
}

/// The numbers of a tag.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    /// The numbers as they are stored.
    pub(super) data: &'a [u8],
    size_bytes: usize,
    is_big_endian: bool,
}

impl<'a> Directory<'a> {
    /// The first directory; `None` if there is none, or not all of it.
    pub(super) fn first(bytes: &'a [u8]) -> Option<Directory<'a>> {
        let (is_big_endian, is_wide) = match bytes.get(..4)? {
            b"II*\0" => (false, false),
            b"MM\0*" => (true, false),
            b"II+\0" => (false, true),
            b"MM\0+" => (true, true),
            _ => return None,
        };
        let place = if is_wide { bytes.get(8..16) } else { bytes.get(4..8) };
        let start = usize::try_from(number(place?, is_big_endian)).ok()?;
        let (head_bytes, entry_bytes) = if is_wide { (8, 20) } else { (2, 12) };
        let rest = bytes.get(start..)?;
        let count = usize::try_from(number(rest.get(..head_bytes)?, is_big_endian)).ok()?;
        let entries = rest[head_bytes..].get(..count.checked_mul(entry_bytes)?)?;
        Some(Directory { bytes, entries, is_big_endian, is_wide })
    }

    /// The numbers of a tag, the last one if it stands there twice; `None` if it is not there, or its numbers are not all in
    /// the file, or no whole ones.
    pub(super) fn find(&self, tag: u16) -> Option<Values<'a>> {
        let entry_bytes = if self.is_wide { 20 } else { 12 };
        let is_it = |entry: &&[u8]| number(&entry[..2], self.is_big_endian) == u64::from(tag);
        let entry = self.entries.chunks_exact(entry_bytes).rfind(is_it)?;
        let size_bytes = match number(&entry[2..4], self.is_big_endian) {
            1 | 7 => 1,
            3 => 2,
            4 => 4,
            16 => 8,
            _ => return None,
        };
        let (count, place) = entry[4..].split_at(if self.is_wide { 8 } else { 4 });
        let count = usize::try_from(number(count, self.is_big_endian)).ok()?;
        let len = count.checked_mul(size_bytes)?;
        let data = match place.get(..len) {
            Some(inside) => inside,
            None => {
                let start = usize::try_from(number(place, self.is_big_endian)).ok()?;
                self.bytes.get(start..start.checked_add(len)?)?
            }
        };
        Some(Values { data, size_bytes, is_big_endian: self.is_big_endian })
    }

    /// The one number of a tag.
    pub(super) fn one(&self, tag: u16) -> Option<u64> {
        self.find(tag).filter(|values| values.len() == 1).and_then(|values| values.get(0))
    }
}

impl Values<'_> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.data.len() / self.size_bytes
    }

    pub(super) fn get(&self, at: usize) -> Option<u64> {
        let start = at.checked_mul(self.size_bytes)?;
        Some(number(self.data.get(start..start.checked_add(self.size_bytes)?)?, self.is_big_endian))
    }
}

/// An unsigned number of up to eight bytes.
fn number(bytes: &[u8], is_big_endian: bool) -> u64 {
    let push = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    if is_big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) }
}
