//! Learning rates as pure functions of the epoch or step, so that a resumed run needs no schedule state. Formulas of
//! bubbliiiing/classification-pytorch (`cos`, `step`, batch-adapted rates), TorchSSC (poly), OpenPCDet (one-cycle), and torch's
//! and timm's schedulers by step.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// The decay of the learning rate over the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrDecay {
    /// Quadratic warm-up, half a cosine, then a constant tail.
    Cos,
    /// Ten steps of equal ratio.
    Step,
}

/// The optimiser: learning rates are fitted to it, and a task builds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Gradient descent with Nesterov momentum.
    Sgd,
    /// Adam; weight decay is added to the gradient.
    Adam,
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    AdamW,
    /// Adam whose rate follows the length of each tensor (You et al., 2019), for large batches.
    Lamb,
}

/// The learning rate of each epoch of a run. Epochs count from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochLr {
    decay: LrDecay,
    lr: f64,
    min_lr: f64,
    epochs: u32,
}

/// Steps of [`LrDecay::Step`].
const STEPS: f64 = 10.0;

impl EpochLr {
    /// The schedule of a run of `epochs` epochs in all, from `lr` down to `min_lr`.
    ///
    /// # Errors
    /// No epoch; rates other than 0 < `lr` and 0 <= `min_lr` <= `lr`; or `Step` over fewer than 10 epochs.
    pub fn new(decay: LrDecay, lr: f64, min_lr: f64, epochs: u32) -> Result<EpochLr> {
        if epochs == 0 {
            return Err(Error::config("a run of 0 epochs has no learning rate", "Set epochs to 1 or more"));
        }
        if !(lr.is_finite() && lr > 0.0 && (0.0..=lr).contains(&min_lr)) {
            return Err(Error::config(
                format!("the learning rate cannot fall from {lr} to {min_lr}"),
                "Choose a positive init_lr and a min_lr between 0 and init_lr",
            ));
        }
        if decay == LrDecay::Step && f64::from(epochs) < STEPS {
            return Err(Error::config(
                format!("lr_decay `step` makes {STEPS} steps, more than the {epochs} epochs of this run"),
                format!("Train for {STEPS} epochs or more, or use lr_decay `cos`"),
            ));
        }
        Ok(EpochLr { decay, lr, min_lr, epochs })
    }

    /// The learning rate of an epoch. Epochs past the end continue the last formula.
    pub fn at(&self, epoch: u32) -> f64 {
        let (i, total) = (f64::from(epoch), f64::from(self.epochs));
        match self.decay {
            LrDecay::Cos => self.cos(i, total),
            LrDecay::Step => {
                let decay_rate = (self.min_lr / self.lr).powf(1.0 / (STEPS - 1.0));
                self.lr * decay_rate.powf(floor_div(i, total / STEPS))
            }
        }
    }

    fn cos(&self, i: f64, total: f64) -> f64 {
        let (lr, min_lr) = (self.lr, self.min_lr);
        let warm_up = (0.05 * total).clamp(1.0, 3.0);
        let warm_up_lr = (0.1 * lr).max(1e-6);
        let tail = (0.05 * total).clamp(1.0, 15.0);
        if i <= warm_up {
            (lr - warm_up_lr) * (i / warm_up).powi(2) + warm_up_lr
        } else if i >= total - tail {
            min_lr
        } else {
            // Not reached when the middle part is empty, so this divides by more than 0.
            min_lr + 0.5 * (lr - min_lr) * (1.0 + (PI * (i - warm_up) / (total - warm_up - tail)).cos())
        }
    }
}

/// Floor division as Python's `//` on floats: exact, where the floor of the rounded quotient is not (8 // 1.6 is 4).
fn floor_div(a: f64, b: f64) -> f64 {
    ((a - a % b) / b).round()
}

/// Bounds of the batch-adapted learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LrLimits {
    /// The batch size at which the rate is used unchanged (upstream's nbs).
    pub nominal_batch_size: u32,
    /// Largest fitted rate.
    pub max: f64,
    /// Smallest fitted rate.
    pub min: f64,
}

impl LrLimits {
    /// Upstream's bounds for convolutional backbones.
    pub fn of(optimizer: OptimizerKind) -> LrLimits {
        match optimizer {
            OptimizerKind::Sgd => LrLimits { nominal_batch_size: 64, max: 1e-1, min: 5e-4 },
            OptimizerKind::Adam | OptimizerKind::AdamW | OptimizerKind::Lamb => {
                LrLimits { nominal_batch_size: 64, max: 1e-3, min: 1e-4 }
            }
        }
    }
}

/// The rates fitted to a GLOBAL batch size: `(init_lr_fit, min_lr_fit)`, proportional to the batch and kept within
/// the limits (a hundredth of them for the minimum).
pub fn fit_lr(batch_size: u32, init_lr: f64, min_lr: f64, limits: LrLimits) -> (f64, f64) {
    let scale = f64::from(batch_size) / f64::from(limits.nominal_batch_size);
    // Not `clamp`, which panics should a caller's limits be crossed; upstream's order, in which the maximum wins.
    let fit = |lr: f64, factor: f64| (scale * lr).max(limits.min * factor).min(limits.max * factor);
    (fit(init_lr, 1.0), fit(min_lr, 1e-2))
}

/// A run that is shorter than it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepAdvice {
    /// Optimiser steps a run should have at least.
    pub wanted_step: u64,
    /// Optimiser steps this run has.
    pub total_step: u64,
    /// Epochs that would be enough.
    pub wanted_epoch: u64,
}

/// Advice for a run of fewer steps than upstream recommends (30,000 with SGD, 10,000 with Adam). None if the run is
/// long enough, or if an epoch has no step at all, which is an error elsewhere.
pub fn step_advice(num_train: u64, batch_size: u64, epochs: u64, optimizer: OptimizerKind) -> Option<StepAdvice> {
    let wanted_step = match optimizer {
        OptimizerKind::Sgd => 30_000,
        OptimizerKind::Adam | OptimizerKind::AdamW | OptimizerKind::Lamb => 10_000,
    };
    let epoch_step = num_train.checked_div(batch_size).filter(|&step| step > 0)?;
    let total_step = epoch_step.saturating_mul(epochs);
    (total_step <= wanted_step).then(|| StepAdvice {
        wanted_step,
        total_step,
        wanted_epoch: wanted_step / epoch_step + 1,
    })
}

/// Polynomial decay by iteration: `start_lr * (1 - step / total_steps)^power`; 0 from `total_steps` on.
pub fn poly_lr(start_lr: f64, power: f64, step: u64, total_steps: u64) -> f64 {
    if step >= total_steps { 0.0 } else { start_lr * (1.0 - step as f64 / total_steps as f64).powf(power) }
}

/// One-cycle: the rate rises along half a cosine and falls along another, the momentum does the opposite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OneCycle {
    /// The rate at the peak.
    pub lr_max: f64,
    /// The cycle starts at `lr_max / div_factor` and ends near a ten-thousandth of that.
    pub div_factor: f64,
    /// Share of the steps before the peak.
    pub pct_start: f64,
    /// Momentum at both ends, and at the peak.
    pub moms: (f64, f64),
    /// Steps of the whole cycle.
    pub total_steps: u64,
}

impl OneCycle {
    /// `(learning rate, momentum)` of a step counted from 0; steps past the end stay at the end.
    pub fn at(&self, step: u64) -> (f64, f64) {
        let peak = (self.pct_start * self.total_steps as f64) as u64;
        let low = self.lr_max / self.div_factor;
        let (ends, middle) = self.moms;
        if step < peak {
            let part = step as f64 / peak as f64;
            (half_cosine(low, self.lr_max, part), half_cosine(ends, middle, part))
        } else {
            let left = self.total_steps.saturating_sub(peak).max(1);
            let part = ((step - peak) as f64 / left as f64).min(1.0);
            (half_cosine(self.lr_max, low / 1e4, part), half_cosine(middle, ends, part))
        }
    }
}

/// A scheduler of torch's or timm's: the curve of the learning rate, beside [`LrDecay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrScheduler {
    /// Half a cosine down to the minimum: torch's `CosineAnnealingLR` in its closed form.
    Cosine,
    /// By a power of the share of the run that is left, down to the minimum: timm's `PolyLRScheduler`, and with a minimum of 0
    /// torch's `PolynomialLR`.
    Poly,
    /// torch's `OneCycleLR` with cosines and a momentum that stays: up from `lr / div_factor`, and down to a ten-thousandth of that.
    OneCycle,
    /// torch's `StepLR`: times gamma every so many epochs.
    Step,
    /// torch's `MultiStepLR`: times gamma at each of some epochs.
    MultiStep,
    /// No decay.
    Constant,
}

/// The learning rate of every step of a run by a [`LrScheduler`], after a linear warm-up: torch's `LinearLR`, joined to `cosine` and
/// `poly` as by `SequentialLR`, which begin when it ends, and to `step` and `multistep` as by `ChainedScheduler`, whose epochs are
/// those of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct StepLr {
    pub scheduler: LrScheduler,
    /// The highest rate.
    pub lr: f64,
    /// The rate at the end of `cosine` and `poly`.
    pub min_lr: f64,
    /// Of `poly`.
    pub power: f64,
    /// Share of the steps before the peak of `onecycle`, above 0 and below 1.
    pub pct_start: f64,
    /// Of `onecycle`, above 0.
    pub div_factor: f64,
    /// Of `step`: epochs between two changes.
    pub step_size: u64,
    /// Of `multistep`: epochs that are done when the rate changes.
    pub milestones: Vec<u64>,
    /// Of `step` and `multistep`.
    pub gamma: f64,
    /// Steps in which the rate rises to `lr`; `onecycle` has a rise of its own and takes 0.
    pub warmup_steps: u64,
    /// The first step of the warm-up has this share of the rate.
    pub warmup_start_factor: f64,
    /// Steps of the whole run.
    pub total_steps: u64,
}

impl StepLr {
    /// Checks that the warm-up leaves steps to train in.
    ///
    /// # Errors
    /// A warm-up as long as the run.
    pub fn check(&self) -> Result<()> {
        if self.warmup_steps > 0 && self.warmup_steps >= self.total_steps {
            return Err(Error::config(
                format!("a warm-up of {} steps, and the run has {}", self.warmup_steps, self.total_steps),
                "Lower warmup_epochs or warmup_steps, or train for more epochs",
            ));
        }
        Ok(())
    }

    /// The rate of a step, counted from 0 over the whole run, which is in this epoch, from 0. Steps past the end stay at the end.
    pub fn at(&self, epoch: u64, step: u64) -> f64 {
        let warmup = match self.warmup_steps {
            steps if step < steps => {
                let start = self.warmup_start_factor;
                start + (1.0 - start) * step as f64 / steps as f64
            }
            _ => 1.0,
        };
        let left = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let part = (step.saturating_sub(self.warmup_steps) as f64 / left).min(1.0);
        let decayed = match self.scheduler {
            LrScheduler::Cosine => half_cosine(self.lr, self.min_lr, part),
            LrScheduler::Poly => self.min_lr + (self.lr - self.min_lr) * (1.0 - part).powf(self.power),
            LrScheduler::OneCycle => return self.one_cycle(step),
            LrScheduler::Step => self.lr * self.gamma.powf((epoch / self.step_size.max(1)) as f64),
            LrScheduler::MultiStep => {
                self.lr * self.gamma.powf(self.milestones.iter().filter(|at| **at <= epoch).count() as f64)
            }
            LrScheduler::Constant => self.lr,
        };
        warmup * decayed
    }

    /// torch's phases end at fractions of a step, and the last step has the lowest rate.
    fn one_cycle(&self, step: u64) -> f64 {
        let (low, last) = (self.lr / self.div_factor, self.total_steps.saturating_sub(1) as f64);
        let (peak, step) = (self.pct_start * self.total_steps as f64 - 1.0, (step as f64).min(last));
        if step <= peak {
            half_cosine(low, self.lr, if peak > 0.0 { step / peak } else { 1.0 })
        } else {
            half_cosine(self.lr, low / 1e4, (step - peak) / (last - peak))
        }
    }
}

/// From `a` at part 0 to `b` at part 1.
fn half_cosine(a: f64, b: f64, part: f64) -> f64 {
    b + (a - b) / 2.0 * ((PI * part).cos() + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: f64, expect: f64, relative: f64) {
        assert!((value - expect).abs() <= relative * expect.abs(), "{value:e} is not {expect:e}");
    }

    /// (decay, lr, min_lr, epochs) -> (epoch, rate); rounded to ten digits.
    #[test]
    fn epoch_rates_have_upstreams_published_values() {
        let check = |decay, lr, min_lr, epochs, expect: &[(u32, f64)]| {
            let schedule = EpochLr::new(decay, lr, min_lr, epochs).unwrap();
            for &(epoch, rate) in expect {
                close(schedule.at(epoch), rate, 1e-9);
            }
        };
        let cos_200 = [
            (0, 5e-4),
            (1, 1e-3),
            (2, 2.5e-3),
            (3, 5e-3),
            (4, 4.999650738e-3),
            (50, 4.267723512e-3),
            (100, 2.379554185e-3),
            (150, 5.881167142e-4),
            (189, 5.034926215e-5),
            (190, 5e-5),
            (199, 5e-5),
        ];
        check(LrDecay::Cos, 5e-3, 5e-5, 200, &cos_200);
        let cos_10 = [
            (0, 1e-4),
            (1, 1e-3),
            (2, 9.623203686e-4),
            (3, 8.550178567e-4),
            (4, 6.94428299e-4),
            (5, 5.05e-4),
            (6, 3.15571701e-4),
            (7, 1.549821433e-4),
            (8, 4.767963141e-5),
            (9, 1e-5),
        ];
        check(LrDecay::Cos, 1e-3, 1e-5, 10, &cos_10);
        let step_200 = [
            (0, 5e-3),
            (19, 5e-3),
            (20, 2.997421252e-3),
            (40, 1.796906832e-3),
            (100, 3.871318413e-4),
            (180, 5e-5),
            (199, 5e-5),
        ];
        check(LrDecay::Step, 5e-3, 5e-5, 200, &step_200);
        // Very short runs have a rate in every epoch.
        for epochs in 1..4 {
            let schedule = EpochLr::new(LrDecay::Cos, 1e-2, 1e-4, epochs).unwrap();
            assert!((0..epochs).all(|epoch| schedule.at(epoch) > 0.0));
        }
    }

    #[test]
    fn step_boundaries_are_pythons_floor_division() {
        // Python: 8 // 1.6 == 4, 6 // 1.2 == 5, 33 // 3.3 == 10, 21 // 3.0 == 7, 7 // 1.4 == 5
        for (a, b, expect) in [(8.0, 1.6, 4.0), (6.0, 1.2, 5.0), (33.0, 3.3, 10.0), (21.0, 3.0, 7.0), (7.0, 1.4, 5.0)] {
            assert_eq!(floor_div(a, b), expect, "{a} // {b}");
        }
    }

    #[test]
    fn impossible_schedules_are_refused_when_built() {
        let text = EpochLr::new(LrDecay::Step, 1e-2, 1e-4, 9).unwrap_err().to_string();
        assert!(text.contains("more than the 9 epochs") && text.contains("use lr_decay `cos`"), "{text}");
        assert!(EpochLr::new(LrDecay::Step, 1e-2, 1e-4, 10).is_ok());
        for (lr, min_lr, epochs) in
            [(1e-2, 1e-4, 0), (0.0, 0.0, 5), (1e-2, 2e-2, 5), (f64::NAN, 0.0, 5), (1.0, -1.0, 5)]
        {
            assert!(EpochLr::new(LrDecay::Cos, lr, min_lr, epochs).is_err(), "{lr} {min_lr} {epochs}");
        }
    }

    #[test]
    fn rates_are_fitted_to_the_batch_within_limits() {
        let (sgd, adam) = (LrLimits::of(OptimizerKind::Sgd), LrLimits::of(OptimizerKind::Adam));
        assert_eq!(fit_lr(32, 1e-2, 1e-4, sgd), (5e-3, 5e-5));
        assert_eq!(fit_lr(1, 1e-2, 1e-4, sgd), (5e-4, 5e-6));
        assert_eq!(fit_lr(6400, 1e-2, 1e-4, sgd), (1e-1, 1e-3));
        assert_eq!(fit_lr(128, 1e-3, 1e-5, adam), (1e-3, 1e-5));
        assert_eq!(fit_lr(4, 1e-3, 1e-5, adam), (1e-4, 1e-4 * 1e-2));
    }

    #[test]
    fn short_runs_get_advice() {
        let advice = |n, batch, epochs, optimizer| step_advice(n, batch, epochs, optimizer);
        let expect = StepAdvice { wanted_step: 30_000, total_step: 6200, wanted_epoch: 30_000 / 62 + 1 };
        assert_eq!(advice(2000, 32, 100, OptimizerKind::Sgd), Some(expect));
        assert_eq!(advice(100_000, 32, 100, OptimizerKind::Sgd), None);
        // Exactly as many as wanted is still too few for upstream.
        assert!(advice(3200, 32, 100, OptimizerKind::Adam).is_some());
        assert_eq!(advice(31, 32, 100, OptimizerKind::Sgd), None);
        assert_eq!(advice(31, 0, 100, OptimizerKind::Sgd), None);
    }

    #[test]
    fn iteration_rates_have_the_published_values() {
        for (step, rate) in [(0, 0.1), (198, 0.09963992789), (24_750, 0.05358867313), (49_499, 5.954637402e-6)] {
            close(poly_lr(0.1, 0.9, step, 49_500), rate, 1e-9);
        }
        assert_eq!(poly_lr(0.1, 0.9, 49_500, 49_500), 0.0);
        let cycle = one_cycle(1000);
        let expect = [
            (0, 3e-4, 0.95),
            (200, 1.65e-3, 0.9),
            (400, 3e-3, 0.85),
            (700, 1.500015e-3, 0.9),
            (999, 5.0561423e-8, 0.949999),
        ];
        for (step, lr, momentum) in expect {
            close(cycle.at(step).0, lr, 1e-7);
            close(cycle.at(step).1, momentum, 1e-6);
        }
        close(cycle.at(5000).0, 3e-8, 1e-12);
    }

    fn one_cycle(total_steps: u64) -> OneCycle {
        OneCycle { lr_max: 3e-3, div_factor: 10.0, pct_start: 0.4, moms: (0.95, 0.85), total_steps }
    }

    /// The rates themselves are compared with torch's in tests/test_recipe_parity.py.
    #[test]
    fn rates_by_step_are_finite_at_every_length_and_stay_at_the_end() {
        use LrScheduler::{Constant, Cosine, MultiStep, OneCycle, Poly, Step};
        for scheduler in [Cosine, Poly, OneCycle, Step, MultiStep, Constant] {
            for (total_steps, warmup_steps) in [(0, 0), (1, 0), (2, 1), (3, 2), (20, 5)] {
                let schedule = StepLr {
                    scheduler,
                    lr: 0.1,
                    min_lr: 0.0,
                    power: 0.9,
                    pct_start: 0.3,
                    div_factor: 25.0,
                    step_size: 1,
                    milestones: vec![1, 3],
                    gamma: 0.5,
                    warmup_steps: if scheduler == OneCycle { 0 } else { warmup_steps },
                    warmup_start_factor: 0.01,
                    total_steps,
                };
                schedule.check().unwrap();
                let rates: Vec<f64> = (0..30).map(|step| schedule.at(0, step)).collect();
                assert!(rates.iter().all(|rate| (0.0..=0.1).contains(rate)), "{schedule:?}: {rates:?}");
                assert!(rates[20..].iter().all(|rate| rate == &rates[20]), "{schedule:?}: {rates:?}");
                assert_eq!(
                    schedule.at(3, 29),
                    rates[29]
                        * [1.0, 0.125, 0.25]
                            [[Step, MultiStep].iter().position(|s| *s == scheduler).map_or(0, |at| at + 1)]
                );
                let all = StepLr { warmup_steps: total_steps.max(1), ..schedule };
                let error = all.check().unwrap_err().to_string();
                assert!(error.contains("a warm-up of") && error.contains("Lower warmup_epochs"), "{error}");
            }
        }
    }

    #[test]
    fn every_golden_rate_is_met() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden/lr_schedules.json");
        let Ok(text) = std::fs::read_to_string(path) else {
            eprintln!("skipped: {path} is not there");
            return;
        };
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        let number = |record: &serde_json::Value, key: &str| record[key].as_f64().unwrap();
        let mut compared = 0;
        let mut same = |value: f64, expect: &serde_json::Value| {
            close(value, expect.as_f64().unwrap(), 1e-12);
            compared += 1;
        };
        for record in golden["classification"].as_array().unwrap() {
            let optimizer: OptimizerKind = serde_json::from_value(record["optimizer"].clone()).unwrap();
            let init_lr = number(record, "init_lr");
            let (lr, min_lr) = fit_lr(number(record, "batch") as u32, init_lr, init_lr * 0.01, LrLimits::of(optimizer));
            same(lr, &record["init_lr_fit"]);
            same(min_lr, &record["min_lr_fit"]);
            for decay in ["cos", "step"] {
                let rates = record[decay].as_array().unwrap();
                let kind = serde_json::from_value(decay.into()).unwrap();
                let schedule = EpochLr::new(kind, lr, min_lr, rates.len() as u32).unwrap();
                (0..).zip(rates).for_each(|(epoch, rate)| same(schedule.at(epoch), rate));
            }
        }
        for record in golden["poly"].as_array().unwrap() {
            let (lr, power, total) = (number(record, "lr"), number(record, "power"), number(record, "total") as u64);
            for (step, rate) in record["values"].as_object().unwrap() {
                same(poly_lr(lr, power, step.parse().unwrap(), total), rate);
            }
        }
        for record in golden["one_cycle"].as_array().unwrap() {
            let cycle = one_cycle(number(record, "total") as u64);
            for (step, pair) in record["values"].as_object().unwrap() {
                let (lr, momentum) = cycle.at(step.parse().unwrap());
                same(lr, &pair[0]);
                same(momentum, &pair[1]);
            }
        }
        assert!(compared > 3000, "only {compared} values compared");
    }
}
