//! A training run of the recipe: from settings to a run folder. Puts task, data, phases and loop together; owns no step
//! of any of them.

use super::config::Config;
use super::data::{self, ImageData};
use super::report::Evaluation;
use super::{Backbone, ClassificationTask, TaskOptions, weights};
use feedline::deliver::{Loader, LoaderOptions};
use feedline::event::{EpochRecord, Event, Fan, Sink};
use feedline::pipeline::Pipeline;
use feedline::plan::{Plan, Tail};
use feedline::train::checkpoint::{self, Progress};
use feedline::train::run::RunFolder;
use feedline::train::schedule::{EpochLr, LrLimits, fit_lr, step_advice};
use feedline::train::{FitOptions, Outcome, Phase, Splits, Task, fit};
use feedline::{Batch, Error, Result};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// Names of the metrics of a classification run.
pub const METRIC_NAMES: &[&str] = &["accuracy"];

/// The file of a run folder with the names of its classes, in the order of the network's outputs.
pub const CLASSES: &str = "classes.txt";

/// A run that is ready to train.
pub struct Run {
    config: Config,
    task: ClassificationTask,
    train: Arc<ImageData>,
    val: Arc<ImageData>,
    folder: Arc<RunFolder>,
    progress: Progress,
    notes: Vec<String>,
}

/// The figures of a finished run, as `summary.json` holds them.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub best_val_accuracy: f64,
    /// Of the last epoch, as the losses.
    pub val_accuracy: f64,
    pub train_loss: f64,
    pub val_loss: f64,
    pub epochs: u64,
    /// Training time without evaluation.
    pub train_seconds: f64,
    /// Mean over the run.
    pub images_per_second: f64,
    /// Share of the training time spent waiting for data.
    pub data_wait_share: f64,
    /// Samples that were replaced because they could not be used.
    pub bad_samples: u64,
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
    }
}

/// The settings of the run in `dir`.
///
/// # Errors
/// A folder that holds no run, or a `config.toml` that was spoilt.
pub fn config_of(dir: &Path) -> Result<Config> {
    let path = dir.join("config.toml");
    if !path.is_file() {
        return Err(Error::Checkpoint {
            path: dir.to_path_buf(),
            problem: "it is not a run folder: there is no config.toml in it".into(),
            remedy: "Name the folder that `feedline train` printed as its run folder".into(),
        });
    }
    Config::from_resolved(&path)
}

fn fitted_lr(config: &Config, batch_size: u64) -> (f64, f64) {
    let train = &config.train;
    let limits = LrLimits::of(train.optimizer);
    fit_lr(batch_size as u32, train.init_lr, train.init_lr * train.min_lr_ratio, limits)
}

/// The phases of `config` with their learning rates fitted to their batch sizes.
///
/// # Errors
/// A schedule that is not possible.
pub fn fit_options(config: &Config) -> Result<FitOptions> {
    let train = &config.train;
    let phase = |first_epoch, frozen, batch_size: u64| -> Result<Phase> {
        let (init_lr, min_lr) = fitted_lr(config, batch_size);
        // As upstream: one schedule over all epochs, so that the warm-up is not repeated when the backbone thaws.
        let schedule = EpochLr::new(train.lr_decay, init_lr, min_lr, train.epochs as u32)?;
        Ok(Phase { first_epoch, frozen, batch_size, lr: Box::new(move |epoch| schedule.at(epoch as u32)) })
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
        save_period: train.save_period,
        checkpoint_steps: train.checkpoint_steps,
        checkpoint_seconds: train.checkpoint_seconds,
    })
}

impl Run {
    /// A new run in `dir`, which must be empty or not exist. Nothing is written before data, model and weights are
    /// known to be good.
    ///
    /// # Errors
    /// Whatever is wrong with the settings, the data, the weights or the folder.
    pub fn create(config: Config, dir: &Path) -> Result<Run> {
        let config = config.absolute()?;
        let (train, val) = data::open(&config)?;
        let mut task = ClassificationTask::new(task_options(&config, train.classes().len()))?;
        let mut notes = vec![];
        if !config.model.pretrained.as_os_str().is_empty() {
            notes.push(weights::load_into(&mut task, &config.model.pretrained)?.to_string());
        }
        let largest = fit_options(&config)?.phases.iter().map(|phase| phase.batch_size).max().unwrap_or(1);
        if train.len() < largest {
            return Err(Error::SplitTooSmall { split: "train".into(), samples: train.len(), batch_size: largest });
        }
        let text = toml::to_string(&config)
            .map_err(|e| Error::config(format!("the settings cannot be written as TOML: {e}"), "Please report this"))?;
        let folder = Arc::new(RunFolder::create(dir, &text, METRIC_NAMES)?);
        folder.write(CLASSES, (train.classes().join("\n") + "\n").as_bytes())?;
        notes.extend(advice(&config, train.len()));
        Ok(Run { config, task, train, val, folder, progress: Progress::default(), notes })
    }

    /// The run in `dir`, from its last checkpoint, or from its beginning if it has none.
    ///
    /// # Errors
    /// A folder that is no run, data that has changed, a damaged checkpoint.
    pub fn resume(dir: &Path) -> Result<Run> {
        let config = config_of(dir)?;
        let (train, val) = data::open(&config)?;
        let mut task = ClassificationTask::new(task_options(&config, train.classes().len()))?;
        let mut progress = Progress::default();
        match feedline::train::checkpoint::Checkpoints::new(dir.join("checkpoints")).last() {
            Some(last) => {
                let (saved, state) = checkpoint::load(&last)?;
                if let Some(cursor) = &saved.cursor {
                    cursor.check(train.fingerprint(), &plan(&config, &train)?)?;
                }
                task.load_state(state)?;
                progress = saved;
            }
            None if !config.model.pretrained.as_os_str().is_empty() => {
                weights::load_into(&mut task, &config.model.pretrained)?;
            }
            None => {}
        }
        let folder = Arc::new(RunFolder::open(dir, METRIC_NAMES, progress.history.clone())?);
        folder.emit(&Event::Resumed { epoch: progress.epoch + 1, step: progress.step })?;
        let note = if progress.epoch >= config.train.epochs {
            format!("all {} epochs are done already", progress.epoch)
        } else {
            format!("resumed at epoch {}, after step {}", progress.epoch + 1, progress.step)
        };
        Ok(Run { config, task, train, val, folder, progress, notes: vec![note] })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Learning rates (highest, lowest) of the last phase, fitted to its batch size.
    pub fn fitted_lr(&self) -> (f64, f64) {
        fitted_lr(&self.config, self.config.train.batch_size)
    }

    /// What a person should be told before the run begins.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The folder of the run.
    pub fn dir(&self) -> &Path {
        self.folder.dir()
    }

    /// What the device calls itself.
    pub fn device_name(&self) -> String {
        self.task.device_name()
    }

    /// Names of the classes, and the number of training and validation samples.
    pub fn data(&self) -> (&[String], u64, u64) {
        (self.train.classes(), self.train.len(), self.val.len())
    }

    /// Where the run stands.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Trains to the end and writes `summary.json`, or until `stop` says so: then a checkpoint is saved and there is no
    /// summary.
    ///
    /// # Errors
    /// What the data, the model or the disk report.
    pub fn train(&mut self, sink: Arc<dyn Sink>, stop: &dyn Fn() -> bool) -> Result<Option<Summary>> {
        let options = fit_options(&self.config)?;
        let fan = Arc::new(Fan(vec![self.folder.clone(), sink])) as Arc<dyn Sink>;
        let splits = Splits {
            train: self.train.clone(),
            val: self.val.clone(),
            loader: loader_options(&self.config, fan.clone()),
            plan: plan(&self.config, &self.train)?,
        };
        let outcome =
            fit(&mut self.task, &splits, &options, &self.folder.checkpoints(), &mut self.progress, &fan, stop)?;
        if outcome == Outcome::Interrupted {
            return Ok(None);
        }
        let evaluation = evaluate(&mut self.task, &self.val, &self.config, fan, &mut |_, _| Ok(()))?;
        let summary = self.summary(&evaluation);
        let json = serde_json::to_string_pretty(&summary)
            .map_err(|e| Error::train(format!("the summary is not JSON: {e}"), "Please report this"))?;
        self.folder.write("summary.json", (json + "\n").as_bytes())?;
        Ok(Some(summary))
    }

    fn summary(&self, evaluation: &Evaluation) -> Summary {
        let history = &self.progress.history;
        let first = |metrics: &[f64]| metrics.first().copied().unwrap_or(f64::NAN);
        let none = EpochRecord { train_loss: f64::NAN, val_loss: f64::NAN, ..EpochRecord::default() };
        let last = history.last().unwrap_or(&none);
        let train_seconds: f64 = history.iter().map(|record| record.train_seconds).sum();
        let share = |part: fn(&EpochRecord) -> f64| {
            history.iter().map(|record| part(record) * record.train_seconds).sum::<f64>() / train_seconds.max(1e-9)
        };
        let figures = evaluation.confusion.iter().zip(evaluation.recall()).zip(evaluation.precision());
        let classes = self.val.classes().iter().zip(figures).map(|(name, ((row, recall), precision))| ClassSummary {
            name: name.clone(),
            samples: row.iter().sum(),
            recall,
            precision,
        });
        Summary {
            best_val_accuracy: history.iter().map(|record| first(&record.val_metrics)).fold(f64::NAN, f64::max),
            val_accuracy: first(&last.val_metrics),
            train_loss: last.train_loss,
            val_loss: last.val_loss,
            epochs: last.epoch,
            train_seconds,
            images_per_second: share(|record| record.images_per_second),
            data_wait_share: share(|record| record.data_wait_share),
            bad_samples: self.progress.cursor.as_ref().map_or(0, |cursor| cursor.bad_samples),
            classes: classes.collect(),
        }
    }
}

/// Order of the training split.
pub fn plan(config: &Config, train: &ImageData) -> Result<Plan> {
    Ok(Plan::new(train.len(), 1)?.with_seed(config.seed).with_tail(Tail::Drop))
}

fn loader_options(config: &Config, sink: Arc<dyn Sink>) -> LoaderOptions {
    LoaderOptions {
        num_workers: config.num_workers(),
        memory_budget_bytes: config.data.memory_budget_bytes,
        on_bad_sample: config.data.on_bad_sample,
        max_bad_samples: config.data.max_bad_samples,
        sink,
        ..LoaderOptions::default()
    }
}

/// Evaluates the task on every sample of `data`, each exactly once and in order; `on_batch` sees each batch with its
/// logits (B, classes).
///
/// # Errors
/// What the data or the model report.
pub fn evaluate(
    task: &mut ClassificationTask,
    data: &Arc<ImageData>,
    config: &Config,
    sink: Arc<dyn Sink>,
    on_batch: &mut dyn FnMut(&Batch, &[f32]) -> Result<()>,
) -> Result<Evaluation> {
    let plan = Plan::unshuffled(data.len(), 1)?.with_tail(Tail::Exact);
    let options =
        LoaderOptions { batch_size: config.train.batch_size, end_epoch: Some(1), ..loader_options(config, sink) };
    let mut loader = Loader::new(data.clone(), plan, options)?;
    let classes = data.classes().len();
    let mut evaluation = Evaluation::new(classes);
    for batch in loader.iter() {
        let batch = batch?;
        let logits = task.logits(&batch)?;
        let labels = batch.stacked("label")?.as_slice::<i64>();
        for (row, label) in logits.chunks(classes).zip(labels).take(batch.valid) {
            evaluation.add(row, *label as usize)?;
        }
        on_batch(&batch, &logits)?;
    }
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
