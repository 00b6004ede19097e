//! For each output pixel of one axis, the first input pixel it reads and its fixed-point weights. Knows nothing of
//! pictures.

/// The interpolation of a resize. Both widen their support when they reduce, as Pillow's do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Triangle.
    #[default]
    Bilinear,
    /// Catmull-Rom (a = -0.5).
    Bicubic,
}

impl Filter {
    /// Half the width of the filter in pixels of the result, or of the source when it is enlarged.
    pub(in crate::augment) fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }
}

/// Bits after the point of a weight: 32 less 8 for a byte and 2 for sums that overshoot.
pub(super) const FRACTION_BITS: u32 = 32 - 8 - 2;

/// The weight of a pixel that is copied unchanged: 1.0 in fixed point.
pub(super) const ONE: i32 = 1 << FRACTION_BITS;

/// One axis of a resize: all `in_px` pixels are scaled, and `out_px` adjacent pixels of the result are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    pub in_px: usize,
    pub out_px: usize,
    /// Pixels of the input to one of the output.
    pub scale: f64,
    /// Output pixels left out before the first.
    pub skip_px: f64,
    pub filter: Filter,
    /// First input pixel in memory.
    pub held_from_px: usize,
    /// Number of input pixels in memory. The others are never read.
    pub held_px: usize,
}

impl Axis {
    /// The part of `in_px` pixels that begins at `from_px` and is `length_px` long, clamped to the input, to `out_px`;
    /// pixels around the part are read.
    pub(super) fn part(in_px: u32, from_px: f64, length_px: f64, out_px: u32, filter: Filter) -> Axis {
        let whole_px = f64::from(in_px);
        let from_px = from_px.max(0.0);
        let scale = length_px.min(whole_px - from_px) / f64::from(out_px);
        // A part that was computed from whole numbers of output pixels gets those numbers back exactly; the error of its
        // fractions could change a rounding.
        let near = |v: f64| if (v - v.round()).abs() < 1e-6 { v.round() } else { v };
        let scale = whole_px / near(whole_px / scale);
        let (in_px, out_px) = (in_px as usize, out_px as usize);
        Axis { in_px, out_px, scale, skip_px: near(from_px / scale), filter, held_from_px: 0, held_px: in_px }
    }

    /// All of `in_px` pixels to `out_px`.
    #[cfg(test)]
    pub(super) fn whole(in_px: u32, out_px: u32, filter: Filter) -> Axis {
        Axis::part(in_px, 0.0, in_px.into(), out_px, filter)
    }

    /// The same axis with only `held_px` input pixels in memory, from `from_px` on.
    pub(super) fn holding(self, from_px: u32, held_px: u32) -> Axis {
        let held_from_px = from_px as usize;
        Axis { held_from_px, held_px: (held_px as usize).min(self.in_px.saturating_sub(held_from_px)), ..self }
    }

    /// True if every output pixel is the input pixel of the same number.
    pub(super) fn is_identity(&self) -> bool {
        self.held_px == self.out_px && self.in_px == self.out_px && self.scale == 1.0 && self.skip_px == 0.0
    }

    /// True if the height (`self`) is resized before the width (`across`). Since version 13 Pillow does so if the height
    /// loses more than twice as many pixels as the width. The order matters, because the first pass rounds to bytes.
    pub(super) fn goes_first(&self, across: &Axis) -> bool {
        self.loss_px() > 2.0 * across.loss_px().max(0.0)
    }

    /// Number of pixels by which resizing the whole input at this scale would shorten it.
    fn loss_px(&self) -> f64 {
        self.in_px as f64 - (self.in_px as f64 / self.scale).round()
    }
}

/// The weights of an axis, in units of 2^-[`FRACTION_BITS`].
///
/// Pillow's, from its `Resample.c`: a filter widened by the reduction, evaluated at the centres of the input pixels
/// within its support, cut off at the borders, normalised in f64 and rounded half away from zero.
#[derive(Debug, Default)]
pub(super) struct Weights {
    axis: Option<Axis>,
    /// The first input pixel of every output pixel, counted from the first in memory; `taps` pixels from there are in memory.
    pub starts: Vec<usize>,
    /// Weights per output pixel: the most that any pixel needs, rounded up to even unless the input has no more pixels.
    pub taps: usize,
    /// `taps` weights for every output pixel, padded with zeros at the start or the end.
    pub fixed: Vec<i32>,
    /// The weights of one output pixel before rounding.
    scratch: Vec<f64>,
}

impl Weights {
    /// Computes the weights of `axis`, unless these are its weights already.
    pub(super) fn update(&mut self, axis: Axis) {
        if self.axis == Some(axis) {
            return;
        }
        self.axis = Some(axis);
        match axis.filter {
            Filter::Bilinear => self.fill(axis, 1.0, |x| (1.0 - x.abs()).max(0.0)),
            Filter::Bicubic => self.fill(axis, 2.0, catmull_rom),
        }
    }

    fn fill(&mut self, axis: Axis, support: f64, filter: impl Fn(f64) -> f64) {
        let widen = axis.scale.max(1.0);
        let (support, per_widen) = (support * widen, 1.0 / widen);
        // An interval of length 2 * support, truncated to whole numbers at both ends, holds at most this many.
        let most = ((2.0 * support).ceil() as usize).min(axis.in_px);
        self.taps = if axis.in_px == most { most } else { most.next_multiple_of(2) };
        let held_end = axis.held_from_px + axis.held_px;
        assert!(self.taps <= axis.held_px, "{axis:?} needs {} pixels at once", self.taps);
        self.starts.clear();
        self.fixed.clear();
        self.fixed.resize(self.taps * axis.out_px, 0);
        self.scratch.resize(most + 1, 0.0);
        for (out, fixed) in self.fixed.chunks_exact_mut(self.taps).enumerate() {
            let centre = (axis.skip_px + out as f64 + 0.5) * axis.scale;
            // Conversions cut towards zero, and at zero.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(axis.in_px);
            let first = first.min(end.saturating_sub(1));
            let weights = &mut self.scratch[..end - first];
            let mut sum = 0.0;
            for (i, weight) in weights.iter_mut().enumerate() {
                *weight = filter(((i + first) as f64 - centre + 0.5) * per_widen);
                sum += *weight;
            }
            let round = |weight: f64| {
                let weight = if sum == 0.0 { weight } else { weight / sum } * f64::from(ONE);
                (weight + 0.5_f64.copysign(weight)) as i32
            };
            // One weight too many can only occur if f64 rounding moved an interval end past a whole number. The filter
            // ends there, so that weight is zero.
            let (first, weights) = match weights {
                [outer, rest @ ..] if rest.len() == self.taps && round(*outer) == 0 => (first + 1, rest),
                all => (first, all),
            };
            let start = first.min(held_end - self.taps).max(axis.held_from_px);
            self.starts.push(start - axis.held_from_px);
            for (fixed, weight) in fixed[first - start..].iter_mut().zip(weights) {
                *fixed = round(*weight);
            }
        }
    }

    /// The axis that these weights belong to; `None` before the first update.
    pub(super) fn axis(&self) -> Option<Axis> {
        self.axis
    }

    /// Number of input pixels in memory.
    pub(super) fn held_px(&self) -> usize {
        self.axis.map_or(0, |axis| axis.held_px)
    }

    /// Starts and weights of every output pixel.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.starts.iter().copied().zip(self.fixed.chunks_exact(self.taps))
    }
}

/// Keys' cubic with a = -0.5, in the order of operations that Pillow has.
fn catmull_rom(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_lie_in_the_input_and_sum_to_one() {
        let mut weights = Weights::default();
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            for in_px in [1, 2, 3, 7, 50, 223, 224, 225, 448, 1000] {
                for out_px in [1, 2, 5, 112, 224] {
                    weights.update(Axis::whole(in_px, out_px, filter));
                    assert_eq!(weights.iter().count(), out_px as usize);
                    for (start, fixed) in weights.iter() {
                        assert!(start + weights.taps <= in_px as usize);
                        // Each is rounded on its own.
                        let sum: i32 = fixed.iter().sum();
                        assert!((sum - ONE).unsigned_abs() as usize <= weights.taps, "{in_px} {out_px}: {sum}");
                    }
                }
            }
        }
    }

    #[test]
    fn halving_has_the_weights_of_a_triangle() {
        let mut weights = Weights::default();
        weights.update(Axis::whole(8, 4, Filter::Bilinear));
        assert_eq!(weights.starts, [0, 1, 3, 4]);
        let eighths = |weights: [i32; 4]| weights.map(|w| w * ONE / 8);
        assert_eq!(weights.fixed[4..8], eighths([1, 3, 3, 1]));
        // At the border, weights outside the input are dropped, and the rest sum to one.
        assert_eq!(weights.fixed[..4], [1_797_559, 1_797_559, 599_186, 0]);
    }
}
