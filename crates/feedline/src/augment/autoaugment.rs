//! The 25 sub-policies that AutoAugment found on ImageNet (Cubuk et al., CVPR 2019, appendix), with the magnitudes of
//! the widely used PIL implementation: one sub-policy is chosen uniformly, each of its two operations happens with its
//! own probability.

use super::{affine, color};
use crate::decode::RgbImage;
use crate::plan::rng::SampleRng;

/// The operations the policies use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Bicubic shear along x by a factor of up to 0.3 either way.
    ShearX,
    /// Rotation about the centre by up to 30 degrees either way.
    Rotate,
    /// Keeps 8 down to 4 bits.
    Posterize,
    /// Inverts bytes from a threshold of 256 down to 0 on.
    Solarize,
    /// Stretches each channel to the full range.
    Autocontrast,
    /// Spreads each channel's values evenly.
    Equalize,
    /// Inverts every byte.
    Invert,
    /// Saturation by a factor of 1 plus or minus up to 0.9.
    Color,
    /// Contrast by a factor of 1 plus or minus up to 0.9.
    Contrast,
    /// Sharpness by a factor of 1 plus or minus up to 0.9.
    Sharpness,
}

/// One operation of a sub-policy with its probability and its magnitude level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The operation.
    pub operation: Operation,
    /// Probability that it is applied, 0 to 1.
    pub probability: f64,
    /// Magnitude level, 0 to 9.
    pub level: u8,
}

const fn step(operation: Operation, probability: f64, level: u8) -> Step {
    Step { operation, probability, level }
}

/// The sub-policies in their published order.
pub const IMAGENET_POLICIES: [[Step; 2]; 25] = {
    use Operation::*;
    [
        [step(Posterize, 0.4, 8), step(Rotate, 0.6, 9)],
        [step(Solarize, 0.6, 5), step(Autocontrast, 0.6, 5)],
        [step(Equalize, 0.8, 8), step(Equalize, 0.6, 3)],
        [step(Posterize, 0.6, 7), step(Posterize, 0.6, 6)],
        [step(Equalize, 0.4, 7), step(Solarize, 0.2, 4)],
        [step(Equalize, 0.4, 4), step(Rotate, 0.8, 8)],
        [step(Solarize, 0.6, 3), step(Equalize, 0.6, 7)],
        [step(Posterize, 0.8, 5), step(Equalize, 1.0, 2)],
        [step(Rotate, 0.2, 3), step(Solarize, 0.6, 8)],
        [step(Equalize, 0.6, 8), step(Posterize, 0.4, 6)],
        [step(Rotate, 0.8, 8), step(Color, 0.4, 0)],
        [step(Rotate, 0.4, 9), step(Equalize, 0.6, 2)],
        [step(Equalize, 0.0, 7), step(Equalize, 0.8, 8)],
        [step(Invert, 0.6, 4), step(Equalize, 1.0, 8)],
        [step(Color, 0.6, 4), step(Contrast, 1.0, 8)],
        [step(Rotate, 0.8, 8), step(Color, 1.0, 2)],
        [step(Color, 0.8, 8), step(Solarize, 0.8, 7)],
        [step(Sharpness, 0.4, 7), step(Invert, 0.6, 8)],
        [step(ShearX, 0.6, 5), step(Equalize, 1.0, 9)],
        [step(Color, 0.4, 0), step(Equalize, 0.6, 3)],
        [step(Equalize, 0.4, 7), step(Solarize, 0.2, 4)],
        [step(Solarize, 0.6, 5), step(Autocontrast, 0.6, 5)],
        [step(Invert, 0.6, 4), step(Equalize, 1.0, 8)],
        [step(Color, 0.6, 4), step(Contrast, 1.0, 8)],
        [step(Equalize, 0.8, 8), step(Equalize, 0.6, 3)],
    ]
};

/// An operation with everything drawn: `magnitude` is signed and in the operation's own unit (shear factor, degrees,
/// bits, threshold, enhancement factor minus 1); 0 where the operation has none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The operation.
    pub operation: Operation,
    /// Signed strength in the operation's own unit; 0 if the operation has none.
    pub magnitude: f64,
}

/// Draws a sub-policy and which of its operations are applied. Returns the number of the sub-policy and its operations,
/// in order; `None` for an operation that is not applied.
pub fn draw(rng: &mut SampleRng) -> (usize, [Option<Drawn>; 2]) {
    let policy = rng.below(IMAGENET_POLICIES.len() as u64) as usize;
    let drawn = IMAGENET_POLICIES[policy].map(|Step { operation, probability, level }| {
        rng.chance(probability).then(|| Drawn { operation, magnitude: magnitude(operation, level, rng) })
    });
    (policy, drawn)
}

/// The magnitude at `level`: ten points, evenly spaced over the operation's range; a random sign where it has one.
fn magnitude(operation: Operation, level: u8, rng: &mut SampleRng) -> f64 {
    let at = |end: f64| end * f64::from(level) / 9.0;
    let signed = |value: f64, rng: &mut SampleRng| if rng.chance(0.5) { value } else { -value };
    match operation {
        Operation::ShearX => signed(at(0.3), rng),
        Operation::Rotate => signed(at(30.0), rng),
        Operation::Color | Operation::Contrast | Operation::Sharpness => signed(at(0.9), rng),
        Operation::Posterize => (8.0 - at(4.0)).round_ties_even(),
        Operation::Solarize => 256.0 - at(256.0),
        Operation::Autocontrast | Operation::Equalize | Operation::Invert => 0.0,
    }
}

/// Applies one drawn operation.
pub fn apply(drawn: Drawn, image: &mut RgbImage, scratch: &mut RgbImage) {
    let m = drawn.magnitude;
    match drawn.operation {
        Operation::ShearX => affine::bicubic(image, [1.0, m, 0.0, 0.0, 1.0, 0.0], scratch),
        Operation::Rotate if m == 0.0 => {}
        Operation::Rotate => {
            let map = affine::rotation(image.width_px, image.height_px, m);
            affine::nearest(image, map, scratch);
        }
        Operation::Posterize => color::posterize(image, m as u32),
        Operation::Solarize => color::solarize(image, m),
        Operation::Autocontrast => color::autocontrast(image),
        Operation::Equalize => color::equalize(image),
        Operation::Invert => color::invert(image),
        Operation::Color => color::saturation(image, 1.0 + m),
        Operation::Contrast => color::contrast(image, 1.0 + m),
        Operation::Sharpness => color::sharpness(image, 1.0 + m),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u64 = 100_000;

    fn draws() -> impl Iterator<Item = (usize, [Option<Drawn>; 2])> {
        (0..DRAWS).map(|sample| draw(&mut SampleRng::new(11, 0, sample, "autoaugment")))
    }

    #[test]
    fn sub_policies_are_chosen_uniformly() {
        let mut counts = [0u32; 25];
        draws().for_each(|(policy, _)| counts[policy] += 1);
        let expected = DRAWS as f64 / 25.0;
        let chi_squared: f64 = counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        // 24 degrees of freedom: 51.2 is exceeded once in a thousand seeds.
        assert!(chi_squared < 51.2, "{chi_squared}: {counts:?}");
    }

    #[test]
    fn operations_happen_with_their_probability() {
        let mut happened = [[0u32; 2]; 25];
        let mut chosen = [0u32; 25];
        for (policy, drawn) in draws() {
            chosen[policy] += 1;
            for (count, drawn) in happened[policy].iter_mut().zip(drawn) {
                *count += u32::from(drawn.is_some());
            }
        }
        for (policy, steps) in IMAGENET_POLICIES.iter().enumerate() {
            for (step, count) in steps.iter().zip(happened[policy]) {
                let n = f64::from(chosen[policy]);
                let p = step.probability;
                let slack = 4.5 * (n * p * (1.0 - p)).sqrt();
                assert!((f64::from(count) - n * p).abs() <= slack, "policy {policy}, {step:?}: {count} of {n}");
            }
        }
    }

    #[test]
    fn signs_are_balanced_and_magnitudes_are_the_published_points() {
        let mut seen = std::collections::BTreeMap::<String, [u32; 2]>::new();
        for drawn in draws().flat_map(|(_, drawn)| drawn).flatten() {
            let key = format!("{:?} {:.4}", drawn.operation, drawn.magnitude.abs());
            seen.entry(key).or_default()[usize::from(drawn.magnitude < 0.0 || drawn.magnitude.is_sign_negative())] += 1;
        }
        for (key, [plus, minus]) in &seen {
            let n = f64::from(plus + minus);
            let signed = ["ShearX", "Rotate", "Color", "Contrast", "Sharpness"].iter().any(|op| key.starts_with(op));
            if signed {
                assert!(
                    (f64::from(*plus) - n / 2.0).abs() < 4.5 * (n / 4.0).sqrt(),
                    "{key}: {plus} plus, {minus} minus"
                );
            } else {
                assert_eq!(*minus, 0, "{key} has no sign");
            }
        }
        // Level l of [8 8 7 7 6 6 5 5 4 4] bits, linspace(256, 0), linspace(0, 30), linspace(0, .9), linspace(0, .3).
        let expected = [
            "Autocontrast 0.0000",
            "Color 0.0000",
            "Color 0.2000",
            "Color 0.4000",
            "Color 0.8000",
            "Contrast 0.8000",
            "Equalize 0.0000",
            "Invert 0.0000",
            "Posterize 4.0000",
            "Posterize 5.0000",
            "Posterize 6.0000",
            "Rotate 10.0000",
            "Rotate 26.6667",
            "Rotate 30.0000",
            "Sharpness 0.7000",
            "ShearX 0.1667",
            "Solarize 113.7778",
            "Solarize 142.2222",
            "Solarize 170.6667",
            "Solarize 28.4444",
            "Solarize 56.8889",
        ];
        assert_eq!(seen.keys().map(String::as_str).collect::<Vec<_>>(), expected);
    }
}
