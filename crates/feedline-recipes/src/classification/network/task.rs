//! The classification task: a backbone, cross entropy and an optimiser. Owns the passes through the network; what a step is
//! belongs to [`Supervised`], epochs, learning rates and files to the loop.

use super::backbone::Backbone;
use super::forward::{BatchStatistics, Dropout, Forward, Half, Pass};
use super::model::Model;
use super::synced::Synced;
use crate::classification::config::Config;
use crate::network::device::{self, DeviceKind, Precision};
use crate::network::optimizer::{Optimizer, check_settings};
use crate::network::parameters::Parameters;
use crate::network::step::Stepper;
use crate::network::supervised::{CrossEntropy, Supervised, SupervisedNetwork, TrainPass};
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
}

/// Gives the settings of the task of `config`.
pub fn task_options(config: &Config, num_classes: usize) -> TaskOptions {
    TaskOptions {
        backbone: config.model.backbone,
        num_classes,
        optimizer: config.train.optimizer,
        momentum: config.train.momentum,
        weight_decay: config.train.weight_decay,
        precision: config.model.precision,
        device: config.model.device,
        seed: config.seed,
        sync_bn: config.train.sync_bn,
    }
}

/// An image classifier in training, by cross entropy. Parameters and the optimiser live in main memory; the device computes the
/// passes.
///
/// On the CPU a step is a pure function of state, batch and learning rate, bit for bit, on one machine with one thread
/// count. Nothing of the kind is promised for a GPU.
pub type ClassificationTask = Supervised<Classifier, CrossEntropy>;

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
        let model = Model::new(options.backbone, classes, options.seed);
        let parameters = model.store.parameters.len();
        let optimizer = Optimizer::new(options.optimizer, options.momentum, options.weight_decay, parameters);
        let stepper = Stepper::new(optimizer, &model.store, options.backbone.name(), "init_lr");
        let stepper = stepper.with_precision(options.precision);
        Ok(Supervised::from_parts(Classifier { options, device, model }, CrossEntropy { classes }, stepper))
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
