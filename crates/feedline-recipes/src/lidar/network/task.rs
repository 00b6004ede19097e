//! The lidar task: the network, its loss and its optimiser behind `feedline::train::Task`. Owns what one step is; epochs,
//! learning rates and files belong to the loop.

use super::anchors::{Anchors, TURNS};
use super::batch::{COMPUTED, Objects, inputs, objects};
use super::loss::{detections, numbers, of_sample};
use super::model::{Model, Sizes};
use crate::lidar::config::{Config, ModelConfig};
use crate::lidar::data::Clouds;
use crate::lidar::metrics::{Detection, Hits, nms};
use crate::network::device::{self, Precision};
use crate::network::loss_scale::LossScale;
use crate::network::optimizer::{Optimizer, check_settings};
use crate::network::parameters::scalar;
use burn::tensor::{Device, FloatDType};
use feedline::augment::boxes::Box3d;
use feedline::augment::voxels::Grid;
use feedline::train::group::Group;
use feedline::train::{Tally, Task, TaskState, Tensors};
use feedline::{Batch, Error, Result};

/// What the network is called in an error.
const NETWORK: &str = "the lidar network";

/// What a task is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskOptions {
    /// The pillars: one voxel in height.
    pub grid: Grid,
    /// C, the numbers of a delivered point.
    pub num_point_features: usize,
    /// Class i is label i + 1.
    pub class_names: Vec<String>,
    /// The network, one anchor for each class, and what becomes of its boxes.
    pub model: ModelConfig,
    /// Decoupled pull towards zero on all that is trained; at least 0.
    pub weight_decay: f64,
    /// Longer gradients are cut to this length; 0 is never.
    pub grad_norm_clip: f64,
    /// Decides the initial weights.
    pub seed: u64,
}

/// What the task of `config` on this data is made from.
///
/// # Errors
/// Data without voxels.
pub fn task_options(config: &Config, data: &Clouds) -> Result<TaskOptions> {
    let grid = data.grid().ok_or_else(|| {
        Error::config("the clouds have no voxels", "Add transform_points_to_voxels to clouds.process")
    })?;
    Ok(TaskOptions {
        grid,
        num_point_features: data.num_point_features(),
        class_names: config.clouds.class_names.clone(),
        model: config.model.clone(),
        weight_decay: config.train.weight_decay,
        grad_norm_clip: config.train.grad_norm_clip,
        seed: config.seed,
    })
}

/// A network that finds boxes in clouds, in training. Parameters and the optimiser live in main memory; the device computes
/// the passes.
///
/// On the CPU a step is a pure function of state, batch, learning rate and momentum, bit for bit, on one machine with one
/// thread count. Nothing of the kind is promised for a GPU.
///
/// [`Tally::metric_sums`] holds the counts of [`Hits`], and [`Task::metrics`] makes the figure of them.
#[derive(Debug)]
pub struct LidarTask {
    options: TaskOptions,
    device: Device,
    model: Model,
    anchors: Anchors,
    optimizer: Optimizer,
    /// Only for f16.
    loss_scale: Option<LossScale>,
    /// One value per parameter.
    gradient: Vec<f32>,
}

impl LidarTask {
    /// A task at its first step, with weights that depend on `options.seed` alone.
    ///
    /// # Errors
    /// A value out of range, or a device or precision that is not to be had.
    pub fn new(options: TaskOptions) -> Result<LidarTask> {
        let TaskOptions { grid, class_names, model: config, .. } = &options;
        if class_names.is_empty() || config.anchors.len() != class_names.len() || grid.size[2] != 1 {
            return Err(Error::config(
                format!(
                    "{} anchors for {} classes, on a grid of {:?} voxels",
                    config.anchors.len(),
                    class_names.len(),
                    grid.size
                ),
                "Give one for each class, and pillars: one voxel in height",
            ));
        }
        check_settings(0.0, options.weight_decay)?;
        let device = config.device.open()?;
        device::check_precision(&device, config.precision)?;
        let sizes = Sizes {
            grid: [grid.size[0], grid.size[1]],
            features: options.num_point_features + COMPUTED,
            channels: config.channels,
            blocks: config.blocks.clone(),
            anchors: config.anchors.len() * TURNS,
        };
        let anchors = Anchors::new(&config.anchors, grid, sizes.places());
        let model = Model::new(sizes, options.seed);
        let parameters = model.store.parameters.len();
        Ok(LidarTask {
            optimizer: Optimizer::adam_onecycle(options.weight_decay, parameters),
            loss_scale: (config.precision == Precision::F16).then(LossScale::new),
            gradient: vec![0.0; parameters],
            device,
            model,
            anchors,
            options,
        })
    }

    /// What it was made from.
    pub fn options(&self) -> &TaskOptions {
        &self.options
    }

    /// What the device calls itself, `cpu` for the CPU back end.
    pub fn device_name(&self) -> String {
        device::name(&self.device)
    }

    /// Number of trainable values.
    pub fn parameter_count(&self) -> usize {
        self.model.store.parameters.len()
    }

    /// What is found in each of the leading `batch.valid` frames, the best first. Boxes of the batch are not looked at, and
    /// need not be there.
    ///
    /// # Errors
    /// A batch that does not fit the network.
    pub fn predictions(&self, batch: &Batch) -> Result<Vec<Vec<Detection>>> {
        let outputs = self.outputs(batch)?;
        Ok(self.samples(&outputs).map(|outputs| self.found(outputs)).collect())
    }

    /// Takes over saved parameters, for evaluation.
    ///
    /// # Errors
    /// A tensor that is missing, unknown or of another shape, by name; nothing is changed then.
    pub fn load_model(&mut self, model: &Tensors) -> Result<()> {
        self.model.store.load(model, NETWORK)
    }

    /// What the network says of the real frames of a batch, without gradients and in f32.
    fn outputs(&self, batch: &Batch) -> Result<Vec<f32>> {
        let samples = batch.valid.min(batch.len());
        let inputs = inputs(batch, samples, &self.options.grid, self.options.num_point_features)?;
        Ok(match samples {
            0 => Vec::new(),
            _ => self.model.forward(&self.device, inputs, false, None).outputs(),
        })
    }

    fn samples<'o>(&self, outputs: &'o [f32]) -> impl Iterator<Item = &'o [f32]> {
        outputs.chunks_exact(numbers(&self.anchors))
    }

    /// The boxes of a frame, without those that overlap better ones.
    fn found(&self, outputs: &[f32]) -> Vec<Detection> {
        let ModelConfig { score_threshold, nms_iou, nms_most: [before, after], .. } = self.options.model;
        let all = detections(outputs, &self.anchors, score_threshold, before);
        let boxes: Vec<Box3d> = all.iter().map(|found| found.bounds).collect();
        let scores: Vec<f32> = all.iter().map(|found| found.score).collect();
        nms(&boxes, &scores, nms_iou, after).into_iter().map(|kept| all[kept]).collect()
    }

    /// Loss and counts. Replaces the numbers by the derivatives of the samples' losses.
    fn judge(&self, outputs: &mut [f32], objects: &[Objects]) -> Tally {
        let mut hits = Hits::new(&self.options.class_names);
        let mut tally = Tally::default();
        for (outputs, objects) in outputs.chunks_exact_mut(numbers(&self.anchors)).zip(objects) {
            hits.count(&self.found(outputs), objects);
            tally.loss_sum += of_sample(outputs, &self.anchors, objects);
            tally.samples += 1;
        }
        Tally { metric_sums: hits.into_sums(), ..tally }
    }
}

impl Task for LidarTask {
    fn metric_names(&self) -> &'static [&'static str] {
        &["map_3d"]
    }

    fn metric_sums_len(&self) -> usize {
        Hits::sums_len(self.options.class_names.len())
    }

    fn metrics(&self, tally: &Tally) -> Vec<f64> {
        vec![Hits::mean_ap(&tally.metric_sums)]
    }

    /// Nothing in it is ever frozen.
    fn set_frozen(&mut self, _frozen: bool) {}

    fn set_momentum(&mut self, momentum: f64) {
        self.optimizer.set_momentum(momentum);
    }

    fn train_step(&mut self, batch: &Batch, lr: f64, group: &dyn Group) -> Result<Tally> {
        let samples = batch.valid.min(batch.len());
        let inputs = inputs(batch, samples, &self.options.grid, self.options.num_point_features)?;
        let objects = objects(batch, samples, self.options.class_names.len())?;
        let half = match self.options.model.precision {
            Precision::F32 => None,
            Precision::Bf16 => Some(FloatDType::BF16),
            Precision::F16 => Some(FloatDType::F16),
        };
        // This rank may have no sample.
        let pass = (samples > 0).then(|| self.model.forward(&self.device, inputs, true, half));
        let mut outputs = pass.as_ref().map_or_else(Vec::new, |pass| pass.outputs());
        let mut tally = self.judge(&mut outputs, &objects);
        tally.all_reduce(group)?;
        if tally.samples == 0 {
            return Ok(tally);
        }
        if !tally.loss_sum.is_finite() {
            return Err(Error::train(
                format!("the loss of epoch {} step {} is {}", batch.epoch, batch.step, tally.loss()),
                "Lower the learning rate (train.lr), or look at the data; the weights were left as they were",
            ));
        }

        // The mean over the samples of all ranks, times the loss scale.
        let factor = self.loss_scale.map_or(1.0, |scale| scale.factor);
        let share = (factor / tally.samples as f64) as f32;
        outputs.iter_mut().for_each(|slope| *slope *= share);
        match pass {
            Some(pass) => pass.backward(outputs, &mut self.gradient),
            None => self.gradient.fill(0.0),
        }
        group.all_reduce_f32(&mut self.gradient)?;
        // Every rank has the same sums, so every rank decides alike from here on.
        let norm = self.gradient.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() / factor;
        match &mut self.loss_scale {
            None if !norm.is_finite() => {
                return Err(Error::train(
                    format!("a gradient of epoch {} step {} is not finite", batch.epoch, batch.step),
                    "Lower the learning rate (train.lr), or look at the data; the weights were left as they were",
                ));
            }
            None => {}
            Some(scale) => scale.update(norm.is_finite())?,
        }
        if norm.is_finite() {
            // As torch's clip_grad_norm_.
            let clip = match self.options.grad_norm_clip {
                most if most > 0.0 => (most / (norm + 1e-6)).min(1.0),
                _ => 1.0,
            };
            self.gradient.iter_mut().for_each(|value| *value = (f64::from(*value) * clip / factor) as f32);
            let store = &mut self.model.store;
            self.optimizer.step(&store.specs, &mut store.parameters, &self.gradient, lr, false);
        }
        Ok(tally)
    }

    fn broadcast(&mut self, group: &dyn Group) -> Result<()> {
        self.model.store.broadcast(group)
    }

    fn eval_step(&mut self, batch: &Batch) -> Result<Tally> {
        let objects = objects(batch, batch.valid.min(batch.len()), self.options.class_names.len())?;
        let mut outputs = self.outputs(batch)?;
        Ok(self.judge(&mut outputs, &objects))
    }

    fn state(&self) -> Result<TaskState> {
        let mut scalars = serde_json::Map::new();
        scalars.insert("optimizer_steps".into(), serde_json::json!(self.optimizer.steps));
        if let Some(scale) = &self.loss_scale {
            scalars.insert("loss_scale".into(), serde_json::json!(scale));
        }
        let optimizer = self.optimizer.tensors(&self.model.store.specs);
        Ok(TaskState { model: self.model.store.tensors(), optimizer, scalars })
    }

    fn load_state(&mut self, state: TaskState) -> Result<()> {
        let steps = scalar(&state, "optimizer_steps")?;
        let loss_scale = self.loss_scale.map(|_| scalar(&state, "loss_scale")).transpose()?;
        let mut optimizer = self.optimizer.clone();
        optimizer.load(&self.model.store.specs, &state.optimizer, steps)?;
        self.model.store.load(&state.model, NETWORK)?;
        self.optimizer = optimizer;
        self.loss_scale = loss_scale;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
