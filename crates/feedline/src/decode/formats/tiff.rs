//! The first picture of a TIFF or BigTIFF to RGB: bits, grey, palette, RGB, CMYK and YCbCr of JPEG; in strips or tiles,
//! interleaved or plane by plane; uncompressed or by PackBits, LZW, Deflate or JPEG. Of 16 bits the high byte is taken. The
//! tag "orientation" is a part of the format, and is always applied, as by Pillow.
//!
//! Owns the layout and the choice of samples; the codecs stand in `tiff_codecs.rs`.

use super::tiff_codecs::{Codec, jpeg_of};
use crate::decode::fault::{Fault, grown};
use crate::decode::formats::samples::{check_memory, to_rgb};
use crate::decode::ifd::{Directory, Values};
use crate::decode::image::{Limits, RgbImage, allocate, check_size};
use crate::decode::jpeg;
use crate::decode::orientation::{self, Orientation};
use std::ops::Range;

/// Pixels of all tiles together that are accepted of a small picture: those of large ones may be four times the picture's.
const TILES_PX: u64 = 1 << 24;

/// The colours of a pixel.
#[derive(Clone, Copy)]
enum Colours<'a> {
    Grey {
        is_white_zero: bool,
    },
    /// Grey that was multiplied by its opacity, then that.
    GreyTimesAlpha,
    Palette(Values<'a>),
    Rgb,
    /// RGB that was multiplied by its opacity, then that.
    RgbTimesAlpha,
    Cmyk,
    /// In JPEG data only.
    YCbCr,
}

impl Colours<'_> {
    /// Samples of a pixel that the colour depends on: the first ones.
    fn used(self) -> usize {
        match self {
            Colours::Grey { .. } | Colours::Palette(_) => 1,
            Colours::GreyTimesAlpha => 2,
            Colours::Rgb | Colours::YCbCr => 3,
            Colours::RgbTimesAlpha | Colours::Cmyk => 4,
        }
    }
}

struct Tiff<'a> {
    bytes: &'a [u8],
    directory: Directory<'a>,
    width_px: u32,
    height_px: u32,
    orientation: Orientation,
    bits: usize,
    /// Samples of a pixel in the file.
    samples: usize,
    is_planar: bool,
    colours: Colours<'a>,
    codec: Codec,
    /// The first pixel of a byte is in its low bits.
    is_reversed: bool,
    /// Columns and rows of a strip or a tile.
    chunk_px: (u32, u32),
    offsets: Values<'a>,
    /// Without them a chunk reaches to the end of the file.
    lengths: Option<Values<'a>>,
}

fn unsupported(what: impl std::fmt::Display) -> Fault {
    Fault::Bad(format!("unsupported kind of TIFF: {what}"))
}

fn damaged(what: impl std::fmt::Display) -> Fault {
    Fault::Bad(format!("damaged TIFF: {what}"))
}

fn read(bytes: &[u8]) -> Result<Tiff<'_>, Fault> {
    let directory = Directory::first(bytes).ok_or("truncated TIFF: its first directory is not all there")?;
    let side = |tag: u16| directory.one(tag).and_then(|side| u32::try_from(side).ok());
    let (Some(width_px), Some(height_px)) = (side(256), side(257)) else {
        return Err(damaged("it does not say how large its picture is"));
    };
    let number = |tag: u16, default: u64| directory.find(tag).and_then(|values| values.get(0)).unwrap_or(default);
    let samples = number(277, 1) as usize;
    if !(1..=6).contains(&samples) {
        return Err(unsupported(format!("{samples} samples per pixel")));
    }
    let same = |tag: u16, default: u64| -> Result<u64, Fault> {
        let Some(values) = directory.find(tag) else { return Ok(default) };
        let first = values.get(0).unwrap_or(default);
        let differs = (0..values.len().min(samples)).any(|at| values.get(at) != Some(first));
        if differs { Err(unsupported(format!("its samples differ in tag {tag}"))) } else { Ok(first) }
    };
    let (bits, format) = (same(258, 1)?, same(339, 1)?);
    if format != 1 || !matches!(bits, 1 | 2 | 4 | 8 | 16) {
        let kind = match format {
            1 => "",
            2 => "signed ",
            3 => "floating-point ",
            _ => "odd ",
        };
        return Err(unsupported(format!("{kind}samples of {bits} bits")));
    }
    let codec = Codec::of(number(259, 1), number(317, 1)).map_err(unsupported)?;
    let alpha = directory.find(338).and_then(|extra| extra.get(0));
    let colours = match (number(262, 0), samples, alpha) {
        (0 | 1, 2.., Some(1)) => Colours::GreyTimesAlpha,
        (photometric @ (0 | 1), ..) => Colours::Grey { is_white_zero: photometric == 0 },
        (2, 4.., Some(1)) => Colours::RgbTimesAlpha,
        (2, 3.., _) => Colours::Rgb,
        (3, ..) => match directory.find(320).filter(|colours| colours.len() >= 3 << bits.min(8)) {
            Some(colours) if bits <= 8 => Colours::Palette(colours),
            _ => return Err(damaged("its palette is not all there")),
        },
        (5, 4.., _) => Colours::Cmyk,
        (6, 3, _) if codec == Codec::Jpeg => Colours::YCbCr,
        (6, ..) => return Err(unsupported("YCbCr without JPEG")),
        (other, ..) => return Err(unsupported(format!("colours of kind {other} with {samples} samples per pixel"))),
    };
    let (bits, is_planar, is_reversed) = (bits as usize, number(284, 1) == 2 && samples > 1, number(266, 1) == 2);
    if bits < 8 && samples > 1 {
        return Err(unsupported(format!("{samples} samples of {bits} bits per pixel")));
    }
    if is_reversed && (codec != Codec::None || bits > 8) {
        return Err(unsupported("reversed bits in compressed data or in 16-bit samples"));
    }
    let one_or_three = matches!((colours, samples), (Colours::Grey { .. }, 1) | (Colours::Rgb | Colours::YCbCr, 3));
    if codec == Codec::Jpeg && (bits != 8 || is_planar || !one_or_three) {
        return Err(unsupported("JPEG of anything but 8-bit grey, RGB or YCbCr, interleaved"));
    }
    let is_tiled = directory.find(324).is_some();
    let (chunk_px, places, lengths) = match is_tiled {
        true => ((side(322).unwrap_or(0), side(323).unwrap_or(0)), 324, 325),
        false => ((width_px, (number(278, u64::MAX)).min(u64::from(height_px)) as u32), 273, 279),
    };
    let offsets = directory.find(places).ok_or_else(|| damaged("it does not say where its pixels are"))?;
    let lengths = directory.find(lengths);
    if lengths.is_none() && codec != Codec::None {
        return Err(damaged("it does not say how long its compressed pixels are"));
    }
    let orientation = directory.one(orientation::TAG).map_or(Orientation::UPRIGHT, Orientation::of_tag);
    Ok(Tiff {
        bytes,
        directory,
        width_px,
        height_px,
        orientation,
        bits,
        samples,
        is_planar,
        colours,
        codec,
        is_reversed,
        chunk_px,
        offsets,
        lengths,
    })
}

pub(super) fn dimensions(bytes: &[u8]) -> Result<(u32, u32), Fault> {
    let tiff = read(bytes)?;
    Ok(tiff.orientation.upright_px((tiff.width_px, tiff.height_px)))
}

pub(super) fn decode_rgb(
    bytes: &[u8],
    limits: &Limits,
    into: &mut RgbImage,
    reserve: &mut dyn FnMut(u64),
) -> Result<(), Fault> {
    let tiff = read(bytes)?;
    check_size(tiff.width_px, tiff.height_px, limits)?;
    let (chunk_wide, chunk_high) = tiff.chunk_px;
    check_size(chunk_wide, chunk_high, limits).map_err(|problem| damaged(format!("a part of it: {problem}")))?;
    let (across, down) = (tiff.width_px.div_ceil(chunk_wide), tiff.height_px.div_ceil(chunk_high));
    let in_plane = u64::from(across) * u64::from(down);
    let planes = if tiff.is_planar { tiff.colours.used() } else { 1 };
    let pixels = u64::from(tiff.width_px) * u64::from(tiff.height_px);
    let chunk_pixels = u64::from(chunk_wide) * u64::from(chunk_high);
    if in_plane * planes as u64 > tiff.offsets.len() as u64 {
        let found = tiff.offsets.len();
        return Err(damaged(format!("it has {found} of the {in_plane} parts that its size asks for")));
    }
    if in_plane.saturating_mul(chunk_pixels) > TILES_PX.max(pixels.saturating_mul(4)) {
        return Err(damaged(format!(
            "{in_plane} tiles of {chunk_wide} x {chunk_high} px for {} x {} px",
            tiff.width_px, tiff.height_px
        )));
    }
    let in_chunk = if tiff.is_planar { 1 } else { tiff.samples };
    let row_bytes = (chunk_wide as usize * in_chunk * tiff.bits).div_ceil(8);
    let chunk_bytes = row_bytes.saturating_mul(chunk_high as usize);
    let used = tiff.colours.used();
    let picture_bytes = pixels.saturating_mul(used.max(3) as u64);
    let extra_bytes = match tiff.codec {
        Codec::None => 0,
        // The general decoder may need several times the pixels.
        Codec::Jpeg => chunk_pixels.saturating_mul(16),
        _ => chunk_bytes as u64,
    };
    let turned_bytes = tiff.orientation.extra_bytes(pixels.saturating_mul(3));
    reserve(picture_bytes.saturating_add(extra_bytes.max(turned_bytes)));
    check_memory(extra_bytes, "the parts of a TIFF")?;
    let data_bytes: u64 = (0..in_plane as usize).map(|at| tiff.chunk(at).map_or(0, |chunk| chunk.len() as u64)).sum();
    if data_bytes.saturating_mul(tiff.codec.bytes_per_byte_max())
        < pixels.saturating_mul((in_chunk * tiff.bits) as u64) / 8
    {
        return Err(format!("truncated TIFF: {data_bytes} bytes of pixels for {pixels} pixels").into());
    }
    allocate(into, tiff.width_px, tiff.height_px, used)?;
    let mut unpacked = Vec::new();
    let mut picture = RgbImage::default();
    for plane in 0..planes {
        for number in 0..in_plane as usize {
            let (left, top) = (number as u32 % across * chunk_wide, number as u32 / across * chunk_high);
            let wide = chunk_wide.min(tiff.width_px - left) as usize;
            let high = chunk_high.min(tiff.height_px - top) as usize;
            let data = tiff.chunk(plane * in_plane as usize + number)?;
            let place = Place { left: left as usize, top: top as usize, wide, high };
            if tiff.codec == Codec::Jpeg {
                tiff.jpeg(data, limits, &mut picture)?;
                place.copy(&picture, used, into)?;
                continue;
            }
            let needed = row_bytes.saturating_mul(high);
            let rows = match tiff.codec {
                Codec::None => data.get(..needed),
                codec => {
                    grown(&mut unpacked, needed, 0, "a part of a TIFF")?;
                    codec.unpack(data, &mut unpacked[..needed])?;
                    let rows = unpacked[..needed].chunks_exact_mut(row_bytes);
                    rows.for_each(|row| codec.undo_differences(row, in_chunk, tiff.bits, tiff.directory.is_big_endian));
                    Some(&unpacked[..needed])
                }
            };
            let rows = rows.ok_or_else(|| {
                Fault::Bad(format!("truncated TIFF: {} of {needed} bytes of a part of its pixels", data.len()))
            })?;
            let channels = if tiff.is_planar { plane..plane + 1 } else { 0..used };
            for (row, from) in rows.chunks_exact(row_bytes).enumerate() {
                let start = used * ((place.top + row) * tiff.width_px as usize + place.left);
                tiff.unpack_row(from, in_chunk, &channels, used, &mut into.pixels[start..start + used * wide]);
            }
        }
    }
    tiff.colours.reduce(tiff.bits, &mut into.pixels)?;
    tiff.orientation.turn(into)
}

/// Where the visible part of a strip or tile lies.
struct Place {
    left: usize,
    top: usize,
    wide: usize,
    high: usize,
}

impl Place {
    /// Copies the visible part of a decoded JPEG.
    fn copy(&self, from: &RgbImage, used: usize, into: &mut RgbImage) -> Result<(), Fault> {
        if (from.width_px as usize) < self.wide || (from.height_px as usize) < self.high {
            return Err(damaged(format!(
                "a JPEG of {} x {} px for a part of {} x {}",
                from.width_px, from.height_px, self.wide, self.high
            )));
        }
        let whole = into.width_px as usize;
        for (row, from) in from.pixels.chunks_exact(3 * from.width_px as usize).take(self.high).enumerate() {
            let start = used * ((self.top + row) * whole + self.left);
            let out = &mut into.pixels[start..start + used * self.wide];
            // Grey has three equal levels.
            out.chunks_exact_mut(used)
                .zip(from.chunks_exact(3))
                .for_each(|(out, from)| out.copy_from_slice(&from[..used]));
        }
        Ok(())
    }
}

impl Tiff<'_> {
    /// The bytes of a strip or tile.
    fn chunk(&self, at: usize) -> Result<&[u8], Fault> {
        let place = |values: &Values<'_>| values.get(at).and_then(|value| usize::try_from(value).ok());
        let rest = place(&self.offsets).and_then(|start| self.bytes.get(start..));
        let rest =
            rest.ok_or_else(|| Fault::Bad(format!("truncated TIFF: part {at} lies behind the end of the file")))?;
        Ok(match &self.lengths {
            None => rest,
            Some(lengths) => &rest[..place(lengths).unwrap_or(0).min(rest.len())],
        })
    }

    fn jpeg(&self, data: &[u8], limits: &Limits, into: &mut RgbImage) -> Result<(), Fault> {
        let tables = self.directory.find(347).map(|tables| tables.data);
        let whole = jpeg_of(data, tables, matches!(self.colours, Colours::YCbCr))?;
        let frame = jpeg::frame(&whole);
        jpeg::decode_rgb(&whole, frame.as_ref(), limits, into, &mut |_| ())
            .map_err(|fault| fault.of("a part of a TIFF"))
    }

    /// Writes the samples `channels` of a row, which has `in_row` samples for each pixel, as 8 bits; `out` has `used` for each.
    fn unpack_row(&self, row: &[u8], in_row: usize, channels: &Range<usize>, used: usize, out: &mut [u8]) {
        let (bits, is_big_endian) = (self.bits, self.directory.is_big_endian);
        let first = if self.is_planar { 0 } else { channels.start };
        if (bits, in_row, channels.len(), self.is_reversed) == (8, used, used, false) {
            out.copy_from_slice(&row[..out.len()]);
            return;
        }
        let sample = |at: usize| match bits {
            16 => row[2 * at + usize::from(!is_big_endian)],
            _ => {
                let byte = row[at * bits / 8];
                let byte = if self.is_reversed { byte.reverse_bits() } else { byte };
                byte >> (8 - bits - at * bits % 8) & (0xFFu16 >> (8 - bits)) as u8
            }
        };
        for (x, out) in out.chunks_exact_mut(used).enumerate() {
            for (at, channel) in channels.clone().enumerate() {
                out[channel] = sample(x * in_row + first + at);
            }
        }
    }
}

impl Colours<'_> {
    /// Turns samples into RGB, within the buffer.
    fn reduce(self, bits: usize, pixels: &mut Vec<u8>) -> Result<(), Fault> {
        match self {
            Colours::Rgb | Colours::YCbCr => Ok(()),
            Colours::Grey { is_white_zero } => {
                let most = (0xFFu16 >> (8 - bits.min(8))) as u8;
                to_rgb::<1>(pixels, |[value]| {
                    let value = if is_white_zero { most - value } else { value };
                    [value * (255 / most); 3]
                })
            }
            Colours::Palette(values) => {
                let count = 1usize << bits;
                // Red of all, then green, then blue, 16 bits each.
                let level = |at: usize| values.get(at).map_or(0, |level| (level >> 8) as u8);
                let palette: Vec<[u8; 3]> =
                    (0..count).map(|at| [level(at), level(count + at), level(2 * count + at)]).collect();
                to_rgb::<1>(pixels, |[index]| palette.get(usize::from(index)).copied().unwrap_or_default())
            }
            Colours::GreyTimesAlpha => to_rgb::<2>(pixels, |[grey, alpha]| [divided(grey, alpha); 3]),
            Colours::RgbTimesAlpha => {
                to_rgb::<4>(pixels, |[r, g, b, alpha]| [r, g, b].map(|value| divided(value, alpha)))
            }
            Colours::Cmyk => to_rgb::<4>(pixels, |[c, m, y, k]| {
                // As Pillow's `convert("RGB")`: the light that ink K leaves, less the share of the other inks, rounded.
                let light = 255 - u32::from(k);
                [c, m, y].map(|ink| {
                    let product = u32::from(ink) * light + 128;
                    light.saturating_sub((product + (product >> 8)) >> 8) as u8
                })
            }),
        }
    }
}

/// The level before it was multiplied by its opacity, as Pillow computes it.
fn divided(value: u8, alpha: u8) -> u8 {
    match alpha {
        0 => 0,
        alpha => (u32::from(value) * 255 / u32::from(alpha)).min(255) as u8,
    }
}
