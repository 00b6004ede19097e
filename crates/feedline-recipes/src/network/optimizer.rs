//! The optimisers: SGD with Nesterov momentum and Adam, with torch's formulas, on flat f32 vectors. Owns momenta and
//! their step counts; knows nothing of how a gradient came about.

use crate::network::parameters::{Spec, check_tensor};
use feedline::train::Tensors;
use feedline::train::schedule::OptimizerKind;
use feedline::{Array, Error, Result};

/// Adam's decay rate of the second moment, torch's default, and fastai's with one cycle.
const BETA2: f64 = 0.999;
const ONE_CYCLE_BETA2: f64 = 0.99;
/// Added to the root of the second moment, torch's default.
const ADAM_EPSILON: f64 = 1e-8;

/// Names of an optimiser's vectors in a checkpoint.
fn moment_names(kind: OptimizerKind) -> &'static [&'static str] {
    match kind {
        // torch.optim.SGD(momentum, nesterov=True), no dampening.
        OptimizerKind::Sgd => &["momentum"],
        // torch.optim.Adam(betas=(momentum, 0.999)); the decay is added to the gradient.
        OptimizerKind::Adam => &["first_moment", "second_moment"],
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

/// An optimiser and what it remembers.
#[derive(Debug, Clone)]
pub struct Optimizer {
    kind: OptimizerKind,
    /// SGD's momentum, Adam's beta1.
    momentum: f64,
    /// Adam's.
    beta2: f64,
    weight_decay: f64,
    /// Weight decay shrinks every parameter before the step, and is no part of the gradient.
    is_decoupled: bool,
    /// As many vectors as `moment_names`, each as long as the parameters.
    moments: Vec<Vec<f32>>,
    /// Steps taken by the backbone and by all else: fewer for a backbone that was frozen.
    pub steps: [u64; 2],
}

impl Optimizer {
    /// An optimiser for `parameters` values that has taken no step.
    pub fn new(kind: OptimizerKind, momentum: f64, weight_decay: f64, parameters: usize) -> Optimizer {
        let moments = moment_names(kind).iter().map(|_| vec![0.0; parameters]).collect();
        Optimizer { kind, momentum, beta2: BETA2, weight_decay, is_decoupled: false, moments, steps: [0; 2] }
    }

    /// OpenPCDet's `adam_onecycle`: Adam whose decay is decoupled (Loshchilov and Hutter, 2019) and reaches norms and biases
    /// too. Its momentum is to be set before every step.
    pub fn adam_onecycle(weight_decay: f64, parameters: usize) -> Optimizer {
        let adam = Optimizer::new(OptimizerKind::Adam, 0.9, weight_decay, parameters);
        Optimizer { beta2: ONE_CYCLE_BETA2, is_decoupled: true, ..adam }
    }

    /// SGD's momentum or Adam's beta1 of the steps that follow.
    pub fn set_momentum(&mut self, momentum: f64) {
        self.momentum = momentum;
    }

    /// Moves `parameters` against `gradient`. While the backbone is frozen its parameters, momenta and step count stay
    /// as they are. Weight decay that is not decoupled reaches the weights of convolutions and linear layers only.
    pub fn step(&mut self, specs: &[Spec], parameters: &mut [f32], gradient: &[f32], learning_rate: f64, frozen: bool) {
        self.steps[0] += u64::from(!frozen);
        self.steps[1] += 1;
        for spec in specs.iter().filter(|spec| spec.is_trained(frozen)) {
            let decay = if spec.decays() && !self.is_decoupled { self.weight_decay as f32 } else { 0.0 };
            let (at, steps) = (spec.range.clone(), self.steps[usize::from(!spec.in_backbone)]);
            if self.is_decoupled {
                let kept = (1.0 - self.weight_decay * learning_rate) as f32;
                parameters[at.clone()].iter_mut().for_each(|value| *value *= kept);
            }
            let values = parameters[at.clone()].iter_mut().zip(&gradient[at.clone()]);
            match (self.kind, self.moments.as_mut_slice()) {
                (OptimizerKind::Sgd, [buffer]) => {
                    let (momentum, rate) = (self.momentum as f32, learning_rate as f32);
                    for ((value, gradient), buffer) in values.zip(&mut buffer[at]) {
                        let gradient = gradient + decay * *value;
                        *buffer = momentum * *buffer + gradient;
                        *value -= rate * (gradient + momentum * *buffer);
                    }
                }
                (OptimizerKind::Adam, [first, second]) => {
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
