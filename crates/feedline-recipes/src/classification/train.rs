//! A training run of the recipe: from settings to a run folder. Puts task, data, phases and loop together; owns no step
//! of any of them.

use super::config::Config;
use super::data::{self, plan};
use super::report::Evaluation;
use super::{Backbone, ClassificationTask, TaskOptions, weights};
use feedline::deliver::{Loader, LoaderOptions};
use feedline::event::{EpochRecord, Event, Fan, Sink, Warnings};
use feedline::images::Images;
use feedline::pipeline::Pipeline;
use feedline::plan::{Plan, Tail};
use feedline::train::agree::agree;
use feedline::train::checkpoint::{self, Checkpoints, Progress};
use feedline::train::group::Group;
use feedline::train::proof::LedgerFile;
use feedline::train::run::RunFolder;
use feedline::train::schedule::{EpochLr, LrLimits, fit_lr, step_advice};
use feedline::train::{FitOptions, Outcome, Phase, Splits, Task, Together, fit};
use feedline::{Batch, Error, Result};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names of the metrics of a classification run.
pub const METRIC_NAMES: &[&str] = &["accuracy"];

/// The file of a run folder with the names of its classes, in the order of the network's outputs.
pub const CLASSES: &str = "classes.txt";

/// The file of a run folder with a line for each training sample, in order: its name, a tab, its class.
pub const SAMPLES: &str = "samples.txt";

/// A run that is ready to train, as one rank sees it.
pub struct Run {
    config: Config,
    task: ClassificationTask,
    train: Arc<Images>,
    val: Arc<Images>,
    group: Arc<dyn Group>,
    dir: PathBuf,
    /// On rank 0: the others write nothing.
    folder: Option<Arc<RunFolder>>,
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
        sync_bn: config.train.sync_bn,
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
        Ok(Phase { first_epoch, frozen, batch_size, lr: Box::new(move |epoch, _| schedule.at(epoch as u32)) })
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

impl Run {
    /// A new run of all ranks in `dir`, which must be empty or not exist on rank 0. Nothing is written before data,
    /// model and weights are known to be good.
    ///
    /// # Errors
    /// Whatever is wrong with the settings, the data, the weights or the folder.
    pub fn create(config: Config, dir: &Path, group: Arc<dyn Group>) -> Result<Run> {
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
        let folder = match group.rank() {
            0 => {
                let folder = RunFolder::create(dir, &config.to_toml()?, METRIC_NAMES)?;
                folder.write(CLASSES, (train.classes().join("\n") + "\n").as_bytes())?;
                folder.write(SAMPLES, train.sample_list().as_bytes())?;
                Some(Arc::new(folder))
            }
            _ => None,
        };
        notes.extend(advice(&config, train.len()));
        let (dir, progress) = (dir.to_path_buf(), Progress::default());
        Ok(Run { config, task, train, val, group, dir, folder, progress, notes })
    }

    /// The run in `dir`, from its last checkpoint, or from its beginning if it has none; only rank 0 needs to see the
    /// folder. `change` may change the settings as far as a run that goes on allows. The number of ranks may be another
    /// than before: the epoch goes on with exactly the samples that are left.
    ///
    /// With `allow_changed_data` a run goes on though samples were added or removed: the epoch under way begins anew,
    /// over the data as it is now.
    ///
    /// # Errors
    /// A folder that is no run, settings that may not change, data that has changed, a damaged checkpoint.
    pub fn resume(
        dir: &Path,
        change: impl FnOnce(Config) -> Result<Config>,
        allow_changed_data: bool,
        group: Arc<dyn Group>,
    ) -> Result<Run> {
        let mut text = Vec::new();
        if group.rank() == 0 {
            let saved = config_of(dir)?;
            let config = change(saved.clone())?.absolute()?;
            saved.check_resume(&config)?;
            text = config.to_toml()?.into_bytes();
        }
        group.broadcast(&mut text)?;
        let config = Config::from_toml(&String::from_utf8_lossy(&text))?;
        let (train, val) = data::open(&config)?;
        let mut task = ClassificationTask::new(task_options(&config, train.classes().len()))?;
        let loaded = match Checkpoints::new(dir.join("checkpoints")).last().filter(|_| group.rank() == 0) {
            Some(last) => Some(checkpoint::load(&last)?),
            None => None,
        };
        let mut notes = Vec::new();
        let (mut loaded, mut changed, plan) = (loaded, false, plan(&config, &train, 1)?);
        if let Some((saved, _)) = &mut loaded
            && let Some(cursor) = &saved.cursor
            && let Err(error) = cursor.check(train.fingerprint(), &plan)
        {
            let change = difference(&dir.join(SAMPLES), &train);
            if !allow_changed_data {
                return Err(change.map_or(error, |change| changed_data(dir, &change)));
            }
            if saved.step > 0 && !saved.trained {
                notes.push(format!("epoch {} begins anew with the data as it is now", saved.epoch + 1));
                (saved.step, saved.tally) = (0, Default::default());
                (saved.train_seconds, saved.wait_seconds) = (0.0, 0.0);
            }
            let mut loader = Loader::new(train.clone(), plan, LoaderOptions { num_workers: 0, ..Default::default() })?;
            loader.set_epoch(saved.epoch + u64::from(saved.trained));
            saved.cursor = Some(loader.state_dict());
            changed = true;
        }
        let progress = match checkpoint::broadcast(&*group, loaded)? {
            Some((progress, state)) => {
                task.load_state(state)?;
                progress
            }
            None => {
                if !config.model.pretrained.as_os_str().is_empty() {
                    weights::load_into(&mut task, &config.model.pretrained)?;
                }
                Progress::default()
            }
        };
        let folder = match group.rank() {
            0 => {
                let folder = RunFolder::open(dir, METRIC_NAMES, progress.history.clone())?;
                if changed {
                    // At once: a checkpoint and the list of samples beside it must be of the same data.
                    folder.checkpoints().save(&progress, &task.state()?, false, false)?;
                }
                folder.write("config.toml", &text)?;
                folder.write(SAMPLES, train.sample_list().as_bytes())?;
                folder.emit(&Event::Resumed { epoch: progress.epoch + 1, step: progress.step })?;
                Some(Arc::new(folder))
            }
            _ => None,
        };
        notes.push(if progress.epoch >= config.train.epochs {
            format!("all {} epochs are done already", progress.epoch)
        } else {
            format!("resumed at epoch {}, after step {}", progress.epoch + 1, progress.step)
        });
        Ok(Run { config, task, train, val, group, dir: dir.to_path_buf(), folder, progress, notes })
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
        &self.dir
    }

    /// The ranks that train it.
    pub fn group(&self) -> &dyn Group {
        &*self.group
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

    /// Trains to the end, and rank 0 writes `summary.json`; or until a rank's `stop` says so: then a checkpoint is saved
    /// and there is no summary. `sink` hears this rank's events.
    ///
    /// # Errors
    /// What the data, the model or the disk report.
    pub fn train(&mut self, sink: Arc<dyn Sink>, stop: &dyn Fn() -> bool) -> Result<Option<Summary>> {
        let options = fit_options(&self.config)?;
        let facts = self.config.facts()?;
        let facts: Vec<(&str, String)> = facts.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        agree(&*self.group, &facts)?;
        let sink = match &self.folder {
            Some(folder) => Arc::new(Fan(vec![folder.clone(), sink])) as Arc<dyn Sink>,
            None => Arc::new(Warnings),
        };
        let splits = Splits {
            train: self.train.clone(),
            val: self.val.clone(),
            loader: loader_options(&self.config, sink.clone()),
            plan: plan(&self.config, &self.train, self.group.world_size())?,
        };
        let checkpoints = self.folder.as_ref().map(|folder| folder.checkpoints());
        let cursor = self.progress.cursor.as_ref();
        let ledger =
            RefCell::new(LedgerFile::begin(&self.dir, &*self.group, &splits.plan, splits.train.fingerprint(), cursor)?);
        let ledger = Some(&ledger);
        let together = Together { group: &*self.group, ledger, checkpoints: checkpoints.as_ref(), sink: &sink, stop };
        if fit(&mut self.task, &splits, &options, &together, &mut self.progress)? == Outcome::Interrupted {
            return Ok(None);
        }
        let evaluation = evaluate(&mut self.task, &self.val, &self.config, &*self.group, sink, &mut |_, _| Ok(()))?;
        let summary = self.summary(&evaluation);
        if let Some(folder) = &self.folder {
            let json = serde_json::to_string_pretty(&summary)
                .map_err(|e| Error::train(format!("the summary is not JSON: {e}"), "Please report this"))?;
            folder.write("summary.json", (json + "\n").as_bytes())?;
        }
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

/// What has become of the training samples since `list` (see [`SAMPLES`]) was written, in words; `None` if it cannot be
/// read or nothing has.
fn difference(list: &Path, train: &Images) -> Option<String> {
    let (old, new) = (std::fs::read_to_string(list).ok()?, train.sample_list());
    let classes = |text: &str| -> BTreeMap<String, String> {
        text.lines()
            .filter_map(|line| line.rsplit_once('\t'))
            .map(|(name, class)| (name.into(), class.into()))
            .collect()
    };
    let (old, new) = (classes(&old), classes(&new));
    let added: Vec<&String> = new.keys().filter(|name| !old.contains_key(*name)).collect();
    let removed: Vec<&String> = old.keys().filter(|name| !new.contains_key(*name)).collect();
    let moved: Vec<&String> =
        old.iter().filter(|(name, class)| new.get(*name).is_some_and(|c| c != *class)).map(|(name, _)| name).collect();
    let parts = [(added, "added"), (removed, "removed"), (moved, "of another class")];
    let parts: Vec<String> = parts
        .iter()
        .filter_map(|(names, what)| {
            names
                .first()
                .map(|first| format!("{} {what} ({first}{})", names.len(), if names.len() > 1 { ", ..." } else { "" }))
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn changed_data(dir: &Path, change: &str) -> Error {
    Error::Checkpoint {
        path: dir.to_path_buf(),
        problem: format!("the training samples have changed since the checkpoint: {change}"),
        remedy: "Restore the data, or add --allow-changed-data: the epoch under way then begins anew with the data as it is now".into(),
    }
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
    let plan = Plan::unshuffled(data.len(), group.world_size())?.with_tail(Tail::Exact);
    let options = LoaderOptions {
        rank: group.rank(),
        batch_size: config.train.batch_size.div_ceil(group.world_size()),
        end_epoch: Some(1),
        ..loader_options(config, sink)
    };
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
