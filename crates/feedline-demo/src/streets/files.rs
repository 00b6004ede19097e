//! The text files of a drawn frame, as KITTI writes them: calibration, labels, the ground. Owns their lines and
//! digits; the numbers of the calibration belong to `camera.rs`.

use super::camera::{Camera, SHIFTS, imu_to_lidar, lidar_to_camera, projection, rectification};
use super::cast::corners;
use super::sensors::{Cloud, IMAGE_PX, Photo};
use super::street::{Ground, Street};
use feedline::augment::boxes::{Box3d, wrapped};
use std::f64::consts::FRAC_PI_2;

/// An object with fewer points, or less to be seen, or farther away is `DontCare`.
const LEAST_POINTS: usize = 5;
const LEAST_SEEN: f64 = 0.08;
const FARTHEST_M: f64 = 52.0;

/// KITTI's number: 7.215377000000e+02.
fn number(value: f64) -> String {
    let text = format!("{value:.12e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn line<'v>(name: &str, values: impl IntoIterator<Item = &'v f64>) -> String {
    let values: String = values.into_iter().map(|value| format!(" {}", number(*value))).collect();
    format!("{name}:{values}\n")
}

/// The calibration, with a projection for each of the four cameras.
pub fn calib_text() -> String {
    let projections: String =
        (0..).zip(SHIFTS).map(|(number, shift)| line(&format!("P{number}"), &projection(shift))).collect();
    let rest = [
        line("R0_rect", rectification().as_flattened()),
        line("Tr_velo_to_cam", lidar_to_camera().as_flattened()),
        line("Tr_imu_to_velo", imu_to_lidar().as_flattened()),
        "\n".into(),
    ];
    projections + &rest.concat()
}

/// A box as camera 2 sees it: left, top, right, bottom in pixels, as far as it is in the picture, and the share that is not.
fn in_picture(bounds: &Box3d, camera: &Camera) -> Option<([f64; 4], f64)> {
    let places = corners(bounds).map(|corner| camera.lidar_to_rect.place(corner));
    if places.iter().any(|place| place[2] < 0.1) {
        return None;
    }
    let pixels = places.map(|place| camera.rect_to_pixels(place));
    let whole = pixels.iter().fold([f64::MAX, f64::MAX, f64::MIN, f64::MIN], |[left, top, right, bottom], [u, v]| {
        [left.min(*u), top.min(*v), right.max(*u), bottom.max(*v)]
    });
    let [height, width] = IMAGE_PX.map(|side| side as f64 - 1.0);
    let limits = [width, height, width, height];
    let cut: [f64; 4] = std::array::from_fn(|side| whole[side].clamp(0.0, limits[side]));
    let area = |[left, top, right, bottom]: [f64; 4]| (right - left) * (bottom - top);
    let truncated = 1.0 - area(cut) / area(whole);
    (cut[2] - cut[0] >= 2.0 && cut[3] - cut[1] >= 2.0).then_some((cut, truncated))
}

/// The labels of the objects in the picture; `DontCare` comes last.
pub fn label_text(street: &Street, camera: &Camera, cloud: &Cloud, photo: &Photo) -> String {
    let (mut lines, mut others) = (String::new(), String::new());
    for (at, (class, own)) in street.objects.iter().enumerate() {
        let Some((bbox, truncated)) = in_picture(own, camera) else { continue };
        let bbox = bbox.map(|side| format!("{side:.2}")).join(" ");
        let seen = photo.seen[at];
        if cloud.counts[at] < LEAST_POINTS || seen < LEAST_SEEN || own.center[0] > FARTHEST_M {
            others += &format!("DontCare -1 -1 -10 {bbox} -1 -1 -1 -1000 -1000 -1000 -10\n");
            continue;
        }
        let occluded = if seen > 0.8 {
            0
        } else if seen > 0.45 {
            1
        } else {
            2
        };
        let [x, y, z] = own.center;
        let [length, width, height] = own.size;
        let place = camera.lidar_to_rect.place([x, y, z - height / 2.0]);
        let rotation_y = wrapped(-own.heading - FRAC_PI_2);
        let alpha = wrapped(rotation_y - place[0].atan2(place[2]));
        let place = place.map(|value| format!("{value:.2}")).join(" ");
        lines += &format!(
            "{class} {truncated:.2} {occluded} {alpha:.2} {bbox} {height:.2} {width:.2} {length:.2} {place} {rotation_y:.2}\n"
        );
    }
    lines + &others
}

/// The ground in rectified camera coordinates.
pub fn plane_text(ground: &Ground, camera: &Camera) -> String {
    let up = [-ground.slope[0], -ground.slope[1], 1.0];
    let rows = camera.lidar_to_rect.0;
    let normal = rows.map(|row| (0..3).map(|axis| row[axis] * up[axis]).sum::<f64>());
    let shift: f64 = (0..3).map(|axis| normal[axis] * rows[axis][3]).sum();
    let length = normal.iter().map(|value| value * value).sum::<f64>().sqrt();
    let [a, b, c] = normal.map(|value| number(value / length));
    format!("# Plane\nWidth 4\nHeight 1\n{a} {b} {c} {}\n", number(-(shift + ground.height_m) / length))
}
