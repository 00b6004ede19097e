//! A training run of the recipe: what of it is the recipe's own. The order of events belongs to `run`.

use super::config::Config;
use super::report::Evaluation;
use super::{Backbone, ClassificationTask, TaskOptions, data, weights};
use crate::run::{self, Recipe, RunFigures, each_once};
use feedline::event::Sink;
use feedline::pipeline::{Images, Pipeline};
use feedline::plan::Plan;
use feedline::train::group::Group;
use feedline::train::schedule::{EpochLr, LrLimits, fit_lr, step_advice};
use feedline::train::{FitOptions, Phase};
use feedline::{Batch, Result};
use serde::Serialize;
use std::sync::Arc;

/// The file of a run folder with the names of its classes, in the order of the network's outputs.
pub const CLASSES: &str = "classes.txt";

/// The recipe.
#[derive(Debug, Clone, Copy)]
pub struct Classification;

/// A run of it that is ready to train, as one rank sees it.
pub type Run = run::Run<Classification>;

/// The figures of a finished run, as `summary.json` holds them.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub best_val_accuracy: f64,
    /// Of the last epoch.
    pub val_accuracy: f64,
    /// Those that every run has.
    #[serde(flatten)]
    pub run: RunFigures,
    /// Figures of each class on the validation split with the final weights.
    pub classes: Vec<ClassSummary>,
}

/// One class of a [`Summary`].
#[derive(Debug, Clone, Serialize)]
pub struct ClassSummary {
    pub name: String,
    /// Validation samples of the class.
    pub samples: u64,
    /// Null without samples.
    pub recall: Option<f64>,
    /// Null for a class that was never predicted.
    pub precision: Option<f64>,
}

impl Recipe for Classification {
    type Config = Config;
    type Data = Images;
    type Task = ClassificationTask;
    type Summary = Summary;

    fn open(config: &Config) -> Result<(Arc<Images>, Arc<Images>)> {
        data::open(config)
    }

    fn plan(config: &Config, train: &Images, ranks: u64) -> Result<Plan> {
        data::plan(config, train, ranks)
    }

    fn task(config: &Config, train: &Images) -> Result<ClassificationTask> {
        ClassificationTask::new(task_options(config, train.classes().len()))
    }

    fn import(config: &Config, task: &mut ClassificationTask) -> Result<Option<String>> {
        let weights = &config.model.pretrained;
        let is_named = !weights.as_os_str().is_empty();
        is_named.then(|| Ok(weights::load_into(task, weights)?.to_string())).transpose()
    }

    fn fit_options(config: &Config, _epoch_len: u64) -> Result<FitOptions> {
        fit_options(config)
    }

    fn sample_list(train: &Images) -> String {
        train.sample_list()
    }

    fn files(_config: &Config, train: &Images) -> Vec<(&'static str, String)> {
        vec![(CLASSES, train.classes().join("\n") + "\n")]
    }

    fn advice(config: &Config, train: &Images) -> Option<String> {
        advice(config, train.len())
    }

    fn summary(run: &mut Run, sink: Arc<dyn Sink>) -> Result<Summary> {
        let ((_, val), group, config) = (run.data(), run.group().clone(), run.config().clone());
        let val = val.clone();
        let evaluation = evaluate(run.task_mut(), &val, &config, &*group, sink, &mut |_, _| Ok(()))?;
        let figures = evaluation.confusion.iter().zip(evaluation.recall()).zip(evaluation.precision());
        let classes = val.classes().iter().zip(figures).map(|(name, ((row, recall), precision))| ClassSummary {
            name: name.clone(),
            samples: row.iter().sum(),
            recall,
            precision,
        });
        let classes = classes.collect();
        let (best_val_accuracy, val_accuracy) = run.first_metric();
        Ok(Summary { best_val_accuracy, val_accuracy, run: run.figures(), classes })
    }
}

/// What the task of `config` is made from.
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

/// Learning rates (highest, lowest) fitted to a batch size.
pub fn fitted_lr(config: &Config, batch_size: u64) -> (f64, f64) {
    let train = &config.train;
    let limits = LrLimits::of(train.optimizer);
    fit_lr(batch_size as u32, train.init_lr, train.init_lr * train.min_lr_ratio, limits)
}

/// The phases with their learning rates fitted to their batch sizes.
fn fit_options(config: &Config) -> Result<FitOptions> {
    let train = &config.train;
    let phase = |first_epoch, frozen, batch_size: u64| -> Result<Phase> {
        let (init_lr, min_lr) = fitted_lr(config, batch_size);
        // As upstream: one schedule over all epochs, so that the warm-up is not repeated when the backbone thaws.
        let schedule = EpochLr::new(train.lr_decay, init_lr, min_lr, train.epochs as u32)?;
        let lr = Box::new(move |epoch, _| schedule.at(epoch as u32));
        Ok(Phase { first_epoch, frozen, batch_size, lr, momentum: None })
    };
    let frozen_epochs = if train.freeze_train { train.freeze_epochs.min(train.epochs) } else { 0 };
    let mut phases = Vec::new();
    if frozen_epochs > 0 {
        phases.push(phase(0, true, train.freeze_batch_size)?);
    }
    if frozen_epochs < train.epochs {
        phases.push(phase(frozen_epochs, false, train.batch_size)?);
    }
    Ok(FitOptions {
        epochs: train.epochs,
        phases,
        batch_split: train.batch_split,
        save_period: train.save_period,
        checkpoint_steps: train.checkpoint_steps,
        checkpoint_seconds: train.checkpoint_seconds,
    })
}

/// Evaluates the task on every sample of `data`, each exactly once over all ranks; `on_batch` sees each batch of this
/// rank with its logits (B, classes), in order. The figures are those of the group.
///
/// # Errors
/// What the data or the model report.
pub fn evaluate(
    task: &mut ClassificationTask,
    data: &Arc<Images>,
    config: &Config,
    group: &dyn Group,
    sink: Arc<dyn Sink>,
    on_batch: &mut dyn FnMut(&Batch, &[f32]) -> Result<()>,
) -> Result<Evaluation> {
    let classes = data.classes().len();
    let mut evaluation = Evaluation::new(classes);
    each_once(data, config, group, sink, |batch| {
        let logits = task.logits(batch)?;
        let labels = batch.stacked("label")?.as_slice::<i64>();
        for (row, label) in logits.chunks(classes).zip(labels).take(batch.valid) {
            evaluation.add(row, *label as usize)?;
        }
        on_batch(batch, &logits)
    })?;
    evaluation.all_reduce(group)?;
    Ok(evaluation)
}

/// Upstream's advice on the number of steps, if the run is shorter than it should be. It is meant for its large
/// backbones; the small one is done earlier.
fn advice(config: &Config, num_train: u64) -> Option<String> {
    let train = &config.train;
    if config.model.backbone == Backbone::Small {
        return None;
    }
    let advice = step_advice(num_train, train.batch_size, train.epochs, train.optimizer)?;
    Some(format!(
        "this run has {} steps, fewer than the {} advised with {}: {} epochs would be enough",
        advice.total_step,
        advice.wanted_step,
        format!("{:?}", train.optimizer).to_lowercase(),
        advice.wanted_epoch
    ))
}
