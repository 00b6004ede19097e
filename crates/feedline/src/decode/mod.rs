//! Decode: bytes to arrays. Pure functions of the bytes; never reads a file.
//!
//! The format is decided by the first bytes, never by a file name. EXIF orientation is not applied, as Pillow's
//! `Image.open` and torchvision do not. Embedded colour profiles are ignored.

mod cache;
mod guard;
mod jpeg;
mod npy;
mod npz;
mod png;
mod png_whole;
mod points;

pub use npy::{NPY_HEADER_BYTES_MAX, NpyHeader};
pub use npz::{Number, array_fits, decode_npy, decode_npz, npz_shape};
pub use png::{decode_depth_u16, decode_labels_u8};
pub use points::decode_points;

pub use cache::DecodedCache;
pub(crate) use cache::Kept;

use crate::error::{Error, Stage};
use guard::guarded;
use std::fmt;

/// Why bytes did not become data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The bytes cannot be used, for this reason.
    Bad(String),
    /// The system has not so much memory in one piece. This is no fault of the bytes.
    NoMemory {
        /// What the memory is for.
        what: String,
        /// How much.
        bytes: u64,
    },
}

impl Fault {
    /// The same, said of a part of the file.
    fn of(self, part: &str) -> Fault {
        match self {
            Fault::Bad(problem) => Fault::Bad(format!("{part}: {problem}")),
            Fault::NoMemory { what, bytes } => Fault::NoMemory { what: format!("{part}: {what}"), bytes },
        }
    }

    /// The error at a sample: [`Error::Sample`] where its bytes are bad, [`Error::Run`] where memory is short, so that no
    /// sample is taken for bad because others take the memory.
    pub fn at(self, stage: Stage, index: u64, location: String) -> Error {
        match self {
            Fault::Bad(problem) => Error::Sample { stage, index, location, problem },
            Fault::NoMemory { what, bytes } => {
                Error::Run { stage, index, location, source: Box::new(Error::memory(what, bytes)) }
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Bad(problem) => f.write_str(problem),
            Fault::NoMemory { what, bytes } => Error::memory(what, *bytes).fmt(f),
        }
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for String {
    fn from(fault: Fault) -> String {
        fault.to_string()
    }
}

impl From<String> for Fault {
    fn from(problem: String) -> Fault {
        Fault::Bad(problem)
    }
}

impl From<&str> for Fault {
    fn from(problem: &str) -> Fault {
        Fault::Bad(problem.into())
    }
}

/// Interleaved 8-bit RGB pixels, row-major: (H, W, 3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns W.
    pub width_px: u32,
    /// Rows H.
    pub height_px: u32,
    /// `3 * width_px * height_px` bytes.
    pub pixels: Vec<u8>,
}

impl RgbImage {
    /// Gives the image another size, keeping its allocation. The pixels are then unspecified: the caller writes all.
    pub(crate) fn reshape(&mut self, width_px: u32, height_px: u32) {
        self.width_px = width_px;
        self.height_px = height_px;
        self.pixels.resize(3 * width_px as usize * height_px as usize, 0);
    }
}

/// A part of an image in whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    /// Columns to its left.
    pub left_px: u32,
    /// Rows above it.
    pub top_px: u32,
    /// Its columns.
    pub width_px: u32,
    /// Its rows.
    pub height_px: u32,
}

impl CropBox {
    /// The pixels of the image at 1/`shrink` that show this part: from the one that holds its first pixel to the one
    /// that holds its last.
    ///
    /// # Panics
    /// If `shrink` is 0.
    pub fn shrunk(self, shrink: u32) -> CropBox {
        let span = |start: u32, length: u32| {
            let end = (u64::from(start) + u64::from(length)).div_ceil(shrink.into());
            (start / shrink, (end - u64::from(start / shrink)) as u32)
        };
        let (left_px, width_px) = span(self.left_px, self.width_px);
        let (top_px, height_px) = span(self.top_px, self.height_px);
        CropBox { left_px, top_px, width_px, height_px }
    }

    /// Whether all of `other` lies in it.
    pub fn contains(self, other: CropBox) -> bool {
        let inside = |start: u32, length: u32, other_start: u32, other_length: u32| {
            start <= other_start && other_start + other_length <= start + length
        };
        inside(self.left_px, self.width_px, other.left_px, other.width_px)
            && inside(self.top_px, self.height_px, other.top_px, other.height_px)
    }

    /// Whether it has pixels, all of them in an image of this size.
    fn lies_in(self, width_px: u32, height_px: u32) -> bool {
        let reaches = |start: u32, length: u32, end: u32| length > 0 && start < end && length <= end - start;
        reaches(self.left_px, self.width_px, width_px) && reaches(self.top_px, self.height_px, height_px)
    }
}

/// What an image's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Columns.
    pub width_px: u32,
    /// Rows.
    pub height_px: u32,
    /// The largest `shrink` that makes [`decode_rgb_part`] cheaper: 8, or 1 where it only costs.
    pub max_shrink: u32,
}

/// What an image may cost before it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels (width x height) an image may have; checked from the header, before anything is allocated.
    pub max_pixels: u64,
}

impl Default for Limits {
    /// 178,956,970 pixels: the size above which Pillow refuses to open an image.
    fn default() -> Limits {
        Limits { max_pixels: 178_956_970 }
    }
}

/// The formats understood, by their first bytes.
enum Format {
    Jpeg,
    Png,
}

fn format(bytes: &[u8]) -> Result<Format, String> {
    match bytes {
        [] => Err("the file has 0 bytes".into()),
        [0xFF, 0xD8, 0xFF, ..] => Ok(Format::Jpeg),
        [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Ok(Format::Png),
        _ => {
            let start = &bytes[..bytes.len().min(12)];
            Err(format!("not a JPEG or PNG (starts with '{}')", start.escape_ascii()))
        }
    }
}

/// Decodes a JPEG or PNG to RGB, into `into`, whose allocation is reused.
///
/// Every pixel equals what Pillow's `Image.open(..).convert("RGB")` gives, except for 16-bit grey PNG, of which
/// Pillow clips and this takes the high byte. Alpha is dropped. CMYK is converted without a colour profile.
///
/// Damage is refused where it can be seen: broken entropy codes (which Pillow paints over), a wrong checksum, a PNG
/// without its end. Bytes after the end of a picture, and a JPEG that lacks only its end marker, do no harm. A
/// progressive JPEG without its last scans is smoothed over as by libjpeg-turbo.
///
/// # Errors
/// What is wrong: empty, not an image, truncated, damaged, more pixels than `limits` allow; or no memory. `into`
/// is then empty. Never panics, whatever the bytes.
pub fn decode_rgb(bytes: &[u8], limits: &Limits, into: &mut RgbImage) -> Result<(), Fault> {
    decode_rgb_within(bytes, limits, into, &mut |_| ())
}

/// As [`decode_rgb`]; tells `reserve` how many bytes it needs in all where these are more than the pixels, before it
/// takes them.
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
        // Also gives back what a lying header made us allocate.
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
/// A function of the arguments alone, and the same pixels whichever part they are asked for in: what is damaged so that
/// only libjpeg's own overflows say what its pixels are included. It costs about what the part costs: the rows below it are not looked at, and of
/// the blocks beside and above it only as much as is needed to find the next. So damage below the part may go
/// unnoticed; damage above it and in it is refused as by [`decode_rgb`].
///
/// # Errors
/// As [`decode_rgb`]; and a part that is empty or reaches outside the image, or another `shrink`.
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

/// Makes `image` the part `part` (of the image at 1/`shrink`) of itself at 1/`shrink`, by rounded means.
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
                // Pixels in front of the ones still needed are overwritten; a pixel's own three are read channel by
                // channel before its place, which is never behind them, is written.
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

/// Refuses an image by its header, before anything is allocated for it.
fn check_size(width_px: u32, height_px: u32, limits: &Limits) -> Result<(), String> {
    let pixels = u64::from(width_px) * u64::from(height_px);
    if pixels == 0 {
        return Err(format!("the header says {width_px} x {height_px} px: there is no pixel in it"));
    }
    if pixels > limits.max_pixels {
        return Err(format!(
            "{width_px} x {height_px} px is {pixels} pixels, more than the {} allowed (max_pixels); \
             shrink the image or raise the limit",
            limits.max_pixels
        ));
    }
    Ok(())
}

/// Makes room in `into` for `channels` interleaved bytes per pixel; a refusal of the allocator is an error.
fn allocate(into: &mut RgbImage, width_px: u32, height_px: u32, channels: usize) -> Result<(), Fault> {
    let needed = (width_px as usize).checked_mul(height_px as usize).and_then(|n| n.checked_mul(channels));
    let needed = needed.ok_or_else(|| format!("{width_px} x {height_px} px does not fit into the address space"))?;
    grown(&mut into.pixels, needed, 0, &format!("{width_px} x {height_px} px"))?;
    into.width_px = width_px;
    into.height_px = height_px;
    Ok(())
}

/// Gives `list` the length `len`, what is new in it being `value`; a refusal of the allocator is an error.
pub(crate) fn grown<T: Clone>(list: &mut Vec<T>, len: usize, value: T, what: &str) -> Result<(), Fault> {
    let bytes = len.saturating_mul(size_of::<T>()) as u64;
    list.try_reserve_exact(len.saturating_sub(list.len())).map_err(|_| no_memory(what, bytes))?;
    list.resize(len, value);
    Ok(())
}

pub(crate) fn no_memory(what: &str, bytes: u64) -> Fault {
    Fault::NoMemory { what: what.into(), bytes }
}
