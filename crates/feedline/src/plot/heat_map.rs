//! A matrix as coloured cells with numbers: the confusion matrix of an evaluation.

use super::{CHAR_WIDTH_PX, Canvas, FAINT_INK, INK, LINE_HEIGHT_PX, Rgb, WHITE, shortened, text_width_px};

/// Colours of the shares 0, 1/4, ..., 1.
const COLOURS: [Rgb; 5] = [[247, 250, 253], [198, 219, 239], [107, 174, 214], [33, 113, 181], [8, 48, 107]];
/// Larger matrices get small cells without numbers, and fewer labels, so that these do not overlap.
const MAX_NUMBERED: usize = 30;
const LABEL_CHARS: usize = 20;
const MARGIN_PX: i32 = 20;

/// A matrix with one coloured cell per value. A cell's colour is its share of its row's sum, so that rare rows show as
/// well as frequent ones; the number in it is the value. Rows are named on the left, columns below; `row_title` and
/// `column_title` say what they are. Missing values count as zero.
pub fn heat_map(
    title: &str,
    (row_title, row_labels): (&str, &[String]),
    (column_title, column_labels): (&str, &[String]),
    values: &[Vec<u64>],
) -> Canvas {
    let value = |row: usize, column: usize| values.get(row).and_then(|row| row.get(column)).copied().unwrap_or(0);
    let (rows, columns) = (row_labels.len(), column_labels.len());
    let numbered = rows.max(columns) <= MAX_NUMBERED;
    let largest = values.iter().flatten().max().copied().unwrap_or(0).to_string();
    let cell = match rows.max(columns) {
        _ if numbered => (text_width_px(&largest) + 14).max(40),
        0..=100 => 12,
        101..=400 => 4,
        _ => 1,
    };
    let row_labels: Vec<_> = row_labels.iter().map(|label| shortened(label, LABEL_CHARS)).collect();
    let column_labels: Vec<_> = column_labels.iter().map(|label| shortened(label, LABEL_CHARS)).collect();
    let longest = |labels: &[String]| labels.iter().map(|label| text_width_px(label)).max().unwrap_or_default();
    // Column labels lie flat where they fit, else they read upwards.
    let flat = longest(&column_labels) + CHAR_WIDTH_PX <= cell;
    let below = if flat { LINE_HEIGHT_PX } else { longest(&column_labels) };

    let left = MARGIN_PX + LINE_HEIGHT_PX + 10 + longest(&row_labels) + 8;
    let top = MARGIN_PX + LINE_HEIGHT_PX + 14;
    let (grid_width, grid_height) = (cell * columns as i32, cell * rows as i32);
    let title_width = text_width_px(title).max(text_width_px(column_title));
    let row_title_height = text_width_px(row_title);
    // Room for titles that are longer than the matrix they stand at.
    let width = (left + grid_width).max(left + title_width) + MARGIN_PX;
    let body_height = grid_height.max(row_title_height);
    let height = top + body_height + 8 + below + 10 + LINE_HEIGHT_PX + MARGIN_PX;
    let mut canvas = Canvas::new(width as u32, height as u32, WHITE);

    canvas.text(left, MARGIN_PX, title, INK);
    for row in 0..rows {
        let sum: u64 = (0..columns).map(|column| value(row, column)).sum();
        for column in 0..columns {
            let share = if sum == 0 { 0.0 } else { value(row, column) as f64 / sum as f64 };
            let (x, y) = (left + cell * column as i32, top + cell * row as i32);
            let gap = i32::from(cell > 4);
            canvas.fill(x, y, cell - gap, cell - gap, colour(share));
            if numbered {
                let number = value(row, column).to_string();
                let ink = match (share, value(row, column)) {
                    (_, 0) => [178, 186, 196],
                    (share, _) if share > 0.45 => WHITE,
                    _ => INK,
                };
                let (dx, dy) = ((cell - gap - text_width_px(&number)) / 2, (cell - gap - LINE_HEIGHT_PX) / 2);
                canvas.text(x + dx, y + dy, &number, ink);
            }
        }
    }
    // Skips labels that would overlap the one before.
    let every = (LINE_HEIGHT_PX as usize).div_ceil(cell as usize).max(1);
    for (row, label) in row_labels.iter().enumerate().step_by(every) {
        let y = top + cell * row as i32 + (cell - LINE_HEIGHT_PX) / 2;
        canvas.text(left - 8 - text_width_px(label), y, label, FAINT_INK);
    }
    for (column, label) in column_labels.iter().enumerate().step_by(every) {
        let (x, y) = (left + cell * column as i32, top + grid_height + 8);
        if flat {
            canvas.text(x + (cell - text_width_px(label)) / 2, y, label, FAINT_INK);
        } else {
            canvas.text_upwards(x + (cell - LINE_HEIGHT_PX) / 2, y, label, FAINT_INK);
        }
    }
    let x = left + ((grid_width - text_width_px(column_title)) / 2).max(0);
    canvas.text(x, top + grid_height + 8 + below + 10, column_title, INK);
    canvas.text_upwards(MARGIN_PX, top + ((grid_height - row_title_height) / 2).max(0), row_title, INK);
    canvas
}

fn colour(share: f64) -> Rgb {
    let place = share.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let at = (place as usize).min(COLOURS.len() - 2);
    let (from, to, part) = (COLOURS[at], COLOURS[at + 1], place - at as f64);
    std::array::from_fn(|i| (f64::from(from[i]) + (f64::from(to[i]) - f64::from(from[i])) * part).round() as u8)
}
