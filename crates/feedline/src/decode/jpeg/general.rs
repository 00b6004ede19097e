//! Any kind of JPEG to RGB through a decoder that is bit-equal to libjpeg-turbo with its accurate DCT and smooth chroma
//! upsampling. Owns the colour conversion of four-channel files; must not repair damaged ones.

use crate::decode::{Limits, RgbImage, allocate, check_size};
use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat};

/// More scans than any sensible progressive file has; a hostile one makes each scan visit every block again.
const MAX_SCANS: usize = 500;

fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Decoder<'a>, String> {
    let limits = DecodeLimits { max_pixels: limits.max_pixels, max_scans: MAX_SCANS, ..DecodeLimits::default() };
    Decoder::new_with_limits(bytes, limits).map_err(|e| explain(e, bytes))
}

fn explain(error: JpegError, bytes: &[u8]) -> String {
    match error {
        JpegError::UnexpectedEof => format!("truncated JPEG: the data ends early ({} bytes)", bytes.len()),
        JpegError::Unsupported(what) => format!("unsupported kind of JPEG: {what}"),
        other => format!("damaged JPEG: {other}"),
    }
}

pub(super) fn dimensions(bytes: &[u8]) -> Result<(u32, u32), String> {
    let decoder = open(bytes, &Limits { max_pixels: u64::MAX })?;
    let header = decoder.header();
    Ok((header.width.into(), header.height.into()))
}

pub(super) fn decode_rgb(bytes: &[u8], limits: &Limits, into: &mut RgbImage) -> Result<(), String> {
    let mut decoder = open(bytes, limits)?;
    let header = decoder.header();
    if header.precision != 8 {
        return Err(format!("unsupported kind of JPEG: {} bits per sample", header.precision));
    }
    let (width, height, four) = (header.width.into(), header.height.into(), header.components.len() == 4);
    let (format, channels) = if four { (PixelFormat::Cmyk, 4) } else { (PixelFormat::Rgb, 3) };
    decoder.set_output_format(format);
    check_size(width, height, limits)?;
    allocate(into, width, height, channels)?;
    let info = decoder.decode_image_into(&mut into.pixels).map_err(|e| explain(e, bytes))?;
    // The buffer may hold pixels of an earlier image: never pass them off as this one's.
    if info.bytes_written != into.pixels.len() {
        return Err(format!("damaged JPEG: {} of {} bytes decoded", info.bytes_written, into.pixels.len()));
    }
    if four {
        cmyk_to_rgb_in_place(&mut into.pixels);
    }
    Ok(())
}

/// Four-channel JPEGs hold complemented inks (Adobe's convention, which Pillow assumes for all of them): undo that,
/// then convert as Pillow's `convert("RGB")` does: `r = max(0, (255 - k) - c (255 - k) / 255)`, rounded.
fn cmyk_to_rgb_in_place(pixels: &mut Vec<u8>) {
    let count = pixels.len() / 4;
    for at in 0..count {
        let not_k = u32::from(pixels[4 * at + 3]);
        for c in 0..3 {
            let ink = 255 - u32::from(pixels[4 * at + c]);
            let product = ink * not_k + 128;
            let dark = (product + (product >> 8)) >> 8;
            pixels[3 * at + c] = not_k.saturating_sub(dark) as u8;
        }
    }
    pixels.truncate(3 * count);
}
