//! A street: its ground, and what stands where. Owns how things are spread.

use super::cast::{Material, Solid};
use super::parts::Kind;
use feedline::augment::boxes::{Box3d, wrapped};
use feedline::plan::rng::SampleRng;
use std::f64::consts::PI;

/// A road ahead with what is beside and on it.
pub struct Street {
    pub ground: Ground,
    /// The class and the box of each object that is labelled.
    pub objects: Vec<(&'static str, Box3d)>,
    /// Those of an object stand together.
    pub solids: Vec<Solid>,
}

/// The plane `z = height + slope[0] x + slope[1] y`, with a road on it.
#[derive(Debug, Clone, Copy)]
pub struct Ground {
    pub height_m: f64,
    pub slope: [f64; 2],
    /// The middle of the road at x = 0, and the road's angle.
    road_y_m: f64,
    road_angle_rad: f64,
}

const ROAD_HALF_M: f64 = 6.5;
const PAVEMENT_M: f64 = 2.5;

impl Ground {
    pub fn z(&self, [x, y]: [f64; 2]) -> f64 {
        self.height_m + self.slope[0] * x + self.slope[1] * y
    }

    /// A place so far along the road and to the left of its middle.
    fn place(&self, along: f64, left: f64) -> [f64; 2] {
        let (sin, cos) = self.road_angle_rad.sin_cos();
        [along * cos - left * sin, self.road_y_m + along * sin + left * cos]
    }

    /// The material of the ground.
    pub fn material(&self, [x, y]: [f64; 2]) -> Material {
        let (sin, cos) = self.road_angle_rad.sin_cos();
        let y = y - self.road_y_m;
        let (along, left) = (x * cos + y * sin, y * cos - x * sin);
        let aside = left.abs();
        let is_dash = aside < 0.1 && along.rem_euclid(8.0) < 4.0;
        let is_edge = (aside - 3.6).abs() < 0.07;
        let (colour, intensity) = match aside {
            _ if is_dash || is_edge => ([222, 222, 216], 0.75),
            _ if aside < ROAD_HALF_M => ([98, 100, 106], 0.16),
            _ if aside < ROAD_HALF_M + PAVEMENT_M => ([166, 160, 152], 0.32),
            _ => ([116, 138, 84], 0.42),
        };
        Material { colour, intensity, returns: 0.95 }
    }
}

impl Street {
    pub fn draw(rng: &mut SampleRng) -> Street {
        let ground = Ground {
            height_m: rng.uniform(-1.78, -1.68),
            slope: [rng.uniform(-0.008, 0.008), rng.uniform(-0.01, 0.01)],
            road_y_m: rng.uniform(-2.5, 2.5),
            road_angle_rad: rng.uniform(-0.1, 0.1),
        };
        let mut draft =
            Draft { ground, taken: Vec::new(), street: Street { ground, objects: Vec::new(), solids: Vec::new() } };
        for side in [-1.0, 1.0] {
            let mut along = rng.uniform(2.0, 10.0);
            while along < 75.0 {
                let kind = if rng.chance(0.75) { Kind::Building } else { Kind::Fence };
                let size = kind.size(rng);
                let away = if kind == Kind::Building {
                    rng.uniform(12.0, 17.0) + size[1] / 2.0
                } else {
                    rng.uniform(10.5, 13.0)
                };
                draft.put(kind, size, ground.place(along + size[0] / 2.0, side * away), ground.road_angle_rad, rng);
                along += size[0] + rng.uniform(0.5, 9.0);
            }
        }
        let many = |rng: &mut SampleRng, least: u64, most: u64| least + rng.below(most - least + 1);
        let counts = [
            (Kind::Car, many(rng, 3, 8), [6.0, 50.0]),
            (Kind::Car, many(rng, 0, 2), [52.0, 70.0]),
            (Kind::Van, u64::from(rng.chance(0.35)), [8.0, 45.0]),
            (Kind::Cyclist, many(rng, 1, 3), [6.0, 38.0]),
            (Kind::Pedestrian, many(rng, 1, 4), [5.0, 34.0]),
            (Kind::Pole, many(rng, 3, 7), [6.0, 55.0]),
            (Kind::Tree, many(rng, 2, 5), [9.0, 60.0]),
            (Kind::Bush, many(rng, 3, 8), [6.0, 45.0]),
            (Kind::Bin, many(rng, 0, 3), [6.0, 40.0]),
        ];
        for (kind, count, range_m) in counts {
            (0..count).for_each(|_| draft.spread(kind, range_m, rng));
        }
        draft.street
    }
}

struct Draft {
    ground: Ground,
    /// The ground plans of what is there, with some room.
    taken: Vec<Box3d>,
    street: Street,
}

impl Draft {
    /// Puts one somewhere, unless there is no room for it.
    fn spread(&mut self, kind: Kind, [least, most]: [f64; 2], rng: &mut SampleRng) {
        let size = kind.size(rng);
        for _ in 0..40 {
            // More of them near, or the far ones would hide behind each other.
            let along = least + (most - least) * rng.unit().powf(1.2);
            let is_to_the_left = rng.chance(0.5);
            let side = if is_to_the_left { 1.0 } else { -1.0 };
            let road = self.ground.road_angle_rad + if is_to_the_left { PI } else { 0.0 };
            let any = rng.uniform(-PI, PI);
            let (aside, heading) = match kind {
                // Driving, parked, or somewhere and anyhow.
                Kind::Car | Kind::Van => match rng.below(4) {
                    0 => (rng.uniform(1.6, 2.2), road + 0.03 * rng.normal()),
                    1 | 2 => (rng.uniform(5.0, 5.6), road + 0.03 * rng.normal()),
                    _ => (rng.uniform(0.0, 10.0), any),
                },
                Kind::Cyclist if rng.chance(0.6) => (rng.uniform(2.8, 5.0), road + 0.15 * rng.normal()),
                Kind::Cyclist => (rng.uniform(0.0, 9.0), any),
                Kind::Pedestrian => (rng.uniform(0.0, 10.0), any),
                _ => (rng.uniform(7.0, 10.5), any),
            };
            let place = self.ground.place(along, side * aside);
            let is_ahead = place[1].atan2(place[0]).abs() < 0.72 && place[0] > 4.5;
            if is_ahead && self.put(kind, size, place, heading, rng) {
                return;
            }
        }
    }

    /// Places an object; false if there is no room.
    fn put(&mut self, kind: Kind, size: [f64; 3], place: [f64; 2], heading: f64, rng: &mut SampleRng) -> bool {
        let center = [place[0], place[1], self.ground.z(place) + size[2] / 2.0];
        let own = Box3d { center, size, heading: wrapped(heading) };
        let room = Box3d { size: size.map(|side| side + 0.4), ..own };
        let is_fixed = matches!(kind, Kind::Building | Kind::Fence);
        if !is_fixed && self.taken.iter().any(|other| other.overlaps_xy(&room)) {
            return false;
        }
        self.taken.push(room);
        let object = kind.class().map(|class| {
            self.street.objects.push((class, own));
            self.street.objects.len() - 1
        });
        self.street.solids.extend(kind.solids(&own, object, rng));
        true
    }
}
