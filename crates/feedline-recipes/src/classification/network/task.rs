//! The classification task: a backbone, a loss and an optimiser. Owns the passes through the network; what a step is
//! belongs to [`Supervised`], epochs, learning rates and files to the loop.

use super::backbone::Backbone;
use super::forward::{BatchStatistics, Dropout, Forward, Half, Pass};
use super::loss::{ClassLoss, LossOptions};
use super::model::Model;
use super::synced::Synced;
use crate::classification::config::{ClassWeights, Config};
use crate::network::device::{self, DeviceKind, Precision};
use crate::network::ema::Ema;
use crate::network::optimizer::{BETA2, Optimizer, check_settings};
use crate::network::parameters::Parameters;
use crate::network::step::Stepper;
use crate::network::supervised::{Supervised, SupervisedNetwork, TrainPass};
use burn::tensor::Device;
use feedline::train::group::Group;
use feedline::train::schedule::OptimizerKind;
use feedline::{Batch, DType, Error, Result};

/// Share of the batch in a running statistic, torch's default.
const STATISTICS_MOMENTUM: f32 = 0.1;

/// The settings of a task.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskOptions {
    /// The network.
    pub backbone: Backbone,
    /// Number of classes: labels are 0..num_classes.
    pub num_classes: usize,
    /// The optimiser.
    pub optimizer: OptimizerKind,
    /// SGD's momentum, Adam's beta1; in [0, 1).
    pub momentum: f64,
    /// Pull towards zero on weights of convolutions and of the head; at least 0.
    pub weight_decay: f64,
    /// Number type of the training passes.
    pub precision: Precision,
    /// The device that the passes run on.
    pub device: DeviceKind,
    /// Decides the initial weights and the units dropped.
    pub seed: u64,
    /// Norm layers use the statistics of the batch over all ranks; without it, those of their own rank's share.
    pub sync_bn: bool,
    /// The loss in training.
    #[serde(default)]
    pub loss: LossOptions,
    /// Further settings of a step.
    #[serde(default)]
    pub step: StepOptions,
}

/// Settings of a step that are off by default.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepOptions {
    /// SGD's momentum is Nesterov's.
    pub nesterov: bool,
    /// The decay rate of Adam's second moment; in [0, 1).
    pub beta2: f64,
    /// A step is computed in so many parts, one after the other.
    pub accumulate: u64,
    /// Gradients longer than this are cut to it, as by torch's `clip_grad_norm_`; 0 is never.
    pub clip_grad_norm: f64,
    /// Values of a gradient are cut to this size, as by torch's `clip_grad_value_`; 0 is never.
    pub clip_grad_value: f64,
    /// The rate of a block of layers as a share of that of the block above it; 1 is the same rate for all.
    pub layer_decay: f64,
    /// What each step keeps of the averages of all numbers, which are evaluated then; 0 is no averages.
    pub ema_decay: f64,
}

impl Default for StepOptions {
    fn default() -> StepOptions {
        let (clip_grad_norm, clip_grad_value, ema_decay) = (0.0, 0.0, 0.0);
        let (nesterov, beta2, accumulate, layer_decay) = (true, BETA2, 1, 1.0);
        StepOptions { nesterov, beta2, accumulate, clip_grad_norm, clip_grad_value, layer_decay, ema_decay }
    }
}

/// Gives the settings of the task of `config`, whose training split has so many samples of each class.
pub fn task_options(config: &Config, class_samples: &[u64]) -> TaskOptions {
    let train = &config.train;
    let class_weights = match &train.class_weights {
        ClassWeights::None => Vec::new(),
        ClassWeights::List(weights) => weights.clone(),
        // n / (K * n_c), as sklearn's `class_weight="balanced"`. A class without samples has no part in any loss.
        ClassWeights::Balanced => {
            let all = class_samples.iter().sum::<u64>() as f64 / class_samples.len().max(1) as f64;
            class_samples.iter().map(|samples| if *samples == 0 { 0.0 } else { all / *samples as f64 }).collect()
        }
    };
    TaskOptions {
        loss: LossOptions {
            loss: train.loss,
            label_smoothing: train.label_smoothing,
            focal_gamma: train.focal_gamma,
            focal_alpha: train.focal_alpha,
            class_weights,
        },
        step: StepOptions {
            nesterov: train.nesterov,
            beta2: train.beta2,
            accumulate: train.accumulate,
            clip_grad_norm: train.clip_grad_norm,
            clip_grad_value: train.clip_grad_value,
            layer_decay: train.layer_decay,
            ema_decay: train.ema_decay,
        },
        backbone: config.model.backbone,
        num_classes: class_samples.len(),
        optimizer: config.train.optimizer,
        momentum: config.train.momentum,
        weight_decay: config.train.weight_decay,
        precision: config.model.precision,
        device: config.model.device,
        seed: config.seed,
        sync_bn: config.train.sync_bn,
    }
}

/// An image classifier in training. Parameters and the optimiser live in main memory; the device computes the
/// passes.
///
/// On the CPU a step is a pure function of state, batch and learning rate, bit for bit, on one machine with one thread
/// count. Nothing of the kind is promised for a GPU.
pub type ClassificationTask = Supervised<Classifier, ClassLoss>;

/// The network of a [`ClassificationTask`] on its device.
#[derive(Debug)]
pub struct Classifier {
    options: TaskOptions,
    device: Device,
    model: Model,
}

impl ClassificationTask {
    /// A task at its first step, with weights that depend on `options.seed` alone.
    ///
    /// # Errors
    /// A value out of range, or a device or precision that is not to be had.
    pub fn new(options: TaskOptions) -> Result<ClassificationTask> {
        let classes = options.num_classes;
        if classes == 0 {
            return Err(Error::config("a classifier needs at least one class", "Name the classes of the data set"));
        }
        check_settings(options.momentum, options.weight_decay)?;
        let device = options.device.open()?;
        device::check_precision(&device, options.precision)?;
        let mut model = Model::new(options.backbone, classes, options.seed);
        model.decay_rates(options.step.layer_decay);
        let parameters = model.store.parameters.len();
        let optimizer = Optimizer::new(options.optimizer, options.momentum, options.weight_decay, parameters);
        let step = &options.step;
        let optimizer = optimizer.with_beta2(step.beta2).with_nesterov(step.nesterov);
        let stepper = Stepper::new(optimizer, &model.store, options.backbone.name(), "init_lr");
        let stepper = stepper.with_precision(options.precision);
        let stepper = stepper.with_clip_norm(step.clip_grad_norm).with_clip_value(step.clip_grad_value);
        model.store.ema = (step.ema_decay > 0.0).then(|| Ema::new(step.ema_decay));
        let (loss, parts) = (ClassLoss::new(options.loss.clone(), classes)?, step.accumulate as usize);
        let task = Supervised::from_parts(Classifier { options, device, model }, loss, stepper);
        Ok(task.with_accumulation(parts))
    }

    /// The settings that it was made from.
    pub fn options(&self) -> &TaskOptions {
        &self.network().options
    }

    /// The device's own name, `cpu` for the CPU back end.
    pub fn device_name(&self) -> String {
        device::name(&self.network().device)
    }

    /// The logits of the whole batch, padding included: (B, classes) row-major, in evaluation mode.
    ///
    /// # Errors
    /// A batch that does not fit the model. Labels are not looked at.
    pub fn logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        self.network().outputs(batch, batch.len())
    }

    /// The network, for the import of weights.
    pub(crate) fn model_mut(&mut self) -> &mut Model {
        &mut self.network_mut().model
    }
}

impl SupervisedNetwork for Classifier {
    fn parameters(&self) -> &Parameters {
        &self.model.store
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.model.store
    }

    fn outputs(&self, batch: &Batch, samples: usize) -> Result<Vec<f32>> {
        let (images, shape) = images(batch, samples)?;
        Ok(match samples {
            0 => Vec::new(),
            _ => Forward::new(&self.model, &self.device, Pass::Evaluate).through(images, shape).logits(),
        })
    }

    fn train_pass<'p>(
        &'p self,
        batch: &'p Batch,
        samples: usize,
        frozen: bool,
        group: &'p dyn Group,
    ) -> Result<TrainPass<'p>> {
        let (images, shape) = images(batch, samples)?;
        let dropout = Dropout { seed: self.options.seed, epoch: batch.epoch, indices: &batch.indices[..samples] };
        let half = match self.options.precision {
            Precision::F32 => None,
            Precision::Bf16 => Some(Half::Bf16),
            Precision::F16 => Some(Half::F16),
        };
        let pass = Forward::new(&self.model, &self.device, Pass::Train { frozen, half, dropout });
        let synced = self.options.sync_bn && group.world_size() > 1 && !frozen;
        let mut pass = match samples {
            0 if synced => {
                return Err(Error::train(
                    format!("epoch {} step {}: this rank has no sample for --sync-bn", batch.epoch, batch.step),
                    "Use the tail `drop`, so that every rank has samples at every step",
                ));
            }
            0 => Through::Nothing,
            _ if synced => Through::Synced(Synced::run(pass, group, images, shape)?),
            _ => Through::Forward(pass.through(images, shape)),
        };
        let outputs = pass.logits();
        let backward = move |slope: &[f32], gradient: &mut [f32]| {
            let statistics = pass.take_statistics();
            pass.backward(slope.to_vec(), gradient)?;
            let seen = statistics
                .into_iter()
                .flat_map(|seen| [(seen.mean_range, seen.mean), (seen.var_range, seen.var)])
                .map(|(range, fresh)| {
                    let running = self.model.store.buffers[range.clone()].iter().zip(fresh);
                    let running = running
                        .map(|(running, fresh)| (1.0 - STATISTICS_MOMENTUM) * running + STATISTICS_MOMENTUM * fresh);
                    (range, running.collect())
                });
            Ok(seen.collect())
        };
        Ok(TrainPass { outputs, backward: Box::new(backward) })
    }
}

/// A training pass, by the way it went.
enum Through<'a> {
    /// This rank had no sample.
    Nothing,
    Forward(Forward<'a>),
    Synced(Synced<'a>),
}

impl Through<'_> {
    fn logits(&self) -> Vec<f32> {
        match self {
            Through::Nothing => Vec::new(),
            Through::Forward(pass) => pass.logits(),
            Through::Synced(pass) => pass.forward.logits(),
        }
    }

    fn backward(self, slope: Vec<f32>, gradient: &mut [f32]) -> Result<()> {
        match self {
            Through::Nothing => gradient.fill(0.0),
            Through::Forward(mut pass) => pass.backward(slope, gradient),
            Through::Synced(pass) => pass.backward(slope, gradient)?,
        }
        Ok(())
    }

    fn take_statistics(&mut self) -> Vec<BatchStatistics> {
        match self {
            Through::Nothing => Vec::new(),
            Through::Forward(pass) => std::mem::take(&mut pass.statistics),
            Through::Synced(pass) => std::mem::take(&mut pass.forward.statistics),
        }
    }
}

/// The pictures of the `count` leading samples and their shape (count, 3, H, W).
fn images(batch: &Batch, count: usize) -> Result<(&[f32], [usize; 4])> {
    let array = batch.stacked("image")?;
    match *array.shape() {
        [samples, 3, height, width]
            if array.dtype() == DType::F32 && samples == batch.len() && height > 0 && width > 0 =>
        {
            let shape = [count, 3, height, width];
            Ok((&array.as_slice::<f32>()[..shape.iter().product()], shape))
        }
        _ => Err(Error::train(
            format!("field \"image\" is {:?} {:?}, not F32 [{}, 3, H, W]", array.dtype(), array.shape(), batch.len()),
            "Use the classification pipeline",
        )),
    }
}
