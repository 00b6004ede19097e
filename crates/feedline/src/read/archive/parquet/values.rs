//! Decodes the values of a Parquet page. Owns the encodings of pictures and labels: plain, dictionary, and for labels
//! delta; and the definition levels that say which values are present.

use crate::read::archive::member::FormatError;
use crate::read::archive::parquet::footer::{varint, zigzag};

type Result<T> = std::result::Result<T, FormatError>;

/// Encodings, as `parquet.thrift` numbers them.
pub(super) const PLAIN: u64 = 0;
pub(super) const PLAIN_DICTIONARY: u64 = 2;
pub(super) const RLE: u64 = 3;
pub(super) const DELTA_BINARY_PACKED: u64 = 5;
pub(super) const RLE_DICTIONARY: u64 = 8;

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(FormatError(what.into()))
}

/// Number `at` of a bit-packed list with `width` bits each, lowest bit first.
fn packed(bytes: &[u8], width: u32, at: usize) -> Option<u64> {
    let first_bit = at.checked_mul(width as usize)?;
    let bytes = bytes.get(first_bit / 8..(first_bit + width as usize).div_ceil(8))?;
    let mut value = 0u128;
    for (place, byte) in bytes.iter().enumerate() {
        value |= u128::from(*byte) << (8 * place);
    }
    Some((value >> (first_bit % 8)) as u64 & (u64::MAX >> (64 - width.clamp(1, 64))))
}

/// `count` integers of `width` bits in the RLE and bit-packing hybrid: runs of one value, or groups of eight values.
pub(super) fn runs(bytes: &[u8], width: u32, mut count: usize, mut each: impl FnMut(u32) -> Result<()>) -> Result<()> {
    if width > 32 {
        return wrong("a page in it has numbers of more than 32 bits");
    }
    let mut at = 0;
    while count > 0 {
        if width == 0 {
            count -= 1;
            each(0)?;
            continue;
        }
        let header = varint(bytes, &mut at)?;
        let length = usize::try_from(header >> 1).unwrap_or(usize::MAX);
        let rest = &bytes[at..];
        if header & 1 == 0 {
            let Some(value) = rest.get(..width.div_ceil(8) as usize) else { return wrong("a page in it is cut") };
            let value = value.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            let Some(value) = u32::try_from(value).ok().filter(|_| length > 0) else {
                return wrong("a run of values in it is of no length or of no value");
            };
            at += width.div_ceil(8) as usize;
            for _ in 0..length.min(count) {
                each(value)?;
            }
            count -= length.min(count);
        } else {
            if length == 0 {
                return wrong("a run of values in it is of no length");
            }
            let here = length.saturating_mul(8).min(count);
            for number in 0..here {
                let Some(value) = packed(rest, width, number) else { return wrong("a page in it is cut") };
                each(value as u32)?;
            }
            count -= here;
            at = at.saturating_add(length.saturating_mul(width as usize)).min(bytes.len());
        }
    }
    Ok(())
}

/// Integers of `width_bytes` each.
pub(super) fn plain_numbers(bytes: &[u8], width_bytes: usize, count: usize, into: &mut Vec<i64>) -> Result<()> {
    let Some(bytes) = count.checked_mul(width_bytes).and_then(|end| bytes.get(..end)) else {
        return wrong("a page of labels in it is cut");
    };
    match width_bytes {
        4 => into.extend(bytes.as_chunks().0.iter().map(|word| i64::from(i32::from_le_bytes(*word)))),
        _ => into.extend(bytes.as_chunks().0.iter().map(|word| i64::from_le_bytes(*word))),
    }
    Ok(())
}

/// Delta-encoded integers: blocks with a minimum delta, and mini-blocks with a bit width each.
pub(super) fn delta_numbers(bytes: &[u8], count: usize, into: &mut Vec<i64>) -> Result<()> {
    let mut at = 0;
    let block = varint(bytes, &mut at)?;
    let minis = varint(bytes, &mut at)?;
    varint(bytes, &mut at)?; // how many there are, which the page has said
    let mut value = zigzag(varint(bytes, &mut at)?);
    let per_mini = block.checked_div(minis).unwrap_or_default();
    if minis > 1 << 16 || per_mini == 0 || per_mini > 1 << 16 || per_mini % 8 != 0 {
        return wrong("a page of labels in it has blocks of a size that cannot be");
    }
    let mut left = count;
    if left > 0 {
        into.push(value);
        left -= 1;
    }
    while left > 0 {
        let least = zigzag(varint(bytes, &mut at)?);
        let Some(widths) = bytes.get(at..at + minis as usize) else { return wrong("a page of labels in it is cut") };
        at += widths.len();
        for width in widths {
            if left == 0 {
                break;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            for number in 0..left.min(per_mini as usize) {
                let more = match u32::from(*width) {
                    0 => Some(0),
                    width @ 1..=64 => packed(rest, width, number),
                    _ => None,
                };
                let Some(more) = more else { return wrong("a page of labels in it is cut") };
                value = value.wrapping_add(least).wrapping_add(more as i64);
                into.push(value);
            }
            left -= left.min(per_mini as usize);
            at += per_mini as usize / 8 * usize::from(*width);
        }
    }
    Ok(())
}
