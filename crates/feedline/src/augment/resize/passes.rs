//! One picture through both passes, rows first. Owns the working memory and the choice of code for this processor;
//! knows nothing of weights but where they begin.

#[cfg(target_arch = "x86_64")]
use super::avx2::{self, Horizontal as Vectors};
use super::portable;
use super::weights::{Axis, ONE, Weights};

#[cfg(not(target_arch = "x86_64"))]
type Vectors = ();

/// Bytes that the row pass may read beyond a row; their values do not matter.
pub(super) const SLACK_BYTES: usize = 10;

/// Room that the row pass needs to write a row: vector code writes 8 pixels a step, and 8 bytes beyond.
fn room_bytes(row_bytes: usize) -> usize {
    row_bytes.next_multiple_of(24) + 8
}

/// The input of a resize: `pixels` begins with the first pixel of the part, and its rows are `pitch_bytes` apart.
pub(super) struct PixelRows<'a> {
    pub pixels: &'a [u8],
    pub pitch_bytes: usize,
}

/// The implementation of the passes. All give the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Code {
    /// The implementations that this processor can run, the fastest first.
    pub(super) fn available() -> impl Iterator<Item = Code> {
        #[cfg(target_arch = "x86_64")]
        let vectors = is_x86_feature_detected!("avx2").then_some(Code::Avx2);
        #[cfg(not(target_arch = "x86_64"))]
        let vectors = None;
        vectors.into_iter().chain([Code::Portable])
    }
}

/// Weights and working memory, for reuse: a picture of the sizes of the one before allocates nothing and computes no
/// weight.
#[derive(Debug, Default)]
pub(super) struct Resizer {
    across: Weights,
    down: Weights,
    vectors: Vectors,
    /// The last rows of the first pass, each at its row number modulo the largest number of rows that an output row needs.
    ring: Vec<u8>,
    /// A row, followed by [`SLACK_BYTES`] readable bytes.
    padded: Vec<u8>,
    /// A row, followed by the room that vector code writes to.
    roomy: Vec<u8>,
}

impl Resizer {
    /// Resizes to `into`, which holds `across.out_px * down.out_px` pixels, with `code` if it can take these sizes.
    pub(super) fn run(&mut self, code: Code, source: &PixelRows, across: Axis, down: Axis, into: &mut [u8]) {
        self.across.update(across);
        self.down.update(down);
        let code = self.code_for(code, across);
        if down.goes_first(&across) {
            self.columns_first(code, source, across, into);
        } else {
            self.rows_first(code, source, across, into);
        }
    }

    fn rows_first(&mut self, code: Code, source: &PixelRows, across: Axis, into: &mut [u8]) {
        let (in_bytes, out_bytes) = (3 * across.held_px, 3 * across.out_px);
        let (pitch_bytes, count) = (room_bytes(out_bytes), self.down.taps.next_power_of_two());
        let mut ring = std::mem::take(&mut self.ring);
        ring.resize(pitch_bytes * count, 0);
        let place = |y: usize| pitch_bytes * (y % count);
        let mut done = 0;
        for ((start, weights), into) in self.down.iter().zip(into.chunks_exact_mut(out_bytes)) {
            // Includes rows of weight zero, since the next output row may need them.
            let end = start + weights.len();
            for y in done.max(start)..end {
                let row = &source.pixels[source.pitch_bytes * y..];
                let into = &mut ring[place(y)..][..pitch_bytes];
                if across.is_identity() {
                    into[..in_bytes].copy_from_slice(&row[..in_bytes]);
                } else {
                    horizontal(code, &self.across, &self.vectors, row, &mut self.padded, into);
                }
            }
            done = end;
            let (start, weights) = without_zeros(start, weights);
            vertical(code, |y| &ring[place(y)..][..out_bytes], start, weights, into);
        }
        self.ring = ring;
    }

    fn columns_first(&mut self, code: Code, source: &PixelRows, across: Axis, into: &mut [u8]) {
        let (in_bytes, out_bytes) = (3 * across.held_px, 3 * across.out_px);
        let row = |y: usize| &source.pixels[source.pitch_bytes * y..][..in_bytes];
        self.padded.resize(in_bytes + SLACK_BYTES, 0);
        self.roomy.resize(room_bytes(out_bytes), 0);
        for ((start, weights), into) in self.down.iter().zip(into.chunks_exact_mut(out_bytes)) {
            let (start, weights) = without_zeros(start, weights);
            vertical(code, row, start, weights, &mut self.padded[..in_bytes]);
            horizontal(code, &self.across, &self.vectors, &self.padded, &mut Vec::new(), &mut self.roomy);
            into.copy_from_slice(&self.roomy[..out_bytes]);
        }
    }

    /// `code`, or the portable one if there are too many rows or too few columns for it.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
    fn code_for(&mut self, code: Code, across: Axis) -> Code {
        match code {
            #[cfg(target_arch = "x86_64")]
            Code::Avx2
                if 3 * across.held_px.min(across.out_px) >= avx2::LEAST_BYTES
                    && self.down.taps <= avx2::MOST_ROWS
                    && self.vectors.update(&self.across) =>
            {
                Code::Avx2
            }
            _ => Code::Portable,
        }
    }
}

/// One row of the row pass. `row` begins with the row's first pixel; `copy` is for a row that ends too soon.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
fn horizontal(code: Code, weights: &Weights, vectors: &Vectors, row: &[u8], copy: &mut Vec<u8>, into: &mut [u8]) {
    let in_bytes = 3 * weights.held_px();
    match code {
        Code::Portable => portable::horizontal(&row[..in_bytes], weights, into),
        #[cfg(target_arch = "x86_64")]
        Code::Avx2 => {
            let row = with_slack(row, in_bytes, copy);
            #[expect(unsafe_code, reason = "a call of code for AVX2, which was detected")]
            // SAFETY: `Code::available` gives `Avx2` on processors that have it.
            unsafe {
                vectors.run(row, into);
            }
        }
    }
}

/// One row of the column pass, from rows as long as `into`.
fn vertical<'a>(code: Code, row: impl Fn(usize) -> &'a [u8], start: usize, weights: &[i32], into: &mut [u8]) {
    match code {
        _ if weights == [ONE] => into.copy_from_slice(row(start)),
        Code::Portable => portable::vertical(row, start, weights, into),
        #[cfg(target_arch = "x86_64")]
        Code::Avx2 => {
            let mut rows = [&[][..]; avx2::MOST_ROWS];
            let rows = &mut rows[..weights.len()];
            rows.iter_mut().enumerate().for_each(|(i, to)| *to = row(start + i));
            #[expect(unsafe_code, reason = "a call of code for AVX2, which was detected")]
            // SAFETY: `Code::available` gives `Avx2` on processors that have it.
            unsafe {
                avx2::vertical(rows, weights, into);
            }
        }
    }
}

/// Drops the rows of weight zero at both ends.
fn without_zeros(mut start: usize, mut weights: &[i32]) -> (usize, &[i32]) {
    while let [0, rest @ ..] = weights {
        (start, weights) = (start + 1, rest);
    }
    while let [rest @ .., 0] = weights {
        weights = rest;
    }
    (start, weights)
}

/// `row` if enough bytes follow its `length`, else a copy to which they do.
#[cfg(target_arch = "x86_64")]
fn with_slack<'a>(row: &'a [u8], length: usize, copy: &'a mut Vec<u8>) -> &'a [u8] {
    if row.len() >= length + SLACK_BYTES {
        return row;
    }
    copy.clear();
    copy.extend_from_slice(&row[..length]);
    copy.resize(length + SLACK_BYTES, 0);
    copy
}

#[cfg(test)]
mod tests {
    use super::super::Filter;
    use super::*;

    /// `(in, out)` of every kind: identity, enlarging, one more and one less pixel, reductions by odd and even numbers
    /// of taps, more rows than the vector code takes, rows shorter than a vector.
    const SIDES: [(u32, u32); 16] = [
        (1, 1),
        (1, 40),
        (2, 13),
        (10, 11),
        (11, 11),
        (30, 12),
        (40, 40),
        (33, 60),
        (50, 49),
        (64, 40),
        (75, 34),
        (90, 33),
        (100, 24),
        (131, 16),
        (300, 12),
        (400, 11),
    ];

    #[test]
    fn every_code_gives_the_same_bytes() {
        eprintln!("compared: {:?}", Code::available().collect::<Vec<_>>());
        // One resizer per implementation, used for all sizes, so that state kept from one size meets the next.
        let mut resizers: Vec<(Code, Resizer)> = Code::available().map(|code| (code, Resizer::default())).collect();
        let mut orders = [0, 0];
        for (width, out_width) in SIDES {
            for (height, out_height) in SIDES {
                for filter in [Filter::Bilinear, Filter::Bicubic] {
                    // Extremes side by side, so that bicubic overshoots, and no byte beyond the last pixel.
                    let pixels: Vec<u8> = (0..3 * (width * height) as usize)
                        .map(|i| [0, 255, (i * 37) as u8, (i * i / 5) as u8][i * 2654435761 % 65537 % 4])
                        .collect();
                    let source = PixelRows { pixels: &pixels, pitch_bytes: 3 * width as usize };
                    for cut in [0.0, 0.3] {
                        let side = |px, out| Axis::part(px, cut, f64::from(px) - 1.7 * cut, out, filter);
                        let (across, down) = (side(width, out_width), side(height, out_height));
                        orders[usize::from(down.goes_first(&across))] += 1;
                        let mut results = resizers.iter_mut().map(|(code, resizer)| {
                            let mut into = vec![1; 3 * (out_width * out_height) as usize];
                            resizer.run(*code, &source, across, down, &mut into);
                            (*code, into)
                        });
                        let (_, first) = results.next().unwrap();
                        assert!(
                            results.all(|(_, other)| other == first),
                            "{width} x {height} to {out_width} x {out_height}, {filter:?}, cut {cut}"
                        );
                    }
                }
            }
        }
        assert!(orders.iter().all(|&n| n > 100), "{orders:?}");
    }

    #[test]
    fn a_part_is_what_is_cut_from_the_whole() {
        for (in_px, out_px) in [(13, 45), (13, 39), (40, 40), (90, 61), (61, 20)] {
            let pixels: Vec<u8> = (0..3 * in_px * in_px).map(|i| (i * i / 3 + i * 7) as u8).collect();
            let source = PixelRows { pixels: &pixels, pitch_bytes: 3 * in_px as usize };
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                for code in Code::available() {
                    let run = |axis: Axis| {
                        let mut into = vec![0; 3 * axis.out_px * axis.out_px];
                        Resizer::default().run(code, &source, axis, axis, &mut into);
                        into
                    };
                    let whole = run(Axis::whole(in_px, out_px, filter));
                    for skip in 0..out_px - 2 {
                        let per = f64::from(in_px) / f64::from(out_px);
                        let part = run(Axis::part(in_px, f64::from(skip) * per, 2.0 * per, 2, filter));
                        for (y, row) in part.chunks_exact(6).enumerate() {
                            let at = 3 * ((skip as usize + y) * out_px as usize + skip as usize);
                            assert_eq!(row, &whole[at..][..6], "{in_px} to {out_px}, {filter:?}, {code:?}: {skip}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn pixels_outside_of_the_part_count_for_nothing() {
        for code in Code::available() {
            let cut: Vec<u8> = (0..3 * 20 * 15).map(|i| (i * 7) as u8).collect();
            for outside in [0, 255] {
                let mut around = vec![outside; 3 * 50 * 15];
                for (row, cut) in around.chunks_exact_mut(150).zip(cut.chunks_exact(60)) {
                    row[60..120].copy_from_slice(cut);
                }
                for out in [12, 20, 31] {
                    let (across, down) = (Axis::whole(20, out, Filter::Bicubic), Axis::whole(15, 13, Filter::Bicubic));
                    let run = |pixels, pitch_bytes| {
                        let mut into = vec![0; 3 * 13 * out as usize];
                        Resizer::default().run(code, &PixelRows { pixels, pitch_bytes }, across, down, &mut into);
                        into
                    };
                    assert!(run(&around[60..], 150) == run(&cut, 60), "{code:?} {out}");
                }
            }
        }
    }
}
