//! Bytes to normalised floats, channels first. Owns the formula; the caller owns the memory it is written to.

use crate::decode::RgbImage;

/// Means of ImageNet's channels R, G, B, in [0, 1].
pub const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// Standard deviations of ImageNet's channels R, G, B, in [0, 1].
pub const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

/// The values `(x / 255 - mean) / std` of every byte in every channel.
///
/// Bit-equal to the usual NumPy code that works in place on a float32 array with float64 constants: each of the three
/// steps is computed in f64 and rounded to f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalize {
    table: Box<[[f32; 256]; 3]>,
}

impl Normalize {
    /// The table for these means and standard deviations (of values in [0, 1]).
    pub fn new(mean: [f64; 3], std: [f64; 3]) -> Normalize {
        let mut table = Box::new([[0.0; 256]; 3]);
        for c in 0..3 {
            for x in 0..256 {
                let unit = (x as f64 / 255.0) as f32;
                let centred = (f64::from(unit) - mean[c]) as f32;
                table[c][x] = (f64::from(centred) / std[c]) as f32;
            }
        }
        Normalize { table }
    }

    /// Writes `image` (H, W, 3) to `into` as (3, H, W).
    ///
    /// # Panics
    /// If `into` does not hold exactly `3 * H * W` values.
    pub fn write_chw(&self, image: &RgbImage, into: &mut [f32]) {
        assert_eq!(into.len(), image.pixels.len(), "one float per byte of the image");
        let plane = into.len() / 3;
        let (red, rest) = into.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let [reds, greens, blues] = &*self.table;
        for (((pixel, r), g), b) in image.pixels.as_chunks::<3>().0.iter().zip(red).zip(green).zip(blue) {
            *r = reds[usize::from(pixel[0])];
            *g = greens[usize::from(pixel[1])];
            *b = blues[usize::from(pixel[2])];
        }
    }
}

impl Default for Normalize {
    /// ImageNet's numbers.
    fn default() -> Normalize {
        Normalize::new(IMAGENET_MEAN, IMAGENET_STD)
    }
}
