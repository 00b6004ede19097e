//! Decode: bytes to arrays. Pure functions of the bytes; never reads a file.
//!
//! The format is decided by the first bytes, never by a file name. EXIF orientation is not applied, as Pillow's
//! `Image.open` and torchvision do not. Embedded colour profiles are ignored.

mod jpeg;
mod png;

use std::panic::{AssertUnwindSafe, catch_unwind};

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

/// Runs a decoder so that a panic inside it (the crates are young, the input is hostile) becomes an error text.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("damaged image: the decoder gave up ({})", said.unwrap_or("no reason given")))
    })
}

/// Decodes a JPEG or PNG to RGB, into `into`, whose allocation is reused.
///
/// Every pixel equals what Pillow's `Image.open(..).convert("RGB")` gives, except for 16-bit grey PNG, of which
/// Pillow clips and this takes the high byte. Alpha is dropped. CMYK is converted without a colour profile.
///
/// Damage is refused where it can be seen: broken entropy codes (which Pillow paints over), a wrong checksum, a PNG
/// without its end. Bytes after the end of a picture, and a JPEG that lacks only its end marker, do no harm.
///
/// # Errors
/// A text that says what is wrong: empty, not an image, truncated, damaged, more pixels than `limits` allow. `into`
/// is then empty. Never panics, whatever the bytes.
pub fn decode_rgb(bytes: &[u8], limits: &Limits, into: &mut RgbImage) -> Result<(), String> {
    let result = guarded(|| match format(bytes)? {
        Format::Jpeg => jpeg::decode_rgb(bytes, limits, into),
        Format::Png => png::decode_rgb(bytes, limits, into),
    });
    if result.is_err() {
        // Also gives back what a lying header made us allocate.
        *into = RgbImage::default();
    }
    result
}

/// Width and height in pixels, from the header alone.
///
/// # Errors
/// As [`decode_rgb`], as far as the header shows it; there is no limit on the pixels.
pub fn dimensions(bytes: &[u8]) -> Result<(u32, u32), String> {
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
fn allocate(into: &mut RgbImage, width_px: u32, height_px: u32, channels: usize) -> Result<(), String> {
    let needed = (width_px as usize).checked_mul(height_px as usize).and_then(|n| n.checked_mul(channels));
    let needed = needed.ok_or_else(|| format!("{width_px} x {height_px} px does not fit into the address space"))?;
    let more = needed.saturating_sub(into.pixels.len());
    into.pixels
        .try_reserve_exact(more)
        .map_err(|_| format!("no memory for {width_px} x {height_px} px ({needed} bytes)"))?;
    into.pixels.resize(needed, 0);
    into.width_px = width_px;
    into.height_px = height_px;
    Ok(())
}
