//! Detections as labels: boxes of the network in camera coordinates and in the picture, as OpenPCDet's
//! `generate_prediction_dicts` gives them. Owns the conversion and its text.

use super::camera::Camera;
use super::frame::{Annos, Frame};
use feedline::augment::boxes::Box3d;
use std::f64::consts::FRAC_PI_2;
use std::fmt::Write;

/// The detections of a frame; labels are numbers of `class_names` from 1, and a box whose label is none of them is left out. A
/// frame without a camera is treated as if one stood where the lidar is and saw all boxes alike.
pub fn annos(frame: &Frame, boxes: &[Box3d], scores: &[f32], labels: &[u32], class_names: &[String]) -> Annos {
    let camera = frame.calib.as_ref().map(Camera::new);
    let shape = frame.image.as_ref().map(|image| image.image_shape);
    let mut annos = Annos::default();
    for ((own, score), label) in boxes.iter().zip(scores).zip(labels) {
        let Some(name) = (*label as usize).checked_sub(1).and_then(|at| class_names.get(at)) else { continue };
        let ([x, y, z], [length, width, height]) = (own.center, own.size);
        let bottom = [x, y, z - height / 2.0];
        let location = camera.map_or([-y, -bottom[2], x], |camera| camera.lidar_to_rect.place(bottom));
        let rotation_y = -own.heading - FRAC_PI_2;
        annos.name.push(name.clone());
        annos.truncated.push(0.0);
        annos.occluded.push(0.0);
        annos.alpha.push(-(-y).atan2(x) + rotation_y);
        annos.dimensions.push([length, height, width]);
        annos.location.push(location);
        annos.rotation_y.push(rotation_y);
        annos.score.push(f64::from(*score));
        annos.gt_boxes_lidar.push(*own);
        annos.bbox.push(match (camera, shape) {
            (Some(camera), Some(shape)) => bbox(&camera, shape, location, [length, height, width], rotation_y),
            _ => [0.0, 0.0, 50.0, 50.0],
        });
    }
    annos
}

/// Left, top, right, bottom of a box's corners in the picture.
fn bbox(
    camera: &Camera,
    [height_px, width_px]: [i32; 2],
    location: [f64; 3],
    dimensions: [f64; 3],
    rotation_y: f64,
) -> [f64; 4] {
    let (sin, cos) = rotation_y.sin_cos();
    let ([x, bottom, z], [length, height, width]) = (location, dimensions);
    let mut around = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
    for at in 0..8 {
        let half = |bit: usize, side: f64| if at >> bit & 1 == 0 { side / 2.0 } else { -side / 2.0 };
        let (along, across) = (half(0, length), half(1, width));
        let y = if at >> 2 == 0 { bottom } else { bottom - height };
        let [u, v] = camera.rect_to_pixels([x + along * cos + across * sin, y, z - along * sin + across * cos]);
        around = [around[0].min(u), around[1].min(v), around[2].max(u), around[3].max(v)];
    }
    let [most_u, most_v] = [f64::from(width_px - 1), f64::from(height_px - 1)];
    let clip = |value: f64, most: f64| value.clamp(0.0, most.max(0.0));
    [clip(around[0], most_u), clip(around[1], most_v), clip(around[2], most_u), clip(around[3], most_v)]
}

/// Detections as a KITTI label file: sizes as height, width, length, and the score last.
pub fn text(annos: &Annos) -> String {
    let mut text = String::new();
    for (at, name) in annos.name.iter().enumerate() {
        let [length, height, width] = annos.dimensions[at];
        let numbers = [annos.alpha[at]].into_iter().chain(annos.bbox[at]).chain([height, width, length]);
        let numbers = numbers.chain(annos.location[at]).chain([annos.rotation_y[at], annos.score[at]]);
        text += name;
        text += " -1 -1";
        numbers.for_each(|number| {
            let _ = write!(text, " {number:.4}");
        });
        text.push('\n');
    }
    text
}
