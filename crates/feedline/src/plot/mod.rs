//! Pictures for people: a small RGB canvas, and the charts drawn on it. Owns their appearance; knows nothing of the
//! source of the numbers.

mod contact_sheet;
mod heat_map;
mod line_chart;
mod svg;

pub use contact_sheet::{contact_sheet, contact_sheet_within, shrunk};
pub use heat_map::heat_map;
pub use line_chart::{Series, line_chart};
pub use svg::{escaped, line_chart_svg};

use crate::decode::RgbImage;
use crate::error::{Error, Result};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster};

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// Width of every character.
pub(crate) const CHAR_WIDTH_PX: i32 = 7;
/// Height of a line of text.
pub(crate) const LINE_HEIGHT_PX: i32 = 16;

pub(crate) const WHITE: Rgb = [255, 255, 255];
pub(crate) const INK: Rgb = [38, 42, 48];
pub(crate) const FAINT_INK: Rgb = [104, 110, 120];
pub(crate) const GRID: Rgb = [228, 231, 235];

/// Colours that people tell apart, also those who see red and green alike (Okabe and Ito), but for their yellow, which is
/// too faint on white.
const COLOURS: [Rgb; 7] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [0, 0, 0]];

/// How many colours [`colour`] has.
pub const DIFFERENT_COLOURS: usize = 2 * COLOURS.len();

/// The colour of curve `at`: seven, then the same darker; from [`DIFFERENT_COLOURS`] on they come again.
pub fn colour(at: usize) -> Rgb {
    let plain = COLOURS[at % COLOURS.len()];
    match at / COLOURS.len() % 2 {
        0 => plain,
        // Black has no darker shade: grey.
        _ if plain == [0; 3] => [130; 3],
        _ => plain.map(|value| value / 2),
    }
}

/// Charts of one width below each other.
pub fn stacked(charts: &[Canvas]) -> Canvas {
    let width_px = charts.iter().map(|chart| chart.image.width_px).max().unwrap_or_default();
    let mut sheet = Canvas::new(width_px, charts.iter().map(|chart| chart.image.height_px).sum(), WHITE);
    let mut y = 0;
    for Canvas { image } in charts {
        sheet.blit(image, 0, y, image.width_px, image.height_px);
        y += image.height_px as i32;
    }
    sheet
}

/// A picture to draw on. Coordinates count from the top left corner; what falls outside is cut off.
#[derive(Debug, Clone)]
pub struct Canvas {
    image: RgbImage,
}

impl Canvas {
    /// A canvas filled with one colour.
    pub fn new(width_px: u32, height_px: u32, colour: Rgb) -> Canvas {
        let pixels = colour.repeat(width_px as usize * height_px as usize);
        Canvas { image: RgbImage { width_px, height_px, pixels } }
    }

    /// The picture itself.
    pub fn image(&self) -> &RgbImage {
        &self.image
    }

    /// Mixes `colour` into one pixel; coverage 0 leaves it, 1 replaces it.
    fn blend(&mut self, x: i32, y: i32, colour: Rgb, coverage: f32) {
        let (width, height) = (self.image.width_px as i32, self.image.height_px as i32);
        if x < 0 || y < 0 || x >= width || y >= height || coverage <= 0.0 {
            return;
        }
        let at = 3 * (y as usize * width as usize + x as usize);
        for (old, new) in self.image.pixels[at..at + 3].iter_mut().zip(colour) {
            *old = (f32::from(*old) + (f32::from(new) - f32::from(*old)) * coverage.min(1.0)).round() as u8;
        }
    }

    /// Fills a rectangle.
    pub fn fill(&mut self, x: i32, y: i32, width_px: i32, height_px: i32, colour: Rgb) {
        let right = x.saturating_add(width_px).min(self.image.width_px as i32);
        let bottom = y.saturating_add(height_px).min(self.image.height_px as i32);
        for row in y.max(0)..bottom {
            for column in x.max(0)..right {
                self.blend(column, row, colour, 1.0);
            }
        }
    }

    /// The outline of a rectangle, one pixel wide.
    pub fn rect(&mut self, x: i32, y: i32, width_px: i32, height_px: i32, colour: Rgb) {
        self.fill(x, y, width_px, 1, colour);
        self.fill(x, y + height_px - 1, width_px, 1, colour);
        self.fill(x, y, 1, height_px, colour);
        self.fill(x + width_px - 1, y, 1, height_px, colour);
    }

    /// An anti-aliased line through `points`; dashes of 8 px with gaps of 5 px if `dashed`. Points that are not
    /// finite interrupt it.
    pub fn polyline(&mut self, points: &[(f64, f64)], thickness_px: f64, dashed: bool, colour: Rgb) {
        let (width, height) = (self.image.width_px as usize, self.image.height_px as usize);
        // Coverage is collected first, as the maximum over the pieces: joints must not be painted twice.
        let mut coverage = vec![0f32; width * height];
        let reach = thickness_px / 2.0 + 0.5;
        let mut along_px = 0.0;
        for ends in points.windows(2) {
            let [(x0, y0), (x1, y1)] = [ends[0], ends[1]];
            if ![x0, y0, x1, y1].iter().all(|coordinate| coordinate.is_finite()) {
                along_px = 0.0;
                continue;
            }
            let (dx, dy) = (x1 - x0, y1 - y0);
            let length = dx.hypot(dy);
            let clip = |low: f64, high: f64, limit: usize| {
                (low - reach).floor().clamp(0.0, limit as f64) as usize
                    ..(high + reach).ceil().clamp(0.0, limit as f64) as usize
            };
            for y in clip(y0.min(y1), y0.max(y1), height) {
                for x in clip(x0.min(x1), x0.max(x1), width) {
                    let (px, py) = (x as f64 + 0.5 - x0, y as f64 + 0.5 - y0);
                    let part =
                        if length > 0.0 { ((px * dx + py * dy) / (length * length)).clamp(0.0, 1.0) } else { 0.0 };
                    if dashed && (along_px + part * length) % 13.0 >= 8.0 {
                        continue;
                    }
                    let distance = (px - part * dx).hypot(py - part * dy);
                    let cell = &mut coverage[y * width + x];
                    *cell = cell.max((reach - distance).clamp(0.0, 1.0) as f32);
                }
            }
            along_px += length;
        }
        for (at, &share) in coverage.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            self.blend((at % width) as i32, (at / width) as i32, colour, share);
        }
    }

    /// One line of text; (x, y) is its top left corner. Characters the font lacks are drawn as a box.
    pub fn text(&mut self, x: i32, y: i32, text: &str, colour: Rgb) {
        for (at, letter) in (0..).zip(text.chars()) {
            self.letter(x + at * CHAR_WIDTH_PX, y, letter, colour, |dx, dy| (dx, dy));
        }
    }

    /// One line of text that reads upwards; (x, y) is the top left corner of the column it fills.
    pub(crate) fn text_upwards(&mut self, x: i32, y: i32, text: &str, colour: Rgb) {
        let bottom = y + text_width_px(text) - 1;
        for (at, letter) in (0..).zip(text.chars()) {
            self.letter(x, bottom - at * CHAR_WIDTH_PX, letter, colour, |dx, dy| (dy, -dx));
        }
    }

    fn letter(&mut self, x: i32, y: i32, letter: char, colour: Rgb, turn: fn(i32, i32) -> (i32, i32)) {
        let mut dot = |dx: i32, dy: i32, coverage: f32| {
            let (dx, dy) = turn(dx, dy);
            self.blend(x + dx, y + dy, colour, coverage);
        };
        if let Some(raster) = get_raster(letter, FontWeight::Regular, RasterHeight::Size16) {
            for (dy, row) in (0..).zip(raster.raster()) {
                for (dx, &intensity) in (0..).zip(row.iter()) {
                    dot(dx, dy, f32::from(intensity) / 255.0);
                }
            }
        } else if letter == '…' {
            // The … that ends a shortened label; the font lacks it.
            for dx in [0, 1, 3, 4, 6] {
                dot(dx, 10, if dx % 3 == 0 { 0.9 } else { 0.25 });
                dot(dx, 11, if dx % 3 == 0 { 0.9 } else { 0.25 });
            }
        } else {
            for dy in 3..13 {
                for dx in 1..6 {
                    if dy == 3 || dy == 12 || dx == 1 || dx == 5 {
                        dot(dx, dy, 0.7);
                    }
                }
            }
        }
    }

    /// Draws `image` scaled to the given size: every pixel repeated when it grows, the mean of the pixels it covers
    /// when it shrinks.
    pub(crate) fn blit(&mut self, image: &RgbImage, x: i32, y: i32, width_px: u32, height_px: u32) {
        // The source pixels from..to of each target pixel, at least one.
        let span = |at: u32, target: u32, source: u32| {
            let scaled = |at: u32| (u64::from(at) * u64::from(source) / u64::from(target)) as usize;
            scaled(at)..scaled(at + 1).max(scaled(at) + 1).min(source as usize)
        };
        for row in 0..height_px {
            for column in 0..width_px {
                let (rows, columns) = (span(row, height_px, image.height_px), span(column, width_px, image.width_px));
                let count = (rows.len() * columns.len()).max(1) as u32;
                let mut sum = [0u32; 3];
                for source_row in rows {
                    let start = source_row * image.width_px as usize;
                    for pixel in image.pixels[3 * (start + columns.start)..3 * (start + columns.end)].chunks_exact(3) {
                        for (sum, &value) in sum.iter_mut().zip(pixel) {
                            *sum += u32::from(value);
                        }
                    }
                }
                let mean = sum.map(|sum| ((sum + count / 2) / count) as u8);
                self.blend(x + column as i32, y + row as i32, mean, 1.0);
            }
        }
    }
}

/// Width of a line of text.
pub(crate) fn text_width_px(text: &str) -> i32 {
    text.chars().count() as i32 * CHAR_WIDTH_PX
}

/// The text, with its end replaced by … if it has more than `limit` characters.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        text.into()
    } else {
        text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
    }
}

/// The picture as the bytes of a PNG file.
///
/// # Errors
/// A picture without pixels, or whose pixels are not three bytes each.
pub fn encode_png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width_px, image.height_px);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&image.pixels)?;
        writer.finish()
    });
    written.map_err(|source| Error::Unsupported {
        what: format!("a PNG file of {} x {} pixels ({source})", image.width_px, image.height_px),
        remedy: "Draw a picture with at least one pixel".into(),
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
