//! Boxes in lidar coordinates: x forward, y left, z up, in metres. Owns how rotations, mirrors, scalings and shifts change
//! them, and the test of which points are inside.

/// An upright box: it rotates about the z axis only.
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

    /// True if the ground plans overlap; boxes that only touch do not. Two rectangles are disjoint if and only if a side of
    /// one of them separates them (the separating axis theorem).
    pub fn overlaps_xy(&self, other: &Box3d) -> bool {
        let away: f64 = (0..2).map(|axis| (self.center[axis] - other.center[axis]).powi(2)).sum();
        let reach = |size: &[f64; 3]| size[0].hypot(size[1]) / 2.0;
        if away.sqrt() >= reach(&self.size) + reach(&other.size) {
            return false;
        }
        let corners = [self.corners_xy(), other.corners_xy()];
        [self, other].iter().all(|bounds| {
            let (sin, cos) = bounds.heading.sin_cos();
            [[cos, sin], [-sin, cos]].into_iter().all(|[x, y]| {
                let along = |corners: &[[f64; 2]; 4]| {
                    let places = corners.map(|corner| corner[0] * x + corner[1] * y);
                    let most = places.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    (places.iter().copied().fold(f64::INFINITY, f64::min), most)
                };
                let (one, two) = (along(&corners[0]), along(&corners[1]));
                one.0 < two.1 && two.0 < one.1
            })
        })
    }

    /// The box prepared for fast tests of many points.
    pub fn bounds(&self) -> Bounds {
        let (sin, cos) = self.heading.sin_cos();
        Bounds {
            center: self.center.map(|value| value as f32),
            half: self.size.map(|side| (side / 2.0) as f32),
            sin: sin as f32,
            cos: cos as f32,
        }
    }
}

/// A box prepared for point tests, in the precision of the points (f32).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    center: [f32; 3],
    half: [f32; 3],
    sin: f32,
    cos: f32,
}

impl Bounds {
    /// True if the point is inside or on a side.
    pub fn contains(&self, [x, y, z]: [f32; 3]) -> bool {
        let [x, y, z] = [x - self.center[0], y - self.center[1], z - self.center[2]];
        let (along, across) = (x * self.cos + y * self.sin, y * self.cos - x * self.sin);
        // Without branches, so that the compiler can vectorise a loop over many points.
        (z.abs() <= self.half[2]) & (along.abs() <= self.half[0]) & (across.abs() <= self.half[1])
    }
}

/// The equivalent angle in [-pi, pi): `v - floor(v / 2 pi + 0.5) * 2 pi`, as OpenPCDet's `limit_period`.
pub fn wrapped(angle_rad: f64) -> f64 {
    angle_rad - (angle_rad / std::f64::consts::TAU + 0.5).floor() * std::f64::consts::TAU
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::rng::SampleRng;
    use std::f64::consts::{FRAC_PI_2, PI};

    fn drawn(rng: &mut SampleRng) -> Box3d {
        let center = [rng.uniform(-3.0, 3.0), rng.uniform(-3.0, 3.0), rng.uniform(-1.0, 1.0)];
        let size = [rng.uniform(0.5, 4.0), rng.uniform(0.5, 2.0), rng.uniform(0.5, 2.0)];
        Box3d { center, size, heading: rng.uniform(-7.0, 7.0) }
    }

    /// True if any point of a dense grid over one ground plan lies in the other.
    fn overlap_by_places(one: &Box3d, other: &Box3d) -> bool {
        let steps = 60;
        (0..steps * steps).any(|at| {
            let [u, v] = [at % steps, at / steps].map(|step| (f64::from(step) + 0.5) / f64::from(steps) - 0.5);
            let (sin, cos) = one.heading.sin_cos();
            let [along, across] = [u * one.size[0], v * one.size[1]];
            let x = one.center[0] + along * cos - across * sin;
            let y = one.center[1] + along * sin + across * cos;
            other.bounds().contains([x as f32, y as f32, other.center[2] as f32])
        })
    }

    #[test]
    fn boxes_overlap_where_a_place_is_in_both() {
        let mut rng = SampleRng::new(1, 0, 0, "boxes");
        let (mut apart, mut over) = (0, 0);
        for _ in 0..400 {
            let (one, other) = (drawn(&mut rng), drawn(&mut rng));
            let told = one.overlaps_xy(&other);
            assert_eq!(told, other.overlaps_xy(&one));
            // An overlap thinner than the grid's spacing may be missed.
            assert!(told || !overlap_by_places(&one, &other), "{one:?} {other:?}");
            let smaller = Box3d { size: [one.size[0] * 0.9, one.size[1] * 0.9, one.size[2]], ..one };
            if smaller.overlaps_xy(&other) {
                assert!(overlap_by_places(&one, &other) || overlap_by_places(&other, &one), "{one:?} {other:?}");
            }
            if told { over += 1 } else { apart += 1 }
        }
        assert!(apart > 50 && over > 50, "{apart} {over}");
        let square = Box3d { center: [0.0; 3], size: [2.0; 3], heading: 0.0 };
        assert!(!square.overlaps_xy(&Box3d { center: [2.0, 0.0, 0.0], ..square }), "touching is no overlap");
        assert!(square.overlaps_xy(&Box3d { center: [1.99, 0.0, 9.0], ..square }), "whatever the height");
    }

    #[test]
    fn a_point_is_inside_by_the_box_turned_back() {
        let car = Box3d { center: [10.0, 5.0, -1.0], size: [4.0, 2.0, 1.5], heading: FRAC_PI_2 };
        for (point, inside) in [
            ([10.0, 6.9, -1.0], true),
            ([10.0, 7.1, -1.0], false),
            ([10.9, 5.0, -1.0], true),
            ([11.1, 5.0, -1.0], false),
            ([10.0, 5.0, -0.25], true),
            ([10.0, 5.0, -0.2], false),
        ] {
            assert_eq!(car.bounds().contains(point), inside, "{point:?}");
        }
    }

    #[test]
    fn angles_wrap_into_one_turn() {
        for (angle, expect) in [(0.0, 0.0), (PI, -PI), (-PI, -PI), (3.5 * PI, -0.5 * PI), (-2.25 * PI, -0.25 * PI)] {
            assert!((wrapped(angle) - expect).abs() < 1e-12, "{angle}: {}", wrapped(angle));
        }
    }
}
