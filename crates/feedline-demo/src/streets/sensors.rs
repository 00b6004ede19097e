//! A lidar and a camera that look at a street. Owns their rays, the noise of the one and the light of the other.

use super::camera::Camera;
use super::cast::{Hit, Solid, cast};
use super::street::{Ground, Street};
use feedline::decode::RgbImage;
use feedline::plan::rng::SampleRng;
use std::f64::consts::FRAC_PI_4;
use std::ops::Range;

/// Height and width of a picture. KITTI's, as what is hard to see is told by pixels.
pub const IMAGE_PX: [usize; 2] = [375, 1242];

const ELEVATIONS_DEG: [f64; 2] = [2.5, -17.5];
const FARTHEST_M: f64 = 75.0;
const NOISE_M: f64 = 0.012;
/// Largest error of a ray: the margin between objects and their boxes is larger.
const MOST_NOISE_M: f64 = 0.03;

/// The points of the lidar.
pub struct Cloud {
    /// x, y, z in metres and intensity, beam by beam from the top.
    pub points: Vec<[f32; 4]>,
    /// Of each point the object it is of.
    pub objects: Vec<Option<usize>>,
    /// Points of each object.
    pub counts: Vec<usize>,
}

/// The picture of the camera.
pub struct Photo {
    pub image: RgbImage,
    /// Of each object the share that nothing hides; 0 for one that is not in the picture.
    pub seen: Vec<f64>,
}

/// Distance at which a ray hits the ground, if that is before `hit`.
fn ground_hit(ground: &Ground, origin: [f64; 3], direction: [f64; 3], hit: &Hit) -> Option<f64> {
    let above = origin[2] - ground.z([origin[0], origin[1]]);
    let falls = ground.slope[0] * direction[0] + ground.slope[1] * direction[1] - direction[2];
    let far = above / falls;
    (falls > 0.0 && far < hit.far).then_some(far)
}

fn along(origin: [f64; 3], direction: [f64; 3], far: f64) -> [f64; 3] {
    std::array::from_fn(|axis| origin[axis] + far * direction[axis])
}

/// The numbers from `low` to `high`, and one more at both ends, of those below `count`.
fn between(low: f64, high: f64, count: usize) -> Range<usize> {
    let least = (low.floor() - 1.0).max(0.0) as usize;
    least.min(count)..((high.ceil() + 2.0).max(0.0) as usize).min(count)
}

/// Turns the lidar once, for the quarter ahead. `beams` and `steps` are at least 2.
pub fn scan(street: &Street, [beams, steps]: [usize; 2], rng: &mut SampleRng) -> Cloud {
    let [top, bottom] = ELEVATIONS_DEG.map(f64::to_radians);
    let (beam_rad, step_rad) = ((top - bottom) / (beams - 1) as f64, 2.0 * FRAC_PI_4 / (steps - 1) as f64);
    let direction = |beam: usize, step: usize| {
        let (up, ahead) = (top - beam as f64 * beam_rad).sin_cos();
        let (left, forward) = (FRAC_PI_4 - step as f64 * step_rad).sin_cos();
        [ahead * forward, ahead * left, up]
    };
    let window = |solid: &Solid| {
        let center = solid.bounds.center;
        let size = solid.bounds.size;
        let (distance, half) = (center[0].hypot(center[1]), size[0].hypot(size[1]) / 2.0);
        let ranges = [(distance - half).max(0.1), distance + half];
        let heights = [center[2] - size[2] / 2.0, center[2] + size[2] / 2.0];
        let elevations = ranges.map(|range| heights.map(|height| height.atan2(range)));
        let [low, high] = extremes(elevations.as_flattened());
        if distance <= half {
            return [0..beams, 0..steps];
        }
        let [right, left] = extremes(&solid.corners().map(|corner| corner[1].atan2(corner[0])));
        [
            between((top - high) / beam_rad, (top - low) / beam_rad, beams),
            between((FRAC_PI_4 - left) / step_rad, (FRAC_PI_4 - right) / step_rad, steps),
        ]
    };
    let sight = cast(&street.solids, [0.0; 3], [beams, steps], direction, window);
    let mut cloud = Cloud { points: Vec::new(), objects: Vec::new(), counts: vec![0; street.objects.len()] };
    let ground = &street.ground;
    let ground_normal = {
        let length = (1.0 + ground.slope[0].powi(2) + ground.slope[1].powi(2)).sqrt();
        [-ground.slope[0] / length, -ground.slope[1] / length, 1.0 / length]
    };
    for (at, hit) in sight.hits.iter().enumerate() {
        let direction = direction(at / steps, at % steps);
        let (far, normal, material, object) = match ground_hit(ground, [0.0; 3], direction, hit) {
            Some(far) => {
                let [x, y, _] = along([0.0; 3], direction, far);
                (far, ground_normal, ground.material([x, y]), None)
            }
            None => match street.solids.get(hit.solid) {
                Some(solid) => (hit.far, hit.normal, solid.material, solid.object),
                None => continue,
            },
        };
        let facing = -normal.iter().zip(direction).map(|(n, d)| n * d).sum::<f64>();
        // Of what is far and lies flat little comes back.
        let returns = material.returns * (0.25 + facing * 30.0).min(1.0);
        if far > FARTHEST_M || !rng.chance(returns) {
            continue;
        }
        let noise = (NOISE_M * rng.normal()).clamp(-MOST_NOISE_M, MOST_NOISE_M);
        let intensity = material.intensity * (0.45 + 0.55 * facing) + 0.03 * rng.normal();
        let [x, y, z] = along([0.0; 3], direction, far + noise).map(|value| value as f32);
        cloud.points.push([x, y, z, (intensity.clamp(0.0, 0.99) * 100.0).round() as f32 / 100.0]);
        cloud.objects.push(object);
        if let Some(object) = object {
            cloud.counts[object] += 1;
        }
    }
    cloud
}

fn extremes(values: &[f64]) -> [f64; 2] {
    values.iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(*value), high.max(*value)])
}

/// Takes the picture of camera 2.
pub fn photograph(street: &Street, camera: &Camera) -> Photo {
    let [height, width] = IMAGE_PX;
    let Camera { focal_px, centre_px: [u0, v0], shift: [tx, ty], .. } = *camera;
    // The place whose rays are those of `rect_to_pixels`.
    let eye = [-tx / focal_px, -ty / focal_px, 0.0];
    let origin = camera.rect_to_lidar.place(eye);
    let rows = camera.rect_to_lidar.0;
    let direction = |row: usize, column: usize| {
        let [x, y] = [(column as f64 + 0.5 - u0) / focal_px, (row as f64 + 0.5 - v0) / focal_px];
        rows.map(|[a, b, c, _]| a * x + b * y + c)
    };
    let window = |solid: &Solid| {
        let corners = solid.corners().map(|corner| camera.lidar_to_rect.place(corner));
        if corners.iter().any(|corner| corner[2] < 0.1) {
            return [0..height, 0..width];
        }
        let pixels = corners.map(|corner| camera.rect_to_pixels(corner));
        let [left, right] = extremes(&pixels.map(|pixel| pixel[0]));
        let [top, bottom] = extremes(&pixels.map(|pixel| pixel[1]));
        [between(top, bottom, height), between(left, right, width)]
    };
    let sight = cast(&street.solids, origin, IMAGE_PX, direction, window);
    let mut image =
        RgbImage { width_px: width as u32, height_px: height as u32, pixels: Vec::with_capacity(3 * height * width) };
    let mut visible = vec![0u32; street.objects.len()];
    for (at, hit) in sight.hits.iter().enumerate() {
        let direction = direction(at / width, at % width);
        let colour = match (ground_hit(&street.ground, origin, direction, hit), street.solids.get(hit.solid)) {
            (Some(far), _) if far < 250.0 => {
                let [x, y, _] = along(origin, direction, far);
                street.ground.material([x, y]).colour
            }
            (None, Some(solid)) => {
                if let Some(object) = solid.object {
                    visible[object] += 1;
                }
                let light: f64 = hit.normal.iter().zip([-0.42, 0.34, 0.84]).map(|(n, l)| n * l).sum();
                solid.material.colour.map(|value| (f64::from(value) * (0.68 + 0.32 * light)).round() as u8)
            }
            _ => sky(at / width),
        };
        image.pixels.extend(colour);
    }
    let share = |(visible, all): (u32, u32)| if all == 0 { 0.0 } else { f64::from(visible) / f64::from(all) };
    let unhidden = sight.unhidden.into_iter().chain(std::iter::repeat(0));
    Photo { image, seen: visible.into_iter().zip(unhidden).map(share).collect() }
}

/// Brighter towards the horizon.
fn sky(row: usize) -> [u8; 3] {
    let part = (row as f64 / (0.46 * IMAGE_PX[0] as f64)).min(1.0);
    [(142.0, 84.0), (184.0, 48.0), (228.0, 16.0)].map(|(high, more): (f64, f64)| (high + more * part).round() as u8)
}
