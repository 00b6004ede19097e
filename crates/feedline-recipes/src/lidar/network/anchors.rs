//! Anchors: their boxes over the map, the assignment of objects to them, and the encoding of a box relative to its anchor. Owns
//! the assignment and the encoding; knows no network.
//!
//! As OpenPCDet's `AxisAlignedTargetAssigner` and `ResidualCoder`, with one score for each anchor: that of its own class.

use crate::lidar::config::AnchorConfig;
use feedline::augment::boxes::{Box3d, wrapped};
use feedline::augment::voxels::Grid;
use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};
use std::ops::RangeInclusive;

/// Anchors of a class at a place: along x and along y.
pub(super) const TURNS: usize = 2;
/// Directions begin here, so that boxes along an axis are not on the border between two: OpenPCDet's `DIR_OFFSET`.
const DIRECTION_OFFSET: f64 = FRAC_PI_4;

/// Overlaps that differ by less are equal: where an object is longer than an anchor, many are, but for rounding.
const ALIKE: f64 = 1e-9;

/// The anchors of a map. One has the number `(class * 2 + turn) * places + row * width + column`.
#[derive(Debug, Clone)]
pub(super) struct Anchors {
    classes: Vec<AnchorConfig>,
    /// Places along x and y.
    places: [usize; 2],
    /// Corner of the map, and the sides of a place.
    origin_m: [f64; 2],
    place_m: [f64; 2],
}

/// The target of an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    Nothing,
    /// Too near to an object to be wrong, too far from it to be right.
    Either,
    /// The object of that number.
    Object(usize),
}

impl Anchors {
    pub(super) fn new(classes: &[AnchorConfig], grid: &Grid, places: [usize; 2]) -> Anchors {
        Anchors {
            classes: classes.to_vec(),
            places,
            origin_m: [grid.range[0], grid.range[1]],
            // The first convolution halves the map.
            place_m: [2.0 * grid.voxel_size[0], 2.0 * grid.voxel_size[1]],
        }
    }

    /// Number of anchors at each place.
    pub(super) fn per_place(&self) -> usize {
        self.classes.len() * TURNS
    }

    pub(super) fn places(&self) -> usize {
        self.places[0] * self.places[1]
    }

    /// The class of an anchor, from 0.
    pub(super) fn class(&self, anchor: usize) -> usize {
        anchor / self.places() / TURNS
    }

    fn middle(&self, axis: usize, at: usize) -> f64 {
        self.origin_m[axis] + (at as f64 + 0.5) * self.place_m[axis]
    }

    /// The anchor of a number.
    pub(super) fn get(&self, anchor: usize) -> Box3d {
        let (kind, place) = (anchor / self.places(), anchor % self.places());
        let class = &self.classes[kind / TURNS];
        let [x, y] = [self.middle(0, place % self.places[0]), self.middle(1, place / self.places[0])];
        let heading = if kind % TURNS == 0 { 0.0 } else { FRAC_PI_2 };
        Box3d { center: [x, y, class.bottom_m + class.size_m[2] / 2.0], size: class.size_m, heading }
    }

    /// The target of each anchor in a frame with these objects (box, class from 0). It follows from the IoU of axis-aligned
    /// ground plans: an anchor is positive if its IoU is at least `matched`, or if no other anchor overlaps the object more;
    /// below `unmatched` it is negative; in between it does not count.
    pub(super) fn aims(&self, objects: &[(Box3d, usize)]) -> Vec<Aim> {
        let mut best: Vec<(f64, usize)> = vec![(0.0, 0); self.per_place() * self.places()];
        let mut most = vec![0.0_f64; objects.len()];
        for (number, (own, class)) in objects.iter().enumerate() {
            self.near(own, *class, |anchor, overlap| {
                most[number] = most[number].max(overlap);
                if overlap > best[anchor].0 {
                    best[anchor] = (overlap, number);
                }
            });
        }
        let mut aims: Vec<Aim> = vec![Aim::Nothing; best.len()];
        for (anchor, (overlap, number)) in best.iter().enumerate().filter(|(_, (overlap, _))| *overlap > 0.0) {
            let class = &self.classes[self.class(anchor)];
            if *overlap >= class.matched {
                aims[anchor] = Aim::Object(*number);
            } else if *overlap >= class.unmatched {
                aims[anchor] = Aim::Either;
            }
        }
        for (number, (own, class)) in objects.iter().enumerate() {
            self.near(own, *class, |anchor, overlap| {
                if overlap > most[number] - ALIKE {
                    aims[anchor] = Aim::Object(best[anchor].1);
                }
            });
        }
        aims
    }

    /// Calls `each` for the anchors of the class that overlap the box, in a fixed order.
    fn near(&self, own: &Box3d, class: usize, mut each: impl FnMut(usize, f64)) {
        let [length, width] = [own.size[0], own.size[1]];
        let turn = own.heading - PI * (own.heading / PI + 0.5).floor();
        let half = if turn.abs() > FRAC_PI_4 { [width / 2.0, length / 2.0] } else { [length / 2.0, width / 2.0] };
        let [along, across, _] = self.classes[class].size_m;
        for (turn, anchor_half) in [[along / 2.0, across / 2.0], [across / 2.0, along / 2.0]].into_iter().enumerate() {
            let range = |axis: usize| -> RangeInclusive<usize> {
                let reach = half[axis] + anchor_half[axis];
                let place = |at: f64| {
                    ((at - self.origin_m[axis]) / self.place_m[axis] - 0.5).clamp(0.0, self.places[axis] as f64 - 1.0)
                };
                place(own.center[axis] - reach).floor() as usize..=place(own.center[axis] + reach).ceil() as usize
            };
            let common = |axis: usize, at: usize| {
                let away = self.middle(axis, at) - own.center[axis];
                (half[axis].min(away + anchor_half[axis]) - (-half[axis]).max(away - anchor_half[axis])).max(0.0)
            };
            for row in range(1) {
                let across_common = common(1, row);
                for column in range(0) {
                    let area = across_common * common(0, column);
                    let both = length * width + along * across - area;
                    if area > 0.0 {
                        let anchor = (class * TURNS + turn) * self.places() + row * self.places[0] + column;
                        each(anchor, area / both);
                    }
                }
            }
        }
    }
}

/// A box relative to an anchor: shifts by its diagonal and height, logarithms of sizes, turn.
pub(super) fn encode(own: &Box3d, anchor: &Box3d) -> [f64; 7] {
    let diagonal = anchor.size[0].hypot(anchor.size[1]);
    let size = |axis: usize| (own.size[axis] / anchor.size[axis]).ln();
    [
        (own.center[0] - anchor.center[0]) / diagonal,
        (own.center[1] - anchor.center[1]) / diagonal,
        (own.center[2] - anchor.center[2]) / anchor.size[2],
        size(0),
        size(1),
        size(2),
        own.heading - anchor.heading,
    ]
}

/// The box that [`encode`] wrote, but for whole turns; sizes are kept within 1/50 and 50 times the anchor's.
pub(super) fn decode(code: [f64; 7], anchor: &Box3d) -> Box3d {
    let diagonal = anchor.size[0].hypot(anchor.size[1]);
    let size = |axis: usize| anchor.size[axis] * code[3 + axis].clamp(-4.0, 4.0).exp();
    Box3d {
        center: [
            anchor.center[0] + code[0] * diagonal,
            anchor.center[1] + code[1] * diagonal,
            anchor.center[2] + code[2] * anchor.size[2],
        ],
        size: [size(0), size(1), size(2)],
        heading: code[6] + anchor.heading,
    }
}

/// The half turn that a heading is in: 0 or 1.
pub(super) fn direction(heading: f64) -> usize {
    let turned = (heading - DIRECTION_OFFSET).rem_euclid(2.0 * PI);
    usize::from(turned >= PI)
}

/// The heading with that direction that is the same but for half turns.
pub(super) fn facing(heading: f64, direction: usize) -> f64 {
    wrapped((heading - DIRECTION_OFFSET).rem_euclid(PI) + DIRECTION_OFFSET + PI * direction as f64)
}

#[cfg(test)]
mod tests;
