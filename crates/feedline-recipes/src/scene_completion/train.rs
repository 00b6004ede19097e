//! A training run of the recipe: what of it is the recipe's own. The order of events belongs to `run`.

use super::config::Config;
use super::data::Scenes;
use super::data::splits::{self, Split, open_voxels};
use super::metrics::Scores;
use super::network::task::{SceneTask, TaskOptions};
use crate::run::{self, Recipe, RunFigures, each_once};
use feedline::event::Sink;
use feedline::plan::Plan;
use feedline::train::group::Group;
use feedline::train::schedule::poly_lr;
use feedline::train::{FitOptions, Phase, Tally, Task};
use feedline::{Batch, Result};
use serde::Serialize;
use std::sync::Arc;

/// The file of a run folder with the names of its classes, in the order of their labels.
pub const CLASSES: &str = "classes.txt";

/// The recipe.
#[derive(Debug, Clone, Copy)]
pub struct SceneCompletion;

/// A run of it that is ready to train, as one rank sees it.
pub type Run = run::Run<SceneCompletion>;

/// The figures of a finished run, as `summary.json` holds them; those of scenes are of the validation split.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub best_val_ssc_miou: f64,
    /// With the final weights, as all that follow.
    pub val_ssc_miou: f64,
    pub val_sc_iou: f64,
    pub val_sc_precision: f64,
    pub val_sc_recall: f64,
    /// Those that every run has.
    #[serde(flatten)]
    pub run: RunFigures,
    pub classes: Vec<ClassSummary>,
}

/// One class of a [`Summary`].
#[derive(Debug, Clone, Serialize)]
pub struct ClassSummary {
    pub name: String,
    /// Null for a class that is in neither labels nor predictions.
    pub iou: Option<f64>,
}

impl Recipe for SceneCompletion {
    type Config = Config;
    type Data = Scenes;
    type Task = SceneTask;
    type Summary = Summary;

    fn open(config: &Config) -> Result<(Arc<Scenes>, Arc<Scenes>)> {
        Ok((open_voxels(config, Split::Train)?, open_voxels(config, Split::Val)?))
    }

    fn plan(config: &Config, train: &Scenes, ranks: u64) -> Result<Plan> {
        splits::plan(config, train, ranks)
    }

    fn task(config: &Config, _train: &Scenes) -> Result<SceneTask> {
        SceneTask::new(task_options(config))
    }

    fn fit_options(config: &Config, epoch_len: u64) -> Result<FitOptions> {
        let train = &config.train;
        let (lr, power, total) = (train.lr, train.lr_power, train.epochs.saturating_mul(epoch_len));
        let phase = Phase {
            first_epoch: 0,
            frozen: train.freeze_2d,
            batch_size: train.batch_size,
            // By samples: TorchSSC's iterations times the batch, where that divides the epoch. A resume with another batch
            // stays on the curve.
            lr: Box::new(move |epoch, position| poly_lr(lr, power, epoch * epoch_len + position, total)),
            momentum: None,
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

    fn sample_list(train: &Scenes) -> String {
        train.sample_list()
    }

    fn files(config: &Config, _train: &Scenes) -> Vec<(&'static str, String)> {
        vec![(CLASSES, config.class_names().join("\n") + "\n")]
    }

    fn summary(run: &mut Run, sink: Arc<dyn Sink>) -> Result<Summary> {
        let (val, group, config) = (run.data().1.clone(), run.group().clone(), run.config().clone());
        let scores = evaluate(run.task_mut(), &val, &config, &*group, sink, &mut |_| Ok(()))?;
        Ok(Summary {
            best_val_ssc_miou: run.first_metric().0,
            val_ssc_miou: scores.ssc_miou(),
            val_sc_iou: scores.sc_iou(),
            val_sc_precision: scores.sc_precision(),
            val_sc_recall: scores.sc_recall(),
            run: run.figures(),
            classes: class_summaries(&config, &scores),
        })
    }
}

/// What the task of `config` is made from.
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

/// The IoU of each class with its name.
pub fn class_summaries(config: &Config, scores: &Scores) -> Vec<ClassSummary> {
    let names = config.class_names().into_iter();
    let share = |iou: f64| Some(iou).filter(|iou| !iou.is_nan());
    names.zip(scores.ssc_iou()).map(|(name, iou)| ClassSummary { name, iou: share(iou) }).collect()
}

/// Evaluates the task on every sample of `data`, each exactly once over all ranks; `on_batch` sees each batch of this rank,
/// in order, when it is done. The scores are those of the group.
///
/// # Errors
/// What the data or the model report.
pub fn evaluate(
    task: &mut SceneTask,
    data: &Arc<Scenes>,
    config: &Config,
    group: &dyn Group,
    sink: Arc<dyn Sink>,
    on_batch: &mut dyn FnMut(&Batch) -> Result<()>,
) -> Result<Scores> {
    let mut tally = Tally { metric_sums: vec![0.0; task.metric_sums_len()], ..Tally::default() };
    each_once(data, config, group, sink, |batch| {
        tally.add(&task.eval_step(batch)?);
        on_batch(batch)
    })?;
    tally.all_reduce(group)?;
    Ok(Scores::from_sums(config.data.num_classes as usize, &tally.metric_sums))
}

#[cfg(test)]
mod tests;
