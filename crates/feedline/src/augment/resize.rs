//! Resizing of a part of an image, with antialiasing. Owns the way from a box to its pixels; knows nothing of how a box
//! is chosen.
//!
//! Every byte is Pillow's `resize`: the weights of `weights.rs`, a pass over the rows, rounded to bytes, then one over
//! the columns. `portable.rs` is the definition, `avx2.rs` the same for the processors that have it.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod passes;
mod portable;
mod weights;

pub use crate::decode::CropBox;
pub use weights::Filter;

use crate::decode::RgbImage;
use passes::{Code, PixelRows, Resizer};
use std::cell::RefCell;
use weights::Axis;

/// A part of an image in fractions of pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FractionalBox {
    pub left_px: f64,
    pub top_px: f64,
    pub width_px: f64,
    pub height_px: f64,
}

impl From<CropBox> for FractionalBox {
    fn from(part: CropBox) -> FractionalBox {
        FractionalBox {
            left_px: part.left_px.into(),
            top_px: part.top_px.into(),
            width_px: part.width_px.into(),
            height_px: part.height_px.into(),
        }
    }
}

thread_local! {
    /// Keeps weights and intermediate rows between images.
    static RESIZER: RefCell<Resizer> = RefCell::default();
}

/// Cuts `part` out of `image` and resizes it to `size_px` (height, width), into `into`. Pixels outside the part have
/// no influence: these are the bytes of Pillow's `crop(..).resize(..)`, without a copy in between.
///
/// # Panics
/// If `part` is empty or reaches outside the image.
pub fn crop_resize(image: &RgbImage, part: CropBox, size_px: [u32; 2], filter: Filter, into: &mut RgbImage) {
    let inside =
        |from: u32, length: u32, whole: u32| length > 0 && from.checked_add(length).is_some_and(|to| to <= whole);
    assert!(
        inside(part.left_px, part.width_px, image.width_px) && inside(part.top_px, part.height_px, image.height_px),
        "{part:?} is empty or reaches outside of {} x {} px",
        image.width_px,
        image.height_px
    );
    let sides = FractionalBox::from(part);
    resize_part(image, (0, 0), part, sides, size_px, filter, into);
}

/// Resizes `part` to `size_px` (height, width). All coordinates are pixels of one picture, of which `image` holds a
/// piece whose first pixel is `origin` (column, row). The filter reads around the part, up to `bounds`: if those
/// are the picture, the result is Pillow's `resize(.., box=part)`; if they are the part, it is Pillow's
/// `crop(part).resize(..)`. Pixels of `image` outside of them, or beyond the filter's reach, do not change the result.
///
/// # Panics
/// If the piece lacks a pixel that the filter reads.
pub(super) fn resize_part(
    image: &RgbImage,
    origin: (u32, u32),
    bounds: CropBox,
    part: FractionalBox,
    size_px: [u32; 2],
    filter: Filter,
    into: &mut RgbImage,
) {
    let axis = |held_px: u32, origin: u32, (from, length): (u32, u32), (part, part_px): (f64, f64), out_px: u32| {
        let skipped_px = from.saturating_sub(origin);
        let axis = Axis::part(length, part - f64::from(from), part_px, out_px, filter);
        (skipped_px as usize, axis.holding(origin.saturating_sub(from), held_px - skipped_px))
    };
    let (columns, rows) = ((bounds.left_px, bounds.width_px), (bounds.top_px, bounds.height_px));
    let (left, across) = axis(image.width_px, origin.0, columns, (part.left_px, part.width_px), size_px[1]);
    let (top, down) = axis(image.height_px, origin.1, rows, (part.top_px, part.height_px), size_px[0]);
    let pitch_bytes = 3 * image.width_px as usize;
    let source = PixelRows { pixels: &image.pixels[top * pitch_bytes + 3 * left..], pitch_bytes };
    run(&source, [down, across], size_px, into);
}

fn run(source: &PixelRows, [down, across]: [Axis; 2], [height_px, width_px]: [u32; 2], into: &mut RgbImage) {
    into.reshape(width_px, height_px);
    if into.pixels.is_empty() {
        return;
    }
    let code = Code::available().next().expect("portable code is always there");
    RESIZER.with_borrow_mut(|resizer| resizer.run(code, source, across, down, &mut into.pixels));
}
