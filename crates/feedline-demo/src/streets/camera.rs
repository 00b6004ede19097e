//! The camera of the drawn frames, and the poses of cameras, lidar and inertial unit: nearly KITTI's, with a
//! lidar that is not quite level. Owns the numbers of the calibration, and the projection from the lidar to pixels.

use feedline::augment::points::Affine;

type Matrix = [[f64; 3]; 3];

const FOCAL_PX: f64 = 720.0;
const CENTRE_PX: [f64; 2] = [612.0, 174.0];

/// The last column of the projection of each of the four cameras.
pub const SHIFTS: [[f64; 3]; 4] = [[0.0, 0.0, 0.0], [-386.6, 0.0, 0.0], [44.8, 0.22, 0.0027], [-338.9, 2.2, 0.0027]];

/// Camera 2 of KITTI, which takes the pictures. Its numbers are rounded to 32 bits, as readers of the calibration keep them.
pub struct Camera {
    /// From lidar coordinates to rectified camera coordinates: x to the right, y down, z ahead.
    pub lidar_to_rect: Affine,
    /// The inverse map.
    pub rect_to_lidar: Affine,
    /// Along x and along y.
    pub focal_px: f64,
    /// Column and row of the principal point.
    pub centre_px: [f64; 2],
    /// Offset that is added to x and y, in pixels times metres.
    pub shift: [f64; 2],
}

impl Camera {
    /// The camera of every frame.
    pub fn new() -> Camera {
        let kept = |value: f64| f64::from(value as f32);
        let to_camera = Affine(lidar_to_camera().map(|row| row.map(kept)));
        let rectified = Affine(rectification().map(|[a, b, c]| [kept(a), kept(b), kept(c), 0.0]));
        let lidar_to_rect = to_camera.then(&rectified);
        let [x, y, _] = SHIFTS[2].map(kept);
        Camera {
            lidar_to_rect,
            rect_to_lidar: lidar_to_rect.inverse(),
            focal_px: FOCAL_PX,
            centre_px: CENTRE_PX,
            shift: [x, y],
        }
    }

    /// Column and row of a place in rectified camera coordinates.
    pub fn rect_to_pixels(&self, place: [f64; 3]) -> [f64; 2] {
        let depth = place[2];
        [0, 1].map(|axis| (self.focal_px * place[axis] + self.centre_px[axis] * depth + self.shift[axis]) / depth)
    }
}

/// A projection (3, 4) row by row.
pub fn projection([x, y, z]: [f64; 3]) -> [f64; 12] {
    let [u, v] = CENTRE_PX;
    [FOCAL_PX, 0.0, u, x, 0.0, FOCAL_PX, v, y, 0.0, 0.0, 1.0, z]
}

/// From the coordinates of the first camera to those that all cameras share.
pub fn rectification() -> Matrix {
    product(&turn(2, 0.0095), &product(&turn(1, -0.0074), &turn(0, 0.0043)))
}

/// From the lidar to the first camera.
pub fn lidar_to_camera() -> [[f64; 4]; 3] {
    // Cameras look along z with x to the right and y down.
    let ahead = [[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]];
    let turned = product(&turn(2, -0.0132), &product(&turn(1, 0.0068), &product(&turn(0, -0.0035), &ahead)));
    placed(&turned, [-0.004, -0.0763, -0.2718])
}

/// From the inertial unit to the lidar.
pub fn imu_to_lidar() -> [[f64; 4]; 3] {
    placed(&product(&turn(0, 0.0148), &product(&turn(1, -0.002), &turn(2, -0.0008))), [-0.81, 0.32, -0.8])
}

fn placed(turned: &Matrix, shift: [f64; 3]) -> [[f64; 4]; 3] {
    [0, 1, 2].map(|row| {
        let [a, b, c] = turned[row];
        [a, b, c, shift[row]]
    })
}

/// A turn about an axis, from the next axis towards the one after it.
fn turn(axis: usize, angle_rad: f64) -> Matrix {
    let (sin, cos) = angle_rad.sin_cos();
    let (next, last) = ((axis + 1) % 3, (axis + 2) % 3);
    let mut rows = [[0.0; 3]; 3];
    rows[axis][axis] = 1.0;
    (rows[next][next], rows[last][last]) = (cos, cos);
    (rows[next][last], rows[last][next]) = (-sin, sin);
    rows
}

fn product(one: &Matrix, other: &Matrix) -> Matrix {
    std::array::from_fn(|row| std::array::from_fn(|column| (0..3).map(|k| one[row][k] * other[k][column]).sum()))
}
