//! The optimisers: SGD with momentum (Nesterov's or plain), Adam and AdamW with torch's formulas, LAMB with timm's, on flat
//! f32 vectors. Owns momenta and their step counts; knows nothing of how a gradient came about.

use crate::network::parameters::{Spec, check_tensor};
use feedline::train::Tensors;
use feedline::train::schedule::OptimizerKind;
use feedline::{Array, Error, Result};

/// Adam's decay rate of the second moment, torch's default, and fastai's with one cycle.
pub const BETA2: f64 = 0.999;
const ONE_CYCLE_BETA2: f64 = 0.99;
/// Added to the root of the second moment, torch's default.
const ADAM_EPSILON: f64 = 1e-8;

/// The same of LAMB, and the length of a gradient that it takes at most; timm's defaults.
const LAMB_EPSILON: f64 = 1e-6;
const LAMB_MAX_NORM: f64 = 1.0;

/// Names of an optimiser's vectors in a checkpoint.
fn moment_names(kind: OptimizerKind) -> &'static [&'static str] {
    match kind {
        // torch.optim.SGD(momentum, nesterov=True), no dampening.
        OptimizerKind::Sgd => &["momentum"],
        // torch.optim.Adam(betas=(momentum, beta2)), the decay is added to the gradient; AdamW, it shrinks the weights instead.
        // timm.optim.Lamb(betas=(momentum, beta2)) has the same moments.
        OptimizerKind::Adam | OptimizerKind::AdamW | OptimizerKind::Lamb => &["first_moment", "second_moment"],
    }
}

/// Checks that `momentum` and `weight_decay` can be used.
pub fn check_settings(momentum: f64, weight_decay: f64) -> Result<()> {
    if !(0.0..1.0).contains(&momentum) {
        return Err(Error::config(format!("momentum is {momentum}, outside [0, 1)"), "Use 0.9 if in doubt"));
    }
    if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
        return Err(Error::config(
            format!("weight_decay is {weight_decay}, not a finite number of at least 0"),
            "Use 5e-4 with sgd and 0 with adam if in doubt",
        ));
    }
    Ok(())
}

/// The Euclidean length.
fn length(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// An optimiser and what it remembers.
#[derive(Debug, Clone)]
pub struct Optimizer {
    kind: OptimizerKind,
    /// SGD's momentum, Adam's beta1.
    momentum: f64,
    /// Adam's.
    beta2: f64,
    /// SGD's momentum is Nesterov's.
    is_nesterov: bool,
    weight_decay: f64,
    /// Weight decay shrinks parameters before the step, and is no part of the gradient.
    is_decoupled: bool,
    /// Weight decay reaches norms and biases too.
    decays_all: bool,
    /// As many vectors as `moment_names`, each as long as the parameters.
    moments: Vec<Vec<f32>>,
    /// Steps taken by the backbone and by all else: fewer for a backbone that was frozen.
    pub steps: [u64; 2],
}

impl Optimizer {
    /// An optimiser for `parameters` values that has taken no step.
    pub fn new(kind: OptimizerKind, momentum: f64, weight_decay: f64, parameters: usize) -> Optimizer {
        let moments = moment_names(kind).iter().map(|_| vec![0.0; parameters]).collect();
        let is_decoupled = kind == OptimizerKind::AdamW;
        let (beta2, is_nesterov, decays_all) = (BETA2, true, false);
        Optimizer { kind, momentum, beta2, is_nesterov, weight_decay, is_decoupled, decays_all, moments, steps: [0; 2] }
    }

    /// With this decay rate of Adam's second moment, in [0, 1).
    pub fn with_beta2(self, beta2: f64) -> Optimizer {
        Optimizer { beta2, ..self }
    }

    /// With Nesterov's momentum in SGD, or plain momentum.
    pub fn with_nesterov(self, is_nesterov: bool) -> Optimizer {
        Optimizer { is_nesterov, ..self }
    }

    /// OpenPCDet's `adam_onecycle`: Adam whose decay is decoupled (Loshchilov and Hutter, 2019) and reaches norms and biases
    /// too. Its momentum is to be set before every step.
    pub fn adam_onecycle(weight_decay: f64, parameters: usize) -> Optimizer {
        let adam = Optimizer::new(OptimizerKind::Adam, 0.9, weight_decay, parameters);
        Optimizer { beta2: ONE_CYCLE_BETA2, is_decoupled: true, decays_all: true, ..adam }
    }

    /// SGD's momentum or Adam's beta1 of the steps that follow.
    pub fn set_momentum(&mut self, momentum: f64) {
        self.momentum = momentum;
    }

    /// Moves `parameters` against `gradient`. While the backbone is frozen its parameters, momenta and step count stay
    /// as they are. Weight decay reaches the weights of convolutions and linear layers only, but for
    /// [`Optimizer::adam_onecycle`]. The rate of a tensor is `learning_rate` times its [`Spec::lr_scale`].
    pub fn step(&mut self, specs: &[Spec], parameters: &mut [f32], gradient: &[f32], learning_rate: f64, frozen: bool) {
        self.steps[0] += u64::from(!frozen);
        self.steps[1] += 1;
        let trained = || specs.iter().filter(|spec| spec.is_trained(frozen));
        let shortened = match self.kind {
            OptimizerKind::Lamb => {
                let norm = length(trained().flat_map(|spec| &gradient[spec.range.clone()]).copied());
                (norm / LAMB_MAX_NORM).max(1.0) as f32
            }
            _ => 1.0,
        };
        for spec in trained() {
            let learning_rate = learning_rate * spec.lr_scale;
            let decay = if spec.decays() && !self.is_decoupled { self.weight_decay as f32 } else { 0.0 };
            let (at, steps) = (spec.range.clone(), self.steps[usize::from(!spec.in_backbone)]);
            if self.is_decoupled && (spec.decays() || self.decays_all) {
                let kept = (1.0 - self.weight_decay * learning_rate) as f32;
                parameters[at.clone()].iter_mut().for_each(|value| *value *= kept);
            }
            match (self.kind, self.moments.as_mut_slice()) {
                (OptimizerKind::Sgd, [buffer]) if !self.is_nesterov => {
                    let values = parameters[at.clone()].iter_mut().zip(&gradient[at.clone()]);
                    let (momentum, rate) = (self.momentum as f32, learning_rate as f32);
                    for ((value, gradient), buffer) in values.zip(&mut buffer[at]) {
                        *buffer = momentum * *buffer + (gradient + decay * *value);
                        *value -= rate * *buffer;
                    }
                }
                (OptimizerKind::Sgd, [buffer]) => {
                    let values = parameters[at.clone()].iter_mut().zip(&gradient[at.clone()]);
                    let (momentum, rate) = (self.momentum as f32, learning_rate as f32);
                    for ((value, gradient), buffer) in values.zip(&mut buffer[at]) {
                        let gradient = gradient + decay * *value;
                        *buffer = momentum * *buffer + gradient;
                        *value -= rate * (gradient + momentum * *buffer);
                    }
                }
                (OptimizerKind::Adam | OptimizerKind::AdamW, [first, second]) => {
                    let values = parameters[at.clone()].iter_mut().zip(&gradient[at.clone()]);
                    let exponent = steps.min(i32::MAX as u64) as i32;
                    let rate = (learning_rate / (1.0 - self.momentum.powi(exponent))) as f32;
                    let root_correction = (1.0 - self.beta2.powi(exponent)).sqrt() as f32;
                    let (one_minus_beta1, beta2) = ((1.0 - self.momentum) as f32, self.beta2 as f32);
                    let one_minus_beta2 = (1.0 - self.beta2) as f32;
                    let moments = first[at.clone()].iter_mut().zip(&mut second[at]);
                    for ((value, gradient), (first, second)) in values.zip(moments) {
                        let gradient = gradient + decay * *value;
                        *first += one_minus_beta1 * (gradient - *first);
                        *second = beta2 * *second + one_minus_beta2 * gradient * gradient;
                        *value -= rate * *first / (second.sqrt() / root_correction + ADAM_EPSILON as f32);
                    }
                }
                (OptimizerKind::Lamb, [first, second]) => {
                    let exponent = steps.min(i32::MAX as u64) as i32;
                    let (beta1, beta2) = (self.momentum as f32, self.beta2 as f32);
                    let corrected = (1.0 - self.momentum.powi(exponent)) as f32;
                    let root_correction = (1.0 - self.beta2.powi(exponent)).sqrt() as f32;
                    let moments = first[at.clone()].iter_mut().zip(&mut second[at.clone()]);
                    let update = gradient[at.clone()].iter().zip(moments).zip(&parameters[at.clone()]);
                    let update: Vec<f32> = update
                        .map(|((gradient, (first, second)), value)| {
                            let gradient = gradient / shortened;
                            *first = beta1 * *first + (1.0 - beta1) * gradient;
                            *second = beta2 * *second + (1.0 - beta2) * gradient * gradient;
                            let root = second.sqrt() / root_correction + LAMB_EPSILON as f32;
                            *first / corrected / root + decay * value
                        })
                        .collect();
                    // The ratio of lengths belongs to tensors that decay.
                    let ratio = match [&parameters[at.clone()], &update].map(|values| length(values.iter().copied())) {
                        [weights, moved] if decay != 0.0 && weights > 0.0 && moved > 0.0 => weights / moved,
                        _ => 1.0,
                    };
                    let rate = (learning_rate * ratio) as f32;
                    parameters[at].iter_mut().zip(update).for_each(|(value, update)| *value -= rate * update);
                }
                _ => unreachable!("`new` makes as many vectors as the kind has"),
            }
        }
    }

    /// The optimiser's vectors by name; empty before the first step.
    pub fn tensors(&self, specs: &[Spec]) -> Tensors {
        if self.steps == [0; 2] {
            return Tensors::new();
        }
        let trained = || specs.iter().filter(|spec| !spec.is_buffer());
        let named = |(prefix, moment): (&&str, &Vec<f32>)| {
            trained()
                .map(|spec| {
                    let values = Array::from_slice(spec.shape.clone(), &moment[spec.range.clone()]);
                    (format!("{prefix}/{}", spec.name), values)
                })
                .collect::<Vec<_>>()
        };
        moment_names(self.kind).iter().zip(&self.moments).flat_map(named).collect()
    }

    /// Takes over what [`Optimizer::tensors`] gave after `steps` steps; on an error nothing was changed.
    pub fn load(&mut self, specs: &[Spec], saved: &Tensors, steps: [u64; 2]) -> Result<()> {
        let mut loaded = self.moments.clone();
        for (prefix, moment) in moment_names(self.kind).iter().zip(&mut loaded) {
            for spec in specs.iter().filter(|spec| !spec.is_buffer()) {
                let values = &mut moment[spec.range.clone()];
                if steps == [0; 2] {
                    values.fill(0.0);
                } else {
                    let name = format!("{prefix}/{}", spec.name);
                    check_tensor(saved, &name, &spec.shape)?;
                    values.copy_from_slice(saved[&name].as_slice());
                }
            }
        }
        self.moments = loaded;
        self.steps = steps;
        Ok(())
    }
}
