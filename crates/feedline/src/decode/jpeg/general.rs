//! Any kind of JPEG to RGB, through a decoder that is bit-equal to libjpeg-turbo with its accurate DCT and smooth chroma
//! upsampling, and that smooths progressive files with missing scans as libjpeg does. Owns the colour conversion of
//! four-channel files; must not repair damaged ones.

use super::survey::{ARITHMETIC_PROGRESSIVE, MAX_SCANS, Survey, survey};
use super::{header, odd};
use crate::decode::fault::{Fault, no_memory};
use crate::decode::image::{Limits, RgbImage, allocate, check_size};
use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat, ScalingFactor};
use std::borrow::Cow;

fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Decoder<'a>, Fault> {
    let limits = DecodeLimits { max_pixels: limits.max_pixels, max_scans: MAX_SCANS, ..DecodeLimits::default() };
    Decoder::new_with_limits(bytes, limits).map_err(|e| explain(e, bytes))
}

fn explain(error: JpegError, bytes: &[u8]) -> Fault {
    Fault::Bad(match error {
        JpegError::UnexpectedEof => format!("truncated JPEG: the data ends early ({} bytes)", bytes.len()),
        JpegError::AllocationFailed { what, bytes } => return no_memory(what, bytes),
        JpegError::Unsupported(what) => format!("unsupported kind of JPEG: {what}"),
        other => format!("damaged JPEG: {other}"),
    })
}

pub(super) fn dimensions(bytes: &[u8]) -> Result<(u32, u32), Fault> {
    if let Some(found) = survey(bytes, false)?.filter(|found| !found.scans.is_empty()) {
        return Ok((found.width_px as u32, found.height_px as u32));
    }
    let decoder = open(bytes, &Limits { max_pixels: u64::MAX })?;
    let header = decoder.header();
    Ok((header.width.into(), header.height.into()))
}

/// Decodes the whole picture at 1/`shrink`, which must be 1 for kinds that the fast decoder does not know. Before it
/// allocates, it calls `reserve` with the total memory that it needs.
pub(super) fn decode_rgb(
    bytes: &[u8],
    limits: &Limits,
    shrink: u32,
    into: &mut RgbImage,
    reserve: &mut dyn FnMut(u64),
) -> Result<(), Fault> {
    let found = survey(bytes, true)?;
    let bytes = found.as_ref().map_or(Ok(Cow::Borrowed(bytes)), |found| found.tidied(bytes))?;
    let found = match &bytes {
        Cow::Borrowed(_) => found,
        Cow::Owned(tidied) => survey(tidied, true)?, // its scans are other bytes
    };
    let mut decoder = open(&bytes, limits)?;
    let frame = decoder.header();
    if frame.precision != 8 {
        return Err(format!("unsupported kind of JPEG: {} bits per sample", frame.precision).into());
    }
    let (width, height, four) = (u32::from(frame.width), u32::from(frame.height), frame.components.len() == 4);
    check_size(width, height, limits)?;
    let pixels = u64::from(width) * u64::from(height);
    reserve(match &found {
        Some(found) => found.check_lengths().map(|()| found.decoder_bytes())?,
        // The most bytes that a pixel can take: three or four components in several scans.
        None => 16 * pixels,
    });
    let (format, channels) = if four { (PixelFormat::Cmyk, 4) } else { (PixelFormat::Rgb, 3) };
    allocate(into, width.div_ceil(shrink), height.div_ceil(shrink), channels)?;
    if let Some(found) = &found
        && found.needs_smoothing()
        && (found.needs_planes() || found.kind == ARITHMETIC_PROGRESSIVE)
    {
        return Err("incomplete JPEG: its last scans are missing, and its components are sampled in an unusual way or its \
                    codes are arithmetic, so that it cannot be smoothed over as others are; save it anew from the original"
            .into());
    }
    match found.filter(Survey::needs_planes) {
        Some(found) => decode_odd(decoder, &bytes, &found, &mut into.pixels)?,
        None => {
            decoder.set_output_format(format);
            decoder.set_block_smoothing(true);
            decoder.set_scale(ScalingFactor::try_new(1, shrink).map_err(|e| explain(e, &bytes))?);
            let info = decoder.decode_image_into(&mut into.pixels).map_err(|e| explain(e, &bytes))?;
            // The buffer may hold pixels of an earlier image, which must never count as this one's.
            if info.bytes_written != into.pixels.len() {
                return Err(
                    format!("damaged JPEG: {} of {} bytes decoded", info.bytes_written, into.pixels.len()).into()
                );
            }
            // Files of the fast decoder's kinds that arrive here are damaged.
            if let (1, true, Some(found)) = (shrink, header::parse(&bytes).is_some(), survey(&bytes, true)?)
                && let Some(planes) = odd::wild_planes(&found, &bytes)?
            {
                odd::pixels(&found, &planes, decoder.jpeg_color_space(), &mut into.pixels)?;
            }
        }
    }
    if four {
        cmyk_to_rgb_in_place(&mut into.pixels);
    }
    Ok(())
}

/// Decodes a picture for which the general decoder gives at most the components' samples.
fn decode_odd(decoder: Decoder<'_>, bytes: &[u8], found: &Survey<'_>, into: &mut [u8]) -> Result<(), Fault> {
    let space = decoder.jpeg_color_space();
    let planes = if found.is_by_scans() {
        odd::planes(found)?.ok_or("damaged JPEG: a scan of some of its components cannot be read")?
    } else {
        let raw = decoder.decode_raw().map_err(|e| explain(e, bytes))?;
        let planes = raw.planes.into_iter().zip(raw.plane_widths);
        planes.map(|(samples, stride)| odd::Plane { samples, stride }).collect()
    };
    odd::pixels(found, &planes, space, into)
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
