//! Voxels: the non-empty cells of a grid over a point cloud. Owns the choice of points when a voxel, or the list of voxels,
//! is full.

use crate::error::{Error, Result};
use crate::sample::{Array, DType};

/// A grid of voxels over a part of space.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Grid {
    /// Smallest x, y, z and largest x, y, z, in metres.
    pub range: [f64; 6],
    /// Sides of a voxel along x, y, z, in metres.
    pub voxel_size: [f64; 3],
    /// Voxels along x, y, z.
    pub size: [usize; 3],
    pub max_points_per_voxel: usize,
}

/// The voxels of a cloud that hold points; V of them, in the order of their first points.
#[derive(Debug)]
pub struct Voxels {
    /// f32 (V, P, C): the points of each, in their order, and rows of zeros.
    pub points: Array,
    /// i32 (V, 4): 0, z, y, x.
    pub coords: Array,
    /// i32 (V,): number of points in each voxel.
    pub num_points: Array,
}

/// Marks a free slot of the table.
const NONE: u32 = u32::MAX;

/// Working memory, to be used again.
#[derive(Debug, Default)]
pub struct VoxelScratch {
    /// Voxel and its number, by a hash of the voxel.
    table: Vec<[u32; 2]>,
    /// Each kept point, and its row in the result.
    taken: Vec<[u32; 2]>,
    places: Vec<[u32; 3]>,
    counts: Vec<u32>,
}

impl Grid {
    /// The grid over `range` with as many voxels as fit, rounded to the nearest number (halves to even, as NumPy rounds).
    ///
    /// # Errors
    /// An empty range, sides that are not above 0, no point a voxel, more than 2^31 voxels.
    pub fn new(range: [f64; 6], voxel_size: [f64; 3], max_points_per_voxel: usize) -> Result<Grid> {
        let finite = range.iter().chain(&voxel_size).all(|value| value.is_finite());
        if !finite || (0..3).any(|axis| range[axis] >= range[axis + 3]) {
            return Err(Error::config(
                format!("the range of the points is {range:?}"),
                "Give the smallest x, y, z and then the largest, in metres",
            ));
        }
        let size =
            std::array::from_fn(|axis| ((range[axis + 3] - range[axis]) / voxel_size[axis]).round_ties_even() as usize);
        let voxels = size.iter().try_fold(1usize, |product, side: &usize| product.checked_mul(*side));
        let possible = voxels.is_some_and(|voxels| (1..1 << 31).contains(&voxels));
        if voxel_size.iter().any(|side| *side <= 0.0) || !possible {
            return Err(Error::config(
                format!("voxels of {voxel_size:?} m in the range {range:?} make a grid of {size:?}"),
                "Choose sides above 0 that give 1 to 2^31 voxels",
            ));
        }
        if !(1..=1 << 16).contains(&max_points_per_voxel) {
            return Err(Error::config(
                format!("{max_points_per_voxel} points a voxel"),
                "Between 1 and 65,536 are possible",
            ));
        }
        Ok(Grid { range, voxel_size, size, max_points_per_voxel })
    }

    /// The voxels of `points`, rows of `columns` numbers, at most `max_voxels`. Points are taken in their order: one in a
    /// voxel that is full is left out, as is one in a new voxel when there are `max_voxels` already; later ones may still
    /// come into those that there are. A point's voxel is `floor((p - min) / side)` on each axis, in f32; those outside of
    /// the grid are left out.
    ///
    /// # Errors
    /// [`Error::Memory`]: each voxel has room for the most points, however few it holds.
    ///
    /// # Panics
    /// If a row has fewer than 3 numbers.
    pub fn voxelize(
        &self,
        points: &[f32],
        columns: usize,
        max_voxels: usize,
        scratch: &mut VoxelScratch,
    ) -> Result<Voxels> {
        let VoxelScratch { table, taken, places, counts } = scratch;
        let slots = (2 * max_voxels.min(points.len() / columns)).next_power_of_two().max(2);
        table.clear();
        table.resize(slots, [NONE; 2]);
        taken.clear();
        places.clear();
        counts.clear();
        let min: [f32; 3] = std::array::from_fn(|axis| self.range[axis] as f32);
        let side = self.voxel_size.map(|side| side as f32);
        let most = self.max_points_per_voxel as u32;
        for (at, point) in points.chunks_exact(columns).enumerate() {
            let place: [f32; 3] = std::array::from_fn(|axis| (point[axis] - min[axis]) / side[axis]);
            // NaN is in no voxel. For values of 0 and above truncation equals floor.
            if !(0..3).all(|axis| place[axis] >= 0.0 && place[axis] < self.size[axis] as f32) {
                continue;
            }
            let [x, y, z] = place.map(|value| value as u32);
            let key = (z * self.size[1] as u32 + y) * self.size[0] as u32 + x;
            // The high bits of a product with a large odd number depend on all bits of the key (Knuth, vol. 3, 6.4).
            let mut slot = (key.wrapping_mul(0x9E37_79B1) >> 7) as usize & (slots - 1);
            while table[slot][0] != key && table[slot][0] != NONE {
                slot = (slot + 1) & (slots - 1);
            }
            let voxel = if table[slot][0] == key {
                table[slot][1]
            } else if counts.len() < max_voxels {
                table[slot] = [key, counts.len() as u32];
                places.push([z, y, x]);
                counts.push(0);
                table[slot][1]
            } else {
                continue;
            };
            let count = &mut counts[voxel as usize];
            if *count < most {
                taken.push([at as u32, voxel * most + *count]);
                *count += 1;
            }
        }
        let voxels = counts.len();
        let mut rows = Array::try_zeros(DType::F32, [voxels, self.max_points_per_voxel, columns])?;
        let out = rows.as_mut_slice::<f32>();
        for [at, row] in taken {
            let (to, from) =
                (&mut out[*row as usize * columns..][..columns], &points[*at as usize * columns..][..columns]);
            match (to.first_chunk_mut::<4>(), from.first_chunk()) {
                (Some(to), Some(from)) if columns == 4 => *to = *from,
                _ => to.copy_from_slice(from),
            }
        }
        let mut coords = Array::try_zeros(DType::I32, [voxels, 4])?;
        for (out, place) in coords.as_mut_slice::<i32>().chunks_exact_mut(4).zip(&*places) {
            out[1..].iter_mut().zip(place).for_each(|(value, place)| *value = *place as i32);
        }
        let counts: Vec<i32> = counts.iter().map(|count| *count as i32).collect();
        Ok(Voxels { points: rows, coords, num_points: Array::try_from_slice([voxels], &counts)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::rng::SampleRng;
    use std::collections::BTreeMap;

    /// Voxels by a direct implementation of the rules, to compare with.
    type Plain = Vec<([i32; 4], Vec<[f32; 4]>)>;

    fn plain(grid: &Grid, points: &[[f32; 4]], max_voxels: usize) -> Plain {
        let mut numbers: BTreeMap<[i32; 4], usize> = BTreeMap::new();
        let mut voxels: Plain = Vec::new();
        for point in points {
            let place: Vec<i32> = (0..3)
                .map(|axis| ((point[axis] - grid.range[axis] as f32) / grid.voxel_size[axis] as f32).floor() as i32)
                .collect();
            if (0..3).any(|axis| place[axis] < 0 || place[axis] >= grid.size[axis] as i32 || point[axis].is_nan()) {
                continue;
            }
            let place = [0, place[2], place[1], place[0]];
            if !numbers.contains_key(&place) && voxels.len() < max_voxels {
                numbers.insert(place, voxels.len());
                voxels.push((place, Vec::new()));
            }
            if let Some(number) = numbers.get(&place)
                && voxels[*number].1.len() < grid.max_points_per_voxel
            {
                voxels[*number].1.push(*point);
            }
        }
        voxels
    }

    #[test]
    fn voxels_are_those_of_the_plain_rules() {
        let grid = Grid::new([0.0, -4.0, -1.0, 8.0, 4.0, 1.0], [0.5, 0.25, 1.0], 3).unwrap();
        assert_eq!(grid.size, [16, 32, 2]);
        let mut scratch = VoxelScratch::default();
        for (seed, n, max_voxels) in [(0, 3000, 10_000), (1, 3000, 200), (2, 3000, 1), (3, 0, 5), (4, 40, 40)] {
            let mut rng = SampleRng::new(seed, 0, 0, "voxels");
            let mut points: Vec<[f32; 4]> = (0..n)
                .map(|at| {
                    let [x, y, z] =
                        [(-1.0, 9.0), (-5.0, 5.0), (-1.5, 1.5)].map(|(low, high)| rng.uniform(low, high) as f32);
                    [x, y, z, at as f32]
                })
                .collect();
            if n > 2 {
                points[1][0] = f32::NAN;
                points[2] = [8.0, 0.0, 0.0, 2.0];
            }
            let expect = plain(&grid, &points, max_voxels);
            let found = grid.voxelize(points.as_flattened(), 4, max_voxels, &mut scratch).unwrap();
            assert_eq!(found.points.shape(), [expect.len(), 3, 4]);
            assert!(seed != 1 || expect.len() == 200, "the cap is met");
            for (number, (place, inside)) in expect.iter().enumerate() {
                assert_eq!(found.coords.as_slice::<i32>()[4 * number..][..4], *place);
                assert_eq!(found.num_points.as_slice::<i32>()[number] as usize, inside.len());
                let mut rows = inside.as_flattened().to_vec();
                rows.resize(12, 0.0);
                assert_eq!(found.points.as_slice::<f32>()[12 * number..][..12], rows);
            }
        }
    }

    #[test]
    fn grids_that_cannot_be_are_refused() {
        let kitti = [0.0, -39.68, -3.0, 69.12, 39.68, 1.0];
        assert_eq!(Grid::new(kitti, [0.16, 0.16, 4.0], 32).unwrap().size, [432, 496, 1]);
        for (range, size, points) in [
            ([0.0, 0.0, 0.0, 0.0, 1.0, 1.0], [0.1; 3], 5),
            (kitti, [0.0, 0.1, 0.1], 5),
            (kitti, [-0.1, 0.1, 0.1], 5),
            (kitti, [1e-6; 3], 5),
            (kitti, [900.0; 3], 5),
            (kitti, [f64::NAN, 0.1, 0.1], 5),
            (kitti, [0.1; 3], 0),
        ] {
            assert!(Grid::new(range, size, points).is_err(), "{range:?} {size:?} {points}");
        }
    }
}
