//! JPEG to RGB, in whole or in part, at full size or reduced. Owns the choice between the fast decoder of this folder, for
//! the kind of JPEG of nearly all photographs (baseline, 8 bits, Huffman codes, one scan; grey or YCbCr 4:4:4, 4:2:2,
//! 4:2:0), and the general one, for all others and for files that look damaged. Both give the same pixels: those
//! of libjpeg-turbo with its accurate DCT and smooth chroma upsampling. So the pixels of a part always equal those of the
//! whole picture, whichever decoder made either.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod color;
mod entropy;
mod general;
mod header;
mod huffman;
mod idct;
mod odd;
mod simd;
mod strips;
mod survey;

#[cfg(test)]
mod tests;

use super::fault::Fault;
use super::image::{CropBox, Header, Limits, RgbImage, allocate, check_size};
pub(super) use header::Frame;
pub(super) use header::parse as frame;
#[cfg(target_arch = "x86_64")]
use simd::Avx2;
use simd::Portable;
use strips::JpegScratch;

/// `frame`: what [`frame`] gives of these bytes, here and below.
pub(super) fn header(bytes: &[u8], frame: Option<&Frame<'_>>) -> Result<Header, Fault> {
    if let Some(frame) = frame {
        return Ok(Header { width_px: frame.width_px as u32, height_px: frame.height_px as u32, max_shrink: 8 });
    }
    let (width_px, height_px) = general::dimensions(bytes)?;
    Ok(Header { width_px, height_px, max_shrink: 1 })
}

/// EXIF data, if there are some.
pub(super) fn exif<'a>(bytes: &'a [u8], frame: Option<&Frame<'a>>) -> Option<&'a [u8]> {
    match frame {
        Some(frame) => frame.exif,
        None => header::exif(bytes),
    }
}

pub(super) fn decode_rgb(
    bytes: &[u8],
    frame: Option<&Frame<'_>>,
    limits: &Limits,
    into: &mut RgbImage,
    reserve: &mut dyn FnMut(u64),
) -> Result<(), Fault> {
    match frame.and_then(|frame| own(frame, limits, None, 1, false, into)) {
        Some(()) => Ok(()),
        None => general::decode_rgb(bytes, limits, 1, into, reserve),
    }
}

/// The whole picture at 1/`shrink`, which is 1 where the fast decoder does not know its kind, by the general decoder.
pub(super) fn decode_generally(
    bytes: &[u8],
    limits: &Limits,
    shrink: u32,
    into: &mut RgbImage,
    reserve: &mut dyn FnMut(u64),
) -> Result<(), Fault> {
    general::decode_rgb(bytes, limits, shrink, into, reserve)
}

/// Decodes the part by the fast decoder, if it can. If not, the content of `into` is unspecified.
pub(super) fn decode_part(
    frame: &Frame<'_>,
    limits: &Limits,
    part: CropBox,
    shrink: u32,
    into: &mut RgbImage,
) -> Option<()> {
    own(frame, limits, Some(part), shrink, false, into)
}

/// `part`: in pixels of the whole picture; `None`: all of it. `portable`: without code for this processor.
fn own(
    frame: &Frame<'_>,
    limits: &Limits,
    part: Option<CropBox>,
    shrink: u32,
    portable: bool,
    into: &mut RgbImage,
) -> Option<()> {
    let (width_px, height_px) = (frame.width_px as u32, frame.height_px as u32);
    check_size(width_px, height_px, limits).ok()?;
    let part = part.unwrap_or(CropBox { left_px: 0, top_px: 0, width_px, height_px });
    if !part.lies_in(width_px, height_px) {
        return None;
    }
    let part = part.shrunk(shrink);
    // A header alone must not cause a large allocation: each block takes at least two bits of data.
    let blocks = (frame.width_px / 8) * (frame.height_px / 8);
    if frame.scan.len() < blocks / 4 {
        return None;
    }
    allocate(into, part.width_px, part.height_px, 3).ok()?;
    decode(frame, part, shrink.ilog2() as usize, portable, into)
}

/// [`strips::decode`] with the best code for this processor, or with the portable one.
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls code for a processor that has been detected"))]
fn decode(frame: &Frame<'_>, part: CropBox, scale: usize, portable: bool, into: &mut RgbImage) -> Option<()> {
    strips::with_scratch(|scratch| {
        #[cfg(target_arch = "x86_64")]
        if let (false, Some(simd)) = (portable, Avx2::detect()) {
            // SAFETY: `detect` has found all of the features.
            return unsafe { decode_avx2(simd, frame, part, scale, scratch, into) };
        }
        let _ = portable;
        strips::decode(Portable, frame, part, scale, scratch, into)
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
fn decode_avx2(
    simd: Avx2,
    frame: &Frame<'_>,
    part: CropBox,
    scale: usize,
    scratch: &mut JpegScratch,
    into: &mut RgbImage,
) -> Option<()> {
    strips::decode(simd, frame, part, scale, scratch, into)
}
