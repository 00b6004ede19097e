//! The fast decoder for ordinary PNG: inflates all data at once, then filters row by row while it is in the cache.
//! Owns the walk over the chunks, the checks of all checksums and the row filters (PNG specification, third edition,
//! sections 5 and 9), for pictures that are not interlaced, of whole bytes per sample, without a palette.
//!
//! It never reports an error: for anything unusual or suspicious it returns `None`, and the careful decoder in png.rs
//! decides. A picture that passes every check here equals that of the careful decoder.

use crate::decode::fault::grown;
use std::cell::RefCell;
use zlib_rs::{Inflate, InflateFlush, Status};

/// Larger pictures are left to the careful decoder, row by row, because the thread keeps this memory.
const FILTERED_BYTES_MAX: usize = 32 << 20;

/// Deflate's largest expansion of one byte; a header that claims more is wrong.
const BYTES_PER_BYTE_MAX: usize = 1032;

/// Chunks that change no pixel, as long as there is little in them.
const HARMLESS: [&[u8; 4]; 12] =
    [b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"tIME", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"bKGD", b"sBIT"];

/// For larger chunks the careful decoder's limits apply.
const HARMLESS_BYTES_MAX: usize = 64 << 10;

/// The kinds of pixels that this decoder knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pixels {
    Grey8,
    GreyAlpha8,
    Rgb8,
    Rgba8,
    /// Two bytes, the high one first.
    Grey16,
}

impl Pixels {
    fn size_bytes(self) -> usize {
        match self {
            Pixels::Grey8 => 1,
            Pixels::GreyAlpha8 | Pixels::Grey16 => 2,
            Pixels::Rgb8 => 3,
            Pixels::Rgba8 => 4,
        }
    }
}

/// The header of an ordinary picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) width_px: u32,
    pub(super) height_px: u32,
    pub(super) pixels: Pixels,
}

/// The header, if the picture is of a kind known here.
pub(super) fn header(bytes: &[u8]) -> Option<Header> {
    let (b"IHDR", header, _) = chunk(bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?)? else { return None };
    let [w0, w1, w2, w3, h0, h1, h2, h3, depth, color, 0, 0, 0] = *header else { return None };
    let (width_px, height_px) = (u32::from_be_bytes([w0, w1, w2, w3]), u32::from_be_bytes([h0, h1, h2, h3]));
    let pixels = match (depth, color) {
        (8, 0) => Pixels::Grey8,
        (8, 4) => Pixels::GreyAlpha8,
        (8, 2) => Pixels::Rgb8,
        (8, 6) => Pixels::Rgba8,
        (16, 0) => Pixels::Grey16,
        _ => return None,
    };
    let is_sane = |side_px: u32| (1..=i32::MAX as u32).contains(&side_px);
    (is_sane(width_px) && is_sane(height_px)).then_some(Header { width_px, height_px, pixels })
}

/// EXIF data, wherever they stand: the chunks are walked over, and no checksum is looked at.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(8..)?;
    loop {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (data, next) = after.get(4..)?.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        match &after[..4] {
            b"eXIf" => return Some(data),
            b"IEND" => return None,
            _ => rest = next.get(4..)?,
        }
    }
}

/// The first chunk of `bytes`: its type, its data and what follows; `None` if it is cut or its checksum is wrong.
fn chunk(bytes: &[u8]) -> Option<(&[u8; 4], &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    let (kind, after) = rest.split_first_chunk::<4>()?;
    let (data, after) = after.split_at_checked(length)?;
    let (checksum, after) = after.split_first_chunk::<4>()?;
    (crc32fast::hash(&rest[..4 + length]) == u32::from_be_bytes(*checksum)).then_some((kind, data, after))
}

/// Working memory of a thread, kept between pictures.
struct PngScratch {
    inflate: Inflate,
    /// Compressed data joined from several chunks.
    joined: Vec<u8>,
    /// A row of zeros, then the rows of the picture, each preceded by the number of its filter.
    filtered: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<PngScratch> =
        RefCell::new(PngScratch { inflate: Inflate::new(true, 15), joined: Vec::new(), filtered: Vec::new() });
}

/// Calls `each` with every row's pixels from top to bottom, as [`Pixels`] describes them. `header` is that of `bytes`.
///
/// `None` if anything is unusual or suspicious; `each` may already have been called for some rows.
pub(super) fn rows(bytes: &[u8], header: Header, each: impl FnMut(&[u8])) -> Option<()> {
    SCRATCH.with_borrow_mut(|scratch| {
        let compressed = compressed(bytes, &mut scratch.joined)?;
        let row_bytes = (header.width_px as usize).checked_mul(header.pixels.size_bytes())?.checked_add(1)?;
        let expect_bytes = row_bytes.checked_mul(header.height_px as usize)?;
        if expect_bytes > FILTERED_BYTES_MAX.min(compressed.len().saturating_mul(BYTES_PER_BYTE_MAX)) {
            return None;
        }
        let filtered = &mut scratch.filtered;
        grown(filtered, row_bytes + expect_bytes, 0, "the rows of a PNG").ok()?;
        filtered[..row_bytes].fill(0);
        let inflate = &mut scratch.inflate;
        inflate.reset(true);
        // Verifies the checksum of the pixels too.
        let status = inflate.decompress(compressed, &mut filtered[row_bytes..], InflateFlush::Finish);
        let is_whole = status == Ok(Status::StreamEnd)
            && inflate.total_in() == compressed.len() as u64
            && inflate.total_out() == expect_bytes as u64;
        if !is_whole {
            return None;
        }
        match header.pixels.size_bytes() {
            1 => unfilter::<1>(filtered, row_bytes, each),
            2 => unfilter::<2>(filtered, row_bytes, each),
            3 => unfilter::<3>(filtered, row_bytes, each),
            _ => unfilter::<4>(filtered, row_bytes, each),
        }
    })
}

/// The compressed pixels as one slice: of `bytes` if they are one chunk, else of `joined`.
fn compressed<'a>(bytes: &'a [u8], joined: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    // Starts after the signature and the header, which was checked.
    let mut rest = bytes.get(8 + 25..)?;
    let mut pieces: u32 = 0;
    let mut only: &[u8] = &[];
    let mut is_over = false;
    let mut harmless_bytes = 0;
    loop {
        let (kind, data, after) = chunk(rest)?;
        rest = after;
        match kind {
            b"IDAT" if !is_over => {
                match pieces {
                    0 => only = data,
                    1 => {
                        joined.clear();
                        joined.try_reserve(bytes.len()).ok()?;
                        joined.extend_from_slice(only);
                        joined.extend_from_slice(data);
                    }
                    _ => joined.extend_from_slice(data),
                }
                pieces += 1;
            }
            b"IEND" if data.is_empty() => break,
            kind if HARMLESS.contains(&kind) => {
                is_over = pieces > 0;
                harmless_bytes += data.len();
                if harmless_bytes > HARMLESS_BYTES_MAX {
                    return None;
                }
            }
            _ => return None,
        }
    }
    Some(if pieces > 1 { joined } else { only })
}

/// Undoes the filters row by row, for pixels of `N` bytes. `filtered` begins with a row of zeros.
fn unfilter<const N: usize>(filtered: &mut [u8], row_bytes: usize, mut each: impl FnMut(&[u8])) -> Option<()> {
    let mut rows = filtered.chunks_exact_mut(row_bytes);
    let mut above = &mut rows.next()?[1..];
    for row in rows {
        let (filter, row) = row.split_first_mut()?;
        match filter {
            0 => {}
            1 => add_left::<N>(row),
            2 => row.iter_mut().zip(&*above).for_each(|(byte, up)| *byte = byte.wrapping_add(*up)),
            3 => add_average::<N>(row, above),
            4 => add_paeth::<N>(row, above),
            _ => return None,
        }
        each(row);
        above = row;
    }
    Some(())
}

/// Filter 1: each byte is stored minus that of the pixel to the left.
fn add_left<const N: usize>(row: &mut [u8]) {
    let mut left = [0; N];
    for pixel in row.as_chunks_mut::<N>().0 {
        for (byte, left) in pixel.iter_mut().zip(left) {
            *byte = byte.wrapping_add(left);
        }
        left = *pixel;
    }
}

/// Filter 3: each byte is stored minus the mean of left and above, rounded down.
fn add_average<const N: usize>(row: &mut [u8], above: &[u8]) {
    let mut left = [0; N];
    for (pixel, up) in row.as_chunks_mut::<N>().0.iter_mut().zip(above.as_chunks::<N>().0) {
        for ((byte, left), up) in pixel.iter_mut().zip(left).zip(up) {
            *byte = byte.wrapping_add(((u16::from(left) + u16::from(*up)) / 2) as u8);
        }
        left = *pixel;
    }
}

/// Filter 4: each byte is stored minus that of left, above and above left which is nearest to `left + above - above left`;
/// ties go to the first of them.
fn add_paeth<const N: usize>(row: &mut [u8], above: &[u8]) {
    // In i32: the compiler would pack narrower numbers into vectors, which is slower by a third.
    let (mut left, mut corner) = ([0i32; N], [0i32; N]);
    for (pixel, up) in row.as_chunks_mut::<N>().0.iter_mut().zip(above.as_chunks::<N>().0) {
        for at in 0..N {
            let up = i32::from(up[at]);
            // The choice depends on how the corner compares with the other two, `low` and `high`. `low` is nearest
            // if `high <= 3 corner - left - above`, else `high` if that term is at most `low`, else the corner. This
            // makes a shorter dependency chain between pixels than three distances; the test tries every case.
            let (low, high) = (left[at].min(up), left[at].max(up));
            let pivot = 3 * corner[at] - up - left[at];
            let inner = if high <= pivot { low } else { corner[at] };
            let nearest = if pivot <= low { high } else { inner };
            pixel[at] = pixel[at].wrapping_add(nearest as u8);
            left[at] = i32::from(pixel[at]);
            corner[at] = up;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The predictor as the specification defines it.
    fn paeth(left: u8, up: u8, corner: u8) -> u8 {
        let estimate = i32::from(left) + i32::from(up) - i32::from(corner);
        let [a, b, c] = [left, up, corner].map(|value| (estimate - i32::from(value)).abs());
        if a <= b && a <= c {
            left
        } else if b <= c {
            up
        } else {
            corner
        }
    }

    #[test]
    fn the_paeth_filter_is_the_specifications_for_every_neighbourhood() {
        for left in 0..=255u8 {
            for up in 0..=255u8 {
                for corner in 0..=255u8 {
                    // Two pixels: the first makes `left`, above it stands `corner`.
                    let first = left.wrapping_sub(paeth(0, corner, 0));
                    let mut row = [first, 7];
                    add_paeth::<1>(&mut row, &[corner, up]);
                    assert_eq!(row, [left, paeth(left, up, corner).wrapping_add(7)], "{left} {up} {corner}");
                }
            }
        }
    }
}
