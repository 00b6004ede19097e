//! Resizing of a part of an image, with antialiasing. Owns the per-thread resizer; knows nothing of how a box is drawn.
//!
//! Bilinear is within one level of Pillow's reducing `resize` for every byte. Bicubic has the same weights, but runs
//! its vertical pass first and Pillow its horizontal one; where it overshoots at hard edges each clamps between the
//! passes, so a few bytes there differ by up to four levels.

use crate::decode::RgbImage;
use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use std::cell::RefCell;

/// The interpolation of a resize. Both widen their support when they reduce, as Pillow's do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Triangle.
    #[default]
    Bilinear,
    /// Catmull-Rom (a = -0.5).
    Bicubic,
}

impl Filter {
    fn algorithm(self) -> ResizeAlg {
        ResizeAlg::Convolution(match self {
            Filter::Bilinear => FilterType::Bilinear,
            Filter::Bicubic => FilterType::CatmullRom,
        })
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

/// A part of an image in fractions of pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FractionalBox {
    pub left_px: f64,
    pub top_px: f64,
    pub width_px: f64,
    pub height_px: f64,
}

thread_local! {
    /// Keeps the resizer's intermediate buffers between images.
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

/// Cuts `part` out of `image` and resizes it to `size_px` (height, width), into `into`. Pixels outside the part have
/// no influence, so this equals Pillow's `crop(..).resize(..)`; there is no copy in between.
///
/// # Panics
/// If `part` is empty or reaches outside the image.
pub fn crop_resize(image: &RgbImage, part: CropBox, size_px: [u32; 2], filter: Filter, into: &mut RgbImage) {
    let whole = source(image);
    let view = TypedCroppedImage::from_ref(&whole, part.left_px, part.top_px, part.width_px, part.height_px)
        .unwrap_or_else(|e| panic!("{part:?} of {} x {} px: {e}", image.width_px, image.height_px));
    assert!(part.width_px > 0 && part.height_px > 0, "an empty part has no pixels to resize");
    run(&view, &ResizeOptions::new().resize_alg(filter.algorithm()), size_px, into);
}

/// Resizes the part `part` to `size_px` (height, width); the filter also reads around the part, so this equals
/// resizing the whole image and then cutting. Clamped to the image.
pub(super) fn resize_within(
    image: &RgbImage,
    part: FractionalBox,
    size_px: [u32; 2],
    filter: Filter,
    into: &mut RgbImage,
) {
    let (width, height) = (f64::from(image.width_px), f64::from(image.height_px));
    let (left, top) = (part.left_px.max(0.0), part.top_px.max(0.0));
    let options = ResizeOptions::new().resize_alg(filter.algorithm()).crop(
        left,
        top,
        part.width_px.min(width - left),
        part.height_px.min(height - top),
    );
    run(&source(image), &options, size_px, into);
}

fn source(image: &RgbImage) -> TypedImageRef<'_, U8x3> {
    TypedImageRef::from_buffer(image.width_px, image.height_px, &image.pixels)
        .expect("an RgbImage holds 3 bytes per pixel")
}

fn run(
    from: &impl fast_image_resize::ImageView<Pixel = U8x3>,
    options: &ResizeOptions,
    [height_px, width_px]: [u32; 2],
    into: &mut RgbImage,
) {
    into.reshape(width_px, height_px);
    let mut target = TypedImage::<U8x3>::from_buffer(width_px, height_px, &mut into.pixels)
        .expect("reshape made room for every pixel");
    RESIZER.with_borrow_mut(|resizer| {
        resizer.resize_typed(from, &mut target, options).expect("the part lies inside the image");
    });
}
