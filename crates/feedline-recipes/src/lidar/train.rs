//! A training run of the recipe: what of it is the recipe's own. The order of events belongs to `run`.

use super::config::Config;
use super::data::frame::Annos;
use super::data::splits::{self, Split, open_split};
use super::data::{Clouds, predictions};
use super::metrics::{self, ClassFigures, Detection, Report};
use super::network::task::{LidarTask, TaskOptions};
use crate::run::{self, Recipe, RunFigures, each_once};
use feedline::event::Sink;
use feedline::plan::Plan;
use feedline::train::group::Group;
use feedline::train::schedule::OneCycle;
use feedline::train::{FitOptions, Phase};
use feedline::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The recipe.
#[derive(Debug, Clone, Copy)]
pub struct Lidar;

/// A run of it that is ready to train, as one rank sees it.
pub type Run = run::Run<Lidar>;

/// The figures of a finished run, as `summary.json` holds them. Average precision is KITTI's, in percent, of the validation
/// split with the final weights; means are over the classes, in space, moderate, over 40 steps of recall.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub val_mean_ap_3d: f64,
    /// Of the training loop's own figure, `map_3d`, which knows no difficulty.
    pub best_val_map_3d: f64,
    pub val_map_3d: f64,
    /// Those that every run has.
    #[serde(flatten)]
    pub run: RunFigures,
    /// With the strict overlaps.
    pub classes: Vec<ClassFigures>,
}

impl Recipe for Lidar {
    type Config = Config;
    type Data = Clouds;
    type Task = LidarTask;
    type Summary = Summary;

    fn open(config: &Config) -> Result<(Arc<Clouds>, Arc<Clouds>)> {
        let (train, val) = (open_split(config, Split::Train)?, open_split(config, Split::Val)?);
        labelled(&val)?;
        Ok((train, val))
    }

    fn plan(config: &Config, train: &Clouds, ranks: u64) -> Result<Plan> {
        splits::plan(config, train, ranks)
    }

    fn task(config: &Config, train: &Clouds) -> Result<LidarTask> {
        LidarTask::new(task_options(config, train)?)
    }

    fn fit_options(config: &Config, epoch_len: u64) -> Result<FitOptions> {
        let train = &config.train;
        // By samples, not steps: a resume with another batch or other ranks stays on the curve.
        let cycle = OneCycle {
            lr_max: train.lr,
            div_factor: train.div_factor,
            pct_start: train.pct_start,
            moms: (train.moms[0], train.moms[1]),
            total_steps: train.epochs.saturating_mul(epoch_len),
        };
        let at = move |epoch: u64, position: u64| cycle.at(epoch * epoch_len + position);
        let phase = Phase {
            first_epoch: 0,
            frozen: false,
            batch_size: train.batch_size,
            lr: Box::new(move |epoch, position| at(epoch, position).0),
            momentum: Some(Box::new(move |epoch, position| at(epoch, position).1)),
        };
        Ok(FitOptions {
            epochs: train.epochs,
            phases: vec![phase],
            batch_split: train.batch_split,
            save_period: train.save_period,
            checkpoint_steps: train.checkpoint_steps,
            checkpoint_seconds: train.checkpoint_seconds,
        })
    }

    fn sample_list(train: &Clouds) -> String {
        train.sample_list()
    }

    fn summary(run: &mut Run, sink: Arc<dyn Sink>) -> Result<Summary> {
        let (val, group, config) = (run.data().1.clone(), run.group().clone(), run.config().clone());
        let report = evaluate(run.task_mut(), &val, &config, &*group, sink, &mut |_| {})?.report;
        let (best_val_map_3d, val_map_3d) = run.first_metric();
        Ok(Summary {
            val_mean_ap_3d: report.mean_3d(),
            best_val_map_3d,
            val_map_3d,
            run: run.figures(),
            classes: report.strict().cloned().collect(),
        })
    }
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

/// What [`evaluate`] found.
#[derive(Debug, Clone, Default)]
pub struct Evaluation {
    /// The same on every rank.
    pub report: Report,
    /// The detections of each frame that was read, as labels, by the frame's number; on rank 0.
    pub frames: BTreeMap<u64, Annos>,
}

/// Evaluates the task on every frame of `data`, each exactly once over all ranks; `on_batch` hears how many frames of this
/// rank are done more. A frame that was replaced, because it could not be read, counts in no figure.
///
/// # Errors
/// Frames without labels; what the data or the model report.
pub fn evaluate(
    task: &mut LidarTask,
    data: &Arc<Clouds>,
    config: &Config,
    group: &dyn Group,
    sink: Arc<dyn Sink>,
    on_batch: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    labelled(data)?;
    let mut found: Vec<(u64, Vec<Detection>)> = Vec::new();
    each_once(data, config, group, sink, |batch| {
        found.extend(batch.indices.iter().copied().zip(task.predictions(batch)?));
        on_batch(batch.valid);
        Ok(())
    })?;
    let json = serde_json::to_vec(&found)
        .map_err(|e| Error::train(format!("detections are not JSON: {e}"), "Please report this"))?;
    let mut all: BTreeMap<u64, Vec<Detection>> = BTreeMap::new();
    for (rank, json) in group.gather(&json)?.iter().enumerate() {
        let theirs: Vec<(u64, Vec<Detection>)> = serde_json::from_slice(json)
            .map_err(|e| Error::group(format!("rank {rank} sent no JSON: {e}"), "Use one version on all ranks"))?;
        all.extend(theirs);
    }
    let names = &config.clouds.class_names;
    let frames: BTreeMap<u64, Annos> = all
        .iter()
        .map(|(frame, found)| {
            let boxes: Vec<_> = found.iter().map(|one| one.bounds).collect();
            let scores: Vec<f32> = found.iter().map(|one| one.score).collect();
            let labels: Vec<u32> = found.iter().map(|one| one.class as u32 + 1).collect();
            (*frame, predictions::annos(&data.frames()[*frame as usize], &boxes, &scores, &labels, names))
        })
        .collect();
    let mut bytes = Vec::new();
    if group.rank() == 0 {
        let truth: Vec<&Annos> =
            frames.keys().filter_map(|frame| data.frames()[*frame as usize].annos.as_ref()).collect();
        let detections: Vec<Annos> = frames.values().cloned().collect();
        let report = metrics::evaluate(&truth, &detections, names)?;
        bytes = serde_json::to_vec(&report)
            .map_err(|e| Error::train(format!("the figures are not JSON: {e}"), "Please report this"))?;
    }
    group.broadcast(&mut bytes)?;
    let report = serde_json::from_slice(&bytes)
        .map_err(|e| Error::group(format!("rank 0 sent no JSON: {e}"), "Use one version on all ranks"))?;
    Ok(Evaluation { report, frames })
}

/// That every frame has labels.
fn labelled(data: &Clouds) -> Result<()> {
    match data.frames().iter().find(|frame| frame.annos.is_none()) {
        None => Ok(()),
        Some(frame) => Err(Error::config(
            format!("frame {} has no labels, and cannot be evaluated", frame.point_cloud.lidar_idx),
            "Name infos of labelled frames: data.val_infos",
        )),
    }
}

#[cfg(test)]
mod tests;
