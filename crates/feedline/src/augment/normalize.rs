//! Bytes to normalised floats, channels first, mirrored in the same pass if asked. Owns the formula; the caller owns the
//! output memory.

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
    /// Formulas that compute the table's values without a look-up; `None` if any channel has none.
    formulas: Option<[Formula; 3]>,
}

impl Normalize {
    /// The table for these means and standard deviations (of values in [0, 1]). Takes under a millisecond.
    pub fn new(mean: [f64; 3], std: [f64; 3]) -> Normalize {
        let mut table = Box::new([[0.0; 256]; 3]);
        for c in 0..3 {
            for x in 0..256 {
                let unit = (x as f64 / 255.0) as f32;
                let centred = (f64::from(unit) - mean[c]) as f32;
                table[c][x] = (f64::from(centred) / std[c]) as f32;
            }
        }
        let [Some(red), Some(green), Some(blue)] = std::array::from_fn(|c| Formula::find(mean[c], std[c], &table[c]))
        else {
            return Normalize { table, formulas: None };
        };
        Normalize { table, formulas: Some([red, green, blue]) }
    }

    /// As [`Normalize::new`], for code that does not work in place: `x.astype(float32) / 255`, from which float64 arrays of
    /// means are subtracted and by which it is divided, has float64 values, rounded to f32 once at the end.
    pub fn in_float64(mean: [f64; 3], std: [f64; 3]) -> Normalize {
        let value = |c: usize, x: usize| ((f64::from(x as f32 / 255.0) - mean[c]) / std[c]) as f32;
        let table = Box::new(std::array::from_fn(|c| std::array::from_fn(|x| value(c, x))));
        Normalize { table, formulas: None }
    }

    /// The values of every byte in every channel.
    pub fn table(&self) -> &[[f32; 256]; 3] {
        &self.table
    }

    /// Writes `image` (H, W, 3) to `into` as (3, H, W), left and right exchanged if `mirrored`.
    ///
    /// # Panics
    /// If `into` does not hold exactly `3 * H * W` values.
    pub fn write_chw(&self, image: &RgbImage, mirrored: bool, into: &mut [f32]) {
        assert_eq!(into.len(), image.pixels.len(), "one float per byte of the image");
        let (red, rest) = into.split_at_mut(image.pixels.len() / 3);
        let (green, blue) = rest.split_at_mut(image.pixels.len() / 3);
        self.write_planes(image, mirrored, [red, green, blue]);
    }

    /// As [`Normalize::write_chw`], to the planes of red, green and blue, wherever they are.
    ///
    /// # Panics
    /// If a plane does not hold exactly `H * W` values.
    pub fn write_planes(&self, image: &RgbImage, mirrored: bool, planes: [&mut [f32]; 3]) {
        let pixels = image.pixels.as_chunks::<3>().0;
        assert!(planes.iter().all(|plane| plane.len() == pixels.len()), "one float per byte of the image");
        // Without mirroring the row boundaries do not matter, so all pixels form one row.
        let row_px = if mirrored { image.width_px as usize } else { pixels.len() };
        #[cfg(target_arch = "x86_64")]
        if let Some(formulas) = &self.formulas
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
        {
            #[expect(unsafe_code, reason = "a call of code for AVX2 and FMA, which were detected")]
            // SAFETY: the condition says that this processor has both.
            unsafe {
                avx2::write_rows(formulas, &self.table, pixels, row_px, mirrored, planes);
            }
            return;
        }
        for (pixels, planes) in rows(pixels, row_px, planes) {
            look_up(&self.table, pixels, mirrored, planes);
        }
    }
}

impl Default for Normalize {
    /// ImageNet's numbers.
    fn default() -> Normalize {
        Normalize::new(IMAGENET_MEAN, IMAGENET_STD)
    }
}

/// The rows of an image and of its planes.
fn rows<'a>(
    pixels: &'a [[u8; 3]],
    row_px: usize,
    [red, green, blue]: [&'a mut [f32]; 3],
) -> impl Iterator<Item = (&'a [[u8; 3]], [&'a mut [f32]; 3])> {
    // An image without pixels has no rows; the chunk length must not be 0.
    let row_px = row_px.max(1);
    let [red, green, blue] = [red, green, blue].map(|plane| plane.chunks_exact_mut(row_px));
    pixels.chunks_exact(row_px).zip(red.zip(green).zip(blue)).map(|(pixels, ((r, g), b))| (pixels, [r, g, b]))
}

/// The reference implementation: every byte is looked up in its channel's table.
fn look_up(table: &[[f32; 256]; 3], pixels: &[[u8; 3]], mirrored: bool, [red, green, blue]: [&mut [f32]; 3]) {
    let [reds, greens, blues] = table;
    let write = |pixel: &[u8; 3], r: &mut f32, g: &mut f32, b: &mut f32| {
        *r = reds[usize::from(pixel[0])];
        *g = greens[usize::from(pixel[1])];
        *b = blues[usize::from(pixel[2])];
    };
    let planes = red.iter_mut().zip(green).zip(blue);
    if mirrored {
        pixels.iter().rev().zip(planes).for_each(|(pixel, ((r, g), b))| write(pixel, r, g, b));
    } else {
        pixels.iter().zip(planes).for_each(|(pixel, ((r, g), b))| write(pixel, r, g, b));
    }
}

/// Four fused steps in f32 that give a channel's table, bit for bit.
///
/// Each step of the definition rounds a number of 53 bits to 24. A fused multiply-add rounds once, so it can do the
/// same wherever the exact number can be written as product and sum of f32:
///
/// - `x / 255` in units of 2^-24 is `X + x / 255` with `X = 0x010101 x`, and `x / 255` is nearly `X * 2^-24`;
/// - the mean, an f64, is the product of two f32, up to an error that changes no rounding (a search finds the two);
/// - `1 / std` is the sum of two f32.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Formula {
    /// Their product is the mean, in units of 2^-24.
    mean: [f32; 2],
    /// Their sum is 1 / std, in units of 2^24.
    inverse_std: [f32; 2],
}

/// The unit in which a [`Formula`] counts.
const UNIT: f32 = 1.0 / (1 << 24) as f32;

impl Formula {
    /// The formula of a channel; none if the search finds no pair of factors that gives exactly `table`.
    fn find(mean: f64, std: f64, table: &[f32; 256]) -> Option<Formula> {
        let high = (f64::from(UNIT) / std) as f32;
        let inverse_std = [high, (f64::from(UNIT) / std - f64::from(high)) as f32];
        let mean = mean / f64::from(UNIT);
        let mut smallest = f64::INFINITY;
        // Factors from 1 to 2: every 128th f32 there.
        (0..1 << 16).find_map(|i| {
            let factor = f32::from_bits(1.0_f32.to_bits() + (i << 7));
            let other = (mean / f64::from(factor)) as f32;
            // Exact: a product of two f32 fits in an f64.
            let error = (mean - f64::from(factor) * f64::from(other)).abs();
            if error >= smallest {
                return None;
            }
            smallest = error;
            let formula = Formula { mean: [factor, other], inverse_std };
            (0..=255).zip(table).all(|(x, value)| formula.value(x).to_bits() == value.to_bits()).then_some(formula)
        })
    }

    /// The value of byte `x`, in the same steps as the vector code computes it in every lane.
    fn value(&self, x: u8) -> f32 {
        let x = (0x01_01_01 * u32::from(x)) as f32;
        let unit = x.mul_add(UNIT, x);
        let centred = (-self.mean[0]).mul_add(self.mean[1], unit);
        centred.mul_add(self.inverse_std[0], centred * self.inverse_std[1])
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Formula, UNIT, look_up, rows};
    use std::arch::x86_64::*;

    /// Processes eight pixels a step; the rest of a row is looked up in the table.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn write_rows(
        formulas: &[Formula; 3],
        table: &[[f32; 256]; 3],
        pixels: &[[u8; 3]],
        row_px: usize,
        mirrored: bool,
        planes: [&mut [f32]; 3],
    ) {
        let lanes = formulas.map(|f| Lanes {
            mean: f.mean.map(|v| _mm256_set1_ps(v)),
            inverse_std: f.inverse_std.map(|v| _mm256_set1_ps(v)),
        });
        let spread = [0, 1, 2].map(|channel| spread(channel, mirrored));
        for (pixels, [red, green, blue]) in rows(pixels, row_px, planes) {
            let (red, red_rest) = red.as_chunks_mut::<8>();
            let (green, green_rest) = green.as_chunks_mut::<8>();
            let (blue, blue_rest) = blue.as_chunks_mut::<8>();
            let planes = red.iter_mut().zip(green).zip(blue);
            // In a mirrored row the last pixels come first, so what is left over lies at the start of `pixels`.
            let rest = if mirrored {
                let (rest, blocks) = pixels.as_rchunks::<8>();
                for (block, ((r, g), b)) in blocks.iter().rev().zip(planes) {
                    write_block(block, true, &spread, &lanes, [r, g, b]);
                }
                rest
            } else {
                let (blocks, rest) = pixels.as_chunks::<8>();
                for (block, ((r, g), b)) in blocks.iter().zip(planes) {
                    write_block(block, false, &spread, &lanes, [r, g, b]);
                }
                rest
            };
            look_up(table, rest, mirrored, [red_rest, green_rest, blue_rest]);
        }
    }

    /// A [`Formula`] in every lane.
    #[derive(Clone, Copy)]
    struct Lanes {
        mean: [__m256; 2],
        inverse_std: [__m256; 2],
    }

    /// The shuffle that makes `0x00xxxxxx` of every byte x of a channel: of pixels 0 to 3 from bytes 0 to 15 of a
    /// block, of pixels 4 to 7 from its bytes 8 to 23 (so that nothing beyond the block is read); or from the last to
    /// the first pixel.
    fn spread(channel: u8, mirrored: bool) -> [u8; 32] {
        let half = |first_byte: u8, into: &mut [u8]| {
            for (pixel, four) in (0..4).zip(into.as_chunks_mut::<4>().0) {
                let pixel = if mirrored { 3 - pixel } else { pixel };
                *four = [first_byte + 3 * pixel + channel; 4];
                // The top bit of an index gives zero.
                four[3] = 0x80;
            }
        };
        let mut all = [0; 32];
        let (low, high) = all.split_at_mut(16);
        half(if mirrored { 4 } else { 0 }, low);
        half(if mirrored { 0 } else { 4 }, high);
        all
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn write_block(
        block: &[[u8; 3]; 8],
        mirrored: bool,
        spread: &[[u8; 32]; 3],
        lanes: &[Lanes; 3],
        into: [&mut [f32; 8]; 3],
    ) {
        let block = block.as_flattened();
        let first: [u8; 16] = *block.first_chunk().expect("16 of 24");
        let last: [u8; 16] = *block.last_chunk().expect("16 of 24");
        let (low, high) = if mirrored { (last, first) } else { (first, last) };
        let bytes = _mm256_set_m128i(bytemuck::must_cast(high), bytemuck::must_cast(low));
        for ((spread, f), into) in spread.iter().zip(lanes).zip(into) {
            let x = _mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, bytemuck::must_cast(*spread)));
            let unit = _mm256_fmadd_ps(x, _mm256_set1_ps(UNIT), x);
            let centred = _mm256_fnmadd_ps(f.mean[0], f.mean[1], unit);
            let value = _mm256_fmadd_ps(centred, f.inverse_std[0], _mm256_mul_ps(centred, f.inverse_std[1]));
            *into = bytemuck::must_cast(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every triple of neighbours differs, and every byte occurs in every channel.
    fn ramp(width_px: u32, height_px: u32) -> RgbImage {
        let pixels = (0..width_px * height_px).flat_map(|i| [i, i * 7 + 1, i / 256 + i * 3].map(|v| v as u8)).collect();
        RgbImage { width_px, height_px, pixels }
    }

    #[test]
    fn usual_means_and_deviations_have_a_formula() {
        for (mean, std) in [
            (IMAGENET_MEAN, IMAGENET_STD),
            ([0.5; 3], [0.5; 3]),
            ([0.0; 3], [1.0; 3]),
            ([0.0; 3], [1.0 / 255.0; 3]),
            ([0.1307; 3], [0.3081; 3]),
            ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
            ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
        ] {
            assert!(Normalize::new(mean, std).formulas.is_some(), "{mean:?} {std:?}");
        }
    }

    #[test]
    fn vector_code_and_table_give_the_same_bits() {
        // NaN and zero have no formula; such a channel is still written, by the table.
        let odd = Normalize::new([f64::NAN, 0.5, 1e300], [0.0, 1.0, 2.0]);
        assert!(odd.formulas.is_none());
        for normalize in [Normalize::default(), odd] {
            for (width, height) in [(0, 0), (1, 1), (7, 3), (8, 2), (9, 4), (24, 5), (31, 2), (64, 64), (224, 3)] {
                let image = ramp(width, height);
                let plane = (width * height) as usize;
                for mirrored in [false, true] {
                    let mut got = vec![0.0; 3 * plane];
                    normalize.write_chw(&image, mirrored, &mut got);
                    for (i, value) in got.iter().enumerate() {
                        let (c, y, x) = (i / plane, i % plane / width as usize, i % width as usize);
                        let x = if mirrored { width as usize - 1 - x } else { x };
                        let byte = image.pixels[3 * (y * width as usize + x) + c];
                        let expected = normalize.table[c][usize::from(byte)];
                        assert_eq!(value.to_bits(), expected.to_bits(), "{width} x {height}, {mirrored}, {i}");
                    }
                }
            }
        }
    }
}
