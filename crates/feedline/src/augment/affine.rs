//! Affine maps: shear, translate and rotate with the same bytes as Pillow's `Image.transform` and `Image.rotate`, and
//! a smooth one of our own. Owns the sampling; draws nothing.
//!
//! A map takes output coordinates to input coordinates: `x' = a x + b y + c`, `y' = d x + e y + f`, where pixel centres
//! lie at half-integers.

use crate::decode::RgbImage;

/// The six numbers a, b, c, d, e, f.
pub type Map = [f64; 6];

/// The grey that appears where a map looks outside its image.
pub(crate) const FILL: u8 = 128;

/// The map of Pillow's `Image.rotate(degrees)`: counter-clockwise about the centre, without growing.
pub fn rotation(width_px: u32, height_px: u32, degrees: f64) -> Map {
    let angle = -(degrees.rem_euclid(360.0)).to_radians();
    // Pillow rounds to 15 digits so that right angles are exact.
    let round = |x: f64| (x * 1e15).round() / 1e15;
    let (cos, sin) = (round(angle.cos()), round(angle.sin()));
    let (cx, cy) = (f64::from(width_px) / 2.0, f64::from(height_px) / 2.0);
    let (a, b, d, e) = (cos, sin, round(-angle.sin()), cos);
    [a, b, a * -cx + b * -cy + cx, d, e, d * -cx + e * -cy + cy]
}

/// Nearest neighbour with [`FILL`] outside: Pillow's `transform(size, AFFINE, map, NEAREST, fillcolor=(128,) * 3)`,
/// for sides below 32,768 px (above, Pillow leaves fixed point).
pub fn nearest(image: &mut RgbImage, map: Map, scratch: &mut RgbImage) {
    let (width, height) = (i64::from(image.width_px), i64::from(image.height_px));
    let source = begin(image, scratch);
    // A pure scale or shift is exact in Pillow, anything else runs in 16.16 fixed point, row by row.
    let exact = map[1] == 0.0 && map[3] == 0.0;
    let fixed = |v: f64| (v * 65536.0 + 0.5).floor() as i64;
    let [a, b, c, d, e, f] = map;
    let (x0, y0) = (c + a * 0.5 + b * 0.5, f + d * 0.5 + e * 0.5);
    let (step_x, step_y) = ([fixed(a), fixed(d)], [fixed(b), fixed(e)]);
    let (mut xo, mut yo) = (x0, y0);
    for y in 0..height {
        let (mut xx, mut yy) = (fixed(x0) + y * step_y[0], fixed(y0) + y * step_y[1]);
        for x in 0..width {
            let (xin, yin) = if exact { (xo.floor() as i64, yo.floor() as i64) } else { (xx >> 16, yy >> 16) };
            if (0..width).contains(&xin) && (0..height).contains(&yin) {
                let (from, to) = (3 * (yin * width + xin) as usize, 3 * (y * width + x) as usize);
                image.pixels[to..to + 3].copy_from_slice(&source[from..from + 3]);
            }
            xx += step_x[0];
            yy += step_x[1];
            xo += a;
        }
        xo = x0;
        yo += e;
    }
}

/// Bicubic (a = -1, as Pillow's transform has it) with [`FILL`] outside: Pillow's `transform(size, AFFINE, map,
/// BICUBIC, fillcolor=(128,) * 3)`.
pub fn bicubic(image: &mut RgbImage, map: Map, scratch: &mut RgbImage) {
    let (width, height) = (image.width_px as usize, image.height_px as usize);
    let source = begin(image, scratch);
    let [a, b, c, d, e, f] = map;
    for y in 0..height {
        for x in 0..width {
            let (px, py) = (x as f64 + 0.5, y as f64 + 0.5);
            let (xin, yin) = (a * px + b * py + c, d * px + e * py + f);
            if !(xin >= 0.0 && xin < width as f64 && yin >= 0.0 && yin < height as f64) {
                continue;
            }
            let (xin, yin) = (xin - 0.5, yin - 0.5);
            let (left, top) = (xin.floor(), yin.floor());
            let (dx, dy) = (xin - left, yin - top);
            // The four columns and rows around the point, clamped to the image.
            let around = |first: f64, end: usize| {
                let first = first as i64 - 1;
                [0, 1, 2, 3].map(|i| (first + i).clamp(0, end as i64 - 1) as usize)
            };
            let (columns, rows) = (around(left, width), around(top, height));
            let to = 3 * (y * width + x);
            for channel in 0..3 {
                let along = |row: usize| {
                    cubic(columns.map(|column| f64::from(source[3 * (row * width + column) + channel])), dx)
                };
                // A shear along x never leaves its row: one row gives the same value with a quarter of the work.
                let value = if dy == 0.0 { along(rows[1]) } else { cubic(rows.map(along), dy) };
                image.pixels[to + channel] = value.clamp(0.0, 255.0) as u8;
            }
        }
    }
}

/// The cubic through four neighbours, at distance `t` from the second (Keys 1981 with a = -1).
fn cubic([v1, v2, v3, v4]: [f64; 4], t: f64) -> f64 {
    let p2 = -v1 + v3;
    let p3 = 2.0 * (v1 - v2) + v3 - v4;
    let p4 = -v1 + v2 - v3 + v4;
    v2 + t * (p2 + t * (p3 + t * p4))
}

/// A pixel in three 16-bit lanes, so that one multiplication serves all channels.
fn lanes([r, g, b]: [u8; 3]) -> u64 {
    u64::from(r) | u64::from(g) << 16 | u64::from(b) << 32
}

/// From `a` at `t` = 0 to `b` at 256, rounded, in each lane.
fn lerp(a: u64, b: u64, t: u64) -> u64 {
    (a * (256 - t) + b * t + 0x0080_0080_0080) >> 8 & 0x00FF_00FF_00FF
}

/// Bilinear with the border repeated outside, so that no foreign colour enters the image. Weights of 8 bits, rounded
/// along x and again along y.
pub(crate) fn bilinear_edge(image: &mut RgbImage, map: Map, scratch: &mut RgbImage) {
    let (width, height) = (i64::from(image.width_px), i64::from(image.height_px));
    std::mem::swap(image, scratch);
    image.reshape(scratch.width_px, scratch.height_px);
    let source = scratch.pixels.as_chunks::<3>().0;
    // 16.16 fixed point, clamped far outside any image so that a wild map cannot overflow.
    let fixed = |v: f64| (v.clamp(-1e9, 1e9) * 65536.0).round() as i64;
    let [a, b, c, d, e, f] = map;
    let (step_x, step_y) = (fixed(a), fixed(d));
    for (y, row) in image.pixels.as_chunks_mut::<3>().0.chunks_exact_mut(width as usize).enumerate() {
        let py = y as f64 + 0.5;
        let mut xx = fixed(a * 0.5 + b * py + c - 0.5);
        let mut yy = fixed(d * 0.5 + e * py + f - 0.5);
        for pixel in row {
            let (x, y) = (xx >> 16, yy >> 16);
            let (dx, dy) = ((xx >> 8 & 255) as u64, (yy >> 8 & 255) as u64);
            let column = |x: i64| x.clamp(0, width - 1) as usize;
            let line = |y: i64| (y.clamp(0, height - 1) * width) as usize;
            let (left, right, top, bottom) = (column(x), column(x + 1), line(y), line(y + 1));
            let upper = lerp(lanes(source[top + left]), lanes(source[top + right]), dx);
            let lower = lerp(lanes(source[bottom + left]), lanes(source[bottom + right]), dx);
            let mixed = lerp(upper, lower, dy);
            *pixel = [mixed as u8, (mixed >> 16) as u8, (mixed >> 32) as u8];
            xx += step_x;
            yy += step_y;
        }
    }
}

/// Moves the image's pixels to `scratch` and leaves the image filled with grey.
fn begin<'a>(image: &mut RgbImage, scratch: &'a mut RgbImage) -> &'a [u8] {
    std::mem::swap(image, scratch);
    image.reshape(scratch.width_px, scratch.height_px);
    image.pixels.fill(FILL);
    &scratch.pixels
}
