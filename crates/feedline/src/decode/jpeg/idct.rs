//! Inverse DCTs of two blocks at once, and the reduced ones of scaled decoding, in portable code. Every result is
//! bit-equal to libjpeg-turbo's accurate integer transform ("islow") and to its reduced transforms.
//!
//! The transform is that of C. Loeffler, A. Ligtenberg and G. Moschytz, "Practical Fast 1-D DCT Algorithms with 11
//! Multiplications" (ICASSP 1989), in fixed point with 13 bits, two extra bits between the passes, and libjpeg's
//! rounding; the multiplications are regrouped into sums of two products. Sums outside 16 bits, which only damaged files
//! reach, wrap and saturate as in libjpeg-turbo's SIMD code. If that depends on the path through its code (a shortcut
//! wraps, the full transform saturates), this decoder gives up and the general one takes the picture.

use super::entropy::BlockPair;

/// Fixed-point constants: the cosines' combinations times 2^13, rounded.
pub(super) mod fix {
    pub const C0_298: i32 = 2446;
    pub const C0_390: i32 = 3196;
    pub const C0_541: i32 = 4433;
    pub const C0_765: i32 = 6270;
    pub const C0_899: i32 = 7373;
    pub const C1_175: i32 = 9633;
    pub const C1_501: i32 = 12299;
    pub const C1_847: i32 = 15137;
    pub const C1_961: i32 = 16069;
    pub const C2_053: i32 = 16819;
    pub const C2_562: i32 = 20995;
    pub const C3_072: i32 = 25172;
}
use fix::*;

/// Factors of the sums of two products: `x a + y b`.
pub(super) mod factors {
    use super::fix::*;
    pub const EVEN_2: [i32; 2] = [C0_541, C0_541 - C1_847];
    pub const EVEN_3: [i32; 2] = [C0_541 + C0_765, C0_541];
    pub const Z3: [i32; 2] = [C1_175 - C1_961, C1_175];
    pub const Z4: [i32; 2] = [C1_175, C1_175 - C0_390];
    pub const ODD_0: [i32; 2] = [C0_298 - C0_899, -C0_899];
    pub const ODD_1: [i32; 2] = [C2_053 - C2_562, -C2_562];
    pub const ODD_2: [i32; 2] = [-C2_562, C3_072 - C2_562];
    pub const ODD_3: [i32; 2] = [-C0_899, C1_501 - C0_899];
}
use factors::*;

/// Destination of a block's samples.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Target {
    /// Index of its first sample.
    pub at: usize,
    /// Distance between rows, in samples.
    pub stride: usize,
}

#[inline(always)]
fn sum(x: i16, y: i16, [a, b]: [i32; 2]) -> i32 {
    (i32::from(x) * a).wrapping_add(i32::from(y) * b)
}

#[inline(always)]
fn saturated(value: i32) -> i16 {
    value.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// One dimension: eight values in, eight out, rounded and shifted by `SHIFT`.
#[inline(always)]
fn pass<const SHIFT: u32>(x: [i16; 8]) -> [i16; 8] {
    let even_2 = sum(x[2], x[6], EVEN_2);
    let even_3 = sum(x[2], x[6], EVEN_3);
    let half = 1 << (SHIFT - 1);
    let even_0 = (i32::from(x[0].wrapping_add(x[4])) << 13) + half;
    let even_1 = (i32::from(x[0].wrapping_sub(x[4])) << 13) + half;
    let even = [
        even_0.wrapping_add(even_3),
        even_1.wrapping_add(even_2),
        even_1.wrapping_sub(even_2),
        even_0.wrapping_sub(even_3),
    ];
    let (z3, z4) = (x[7].wrapping_add(x[3]), x[5].wrapping_add(x[1]));
    let (with_3, with_4) = (sum(z3, z4, Z3), sum(z3, z4, Z4));
    let odd = [
        sum(x[7], x[1], ODD_3).wrapping_add(with_4),
        sum(x[5], x[3], ODD_2).wrapping_add(with_3),
        sum(x[5], x[3], ODD_1).wrapping_add(with_4),
        sum(x[7], x[1], ODD_0).wrapping_add(with_3),
    ];
    std::array::from_fn(|at| {
        let value = if at < 4 { even[at].wrapping_add(odd[at]) } else { even[7 - at].wrapping_sub(odd[7 - at]) };
        saturated(value >> SHIFT)
    })
}

#[inline(always)]
fn to_sample(value: i32) -> u8 {
    value.saturating_add(128).clamp(0, 255) as u8
}

/// True if a coefficient of a block's first row overflows 16 bits in libjpeg's shortcut for blocks without lower rows: the
/// shortcut wraps where the full transform saturates.
fn is_wild(value: i16) -> bool {
    value.wrapping_shl(2) >> 2 != value
}

/// Computes 8 x 8 samples of both blocks. `quant` has the layout of `pair`. False: the general decoder must take the
/// picture, and the written samples are not valid.
#[inline(always)]
#[must_use]
pub(super) fn eight(pair: &BlockPair, quant: &[i16; 128], planes: &mut [u8], targets: [Target; 2]) -> bool {
    if pair.iter().zip(&quant[..16]).any(|(value, quant)| is_wild(value.wrapping_mul(*quant))) {
        return false;
    }
    let mut middle = [[0_i16; 16]; 8];
    for column in 0..16 {
        let column_in: [i16; 8] =
            std::array::from_fn(|row| pair[16 * row + column].wrapping_mul(quant[16 * row + column]));
        let out = pass::<11>(column_in);
        for row in 0..8 {
            middle[row][column] = out[row];
        }
    }
    for (lane, target) in targets.into_iter().enumerate() {
        for (row, middle) in middle.iter().enumerate() {
            let out = pass::<18>(std::array::from_fn(|column| middle[8 * lane + column]));
            let at = target.at + row * target.stride;
            for (to, from) in planes[at..at + 8].iter_mut().zip(out) {
                *to = to_sample(from.into());
            }
        }
    }
    true
}

/// Transforms one block as libjpeg-turbo's vector code does, for any coefficients; both inputs are in natural order.
pub(super) fn exact(block: &[i16; 64], quant: &[u16; 64]) -> [[u8; 8]; 8] {
    let value = |at: usize| block[at].wrapping_mul(quant[at].cast_signed());
    // The shortcut for a block that is 0 below its first row wraps; the full transform saturates.
    let is_flat = block[8..].iter().all(|value| *value == 0);
    let mut middle = [[0_i16; 8]; 8];
    for column in 0..8 {
        let out = match is_flat {
            true => [value(column).wrapping_shl(2); 8],
            false => pass::<11>(std::array::from_fn(|row| value(8 * row + column))),
        };
        for (middle, out) in middle.iter_mut().zip(out) {
            middle[column] = out;
        }
    }
    middle.map(|row| pass::<18>(row).map(|value| to_sample(value.into())))
}

/// True if the general decoder, whose shortcut uses wider numbers, gives other pixels than [`exact`].
pub(super) fn is_wild_block(block: &[i16; 64], quant: &[u16; 64]) -> bool {
    let is_wild = |at: usize| is_wild(block[at].wrapping_mul(quant[at].cast_signed()));
    (0..8).any(is_wild) && block[8..].iter().all(|value| *value == 0)
}

/// As [`eight`], for two blocks in which only the first coefficient is not 0.
#[inline(always)]
#[must_use]
pub(super) fn eight_flat(pair: &BlockPair, quant: &[i16; 128], planes: &mut [u8], targets: [Target; 2]) -> bool {
    let firsts = [0, 8].map(|lane| pair[lane].wrapping_mul(quant[lane]));
    if firsts.into_iter().any(is_wild) {
        return false;
    }
    for (dc, target) in firsts.into_iter().zip(targets) {
        let sample = to_sample((4 * i32::from(dc) + 16) >> 5);
        for row in 0..8 {
            let at = target.at + row * target.stride;
            planes[at..at + 8].fill(sample);
        }
    }
    true
}

/// The largest coefficient that the reduced transforms accept, so that none of their sums overflows 32 bits. No 8-bit
/// picture has one above 1024, give or take half a quantisation step.
const REDUCED_MAX: i32 = 2047;

/// Dequantises the column `column` of both blocks for a reduced transform, which uses the rows `ROWS`; sets `wild` if a
/// coefficient is too large.
#[inline(always)]
fn reduced<const N: usize>(
    pair: &BlockPair,
    quant: &[i16; 128],
    column: usize,
    rows: [usize; N],
    wild: &mut bool,
) -> [i32; 8] {
    let mut out = [0; 8];
    for row in rows {
        let value = i32::from(pair[16 * row + column]) * i32::from(quant[16 * row + column]);
        *wild |= (value + REDUCED_MAX).cast_unsigned() > 2 * REDUCED_MAX as u32;
        out[row] = value;
    }
    out
}

#[inline(always)]
fn rounded(value: i32, shift: u32) -> i32 {
    value.wrapping_add(1 << (shift - 1)) >> shift
}

#[inline(always)]
fn dot<const N: usize>(values: [i32; N], factors: [i32; N]) -> i32 {
    let mut total = 0_i32;
    for (value, factor) in values.into_iter().zip(factors) {
        total = total.wrapping_add(value.wrapping_mul(factor));
    }
    total
}

/// One dimension of the 4 x 4 transform: indices 0, 1, 2, 3, 5, 6, 7 in, four values out.
#[inline(always)]
fn four_pass(x: [i32; 8], shift: u32) -> [i32; 4] {
    let even_0 = x[0] << 14;
    let even_2 = dot([x[2], x[6]], [C1_847, -C0_765]);
    let (a, b) = (even_0.wrapping_add(even_2), even_0.wrapping_sub(even_2));
    let odd = [x[7], x[5], x[3], x[1]];
    // cos-derived: 0.211164243, 1.451774981, 2.172734803, 1.061594337; 0.509795579, 0.601344887, 0.899976223,
    // 2.562915447 (libjpeg's jidctred), times 2^13.
    let inner = dot(odd, [-1730, 11893, -17799, 8697]);
    let outer = dot(odd, [-4176, -4926, 7373, 20995]);
    [
        rounded(a.wrapping_add(outer), shift),
        rounded(b.wrapping_add(inner), shift),
        rounded(b.wrapping_sub(inner), shift),
        rounded(a.wrapping_sub(outer), shift),
    ]
}

/// Computes 4 x 4 samples of each block: the picture at 1/2. False has the meaning of [`eight`]'s.
#[inline(always)]
#[must_use]
pub(super) fn four(pair: &BlockPair, quant: &[i16; 128], planes: &mut [u8], targets: [Target; 2]) -> bool {
    let (mut middle, mut wild) = ([[0_i32; 16]; 4], false);
    for column in 0..16 {
        let out = four_pass(reduced(pair, quant, column, [0, 1, 2, 3, 5, 6, 7], &mut wild), 12);
        for (middle, out) in middle.iter_mut().zip(out) {
            middle[column] = out;
        }
    }
    for (lane, target) in targets.into_iter().enumerate() {
        for (row, middle) in middle.iter().enumerate() {
            let out = four_pass(std::array::from_fn(|column| middle[8 * lane + column]), 19);
            let at = target.at + row * target.stride;
            for (to, from) in planes[at..at + 4].iter_mut().zip(out) {
                *to = to_sample(from);
            }
        }
    }
    !wild
}

/// One dimension of the 2 x 2 transform: indices 0, 1, 3, 5, 7 in, two values out.
#[inline(always)]
fn two_pass(x: [i32; 8], shift: u32) -> [i32; 2] {
    let even = x[0] << 15;
    // 0.720959822, 0.850430095, 1.272758580, 3.624509785 (libjpeg's jidctred), times 2^13.
    let odd = dot([x[7], x[5], x[3], x[1]], [-5906, 6967, -10426, 29692]);
    [rounded(even.wrapping_add(odd), shift), rounded(even.wrapping_sub(odd), shift)]
}

/// 2 x 2 samples of each block: the picture at 1/4.
#[inline(always)]
#[must_use]
pub(super) fn two(pair: &BlockPair, quant: &[i16; 128], planes: &mut [u8], targets: [Target; 2]) -> bool {
    let (mut middle, mut wild) = ([[0_i32; 16]; 2], false);
    for column in 0..16 {
        let out = two_pass(reduced(pair, quant, column, [0, 1, 3, 5, 7], &mut wild), 13);
        for (middle, out) in middle.iter_mut().zip(out) {
            middle[column] = out;
        }
    }
    for (lane, target) in targets.into_iter().enumerate() {
        for (row, middle) in middle.iter().enumerate() {
            let out = two_pass(std::array::from_fn(|column| middle[8 * lane + column]), 20);
            let at = target.at + row * target.stride;
            for (to, from) in planes[at..at + 2].iter_mut().zip(out) {
                *to = to_sample(from);
            }
        }
    }
    !wild
}

/// The mean of each block: the picture at 1/8.
#[inline(always)]
pub(super) fn one(pair: &BlockPair, quant: &[i16; 128], planes: &mut [u8], targets: [Target; 2]) {
    for (lane, target) in [0, 8].into_iter().zip(targets) {
        planes[target.at] = to_sample(rounded(i32::from(pair[lane]) * i32::from(quant[lane]), 3));
    }
}
