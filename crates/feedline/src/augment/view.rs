//! The part of a picture that the first operation needs, and the factor by which the decoder may shrink that part. Owns
//! the arithmetic between the whole picture and a decoded part; it needs no pixels, so a view can be drawn from a
//! picture's size before anything is decoded.

use super::resize::{self, Filter, FractionalBox};
use crate::decode::{CropBox, RgbImage};

/// A part of a picture, resized to a fixed size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    part: Part,
    size_px: [u32; 2],
    filter: Filter,
    picture_px: [u32; 2],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    /// Pixels outside have no influence: a crop, then a resize.
    Cut(CropBox),
    /// The filter also reads around the part: a resize, then a crop.
    Around(FractionalBox),
}

impl View {
    /// The part `part` of a picture of `width_px` x `height_px`, cut out and resized to `size_px` (height, width).
    pub(super) fn cut(part: CropBox, size_px: [u32; 2], filter: Filter, (width_px, height_px): (u32, u32)) -> View {
        View { part: Part::Cut(part), size_px, filter, picture_px: [height_px, width_px] }
    }

    /// The part `part` of a picture that is resized as a whole.
    pub(super) fn around(
        part: FractionalBox,
        size_px: [u32; 2],
        filter: Filter,
        (width_px, height_px): (u32, u32),
    ) -> View {
        View { part: Part::Around(part), size_px, filter, picture_px: [height_px, width_px] }
    }

    fn sides(&self) -> FractionalBox {
        match self.part {
            Part::Around(part) => part,
            Part::Cut(part) => part.into(),
        }
    }

    /// The pixels of the picture that the result depends on.
    pub fn needed(&self) -> CropBox {
        let Part::Around(part) = self.part else {
            let Part::Cut(part) = self.part else { unreachable!("there are two kinds") };
            return part;
        };
        // A little more than the filter reaches, for the rounding of its ends and of its length.
        let span = |start: f64, length: f64, target_px: u32, whole_px: u32| {
            let reach = self.filter.support() * (length / f64::from(target_px)).max(1.0) + 3.0;
            let first = (start - reach).floor().clamp(0.0, f64::from(whole_px - 1)) as u32;
            let end = (start + length + reach).ceil().clamp(f64::from(first + 1), f64::from(whole_px)) as u32;
            (first, end - first)
        };
        let (left_px, width_px) = span(part.left_px, part.width_px, self.size_px[1], self.picture_px[1]);
        let (top_px, height_px) = span(part.top_px, part.height_px, self.size_px[0], self.picture_px[0]);
        CropBox { left_px, top_px, width_px, height_px }
    }

    /// The factor by which the decoder may shrink the picture: the largest of 1, 2, 4 and 8, at most `max_shrink`, that
    /// leaves at least as many pixels as the result has, so that nothing is enlarged afterwards.
    pub fn shrink(&self, max_shrink: u32) -> u32 {
        let part = self.sides();
        let spare = (part.width_px / f64::from(self.size_px[1])).min(part.height_px / f64::from(self.size_px[0]));
        [8, 4, 2].into_iter().find(|&by| by <= max_shrink && f64::from(by) <= spare).unwrap_or(1)
    }

    /// Resizes the needed part. `source` is a piece of the picture shrunk by `shrink`; its first pixel is `origin` (column,
    /// row) there. Pixels of `source` outside the needed part do not change the result.
    ///
    /// # Panics
    /// If `source` does not hold `needed().shrunk(shrink)`.
    pub fn render(&self, source: &RgbImage, origin: (u32, u32), shrink: u32, into: &mut RgbImage) {
        let (sides, by) = (self.sides(), f64::from(shrink));
        let part = FractionalBox {
            left_px: sides.left_px / by,
            top_px: sides.top_px / by,
            width_px: sides.width_px / by,
            height_px: sides.height_px / by,
        };
        let [height_px, width_px] = self.picture_px;
        let bounds = match self.part {
            Part::Cut(part) => part.shrunk(shrink),
            Part::Around(_) => CropBox { left_px: 0, top_px: 0, width_px, height_px }.shrunk(shrink),
        };
        resize::resize_part(source, origin, bounds, part, self.size_px, self.filter, into);
    }
}
