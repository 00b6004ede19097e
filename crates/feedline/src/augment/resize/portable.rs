//! The two passes in plain integers: the reference that the vector code must equal, and the code for other processors.

use super::weights::{FRACTION_BITS, Weights};

/// Half of the last place kept; adding it makes truncation round.
pub(super) const HALF: i32 = 1 << (FRACTION_BITS - 1);

fn level(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Resizes one row of RGB pixels to the number of pixels that `weights` has; the rest of `into` is not changed.
pub(super) fn horizontal(row: &[u8], weights: &Weights, into: &mut [u8]) {
    let row = row.as_chunks::<3>().0;
    for ((start, weights), into) in weights.iter().zip(into.as_chunks_mut::<3>().0) {
        let mut sums = [HALF; 3];
        for (pixel, weight) in row[start..].iter().zip(weights) {
            for c in 0..3 {
                sums[c] += i32::from(pixel[c]) * weight;
            }
        }
        *into = sums.map(level);
    }
}

/// One row of bytes from several, given by number.
pub(super) fn vertical<'a>(row: impl Fn(usize) -> &'a [u8], start: usize, weights: &[i32], into: &mut [u8]) {
    for (x, into) in into.iter_mut().enumerate() {
        let terms = weights.iter().enumerate().map(|(i, weight)| i32::from(row(start + i)[x]) * weight);
        *into = level(HALF + terms.sum::<i32>());
    }
}
