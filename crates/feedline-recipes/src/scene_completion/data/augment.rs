//! The random changes of RGB-D segmentation: mirror, scale, crop, the same for the pictures and the labels of a sample.
//! Owns the draws and the pixels; what is drawn depends on (seed, pass, sample) alone.
//!
//! Pictures are scaled as by OpenCV's `INTER_LINEAR` (weights of 11 bits, no antialiasing), labels as by `INTER_NEAREST`:
//! <https://docs.opencv.org/4.x/da/d54/group__imgproc__transform.html>, `resize`. Both are made for the crop alone.

use feedline::decode::RgbImage;
use feedline::plan::Request;
use feedline::{Error, Result};
use serde::{Deserialize, Serialize};

/// The random draws of each sample, in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SceneAugment {
    /// Left and right exchanged for half of the samples.
    pub mirror: bool,
    /// One of these factors on height and width; empty for none. TorchSSC's siblings use 0.5, 0.75, 1, 1.25, 1.5, 1.75.
    pub scales: Vec<f64>,
}

impl SceneAugment {
    pub(super) fn check(&self) -> Result<()> {
        match self.scales.iter().find(|scale| !(0.01..=16.0).contains(*scale)) {
            Some(scale) => Err(Error::config(format!("a scale of {scale}"), "Use factors from 0.01 to 16")),
            None => Ok(()),
        }
    }
}

/// The source of a crop's pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    mirrored: bool,
    /// Height and width of the picture, before and after scaling.
    from_px: [u32; 2],
    to_px: [u32; 2],
    /// First row and column of the crop in the scaled picture.
    start_px: [u32; 2],
    /// Rows and columns of padding before it, for pictures smaller than the crop.
    margin_px: [u32; 2],
    /// Height and width of the crop.
    crop_px: [u32; 2],
}

impl Cut {
    /// Draws for a picture of `from_px` (height, width). A larger picture's crop begins anywhere with equal chance, each
    /// side of a smaller one is padded by half of what lacks, the second by one more if it is odd.
    pub(super) fn draw(augment: &SceneAugment, request: &Request, from_px: [u32; 2], crop_px: [u32; 2]) -> Cut {
        let mirrored = augment.mirror && request.rng("augment.mirror").chance(0.5);
        let scale = match augment.scales.len() as u64 {
            0 => 1.0,
            count => augment.scales[request.rng("augment.scale").below(count) as usize],
        };
        let to_px = from_px.map(|px| ((f64::from(px) * scale) as u32).max(1));
        let mut rng = request.rng("augment.crop");
        let start_px = std::array::from_fn(|at| match to_px[at].checked_sub(crop_px[at]) {
            None => 0,
            Some(room) => rng.below(u64::from(room) + 1) as u32,
        });
        let margin_px = std::array::from_fn(|at| crop_px[at].saturating_sub(to_px[at]) / 2);
        Cut { mirrored, from_px, to_px, start_px, margin_px, crop_px }
    }

    /// The whole picture as it is.
    pub(super) fn whole(px: [u32; 2]) -> Cut {
        Cut { mirrored: false, from_px: px, to_px: px, start_px: [0; 2], margin_px: [0; 2], crop_px: px }
    }

    /// Checks that a sample's other picture has the size of the first.
    ///
    /// # Errors
    /// Both sizes, in words.
    pub(super) fn check(&self, [height, width]: [u32; 2]) -> Result<(), String> {
        if [height, width] == self.from_px {
            return Ok(());
        }
        let [expect_height, expect_width] = self.from_px;
        Err(format!("it has {height} x {width} px (height x width), the RGB picture {expect_height} x {expect_width}"))
    }

    /// Rows or columns of the crop that show the picture.
    fn shown(&self, axis: usize) -> std::ops::Range<usize> {
        let start = self.margin_px[axis] as usize;
        start..start + (self.to_px[axis].min(self.crop_px[axis])) as usize
    }

    /// Rows or columns of the picture for one of the scaled picture; with the rounding of OpenCV, which inverts the ratio.
    fn step(&self, axis: usize) -> f64 {
        1.0 / (f64::from(self.to_px[axis]) / f64::from(self.from_px[axis]))
    }

    /// For each shown row or column: the nearest one of the picture.
    fn nearest(&self, axis: usize) -> Vec<usize> {
        let (from, step) = (self.from_px[axis], self.step(axis));
        let source = |at: usize| {
            let place = f64::from(self.start_px[axis]) + at as f64;
            let found = ((place * step) as usize).min(from as usize - 1);
            if axis == 1 && self.mirrored { from as usize - 1 - found } else { found }
        };
        (0..self.shown(axis).len()).map(source).collect()
    }

    /// For each shown row or column: two of the picture, and their weights of 2048.
    fn linear(&self, axis: usize) -> Vec<Tap> {
        let (from, step) = (self.from_px[axis], self.step(axis));
        let tap = |at: usize| {
            let place = ((f64::from(self.start_px[axis]) + at as f64 + 0.5) * step - 0.5) as f32;
            let first = place.floor();
            let mut share = place - first;
            let mut first = first as i64;
            if first < 0 {
                (first, share) = (0, 0.0);
            }
            if first >= i64::from(from) - 1 {
                (first, share) = (i64::from(from) - 1, 0.0);
            }
            let second = (first + 1).min(i64::from(from) - 1);
            // Halves to even, as OpenCV rounds.
            let weights = [1.0 - share, share].map(|part| (part * 2048.0).round_ties_even() as i32);
            let mirror = |at: i64| if axis == 1 && self.mirrored { i64::from(from) - 1 - at } else { at };
            Tap { places: [first, second].map(|at| mirror(at) as usize), weights }
        };
        (0..self.shown(axis).len()).map(tap).collect()
    }

    /// The crop of `image`, each channel through its table into its plane (H, W); padding is 0.
    pub(super) fn picture(&self, image: &RgbImage, tables: [&[f32; 256]; 3], planes: [&mut [f32]; 3]) {
        let [height, width] = self.crop_px.map(|px| px as usize);
        let (rows, columns) = (self.linear(0), self.linear(1));
        let (shown_rows, shown) = (self.shown(0), self.shown(1));
        let row_bytes = 3 * image.width_px as usize;
        // Rows of the picture, scaled in width: 3 channels, times 2048.
        let mut scaled: [(Option<usize>, Vec<i32>); 2] =
            [(None, vec![0; 3 * columns.len()]), (None, vec![0; 3 * columns.len()])];
        let mut planes = planes.map(|plane| plane.chunks_exact_mut(width));
        for y in 0..height {
            let out: [&mut [f32]; 3] = planes.each_mut().map(|plane| plane.next().unwrap_or_default());
            if !shown_rows.contains(&y) {
                out.into_iter().for_each(|row| row.fill(0.0));
                continue;
            }
            let Tap { places, weights } = rows[y - shown_rows.start];
            for (slot, place) in places.into_iter().enumerate() {
                // At the edges both are the same one.
                if scaled[slot].0 == Some(place) || weights[slot] == 0 {
                    continue;
                }
                if scaled[1 - slot].0 == Some(place) {
                    let [first, second] = &mut scaled;
                    std::mem::swap(first, second);
                    continue;
                }
                let pixels = image.pixels[place * row_bytes..][..row_bytes].as_chunks::<3>().0;
                scaled[slot].0 = Some(place);
                for (tap, into) in columns.iter().zip(scaled[slot].1.as_chunks_mut::<3>().0) {
                    let [a, b] = tap.places.map(|at| pixels[at]);
                    for c in 0..3 {
                        into[c] = i32::from(a[c]) * tap.weights[0] + i32::from(b[c]) * tap.weights[1];
                    }
                }
            }
            let (above, below) = (scaled[0].1.as_chunks::<3>().0, scaled[1].1.as_chunks::<3>().0);
            for (c, row) in out.into_iter().enumerate() {
                row[..shown.start].fill(0.0);
                row[shown.end..].fill(0.0);
                for (value, (a, b)) in row[shown.clone()].iter_mut().zip(above.iter().zip(below)) {
                    // OpenCV's own order of shifts, so that its rounding comes out.
                    let sum = ((weights[0] * (a[c] >> 4)) >> 16) + ((weights[1] * (b[c] >> 4)) >> 16);
                    *value = tables[c][((sum + 2) >> 2).clamp(0, 255) as usize];
                }
            }
        }
    }

    /// The crop of `labels` (H, W), each through `table`; padding is 255.
    pub(super) fn labels(&self, labels: &[u8], table: &[i64; 256], into: &mut [i64]) {
        let width = self.crop_px[1] as usize;
        let (rows, columns) = (self.nearest(0), self.nearest(1));
        let (shown_rows, shown) = (self.shown(0), self.shown(1));
        for (y, out) in into.chunks_exact_mut(width).enumerate() {
            out.fill(255);
            if shown_rows.contains(&y) {
                let row = &labels[rows[y - shown_rows.start] * self.from_px[1] as usize..];
                for (value, at) in out[shown.clone()].iter_mut().zip(&columns) {
                    *value = table[usize::from(row[*at])];
                }
            }
        }
    }
}

/// Two neighbours and their weights of 2048.
#[derive(Debug, Clone, Copy)]
struct Tap {
    places: [usize; 2],
    weights: [i32; 2],
}
