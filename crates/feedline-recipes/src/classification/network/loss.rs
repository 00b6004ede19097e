//! The losses that a classifier is trained by, in f64, with torch's, timm's and torchvision's formulas. What a network is evaluated
//! by is plain cross entropy, whatever it is trained by.

use crate::classification::config::LossKind;
use crate::network::supervised::{CrossEntropy, SampleLoss};
use feedline::{Error, Result};

/// The settings of a [`ClassLoss`]; by default plain cross entropy.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossOptions {
    /// The loss.
    pub loss: LossKind,
    /// Share of a target that is spread evenly over all classes; in [0, 1).
    pub label_smoothing: f64,
    /// Of focal loss: the power of the share of a probability that is missing; at least 0.
    pub focal_gamma: f64,
    /// Of focal loss: the weight of a sample's own class beside the others; in [0, 1], or -1 for no weight.
    pub focal_alpha: f64,
    /// Of cross entropy: a weight of at least 0 for each class; empty is 1 for all.
    pub class_weights: Vec<f64>,
}

impl Default for LossOptions {
    fn default() -> LossOptions {
        let (label_smoothing, class_weights) = (0.0, Vec::new());
        LossOptions { loss: LossKind::Ce, label_smoothing, focal_gamma: 2.0, focal_alpha: 0.25, class_weights }
    }
}

/// The loss of a classifier. In training it is what [`LossOptions`] say:
///
/// - cross entropy as torch's `CrossEntropyLoss(weight, label_smoothing)`: the mean is by the weights of the samples' classes;
/// - binary cross entropy of each class as timm's `BinaryCrossEntropy(smoothing)`, the mean over samples and classes;
/// - focal loss as torchvision's `sigmoid_focal_loss(alpha, gamma, reduction="mean")`, the mean over samples and classes.
///
/// In an evaluation it is plain [`CrossEntropy`]; the accuracy is the same in both.
#[derive(Debug, Clone)]
pub struct ClassLoss {
    plain: CrossEntropy,
    options: LossOptions,
}

impl ClassLoss {
    /// The loss over `classes` classes.
    ///
    /// # Errors
    /// Weights that are not one for each class, or with another loss than cross entropy.
    pub fn new(options: LossOptions, classes: usize) -> Result<ClassLoss> {
        let weights = options.class_weights.len();
        if weights > 0 && options.loss != LossKind::Ce {
            return Err(Error::config(
                format!("class_weights with the loss {:?}", options.loss).to_lowercase(),
                "Use them with the loss ce, or set class_weights to none",
            ));
        }
        if weights > 0 && weights != classes {
            return Err(Error::config(
                format!("class_weights has {weights} weights, and there are {classes} classes"),
                "Give one weight for each class, in the order of classes.txt: that of the classes' names",
            ));
        }
        Ok(ClassLoss { plain: CrossEntropy { classes }, options })
    }

    /// The target of a class for a sample with this label.
    fn target(&self, class: usize, label: i64) -> f64 {
        let smoothing = self.options.label_smoothing;
        let own = if class as i64 == label { 1.0 - smoothing } else { 0.0 };
        own + smoothing / self.plain.classes as f64
    }

    /// Cross entropy with smoothed targets and weights.
    fn cross_entropy(&self, logits: &[f32], label: i64, slope: &mut [f64]) -> f64 {
        let weights = &self.options.class_weights;
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        // The target of each class times its weight; they no longer sum to 1.
        let target = |class: usize| {
            let weight = weights.get(class).copied().unwrap_or(1.0);
            let own = if class as i64 == label { (1.0 - self.options.label_smoothing) * weight } else { 0.0 };
            own + self.options.label_smoothing / self.plain.classes as f64 * weight
        };
        let total: f64 = (0..logits.len()).map(target).sum();
        let mut loss = 0.0;
        for (class, (logit, slope)) in logits.iter().zip(slope).enumerate() {
            let shifted = f64::from(logit - largest);
            loss += target(class) * (sum.ln() - shifted);
            *slope = total * shifted.exp() / sum - target(class);
        }
        loss
    }

    /// Binary cross entropy of one class, and its slope.
    fn binary(logit: f64, target: f64) -> (f64, f64) {
        let loss = logit.max(0.0) - logit * target + (-logit.abs()).exp().ln_1p();
        (loss, sigmoid(logit) - target)
    }

    /// Focal loss of one class, and its slope.
    fn focal(&self, logit: f64, target: f64) -> (f64, f64) {
        let LossOptions { focal_gamma: gamma, focal_alpha: alpha, .. } = self.options;
        let (p, q) = (sigmoid(logit), sigmoid(-logit));
        let (entropy, slope) = ClassLoss::binary(logit, target);
        let weight = if alpha < 0.0 { 1.0 } else { alpha * target + (1.0 - alpha) * (1.0 - target) };
        // The share of the probability that is missing, and its slope.
        let (missing, missing_slope) = (q * target + p * (1.0 - target), (1.0 - 2.0 * target) * p * q);
        let factor = missing.powf(gamma);
        let factor_slope = match gamma {
            0.0 => 0.0,
            gamma => gamma * missing.max(f64::MIN_POSITIVE).powf(gamma - 1.0) * missing_slope,
        };
        (weight * entropy * factor, weight * (slope * factor + entropy * factor_slope))
    }
}

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

impl SampleLoss for ClassLoss {
    type Label = i64;

    const FIELD: &'static str = CrossEntropy::FIELD;
    const METRICS: &'static [&'static str] = CrossEntropy::METRICS;

    fn check(&self, label: i64) -> Result<(), String> {
        self.plain.check(label)
    }

    fn of_sample(&self, logits: &[f32], label: i64, metrics: &mut [f64], slope: &mut Vec<f64>) -> f64 {
        self.plain.of_sample(logits, label, metrics, slope)
    }

    fn of_train_sample(&self, logits: &[f32], label: i64, metrics: &mut [f64], slope: &mut Vec<f64>) -> f64 {
        let at = slope.len();
        let plain = self.plain.of_sample(logits, label, metrics, slope);
        let slope = &mut slope[at..];
        let LossOptions { loss, label_smoothing, class_weights, .. } = &self.options;
        match loss {
            LossKind::Ce if *label_smoothing == 0.0 && class_weights.is_empty() => plain,
            LossKind::Ce => self.cross_entropy(logits, label, slope),
            LossKind::Bce | LossKind::Focal => {
                let classes = logits.len() as f64;
                let mut sum = 0.0;
                for (class, (logit, slope)) in logits.iter().zip(slope).enumerate() {
                    let (logit, target) = (f64::from(*logit), self.target(class, label));
                    let (loss, by_logit) = match loss {
                        LossKind::Focal => self.focal(logit, target),
                        _ => ClassLoss::binary(logit, target),
                    };
                    sum += loss;
                    *slope = by_logit / classes;
                }
                sum / classes
            }
        }
    }

    fn is_weighted(&self) -> bool {
        !self.options.class_weights.is_empty()
    }

    fn weight(&self, label: i64) -> f64 {
        let weight = usize::try_from(label).ok().and_then(|label| self.options.class_weights.get(label));
        weight.copied().unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every loss's slope against the difference quotient of its value, which the comparison with torch does not see for
    /// every setting.
    #[test]
    fn slopes_are_those_of_the_losses() {
        // With the distances below they are exact in f32.
        let logits = [0.25f32, -1.75, 2.5, 0.0];
        for (loss, label_smoothing, focal_gamma, focal_alpha) in [
            (LossKind::Ce, 0.0, 0.0, 0.0),
            (LossKind::Ce, 0.2, 0.0, 0.0),
            (LossKind::Bce, 0.1, 0.0, 0.0),
            (LossKind::Focal, 0.0, 2.0, 0.25),
            (LossKind::Focal, 0.1, 0.5, -1.0),
            (LossKind::Focal, 0.0, 0.0, 0.9),
        ] {
            for weights in [vec![], vec![0.5, 2.0, 1.0, 3.0]] {
                let class_weights = if loss == LossKind::Ce { weights } else { vec![] };
                let options = LossOptions { loss, label_smoothing, focal_gamma, focal_alpha, class_weights };
                let loss = ClassLoss::new(options.clone(), 4).unwrap();
                let of = |logits: &[f32]| {
                    let (mut metrics, mut slope) = ([0.0], Vec::new());
                    (loss.of_train_sample(logits, 1, &mut metrics, &mut slope), slope)
                };
                let slope = of(&logits).1;
                for at in 0..4 {
                    let moved = |by: f32| {
                        let mut logits = logits;
                        logits[at] += by;
                        of(&logits).0
                    };
                    let quotient = (moved(1.0 / 1024.0) - moved(-1.0 / 1024.0)) * 512.0;
                    assert!((quotient - slope[at]).abs() < 2e-6, "{options:?} {at}: {quotient} {}", slope[at]);
                }
            }
        }
        // Logits without bounds give no NaN.
        let options = LossOptions { loss: LossKind::Focal, focal_gamma: 0.5, ..LossOptions::default() };
        let (mut metrics, mut slope) = ([0.0], Vec::new());
        let loss = ClassLoss::new(options, 2).unwrap().of_train_sample(&[900.0, -900.0], 0, &mut metrics, &mut slope);
        assert!(loss == 0.0 && slope == [0.0, 0.0], "{loss} {slope:?}");
    }

    #[test]
    fn weights_are_one_for_each_class_of_cross_entropy() {
        let refused = |loss, weights: &[f64]| {
            let options = LossOptions { loss, class_weights: weights.to_vec(), ..LossOptions::default() };
            ClassLoss::new(options, 3).unwrap_err().to_string()
        };
        let error = refused(LossKind::Ce, &[1.0, 2.0]);
        assert!(error.contains("class_weights has 2 weights, and there are 3 classes"), "{error}");
        let error = refused(LossKind::Focal, &[1.0; 3]);
        assert!(error.contains("class_weights with the loss focal"), "{error}");
    }
}
