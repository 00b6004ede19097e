//! The camera of a frame: from lidar to rectified camera coordinates, back, and to pixels. Owns the products of the matrices.

use super::frame::Calib;
use feedline::augment::points::Affine;

/// The maps of a calibration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Camera {
    pub lidar_to_rect: Affine,
    pub rect_to_lidar: Affine,
    /// Rows of P2.
    projection: [[f64; 4]; 3],
}

/// The camera's view of a cloud.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CameraView {
    /// From lidar coordinates to u and v, both times the depth, and to the depth.
    rows: [[f32; 4]; 3],
    width_px: f32,
    height_px: f32,
}

impl Camera {
    /// The camera of `calib`, which must have an inverse ([`super::infos`] checks it).
    pub fn new(calib: &Calib) -> Camera {
        let rows = |matrix: &[[f32; 4]; 4]| [0, 1, 2].map(|row| matrix[row].map(f64::from));
        let lidar_to_rect = Affine(rows(&calib.tr_velo_to_cam)).then(&Affine(rows(&calib.r0_rect)));
        Camera { lidar_to_rect, rect_to_lidar: lidar_to_rect.inverse(), projection: rows(&calib.p2) }
    }

    /// u and v of a place in rectified camera coordinates, in pixels, divided by the depth there as OpenPCDet does.
    pub fn rect_to_pixels(&self, [x, y, z]: [f64; 3]) -> [f64; 2] {
        [0, 1].map(|row| {
            let [a, b, c, d] = self.projection[row];
            (a * x + b * y + c * z + d) / z
        })
    }

    /// The view of a picture of so many pixels.
    pub(super) fn view(&self, [height_px, width_px]: [i32; 2]) -> CameraView {
        let Affine([x, y, z]) = self.lidar_to_rect;
        let row = |[a, b, c, d]: [f64; 4]| -> [f64; 4] {
            std::array::from_fn(|at| a * x[at] + b * y[at] + c * z[at] + if at == 3 { d } else { 0.0 })
        };
        let rows = [row(self.projection[0]), row(self.projection[1]), z].map(|row| row.map(|value| value as f32));
        CameraView { rows, width_px: width_px as f32, height_px: height_px as f32 }
    }
}

impl CameraView {
    /// True if a point lies before the camera and in the picture: `0 <= u < W`, `0 <= v < H`.
    pub(super) fn shows(&self, [x, y, z]: [f32; 3]) -> bool {
        let [u, v, depth] = self.rows.map(|[a, b, c, d]| a * x + b * y + c * z + d);
        // Without branches, so that the compiler can vectorise a loop over many points.
        (depth > 0.0) & (u >= 0.0) & (u < self.width_px * depth) & (v >= 0.0) & (v < self.height_px * depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn calib() -> Calib {
        let one = |rows: [[f32; 4]; 3]| [rows[0], rows[1], rows[2], [0.0, 0.0, 0.0, 1.0]];
        Calib {
            p2: one([[700.0, 0.0, 600.0, 45.0], [0.0, 700.0, 180.0, -0.3], [0.0, 0.0, 1.0, 0.005]]),
            r0_rect: one([[1.0, 0.01, 0.0, 0.0], [-0.01, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
            tr_velo_to_cam: one([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -0.08], [1.0, 0.0, 0.0, -0.27]]),
        }
    }

    #[test]
    fn the_way_there_and_back_is_none() {
        let camera = Camera::new(&calib());
        let place = [20.0, -3.0, 0.5];
        let rect = camera.lidar_to_rect.place(place);
        assert!((rect[2] - 19.73).abs() < 1e-6, "what is ahead is deep: {rect:?}");
        let back = camera.rect_to_lidar.place(rect);
        assert!(back.iter().zip(place).all(|(one, other)| (one - other).abs() < 1e-9), "{back:?}");
    }

    #[test]
    fn points_are_seen_where_their_pixels_are_in_the_picture() {
        let camera = Camera::new(&calib());
        let view = camera.view([375, 1242]);
        let mut seen = 0;
        for at in 0..4000 {
            let place = [f64::from(at % 40) - 10.0, f64::from(at / 40 % 20) - 10.0, f64::from(at / 800) - 2.5];
            let rect = camera.lidar_to_rect.place(place);
            let [u, v] = camera.rect_to_pixels(rect);
            let expect = rect[2] > 0.0 && (0.0..1242.0).contains(&u) && (0.0..375.0).contains(&v);
            assert_eq!(view.shows(place.map(|value| value as f32)), expect, "{place:?} is at {u} {v}");
            seen += usize::from(expect);
        }
        assert!((200..3000).contains(&seen), "{seen}");
    }
}
