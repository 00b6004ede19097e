//! Boxes in lidar coordinates: x forward, y left, z up, in metres. Owns what a turn, a mirror, a scale and a shift do to them,
//! and which points are inside.

/// A box that stands upright.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(from = "[f64; 7]", into = "[f64; 7]")]
pub struct Box3d {
    /// x, y, z of its middle.
    pub center: [f64; 3],
    /// Length along its heading, width and height.
    pub size: [f64; 3],
    /// Angle from the x axis towards the y axis, in radians.
    pub heading: f64,
}

impl From<[f64; 7]> for Box3d {
    /// x, y, z, dx, dy, dz, heading: OpenPCDet's order.
    fn from([x, y, z, dx, dy, dz, heading]: [f64; 7]) -> Box3d {
        Box3d { center: [x, y, z], size: [dx, dy, dz], heading }
    }
}

impl From<Box3d> for [f64; 7] {
    fn from(Box3d { center: [x, y, z], size: [dx, dy, dz], heading }: Box3d) -> [f64; 7] {
        [x, y, z, dx, dy, dz, heading]
    }
}

impl Box3d {
    /// The corners of its ground plan, counter-clockwise.
    pub fn corners_xy(&self) -> [[f64; 2]; 4] {
        let (sin, cos) = self.heading.sin_cos();
        let [hx, hy] = [self.size[0] / 2.0, self.size[1] / 2.0];
        [[hx, hy], [-hx, hy], [-hx, -hy], [hx, -hy]]
            .map(|[x, y]| [self.center[0] + x * cos - y * sin, self.center[1] + x * sin + y * cos])
    }
}
