//! A room as the camera sees it, and as voxels. Owns the rays and everything derived from them: the two pictures,
//! the pixel of each voxel, the signed distances, the classes and their weights, the sketch.

use super::room::{Room, Solid};

/// A Kinect's, for 640 x 480 pixels: focal lengths, then the centre, along x and y.
const FOCAL_PX: [f64; 2] = [518.86, 519.47];
const CENTRE_PX: [f64; 2] = [325.58, 253.74];
const CAMERA_PX: [f64; 2] = [640.0, 480.0];

/// Label of a voxel that does not count.
pub const IGNORED: u8 = 255;

/// One sample. Voxels stand row-major, the second of the three axes up.
pub struct RenderedRoom {
    /// Interleaved RGB.
    pub colours: Vec<u8>,
    /// Horizontal disparity, height above the floor, angle with the vertical; interleaved.
    pub hha: Vec<u8>,
    /// Pixel of each voxel, row times width plus column; the number of pixels where there is none. It is the first
    /// pixel whose surface point lies in the voxel.
    pub pixel_of_voxel: Vec<i64>,
    /// Distance to the surface that the voxel's centre is seen before (positive) or behind, over three voxels' edges
    /// and no more than 1; -1 outside the picture too, as of all that is hidden.
    pub tsdf: Vec<f32>,
    /// Class of each voxel: 0 empty, 1 to 11 an object, 255 outside the room or the picture.
    pub labels: Vec<u8>,
    /// 1 if the class of the voxel counts: it is occupied or hidden. 0 if it is seen to be empty,
    /// or if its label is 255.
    pub weights: Vec<f32>,
    /// 1 where something borders on a voxel that is empty.
    pub sketch: Vec<u8>,
}

/// The nearest face that a ray hits.
#[derive(Clone, Copy)]
struct Hit {
    solid: usize,
    depth_m: f64,
    /// Axis that the face looks along.
    axis: usize,
    /// True if the face looks in the positive direction of that axis.
    forward: bool,
}

/// Rotation and position of the camera in the world.
struct Pose {
    eye_m: [f64; 3],
    yaw: (f64, f64),
    pitch: (f64, f64),
}

impl Pose {
    /// From right, up and ahead to the world.
    fn to_world(&self, [x, y, z]: [f64; 3]) -> [f64; 3] {
        let ((sin_yaw, cos_yaw), (sin, cos)) = (self.yaw, self.pitch);
        let (y, z) = (y * cos - z * sin, y * sin + z * cos);
        [x * cos_yaw + z * sin_yaw, y, z * cos_yaw - x * sin_yaw]
    }

    /// From a place in the world to right, up and ahead of the eye.
    fn to_camera(&self, place: [f64; 3]) -> [f64; 3] {
        let ((sin_yaw, cos_yaw), (sin, cos)) = (self.yaw, self.pitch);
        let [x, y, z]: [f64; 3] = std::array::from_fn(|axis| place[axis] - self.eye_m[axis]);
        let (x, z) = (x * cos_yaw - z * sin_yaw, x * sin_yaw + z * cos_yaw);
        [x, y * cos + z * sin, z * cos - y * sin]
    }
}

/// Looks at `room`; the pictures have `image_px` rows and columns.
pub fn look(room: &Room, image_px: [usize; 2]) -> RenderedRoom {
    let camera = &room.camera;
    let pose = Pose { eye_m: camera.eye_m, yaw: camera.yaw.sin_cos(), pitch: camera.pitch.sin_cos() };
    let [rows, columns] = image_px;
    let scale = [columns as f64 / CAMERA_PX[0], rows as f64 / CAMERA_PX[1]];
    let pixels = rows * columns;
    let mut view = RenderedRoom {
        colours: Vec::with_capacity(3 * pixels),
        hha: Vec::with_capacity(3 * pixels),
        pixel_of_voxel: vec![pixels as i64; room.grid.iter().product()],
        tsdf: Vec::new(),
        labels: labels(room),
        weights: Vec::new(),
        sketch: Vec::new(),
    };
    let mut depths_m = Vec::with_capacity(pixels);
    for pixel in 0..pixels {
        let at = [pixel % columns, pixel / columns];
        let [right, down] =
            [0, 1].map(|axis| ((at[axis] as f64 + 0.5) / scale[axis] - 0.5 - CENTRE_PX[axis]) / FOCAL_PX[axis]);
        let ray = pose.to_world([right, -down, 1.0]);
        let hit = cast(room, ray);
        let place: [f64; 3] = std::array::from_fn(|axis| pose.eye_m[axis] + hit.depth_m * ray[axis]);
        let solid = &room.solids[hit.solid];
        view.colours.extend(shade(room, solid, &hit, place));
        view.hha.extend(hha(room, &hit, place));
        if let Some(voxel) = voxel_of(room, solid, place) {
            let first = &mut view.pixel_of_voxel[voxel];
            *first = (*first).min(pixel as i64);
        }
        depths_m.push(hit.depth_m);
    }

    let truncation_m = 3.0 * room.voxel_m.iter().fold(0.0, |most: f64, edge| most.max(*edge));
    for voxel in 0..view.labels.len() {
        let cell = cell_of(room, voxel);
        let centre = std::array::from_fn(|axis| (f64::from(cell[axis]) + 0.5) * room.voxel_m[axis]);
        let [right, up, ahead] = pose.to_camera(centre);
        let column = ((right / ahead * FOCAL_PX[0] + CENTRE_PX[0] + 0.5) * scale[0]).floor();
        let row = ((-up / ahead * FOCAL_PX[1] + CENTRE_PX[1] + 0.5) * scale[1]).floor();
        let is_seen = ahead > 0.0 && (0.0..columns as f64).contains(&column) && (0.0..rows as f64).contains(&row);
        let distance_m = is_seen.then(|| depths_m[row as usize * columns + column as usize] - ahead);
        view.tsdf.push(distance_m.map_or(-1.0, |metres| (metres / truncation_m).clamp(-1.0, 1.0) as f32));
        let label = &mut view.labels[voxel];
        // A voxel whose centre is just outside may still be seen in part.
        let in_room = (0..3).all(|axis| (room.first[axis]..room.end[axis]).contains(&cell[axis]));
        if !in_room || (!is_seen && view.pixel_of_voxel[voxel] == pixels as i64) {
            *label = IGNORED;
        }
        let counts = match *label {
            IGNORED => false,
            0 => distance_m.is_none_or(|metres| metres <= 0.0),
            _ => true,
        };
        view.weights.push(f32::from(u8::from(counts)));
    }
    view.sketch = sketch(room, &view.labels);
    view
}

/// The nearest face along a ray from the eye. `ray` goes one metre ahead, so that the ray's parameter at the hit is the
/// depth.
fn cast(room: &Room, ray: [f64; 3]) -> Hit {
    let eye = room.camera.eye_m;
    let slope = ray.map(|along| 1.0 / along);
    let mut nearest = Hit { solid: 0, depth_m: f64::INFINITY, axis: 2, forward: false };
    for (number, solid) in room.solids.iter().enumerate() {
        let (mut enters, mut leaves, mut axis) = (f64::NEG_INFINITY, f64::INFINITY, 0);
        for side in 0..3 {
            let to = |cell: i32| (f64::from(cell) * room.voxel_m[side] - eye[side]) * slope[side];
            let (a, b) = (to(solid.low[side]), to(solid.high[side]));
            let (near, far) = if a < b { (a, b) } else { (b, a) };
            if near > enters {
                (enters, axis) = (near, side);
            }
            leaves = leaves.min(far);
        }
        // Of two faces in one plane the later one counts, as for voxels.
        if enters > 0.0 && enters < leaves && enters <= nearest.depth_m {
            nearest = Hit { solid: number, depth_m: enters, axis, forward: ray[axis] < 0.0 };
        }
    }
    nearest
}

fn shade(room: &Room, solid: &Solid, hit: &Hit, place: [f64; 3]) -> [u8; 3] {
    const LINE_M: f64 = 0.012;
    let mut light = room.light[hit.axis][usize::from(hit.forward)];
    let is_on_line = (0..3).filter(|axis| *axis != hit.axis).any(|axis| {
        let low = f64::from(solid.low[axis]) * room.voxel_m[axis];
        let high = f64::from(solid.high[axis]) * room.voxel_m[axis];
        let (from_low, to_high) = (place[axis] - low, high - place[axis]);
        let seam = solid.seams_m[axis];
        let is_on_seam = seam > 0.0 && (from_low / seam).fract() * seam < LINE_M && from_low > LINE_M;
        is_on_seam || (solid.has_edges && from_low.min(to_high) < LINE_M)
    });
    if is_on_line {
        light *= 0.8;
    }
    solid.colour.map(|value| (value * light).clamp(0.0, 255.0) as u8)
}

/// As the encoding of Gupta and others has it: 31000 over the depth in cm, cm above the floor, and 38 plus the angle
/// between the surface's normal and the vertical in degrees.
fn hha(room: &Room, hit: &Hit, place: [f64; 3]) -> [u8; 3] {
    let height_m = place[1] - room.voxel_m[1];
    let angle = match (hit.axis, hit.forward) {
        (1, true) => 0.0,
        (1, false) => 180.0,
        _ => 90.0,
    };
    // The cast saturates.
    [310.0 / hit.depth_m, 100.0 * height_m, 38.0 + angle].map(|value| value.round() as u8)
}

/// The voxel of `solid` at a place on its surface, if it is in the grid.
fn voxel_of(room: &Room, solid: &Solid, place: [f64; 3]) -> Option<usize> {
    (0..3).try_fold(0, |voxel, axis| {
        // The surface lies on a border: the voxel behind it is meant.
        let cell = (place[axis] / room.voxel_m[axis]).floor() as i32;
        let cell = usize::try_from(cell.clamp(solid.low[axis], solid.high[axis] - 1)).ok()?;
        (cell < room.grid[axis]).then_some(voxel * room.grid[axis] + cell)
    })
}

fn cell_of(room: &Room, voxel: usize) -> [i32; 3] {
    let [_, up, away] = room.grid;
    [voxel / (up * away), voxel / away % up, voxel % away].map(|cell| cell as i32)
}

/// The class in each voxel.
fn labels(room: &Room) -> Vec<u8> {
    let is_in =
        |solid: &Solid, cell: [i32; 3]| (0..3).all(|axis| (solid.low[axis]..solid.high[axis]).contains(&cell[axis]));
    let class = |cell| room.solids.iter().rev().find(|solid| is_in(solid, cell)).map_or(0, |solid| solid.class);
    (0..room.grid.iter().product()).map(|voxel| class(cell_of(room, voxel))).collect()
}

fn sketch(room: &Room, labels: &[u8]) -> Vec<u8> {
    let strides = [room.grid[1] * room.grid[2], room.grid[2], 1];
    let is_empty = |voxel: usize| labels.get(voxel) == Some(&0);
    let is_edge = |voxel: usize| {
        let cell = cell_of(room, voxel);
        matches!(labels[voxel], 1..=11)
            && (0..3).any(|axis| {
                let (place, last) = (cell[axis] as usize, room.grid[axis] - 1);
                (place > 0 && is_empty(voxel - strides[axis])) || (place < last && is_empty(voxel + strides[axis]))
            })
    };
    (0..labels.len()).map(|voxel| u8::from(is_edge(voxel))).collect()
}
