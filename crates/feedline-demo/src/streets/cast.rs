//! Ray casting against solids: the first solid that a ray hits, the point and the angle. Owns the shapes.

use feedline::augment::boxes::Box3d;
use std::ops::Range;

/// The shape that fills a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Block,
    /// Upright; round if the box is square.
    Cylinder,
    Ellipsoid,
}

/// The look of a surface, for the camera and the lidar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Material {
    pub colour: [u8; 3],
    /// Reflected intensity at a right angle, 0 to 1.
    pub intensity: f64,
    /// Share of lidar rays that return.
    pub returns: f64,
}

/// A shape of one material; of an object, if one has the number.
#[derive(Debug, Clone)]
pub struct Solid {
    pub bounds: Box3d,
    pub material: Material,
    pub object: Option<usize>,
    shape: Shape,
    sin: f64,
    cos: f64,
}

impl Solid {
    pub fn new(shape: Shape, bounds: Box3d, material: Material, object: Option<usize>) -> Solid {
        let (sin, cos) = bounds.heading.sin_cos();
        Solid { bounds, material, object, shape, sin, cos }
    }

    /// A direction in the coordinates where the solid lies along the axes and reaches from -1 to 1.
    fn scaled(&self, [x, y, z]: [f64; 3]) -> [f64; 3] {
        let turned = [x * self.cos + y * self.sin, y * self.cos - x * self.sin, z];
        std::array::from_fn(|axis| turned[axis] * 2.0 / self.bounds.size[axis])
    }

    /// Distance along a ray to the hit from outside, in lengths of `direction`, and the normal there; all in scaled coordinates.
    fn meet(&self, origin: [f64; 3], direction: [f64; 3]) -> Option<(f64, [f64; 3])> {
        // The coefficients of a t^2 + 2 b t + c = 0 over some axes, for what is round.
        let entry = |axes: Range<usize>| {
            let dot = |one: &[f64; 3], other: &[f64; 3]| axes.clone().map(|axis| one[axis] * other[axis]).sum::<f64>();
            let (a, b, c) = (dot(&direction, &direction), dot(&origin, &direction), dot(&origin, &origin) - 1.0);
            let root = b * b - a * c;
            let t = (-b - root.max(0.0).sqrt()) / a;
            (root >= 0.0 && t > 0.0).then_some(t)
        };
        let place = |t: f64| -> [f64; 3] { std::array::from_fn(|axis| origin[axis] + t * direction[axis]) };
        match self.shape {
            Shape::Ellipsoid => entry(0..3).map(|t| (t, place(t))),
            Shape::Cylinder => {
                let side = entry(0..2).map(|t| (t, place(t))).filter(|(_, [.., z])| z.abs() <= 1.0);
                side.map(|(t, [x, y, _])| (t, [x, y, 0.0])).or_else(|| {
                    let up = -direction[2].signum();
                    let t = (up - origin[2]) / direction[2];
                    let [x, y, _] = place(t);
                    (t > 0.0 && x * x + y * y <= 1.0).then_some((t, [0.0, 0.0, up]))
                })
            }
            Shape::Block => {
                let (mut near, mut far, mut side) = (0.0, f64::INFINITY, 3);
                for axis in 0..3 {
                    if direction[axis] == 0.0 {
                        if origin[axis].abs() > 1.0 {
                            return None;
                        }
                        continue;
                    }
                    let sign = direction[axis].signum();
                    let (enter, leave) =
                        ((-sign - origin[axis]) / direction[axis], (sign - origin[axis]) / direction[axis]);
                    if enter > near {
                        (near, side) = (enter, axis);
                    }
                    far = f64::min(far, leave);
                }
                let mut normal = [0.0; 3];
                *normal.get_mut(side)? = -direction[side].signum();
                (near <= far).then_some((near, normal))
            }
        }
    }

    /// A scaled normal as it stands in the street, of length 1.
    fn unscaled(&self, normal: [f64; 3]) -> [f64; 3] {
        let [x, y, z]: [f64; 3] = std::array::from_fn(|axis| normal[axis] / self.bounds.size[axis]);
        let length = (x * x + y * y + z * z).sqrt();
        [x * self.cos - y * self.sin, x * self.sin + y * self.cos, z].map(|value| value / length)
    }

    /// Its corners.
    pub fn corners(&self) -> [[f64; 3]; 8] {
        corners(&self.bounds)
    }
}

/// The corners of a box, the lower ones first.
pub fn corners(bounds: &Box3d) -> [[f64; 3]; 8] {
    let plan = bounds.corners_xy();
    std::array::from_fn(|at| {
        let half = bounds.size[2] / 2.0 * if at < 4 { -1.0 } else { 1.0 };
        [plan[at % 4][0], plan[at % 4][1], bounds.center[2] + half]
    })
}

/// The first hit of a ray.
#[derive(Debug, Clone, Copy)]
pub struct Hit {
    /// Distance in lengths of the ray's direction; infinite if it hits nothing.
    pub far: f64,
    /// Number of the solid.
    pub solid: usize,
    pub normal: [f64; 3],
}

/// The hits of a grid of rays from one point.
pub struct Sight {
    /// Row by row.
    pub hits: Vec<Hit>,
    /// For each object, the number of rays that would hit it if nothing hid it.
    pub unhidden: Vec<u32>,
}

/// Casts rays in `rows` x `columns`; `window` bounds the rows and columns of the rays that may meet a solid. The solids of an
/// object stand together.
pub fn cast(
    solids: &[Solid],
    origin: [f64; 3],
    [rows, columns]: [usize; 2],
    direction: impl Fn(usize, usize) -> [f64; 3],
    window: impl Fn(&Solid) -> [Range<usize>; 2],
) -> Sight {
    let nothing = Hit { far: f64::INFINITY, solid: usize::MAX, normal: [0.0; 3] };
    let mut hits = vec![nothing; rows * columns];
    let objects = solids.iter().filter_map(|solid| solid.object).max().map_or(0, |most| most + 1);
    let mut unhidden = vec![0; objects];
    // Of each ray the object that it met last.
    let mut met = vec![usize::MAX; rows * columns];
    for (number, solid) in solids.iter().enumerate() {
        let from = solid.scaled(std::array::from_fn(|axis| origin[axis] - solid.bounds.center[axis]));
        let [in_rows, in_columns] = window(solid);
        for row in in_rows {
            for column in in_columns.clone() {
                let Some((far, normal)) = solid.meet(from, solid.scaled(direction(row, column))) else { continue };
                let at = row * columns + column;
                if let Some(object) = solid.object.filter(|object| met[at] != *object) {
                    met[at] = object;
                    unhidden[object] += 1;
                }
                if far < hits[at].far {
                    hits[at] = Hit { far, solid: number, normal: solid.unscaled(normal) };
                }
            }
        }
    }
    Sight { hits, unhidden }
}

#[cfg(test)]
mod tests {
    use super::*;
    use feedline::plan::rng::SampleRng;

    const GREY: Material = Material { colour: [99; 3], intensity: 0.5, returns: 1.0 };

    #[test]
    fn a_ray_meets_a_solid_where_walking_along_it_comes_inside() {
        let mut rng = SampleRng::new(1, 0, 0, "rays");
        let mut met = [0; 3];
        for round in 0..600 {
            let shape = [Shape::Block, Shape::Cylinder, Shape::Ellipsoid][round % 3];
            let size = [rng.uniform(0.5, 4.0), rng.uniform(0.5, 2.0), rng.uniform(0.5, 2.0)];
            let bounds = Box3d { center: [8.0, 1.0, -0.5], size, heading: rng.uniform(-4.0, 4.0) };
            let solid = Solid::new(shape, bounds, GREY, None);
            let direction = [1.0, rng.uniform(-0.2, 0.4), rng.uniform(-0.2, 0.1)];
            let inside = |t: f64| {
                let [x, y, z] = solid.scaled(std::array::from_fn(|axis| t * direction[axis] - bounds.center[axis]));
                match shape {
                    Shape::Block => x.abs().max(y.abs()).max(z.abs()) <= 1.0,
                    Shape::Cylinder => x * x + y * y <= 1.0 && z.abs() <= 1.0,
                    Shape::Ellipsoid => x * x + y * y + z * z <= 1.0,
                }
            };
            let sight = cast(std::slice::from_ref(&solid), [0.0; 3], [1, 1], |_, _| direction, |_| [0..1, 0..1]);
            let hit = sight.hits[0];
            let walked = (0..14_000).map(|step| f64::from(step) * 1e-3).find(|t| inside(*t));
            // Grazing rays may be inside between two steps.
            if let Some(walked) = walked {
                assert!((hit.far - walked).abs() < 2e-3, "{shape:?}: {} {walked}", hit.far);
                let length = hit.normal.iter().map(|v| v * v).sum::<f64>();
                let against = hit.normal.iter().zip(direction).map(|(n, d)| n * d).sum::<f64>();
                assert!((length - 1.0).abs() < 1e-9 && against <= 0.0, "{:?}", hit.normal);
                met[round % 3] += 1;
            } else if hit.far.is_finite() {
                assert!(inside(hit.far + 1e-9) && !inside(hit.far + 2e-3), "{shape:?}");
            }
        }
        assert!(met.iter().all(|met| (25..190).contains(met)), "{met:?}");
    }

    #[test]
    fn what_is_nearer_hides_what_is_behind() {
        let at = |x: f64, object| {
            let bounds = Box3d { center: [x, 0.0, 0.0], size: [1.0; 3], heading: 0.0 };
            Solid::new(Shape::Block, bounds, GREY, object)
        };
        let solids = [at(9.0, Some(0)), at(5.0, None), at(20.0, Some(1)), at(21.0, Some(1))];
        let sight = cast(&solids, [0.0; 3], [1, 3], |_, column| [1.0, 0.04 * column as f64, 0.0], |_| [0..1, 0..3]);
        assert_eq!(sight.unhidden, [2, 1], "an object is counted once, whatever its parts");
        let seen: Vec<(usize, f64)> = sight.hits.iter().map(|hit| (hit.solid, hit.far)).collect();
        assert_eq!(seen, [(1, 4.5), (1, 4.5), (1, 4.5)]);
    }
}
