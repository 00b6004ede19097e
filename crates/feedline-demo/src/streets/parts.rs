//! The solids that objects consist of: a car, a pedestrian, a cyclist, a tree. Owns their proportions.

use super::cast::{Material, Shape, Solid};
use feedline::augment::boxes::Box3d;
use feedline::plan::rng::SampleRng;

/// The kinds of objects in a street.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Car,
    Pedestrian,
    Cyclist,
    Van,
    Building,
    Fence,
    Pole,
    Tree,
    Bush,
    Bin,
}

/// A labelled object is smaller than its box by this on each side, for the lidar's noise and the rounding of the labels.
pub const MARGIN_M: f64 = 0.05;

impl Kind {
    /// Its class, if it has one.
    pub fn class(self) -> Option<&'static str> {
        match self {
            Kind::Car => Some("Car"),
            Kind::Pedestrian => Some("Pedestrian"),
            Kind::Cyclist => Some("Cyclist"),
            Kind::Van => Some("Van"),
            _ => None,
        }
    }

    /// Length, width and height of one.
    pub fn size(self, rng: &mut SampleRng) -> [f64; 3] {
        let (least, most) = match self {
            Kind::Car => ([3.5, 1.52, 1.42], [4.4, 1.76, 1.66]),
            Kind::Pedestrian => ([0.6, 0.54, 1.58], [0.95, 0.74, 1.9]),
            Kind::Cyclist => ([1.65, 0.55, 1.64], [1.9, 0.7, 1.84]),
            Kind::Van => ([4.6, 1.8, 2.0], [5.4, 2.0, 2.4]),
            Kind::Building => ([7.0, 5.0, 4.0], [15.0, 7.0, 9.0]),
            Kind::Fence => ([4.0, 0.1, 0.9], [9.0, 0.2, 1.5]),
            Kind::Pole => ([0.16, 0.16, 4.0], [0.3, 0.3, 7.0]),
            Kind::Tree => ([2.5, 2.5, 4.5], [4.5, 4.5, 8.0]),
            Kind::Bush => ([0.8, 0.8, 0.7], [2.4, 1.8, 1.6]),
            Kind::Bin => ([0.5, 0.5, 0.9], [0.8, 0.7, 1.2]),
        };
        std::array::from_fn(|axis| rng.uniform(least[axis], most[axis]))
    }

    /// The solids of one that has the box `bounds`; of object `object`.
    pub fn solids(self, bounds: &Box3d, object: Option<usize>, rng: &mut SampleRng) -> Vec<Solid> {
        let margin = if object.is_some() { MARGIN_M } else { 0.0 };
        let mut build = Build {
            bounds: Box3d { size: bounds.size.map(|side| side - 2.0 * margin), ..*bounds },
            object,
            solids: Vec::new(),
        };
        match self {
            Kind::Car => car(&mut build, rng),
            Kind::Van => van(&mut build, rng),
            Kind::Pedestrian => pedestrian(&mut build, rng),
            Kind::Cyclist => cyclist(&mut build, rng),
            Kind::Building => {
                let colour = pick(rng, &[[176, 160, 140], [158, 132, 118], [188, 184, 176], [148, 150, 156]]);
                build.add(Shape::Block, WHOLE, WHOLE, WHOLE, dull(colour, 0.3));
            }
            Kind::Fence => build.add(Shape::Block, WHOLE, WHOLE, WHOLE, dull([122, 98, 74], 0.35)),
            Kind::Pole => build.add(Shape::Cylinder, WHOLE, WHOLE, WHOLE, dull([120, 124, 128], 0.5)),
            Kind::Tree => {
                let trunk = rng.uniform(0.03, 0.05);
                let [low, high] = [0.5 - trunk, 0.5 + trunk];
                build.add(Shape::Cylinder, [low, high], [low, high], [0.0, 0.5], dull([96, 76, 58], 0.3));
                build.add(Shape::Ellipsoid, WHOLE, WHOLE, [0.35, 1.0], leaves(rng));
            }
            Kind::Bush => build.add(Shape::Ellipsoid, WHOLE, WHOLE, [-0.3, 1.0], leaves(rng)),
            Kind::Bin => {
                let colour = pick(rng, &[[58, 84, 62], [70, 74, 80], [150, 128, 48]]);
                build.add(Shape::Block, WHOLE, WHOLE, WHOLE, dull(colour, 0.25));
            }
        }
        build.solids
    }
}

/// All of a box along an axis.
const WHOLE: [f64; 2] = [0.0, 1.0];
const TYRE: Material = Material { colour: [34, 34, 36], intensity: 0.08, returns: 0.9 };
/// A window sends some rays on.
const GLASS: Material = Material { colour: [62, 76, 92], intensity: 0.12, returns: 0.6 };
const HEADLIGHT: Material = Material { colour: [246, 242, 214], intensity: 0.9, returns: 1.0 };
const TAILLIGHT: Material = Material { colour: [190, 30, 28], intensity: 0.95, returns: 1.0 };

fn dull(colour: [u8; 3], intensity: f64) -> Material {
    Material { colour, intensity, returns: 0.98 }
}

fn leaves(rng: &mut SampleRng) -> Material {
    Material { colour: pick(rng, &[[74, 112, 58], [92, 124, 62], [62, 98, 66]]), intensity: 0.4, returns: 0.75 }
}

fn pick(rng: &mut SampleRng, colours: &[[u8; 3]]) -> [u8; 3] {
    colours[rng.below(colours.len() as u64) as usize]
}

const PAINTS: [[u8; 3]; 8] = [
    [196, 44, 44],
    [40, 78, 148],
    [226, 228, 230],
    [52, 54, 58],
    [150, 154, 160],
    [58, 116, 84],
    [214, 168, 52],
    [112, 66, 98],
];
const SKIN: [[u8; 3]; 3] = [[224, 184, 154], [172, 122, 92], [108, 76, 58]];
const CLOTHES: [[u8; 3]; 7] =
    [[178, 52, 60], [52, 92, 160], [230, 200, 80], [72, 72, 80], [210, 208, 204], [66, 128, 96], [138, 82, 146]];

struct Build {
    bounds: Box3d,
    object: Option<usize>,
    solids: Vec<Solid>,
}

impl Build {
    /// A solid that takes these shares of the box: from its rear, its right side and its bottom.
    fn add(&mut self, shape: Shape, along: [f64; 2], across: [f64; 2], up: [f64; 2], material: Material) {
        let whole = &self.bounds;
        let shares = [along, across, up];
        let size = std::array::from_fn(|axis| whole.size[axis] * (shares[axis][1] - shares[axis][0]));
        let [x, y, z]: [f64; 3] =
            std::array::from_fn(|axis| whole.size[axis] * ((shares[axis][0] + shares[axis][1]) / 2.0 - 0.5));
        let (sin, cos) = whole.heading.sin_cos();
        let center = [whole.center[0] + x * cos - y * sin, whole.center[1] + x * sin + y * cos, whole.center[2] + z];
        let bounds = Box3d { center, size, heading: whole.heading };
        self.solids.push(Solid::new(shape, bounds, material, self.object));
    }

    /// Wheels and lights, and the body between them.
    fn vehicle(&mut self, body_up: [f64; 2], wheel_up: f64, paint: Material) {
        self.add(Shape::Block, [0.01, 0.99], [0.01, 0.99], body_up, paint);
        for along in [[0.12, 0.28], [0.74, 0.9]] {
            self.add(Shape::Block, along, [0.0, 0.14], [0.0, wheel_up], TYRE);
            self.add(Shape::Block, along, [0.86, 1.0], [0.0, wheel_up], TYRE);
        }
        let height = body_up[0] + 0.7 * (body_up[1] - body_up[0]);
        for across in [[0.06, 0.24], [0.76, 0.94]] {
            self.add(Shape::Block, [0.0, 0.02], across, [height - 0.08, height + 0.04], TAILLIGHT);
            self.add(Shape::Block, [0.98, 1.0], across, [height - 0.06, height + 0.04], HEADLIGHT);
        }
    }
}

fn car(build: &mut Build, rng: &mut SampleRng) {
    let paint = dull(pick(rng, &PAINTS), rng.uniform(0.2, 0.55));
    build.vehicle([0.13, 0.6], 0.38, paint);
    // A saloon, a hatchback, an estate car: the bonnet is ahead of them all.
    let [rear, front] = [[0.16, 0.66], [0.03, 0.62], [0.02, 0.7]][rng.below(3) as usize];
    build.add(Shape::Block, [rear, front], [0.08, 0.92], [0.59, 0.96], GLASS);
    build.add(Shape::Block, [rear + 0.03, front - 0.05], [0.09, 0.91], [0.95, 1.0], paint);
}

fn van(build: &mut Build, rng: &mut SampleRng) {
    let paint = dull(pick(rng, &PAINTS), rng.uniform(0.25, 0.55));
    build.vehicle([0.1, 0.55], 0.3, paint);
    build.add(Shape::Block, [0.01, 0.78], [0.03, 0.97], [0.54, 1.0], paint);
    build.add(Shape::Block, [0.78, 0.86], [0.08, 0.92], [0.54, 0.9], GLASS);
}

fn pedestrian(build: &mut Build, rng: &mut SampleRng) {
    let (shirt, trousers) = (dull(pick(rng, &CLOTHES), rng.uniform(0.2, 0.5)), dull(pick(rng, &CLOTHES), 0.3));
    let stride = rng.uniform(0.0, 0.24);
    build.add(Shape::Cylinder, [0.36 - stride, 0.6 - stride], [0.2, 0.48], [0.0, 0.48], trousers);
    build.add(Shape::Cylinder, [0.4 + stride, 0.64 + stride], [0.52, 0.8], [0.0, 0.48], trousers);
    build.add(Shape::Cylinder, [0.3, 0.7], [0.12, 0.88], [0.46, 0.84], shirt);
    // Arms, one ahead.
    build.add(Shape::Cylinder, [0.5, 0.5 + 0.24 + stride], [0.02, 0.16], [0.44, 0.8], shirt);
    build.add(Shape::Cylinder, [0.26 - stride, 0.5], [0.84, 0.98], [0.44, 0.8], shirt);
    build.add(Shape::Ellipsoid, [0.34, 0.68], [0.3, 0.7], [0.84, 1.0], dull(pick(rng, &SKIN), 0.35));
}

fn cyclist(build: &mut Build, rng: &mut SampleRng) {
    let (frame, shirt) = (dull(pick(rng, &PAINTS), 0.5), dull(pick(rng, &CLOTHES), rng.uniform(0.2, 0.5)));
    for along in [[0.0, 0.38], [0.62, 1.0]] {
        build.add(Shape::Ellipsoid, along, [0.45, 0.55], [0.0, 0.38], TYRE);
    }
    build.add(Shape::Block, [0.2, 0.8], [0.46, 0.54], [0.28, 0.46], frame);
    build.add(Shape::Block, [0.76, 0.8], [0.46, 0.54], [0.3, 0.6], frame);
    build.add(Shape::Block, [0.7, 0.76], [0.1, 0.9], [0.56, 0.6], frame);
    let trousers = dull(pick(rng, &CLOTHES), 0.3);
    build.add(Shape::Cylinder, [0.34, 0.56], [0.22, 0.46], [0.14, 0.54], trousers);
    build.add(Shape::Cylinder, [0.38, 0.6], [0.54, 0.78], [0.2, 0.54], trousers);
    build.add(Shape::Cylinder, [0.32, 0.56], [0.12, 0.88], [0.5, 0.72], shirt);
    build.add(Shape::Cylinder, [0.4, 0.64], [0.14, 0.86], [0.68, 0.86], shirt);
    build.add(Shape::Cylinder, [0.6, 0.74], [0.06, 0.22], [0.56, 0.8], shirt);
    build.add(Shape::Cylinder, [0.6, 0.74], [0.78, 0.94], [0.56, 0.8], shirt);
    build.add(Shape::Ellipsoid, [0.5, 0.66], [0.28, 0.72], [0.85, 1.0], dull(pick(rng, &SKIN), 0.35));
}
