//! The scene completion task: the network, its loss and its optimiser behind `feedline::train::Task`. Owns what one step
//! is; epochs, learning rates and files belong to the loop.

use super::batch::{Targets, inputs, targets};
use super::forward::Frozen;
use super::loss::{Loss, predicted};
use super::model::{Model, SKETCH_CLASSES, Sizes};
use crate::network::device::{self, DeviceKind};
use crate::network::optimizer::{Optimizer, check_settings};
use crate::network::step::Stepper;
use crate::scene_completion::config::Config;
use crate::scene_completion::metrics::Scores;
use burn::tensor::Device;
use feedline::train::group::Group;
use feedline::train::schedule::OptimizerKind;
use feedline::train::{Tally, Task, TaskState};
use feedline::{Batch, Error, Result};

/// The network's name in an error.
const NETWORK: &str = "the scene completion network";

/// The settings of a task.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskOptions {
    /// Voxels along each side, all even.
    pub grid: [usize; 3],
    /// Height and width of the pictures.
    pub image_px: [u32; 2],
    /// Number of classes, 2..=255: labels are 0..num_classes, 0 is empty space; 255 is a voxel nobody knows.
    pub num_classes: usize,
    /// Features of a voxel: the width of the network.
    pub channels: usize,
    /// The network sees `hha_img` beside `data`.
    pub use_hha: bool,
    /// Factor of the sketch's part in the loss; at least 0.
    pub sketch_weight: f64,
    /// Factor of each class in the loss, at least 0; empty for 1 each.
    pub class_weights: Vec<f64>,
    /// The optimiser.
    pub optimizer: OptimizerKind,
    /// SGD's momentum, Adam's beta1; in [0, 1).
    pub momentum: f64,
    /// Pull towards zero on weights of convolutions and linear layers; at least 0.
    pub weight_decay: f64,
    /// The device that the passes run on.
    pub device: DeviceKind,
    /// Decides the initial weights.
    pub seed: u64,
}

impl Default for TaskOptions {
    /// NYU as TorchSSC has it, with its optimiser.
    fn default() -> TaskOptions {
        TaskOptions {
            grid: [60, 36, 60],
            image_px: [480, 640],
            num_classes: 12,
            channels: 16,
            use_hha: true,
            sketch_weight: 1.0,
            class_weights: Vec::new(),
            optimizer: OptimizerKind::Sgd,
            momentum: 0.9,
            weight_decay: 5e-4,
            device: DeviceKind::Cpu,
            seed: 12345,
        }
    }
}

/// Gives the settings of the task of `config`.
pub fn task_options(config: &Config) -> TaskOptions {
    let (data, model, train) = (&config.data, &config.model, &config.train);
    TaskOptions {
        image_px: data.image_px,
        grid: data.grid,
        num_classes: data.num_classes as usize,
        channels: model.channels,
        use_hha: model.use_hha,
        optimizer: train.optimizer,
        momentum: train.momentum,
        weight_decay: train.weight_decay,
        sketch_weight: train.sketch_weight,
        class_weights: train.class_weights.clone(),
        device: model.device,
        seed: config.seed,
    }
}

/// A network that completes scenes, in training. Parameters and the optimiser live in main memory; the device computes
/// the passes.
///
/// On the CPU a step is a pure function of state, batch and learning rate, bit for bit, on one machine with one thread
/// count. Nothing of the kind is promised for a GPU.
///
/// [`Tally::metric_sums`] holds the counts of [`Scores::to_sums`], and [`Task::metrics`] makes the figures of them.
#[derive(Debug)]
pub struct SceneTask {
    options: TaskOptions,
    device: Device,
    model: Model,
    loss: Loss,
    stepper: Stepper,
}

impl SceneTask {
    /// A task at its first step, with weights that depend on `options.seed` alone.
    ///
    /// # Errors
    /// A value out of range, or a device that is not to be had.
    pub fn new(options: TaskOptions) -> Result<SceneTask> {
        if !(2..=255).contains(&options.num_classes) {
            return Err(Error::config(
                format!("num_classes is {}, outside 2..=255", options.num_classes),
                "Class 0 is empty space and 255 is kept for voxels nobody knows; NYU has 12",
            ));
        }
        if !options.class_weights.is_empty() && options.class_weights.len() != options.num_classes {
            return Err(Error::config(
                format!(
                    "class_weights has {} numbers for {} classes",
                    options.class_weights.len(),
                    options.num_classes
                ),
                "Give one for each class, or none for 1 each",
            ));
        }
        for weight in options.class_weights.iter().chain([&options.sketch_weight]) {
            if !(*weight >= 0.0 && weight.is_finite()) {
                return Err(Error::config(
                    format!("a weight of the loss is {weight}, not a finite number of at least 0"),
                    "Look at sketch_weight and class_weights; use 1 if in doubt",
                ));
            }
        }
        check_settings(options.momentum, options.weight_decay)?;
        let sizes = Sizes {
            image_px: options.image_px.map(|px| px as usize),
            grid: options.grid,
            num_classes: options.num_classes,
            channels: options.channels,
            use_hha: options.use_hha,
        };
        let model = Model::new(sizes, options.seed)?;
        let parameters = model.store.parameters.len();
        let optimizer = Optimizer::new(options.optimizer, options.momentum, options.weight_decay, parameters);
        let class_weights = match options.class_weights.as_slice() {
            [] => vec![1.0; options.num_classes],
            weights => weights.to_vec(),
        };
        Ok(SceneTask {
            device: options.device.open()?,
            loss: Loss { class_weights, sketch_weight: options.sketch_weight },
            stepper: Stepper::new(optimizer, &model.store, NETWORK, "train.lr"),
            model,
            options,
        })
    }

    /// The settings that it was made from.
    pub fn options(&self) -> &TaskOptions {
        &self.options
    }

    /// The device's own name, `cpu` for the CPU back end.
    pub fn device_name(&self) -> String {
        device::name(&self.device)
    }

    /// Number of trainable values, those of a frozen 2D branch included.
    pub fn parameter_count(&self) -> usize {
        self.model.store.parameters.len()
    }

    /// The class of each voxel of the whole batch, padding included: (B, voxels) row-major.
    ///
    /// # Errors
    /// A batch that does not fit the network. Labels, weights and sketch are not looked at, and need not be there.
    pub fn predictions(&self, batch: &Batch) -> Result<Vec<u8>> {
        let inputs = inputs(batch, batch.len(), &self.model.sizes)?;
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let [semantic, _] = self.model.forward(&self.device, inputs, None).logits();
        Ok(predicted(&semantic, self.options.num_classes))
    }

    /// Loss and counts of `targets`. Replaces the logits by the derivatives of the samples' losses.
    fn loss_and_counts(&self, [semantic, sketch]: [&mut [f32]; 2], targets: Targets<'_>) -> Tally {
        let (voxels, classes) = (self.model.sizes.voxels(), self.options.num_classes);
        let mut scores = Scores::new(classes);
        let mut tally = Tally::default();
        let logits = semantic.chunks_exact_mut(voxels * classes).zip(sketch.chunks_exact_mut(voxels * SKETCH_CLASSES));
        for ((semantic, sketch), target) in logits.zip(targets.each()) {
            scores.count(&predicted(semantic, classes), target.voxels);
            tally.loss_sum += self.loss.sample_loss([semantic, sketch], target);
            tally.samples += 1;
        }
        Tally { metric_sums: scores.to_sums(), ..tally }
    }
}

impl Task for SceneTask {
    fn metric_names(&self) -> &'static [&'static str] {
        Scores::NAMES
    }

    fn metric_sums_len(&self) -> usize {
        Scores::sums_len(self.options.num_classes)
    }

    fn metrics(&self, tally: &Tally) -> Vec<f64> {
        Scores::from_sums(self.options.num_classes, &tally.metric_sums).figures().to_vec()
    }

    fn set_frozen(&mut self, frozen: bool) -> Result<()> {
        self.stepper.set_frozen(&self.model.store, frozen)
    }

    fn train_step(&mut self, batch: &Batch, lr: f64, group: &dyn Group) -> Result<Tally> {
        let samples = batch.valid.min(batch.len());
        let inputs = inputs(batch, samples, &self.model.sizes)?;
        let targets = targets(batch, samples, &self.model.sizes)?;
        // This rank may have no sample.
        let frozen = Frozen(self.stepper.is_frozen());
        let pass = (samples > 0).then(|| self.model.forward(&self.device, inputs, Some(frozen)));
        let [mut semantic, mut sketch] = pass.as_ref().map_or_else(Default::default, |pass| pass.logits());
        let mut tally = self.loss_and_counts([&mut semantic, &mut sketch], targets);
        let Some(share) = self.stepper.share(&mut tally, batch, group)? else { return Ok(tally) };
        semantic.iter_mut().chain(&mut sketch).for_each(|slope| *slope *= share as f32);
        match pass {
            Some(pass) => pass.backward([&semantic, &sketch], self.stepper.gradient_mut()),
            None => self.stepper.gradient_mut().fill(0.0),
        }
        self.stepper.step(&mut self.model.store, lr, batch, group)?;
        Ok(tally)
    }

    fn broadcast(&mut self, group: &dyn Group) -> Result<()> {
        self.model.store.broadcast(group)
    }

    fn eval_step(&mut self, batch: &Batch) -> Result<Tally> {
        let samples = batch.valid.min(batch.len());
        let inputs = inputs(batch, samples, &self.model.sizes)?;
        let targets = targets(batch, samples, &self.model.sizes)?;
        let [mut semantic, mut sketch] = match samples {
            0 => Default::default(),
            _ => self.model.forward(&self.device, inputs, None).logits(),
        };
        Ok(self.loss_and_counts([&mut semantic, &mut sketch], targets))
    }

    fn state(&self) -> Result<TaskState> {
        Ok(self.stepper.state(&self.model.store))
    }

    fn load_state(&mut self, state: TaskState) -> Result<()> {
        self.stepper.load_state(&mut self.model.store, &state)
    }
}
