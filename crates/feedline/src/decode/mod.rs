//! Decode: bytes to arrays. Pure functions of the bytes; never reads a file.
//!
//! The format is decided by the first bytes, never by a file name. EXIF orientation is not applied here, as Pillow's
//! `Image.open` and torchvision do not; [`Encoded::upright`] applies it. Embedded colour profiles are ignored.

mod cache;
mod encoded;
mod fault;
#[cfg(feature = "formats")]
mod formats;
mod guard;
mod ifd;
mod image;
mod jpeg;
mod npy;
mod npz;
mod orientation;
mod png;
mod png_whole;
mod points;

pub use cache::DecodedCache;
pub(crate) use cache::Kept;
pub(crate) use encoded::Encoded;
pub use fault::Fault;
pub(crate) use fault::no_memory;
pub use image::{CropBox, Header, Limits, RgbImage};
pub use npy::{NPY_HEADER_BYTES_MAX, NpyHeader};
pub use npz::{Number, array_fits, decode_npy, decode_npz, npz_shape};
pub use png::{decode_depth_u16, decode_labels_u8};
pub use points::decode_points;

/// Decodes a picture to RGB, into `into`, whose allocation is reused: JPEG, PNG, and with the cargo feature `formats` (on by
/// default) WebP, BMP, GIF, TIFF, PBM, PGM and PPM. Of a file with several pictures it is the first.
///
/// Every pixel equals what Pillow's `Image.open(..).convert("RGB")` gives, except for grey of 16 bits, of which
/// Pillow clips and this takes the high byte. Alpha is dropped. CMYK is converted without a colour profile. The orientation of
/// a TIFF is a part of its format and is applied, as by Pillow.
///
/// Detectable damage is an error: broken entropy codes (which Pillow paints over), a wrong checksum, a PNG
/// without its end. Bytes after the end of a picture, and a JPEG that lacks only its end marker, are accepted. A
/// progressive JPEG without its last scans is smoothed as by libjpeg-turbo.
///
/// # Errors
/// Empty, not an image, truncated, damaged, more pixels than `limits` allow; or no memory. `into` is then empty. Never
/// panics, whatever the bytes.
pub fn decode_rgb(bytes: &[u8], limits: &Limits, into: &mut RgbImage) -> Result<(), Fault> {
    looked_at(bytes, into)?.decode_rgb(limits, into, &mut |_| ())
}

/// Decodes a part of a picture to RGB, at full size (`shrink` 1) or reduced (2, 4 or 8), into `into`, whose
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
    looked_at(bytes, into)?.decode_rgb_part(limits, part, shrink, into, &mut |_| ())
}

/// Reads an image's header: about a microsecond for most JPEGs, without allocating.
///
/// # Errors
/// As [`dimensions`].
pub fn header(bytes: &[u8]) -> Result<Header, Fault> {
    Encoded::new(bytes)?.header()
}

/// Width and height in pixels, from the header alone.
///
/// # Errors
/// As [`decode_rgb`], as far as the header shows it; there is no limit on the pixels.
pub fn dimensions(bytes: &[u8]) -> Result<(u32, u32), Fault> {
    header(bytes).map(|header| (header.width_px, header.height_px))
}

/// [`Encoded::new`]; `into` is empty if that fails.
fn looked_at<'a>(bytes: &'a [u8], into: &mut RgbImage) -> Result<Encoded<'a>, Fault> {
    Encoded::new(bytes).inspect_err(|_| *into = RgbImage::default())
}
