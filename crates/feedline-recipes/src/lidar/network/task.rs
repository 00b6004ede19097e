//! The lidar task: the network, its loss and its optimiser behind `feedline::train::Task`. Owns what one step is; epochs,
//! learning rates and files belong to the loop.

use super::anchors::{Anchors, TURNS};
use super::batch::{COMPUTED, Objects, inputs, objects};
use super::loss::{detections, outputs_per_frame, sample_loss};
use super::model::{Model, Sizes};
use crate::lidar::config::{Config, ModelConfig};
use crate::lidar::data::Clouds;
use crate::lidar::metrics::{Detection, Hits, nms};
use crate::network::device::{self, Precision};
use crate::network::optimizer::{Optimizer, check_settings};
use crate::network::step::Stepper;
use burn::tensor::{Device, FloatDType};
use feedline::augment::boxes::Box3d;
use feedline::augment::voxels::Grid;
use feedline::train::group::Group;
use feedline::train::{Tally, Task, TaskState};
use feedline::{Batch, Error, Result};

/// The network's name in an error.
const NETWORK: &str = "the lidar network";

/// The settings of a task.
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

/// Gives the settings of the task of `config` on this data.
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
    stepper: Stepper,
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
        let optimizer = Optimizer::adam_onecycle(options.weight_decay, model.store.parameters.len());
        let stepper = Stepper::new(optimizer, &model.store, NETWORK, "train.lr");
        Ok(LidarTask {
            stepper: stepper.with_precision(config.precision).with_clip_norm(options.grad_norm_clip),
            device,
            model,
            anchors,
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

    /// Number of trainable values.
    pub fn parameter_count(&self) -> usize {
        self.model.store.parameters.len()
    }

    /// The detections in each of the leading `batch.valid` frames, the best first. The batch's boxes are not read and may be
    /// missing.
    ///
    /// # Errors
    /// A batch that does not fit the network.
    pub fn predictions(&self, batch: &Batch) -> Result<Vec<Vec<Detection>>> {
        let outputs = self.outputs(batch)?;
        Ok(self.samples(&outputs).map(|outputs| self.best_detections(outputs)).collect())
    }

    /// Gives the network's outputs for the real frames of a batch, without gradients and in f32.
    fn outputs(&self, batch: &Batch) -> Result<Vec<f32>> {
        let samples = batch.valid.min(batch.len());
        let inputs = inputs(batch, samples, &self.options.grid, self.options.num_point_features)?;
        Ok(match samples {
            0 => Vec::new(),
            _ => self.model.forward(&self.device, inputs, false, None).outputs(),
        })
    }

    fn samples<'o>(&self, outputs: &'o [f32]) -> impl Iterator<Item = &'o [f32]> {
        outputs.chunks_exact(outputs_per_frame(&self.anchors))
    }

    /// The boxes of a frame, without those that overlap better ones.
    fn best_detections(&self, outputs: &[f32]) -> Vec<Detection> {
        let ModelConfig { score_threshold, nms_iou, nms_most: [before, after], .. } = self.options.model;
        let all = detections(outputs, &self.anchors, score_threshold, before);
        let boxes: Vec<Box3d> = all.iter().map(|found| found.bounds).collect();
        let scores: Vec<f32> = all.iter().map(|found| found.score).collect();
        nms(&boxes, &scores, nms_iou, after).into_iter().map(|kept| all[kept]).collect()
    }

    /// Loss and counts. Replaces the numbers by the derivatives of the samples' losses.
    fn loss_and_counts(&self, outputs: &mut [f32], objects: &[Objects]) -> Tally {
        let mut hits = Hits::new(&self.options.class_names);
        let mut tally = Tally::default();
        for (outputs, objects) in outputs.chunks_exact_mut(outputs_per_frame(&self.anchors)).zip(objects) {
            hits.count(&self.best_detections(outputs), objects);
            tally.loss_sum += sample_loss(outputs, &self.anchors, objects);
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

    fn set_momentum(&mut self, momentum: f64) {
        self.stepper.set_momentum(momentum);
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
        let mut tally = self.loss_and_counts(&mut outputs, &objects);
        let Some(share) = self.stepper.share(&mut tally, batch, group)? else { return Ok(tally) };
        outputs.iter_mut().for_each(|slope| *slope *= share as f32);
        match pass {
            Some(pass) => pass.backward(outputs, self.stepper.gradient_mut()),
            None => self.stepper.gradient_mut().fill(0.0),
        }
        self.stepper.step(&mut self.model.store, lr, batch, group)?;
        Ok(tally)
    }

    fn broadcast(&mut self, group: &dyn Group) -> Result<()> {
        self.model.store.broadcast(group)
    }

    fn eval_step(&mut self, batch: &Batch) -> Result<Tally> {
        let objects = objects(batch, batch.valid.min(batch.len()), self.options.class_names.len())?;
        let mut outputs = self.outputs(batch)?;
        Ok(self.loss_and_counts(&mut outputs, &objects))
    }

    fn state(&self) -> Result<TaskState> {
        Ok(self.stepper.state(&self.model.store))
    }

    fn load_state(&mut self, state: TaskState) -> Result<()> {
        self.stepper.load_state(&mut self.model.store, &state)
    }
}

#[cfg(test)]
mod tests;
