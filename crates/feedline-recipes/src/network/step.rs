//! The part of a training step after loss and gradient, the same for every network: sums over the ranks, checks, loss
//! scaling, clipping and the optimiser. Owns the state between steps besides the parameters; knows no loss and no layer.

use super::device::Precision;
use super::loss_scale::LossScale;
use super::optimizer::Optimizer;
use super::parameters::{Parameters, scalar};
use feedline::train::group::Group;
use feedline::train::{Tally, TaskState, nothing_to_freeze};
use feedline::{Batch, Error, Result};

/// The small value of a state with averages: the steps in them.
const EMA_STEPS: &str = "ema_steps";

/// The optimiser of a network, its gradient, and what else a step needs.
#[derive(Debug)]
pub struct Stepper {
    optimizer: Optimizer,
    /// Only for f16.
    loss_scale: Option<LossScale>,
    /// Gradients longer than this are cut to it; 0 is never.
    clip_norm: f64,
    /// Values of the gradient are cut to this size either way; 0 is never.
    clip_value: f64,
    is_frozen: bool,
    /// One value per parameter; those of a frozen backbone are stale.
    gradient: Vec<f32>,
    /// The network's name in an error.
    network: &'static str,
    /// The setting that an error advises to lower.
    lr_key: &'static str,
}

impl Stepper {
    /// For a network with these parameters, at its first step.
    pub fn new(optimizer: Optimizer, parameters: &Parameters, network: &'static str, lr_key: &'static str) -> Stepper {
        let gradient = vec![0.0; parameters.parameters.len()];
        let (clip_norm, clip_value) = (0.0, 0.0);
        Stepper { optimizer, loss_scale: None, clip_norm, clip_value, is_frozen: false, gradient, network, lr_key }
    }

    /// With the loss scaled if passes in this number type need it.
    pub fn with_precision(self, precision: Precision) -> Stepper {
        Stepper { loss_scale: (precision == Precision::F16).then(LossScale::new), ..self }
    }

    /// With gradients over all parameters cut to this length; 0 is never.
    pub fn with_clip_norm(self, clip_norm: f64) -> Stepper {
        Stepper { clip_norm, ..self }
    }

    /// With each value of a gradient cut to this size either way, as by torch's `clip_grad_value_`; 0 is never.
    pub fn with_clip_value(self, clip_value: f64) -> Stepper {
        Stepper { clip_value, ..self }
    }

    /// Freezes the backbone of `parameters`, or thaws it.
    ///
    /// # Errors
    /// No tensor of it is in a backbone, and it is to be frozen.
    pub fn set_frozen(&mut self, parameters: &Parameters, is_frozen: bool) -> Result<()> {
        if is_frozen && !parameters.specs.iter().any(|spec| spec.in_backbone) {
            return Err(nothing_to_freeze());
        }
        self.is_frozen = is_frozen;
        Ok(())
    }

    /// True while the backbone is frozen.
    pub fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// Sets the optimiser's momentum for the steps that follow.
    pub fn set_momentum(&mut self, momentum: f64) {
        self.optimizer.set_momentum(momentum);
    }

    /// Replaces this rank's tally by that of all ranks, and gives what each sample's slope is to be multiplied by: one over
    /// their samples, times the loss scale (a power of two, so it rounds nothing in f32). `None` if there is no sample, and
    /// so no step.
    ///
    /// # Errors
    /// A loss that is not finite, or a rank that cannot be reached.
    pub fn share(&self, tally: &mut Tally, batch: &Batch, group: &dyn Group) -> Result<Option<f64>> {
        self.weighted_share(tally, None, batch, group)
    }

    /// As [`Stepper::share`], where this rank's samples have the sum `weight` of weights: their mean is by weight, and the tally's
    /// loss is that mean.
    ///
    /// # Errors
    /// As [`Stepper::share`].
    pub fn weighted_share(
        &self,
        tally: &mut Tally,
        weight: Option<f64>,
        batch: &Batch,
        group: &dyn Group,
    ) -> Result<Option<f64>> {
        // The weight travels with the other sums.
        tally.metric_sums.extend(weight);
        tally.all_reduce(group)?;
        let weight = weight.and_then(|_| tally.metric_sums.pop());
        if tally.samples == 0 {
            return Ok(None);
        }
        if let Some(weight) = weight {
            tally.loss_sum *= tally.samples as f64 / weight;
        }
        self.check_loss(tally, batch)?;
        Ok(Some(self.share_of(weight.unwrap_or(tally.samples as f64))))
    }

    /// What each sample's slope is to be multiplied by where the weights of all ranks' samples sum to `weight`.
    pub fn share_of(&self, weight: f64) -> f64 {
        self.factor() / weight
    }

    /// Checks a tally of all ranks.
    ///
    /// # Errors
    /// A loss that is not finite.
    pub fn check_loss(&self, tally: &Tally, batch: &Batch) -> Result<()> {
        if !tally.loss_sum.is_finite() {
            let problem = format!("the loss of epoch {} step {} is {}", batch.epoch, batch.step, tally.loss());
            return Err(Error::train(problem, self.advice()));
        }
        Ok(())
    }

    /// The gradient, to be filled by a backward pass; a rank without samples fills it with 0.
    pub fn gradient_mut(&mut self) -> &mut [f32] {
        &mut self.gradient
    }

    /// The gradient of the step before.
    pub fn gradient(&self) -> &[f32] {
        &self.gradient
    }

    /// Sums the gradient over the ranks and moves the parameters against it. A step that overflowed in f16 moves nothing.
    ///
    /// # Errors
    /// A gradient that is not finite (the parameters are then unchanged), or a rank that cannot be reached.
    pub fn step(&mut self, parameters: &mut Parameters, lr: f64, batch: &Batch, group: &dyn Group) -> Result<()> {
        let (specs, is_frozen) = (&parameters.specs, self.is_frozen);
        let trained = || specs.iter().filter(move |spec| spec.is_trained(is_frozen));
        if is_frozen {
            trained().try_for_each(|spec| group.all_reduce_f32(&mut self.gradient[spec.range.clone()]))?;
        } else {
            group.all_reduce_f32(&mut self.gradient)?;
        }
        // Every rank has the same sums, so every rank decides alike from here on.
        let is_finite = trained().all(|spec| self.gradient[spec.range.clone()].iter().all(|value| value.is_finite()));
        let factor = self.factor();
        let clip = match self.clip_norm {
            // As torch's clip_grad_norm_.
            most if most > 0.0 => {
                let values = trained().flat_map(|spec| &self.gradient[spec.range.clone()]);
                let norm = values.map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() / factor;
                (most / (norm + 1e-6)).min(1.0)
            }
            _ => 1.0,
        };
        match &mut self.loss_scale {
            None if !is_finite => {
                let problem = format!("a gradient of epoch {} step {} is not finite", batch.epoch, batch.step);
                return Err(Error::train(problem, self.advice()));
            }
            None => {}
            Some(scale) => scale.update(is_finite)?,
        }
        if is_finite {
            if factor != 1.0 || clip != 1.0 {
                self.gradient.iter_mut().for_each(|value| *value = (f64::from(*value) * clip / factor) as f32);
            }
            if self.clip_value > 0.0 {
                let most = self.clip_value as f32;
                self.gradient.iter_mut().for_each(|value| *value = value.clamp(-most, most));
            }
            let Parameters { specs, parameters, .. } = parameters;
            self.optimizer.step(specs, parameters, &self.gradient, lr, is_frozen);
        }
        Ok(())
    }

    /// The state of a task with these parameters. Whether the backbone is frozen is not part of it: the loop knows that
    /// from the epoch.
    pub fn state(&self, parameters: &Parameters) -> TaskState {
        let mut scalars = serde_json::Map::new();
        scalars.insert("optimizer_steps".into(), serde_json::json!(self.optimizer.steps));
        if let Some(scale) = &self.loss_scale {
            scalars.insert("loss_scale".into(), serde_json::json!(scale));
        }
        let mut optimizer = self.optimizer.tensors(&parameters.specs);
        if let Some((raw, steps)) = parameters.raw_tensors() {
            optimizer.extend(raw);
            scalars.insert(EMA_STEPS.into(), serde_json::json!(steps));
        }
        TaskState { model: parameters.tensors(), optimizer, scalars }
    }

    /// Takes over what [`Stepper::state`] gave.
    ///
    /// # Errors
    /// A tensor or a value that is missing or does not fit, by name; nothing is changed then.
    pub fn load_state(&mut self, parameters: &mut Parameters, state: &TaskState) -> Result<()> {
        let steps = scalar(state, "optimizer_steps")?;
        let loss_scale = self.loss_scale.map(|_| scalar(state, "loss_scale")).transpose()?;
        let mut optimizer = self.optimizer.clone();
        optimizer.load(&parameters.specs, &state.optimizer, steps)?;
        let averaged = if state.scalars.contains_key(EMA_STEPS) { scalar(state, EMA_STEPS)? } else { 0 };
        parameters.load_averaged(&state.model, &state.optimizer, averaged, self.network)?;
        (self.optimizer, self.loss_scale) = (optimizer, loss_scale);
        Ok(())
    }

    fn factor(&self) -> f64 {
        self.loss_scale.map_or(1.0, |scale| scale.factor)
    }

    fn advice(&self) -> String {
        format!("Lower the learning rate ({}), or look at the data; the weights were left as they were", self.lr_key)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parameters::{Init, Role};
    use super::*;
    use feedline::train::schedule::OptimizerKind;

    #[test]
    fn only_a_network_with_a_backbone_is_frozen() {
        let mut parameters = Parameters::default();
        parameters.add("head".into(), vec![2], Role::Weight, Init::Zeros, false);
        let mut stepper = Stepper::new(Optimizer::new(OptimizerKind::Sgd, 0.9, 0.0, 2), &parameters, "it", "lr");
        stepper.set_frozen(&parameters, false).unwrap();
        let error = stepper.set_frozen(&parameters, true).unwrap_err().to_string();
        assert!(error.contains("the task has none that it could freeze") && !stepper.is_frozen(), "{error}");
        parameters.add("body".into(), vec![2], Role::Weight, Init::Zeros, true);
        stepper.set_frozen(&parameters, true).unwrap();
        assert!(stepper.is_frozen());
    }
}
