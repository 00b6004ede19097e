//! Point clouds: rows of f32 that begin with x, y, z. Owns the maps that move all points or those in a box, the filters that
//! keep or remove points, and the draw of a fixed number; further values of a point are copied along.

use super::boxes::{Bounds, Box3d};
use crate::error::{Error, Result};
use crate::plan::rng::SampleRng;

/// An affine map of points: rotation, mirror or scaling, then a shift. Rows of a matrix (3, 4).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine(pub [[f64; 4]; 3]);

impl Default for Affine {
    /// The identity.
    fn default() -> Affine {
        Affine::scaling([1.0; 3])
    }
}

impl Affine {
    /// Scaling about the origin; -1 mirrors.
    pub fn scaling([x, y, z]: [f64; 3]) -> Affine {
        Affine([[x, 0.0, 0.0, 0.0], [0.0, y, 0.0, 0.0], [0.0, 0.0, z, 0.0]])
    }

    /// A turn about the z axis, from x towards y.
    pub fn rotation(angle_rad: f64) -> Affine {
        let (sin, cos) = angle_rad.sin_cos();
        Affine([[cos, -sin, 0.0, 0.0], [sin, cos, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    }

    /// A shift.
    pub fn translation([x, y, z]: [f64; 3]) -> Affine {
        Affine([[1.0, 0.0, 0.0, x], [0.0, 1.0, 0.0, y], [0.0, 0.0, 1.0, z]])
    }

    /// The composition: this map first, then `next`.
    #[must_use]
    pub fn then(&self, next: &Affine) -> Affine {
        let product = |row: [f64; 4], column: usize| {
            let moved: f64 = (0..3).map(|k| row[k] * self.0[k][column]).sum();
            moved + if column == 3 { row[3] } else { 0.0 }
        };
        Affine(next.0.map(|row| std::array::from_fn(|column| product(row, column))))
    }

    /// This map about `center` in place of the origin.
    #[must_use]
    pub fn about(&self, center: [f64; 3]) -> Affine {
        Affine::translation(center.map(|value| -value)).then(self).then(&Affine::translation(center))
    }

    /// The inverse map. Its values are not finite if there is none.
    #[must_use]
    pub fn inverse(&self) -> Affine {
        let m = &self.0;
        // Of a matrix of 3 x 3 the inverse is that of cofactors over the determinant.
        let cofactor = |row: usize, column: usize| {
            let [r, s, c, d] = [(row + 1) % 3, (row + 2) % 3, (column + 1) % 3, (column + 2) % 3];
            m[r][c] * m[s][d] - m[r][d] * m[s][c]
        };
        let determinant: f64 = (0..3).map(|column| m[0][column] * cofactor(0, column)).sum();
        let turn = Affine([0, 1, 2].map(|row| {
            let side = |column: usize| if column == 3 { 0.0 } else { cofactor(column, row) / determinant };
            std::array::from_fn(side)
        }));
        let shift = turn.place([0, 1, 2].map(|row| -m[row][3]));
        turn.then(&Affine::translation(shift))
    }

    /// Maps one point.
    pub fn place(&self, [x, y, z]: [f64; 3]) -> [f64; 3] {
        self.0.map(|[a, b, c, d]| a * x + b * y + c * z + d)
    }

    /// Moves all points; rows of `columns` numbers.
    ///
    /// # Panics
    /// If a row has fewer than 3 numbers.
    pub fn move_points(&self, points: &mut [f32], columns: usize) {
        points.chunks_exact_mut(columns).for_each(|point| self.move_point(point));
    }

    /// Moves the points inside of `bounds`.
    ///
    /// # Panics
    /// As [`Affine::move_points`].
    pub fn move_points_inside(&self, bounds: &Bounds, points: &mut [f32], columns: usize) {
        for point in points.chunks_exact_mut(columns) {
            if bounds.contains([point[0], point[1], point[2]]) {
                self.move_point(point);
            }
        }
    }

    /// Computes in f64, so that a point is rounded once.
    fn move_point(&self, point: &mut [f32]) {
        let place = self.place([point[0], point[1], point[2]].map(f64::from));
        point.iter_mut().zip(place).for_each(|(value, place)| *value = place as f32);
    }
}

/// Keeps the points for which `keep` is true of (x, y, z), in their order.
///
/// # Panics
/// If a row has fewer than 3 numbers.
pub fn retain(points: &mut Vec<f32>, columns: usize, keep: impl Fn([f32; 3]) -> bool) {
    let mut kept = 0;
    for at in (0..points.len() / columns * columns).step_by(columns) {
        if keep([points[at], points[at + 1], points[at + 2]]) {
            move_row(points, at, kept, columns);
            kept += columns;
        }
    }
    points.truncate(kept);
}

/// Moves the row at `from` to `to`, both places of a number.
fn move_row(points: &mut [f32], from: usize, to: usize, columns: usize) {
    // Copying so few numbers directly is cheaper than a call of a general copy.
    match columns {
        _ if from == to => {}
        4 => (0..4).for_each(|at| points[to + at] = points[from + at]),
        _ => points.copy_within(from..from + columns, to),
    }
}

/// Points that are tested together.
const BLOCK: usize = 64;

/// Removes the points inside of any of the boxes.
///
/// # Panics
/// As [`retain`].
pub fn remove_inside(points: &mut Vec<f32>, columns: usize, boxes: &[Box3d]) {
    let around = |own: &Box3d| {
        let corners = own.corners_xy();
        [0, 1].map(|axis| {
            let along = corners.map(|corner| corner[axis]);
            let most = along.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let least = along.iter().copied().fold(f64::INFINITY, f64::min);
            // A margin wider than the error of rounding to f32.
            [(least - 1e-2) as f32, (most + 1e-2) as f32]
        })
    };
    let boxes: Vec<([[f32; 2]; 2], Bounds)> = boxes.iter().map(|own| (around(own), own.bounds())).collect();
    let (mut places, mut kept) = ([[0f32; BLOCK]; 3], 0);
    let len = points.len() / columns * columns;
    // A lidar's neighbours in the file are neighbours in space, so most boxes are far from all points of a block.
    for first in (0..len).step_by(BLOCK * columns) {
        let rows = points[first..len.min(first + BLOCK * columns)].chunks_exact(columns);
        let count = rows.len();
        for (axis, places) in places.iter_mut().enumerate() {
            places.iter_mut().zip(rows.clone()).for_each(|(place, row)| *place = row[axis]);
        }
        let [x, y, z] = &places;
        let span = |of: &[f32; BLOCK]| {
            of[..count].iter().fold([f32::INFINITY, f32::NEG_INFINITY], |[a, b], v| [a.min(*v), b.max(*v)])
        };
        let spans = [span(x), span(y)];
        let is_near = |around: &[[f32; 2]; 2]| {
            (0..2).all(|axis| spans[axis][0] <= around[axis][1] && around[axis][0] <= spans[axis][1])
        };
        let mut inside = [false; BLOCK];
        for (_, bounds) in boxes.iter().filter(|(around, _)| is_near(around)) {
            for (inside, ((x, y), z)) in inside.iter_mut().zip(x.iter().zip(y).zip(z)) {
                *inside |= bounds.contains([*x, *y, *z]);
            }
        }
        for (at, _) in inside[..count].iter().enumerate().filter(|(_, inside)| !**inside) {
            move_row(points, first + at * columns, kept, columns);
            kept += columns;
        }
    }
    points.truncate(kept);
}

/// An order of 0..n, each with the same chance (Fisher and Yates).
pub fn shuffled(n: usize, rng: &mut SampleRng) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    for last in (1..n).rev() {
        order.swap(last, rng.below(last as u64 + 1) as usize);
    }
    order
}

/// The rows of `order`, in that order.
///
/// # Errors
/// [`Error::Memory`].
pub fn picked(points: &[f32], columns: usize, order: &[u32]) -> Result<Vec<f32>> {
    let mut rows = room(order.len().saturating_mul(columns), "a cloud of points")?;
    for at in order {
        let row = &points[*at as usize * columns..][..columns];
        match row.first_chunk::<4>() {
            Some(row) if columns == 4 => rows.extend(*row),
            _ => rows.extend_from_slice(row),
        }
    }
    Ok(rows)
}

/// An empty list with room for `len` items.
fn room<T>(len: usize, what: &str) -> Result<Vec<T>> {
    let mut list = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>()) as u64;
    list.try_reserve_exact(len).map_err(|_| Error::memory(what, bytes))?;
    Ok(list)
}

/// Draws `count` point indices, in random order. If there are more points: all that are 40 m away or more, and some of the
/// nearer ones; if the far ones alone are `count` or more, any `count` points. If there are fewer: all, and some repeated, so
/// that counts differ by at most one. Without points the result is empty. This is OpenPCDet's `sample_points`, which fails if
/// there are fewer than half of `count`.
///
/// # Errors
/// [`Error::Memory`].
pub fn sampled(points: &[f32], columns: usize, count: usize, rng: &mut SampleRng) -> Result<Vec<u32>> {
    const FAR_M: f32 = 40.0;
    let n = points.len() / columns;
    if n == 0 {
        return Ok(Vec::new());
    }
    let taken: Vec<u32> = if count < n {
        let is_far = |at: &u32| {
            let point = &points[*at as usize * columns..];
            point[..3].iter().map(|value| value * value).sum::<f32>().sqrt() >= FAR_M
        };
        let (far, near): (Vec<u32>, Vec<u32>) = (0..n as u32).partition(is_far);
        let (mut all, pool) = if far.len() < count { (far, near) } else { (Vec::new(), (0..n as u32).collect()) };
        let wanted = count - all.len();
        all.extend(shuffled(pool.len(), rng).into_iter().take(wanted).map(|at| pool[at as usize]));
        all
    } else {
        let mut all: Vec<u32> = room(count, "a sample of points")?;
        all.extend(0..n as u32);
        while all.len() < count {
            let wanted = count - all.len();
            all.extend(shuffled(n, rng).into_iter().take(wanted));
        }
        all
    };
    Ok(shuffled(taken.len(), rng).into_iter().map(|at| taken[at as usize]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(n: usize, reach: f64) -> Vec<f32> {
        let mut rng = SampleRng::new(3, 0, 0, "cloud");
        (0..n)
            .flat_map(|at| {
                let place = [0; 3].map(|_| rng.uniform(-reach, reach) as f32);
                [place[0], place[1], place[2], at as f32]
            })
            .collect()
    }

    #[test]
    fn a_chain_of_maps_is_one_map() {
        let maps = [
            Affine::scaling([1.0, -1.0, 1.0]),
            Affine::rotation(0.7),
            Affine::scaling([1.03; 3]),
            Affine::translation([0.5, -2.0, 0.1]),
            Affine::rotation(-2.0).about([3.0, 1.0, 0.0]),
        ];
        let whole = maps.iter().fold(Affine::default(), |whole, map| whole.then(map));
        let places = [[1.0, 2.0, 3.0], [-40.0, 31.5, -1.7]];
        for place in places {
            let expect = maps.iter().fold(place, |place, map| map.place(place));
            for (one, other) in whole.place(place).into_iter().zip(expect) {
                assert!((one - other).abs() < 1e-12);
            }
            let mut points: Vec<f32> = place.iter().map(|value| *value as f32).chain([0.25]).collect();
            whole.move_points(&mut points, 4);
            assert!(points.iter().zip(expect).all(|(one, other)| (f64::from(*one) - other).abs() < 1e-5));
            assert_eq!(points[3], 0.25, "what a point has besides its place stays");
        }
        let back = whole.then(&whole.inverse()).place(places[1]);
        assert!(back.iter().zip(places[1]).all(|(one, other)| (one - other).abs() < 1e-9), "{back:?}");
        assert_eq!(Affine::rotation(std::f64::consts::FRAC_PI_2).place([1.0, 0.0, 0.0])[1], 1.0);
    }

    #[test]
    fn points_are_removed_as_asking_each_box_does() {
        let mut rng = SampleRng::new(5, 0, 0, "boxes");
        let boxes: Vec<Box3d> = (0..12)
            .map(|_| Box3d {
                center: [rng.uniform(-8.0, 8.0), rng.uniform(-8.0, 8.0), 0.0],
                size: [rng.uniform(1.0, 5.0), rng.uniform(1.0, 3.0), 12.0],
                heading: rng.uniform(-4.0, 4.0),
            })
            .collect();
        // In any order, and in one by which most blocks are far from most boxes; with more numbers a point.
        let drawn: Vec<[f32; 4]> = cloud(4000, 10.0).as_chunks().0.to_vec();
        let mut sorted = drawn.clone();
        sorted.sort_by(|a, b| (a[0].floor(), a[1]).partial_cmp(&(b[0].floor(), b[1])).unwrap());
        for rows in [drawn, sorted] {
            let wide: Vec<f32> = rows.iter().flat_map(|row| [&row[..], &[0.5]].concat()).collect();
            for (all, columns) in [(rows.into_flattened(), 4), (wide, 5)] {
                let is_out = |p: &&[f32]| !boxes.iter().any(|own| own.bounds().contains([p[0], p[1], p[2]]));
                let expect: Vec<f32> = all.chunks(columns).filter(is_out).flatten().copied().collect();
                let mut points = all.clone();
                remove_inside(&mut points, columns, &boxes);
                assert_eq!(points, expect);
                assert!((400..3900).contains(&(points.len() / columns)), "{}", points.len() / columns);
            }
        }
    }

    #[test]
    fn an_order_has_each_once_and_any_order_may_come() {
        let mut rng = SampleRng::new(0, 0, 0, "order");
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            *seen.entry(shuffled(3, &mut rng)).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.values().all(|count| (850..1150).contains(count)), "{seen:?}");
        assert_eq!(shuffled(0, &mut rng), [0u32; 0]);
    }

    #[test]
    fn far_points_are_all_kept_when_a_number_is_drawn() {
        let points = cloud(1000, 40.0);
        let far = |at: u32| {
            let p = &points[at as usize * 4..][..3];
            p.iter().map(|value| value * value).sum::<f32>().sqrt() >= 40.0
        };
        let all_far: Vec<u32> = (0..1000).filter(|at| far(*at)).collect();
        assert!((100..900).contains(&all_far.len()));
        let mut rng = SampleRng::new(0, 0, 0, "sampled");
        for count in [950, all_far.len() + 1, all_far.len() - 50] {
            let taken = sampled(&points, 4, count, &mut rng).unwrap();
            let distinct: std::collections::BTreeSet<u32> = taken.iter().copied().collect();
            assert_eq!((taken.len(), distinct.len()), (count, count));
            let far_taken = taken.iter().filter(|at| far(**at)).count();
            assert_eq!(far_taken == all_far.len(), count > all_far.len());
        }
        for count in [1000, 1300, 2500] {
            let taken = sampled(&points, 4, count, &mut rng).unwrap();
            let times = |at: u32| taken.iter().filter(|other| **other == at).count();
            assert_eq!(taken.len(), count);
            assert!((0..1000).all(|at| (count / 1000..=count.div_ceil(1000)).contains(&times(at))), "{count}");
        }
        assert!(sampled(&[], 4, 5, &mut rng).unwrap().is_empty());
        let refused = sampled(&points, 4, usize::MAX / 8, &mut rng).unwrap_err();
        assert!(matches!(refused, Error::Memory { bytes, .. } if bytes == (usize::MAX / 8 * 4) as u64), "{refused}");
        assert_eq!(picked(&points, 4, &[2, 0]).unwrap(), [&points[8..12], &points[..4]].concat());
    }
}
