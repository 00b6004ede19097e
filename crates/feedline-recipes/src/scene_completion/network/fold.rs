//! The order of voxels inside the network: cubes of 2 x 2 x 2 voxels are one voxel of half resolution, and the eight
//! voxels of a cube, its corners, stand apart. Going down or up is then a linear layer, without moving a number. Owns
//! the table of that order and the way of pictures and voxels into it; computes nothing.

/// Side of the squares of pixels that the 2D branch starts from.
pub(super) const PATCH_PX: usize = 4;
/// Voxels in a cube of side 2: one voxel of half resolution.
pub(super) const CORNERS: usize = 8;

/// The place of each voxel.
#[derive(Debug, Clone)]
pub(super) struct Fold {
    /// Voxels along each side at half resolution.
    pub(super) half: [usize; 3],
    /// Place corner * cubes + cube holds the voxel `natural[place]` of the grid (row-major).
    pub(super) natural: Vec<u32>,
}

impl Fold {
    /// For a grid of even sides.
    pub(super) fn new(grid: [usize; 3]) -> Fold {
        let half = grid.map(|side| side / 2);
        let mut natural = Vec::with_capacity(grid.iter().product());
        for corner in 0..CORNERS {
            let [dx, dy, dz] = [corner / 4, corner / 2 % 2, corner % 2];
            for x in 0..half[0] {
                for y in 0..half[1] {
                    for z in 0..half[2] {
                        let at = ((2 * x + dx) * grid[1] + 2 * y + dy) * grid[2] + 2 * z + dz;
                        natural.push(at as u32);
                    }
                }
            }
        }
        Fold { half, natural }
    }

    /// Voxels at half resolution.
    pub(super) fn cubes(&self) -> usize {
        self.half.iter().product()
    }

    /// Values of B grids (each row-major) in the order of the network: (B, corners, cubes).
    pub(super) fn fold(&self, values: &[f32]) -> Vec<f32> {
        let grids = values.chunks_exact(self.natural.len());
        grids.flat_map(|grid| self.natural.iter().map(|&at| grid[at as usize])).collect()
    }

    /// Values (B, corners, channels, cubes) as (B, voxels, channels), row-major voxels.
    pub(super) fn unfold(&self, values: &[f32], channels: usize) -> Vec<f32> {
        let (cubes, mut out) = (self.cubes(), vec![0.0; values.len()]);
        let sample = self.natural.len() * channels;
        for (values, out) in values.chunks_exact(sample).zip(out.chunks_exact_mut(sample)) {
            for (place, &at) in self.natural.iter().enumerate() {
                let (corner, cube) = (place / cubes, place % cubes);
                for channel in 0..channels {
                    out[at as usize * channels + channel] = values[(corner * channels + channel) * cubes + cube];
                }
            }
        }
        out
    }

    /// The inverse of [`Fold::unfold`].
    pub(super) fn refold(&self, values: &[f32], channels: usize) -> Vec<f32> {
        let (cubes, mut out) = (self.cubes(), vec![0.0; values.len()]);
        let sample = self.natural.len() * channels;
        for (values, out) in values.chunks_exact(sample).zip(out.chunks_exact_mut(sample)) {
            for (place, &at) in self.natural.iter().enumerate() {
                let (corner, cube) = (place / cubes, place % cubes);
                for channel in 0..channels {
                    out[(corner * channels + channel) * cubes + cube] = values[at as usize * channels + channel];
                }
            }
        }
        out
    }

    /// For each place of B samples the row of the feature of its pixel in B maps of `map_px` rows and columns, each of
    /// their elements `scale_px` pixels wide, one sample after the other; voxels without a pixel get the row behind the
    /// last one. `mapping` (B, voxels) holds pixels of pictures of `image_px`.
    pub(super) fn rows(&self, mapping: &[i64], image_px: [usize; 2], map_px: [usize; 2], scale_px: usize) -> Vec<i64> {
        let (pixels, elements) = (image_px[0] * image_px[1], map_px[0] * map_px[1]);
        let none = mapping.len() / self.natural.len() * elements;
        let grids = mapping.chunks_exact(self.natural.len()).enumerate();
        let row = |sample: usize, pixel: usize| {
            let (y, x) = (pixel / image_px[1] / scale_px, pixel % image_px[1] / scale_px);
            if pixel < pixels { sample * elements + y * map_px[1] + x } else { none }
        };
        grids
            .flat_map(|(sample, grid)| self.natural.iter().map(move |&at| (sample, grid[at as usize] as usize)))
            .map(|(sample, pixel)| row(sample, pixel) as i64)
            .collect()
    }
}

/// Squares of [`PATCH_PX`] x [`PATCH_PX`] pixels as the channels of one element: from B pictures of each of `parts`
/// (B, 3, H, W) to (B, 3 parts * PATCH_PX^2, ceil(H / PATCH_PX) * ceil(W / PATCH_PX)), with zeros beyond the edge.
pub(super) fn patches(parts: &[&[f32]], image_px: [usize; 2]) -> Vec<f32> {
    let [height, width] = image_px;
    let (rows, columns) = (height.div_ceil(PATCH_PX), width.div_ceil(PATCH_PX));
    let samples = parts.first().map_or(0, |part| part.len() / (3 * height * width));
    let mut out = vec![0.0; samples * parts.len() * 3 * PATCH_PX * PATCH_PX * rows * columns];
    let mut maps = out.chunks_exact_mut(PATCH_PX * PATCH_PX * rows * columns);
    for sample in 0..samples {
        for part in parts {
            for plane in part.chunks_exact(height * width).skip(3 * sample).take(3) {
                let Some(map) = maps.next() else { return out };
                for (y, line) in plane.chunks_exact(width).enumerate() {
                    for dx in 0..PATCH_PX {
                        let channel = y % PATCH_PX * PATCH_PX + dx;
                        let start = (channel * rows + y / PATCH_PX) * columns;
                        let pixels = line.iter().skip(dx).step_by(PATCH_PX);
                        map[start..start + columns].iter_mut().zip(pixels).for_each(|(to, from)| *to = *from);
                    }
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_of_a_cube_stand_apart_and_come_back() {
        let fold = Fold::new([4, 2, 6]);
        assert_eq!((fold.half, fold.cubes()), ([2, 1, 3], 6));
        let mut sorted = fold.natural.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..48).collect::<Vec<_>>());
        // Corner (1, 0, 1) of the cube (1, 0, 2) is the voxel (3, 0, 5).
        assert_eq!(fold.natural[5 * 6 + 5], 3 * 12 + 5);
        let values: Vec<f32> = (0..2 * 48).map(|v| v as f32).collect();
        assert_eq!(fold.unfold(&fold.fold(&values), 1), values);
        let values: Vec<f32> = (0..2 * 3 * 48).map(|v| v as f32).collect();
        assert_eq!(fold.unfold(&fold.refold(&values, 3), 3), values);
        assert_eq!(fold.refold(&fold.unfold(&values, 3), 3), values);
    }

    #[test]
    fn a_voxel_takes_the_element_that_covers_its_pixel() {
        let fold = Fold::new([2, 2, 2]);
        // Pictures of 5 x 10 pixels: maps of 2 x 3.
        let mapping = [0, 9, 43, 50, 50, 12, 39, 49, 50, 0, 50, 50, 50, 50, 50, 4];
        let rows = fold.rows(&mapping, [5, 10], [2, 3], 4);
        assert_eq!(rows, [0, 2, 3, 12, 12, 0, 2, 5, 12, 6, 12, 12, 12, 12, 12, 7]);
    }

    #[test]
    fn a_patch_holds_its_pixels_and_zeros_beyond_the_edge() {
        let (height, width) = (5, 6);
        let picture = |start: usize| (start..start + 2 * 3 * height * width).map(|v| v as f32).collect::<Vec<_>>();
        let (first, second) = (picture(1), picture(1000));
        let out = patches(&[&first, &second], [height, width]);
        assert_eq!(out.len(), 2 * 6 * 16 * 4);
        for sample in 0..2 {
            for channel in 0..6 {
                let part = if channel < 3 { &first } else { &second };
                for (y, x) in (0..8).flat_map(|y| (0..8).map(move |x| (y, x))) {
                    let place = (((sample * 6 + channel) * 16 + y % 4 * 4 + x % 4) * 2 + y / 4) * 2 + x / 4;
                    let pixel = ((sample * 3 + channel % 3) * height + y) * width + x;
                    let expect = if y < height && x < width { part[pixel] } else { 0.0 };
                    assert_eq!(out[place], expect, "{sample} {channel} {y} {x}");
                }
            }
        }
    }
}
