//! Draws a batch: its augmented pictures with their classes. Writes no file.

use crate::recipe::{BatchChoice, Sheet};
use feedline::Result;
use feedline::pipeline::Images;

/// The pictures of a batch, each with its class.
///
/// # Errors
/// A picture that cannot be read or decoded.
pub fn draw(data: &Images, batch: &BatchChoice) -> Result<Sheet> {
    let pictures = batch.requests().into_iter().map(|request| {
        let class = &data.classes()[data.label(request.index) as usize];
        Ok((data.picture(&request)?, class.clone()))
    });
    Ok(Sheet::square(pictures.collect::<Result<_>>()?))
}
