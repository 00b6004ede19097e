//! IoU of boxes. Owns the intersection area of two rectangles.

use feedline::augment::boxes::Box3d;

/// The common area of two convex polygons with their corners counter-clockwise, by cutting the first at each side of the second
/// (Sutherland and Hodgman's way).
pub(super) fn common_area(one: &[[f64; 2]; 4], other: &[[f64; 2]; 4]) -> f64 {
    // Each of four cuts adds a corner at most.
    let (mut polygon, mut len) = ([[0.0; 2]; 8], 4);
    polygon[..4].copy_from_slice(one);
    for at in 0..4 {
        let ([x, y], [to_x, to_y]) = (other[at], other[(at + 1) % 4]);
        let left_of = |point: [f64; 2]| (to_x - x) * (point[1] - y) - (to_y - y) * (point[0] - x);
        let (mut cut, mut kept) = ([[0.0; 2]; 8], 0);
        let mut keep = |point| {
            // Rounding can make a sliver seem to have more corners; they add no area.
            if let Some(place) = cut.get_mut(kept) {
                *place = point;
                kept += 1;
            }
        };
        for at in 0..len {
            let (from, to) = (polygon[at], polygon[(at + 1) % len]);
            let (before, after) = (left_of(from), left_of(to));
            if before >= 0.0 {
                keep(from);
            }
            if (before > 0.0 && after < 0.0) || (before < 0.0 && after > 0.0) {
                let share = before / (before - after);
                keep([from[0] + share * (to[0] - from[0]), from[1] + share * (to[1] - from[1])]);
            }
        }
        (polygon, len) = (cut, kept);
        if len < 3 {
            return 0.0;
        }
    }
    let twice: f64 = (0..len)
        .map(|at| {
            let ([x, y], [next_x, next_y]) = (polygon[at], polygon[(at + 1) % len]);
            // From the first corner, so that places far away lose no digits.
            let ([x, y], [next_x, next_y]) =
                ([x - polygon[0][0], y - polygon[0][1]], [next_x - polygon[0][0], next_y - polygon[0][1]]);
            x * next_y - y * next_x
        })
        .sum();
    (twice / 2.0).max(0.0)
}

/// The common area of the ground plans.
fn common_xy(one: &Box3d, other: &Box3d) -> f64 {
    let reach = |size: &[f64; 3]| size[0].hypot(size[1]) / 2.0;
    let away = (one.center[0] - other.center[0]).hypot(one.center[1] - other.center[1]);
    if away >= reach(&one.size) + reach(&other.size) {
        return 0.0;
    }
    common_area(&one.corners_xy(), &other.corners_xy())
}

/// A share of what both cover: 0 where that is nothing.
pub(super) fn share(common: f64, one: f64, other: f64) -> f64 {
    let both = one + other - common;
    if both > 0.0 { (common / both).clamp(0.0, 1.0) } else { 0.0 }
}

/// Intersection over union of the ground plans, from 0 to 1.
pub fn iou_bev(one: &Box3d, other: &Box3d) -> f64 {
    share(common_xy(one, other), one.size[0] * one.size[1], other.size[0] * other.size[1])
}

/// Intersection over union of the boxes, from 0 to 1.
pub fn iou_3d(one: &Box3d, other: &Box3d) -> f64 {
    let ends = |bounds: &Box3d| [bounds.center[2] - bounds.size[2] / 2.0, bounds.center[2] + bounds.size[2] / 2.0];
    let (a, b) = (ends(one), ends(other));
    let height = (a[1].min(b[1]) - a[0].max(b[0])).max(0.0);
    let common = if height > 0.0 { common_xy(one, other) * height } else { 0.0 };
    share(common, one.size.iter().product(), other.size.iter().product())
}
