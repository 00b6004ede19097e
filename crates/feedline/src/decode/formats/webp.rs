//! WebP to RGB, lossy and lossless; of an animation the first frame, on black where it leaves the canvas free. Owns the walk
//! over the chunks; the pixels come from `image-webp`. Opacity is dropped, so its chunk is not looked at.

use crate::decode::fault::{Fault, grown};
use crate::decode::formats::samples::{check_memory, to_rgb, u16_at, u32_at};
use crate::decode::image::{Limits, RgbImage, allocate, check_size};
use crate::decode::orientation::Orientation;
use image_webp::{DecodingError, WebPDecoder};
use std::borrow::Cow;
use std::io::Cursor;

/// What the flags of an extended file say.
const HAS_EXIF: u8 = 8;
const IS_ANIMATION: u8 = 2;

/// The picture to decode, and where it stands on the canvas.
struct WebP<'a> {
    canvas_px: (u32, u32),
    left_px: u32,
    top_px: u32,
    frame_px: (u32, u32),
    /// The kind of its pixels, and these.
    kind: &'a [u8],
    data: &'a [u8],
}

/// A chunk: its kind, its data as far as they are in the file, and what follows.
fn chunk(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let len = u32_at(bytes, 4)? as usize;
    let (kind, rest) = (&bytes[..4], &bytes[8..]);
    let end = len.min(rest.len());
    Some((kind, &rest[..end], rest.get(end + len % 2..).unwrap_or_default()))
}

/// The first chunk of `bytes` of one of these kinds.
fn find<'a>(mut bytes: &'a [u8], kinds: &[&[u8]]) -> Option<(&'a [u8], &'a [u8])> {
    while let Some((kind, data, rest)) = chunk(bytes) {
        if kinds.contains(&kind) {
            return Some((kind, data));
        }
        bytes = rest;
    }
    None
}

/// The flags of an extended file, and its chunks behind them.
fn extended(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (kind, head, rest) = chunk(bytes.get(12..)?)?;
    (kind == b"VP8X" && head.len() >= 10).then(|| (head[0], head, rest))
}

fn read(bytes: &[u8]) -> Result<WebP<'_>, Fault> {
    let cut = || Fault::Bad(format!("truncated WebP: the data ends early ({} bytes)", bytes.len()));
    let three = |bytes: &[u8], at: usize| u32_at(bytes, at).map(|four| four & 0xFF_FFFF);
    let pictures: [&[u8]; 2] = [b"VP8 ", b"VP8L"];
    let (mut canvas_px, mut place, mut chunks) = (None, (0, 0), bytes.get(12..).unwrap_or_default());
    let mut claimed_px = None;
    if let Some((flags, head, rest)) = extended(bytes) {
        let side = |at: usize| head.get(at..at + 3).map(|side| u32::from_le_bytes([side[0], side[1], side[2], 0]) + 1);
        canvas_px = side(4).zip(side(7));
        chunks = rest;
        if flags & IS_ANIMATION != 0 {
            let (_, frame) = find(rest, &[b"ANMF"]).ok_or_else(cut)?;
            let [x, y, wide, high] = [0, 3, 6, 9].map(|at| three(frame, at));
            let (Some(x), Some(y), Some(wide), Some(high)) = (x, y, wide, high) else { return Err(cut()) };
            place = (2 * x, 2 * y);
            claimed_px = Some((wide + 1, high + 1));
            chunks = frame.get(16..).ok_or_else(cut)?;
        }
    }
    let (kind, data) = find(chunks, &pictures).ok_or_else(cut)?;
    let frame_px = if kind == b"VP8 " {
        let (Some(start), Some(wide), Some(high)) = (data.get(3..6), u16_at(data, 6), u16_at(data, 8)) else {
            return Err(cut());
        };
        if start != [0x9D, 1, 0x2A] {
            return Err("damaged WebP: its picture does not begin as one".into());
        }
        (wide & 0x3FFF, high & 0x3FFF)
    } else {
        let (Some(0x2F), Some(sides)) = (data.first(), u32_at(data, 1)) else {
            return Err("damaged WebP: its picture does not begin as one".into());
        };
        ((sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1)
    };
    let canvas_px = canvas_px.unwrap_or(frame_px);
    let fits = |start: u32, side: u32, canvas: u32| start.checked_add(side).is_some_and(|end| end <= canvas);
    let inside = fits(place.0, frame_px.0, canvas_px.0) && fits(place.1, frame_px.1, canvas_px.1);
    // A picture that is no frame of an animation is the whole canvas.
    if claimed_px.unwrap_or(canvas_px) != frame_px || !inside {
        return Err(format!(
            "damaged WebP: a picture of {} x {} px on a canvas of {} x {}",
            frame_px.0, frame_px.1, canvas_px.0, canvas_px.1
        )
        .into());
    }
    Ok(WebP { canvas_px, left_px: place.0, top_px: place.1, frame_px, kind, data })
}

pub(super) fn dimensions(bytes: &[u8]) -> Result<(u32, u32), Fault> {
    read(bytes).map(|webp| webp.canvas_px)
}

/// Only an extended file has EXIF data.
pub(super) fn orientation(bytes: &[u8]) -> Orientation {
    let exif =
        extended(bytes).filter(|(flags, ..)| flags & HAS_EXIF != 0).and_then(|(_, _, rest)| find(rest, &[b"EXIF"]));
    exif.map_or(Orientation::UPRIGHT, |(_, exif)| Orientation::of_exif(exif))
}

pub(super) fn decode_rgb(
    bytes: &[u8],
    limits: &Limits,
    into: &mut RgbImage,
    reserve: &mut dyn FnMut(u64),
) -> Result<(), Fault> {
    let webp = read(bytes)?;
    let ((width_px, height_px), (wide, high)) = (webp.canvas_px, webp.frame_px);
    check_size(width_px, height_px, limits)?;
    check_size(wide, high, limits)?;
    let (canvas, frame) = (u64::from(width_px) * u64::from(height_px), u64::from(wide) * u64::from(high));
    // A lossless picture is decoded with opacity, and once more where it has none.
    let extra_bytes = 8 * frame;
    reserve(4 * canvas + extra_bytes);
    check_memory(extra_bytes, "the decoder of a WebP")?;
    // The same picture as a file of its own, which has no chunk but this.
    let alone = match bytes.get(12..16) == Some(webp.kind) {
        true => Cow::Borrowed(bytes),
        false => Cow::Owned(alone(&webp)?),
    };
    let mut decoder = WebPDecoder::new(Cursor::new(&*alone)).map_err(|error| explain(error, bytes))?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    allocate(into, wide, high, channels)?;
    decoder.read_image(&mut into.pixels).map_err(|error| explain(error, bytes))?;
    if channels == 4 {
        to_rgb::<4>(&mut into.pixels, |[r, g, b, _]| [r, g, b])?;
    }
    if (wide, high) != (width_px, height_px) {
        let frame = std::mem::take(into);
        allocate(into, width_px, height_px, 3)?;
        for (row, from) in frame.pixels.chunks_exact(3 * wide as usize).enumerate() {
            let start = 3 * ((webp.top_px as usize + row) * width_px as usize + webp.left_px as usize);
            into.pixels[start..start + from.len()].copy_from_slice(from);
        }
    }
    Ok(())
}

fn alone(webp: &WebP<'_>) -> Result<Vec<u8>, Fault> {
    let padded = webp.data.len().next_multiple_of(2);
    let mut file = Vec::new();
    grown(&mut file, 20 + padded, 0, "the data of a WebP")?;
    file[..4].copy_from_slice(b"RIFF");
    file[4..8].copy_from_slice(&(12 + padded as u32).to_le_bytes());
    file[8..12].copy_from_slice(b"WEBP");
    file[12..16].copy_from_slice(webp.kind);
    file[16..20].copy_from_slice(&(webp.data.len() as u32).to_le_bytes());
    file[20..20 + webp.data.len()].copy_from_slice(webp.data);
    Ok(file)
}

fn explain(error: DecodingError, bytes: &[u8]) -> Fault {
    Fault::Bad(match error {
        DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!("truncated WebP: the data ends early ({} bytes)", bytes.len())
        }
        other => format!("damaged WebP: {other}"),
    })
}
