//! A contact sheet: many small pictures with their labels, in a grid.

use super::{CHAR_WIDTH_PX, Canvas, GRID, INK, LINE_HEIGHT_PX, WHITE, shortened, text_width_px};
use crate::decode::RgbImage;

/// Pictures are enlarged by whole factors until their longer side is at least this.
const SMALL_PX: u32 = 96;
/// Larger pictures are shrunk to this, unless asked otherwise.
const LARGE_PX: u32 = 256;
const GAP_PX: i32 = 12;
/// Above and below a label.
const LABEL_GAP_PX: i32 = 6;

/// The pictures row by row, `columns` in each, with their labels below, which may have several lines; one that is too long is cut
/// with ….
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
    let lines = pictures.iter().map(|(_, label)| label.lines().count()).max().unwrap_or_default().max(1);
    let label_px = lines as i32 * LINE_HEIGHT_PX + LABEL_GAP_PX;
    let height = GAP_PX + rows.iter().map(|row| row + label_px + GAP_PX).sum::<i32>();
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
            for (at, line) in (0..).zip(label.lines()) {
                let line = shortened(line, (cell_width / CHAR_WIDTH_PX) as usize);
                let top = y + rows[row] + 4 + at * LINE_HEIGHT_PX;
                canvas.text(x + (cell_width - text_width_px(&line)) / 2, top, &line, INK);
            }
        }
        y += rows[row] + label_px + GAP_PX;
    }
    canvas
}

/// The picture, shrunk if its longer side is more than `large_px`, and enlarged by a whole factor to 96 px or more if it is
/// small; the proportions are kept.
pub fn shrunk(image: &RgbImage, large_px: u32) -> RgbImage {
    let (width_px, height_px) = shown_size_px(image, large_px);
    let mut canvas = Canvas::new(width_px, height_px, WHITE);
    canvas.blit(image, 0, 0, width_px, height_px);
    canvas.image
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
