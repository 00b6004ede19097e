//! From the scan to pixels, one row of MCUs at a time: blocks are decoded or skipped, transformed into strips of
//! samples that stay in the cache, and the strips become rows of RGB. Owns the geometry of parts, scales and
//! neighbouring rows; computes every limit once per picture.

use super::color;
use super::entropy::{Bits, Block, BlockPair, natural};
use super::header::{Frame, Sampling};
use super::huffman::{AcTable, DcTable, LOOK_BITS, ac_table, dc_table};
use super::idct::{self, Target};
use super::simd::Simd;
use crate::decode::image::{CropBox, RgbImage};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// Spare samples on each side of a strip, for the neighbours beyond the edge.
const MARGIN: usize = 32;

/// The upsampling of chroma to the size of luma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upsampling {
    /// Chroma already has that size, or there is none.
    None,
    /// Columns doubled: smoothly or plainly.
    Wider { smooth: bool },
    /// Columns and rows doubled: smoothly or plainly.
    Larger { smooth: bool },
}

/// One component's part in the picture.
#[derive(Debug, Clone)]
struct Plane {
    /// Blocks per MCU: columns, rows.
    blocks: (usize, usize),
    /// Side of a block in samples at this scale.
    size: usize,
    /// Samples that belong to the picture: columns, rows.
    extent: (usize, usize),
    /// Columns and rows of samples that the part needs.
    columns: Range<usize>,
    rows: Range<usize>,
    /// Columns and rows of blocks that the part needs.
    block_columns: Range<usize>,
    block_rows: Range<usize>,
    /// Index of the strip's first row in the memory of all strips. That row holds samples of the MCUs above.
    first: usize,
    dc: Rc<DcTable>,
    ac: Rc<AcTable>,
}

impl Plane {
    /// Rows of samples in a row of MCUs.
    fn high(&self) -> usize {
        self.blocks.1 * self.size
    }

    /// Index of the sample at `column` (at least the first needed one minus 1) of row `row`; row 0 is the one above the strip.
    fn at(&self, stride: usize, row: usize, column: usize) -> usize {
        self.first + row * stride + MARGIN + column - self.block_columns.start * self.size
    }
}

/// Working memory of a thread, kept between pictures.
#[derive(Default)]
pub(super) struct JpegScratch {
    strips: Vec<u8>,
    cb: Vec<u8>,
    cr: Vec<u8>,
    sums: Vec<u16>,
}

thread_local! {
    static SCRATCH: RefCell<JpegScratch> = RefCell::new(JpegScratch::default());
}

/// The plan of one decoding: a picture, a part and a scale, with everything derived from them.
struct Job<'a> {
    frame: &'a Frame<'a>,
    planes: Vec<Plane>,
    upsampling: Upsampling,
    /// MCUs of the picture: columns, rows.
    mcus: (usize, usize),
    /// Last row of MCUs to decode.
    last_mcu_row: usize,
    /// True if the part reaches the last row, so that the end of the scan is checked.
    to_the_end: bool,
    /// Distance between rows of the strips, in samples.
    stride: usize,
    /// Steps for each pair of components, laid out as [`BlockPair`].
    quants: [[[i16; 128]; 3]; 3],
    /// log2 of the reduction.
    scale: usize,
}

/// Calls `work` with this thread's working memory.
pub(super) fn with_scratch<T>(work: impl FnOnce(&mut JpegScratch) -> T) -> T {
    SCRATCH.with_borrow_mut(work)
}

/// Decodes `part`, given in pixels of the picture at 1 / 2^`scale`, into `into`, which has its size. `None`: the file is
/// damaged or unusual, and the content of `into` is unspecified.
#[inline(always)]
pub(super) fn decode<S: Simd>(
    simd: S,
    frame: &Frame<'_>,
    part: CropBox,
    scale: usize,
    scratch: &mut JpegScratch,
    into: &mut RgbImage,
) -> Option<()> {
    // There must be no closure between here and the loops: it would be compiled without the processor's features.
    Job::new(frame, part, scale)?.run(simd, scratch, into)
}

impl<'a> Job<'a> {
    fn new(frame: &'a Frame<'a>, part: CropBox, scale: usize) -> Option<Job<'a>> {
        let (wide, high) = frame.sampling.luma_blocks();
        let colour = frame.sampling != Sampling::Grey;
        let mcus = (frame.width_px.div_ceil(8 * wide), frame.height_px.div_ceil(8 * high));
        let luma_size = 8 >> scale;
        // libjpeg uses a larger transform for chroma where that makes upsampling unnecessary.
        let (chroma_size, halved) = match frame.sampling {
            Sampling::Half if scale > 0 => (2 * luma_size, (false, false)),
            Sampling::Half => (8, (true, true)),
            Sampling::HalfWidth => (luma_size, (true, false)),
            Sampling::Full | Sampling::Grey => (luma_size, (false, false)),
        };
        let luma_extent = (frame.width_px.div_ceil(1 << scale), frame.height_px.div_ceil(1 << scale));
        let chroma_extent =
            ((frame.width_px * chroma_size).div_ceil(8 * wide), (frame.height_px * chroma_size).div_ceil(8 * high));
        let smooth = chroma_extent.0 > 2 && luma_size > 1;
        let upsampling = match halved {
            (true, true) => Upsampling::Larger { smooth },
            (true, false) => Upsampling::Wider { smooth },
            _ => Upsampling::None,
        };
        let (left, top) = (part.left_px as usize, part.top_px as usize);
        let (right, bottom) = (left + part.width_px as usize, top + part.height_px as usize);
        if left >= right || top >= bottom || right > luma_extent.0 || bottom > luma_extent.1 {
            return None;
        }

        let mut planes = Vec::with_capacity(3);
        let mut first = 0;
        let count = if colour { 3 } else { 1 };
        for (at, component) in frame.components[..count].iter().enumerate() {
            let (blocks, size, extent) =
                if at == 0 { ((wide, high), luma_size, luma_extent) } else { ((1, 1), chroma_size, chroma_extent) };
            let wanted = |from: usize, to: usize, halved: bool, extent: usize| {
                // Two pixels share a chroma sample, and read its neighbours.
                let (from, to) =
                    if at > 0 && halved { ((from / 2).saturating_sub(1), to.div_ceil(2) + 1) } else { (from, to) };
                from..to.min(extent)
            };
            let columns = wanted(left, right, halved.0, extent.0);
            let rows = wanted(top, bottom, halved.1, extent.1);
            planes.push(Plane {
                blocks,
                size,
                extent,
                block_columns: columns.start / size..columns.end.div_ceil(size),
                block_rows: rows.start / size..rows.end.div_ceil(size),
                columns,
                rows,
                first,
                dc: dc_table(component.dc)?,
                ac: ac_table(component.ac)?,
            });
            first += planes[at].high() + 1;
        }
        let widest = planes.iter().map(|plane| plane.block_columns.len() * plane.size).max()?;
        let stride = (widest + 2 * MARGIN).next_multiple_of(32);
        for plane in &mut planes {
            plane.first *= stride;
        }
        let last_mcu_row = planes.iter().map(|plane| plane.rows.end.div_ceil(plane.high())).max()?;
        let mut quants = [[[0_i16; 128]; 3]; 3];
        for (a, with_a) in quants.iter_mut().enumerate() {
            for (b, both) in with_a.iter_mut().enumerate() {
                for zigzag in 0..64 {
                    let (row, column) = (natural(zigzag) / 8, natural(zigzag) % 8);
                    both[row * 16 + column] = frame.components[a].quant[zigzag].into();
                    both[row * 16 + 8 + column] = frame.components[b].quant[zigzag].into();
                }
            }
        }
        Some(Job {
            frame,
            planes,
            upsampling,
            mcus,
            last_mcu_row,
            to_the_end: bottom == luma_extent.1,
            stride,
            quants,
            scale,
        })
    }

    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, scratch: &mut JpegScratch, into: &mut RgbImage) -> Option<()> {
        let rows: usize = self.planes.iter().map(|plane| plane.high() + 1).sum();
        // After the strips there is room for a discarded block.
        scratch.strips.resize((rows + 8) * self.stride, 0);
        let wide = into.width_px as usize + 2 * MARGIN;
        scratch.cb.resize(wide, 0);
        scratch.cr.resize(wide, 0);
        scratch.sums.resize(wide, 0);

        let skips: [&[u16; 1 << LOOK_BITS]; 3] =
            std::array::from_fn(|at| self.planes[at.min(self.planes.len() - 1)].ac.skips());
        let mut bits = Bits::new(self.frame.scan);
        let mut last_dc = [0_i32; 3];
        let mut until_restart = self.frame.restart_interval;
        let mut restarts = 0;
        let mut next_row = self.planes[0].rows.start;
        for mcu_row in 0..self.last_mcu_row {
            let mut pending = Pending::new(self, rows * self.stride);
            for mcu_column in 0..self.mcus.0 {
                if self.frame.restart_interval > 0 {
                    if until_restart == 0 {
                        bits.restart(restarts)?;
                        restarts += 1;
                        last_dc = [0; 3];
                        until_restart = self.frame.restart_interval;
                    }
                    until_restart -= 1;
                }
                for (at, plane) in self.planes.iter().enumerate() {
                    for down in 0..plane.blocks.1 {
                        let block_row = mcu_row * plane.blocks.1 + down;
                        for across in 0..plane.blocks.0 {
                            let block_column = mcu_column * plane.blocks.0 + across;
                            let wanted =
                                plane.block_rows.contains(&block_row) && plane.block_columns.contains(&block_column);
                            if !wanted {
                                let block = bits.skip_block(&plane.dc, &plane.ac, skips[at], &mut last_dc[at]);
                                if block.is_damaged() {
                                    return None;
                                }
                                continue;
                            }
                            let (pair, lane) = pending.room();
                            let block = if self.scale > 0 && plane.size == 1 {
                                let block = bits.skip_block(&plane.dc, &plane.ac, skips[at], &mut last_dc[at]);
                                pair[usize::from(lane)] = last_dc[at] as i16;
                                block
                            } else {
                                bits.block(&plane.dc, &plane.ac, &mut last_dc[at], pair, lane)
                            };
                            if block.is_damaged() {
                                return None;
                            }
                            let target = plane.at(self.stride, 1 + down * plane.size, block_column * plane.size);
                            pending.push(simd, &mut scratch.strips, at, block, target);
                        }
                    }
                }
            }
            pending.finish(simd, &mut scratch.strips);
            if bits.overdrawn() || pending.wild {
                return None;
            }
            self.emit(simd, scratch, mcu_row, &mut next_row, into);
        }
        if self.to_the_end && self.last_mcu_row == self.mcus.1 && !bits.at_end_of_scan() {
            return None;
        }
        Some(())
    }

    /// Converts to pixels the rows that are complete after the MCUs of `mcu_row`.
    #[inline(always)]
    fn emit<S: Simd>(
        &self,
        simd: S,
        scratch: &mut JpegScratch,
        mcu_row: usize,
        next_row: &mut usize,
        into: &mut RgbImage,
    ) {
        let JpegScratch { strips, cb, cr, sums } = scratch;
        let luma = &self.planes[0];
        let chroma = self.planes.get(1..).unwrap_or_default();
        // The edge samples are repeated beyond the left and right edges of the picture.
        if self.upsampling != Upsampling::None {
            for plane in chroma {
                for row in 1..=plane.high() {
                    if plane.columns.start == 0 {
                        let at = plane.at(self.stride, row, 0);
                        strips[at - 1] = strips[at];
                    }
                    if plane.columns.end == plane.extent.0 {
                        let at = plane.at(self.stride, row, plane.extent.0);
                        strips[at] = strips[at - 1];
                    }
                }
            }
        }
        let (left, width) = (luma.columns.start, luma.columns.len());
        let row_end = luma.rows.end.min((mcu_row + 1) * luma.high());
        while *next_row < row_end {
            let row = *next_row;
            // Rows count from the last one of the MCUs above.
            let luma_at = luma.at(self.stride, row + 1 - mcu_row * luma.high(), left);
            let y = &strips[luma_at..luma_at + width];
            let out = 3 * width * (row - luma.rows.start);
            let Some([plane_cb, plane_cr]) = chroma.first_chunk::<2>() else {
                color::grey(y, &mut into.pixels[out..out + 3 * width]);
                *next_row += 1;
                continue;
            };
            let columns = left / 2..(left + width).div_ceil(2);
            let half = columns.len();
            let mut skipped = left % 2;
            let sides = [(plane_cb, &mut *cb), (plane_cr, &mut *cr)];
            match self.upsampling {
                Upsampling::None => {
                    for (plane, to) in sides {
                        let at = plane.at(self.stride, row + 1 - mcu_row * plane.high(), left);
                        to[..width].copy_from_slice(&strips[at..at + width]);
                    }
                    skipped = 0;
                }
                Upsampling::Wider { smooth } => {
                    for (plane, to) in sides {
                        let at = plane.at(self.stride, row + 1 - mcu_row * plane.high(), columns.start);
                        if smooth {
                            color::wider(&strips[at - 1..at + half + 1], &mut to[..2 * half]);
                        } else {
                            color::doubled(&strips[at..at + half], &mut to[..2 * half]);
                        }
                    }
                }
                Upsampling::Larger { smooth } => {
                    let last = plane_cb.extent.1 - 1;
                    let near = row / 2;
                    let far = if row.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(last) };
                    if smooth && far.max(near) >= (mcu_row + 1) * plane_cb.high() {
                        // The missing row belongs to the next MCUs.
                        break;
                    }
                    for (plane, to) in sides {
                        let at = |row: usize| plane.at(self.stride, row + 1 - mcu_row * plane.high(), columns.start);
                        let near = at(near);
                        if smooth {
                            let far = at(far);
                            let (near, far) = (&strips[near - 1..near + half + 1], &strips[far - 1..far + half + 1]);
                            color::wider_between(near, far, sums, &mut to[..2 * half]);
                        } else {
                            color::doubled(&strips[near..near + half], &mut to[..2 * half]);
                        }
                    }
                }
            }
            simd.rgb(
                y,
                &cb[skipped..skipped + width],
                &cr[skipped..skipped + width],
                &mut into.pixels[out..out + 3 * width],
            );
            *next_row += 1;
        }
        // The last rows are the neighbours of the next MCUs.
        for plane in &self.planes {
            let from = plane.first + plane.high() * self.stride;
            strips.copy_within(from..from + self.stride, plane.first);
        }
    }
}

/// Up to two decoded blocks that wait for the transform.
struct Pending<'a> {
    job: &'a Job<'a>,
    pair: BlockPair,
    count: usize,
    which: [usize; 2],
    last: u32,
    /// True if a block must be left to the general decoder: see [`idct::eight`].
    wild: bool,
    targets: [Target; 2],
    /// Destination of a discarded block.
    nowhere: Target,
}

impl<'a> Pending<'a> {
    #[inline(always)]
    fn new(job: &'a Job<'a>, nowhere: usize) -> Pending<'a> {
        let nowhere = Target { at: nowhere, stride: job.stride };
        Pending { job, pair: [0; 256], count: 0, which: [0; 2], last: 0, wild: false, targets: [nowhere; 2], nowhere }
    }

    /// The place for the next block's coefficients, all 0, and its lane.
    #[inline(always)]
    fn room(&mut self) -> (&mut BlockPair, u8) {
        (&mut self.pair, 8 * (self.count & 1) as u8)
    }

    #[inline(always)]
    fn push<S: Simd>(&mut self, simd: S, strips: &mut [u8], component: usize, block: Block, at: usize) {
        let place = self.count & 1;
        self.which[place] = component;
        self.targets[place] = Target { at, stride: self.job.stride };
        self.last = self.last.max(block.last);
        self.count += 1;
        if self.count == 2 {
            self.transform(simd, strips);
        }
    }

    #[inline(always)]
    fn finish<S: Simd>(&mut self, simd: S, strips: &mut [u8]) {
        if self.count == 1 {
            self.targets[1] = self.nowhere;
            self.transform(simd, strips);
        }
    }

    #[inline(always)]
    fn transform<S: Simd>(&mut self, simd: S, strips: &mut [u8]) {
        let [a, b] = self.which;
        let quant = &self.job.quants[a][b];
        let size = |component: usize| self.job.planes[component].size;
        let sound = if size(a) == size(b) {
            self.transform_to(simd, strips, quant, size(a), self.targets)
        } else {
            let [first, second] = self.targets;
            self.transform_to(simd, strips, quant, size(a), [first, self.nowhere])
                & self.transform_to(simd, strips, quant, size(b), [self.nowhere, second])
        };
        self.wild |= !sound;
        self.pair[..128].fill(0);
        self.count = 0;
        self.last = 0;
    }

    #[inline(always)]
    fn transform_to<S: Simd>(
        &self,
        simd: S,
        strips: &mut [u8],
        quant: &[i16; 128],
        size: usize,
        targets: [Target; 2],
    ) -> bool {
        match size {
            8 if self.last == 0 => idct::eight_flat(&self.pair, quant, strips, targets),
            // The first coefficient outside the first four rows and columns has zigzag index 10.
            8 => simd.eight(&self.pair, quant, strips, targets, self.last < 10),
            4 => idct::four(&self.pair, quant, strips, targets),
            2 => idct::two(&self.pair, quant, strips, targets),
            _ => {
                idct::one(&self.pair, quant, strips, targets);
                true
            }
        }
    }
}
