//! The inverse DCT and the colour conversion under AVX2. Same results as the portable code, bit for bit.

use super::entropy::BlockPair;
use super::idct::Target;
use super::idct::factors::*;
use std::arch::x86_64::*;

type V = __m256i;

#[inline]
#[target_feature(enable = "avx2")]
fn products(x: V, y: V, [a, b]: [i32; 2]) -> [V; 2] {
    let factors = _mm256_set1_epi32(b << 16 | a & 0xFFFF);
    [_mm256_madd_epi16(_mm256_unpacklo_epi16(x, y), factors), _mm256_madd_epi16(_mm256_unpackhi_epi16(x, y), factors)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(x: [V; 2], y: [V; 2]) -> [V; 2] {
    [_mm256_add_epi32(x[0], y[0]), _mm256_add_epi32(x[1], y[1])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn sub(x: [V; 2], y: [V; 2]) -> [V; 2] {
    [_mm256_sub_epi32(x[0], y[0]), _mm256_sub_epi32(x[1], y[1])]
}

/// Times 2^13, plus half of what the shift takes away.
#[inline]
#[target_feature(enable = "avx2")]
fn widened<const SHIFT: i32>(x: V) -> [V; 2] {
    let zero = _mm256_setzero_si256();
    let half = _mm256_set1_epi32(1 << (SHIFT - 1));
    [
        _mm256_add_epi32(_mm256_srai_epi32::<3>(_mm256_unpacklo_epi16(zero, x)), half),
        _mm256_add_epi32(_mm256_srai_epi32::<3>(_mm256_unpackhi_epi16(zero, x)), half),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn packed<const SHIFT: i32>(x: [V; 2]) -> V {
    _mm256_packs_epi32(_mm256_srai_epi32::<SHIFT>(x[0]), _mm256_srai_epi32::<SHIFT>(x[1]))
}

/// One dimension of the transform of both blocks: `idct::pass`.
#[inline]
#[target_feature(enable = "avx2")]
fn pass<const SHIFT: i32>(x: [V; 8]) -> [V; 8] {
    let even_2 = products(x[2], x[6], EVEN_2);
    let even_3 = products(x[2], x[6], EVEN_3);
    let even_0 = widened::<SHIFT>(_mm256_add_epi16(x[0], x[4]));
    let even_1 = widened::<SHIFT>(_mm256_sub_epi16(x[0], x[4]));
    let (z3, z4) = (_mm256_add_epi16(x[7], x[3]), _mm256_add_epi16(x[5], x[1]));
    let (with_3, with_4) = (products(z3, z4, Z3), products(z3, z4, Z4));
    let (a0, a7) = (add(even_0, even_3), sub(even_0, even_3));
    let (a1, a6) = (add(even_1, even_2), sub(even_1, even_2));
    let b0 = add(products(x[7], x[1], ODD_3), with_4);
    let b1 = add(products(x[5], x[3], ODD_2), with_3);
    let b2 = add(products(x[5], x[3], ODD_1), with_4);
    let b3 = add(products(x[7], x[1], ODD_0), with_3);
    [
        packed::<SHIFT>(add(a0, b0)),
        packed::<SHIFT>(add(a1, b1)),
        packed::<SHIFT>(add(a6, b2)),
        packed::<SHIFT>(add(a7, b3)),
        packed::<SHIFT>(sub(a7, b3)),
        packed::<SHIFT>(sub(a6, b2)),
        packed::<SHIFT>(sub(a1, b1)),
        packed::<SHIFT>(sub(a0, b0)),
    ]
}

/// Transposes the 8 x 8 values of each half.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(x: [V; 8]) -> [V; 8] {
    let pairs = |at: usize| (_mm256_unpacklo_epi16(x[at], x[at + 1]), _mm256_unpackhi_epi16(x[at], x[at + 1]));
    let ((a, b), (c, d), (e, f), (g, h)) = (pairs(0), pairs(2), pairs(4), pairs(6));
    let quads = |p: V, q: V| (_mm256_unpacklo_epi32(p, q), _mm256_unpackhi_epi32(p, q));
    let ((ac0, ac1), (bd0, bd1), (eg0, eg1), (fh0, fh1)) = (quads(a, c), quads(b, d), quads(e, g), quads(f, h));
    [
        _mm256_unpacklo_epi64(ac0, eg0),
        _mm256_unpackhi_epi64(ac0, eg0),
        _mm256_unpacklo_epi64(ac1, eg1),
        _mm256_unpackhi_epi64(ac1, eg1),
        _mm256_unpacklo_epi64(bd0, fh0),
        _mm256_unpackhi_epi64(bd0, fh0),
        _mm256_unpacklo_epi64(bd1, fh1),
        _mm256_unpackhi_epi64(bd1, fh1),
    ]
}

/// `idct::eight`. `few`: no coefficient outside the first four rows and columns differs from 0.
#[inline]
#[target_feature(enable = "avx2")]
#[must_use]
pub(super) fn eight(pair: &BlockPair, quant: &[i16; 128], planes: &mut [u8], targets: [Target; 2], few: bool) -> bool {
    let zero = _mm256_setzero_si256();
    let row = |at: usize| {
        let coefficients: V = bytemuck::must_cast(*pair[16 * at..].first_chunk::<16>().expect("8 rows of 16"));
        let steps: V = bytemuck::must_cast(*quant[16 * at..].first_chunk::<16>().expect("8 rows of 16"));
        _mm256_mullo_epi16(coefficients, steps)
    };
    let first = row(0);
    // `idct::is_wild`.
    let shifted_back = _mm256_srai_epi16::<2>(_mm256_slli_epi16::<2>(first));
    if _mm256_movemask_epi8(_mm256_cmpeq_epi16(shifted_back, first)) != -1 {
        return false;
    }
    let out = if few {
        let rows = pass::<11>([first, row(1), row(2), row(3), zero, zero, zero, zero]);
        let [a, b, c, d, ..] = transposed(rows);
        pass::<18>([a, b, c, d, zero, zero, zero, zero])
    } else {
        pass::<18>(transposed(pass::<11>([first, row(1), row(2), row(3), row(4), row(5), row(6), row(7)])))
    };
    let out = transposed(out);
    let [first, second] = targets;
    for at in [0, 2, 4, 6] {
        let samples = _mm256_add_epi8(_mm256_packs_epi16(out[at], out[at + 1]), _mm256_set1_epi8(-128));
        let [a, b, c, d]: [[u8; 8]; 4] = bytemuck::must_cast(samples);
        let mut put = |at: usize, eight: [u8; 8]| planes[at..at + 8].copy_from_slice(&eight);
        put(first.at + at * first.stride, a);
        put(first.at + (at + 1) * first.stride, b);
        put(second.at + at * second.stride, c);
        put(second.at + (at + 1) * second.stride, d);
    }
    true
}

/// `color::rgb`, 16 pixels at a time; gives how many pixels it has done.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn rgb(y: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) -> usize {
    let mut done = 0;
    let sources = y.chunks_exact(16).zip(cb.chunks_exact(16)).zip(cr.chunks_exact(16));
    let spread = |chunk: &[u8]| {
        let bytes: [u8; 16] = *chunk.first_chunk().expect("chunks of 16");
        _mm256_cvtepu8_epi16(bytemuck::must_cast(bytes))
    };
    // Of 8 r and 8 g, and of 8 b: the first 16 and the last 8 bytes of 8 pixels.
    let rg_head = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 8, -1, 1, 9, -1, 2, 10, -1, 3, 11, -1, 4, 12, -1, 5));
    let b_head = _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1));
    let rg_tail =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(13, -1, 6, 14, -1, 7, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    let b_tail =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, -1, -1, -1, -1, -1, -1));
    for (((y, cb), cr), into) in sources.zip(into.chunks_exact_mut(48)) {
        let centre = _mm256_set1_epi16(128);
        let one = _mm256_set1_epi16(1);
        let y = spread(y);
        let cb = _mm256_sub_epi16(spread(cb), centre);
        let cr = _mm256_sub_epi16(spread(cr), centre);
        let (cb_2, cr_2) = (_mm256_add_epi16(cb, cb), _mm256_add_epi16(cr, cr));
        // 1.402 = 1 + 0.402 and 1.772 = 2 - 0.228, of 2^16; the product of the double, halved with rounding.
        let halved = |x: V| _mm256_srai_epi16::<1>(_mm256_add_epi16(x, one));
        let red = _mm256_add_epi16(cr, halved(_mm256_mulhi_epi16(cr_2, _mm256_set1_epi16(26345))));
        let blue = _mm256_add_epi16(cb_2, halved(_mm256_mulhi_epi16(cb_2, _mm256_set1_epi16(-14942))));
        // -0.34414 cb - 0.71414 cr = -0.34414 cb + 0.28586 cr - cr.
        let factors = _mm256_set1_epi32(18734 << 16 | (-22554 & 0xFFFF));
        let half = _mm256_set1_epi32(1 << 15);
        let lower = _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpacklo_epi16(cb, cr), factors), half);
        let upper = _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpackhi_epi16(cb, cr), factors), half);
        let green = _mm256_packs_epi32(_mm256_srai_epi32::<16>(lower), _mm256_srai_epi32::<16>(upper));
        let green = _mm256_sub_epi16(green, cr);
        let rg = _mm256_packus_epi16(_mm256_add_epi16(y, red), _mm256_add_epi16(y, green));
        let b = _mm256_add_epi16(y, blue);
        let b = _mm256_packus_epi16(b, b);
        let head = _mm256_or_si256(_mm256_shuffle_epi8(rg, rg_head), _mm256_shuffle_epi8(b, b_head));
        let tail = _mm256_or_si256(_mm256_shuffle_epi8(rg, rg_tail), _mm256_shuffle_epi8(b, b_tail));
        let [head_0, head_1]: [[u8; 16]; 2] = bytemuck::must_cast(head);
        let [tail_0, _, tail_1, _]: [[u8; 8]; 4] = bytemuck::must_cast(tail);
        into[..16].copy_from_slice(&head_0);
        into[16..24].copy_from_slice(&tail_0);
        into[24..40].copy_from_slice(&head_1);
        into[40..48].copy_from_slice(&tail_1);
        done += 16;
    }
    done
}
