//! Colour operations on whole images: the same bytes as Pillow's `ImageOps` and `ImageEnhance`. Draws nothing.

use crate::decode::RgbImage;

/// Keeps the `bits` (0 to 8) high bits of every byte: `ImageOps.posterize`.
pub fn posterize(image: &mut RgbImage, bits: u32) {
    let mask = !((1u32 << (8 - bits.min(8))) - 1) as u8;
    image.pixels.iter_mut().for_each(|x| *x &= mask);
}

/// Inverts every byte at or above `threshold` (0 to 256): `ImageOps.solarize`.
pub fn solarize(image: &mut RgbImage, threshold: f64) {
    let table: [u8; 256] = std::array::from_fn(|i| if (i as f64) < threshold { i as u8 } else { 255 - i as u8 });
    image.pixels.iter_mut().for_each(|x| *x = table[usize::from(*x)]);
}

/// Inverts every byte: `ImageOps.invert`.
pub fn invert(image: &mut RgbImage) {
    image.pixels.iter_mut().for_each(|x| *x = 255 - *x);
}

/// Stretches each channel to the full range: `ImageOps.autocontrast` without a cut-off.
pub fn autocontrast(image: &mut RgbImage) {
    map_channels(image, |counts| {
        let low = counts.iter().position(|&n| n > 0)?;
        let high = counts.iter().rposition(|&n| n > 0)?;
        if high == low {
            return None;
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        Some(std::array::from_fn(|i| (i as f64 * scale + offset).clamp(0.0, 255.0) as u8))
    });
}

/// Spreads each channel's values evenly: `ImageOps.equalize` without a mask.
pub fn equalize(image: &mut RgbImage) {
    map_channels(image, |counts| {
        let last = counts.iter().rposition(|&n| n > 0)?;
        let step = (counts.iter().sum::<u64>() - counts[last]) / 255;
        if step == 0 {
            return None;
        }
        let mut below = step / 2;
        Some(std::array::from_fn(|i| {
            let level = below / step;
            below += counts[i];
            level.min(255) as u8
        }))
    });
}

/// Blends with the image's grey version; 0 is grey, 1 the image: `ImageEnhance.Color`.
pub fn saturation(image: &mut RgbImage, factor: f64) {
    for pixel in image.pixels.as_chunks_mut::<3>().0 {
        let grey = luma(pixel);
        *pixel = pixel.map(|x| blend(grey, x, factor as f32));
    }
}

/// Blends with the image's mean grey; 0 is flat, 1 the image: `ImageEnhance.Contrast`.
pub fn contrast(image: &mut RgbImage, factor: f64) {
    let pixels = image.pixels.as_chunks::<3>().0;
    let sum: u64 = pixels.iter().map(|p| u64::from(luma(p))).sum();
    let mean = (sum as f64 / pixels.len().max(1) as f64 + 0.5) as u8;
    blend_with_value(image, mean, factor);
}

/// Blends with black; 0 is black, 1 the image: `ImageEnhance.Brightness`.
pub fn brightness(image: &mut RgbImage, factor: f64) {
    blend_with_value(image, 0, factor);
}

/// Blends with a smoothed version (3 x 3, centre weight 5 of 13; the border is not smoothed); 0 is smooth, 1 the
/// image: `ImageEnhance.Sharpness`.
pub fn sharpness(image: &mut RgbImage, factor: f64) {
    let (width, height) = (image.width_px as usize, image.height_px as usize);
    if width < 3 || height < 3 {
        return;
    }
    let stride = 3 * width;
    // The original values of the row above and of this row; the row below is not changed yet.
    let mut above = image.pixels[..stride].to_vec();
    let mut here = above.clone();
    for y in 1..height - 1 {
        let (upper, below) = image.pixels.split_at_mut((y + 1) * stride);
        let out = &mut upper[y * stride..];
        here.copy_from_slice(out);
        for at in 3..stride - 3 {
            let row = |row: &[u8]| [at - 3, at, at + 3].map(|i| u32::from(row[i]));
            let sum: u32 = [row(&above), row(&here), row(below)].as_flattened().iter().sum();
            // No multiple of 1/13 lies half-way between two integers, so rounding needs no float.
            let smooth = (2 * (sum + 4 * u32::from(here[at])) + 13) / 26;
            out[at] = blend(smooth as u8, here[at], factor as f32);
        }
        std::mem::swap(&mut above, &mut here);
    }
}

/// ITU-R 601 luma in 16-bit fixed point, rounded: Pillow's `convert("L")`.
fn luma([r, g, b]: &[u8; 3]) -> u8 {
    ((u32::from(*r) * 19595 + u32::from(*g) * 38470 + u32::from(*b) * 7471 + 0x8000) >> 16) as u8
}

/// Pillow's `Image.blend`: from `a` at factor 0 to `b` at factor 1 and beyond, truncated and clamped, in f32.
fn blend(a: u8, b: u8, factor: f32) -> u8 {
    (f32::from(a) + factor * (f32::from(b) - f32::from(a))).clamp(0.0, 255.0) as u8
}

fn blend_with_value(image: &mut RgbImage, value: u8, factor: f64) {
    let table: [u8; 256] = std::array::from_fn(|i| blend(value, i as u8, factor as f32));
    image.pixels.iter_mut().for_each(|x| *x = table[usize::from(*x)]);
}

/// Maps each channel by the table that `table` makes of its histogram; `None` leaves the channel alone.
fn map_channels(image: &mut RgbImage, table: impl Fn(&[u64; 256]) -> Option<[u8; 256]>) {
    let pixels = image.pixels.as_chunks_mut::<3>().0;
    let mut counts = [[0u64; 256]; 3];
    for pixel in &*pixels {
        for (channel, &x) in counts.iter_mut().zip(pixel) {
            channel[usize::from(x)] += 1;
        }
    }
    for (c, counts) in counts.iter().enumerate() {
        if let Some(table) = table(counts) {
            pixels.iter_mut().for_each(|pixel| pixel[c] = table[usize::from(pixel[c])]);
        }
    }
}
