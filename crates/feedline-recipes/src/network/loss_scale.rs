//! Dynamic loss scaling for f16: the rule of torch's `GradScaler`. Owns the factor and its counter, nothing else.

use feedline::{Error, Result};

/// torch's defaults.
const INITIAL: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL_STEPS: u64 = 2000;
/// Below this factor an overflow does not come from the factor.
const SMALLEST: f64 = 1.0 / 65536.0;

/// The factor on the loss, and for how many steps in a row no gradient overflowed.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct LossScale {
    pub(crate) factor: f64,
    good_steps: u64,
}

impl LossScale {
    /// The state at the start of a run.
    pub(crate) fn new() -> LossScale {
        LossScale { factor: INITIAL, good_steps: 0 }
    }

    /// Adapts the factor after a step whose gradients were all finite, or were not (that step is to be skipped).
    ///
    /// # Errors
    /// If gradients still overflow at a factor that cannot be the reason.
    pub(crate) fn update(&mut self, finite: bool) -> Result<()> {
        if finite {
            self.good_steps += 1;
            if self.good_steps == GROWTH_INTERVAL_STEPS {
                *self = LossScale { factor: self.factor * GROWTH, good_steps: 0 };
            }
        } else {
            *self = LossScale { factor: self.factor * BACKOFF, good_steps: 0 };
        }
        if self.factor < SMALLEST {
            return Err(Error::train(
                format!("the gradients are not finite in f16 even with the loss scaled by {:e}", self.factor),
                "Train with --precision f32 or bf16, or lower the learning rate",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_after_2000_good_steps_in_a_row_and_halves_at_once() {
        let mut scale = LossScale::new();
        for _ in 0..1999 {
            scale.update(true).unwrap();
        }
        assert_eq!(scale.factor, 65536.0);
        scale.update(false).unwrap();
        assert_eq!(scale.factor, 32768.0);
        for _ in 0..1999 {
            scale.update(true).unwrap();
        }
        assert_eq!(scale.factor, 32768.0, "the counter starts again after an overflow");
        scale.update(true).unwrap();
        assert_eq!((scale.factor, scale.good_steps), (65536.0, 0));
    }

    #[test]
    fn overflowing_for_ever_is_an_error() {
        let mut scale = LossScale::new();
        let failed_at = (0..100).find(|_| scale.update(false).is_err());
        assert_eq!(failed_at, Some(32));
    }
}
