//! Decode: bytes to arrays. Pure functions of the bytes; never reads a file.
//!
//! The format is decided by the first bytes, never by a file name. EXIF orientation is not applied, as Pillow's
//! `Image.open` and torchvision do not. Embedded colour profiles are ignored.

mod cache;
mod fault;
mod guard;
mod image;
mod jpeg;
mod npy;
mod npz;
mod png;
mod png_whole;
mod points;

pub use cache::DecodedCache;
pub(crate) use cache::Kept;
pub use fault::Fault;
pub(crate) use fault::no_memory;
pub use image::{CropBox, Header, Limits, RgbImage};
pub use npy::{NPY_HEADER_BYTES_MAX, NpyHeader};
pub use npz::{Number, array_fits, decode_npy, decode_npz, npz_shape};
pub use png::{decode_depth_u16, decode_labels_u8};
pub use points::decode_points;

use guard::guarded;
use image::{Format, format};

/// Decodes a JPEG or PNG to RGB, into `into`, whose allocation is reused.
///
/// Every pixel equals what Pillow's `Image.open(..).convert("RGB")` gives, except for 16-bit grey PNG, of which
/// Pillow clips and this takes the high byte. Alpha is dropped. CMYK is converted without a colour profile.
///
/// Detectable damage is an error: broken entropy codes (which Pillow paints over), a wrong checksum, a PNG
/// without its end. Bytes after the end of a picture, and a JPEG that lacks only its end marker, are accepted. A
/// progressive JPEG without its last scans is smoothed as by libjpeg-turbo.
///
/// # Errors
/// Empty, not an image, truncated, damaged, more pixels than `limits` allow; or no memory. `into` is then empty. Never
/// panics, whatever the bytes.
pub fn decode_rgb(bytes: &[u8], limits: &Limits, into: &mut RgbImage) -> Result<(), Fault> {
    decode_rgb_within(bytes, limits, into, &mut |_| ())
}

/// As [`decode_rgb`]; if it needs more memory than the pixels, it first calls `reserve` with the total number of bytes.
pub(crate) fn decode_rgb_within(
    bytes: &[u8],
    limits: &Limits,
    into: &mut RgbImage,
    reserve: &mut dyn FnMut(u64),
) -> Result<(), Fault> {
    let result = guarded(|| match format(bytes)? {
        Format::Jpeg => jpeg::decode_rgb(bytes, limits, into, reserve),
        Format::Png => png::decode_rgb(bytes, limits, into),
    });
    if result.is_err() {
        // Also frees memory that was allocated for a false header.
        *into = RgbImage::default();
    }
    result
}

/// Decodes a part of a JPEG or PNG to RGB, at full size (`shrink` 1) or reduced (2, 4 or 8), into `into`, whose
/// allocation is reused.
///
/// With `shrink` 1 the result is exactly the pixels of `part` in what [`decode_rgb`] gives. Otherwise it is the part
/// `part.shrunk(shrink)` of the image at 1/`shrink`, which has `ceil(W / shrink)` x `ceil(H / shrink)` pixels: for a
/// JPEG with [`Header::max_shrink`] 8 those of libjpeg-turbo's scaled decoding (reduced DCTs); for every other image
/// each the rounded mean of its `shrink` x `shrink` pixels, as far as they exist.
///
/// The result depends on the arguments alone. A pixel has the same value in every part, even in damaged files whose pixels
/// depend on libjpeg's own overflows. The cost is about that of the part: the rows below it are not read, and of the
/// blocks beside and above it only enough to find the next. So damage below the part may go
/// unnoticed; damage above it and in it is refused as by [`decode_rgb`].
///
/// # Errors
/// As [`decode_rgb`]; also a part that is empty or reaches outside the image, or another `shrink`.
pub fn decode_rgb_part(
    bytes: &[u8],
    limits: &Limits,
    part: CropBox,
    shrink: u32,
    into: &mut RgbImage,
) -> Result<(), Fault> {
    decode_rgb_part_within(bytes, limits, part, shrink, into, &mut |_| ())
}

/// As [`decode_rgb_part`], with `reserve` of [`decode_rgb_within`].
pub(crate) fn decode_rgb_part_within(
    bytes: &[u8],
    limits: &Limits,
    part: CropBox,
    shrink: u32,
    into: &mut RgbImage,
    reserve: &mut dyn FnMut(u64),
) -> Result<(), Fault> {
    let result = guarded(|| {
        if !matches!(shrink, 1 | 2 | 4 | 8) {
            return Err(format!("an image cannot be decoded at 1/{shrink}, only at 1/1, 1/2, 1/4 and 1/8").into());
        }
        if let Format::Jpeg = format(bytes)?
            && jpeg::decode_part(bytes, limits, part, shrink, into).is_some()
        {
            return Ok(());
        }
        let (width_px, height_px) = match format(bytes)? {
            Format::Jpeg => jpeg::dimensions(bytes)?,
            Format::Png => png::dimensions(bytes)?,
        };
        let done = match format(bytes)? {
            Format::Jpeg => jpeg::decode_generally(bytes, limits, shrink, into, reserve)?,
            Format::Png => png::decode_rgb(bytes, limits, into).map(|()| 1)?,
        };
        if !part.lies_in(width_px, height_px) {
            return Err(format!("{part:?} is no part of {width_px} x {height_px} px").into());
        }
        cut_in_place(into, part.shrunk(shrink), (shrink / done) as usize);
        Ok(())
    });
    if result.is_err() {
        *into = RgbImage::default();
    }
    result
}

/// Shrinks `image` to 1/`shrink` by rounded means and crops it to `part`, which is in pixels of the shrunk image.
fn cut_in_place(image: &mut RgbImage, part: CropBox, shrink: usize) {
    let (wide, high) = (image.width_px as usize, image.height_px as usize);
    let mut to = 0;
    for row in part.top_px as usize..(part.top_px + part.height_px) as usize {
        if shrink == 1 {
            let from = 3 * (row * wide + part.left_px as usize);
            image.pixels.copy_within(from..from + 3 * part.width_px as usize, to);
            to += 3 * part.width_px as usize;
            continue;
        }
        for column in part.left_px as usize..(part.left_px + part.width_px) as usize {
            let (rows, columns) = (row * shrink..high.min((row + 1) * shrink), column * shrink..);
            let columns = columns.start..wide.min(columns.start + shrink);
            let count = rows.len() * columns.len();
            for channel in 0..3 {
                let row_sum = |row: usize| -> usize {
                    columns.clone().map(|column| usize::from(image.pixels[3 * (row * wide + column) + channel])).sum()
                };
                let sum: usize = rows.clone().map(row_sum).sum();
                // Only pixels before those still needed are overwritten: each channel is read before its output is
                // written, and the output never lies after the input.
                image.pixels[to + channel] = ((sum + count / 2) / count) as u8;
            }
            to += 3;
        }
    }
    image.reshape(part.width_px, part.height_px);
}

/// Reads an image's header: about a microsecond for most JPEGs, without allocating.
///
/// # Errors
/// As [`dimensions`].
pub fn header(bytes: &[u8]) -> Result<Header, Fault> {
    guarded(|| match format(bytes)? {
        Format::Jpeg => jpeg::header(bytes),
        Format::Png => {
            let (width_px, height_px) = png::dimensions(bytes)?;
            Ok(Header { width_px, height_px, max_shrink: 1 })
        }
    })
}

/// Width and height in pixels, from the header alone.
///
/// # Errors
/// As [`decode_rgb`], as far as the header shows it; there is no limit on the pixels.
pub fn dimensions(bytes: &[u8]) -> Result<(u32, u32), Fault> {
    guarded(|| match format(bytes)? {
        Format::Jpeg => jpeg::dimensions(bytes),
        Format::Png => png::dimensions(bytes),
    })
}
