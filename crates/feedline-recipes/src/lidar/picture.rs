//! Draws a batch of clouds from above: x upwards, y to the left, as the lidar drives. Owns the colours and the view;
//! writes no file.

use super::data::options::LidarOptions;
use feedline::augment::boxes::Box3d;
use feedline::decode::RgbImage;
use feedline::plot::{Canvas, Rgb};
use feedline::{Batch, BatchField, Element, Error, Result};
use std::f64::consts::FRAC_1_SQRT_2;

/// The longer side of a picture.
pub const VIEW_PX: u32 = 640;

const GROUND: Rgb = [13, 17, 24];
const RING: Rgb = [40, 47, 58];
const FAINT: Rgb = [124, 134, 148];
const LINE_HEIGHT_PX: i32 = 16;

/// Colours of the classes, which begin anew behind the last.
const CLASSES: [Rgb; 6] =
    [[255, 158, 64], [92, 220, 120], [240, 96, 190], [96, 176, 255], [250, 226, 90], [190, 150, 255]];

/// Colours of points by their share of the range of heights: the ground is dim.
const HEIGHTS: [(f32, [f32; 3]); 5] = [
    (0.0, [46.0, 56.0, 78.0]),
    (0.32, [62.0, 78.0, 112.0]),
    (0.48, [72.0, 148.0, 186.0]),
    (0.7, [160.0, 208.0, 196.0]),
    (1.0, [240.0, 236.0, 214.0]),
];

/// Pictures of the real samples of a batch with their captions, and how many stand beside each other. Points are coloured by
/// height, boxes by class; the line from the middle of a box goes to its front, and of pasted ones there are the corners alone,
/// and paler.
///
/// # Errors
/// A batch of another recipe.
pub fn pictures(batch: &Batch, options: &LidarOptions) -> Result<(Vec<(RgbImage, String)>, usize)> {
    let view = GroundPlan::new(options);
    let pictures = (0..batch.valid)
        .map(|at| {
            let points = points(batch, at)?;
            let boxes = boxes(batch, at)?;
            let image = view.picture(&points, &boxes, options);
            let id = match batch.field("frame_id") {
                Some(BatchField::List(ids)) => String::from_utf8_lossy(&ids[at]).into_owned(),
                _ => batch.indices[at].to_string(),
            };
            Ok((image, format!("{id}: {}", caption(&boxes, points.len(), options))))
        })
        .collect::<Result<Vec<_>>>()?;
    let columns = (batch.valid as f64).sqrt().ceil() as usize;
    Ok((pictures, columns.max(1)))
}

/// A box, its class from 0, and whether it was pasted.
type Labelled = (Box3d, usize, bool);

/// "3 Car, 2 Pedestrian (4 pasted), 17,312 points".
fn caption(boxes: &[Labelled], points: usize, options: &LidarOptions) -> String {
    let of_class = |(class, name): (usize, &String)| {
        let count = boxes.iter().filter(|(_, own, _)| *own == class).count();
        (count > 0).then(|| format!("{count} {name}"))
    };
    let classes: Vec<String> = options.class_names.iter().enumerate().filter_map(of_class).collect();
    let mut text = if classes.is_empty() { "no box".into() } else { classes.join(", ") };
    match boxes.iter().filter(|(_, _, pasted)| *pasted).count() {
        0 => {}
        count => text += &format!(" ({count} pasted)"),
    }
    let digits = points.to_string();
    let mut number = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            number.push(',');
        }
        number.push(digit);
    }
    format!("{text}, {number} points")
}

/// x, y, z of the points of sample `at`.
fn points(batch: &Batch, at: usize) -> Result<Vec<[f32; 3]>> {
    let Some(BatchField::Concat { values, offsets }) = batch.field("points") else { return Err(foreign("points")) };
    let (rows, columns) = (checked::<f32>(values, "points")?, values.shape().get(1).copied().unwrap_or_default());
    let offsets = checked::<i64>(offsets, "points")?;
    let (Some([from, to]), true) = (offsets.get(at..at + 2), columns >= 4) else { return Err(foreign("points")) };
    let rows = rows.get(*from as usize * columns..*to as usize * columns).ok_or_else(|| foreign("points"))?;
    Ok(rows.chunks_exact(columns).map(|row| [row[1], row[2], row[3]]).collect())
}

/// The boxes of sample `at`; none where frames have no labels.
fn boxes(batch: &Batch, at: usize) -> Result<Vec<Labelled>> {
    let Some(BatchField::Pad { values, .. }) = batch.field("gt_boxes") else { return Ok(Vec::new()) };
    let &[_, most, 8] = values.shape() else { return Err(foreign("gt_boxes")) };
    let rows = &checked::<f32>(values, "gt_boxes")?[8 * at * most..][..8 * most];
    let pasted = match batch.field("gt_pasted") {
        Some(BatchField::Pad { values, .. }) => &checked::<u8>(values, "gt_pasted")?[at * most..][..most],
        _ => &[],
    };
    let own = |(number, row): (usize, &[f32])| {
        let numbers: [f64; 7] = std::array::from_fn(|column| f64::from(row[column]));
        // Class 0 pads.
        let class = (row[7] as usize).checked_sub(1)?;
        Some((Box3d::from(numbers), class, pasted.get(number) == Some(&1)))
    };
    Ok(rows.chunks_exact(8).enumerate().filter_map(own).collect())
}

fn checked<'a, T: Element>(array: &'a feedline::Array, name: &str) -> Result<&'a [T]> {
    if array.dtype() == T::DTYPE { Ok(array.as_slice::<T>()) } else { Err(foreign(name)) }
}

fn foreign(name: &str) -> Error {
    Error::config(format!("the batch has no field {name:?} of the lidar recipe"), "Draw batches of its own pipeline")
}

/// The ground plan of a range, in pixels.
struct GroundPlan {
    /// Largest x and y: the upper left corner.
    corner_m: [f64; 2],
    px_per_m: f64,
    width_px: u32,
    height_px: u32,
}

impl GroundPlan {
    fn new(options: &LidarOptions) -> GroundPlan {
        let [x0, y0, _, x1, y1, _] = options.point_cloud_range;
        let px_per_m = f64::from(VIEW_PX) / f64::max(x1 - x0, y1 - y0);
        let side = |length_m: f64| ((length_m * px_per_m).round() as u32).clamp(1, VIEW_PX);
        GroundPlan { corner_m: [x1, y1], px_per_m, width_px: side(y1 - y0), height_px: side(x1 - x0) }
    }

    /// The pixel of a place: to the right and down.
    fn px(&self, [x, y]: [f64; 2]) -> (f64, f64) {
        ((self.corner_m[1] - y) * self.px_per_m, (self.corner_m[0] - x) * self.px_per_m)
    }

    fn picture(&self, points: &[[f32; 3]], boxes: &[Labelled], options: &LidarOptions) -> RgbImage {
        let mut canvas = Canvas::new(self.width_px, self.height_px, GROUND);
        self.rings(&mut canvas);
        self.points(&mut canvas, points, [options.point_cloud_range[2], options.point_cloud_range[5]]);
        for (own, class, pasted) in boxes {
            let colour = CLASSES[class % CLASSES.len()];
            self.outline(&mut canvas, own, if *pasted { pale(colour) } else { colour }, *pasted);
        }
        let is_pasted = boxes.iter().any(|(_, _, pasted)| *pasted);
        let mut y =
            self.height_px as i32 - 6 - LINE_HEIGHT_PX * (options.class_names.len() as i32 + i32::from(is_pasted));
        for (class, name) in options.class_names.iter().enumerate() {
            canvas.text(8, y, name, CLASSES[class % CLASSES.len()]);
            y += LINE_HEIGHT_PX;
        }
        if is_pasted {
            canvas.text(8, y, "pale corners: pasted", FAINT);
        }
        canvas.image().clone()
    }

    /// Rings about the lidar, with how many metres they are away to the right ahead, where no camera looks.
    fn rings(&self, canvas: &mut Canvas) {
        let reach_m = f64::from(self.width_px + self.height_px) / self.px_per_m;
        // 1, 2, 5, 10, ... m, so that there are at least 60 px between them.
        let least_m = 60.0 / self.px_per_m;
        let power = 10f64.powf(least_m.log10().floor());
        let step_m = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= least_m);
        let step_m = step_m.unwrap_or(10.0 * power);
        for ring in 1..=((reach_m / step_m) as usize).min(40) {
            let radius_m = step_m * ring as f64;
            let place = |at: usize| {
                let (sin, cos) = (std::f64::consts::TAU * at as f64 / 180.0).sin_cos();
                self.px([radius_m * cos, radius_m * sin])
            };
            canvas.polyline(&(0..=180).map(place).collect::<Vec<_>>(), 1.0, false, RING);
            let (x, y) = self.px([radius_m * FRAC_1_SQRT_2, -radius_m * FRAC_1_SQRT_2]);
            canvas.text(
                x as i32 + 4,
                y as i32 - LINE_HEIGHT_PX / 2,
                &format!("{} m", (radius_m * 10.0).round() / 10.0),
                FAINT,
            );
        }
    }

    /// A pixel each, which shows the highest of its points.
    fn points(&self, canvas: &mut Canvas, points: &[[f32; 3]], [low, high]: [f64; 2]) {
        let mut highest = vec![f32::NEG_INFINITY; self.width_px as usize * self.height_px as usize];
        for [x, y, z] in points {
            let (right, down) = self.px([f64::from(*x), f64::from(*y)]);
            let inside =
                (0.0..f64::from(self.width_px)).contains(&right) && (0.0..f64::from(self.height_px)).contains(&down);
            if inside {
                let pixel = &mut highest[down as usize * self.width_px as usize + right as usize];
                *pixel = pixel.max(*z);
            }
        }
        for (at, z) in highest.iter().enumerate().filter(|(_, z)| z.is_finite()) {
            let share = (f64::from(*z) - low) / (high - low);
            let (x, y) = (at % self.width_px as usize, at / self.width_px as usize);
            canvas.fill(x as i32, y as i32, 1, 1, height_colour(share as f32));
        }
    }

    fn outline(&self, canvas: &mut Canvas, own: &Box3d, colour: Rgb, pasted: bool) {
        let corners = own.corners_xy().map(|corner| self.px(corner));
        let between = |from: (f64, f64), to: (f64, f64), share: f64| {
            (from.0 + share * (to.0 - from.0), from.1 + share * (to.1 - from.1))
        };
        let gap = (f64::NAN, f64::NAN);
        let mut line = Vec::new();
        for (at, from) in corners.into_iter().enumerate() {
            let to = corners[(at + 1) % 4];
            match pasted {
                false => line.extend([from, to]),
                true => line.extend([from, between(from, to, 0.3), gap, between(from, to, 0.7), to]),
            }
        }
        // The first corner and the last are those of the front.
        let front = between(corners[0], corners[3], 0.5);
        line.extend([gap, self.px([own.center[0], own.center[1]]), front]);
        canvas.polyline(&line, 1.5, false, colour);
    }
}

/// Half way to white.
fn pale(colour: Rgb) -> Rgb {
    colour.map(|value| value / 2 + 127)
}

fn height_colour(share: f32) -> Rgb {
    let above = HEIGHTS.iter().position(|(height, _)| *height >= share).unwrap_or(HEIGHTS.len() - 1).max(1);
    let ((low, from), (high, to)) = (HEIGHTS[above - 1], HEIGHTS[above]);
    let part = ((share - low) / (high - low)).clamp(0.0, 1.0);
    std::array::from_fn(|c| (from[c] + part * (to[c] - from[c])).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use feedline::Array;
    use std::f32::consts::FRAC_PI_2;

    /// A batch of one sample: points (x, y, z), boxes with their class, and which of them are pasted.
    fn batch(points: &[[f32; 3]], boxes: &[([f32; 7], f32, u8)]) -> Batch {
        let rows: Vec<f32> = points.iter().flat_map(|[x, y, z]| [0.0, *x, *y, *z, 0.5]).collect();
        let own: Vec<f32> = boxes.iter().flat_map(|(own, class, _)| own.iter().copied().chain([*class])).collect();
        let pasted: Vec<u8> = boxes.iter().map(|(.., pasted)| *pasted).collect();
        let (count, most) = (points.len(), boxes.len());
        let counts = Array::from_slice([1], &[most as i64]);
        let fields = vec![
            (
                "points".into(),
                BatchField::Concat {
                    values: Array::from_slice([count, 5], &rows),
                    offsets: Array::from_slice([2], &[0, count as i64]),
                },
            ),
            (
                "gt_boxes".into(),
                BatchField::Pad { values: Array::from_slice([1, most, 8], &own), counts: counts.clone() },
            ),
            ("gt_pasted".into(), BatchField::Pad { values: Array::from_slice([1, most], &pasted), counts }),
            ("frame_id".into(), BatchField::List(vec![b"000123".to_vec()])),
        ];
        Batch { epoch: 0, step: 0, next_position: 1, indices: vec![7], valid: 1, fields, replaced: Vec::new() }
    }

    /// 8 px a metre, the lidar in the middle of the lower edge.
    fn options() -> LidarOptions {
        LidarOptions { point_cloud_range: [0.0, -40.0, -3.0, 64.0, 40.0, 1.0], ..LidarOptions::default() }
    }

    fn pixel(image: &RgbImage, x: usize, y: usize) -> Rgb {
        image.pixels.as_chunks::<3>().0[y * image.width_px as usize + x]
    }

    #[test]
    fn points_and_boxes_are_where_they_are_from_above() {
        // A car 20 m ahead and 10 m to the left that drives ahead, and one pasted to the right that drives to the left.
        let boxes =
            [([20.0, 10.0, -1.0, 4.0, 2.0, 1.5, 0.0], 1.0, 0), ([30.0, -10.0, -1.0, 4.0, 2.0, 1.5, FRAC_PI_2], 2.0, 1)];
        let points =
            [[40.05, 5.05, -1.0], [40.05, 5.05, 0.9], [40.05, 5.05, -2.9], [70.0, 0.0, 0.0], [f32::NAN, 0.0, 0.0]];
        let (pictures, columns) = pictures(&batch(&points, &boxes), &options()).unwrap();
        let (image, text) = &pictures[0];
        assert_eq!((pictures.len(), columns, image.width_px, image.height_px), (1, 1, 640, 512));
        assert_eq!(text, "000123: 1 Car, 1 Pedestrian (1 pasted), 5 points");
        let near = |x: usize, y: usize, colour: Rgb| {
            // Lines are soft: their colour counts for more than half.
            let is_it = |(x, y)| {
                (0..3).all(|c| {
                    2 * u32::from(pixel(image, x, y)[c].abs_diff(colour[c])) <= u32::from(colour[c].abs_diff(GROUND[c]))
                })
            };
            (x - 1..=x + 1).flat_map(|x| (y - 1..=y + 1).map(move |y| (x, y))).any(is_it)
        };
        // 320 is the middle; the car's middle is at 320 - 80, 512 - 160.
        for (x, y) in [(232, 336), (248, 336), (248, 368), (240, 336), (240, 345), (232, 352)] {
            assert!(near(x, y, CLASSES[0]), "{x} {y}");
        }
        assert!(!near(240, 361, CLASSES[0]), "the line goes to the front alone");
        let pasted = [(384, 264), (416, 264), (416, 280), (384, 280), (392, 272)];
        assert!(pasted.iter().all(|(x, y)| near(*x, *y, pale(CLASSES[1]))));
        assert!(
            !near(400, 264, pale(CLASSES[1])) && !near(400, 280, pale(CLASSES[1])),
            "of a pasted box there are the corners"
        );
        assert_eq!(pixel(image, 279, 191), height_colour(0.975), "the highest point of a pixel shows");
    }

    #[test]
    fn nothing_is_a_picture_too() {
        let (pictures, _) = pictures(&batch(&[], &[]), &options()).unwrap();
        assert_eq!(pictures[0].1, "000123: no box, 0 points");
        let mut bare = batch(&[[1.0; 3]; 1234], &[]);
        bare.fields.truncate(1);
        assert_eq!(super::pictures(&bare, &options()).unwrap().0[0].1, "7: no box, 1,234 points");
        bare.fields.clear();
        assert!(super::pictures(&bare, &options()).unwrap_err().to_string().contains("\"points\""));
        bare.valid = 0;
        assert_eq!(super::pictures(&bare, &options()).unwrap(), (Vec::new(), 1));
    }

    #[test]
    fn colours_of_heights_go_on_beyond_the_range() {
        assert_eq!(height_colour(-5.0), height_colour(0.0));
        assert_eq!(height_colour(7.0), height_colour(1.0));
    }
}
