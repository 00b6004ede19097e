//! The classification task: one network, its loss and its optimiser behind `feedline::train::Task`. Owns what one step
//! is; epochs, learning rates and files belong to the loop.

use super::backbone::Backbone;
use super::forward::{BatchStatistics, Dropout, Forward, Half, Pass};
use super::model::Model;
use super::synced::Synced;
use crate::classification::config::Config;
use crate::network::device::{self, DeviceKind, Precision};
use crate::network::optimizer::{Optimizer, check_settings};
use crate::network::step::Stepper;
use burn::tensor::Device;
use feedline::train::group::Group;
use feedline::train::schedule::OptimizerKind;
use feedline::train::{Tally, Task, TaskState};
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

/// An image classifier in training. Parameters and the optimiser live in main memory; the device computes the passes.
///
/// On the CPU a step is a pure function of state, batch and learning rate, bit for bit, on one machine with one thread
/// count. Nothing of the kind is promised for a GPU.
#[derive(Debug)]
pub struct ClassificationTask {
    options: TaskOptions,
    device: Device,
    model: Model,
    stepper: Stepper,
}

impl ClassificationTask {
    /// A task at its first step, with weights that depend on `options.seed` alone.
    ///
    /// # Errors
    /// A value out of range, or a device or precision that is not to be had.
    pub fn new(options: TaskOptions) -> Result<ClassificationTask> {
        if options.num_classes == 0 {
            return Err(Error::config("a classifier needs at least one class", "Name the classes of the data set"));
        }
        check_settings(options.momentum, options.weight_decay)?;
        let device = options.device.open()?;
        device::check_precision(&device, options.precision)?;
        let model = Model::new(options.backbone, options.num_classes, options.seed);
        let parameters = model.store.parameters.len();
        let optimizer = Optimizer::new(options.optimizer, options.momentum, options.weight_decay, parameters);
        let stepper = Stepper::new(optimizer, &model.store, options.backbone.name(), "init_lr");
        Ok(ClassificationTask { stepper: stepper.with_precision(options.precision), device, model, options })
    }

    /// The settings that it was made from.
    pub fn options(&self) -> &TaskOptions {
        &self.options
    }

    /// The device's own name, `cpu` for the CPU back end.
    pub fn device_name(&self) -> String {
        device::name(&self.device)
    }

    /// Number of trainable values, those of a frozen backbone included.
    pub fn parameter_count(&self) -> usize {
        self.model.store.parameters.len()
    }

    /// The logits of the whole batch, padding included: (B, classes) row-major, in evaluation mode.
    ///
    /// # Errors
    /// A batch that does not fit the model. Labels are not looked at.
    pub fn logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        let (images, shape) = images(batch, batch.len())?;
        Ok(if shape[0] == 0 {
            Vec::new()
        } else {
            Forward::new(&self.model, &self.device, Pass::Evaluate).through(images, shape).logits()
        })
    }

    /// The network, for the import of weights.
    pub(crate) fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    fn labels<'b>(&self, batch: &'b Batch) -> Result<&'b [i64]> {
        let array = batch.stacked("label")?;
        if array.dtype() != DType::I64 || array.shape() != [batch.len()] {
            return Err(Error::train(
                format!("field \"label\" is {:?} {:?}, not I64 [{}]", array.dtype(), array.shape(), batch.len()),
                "Use the classification pipeline",
            ));
        }
        let labels = &array.as_slice::<i64>()[..batch.valid.min(batch.len())];
        match labels.iter().position(|&label| label < 0 || label >= self.options.num_classes as i64) {
            None => Ok(labels),
            Some(at) => Err(Error::train(
                format!(
                    "sample {} has label {}, but there are {} classes",
                    batch.indices[at], labels[at], self.options.num_classes
                ),
                "Check the list of classes against the data",
            )),
        }
    }
}

impl Task for ClassificationTask {
    fn metric_names(&self) -> &'static [&'static str] {
        &["accuracy"]
    }

    fn set_frozen(&mut self, frozen: bool) -> Result<()> {
        self.stepper.set_frozen(&self.model.store, frozen)
    }

    fn train_step(&mut self, batch: &Batch, lr: f64, group: &dyn Group) -> Result<Tally> {
        let labels = self.labels(batch)?;
        let (images, shape) = images(batch, labels.len())?;
        let dropout = Dropout { seed: self.options.seed, epoch: batch.epoch, indices: &batch.indices[..labels.len()] };
        let half = match self.options.precision {
            Precision::F32 => None,
            Precision::Bf16 => Some(Half::Bf16),
            Precision::F16 => Some(Half::F16),
        };
        let frozen = self.stepper.is_frozen();
        let pass = Forward::new(&self.model, &self.device, Pass::Train { frozen, half, dropout });
        let alone = group.world_size() == 1;
        let synced = self.options.sync_bn && !alone && !frozen;
        let mut pass = match labels.is_empty() {
            true if synced => {
                return Err(Error::train(
                    format!("epoch {} step {}: this rank has no sample for --sync-bn", batch.epoch, batch.step),
                    "Use the tail `drop`, so that every rank has samples at every step",
                ));
            }
            true => Through::Nothing,
            false if synced => Through::Synced(Synced::run(pass, group, images, shape)?),
            false => Through::Forward(pass.through(images, shape)),
        };
        let (mut tally, slope) = cross_entropy(&pass.logits(), labels, self.options.num_classes);
        let Some(share) = self.stepper.share(&mut tally, batch, group)? else { return Ok(tally) };
        let slope = slope.into_iter().map(|value| (value * share) as f32).collect();
        let statistics = pass.take_statistics();
        pass.backward(slope, self.stepper.gradient_mut())?;
        self.stepper.step(&mut self.model.store, lr, batch, group)?;
        for seen in statistics {
            for (range, fresh) in [(seen.mean_range, seen.mean), (seen.var_range, seen.var)] {
                for (running, fresh) in self.model.store.buffers[range].iter_mut().zip(fresh) {
                    *running = (1.0 - STATISTICS_MOMENTUM) * *running + STATISTICS_MOMENTUM * fresh;
                }
            }
        }
        Ok(tally)
    }

    fn broadcast(&mut self, group: &dyn Group) -> Result<()> {
        self.model.store.broadcast(group)
    }

    fn eval_step(&mut self, batch: &Batch) -> Result<Tally> {
        let labels = self.labels(batch)?;
        let (images, shape) = images(batch, labels.len())?;
        if labels.is_empty() {
            return Ok(Tally { metric_sums: vec![0.0], ..Tally::default() });
        }
        let logits = Forward::new(&self.model, &self.device, Pass::Evaluate).through(images, shape).logits();
        Ok(cross_entropy(&logits, labels, self.options.num_classes).0)
    }

    fn state(&self) -> Result<TaskState> {
        Ok(self.stepper.state(&self.model.store))
    }

    fn load_state(&mut self, state: TaskState) -> Result<()> {
        self.stepper.load_state(&mut self.model.store, &state)
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

/// Softmax cross entropy, in f64: the tally of loss and accuracy, and the derivative of each sample's loss by its
/// logits (row-major). The first of equal largest logits counts as the answer.
fn cross_entropy(logits: &[f32], labels: &[i64], classes: usize) -> (Tally, Vec<f64>) {
    let mut tally = Tally { samples: labels.len() as u64, loss_sum: 0.0, metric_sums: vec![0.0] };
    let mut slope = Vec::with_capacity(logits.len());
    for (row, &label) in logits.chunks_exact(classes).zip(labels) {
        let label = label as usize;
        let answer = (0..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
        let largest = f64::from(row[answer]);
        let sum: f64 = row.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        tally.loss_sum += sum.ln() + largest - f64::from(row[label]);
        tally.metric_sums[0] += f64::from(u8::from(answer == label));
        slope.extend(
            row.iter()
                .enumerate()
                .map(|(class, &logit)| (f64::from(logit) - largest).exp() / sum - f64::from(u8::from(class == label))),
        );
    }
    (tally, slope)
}
