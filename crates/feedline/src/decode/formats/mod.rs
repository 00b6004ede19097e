//! Pictures that are neither JPEG nor PNG, behind the cargo feature `formats`: one file for each format. All of them give the
//! pixels that Pillow's `Image.open(..).convert("RGB")` gives, of a file with several pictures those of the first.
//!
//! Each file has `dimensions`, which reads the header, and `decode_rgb`, which decodes the whole picture. Both refuse in
//! words what they do not know, and check what a header says before anything is allocated for it.

mod bmp;
mod gif;
mod pnm;
mod samples;
mod tiff;
mod tiff_codecs;
mod webp;

use super::fault::Fault;
use super::image::{Format, Limits, RgbImage};
use super::orientation::Orientation;

/// Width and height of the picture, as it is decoded.
pub(super) fn dimensions(format: Format, bytes: &[u8]) -> Result<(u32, u32), Fault> {
    match format {
        Format::Bmp => bmp::dimensions(bytes),
        Format::Gif => gif::dimensions(bytes),
        Format::Pnm => pnm::dimensions(bytes),
        Format::Tiff => tiff::dimensions(bytes),
        Format::WebP => webp::dimensions(bytes),
        Format::Jpeg | Format::Png => unreachable!("they have decoders of their own"),
    }
}

/// Decodes the whole picture. Tells `reserve` the bytes that it needs in all.
pub(super) fn decode_rgb(
    format: Format,
    bytes: &[u8],
    limits: &Limits,
    into: &mut RgbImage,
    reserve: &mut dyn FnMut(u64),
) -> Result<(), Fault> {
    match format {
        Format::Bmp => bmp::decode_rgb(bytes, limits, into, reserve),
        Format::Gif => gif::decode_rgb(bytes, limits, into, reserve),
        Format::Pnm => pnm::decode_rgb(bytes, limits, into),
        Format::Tiff => tiff::decode_rgb(bytes, limits, into, reserve),
        Format::WebP => webp::decode_rgb(bytes, limits, into, reserve),
        Format::Jpeg | Format::Png => unreachable!("they have decoders of their own"),
    }
}

/// What the EXIF data say. A TIFF is decoded upright, since the tag is a part of its format.
pub(super) fn orientation(format: Format, bytes: &[u8]) -> Orientation {
    match format {
        Format::WebP => webp::orientation(bytes),
        _ => Orientation::UPRIGHT,
    }
}
