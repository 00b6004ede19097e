//! Rows of samples to rows of pixels: libjpeg's "fancy" and plain upsampling of colour, and YCbCr to RGB. Portable
//! code; reads no more than it is handed.

/// YCbCr to RGB as libjpeg does it: the factors of ITU-R BT.601 times 2^16, each product sum rounded once.
#[inline(always)]
pub(super) fn rgb(y: &[u8], cb: &[u8], cr: &[u8], into: &mut [u8]) {
    for (((&y, &cb), &cr), into) in y.iter().zip(cb).zip(cr).zip(into.chunks_exact_mut(3)) {
        let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
        let half = 1 << 15;
        into[0] = (y + ((91881 * cr + half) >> 16)).clamp(0, 255) as u8;
        into[1] = (y + ((-22554 * cb - 46802 * cr + half) >> 16)).clamp(0, 255) as u8;
        into[2] = (y + ((116_130 * cb + half) >> 16)).clamp(0, 255) as u8;
    }
}

/// Grey to RGB.
#[inline(always)]
pub(super) fn grey(y: &[u8], into: &mut [u8]) {
    for (&y, into) in y.iter().zip(into.as_chunks_mut::<3>().0) {
        *into = [y; 3];
    }
}

/// Each sample twice.
#[inline(always)]
pub(super) fn doubled(row: &[u8], into: &mut [u8]) {
    for (&sample, into) in row.iter().zip(into.as_chunks_mut::<2>().0) {
        *into = [sample; 2];
    }
}

/// Twice the columns: 3/4 the sample, 1/4 its nearer neighbour. `row` has one sample more on each side.
#[inline(always)]
pub(super) fn wider(row: &[u8], into: &mut [u8]) {
    for (three, into) in row.windows(3).zip(into.as_chunks_mut::<2>().0) {
        let (before, here, after) = (u16::from(three[0]), u16::from(three[1]), u16::from(three[2]));
        *into = [((3 * here + before + 1) >> 2) as u8, ((3 * here + after + 2) >> 2) as u8];
    }
}

/// Twice the columns of a row that is 3/4 `near` and 1/4 `far`. Both have one sample more on each side; `sums` has
/// room for as many.
#[inline(always)]
pub(super) fn wider_between(near: &[u8], far: &[u8], sums: &mut [u16], into: &mut [u8]) {
    for ((sum, &near), &far) in sums.iter_mut().zip(near).zip(far) {
        *sum = 3 * u16::from(near) + u16::from(far);
    }
    let sums = &sums[..near.len()];
    for (three, into) in sums.windows(3).zip(into.as_chunks_mut::<2>().0) {
        let (before, here, after) = (three[0], three[1], three[2]);
        *into = [((3 * here + before + 8) >> 4) as u8, ((3 * here + after + 7) >> 4) as u8];
    }
}
