//! BMP to RGB: 1, 4 and 8 bits with a palette, RLE4 and RLE8, 16, 24 and 32 bits, with masks of whole bytes, rows from below
//! or from above. A fourth byte is no colour.

use crate::decode::fault::{Fault, no_memory};
use crate::decode::formats::samples::{palette, u16_at, u32_at};
use crate::decode::image::{Limits, RgbImage, allocate, check_size};

/// The header.
struct Bmp<'a> {
    width_px: u32,
    height_px: u32,
    /// The first row of the file is the highest.
    is_top_down: bool,
    bits: u32,
    pixels: Pixels,
    /// 3 or 4 bytes for each colour.
    palette: &'a [u8],
    palette_entry_bytes: usize,
    /// Where the pixels begin.
    start: usize,
}

/// How pixels are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pixels {
    Indices,
    RunLengths,
    /// Five bits each.
    Five,
    /// Five, six and five bits.
    FiveSix,
    /// The place of red, green and blue in the bytes of a pixel.
    Bytes([usize; 3]),
}

fn read(bytes: &[u8]) -> Result<Bmp<'_>, Fault> {
    let cut = || Fault::Bad(format!("truncated BMP: the header ends early ({} bytes)", bytes.len()));
    let short = |at: usize| u16_at(bytes, at).ok_or_else(cut);
    let long = |at: usize| u32_at(bytes, at).ok_or_else(cut);
    let header_bytes = long(14)? as usize;
    let (width, height, bits, compression, mut colours, palette_entry_bytes) = match header_bytes {
        12 => (short(18)? as i32, short(20)? as i32, short(24)?, 0, 0, 3),
        40 | 52 | 56 | 64 | 108 | 124 => {
            (long(18)? as i32, long(22)? as i32, short(28)?, long(30)?, long(46)? as usize, 4)
        }
        other => return Err(format!("damaged BMP: its header has {other} bytes").into()),
    };
    if width < 0 || height == i32::MIN {
        return Err(format!("damaged BMP: the header says {width} x {height} px").into());
    }
    let masks = match (compression, bits) {
        (3, 16 | 24 | 32) => Some([long(54)?, long(58)?, long(62)?]),
        _ => None,
    };
    let pixels = match (compression, bits, masks) {
        (0, 1 | 4 | 8, _) => Pixels::Indices,
        (1, 8, _) | (2, 4, _) => Pixels::RunLengths,
        (0, 16, _) | (3, 16, Some([0x7C00, 0x3E0, 0x1F])) => Pixels::Five,
        (3, 16, Some([0xF800, 0x7E0, 0x1F])) => Pixels::FiveSix,
        (0, 24 | 32, _) | (3, 32, Some([0, 0, 0])) => Pixels::Bytes([2, 1, 0]),
        (3, 24 | 32, Some(masks)) => {
            let place = |mask: u32| (0..bits as usize / 8).find(|at| mask == 0xFF << (8 * at));
            match masks.map(place) {
                [Some(red), Some(green), Some(blue)] => Pixels::Bytes([red, green, blue]),
                _ => return Err(format!("unsupported kind of BMP: {bits} bits with the masks {masks:x?}").into()),
            }
        }
        _ => return Err(format!("unsupported kind of BMP: {bits} bits with compression {compression}").into()),
    };
    let (mut start, after_header) = (long(10)? as usize, 14 + header_bytes);
    let mut palette: &[u8] = &[];
    if matches!(pixels, Pixels::Indices | Pixels::RunLengths) {
        if colours == 0 {
            colours = 1 << bits;
        }
        if colours > 65536 {
            return Err(format!("damaged BMP: a palette of {colours} colours").into());
        }
        let end = (after_header + palette_entry_bytes * colours).min(bytes.len());
        palette = bytes.get(after_header..end).ok_or_else(cut)?;
        if start == after_header || start == 0 {
            start = after_header + palette_entry_bytes * colours;
        }
    } else if start == 0 {
        start = after_header + if header_bytes == 40 && masks.is_some() { 12 } else { 0 };
    }
    Ok(Bmp {
        width_px: width as u32,
        height_px: height.unsigned_abs(),
        is_top_down: height < 0,
        bits,
        pixels,
        palette,
        palette_entry_bytes,
        start,
    })
}

pub(super) fn dimensions(bytes: &[u8]) -> Result<(u32, u32), Fault> {
    let bmp = read(bytes)?;
    Ok((bmp.width_px, bmp.height_px))
}

pub(super) fn decode_rgb(
    bytes: &[u8],
    limits: &Limits,
    into: &mut RgbImage,
    reserve: &mut dyn FnMut(u64),
) -> Result<(), Fault> {
    let bmp = read(bytes)?;
    check_size(bmp.width_px, bmp.height_px, limits)?;
    let (wide, high) = (bmp.width_px as usize, bmp.height_px as usize);
    let mut unpacked = Vec::new();
    let (data, stride, bits) = if bmp.pixels == Pixels::RunLengths {
        reserve(((wide * high) as u64).saturating_mul(4));
        runs(bytes, &bmp, &mut unpacked)?;
        (&unpacked[..], wide, 8)
    } else {
        (bytes.get(bmp.start..).unwrap_or_default(), (wide * bmp.bits as usize).div_ceil(32) * 4, bmp.bits as usize)
    };
    let row_bytes = (wide * bits).div_ceil(8);
    // The last row may lack what fills it up to four bytes.
    let needed = (high - 1).saturating_mul(stride).saturating_add(row_bytes);
    if data.len() < needed {
        return Err(format!("truncated BMP: {} of {needed} bytes of pixels", data.len()).into());
    }
    allocate(into, bmp.width_px, bmp.height_px, 3)?;
    let colours = palette(bmp.palette, bmp.palette_entry_bytes, |entry| [entry[2], entry[1], entry[0]]);
    for (row, out) in into.pixels.chunks_exact_mut(3 * wide).enumerate() {
        let row = if bmp.is_top_down { row } else { high - 1 - row };
        let row = &data[row * stride..row * stride + row_bytes];
        let out = out.as_chunks_mut::<3>().0.iter_mut();
        match bmp.pixels {
            Pixels::Indices | Pixels::RunLengths => {
                let mask = (0xFFu16 >> (8 - bits)) as u8;
                for (x, out) in out.enumerate() {
                    *out = colours[usize::from(row[x * bits / 8] >> (8 - bits - x * bits % 8) & mask)];
                }
            }
            Pixels::Five | Pixels::FiveSix => {
                let (green_bits, red_at) = if bmp.pixels == Pixels::Five { (31, 10) } else { (63, 11) };
                for (out, pixel) in out.zip(row.as_chunks::<2>().0) {
                    let pixel = u32::from(u16::from_le_bytes(*pixel));
                    let level = |value: u32, most: u32| ((value & most) * 255 / most) as u8;
                    *out = [level(pixel >> red_at, 31), level(pixel >> 5, green_bits), level(pixel, 31)];
                }
            }
            Pixels::Bytes(places) if bits == 24 => {
                let bytes = row.as_chunks::<3>().0;
                out.zip(bytes).for_each(|(out, pixel)| *out = places.map(|at| pixel[at]));
            }
            Pixels::Bytes(places) => {
                let bytes = row.as_chunks::<4>().0;
                out.zip(bytes).for_each(|(out, pixel)| *out = places.map(|at| pixel[at]));
            }
        }
    }
    Ok(())
}

/// Decodes run lengths to a byte for each pixel, in the order of the file. Runs that are longer than their row are cut.
fn runs(bytes: &[u8], bmp: &Bmp<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let (wide, all) = (bmp.width_px as usize, bmp.width_px as usize * bmp.height_px as usize);
    let mut at = bmp.start;
    let mut next = |count: usize| {
        let taken = bytes.get(at..at + count);
        at += count;
        taken.map(|taken| (taken, at))
    };
    let truncated =
        |done: usize| Fault::Bad(format!("truncated BMP: the data ends early, after {done} of {all} pixels"));
    let mut x = 0;
    while out.len() < all {
        let Some(([count, value], _)) = next(2) else { return Err(truncated(out.len())) };
        let (count, value) = (usize::from(*count), *value);
        if count > 0 {
            let count = count.min(wide.saturating_sub(x)).min(all - out.len());
            let start = out.len();
            more(out, count, value)?;
            if bmp.bits == 4 {
                let halves = [value >> 4, value & 15];
                out[start..].iter_mut().enumerate().for_each(|(at, pixel)| *pixel = halves[at % 2]);
            }
            x += count;
            continue;
        }
        match value {
            0 => {
                let rest = out.len().next_multiple_of(wide) - out.len();
                more(out, rest, 0)?;
                x = 0;
            }
            1 => return Err(truncated(out.len())),
            2 => {
                let Some(([right, up], _)) = next(2) else { return Err(truncated(out.len())) };
                let skipped = usize::from(*right) + usize::from(*up) * wide;
                let skipped = skipped.min(all - out.len());
                more(out, skipped, 0)?;
                x = out.len() % wide;
            }
            count => {
                let count = usize::from(count);
                let used = count.min(all - out.len());
                let packed = if bmp.bits == 4 { used.div_ceil(2) } else { used };
                let Some((literal, end)) = next(packed) else { return Err(truncated(out.len())) };
                for at in 0..used {
                    let value = match bmp.bits {
                        4 => literal[at / 2] >> (4 - 4 * (at % 2)) & 15,
                        _ => literal[at],
                    };
                    more(out, 1, value)?;
                }
                x += count;
                // Literal pixels end on an even byte of the file.
                if end % 2 == 1 {
                    next(1);
                }
            }
        }
    }
    Ok(())
}

/// Appends `value` so many times. The memory grows with the pixels, since a header alone must take none.
fn more(out: &mut Vec<u8>, count: usize, value: u8) -> Result<(), Fault> {
    out.try_reserve(count).map_err(|_| no_memory("the pixels of a BMP", (out.len() + count) as u64))?;
    out.resize(out.len() + count, value);
    Ok(())
}
