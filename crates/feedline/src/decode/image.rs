//! Pictures in memory: pixels, parts, headers and limits; and the formats, by their first bytes.

use crate::decode::fault::{Fault, grown};

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
    /// Gives the image another size and keeps its allocation. The pixels are then unspecified; the caller writes all of them.
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
    /// The pixels of the image at 1/`shrink` that show this part: from the pixel that contains its first one to the pixel
    /// that contains its last.
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

    /// True if all of `other` lies inside.
    pub fn contains(self, other: CropBox) -> bool {
        let inside = |start: u32, length: u32, other_start: u32, other_length: u32| {
            start <= other_start && other_start + other_length <= start + length
        };
        inside(self.left_px, self.width_px, other.left_px, other.width_px)
            && inside(self.top_px, self.height_px, other.top_px, other.height_px)
    }

    /// True if it has pixels and all of them lie in an image of this size.
    pub(super) fn lies_in(self, width_px: u32, height_px: u32) -> bool {
        let reaches = |start: u32, length: u32, end: u32| length > 0 && start < end && length <= end - start;
        reaches(self.left_px, self.width_px, width_px) && reaches(self.top_px, self.height_px, height_px)
    }
}

/// The header of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Columns.
    pub width_px: u32,
    /// Rows.
    pub height_px: u32,
    /// The largest `shrink` that makes [`decode_rgb_part`](crate::decode::decode_rgb_part) cheaper: 8, or 1 if none does.
    pub max_shrink: u32,
}

/// Limits above which an image is refused.
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

/// The formats, told apart by their first bytes. All but JPEG and PNG are read with the cargo feature `formats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    Bmp,
    Gif,
    Pnm,
    Tiff,
    WebP,
}

pub(super) fn format(bytes: &[u8]) -> Result<Format, String> {
    match bytes {
        [] => Err("the file has 0 bytes".into()),
        [0xFF, 0xD8, 0xFF, ..] => Ok(Format::Jpeg),
        [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Ok(Format::Png),
        [b'B', b'M', ..] => Ok(Format::Bmp),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Format::Gif),
        [b'P', b'1'..=b'6', b' ' | 9..=13, ..] => Ok(Format::Pnm),
        [b'I', b'I', b'*' | b'+', 0, ..] | [b'M', b'M', 0, b'*' | b'+', ..] => Ok(Format::Tiff),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Format::WebP),
        _ => {
            let start = &bytes[..bytes.len().min(12)];
            Err(format!(
                "not a JPEG, PNG, WebP, BMP, GIF, TIFF, PBM, PGM or PPM (starts with '{}')",
                start.escape_ascii()
            ))
        }
    }
}

/// Refuses an image by its header, before anything is allocated for it.
pub(super) fn check_size(width_px: u32, height_px: u32, limits: &Limits) -> Result<(), String> {
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
pub(super) fn allocate(into: &mut RgbImage, width_px: u32, height_px: u32, channels: usize) -> Result<(), Fault> {
    let needed = (width_px as usize).checked_mul(height_px as usize).and_then(|n| n.checked_mul(channels));
    let needed = needed.ok_or_else(|| format!("{width_px} x {height_px} px does not fit into the address space"))?;
    grown(&mut into.pixels, needed, 0, &format!("{width_px} x {height_px} px"))?;
    into.width_px = width_px;
    into.height_px = height_px;
    Ok(())
}
