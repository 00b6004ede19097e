//! Draws a batch: its pictures, its labels from above and in slices, and the voxels seen by the pixels. Owns the
//! colours and the views; writes no file.

use super::data::{ChannelOrder, IGNORE, SceneOptions};
use feedline::decode::RgbImage;
use feedline::{Batch, BatchField, Result};

/// Colours of empty space and of what is ignored.
const EMPTY: [u8; 3] = [245, 245, 245];
const IGNORED: [u8; 3] = [160, 160, 160];

/// About the longer side of a view of voxels.
const VIEW_PX: usize = 240;

/// The colour of a class; of neighbouring classes very different ones.
pub fn class_colour(class: i64) -> [u8; 3] {
    match class {
        0 => EMPTY,
        IGNORE => IGNORED,
        class => {
            // Around the circle of hues by the golden ratio, so that any number of classes is spread evenly.
            let hue = (class as f64 * 0.618_033_988_75).fract() * 6.0;
            let value = if class % 2 == 0 { 0.62 } else { 0.86 };
            let part = |shift: f64| {
                let wave = ((hue + shift) % 6.0 - 3.0).abs() - 1.0;
                (255.0 * value * (0.15 + 0.85 * wave.clamp(0.0, 1.0))).round() as u8
            };
            [part(0.0), part(4.0), part(2.0)]
        }
    }
}

/// The colour of a pixel's class: there class 0 is one as all others.
fn pixel_colour(class: i64) -> [u8; 3] {
    class_colour(if class == IGNORE { IGNORE } else { class + 1 })
}

/// Pictures of the real samples of a batch with their captions, and how many there are of each sample: RGB, HHA if there is
/// one, and the labels. Of voxels those of the pixels that show them (the others dark), from above (the highest that is
/// neither empty nor a ceiling, with 12 classes), and the upright slices across the view and along it that show most.
///
/// # Errors
/// A batch of another recipe.
pub fn pictures(batch: &Batch, options: &SceneOptions) -> Result<(Vec<(RgbImage, String)>, usize)> {
    let mut pictures = Vec::new();
    for at in 0..batch.valid {
        let id = match batch.field("fn") {
            Some(BatchField::List(ids)) => String::from_utf8_lossy(&ids[at]).into_owned(),
            _ => batch.indices[at].to_string(),
        };
        pictures.push((picture(batch, "data", at, options, false)?, id));
        if batch.field("hha_img").is_some() {
            let turned = options.hha_order == ChannelOrder::Bgr;
            pictures.push((picture(batch, "hha_img", at, options, turned)?, "HHA".into()));
        }
        let labels = sample::<i64>(batch, "label", at)?;
        if batch.field("depth_mapping_3d").is_none() {
            pictures.push((
                painted(options.image_px, |row, column| {
                    pixel_colour(labels[row * options.image_px[1] as usize + column])
                }),
                "labels".into(),
            ));
            continue;
        }
        let mapping = sample::<i64>(batch, "depth_mapping_3d", at)?;
        let mut seen = picture(batch, "data", at, options, false)?;
        seen.pixels.iter_mut().for_each(|value| *value /= 4);
        let pixels = seen.pixels.as_chunks_mut::<3>().0;
        for (pixel, label) in mapping.iter().zip(labels) {
            if let Some(pixel) = usize::try_from(*pixel).ok().and_then(|pixel| pixels.get_mut(pixel)) {
                *pixel = class_colour(*label);
            }
        }
        pictures.push((spread(&seen, options.image_px), "voxels seen".into()));
        let [x_len, y_len, z_len] = options.grid;
        let label = |x: usize, y: usize, z: usize| labels[(x * y_len + y) * z_len + z];
        let is_shown = |label: i64| label != 0 && label != IGNORE && !(label == 1 && options.num_classes == 12);
        let from_above = |z: usize, x: usize| {
            let column = (0..y_len).rev().map(|y| label(x, y, z));
            class_colour(
                column.clone().find(|label| is_shown(*label)).unwrap_or(if column.clone().any(|l| l != IGNORE) {
                    0
                } else {
                    IGNORE
                }),
            )
        };
        let view = |rows: usize, columns: usize, colour: &dyn Fn(usize, usize) -> [u8; 3]| {
            let times = (VIEW_PX / rows.max(columns)).max(1);
            painted([rows * times, columns * times].map(|px| px as u32), |row, column| {
                colour(row / times, column / times)
            })
        };
        let above = view(z_len, x_len, &|row, column| from_above(z_len - 1 - row, column));
        let z = fullest(z_len, |z| (0..x_len * y_len).map(move |at| label(at / y_len, at % y_len, z)));
        let x = fullest(x_len, |x| (0..y_len * z_len).map(move |at| label(x, at / z_len, at % z_len)));
        let across = view(y_len, x_len, &|row, column| class_colour(label(column, y_len - 1 - row, z)));
        let along = view(y_len, z_len, &|row, column| class_colour(label(x, y_len - 1 - row, column)));
        pictures.push((above, "from above".into()));
        pictures.push((across, format!("slice across, z = {z}")));
        pictures.push((along, format!("slice along, x = {x}")));
    }
    let each = pictures.len() / batch.valid.max(1);
    Ok((pictures, each))
}

/// The slice with the most classes, and of these with the fewest empty voxels.
fn fullest<I: Iterator<Item = i64>>(slices: usize, labels: impl Fn(usize) -> I) -> usize {
    let contents = |slice: usize| {
        let (mut seen, mut occupied) = ([false; 256], 0);
        for label in labels(slice).filter(|label| (1..IGNORE).contains(label)) {
            seen[label as usize] = true;
            occupied += 1;
        }
        (seen.iter().filter(|seen| **seen).count(), occupied)
    };
    (0..slices).max_by_key(|slice| contents(*slice)).unwrap_or_default()
}

/// The elements of sample `at` in a stacked field.
fn sample<'b, T: feedline::Element>(batch: &'b Batch, name: &str, at: usize) -> Result<&'b [T]> {
    let values = batch.stacked(name)?.as_slice::<T>();
    let each = values.len() / batch.len().max(1);
    Ok(&values[at * each..][..each])
}

/// A normalised picture as it was.
fn picture(batch: &Batch, name: &str, at: usize, options: &SceneOptions, turned: bool) -> Result<RgbImage> {
    let values = sample::<f32>(batch, name, at)?;
    let [height_px, width_px] = options.image_px;
    let plane = values.len() / 3;
    let mut image = RgbImage { width_px, height_px, pixels: vec![0; values.len()] };
    for (at, pixel) in image.pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        for (c, byte) in pixel.iter_mut().enumerate() {
            let channel = if turned { 2 - c } else { c };
            let value = f64::from(values[channel * plane + at]) * options.std[channel] + options.mean[channel];
            *byte = (value * 255.0).round().clamp(0.0, 255.0) as u8;
        }
    }
    Ok(image)
}

/// A picture of `size_px` (height, width), pixel by pixel.
fn painted([height_px, width_px]: [u32; 2], colour: impl Fn(usize, usize) -> [u8; 3]) -> RgbImage {
    let row = |row: usize| (0..width_px as usize).flat_map(|column| colour(row, column)).collect::<Vec<_>>();
    RgbImage { width_px, height_px, pixels: (0..height_px as usize).flat_map(row).collect() }
}

/// Enlarges bright pixels to 3 x 3, or they would vanish when the picture is shrunk: a voxel is seen by many pixels, and
/// names one of them.
fn spread(image: &RgbImage, size_px: [u32; 2]) -> RgbImage {
    let pixels = image.pixels.as_chunks::<3>().0;
    let [height, width] = size_px.map(|px| px as usize);
    let sum = |pixel: &[u8; 3]| pixel.iter().map(|value| u32::from(*value)).sum::<u32>();
    painted(size_px, |row, column| {
        let rows = row.saturating_sub(1)..(row + 2).min(height);
        let around = rows.flat_map(|r| (column.saturating_sub(1)..(column + 2).min(width)).map(move |c| r * width + c));
        around.map(|at| pixels[at]).max_by_key(sum).unwrap_or_default()
    })
}
