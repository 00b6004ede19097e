//! A contact sheet: many small pictures with their labels, in a grid.

use super::{CHAR_WIDTH_PX, Canvas, GRID, INK, LINE_HEIGHT_PX, WHITE, shortened, text_width_px};
use crate::decode::RgbImage;

/// Pictures are enlarged by whole factors until their longer side is at least this.
const SMALL_PX: u32 = 96;
/// Larger pictures are shrunk to this, unless asked otherwise.
const LARGE_PX: u32 = 256;
const GAP_PX: i32 = 12;
const LABEL_PX: i32 = LINE_HEIGHT_PX + 6;

/// The pictures row by row, `columns` in each, with their labels below; a label that is too long is cut with ….
/// Small pictures are enlarged to 96 px or more, large ones shrunk to 256 px, and the proportions are kept.
/// Without pictures (or columns) the sheet is blank.
pub fn contact_sheet(pictures: &[(RgbImage, String)], columns: usize) -> Canvas {
    contact_sheet_within(pictures, columns, LARGE_PX)
}

/// As [`contact_sheet`], but only pictures of more than `large_px` are shrunk, to that.
pub fn contact_sheet_within(pictures: &[(RgbImage, String)], columns: usize, large_px: u32) -> Canvas {
    let columns = columns.clamp(1, pictures.len().max(1));
    let sizes: Vec<_> = pictures.iter().map(|(image, _)| shown_size_px(image, large_px)).collect();
    // No narrower than a short label needs.
    let cell_width = sizes.iter().map(|size| size.0).max().unwrap_or_default().max(SMALL_PX) as i32;
    // Each row is as high as its own highest picture.
    let rows: Vec<i32> =
        sizes.chunks(columns).map(|row| row.iter().map(|size| size.1 as i32).max().unwrap_or_default()).collect();
    let width = GAP_PX + columns as i32 * (cell_width + GAP_PX);
    let height = GAP_PX + rows.iter().map(|row| row + LABEL_PX + GAP_PX).sum::<i32>();
    let mut canvas = Canvas::new(width as u32, height as u32, WHITE);
    let mut y = GAP_PX;
    for (row, pictures) in pictures.chunks(columns).enumerate() {
        for (column, (image, label)) in pictures.iter().enumerate() {
            let (w, h) = sizes[row * columns + column];
            let x = GAP_PX + column as i32 * (cell_width + GAP_PX);
            // Pictures stand on their labels.
            let (left, top) = (x + (cell_width - w as i32) / 2, y + rows[row] - h as i32);
            canvas.rect(left - 1, top - 1, w as i32 + 2, h as i32 + 2, GRID);
            canvas.blit(image, left, top, w, h);
            let label = shortened(label, (cell_width / CHAR_WIDTH_PX) as usize);
            canvas.text(x + (cell_width - text_width_px(&label)) / 2, y + rows[row] + 4, &label, INK);
        }
        y += rows[row] + LABEL_PX + GAP_PX;
    }
    canvas
}

fn shown_size_px(image: &RgbImage, large_px: u32) -> (u32, u32) {
    let longer = image.width_px.max(image.height_px).max(1);
    if longer > large_px {
        let shrunk = |side: u32| ((u64::from(side) * u64::from(large_px) / u64::from(longer)) as u32).max(1);
        (shrunk(image.width_px), shrunk(image.height_px))
    } else {
        let factor = SMALL_PX.div_ceil(longer);
        (image.width_px * factor, image.height_px * factor)
    }
}
