//! Crop boxes: the random resized crop and the centre crop, as pure functions of an image's size. They need no pixels,
//! so that a box can be drawn from a header before anything is decoded.

use super::resize::FractionalBox;
use crate::decode::CropBox;
use crate::plan::rng::SampleRng;

/// Draws the box of a random resized crop of an image of `width_px` x `height_px`.
///
/// Ten times an area (uniform in `scale`, as a fraction of the image) and an aspect ratio width / height (log-uniform
/// in `ratio`) are drawn; the first box that fits is placed uniformly. If none fits, the largest centred box whose
/// ratio lies in `ratio` is taken. The distribution is torchvision's `RandomResizedCrop`.
///
/// The box lies in the image and has at least one pixel for any image of at least one pixel.
pub fn random_resized_box(
    width_px: u32,
    height_px: u32,
    scale: [f64; 2],
    ratio: [f64; 2],
    rng: &mut SampleRng,
) -> CropBox {
    let (width, height) = (f64::from(width_px), f64::from(height_px));
    for _ in 0..10 {
        let area = width * height * rng.uniform(scale[0], scale[1]);
        let aspect = rng.uniform(ratio[0].ln(), ratio[1].ln()).exp();
        let w = (area * aspect).sqrt().round_ties_even();
        let h = (area / aspect).sqrt().round_ties_even();
        if 0.0 < w && w <= width && 0.0 < h && h <= height {
            let (w, h) = (w as u32, h as u32);
            let top_px = rng.below(u64::from(height_px - h) + 1) as u32;
            let left_px = rng.below(u64::from(width_px - w) + 1) as u32;
            return CropBox { left_px, top_px, width_px: w, height_px: h };
        }
    }
    let image_ratio = width / height;
    let (w, h) = if image_ratio < ratio[0] {
        (width, (width / ratio[0]).round_ties_even())
    } else if image_ratio > ratio[1] {
        ((height * ratio[1]).round_ties_even(), height)
    } else {
        (width, height)
    };
    let (w, h) = (w.clamp(1.0, width) as u32, h.clamp(1.0, height) as u32);
    CropBox { left_px: (width_px - w) / 2, top_px: (height_px - h) / 2, width_px: w, height_px: h }
}

/// Width and height after the shorter side was resized to `shorter_px`: the longer one is `int(shorter_px * long /
/// short)`, as torchvision has it.
pub fn shorter_side_size(width_px: u32, height_px: u32, shorter_px: u32) -> (u64, u64) {
    let longer = |long: u32, short: u32| u64::from(shorter_px) * u64::from(long) / u64::from(short.max(1));
    if width_px < height_px {
        (u64::from(shorter_px), longer(height_px, width_px))
    } else {
        (longer(width_px, height_px), u64::from(shorter_px))
    }
}

/// Offset of a centred part of `part_px` in `whole_px`: half the rest, ties to even as Python's `round`.
pub fn centre_offset(whole_px: u64, part_px: u64) -> u64 {
    (whole_px.saturating_sub(part_px) as f64 / 2.0).round_ties_even() as u64
}

/// The part of an image that a resize of the shorter side to `shorter_px` and a centre crop to `size_px` (height,
/// width) would show. The sides of `size_px` must not exceed `shorter_px`.
pub(super) fn centre_box(width_px: u32, height_px: u32, shorter_px: u32, size_px: [u32; 2]) -> FractionalBox {
    let (wide, high) = shorter_side_size(width_px, height_px, shorter_px);
    let (per_x, per_y) = (f64::from(width_px) / wide as f64, f64::from(height_px) / high as f64);
    let (h, w) = (u64::from(size_px[0]), u64::from(size_px[1]));
    FractionalBox {
        left_px: centre_offset(wide, w) as f64 * per_x,
        top_px: centre_offset(high, h) as f64 * per_y,
        width_px: w as f64 * per_x,
        height_px: h as f64 * per_y,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHOTO: ([f64; 2], [f64; 2]) = ([0.08, 1.0], [3.0 / 4.0, 4.0 / 3.0]);

    fn boxes(size: (u32, u32), (scale, ratio): ([f64; 2], [f64; 2]), n: u64) -> Vec<CropBox> {
        (0..n).map(|i| random_resized_box(size.0, size.1, scale, ratio, &mut SampleRng::new(3, 0, i, "crop"))).collect()
    }

    fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
        let n = values.len() as f64;
        values.sum::<f64>() / n
    }

    /// Independent of the drawing: the distribution is that of (area, log ratio) uniform over a rectangle, kept where
    /// the box fits. Integrated on a grid, without a random number.
    fn expected(size: (f64, f64), (scale, ratio): ([f64; 2], [f64; 2])) -> [f64; 4] {
        let mut sums = [0.0; 5];
        for i in 0..2000 {
            let area = scale[0] + (scale[1] - scale[0]) * (f64::from(i) + 0.5) / 2000.0;
            for j in 0..500 {
                let log = ratio[0].ln() + (ratio[1] / ratio[0]).ln() * (f64::from(j) + 0.5) / 500.0;
                let aspect = log.exp();
                let (w, h) = ((area * size.0 * size.1 * aspect).sqrt(), (area * size.0 * size.1 / aspect).sqrt());
                if w < size.0 + 0.5 && h < size.1 + 0.5 {
                    for (sum, term) in sums.iter_mut().zip([1.0, area, area * area, log, log * log]) {
                        *sum += term;
                    }
                }
            }
        }
        [sums[1] / sums[0], sums[2] / sums[0], sums[3] / sums[0], sums[4] / sums[0]]
    }

    #[test]
    fn areas_and_ratios_follow_torchvisions_distribution() {
        let light = ([0.7, 1.0], [0.9, 1.1]);
        for (size, law) in [((500, 375), PHOTO), ((300, 300), PHOTO), ((240, 320), PHOTO), ((400, 400), light)] {
            let boxes = boxes(size, law, 20_000);
            let total = f64::from(size.0) * f64::from(size.1);
            let areas = boxes.iter().map(|b| f64::from(b.width_px) * f64::from(b.height_px) / total);
            let logs = boxes.iter().map(|b| (f64::from(b.width_px) / f64::from(b.height_px)).ln());
            let got = [mean(areas.clone()), mean(areas.map(|a| a * a)), mean(logs.clone()), mean(logs.map(|l| l * l))];
            let expected = expected((size.0.into(), size.1.into()), law);
            for (got, expected) in got.into_iter().zip(expected) {
                // Four standard errors of the widest of them, and the rounding of sides to whole pixels.
                assert!((got - expected).abs() < 0.009, "{size:?}: {got} instead of {expected}");
            }
        }
    }

    #[test]
    fn boxes_are_placed_uniformly() {
        let boxes = boxes((500, 375), PHOTO, 20_000);
        let free = |b: &&CropBox| b.width_px < 400 && b.height_px < 300;
        let place = |b: &CropBox| {
            [f64::from(b.left_px) / f64::from(500 - b.width_px), f64::from(b.top_px) / f64::from(375 - b.height_px)]
        };
        let places: Vec<[f64; 2]> = boxes.iter().filter(free).map(place).collect();
        for axis in 0..2 {
            let m = mean(places.iter().map(|p| p[axis]));
            let squares = mean(places.iter().map(|p| p[axis] * p[axis]));
            assert!((m - 0.5).abs() < 0.012 && (squares - 1.0 / 3.0).abs() < 0.012, "axis {axis}: {m} {squares}");
        }
    }

    #[test]
    fn an_image_that_no_box_fits_is_cut_in_the_centre() {
        for (size, expect) in [
            ((1000, 10), CropBox { left_px: 493, top_px: 0, width_px: 13, height_px: 10 }),
            ((10, 1000), CropBox { left_px: 0, top_px: 493, width_px: 10, height_px: 13 }),
        ] {
            // A scale of 1 cannot fit, so every try fails.
            let (_, ratio) = PHOTO;
            assert_eq!(random_resized_box(size.0, size.1, [1.0, 1.0], ratio, &mut SampleRng::new(0, 0, 0, "")), expect);
        }
    }

    #[test]
    fn boxes_lie_inside_images_of_any_shape() {
        for size in [(1, 1), (1, 2), (2, 1), (1, 5000), (5000, 1), (3, 7), (65_535, 2)] {
            for b in boxes(size, PHOTO, 200) {
                assert!(b.width_px >= 1 && b.height_px >= 1, "{size:?}: {b:?}");
                assert!(b.left_px + b.width_px <= size.0 && b.top_px + b.height_px <= size.1, "{size:?}: {b:?}");
            }
        }
    }

    #[test]
    fn offsets_and_sizes_are_torchvisions() {
        // int(round((h - th) / 2)) with Python's ties to even.
        assert_eq!([225, 227, 229, 224, 298].map(|whole| centre_offset(whole, 224)), [0, 2, 2, 0, 37]);
        assert_eq!(shorter_side_size(500, 375, 224), (298, 224));
        assert_eq!(shorter_side_size(375, 500, 224), (224, 298));
        assert_eq!(shorter_side_size(1, 100_000, 224), (224, 22_400_000));
        assert_eq!(shorter_side_size(10, 10, 32), (32, 32));
    }
}
