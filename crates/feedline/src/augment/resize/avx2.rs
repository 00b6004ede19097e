//! The two passes for AVX2. They give the same bytes as `portable.rs`.
//!
//! A weight has more bits than the 16 of the fast multiplication. So each is cut in two, `high * 2^11 + low`, and the
//! two sums are added: exact, since nothing is rounded before.

use super::portable::HALF;
use super::weights::{Axis, FRACTION_BITS, Weights};
use std::arch::x86_64::*;

const LOW_BITS: i32 = 11;

fn halves(weight: i32) -> [i16; 2] {
    [(weight >> LOW_BITS) as i16, (weight & ((1 << LOW_BITS) - 1)) as i16]
}

/// Weights of the row pass, laid out for the vector registers.
#[derive(Debug, Default)]
pub(super) struct Horizontal {
    axis: Option<Axis>,
    /// Bytes from the row's first to an output pixel's first; eight pixels a step.
    starts: Vec<[usize; 8]>,
    /// Of pixels k and k + 4 of a step and two taps: high parts, low parts.
    weights: Vec<[[[i16; 2]; 8]; 2]>,
    /// Pairs of taps.
    pairs: usize,
}

impl Horizontal {
    /// Copies `weights` into this layout; false if the vector code cannot use them.
    pub(super) fn update(&mut self, weights: &Weights) -> bool {
        let (starts, taps) = (&weights.starts, weights.taps);
        if !taps.is_multiple_of(2) {
            return false;
        }
        if self.axis == weights.axis() {
            return true;
        }
        self.axis = weights.axis();
        self.pairs = taps / 2;
        self.starts.clear();
        self.weights.clear();
        for step in (0..starts.len()).step_by(8) {
            // Steps beyond the last pixel repeat it; their results are cut off.
            let pixel = |k: usize| (step + k).min(starts.len() - 1);
            self.starts.push(std::array::from_fn(|k| 3 * starts[pixel(k)]));
            for k in 0..4 {
                let [a, b] = [pixel(k), pixel(k + 4)].map(|p| weights.fixed[p * taps..][..taps].as_chunks::<2>().0);
                for (a, b) in a.iter().zip(b) {
                    let ([a0, a1], [b0, b1]) = (a.map(halves), b.map(halves));
                    self.weights.push([0, 1].map(|half| {
                        let (a, b) = ([a0[half], a1[half]], [b0[half], b1[half]]);
                        [a, a, a, a, b, b, b, b]
                    }));
                }
            }
        }
        true
    }

    /// One row of RGB pixels, and [`super::passes::SLACK_BYTES`] or more. `into` holds `3 * out_px`, rounded up to 24, and 8 bytes.
    #[target_feature(enable = "avx2")]
    pub(super) fn run(&self, row: &[u8], into: &mut [u8]) {
        match self.pairs {
            1 => self.run_pairs::<1>(row, into),
            2 => self.run_pairs::<2>(row, into),
            3 => self.run_pairs::<3>(row, into),
            4 => self.run_pairs::<4>(row, into),
            _ => self.run_pairs::<0>(row, into),
        }
    }

    /// `PAIRS` pairs of taps, or as many as there are if zero.
    #[target_feature(enable = "avx2")]
    fn run_pairs<const PAIRS: usize>(&self, row: &[u8], into: &mut [u8]) {
        let pairs = if PAIRS == 0 { self.pairs } else { PAIRS };
        // Taps 0 and 1, then 2 and 3, as 16 bits each: R R G G B B 0 0.
        let pair = |tap: i8| {
            let at = |channel: i8| [3 * tap + channel, -1, 3 * tap + 3 + channel, -1];
            let [r, g, b] = [at(0), at(1), at(2)];
            bytemuck::must_cast::<[[i8; 4]; 8], __m256i>([r, g, b, [-1; 4], r, g, b, [-1; 4]])
        };
        let spread = [pair(0), pair(2)];
        let drop_fourth = [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1];
        let drop_fourth: __m256i = bytemuck::must_cast::<[[i8; 16]; 2], _>([drop_fourth; 2]);
        let half = _mm256_set1_epi32(HALF);
        for ((step, starts), weights) in self.starts.iter().enumerate().zip(self.weights.chunks_exact(4 * pairs)) {
            let mut sums = [half; 4];
            for k in 0..4 {
                let (mut high, mut low) = (_mm256_setzero_si256(), half);
                for (four, weights) in weights[k * pairs..][..pairs].chunks(2).enumerate() {
                    // Four taps are 12 bytes of 16.
                    let [a, b] = [starts[k], starts[k + 4]].map(|start| start + 12 * four);
                    let pixels = _mm256_set_m128i(load(row, b), load(row, a));
                    for (spread, [high_parts, low_parts]) in spread.iter().zip(weights) {
                        let pixels = _mm256_shuffle_epi8(pixels, *spread);
                        high = _mm256_add_epi32(high, _mm256_madd_epi16(pixels, bytemuck::must_cast(*high_parts)));
                        low = _mm256_add_epi32(low, _mm256_madd_epi16(pixels, bytemuck::must_cast(*low_parts)));
                    }
                }
                sums[k] = level(high, low);
            }
            let words = [_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3])];
            let bytes = _mm256_shuffle_epi8(_mm256_packus_epi16(words[0], words[1]), drop_fourth);
            let [low, high]: [[u8; 16]; 2] = bytemuck::must_cast(bytes);
            let into: &mut [u8; 28] = into[24 * step..].first_chunk_mut().expect("room for whole steps");
            *into.first_chunk_mut().expect("16 of 28") = low;
            *into.last_chunk_mut().expect("16 of 28") = high;
        }
    }
}

/// 16 bytes from `at` on.
#[inline]
#[target_feature(enable = "avx2")]
fn load(row: &[u8], at: usize) -> __m128i {
    bytemuck::must_cast::<[u8; 16], _>(*row[at..].first_chunk().expect("a row has slack"))
}

/// The sum of the two parts, rounded, in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn level(high: __m256i, low: __m256i) -> __m256i {
    _mm256_srai_epi32::<{ FRACTION_BITS as i32 }>(_mm256_add_epi32(_mm256_slli_epi32::<LOW_BITS>(high), low))
}

/// The most rows of a column's pass.
pub(super) const MOST_ROWS: usize = 64;

/// The shortest row of a column's pass.
pub(super) const LEAST_BYTES: usize = 32;

/// One row of bytes from as many as there are weights, at most [`MOST_ROWS`]. All are equally long, [`LEAST_BYTES`] or
/// more.
#[target_feature(enable = "avx2")]
pub(super) fn vertical(rows: &[&[u8]], weights: &[i32], into: &mut [u8]) {
    match rows.len() {
        0..=2 => vertical_pairs::<1>(rows, weights, into),
        3..=4 => vertical_pairs::<2>(rows, weights, into),
        5..=6 => vertical_pairs::<3>(rows, weights, into),
        7..=8 => vertical_pairs::<4>(rows, weights, into),
        9..=16 => vertical_pairs::<8>(rows, weights, into),
        _ => vertical_pairs::<{ MOST_ROWS / 2 }>(rows, weights, into),
    }
}

/// As [`vertical`], from at most `PAIRS` pairs of rows.
#[target_feature(enable = "avx2")]
fn vertical_pairs<const PAIRS: usize>(rows: &[&[u8]], weights: &[i32], into: &mut [u8]) {
    // Beyond the last row any will do, with weight zero.
    let row = |i: usize| rows[i.min(rows.len() - 1)];
    let weight = |i: usize| halves(weights.get(i).copied().unwrap_or(0));
    let two: [[&[u8]; 2]; PAIRS] = std::array::from_fn(|pair| [row(2 * pair), row(2 * pair + 1)]);
    let parts: [[__m256i; 2]; PAIRS] = std::array::from_fn(|pair| {
        let (a, b) = (weight(2 * pair), weight(2 * pair + 1));
        [0, 1].map(|part| bytemuck::must_cast([[a[part], b[part]]; 8]))
    });
    let pairs = rows.len().div_ceil(2).min(PAIRS);
    let blocks = into.len() / 32;
    let first = two.map(|rows| rows.map(|row| &row.as_chunks().0[..blocks]));
    vertical_blocks(&first[..pairs], &parts[..pairs], into.as_chunks_mut().0);
    if !into.len().is_multiple_of(32) {
        // The last 32 bytes, some of which are done twice.
        let last = two.map(|rows| rows.map(|row| row.as_rchunks().1.last_chunk::<1>().expect("32 bytes").as_slice()));
        let into = into.as_rchunks_mut().1.last_chunk_mut::<1>().expect("32 bytes");
        vertical_blocks(&last[..pairs], &parts[..pairs], into);
    }
}

/// Blocks of pairs of rows, each as many as `into` has, and the high and low parts of the weights of every pair.
#[inline]
#[target_feature(enable = "avx2")]
fn vertical_blocks(two: &[[&[[u8; 32]]; 2]], parts: &[[__m256i; 2]], into: &mut [[u8; 32]]) {
    let (zero, half) = (_mm256_setzero_si256(), _mm256_set1_epi32(HALF));
    for (x, into) in into.iter_mut().enumerate() {
        let (mut high, mut low) = ([zero; 4], [half; 4]);
        for (rows, parts) in two.iter().zip(parts) {
            let [a, b] = rows.map(|row| bytemuck::must_cast::<[u8; 32], __m256i>(row[x]));
            let (first, second) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
            let pixels = [
                _mm256_unpacklo_epi8(first, zero),
                _mm256_unpackhi_epi8(first, zero),
                _mm256_unpacklo_epi8(second, zero),
                _mm256_unpackhi_epi8(second, zero),
            ];
            for i in 0..4 {
                high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(pixels[i], parts[0]));
                low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(pixels[i], parts[1]));
            }
        }
        let mut sums = [zero; 4];
        for i in 0..4 {
            sums[i] = level(high[i], low[i]);
        }
        let words = [_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3])];
        *into = bytemuck::must_cast(_mm256_packus_epi16(words[0], words[1]));
    }
}
