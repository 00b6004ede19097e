//! Draws a batch: its pictures as the network sees them, each with its number.

use crate::config::Config;
use crate::data::Numbered;
use feedline::decode::RgbImage;
use feedline::{Batch, Result};
use feedline_recipes::recipe::Sheet;

/// The pictures of the real samples of a batch.
///
/// # Errors
/// A batch of another recipe.
pub fn draw(config: &Config, data: &Numbered, batch: &Batch) -> Result<Sheet> {
    let side_px = config.data.side_px;
    let pixels = batch.stacked("pixels")?.as_slice::<f32>();
    let values = batch.stacked("value")?.as_slice::<f32>();
    let samples = pixels.chunks_exact((side_px * side_px) as usize).zip(values).zip(&batch.indices);
    let pictures = samples.take(batch.valid).map(|((pixels, value), index)| {
        let pixels = pixels.iter().flat_map(|grey| [(grey * 255.0).round() as u8; 3]).collect();
        let image = RgbImage { width_px: side_px, height_px: side_px, pixels };
        // The number first: a sheet cuts what is too long at its end.
        (image, format!("{value}: {}", data.name(*index)))
    });
    Ok(Sheet::square(pictures.collect()))
}
