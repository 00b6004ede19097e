//! The recipe as far as its network goes: phases and learning rates of a run, its files, its figures and the words about
//! it. The order of events belongs to `run`.

use super::config::{ClassWeights, Config, LossKind, Sampler, TrainOps};
use super::data::{self, CLASSES, class_samples};
use super::evaluate;
use super::metrics::Shown;
use super::network::backbone::Backbone;
use super::network::task::{ClassificationTask, task_options};
use super::network::weights::{self, Wanted};
use super::recipe::Classification;
use crate::recipe::{EvalOptions, EvalReport, Finished, RunFigures, Setup, SplitsOf, Trainable, setting_name};
use crate::run;
use crate::settings::Sections;
use feedline::augment::ImageOp;
use feedline::event::Sink;
use feedline::pipeline::Images;
use feedline::pipeline::Pipeline;
use feedline::read::{Storage, read_classes};
use feedline::train::schedule::{EpochLr, LrLimits, LrScheduler, OptimizerKind, StepLr, fit_lr, step_advice};
use feedline::train::{FitOptions, Phase};
use feedline::{Error, Result};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// A run of it that is ready to train, as one rank sees it.
pub type Run = run::Run<Classification>;

/// The figures of a finished run, as `summary.json` holds them.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub best_val_accuracy: f64,
    /// The value of the last epoch.
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

impl Trainable for Classification {
    type Task = ClassificationTask;
    type Summary = Summary;

    const HAS_LOGITS: bool = true;

    /// Both at once: they share a folder and a cache.
    fn open_splits(config: &Config) -> Result<SplitsOf<Classification>> {
        let (train, val) = data::open(config)?;
        let empty = train.classes().iter().zip(class_samples(&train)).find(|(_, samples)| *samples == 0);
        match (train.classes(), empty) {
            ([only], _) => Err(Error::config(
                format!("there is one class only, `{only}`, in {}, so there is nothing to tell apart", train.place()),
                format!("Add another class; if the folders in `{only}` are the classes, name it: --data .../{only}"),
            )),
            (_, Some((class, _))) if config.train.class_weights == ClassWeights::Balanced => Err(Error::config(
                format!("train.class_weights is balanced, and the class {class} has no training sample to weigh it by"),
                "Add samples, leave the class out, or give a list of weights",
            )),
            _ => Ok((train, val)),
        }
    }

    fn open_evaluated(config: &Config, run_dir: &Path) -> Result<Arc<Images>> {
        data::open_val(config, &read_classes(&run_dir.join(CLASSES), &Storage::default())?)
    }

    fn task(config: &Config, data: &Images) -> Result<ClassificationTask> {
        ClassificationTask::new(task_options(config, &class_samples(data)))
    }

    fn import(config: &Config, task: &mut ClassificationTask, train: &Images) -> Result<Option<String>> {
        let weights = &config.model.pretrained;
        if weights.as_os_str().is_empty() {
            return Ok(None);
        }
        let wanted = Wanted { classes: train.classes(), partial: config.model.partial };
        Ok(Some(weights::load_into(task, weights, wanted)?.to_string()))
    }

    fn fit_options(config: &Config, epoch_len: u64) -> Result<FitOptions> {
        fit_options(config, epoch_len)
    }

    fn sample_list(data: &Images) -> String {
        data.sample_list()
    }

    fn files(_config: &Config, train: &Images) -> Vec<(&'static str, String)> {
        vec![(CLASSES, train.classes().join("\n") + "\n")]
    }

    fn advice(config: &Config, train: &Images) -> Option<String> {
        advice(config, train.len())
    }

    fn describe(setup: &Setup<Classification>) -> String {
        let Setup { config, task, train, val, group } = setup;
        format!(
            "data         {} training and {} validation images of {} classes\n\
             \x20            training: {}\n\
             \x20            validation: {}\n\
             model        {} at {px}x{px} px, {} on {}, augmentation {}\n\
             training     {} epochs of batch {}{}{}, {}, learning rate up to {} ({}), {} data workers\n{}",
            train.len(),
            val.len(),
            train.classes().len(),
            train.place(),
            val.place(),
            config.model.backbone.name(),
            setting_name(&config.model.precision),
            task.device_name(),
            match &config.augment.ops {
                TrainOps::Preset(preset) => setting_name(preset),
                TrainOps::List(ops) => ops.iter().map(ImageOp::name).collect::<Vec<_>>().join(" + "),
            },
            config.train.epochs,
            config.train.batch_size,
            setup.over_ranks(),
            if config.train.sync_bn && group.world_size() > 1 { " with synchronised norms" } else { "" },
            setting_name(&config.train.optimizer),
            fitted_lr(config, config.train.batch_size).0,
            match config.train.lr_scheduler.0 {
                None => format!("init_lr {} fitted to the batch", config.train.init_lr),
                Some(scheduler) if config.train.lr_base_size > 0 => {
                    let (scheduler, size) = (setting_name(&scheduler), config.train.lr_base_size);
                    format!("{scheduler}, init_lr {} is for a batch of {size}", config.train.init_lr)
                }
                Some(scheduler) => format!("{}, init_lr as it is", setting_name(&scheduler)),
            },
            config.loader().num_workers(),
            recipe_words(config, task),
            px = config.input_px()
        )
    }

    fn summary(setup: &mut Setup<Classification>, finished: Finished, sink: Arc<dyn Sink>) -> Result<Summary> {
        let Setup { config, task, val, group, .. } = setup;
        let evaluation = evaluate::evaluate(task, val, config, &**group, sink, &mut |_, _| Ok(()))?;
        let figures = evaluation.confusion.iter().zip(evaluation.recall()).zip(evaluation.precision());
        let classes = val.classes().iter().zip(figures).map(|(name, ((row, recall), precision))| ClassSummary {
            name: name.clone(),
            samples: row.iter().sum(),
            recall,
            precision,
        });
        Ok(Summary {
            best_val_accuracy: finished.best_metric,
            val_accuracy: finished.last_metric,
            run: finished.figures,
            classes: classes.collect(),
        })
    }

    fn report(summary: &Summary) -> String {
        let mut text = String::new();
        let recalls: Vec<Option<f64>> = summary.classes.iter().map(|class| class.recall).collect();
        let Shown { classes, more } = Shown::of(&recalls, "summary.json");
        for class in classes.into_iter().map(|at| &summary.classes[at]) {
            let share = |value: Option<f64>| value.map_or("  -  ".to_string(), |value| format!("{value:.3}"));
            let (recall, precision) = (share(class.recall), share(class.precision));
            let _ = writeln!(
                text,
                "  {:<20} {:>6} images   recall {recall}   precision {precision}",
                class.name, class.samples
            );
        }
        if let Some(more) = more {
            let _ = writeln!(text, "  {more}");
        }
        let _ = write!(
            text,
            "\nvalidation accuracy {:.4} (best {:.4}) {}",
            summary.val_accuracy,
            summary.best_val_accuracy,
            summary.run.timing("images", 0)
        );
        text
    }

    fn evaluate(
        config: &Config,
        task: &mut ClassificationTask,
        data: &Arc<Images>,
        options: EvalOptions<'_>,
    ) -> Result<EvalReport> {
        evaluate::report(config, task, data, options)
    }
}

/// A line with all that makes a step another than by default; nothing if nothing does.
fn recipe_words(config: &Config, task: &ClassificationTask) -> String {
    let train = &config.train;
    let mut words = Vec::new();
    if !train.nesterov {
        words.push("plain momentum".to_string());
    }
    match (train.warmup_epochs, train.warmup_steps) {
        (0, 0) => {}
        (0, steps) => words.push(format!("warm-up of {steps} steps")),
        (epochs, _) => words.push(format!("warm-up of {epochs} epochs")),
    }
    match train.loss {
        LossKind::Ce => {}
        LossKind::Bce => words.push("binary cross entropy".into()),
        LossKind::Focal => words.push(format!("focal loss (gamma {}, alpha {})", train.focal_gamma, train.focal_alpha)),
    }
    let weights: Vec<String> = task.options().loss.class_weights.iter().map(|weight| format!("{weight:.3}")).collect();
    if !weights.is_empty() {
        let more = if weights.len() > 8 { ", ..." } else { "" };
        words.push(format!("class weights {}{more}", weights[..weights.len().min(8)].join(" ")));
    }
    for (name, value) in [
        ("label smoothing", train.label_smoothing),
        ("gradients cut to the length", train.clip_grad_norm),
        ("gradients cut to the size", train.clip_grad_value),
    ] {
        if value > 0.0 {
            words.push(format!("{name} {value}"));
        }
    }
    if train.sampler == Sampler::Balanced {
        words.push("samples drawn so that classes come equally often".into());
    }
    if train.layer_decay < 1.0 {
        words.push(format!("rates that decay by {} from layer to layer", train.layer_decay));
    }
    if train.accumulate > 1 {
        words.push(format!("each step in {} parts, which norm layers see one at a time", train.accumulate));
    }
    if train.ema_decay > 0.0 {
        words.push(format!("averages of the weights (decay {}), which are validated and saved", train.ema_decay));
    }
    if train.patience > 0 {
        words.push(format!("patience of {} epochs", train.patience));
    }
    if words.is_empty() { String::new() } else { format!("recipe       {}\n", words.join(", ")) }
}

/// Learning rates (highest, lowest): fitted to a batch size, or with an `lr_scheduler` as they are, or as timm scales them from a
/// batch size of their own.
pub fn fitted_lr(config: &Config, batch_size: u64) -> (f64, f64) {
    let train = &config.train;
    if train.lr_scheduler.0.is_some() {
        let scale = match (train.lr_base_size, train.optimizer) {
            (0, _) => 1.0,
            (size, OptimizerKind::Sgd) => batch_size as f64 / size as f64,
            (size, _) => (batch_size as f64 / size as f64).sqrt(),
        };
        return (train.init_lr * scale, train.init_lr * scale * train.min_lr_ratio);
    }
    let limits = LrLimits::of(train.optimizer);
    fit_lr(batch_size as u32, train.init_lr, train.init_lr * train.min_lr_ratio, limits)
}

/// The phases with their learning rates.
fn fit_options(config: &Config, epoch_len: u64) -> Result<FitOptions> {
    let train = &config.train;
    let frozen_epochs = if train.freeze_train { train.freeze_epochs.min(train.epochs) } else { 0 };
    let phase = |first_epoch, frozen, batch_size: u64| -> Result<Phase> {
        let lr = match train.lr_scheduler.0 {
            Some(scheduler) => step_lr(config, scheduler, frozen_epochs, batch_size, epoch_len)?,
            None => {
                let (init_lr, min_lr) = fitted_lr(config, batch_size);
                // As upstream: one schedule over all epochs, so that the warm-up is not repeated when the backbone thaws.
                let schedule = EpochLr::new(train.lr_decay, init_lr, min_lr, train.epochs as u32)?;
                Box::new(move |epoch, _| schedule.at(epoch as u32))
            }
        };
        Ok(Phase { first_epoch, frozen, batch_size, lr, momentum: None })
    };
    let mut phases = Vec::new();
    if frozen_epochs > 0 {
        phases.push(phase(0, true, train.freeze_batch_size)?);
    }
    if frozen_epochs < train.epochs {
        phases.push(phase(frozen_epochs, false, train.batch_size)?);
    }
    Ok(FitOptions { patience: train.patience, ..config.fit_options(phases) })
}

/// The rate of each step of the phase with this batch size, by a schedule over the steps of all phases.
fn step_lr(
    config: &Config,
    scheduler: LrScheduler,
    frozen_epochs: u64,
    batch_size: u64,
    epoch_len: u64,
) -> Result<Box<dyn Fn(u64, u64) -> f64>> {
    let train = &config.train;
    let (frozen_steps, steps) = (epoch_len / train.freeze_batch_size, epoch_len / train.batch_size);
    // Steps of all epochs before this one.
    let before = move |epoch: u64| {
        let frozen = epoch.min(frozen_epochs);
        frozen.saturating_mul(frozen_steps).saturating_add((epoch - frozen).saturating_mul(steps))
    };
    let (lr, min_lr) = fitted_lr(config, batch_size);
    let schedule = StepLr {
        scheduler,
        lr,
        min_lr,
        power: train.lr_power,
        pct_start: train.pct_start,
        div_factor: train.div_factor,
        step_size: train.lr_step_size,
        milestones: train.lr_milestones.clone(),
        gamma: train.lr_gamma,
        warmup_steps: if train.warmup_epochs > 0 { before(train.warmup_epochs) } else { train.warmup_steps },
        warmup_start_factor: train.warmup_start_factor,
        total_steps: before(train.epochs),
    };
    schedule.check()?;
    Ok(Box::new(move |epoch, position| schedule.at(epoch, before(epoch) + position / batch_size)))
}

/// More epochs than these are no advice.
const MOST_EPOCHS_ADVISED: u64 = 1000;

/// Upstream's advice on the number of steps, if the run is shorter than it should be. It is meant for its large
/// backbones; the small one is done earlier. Trained weights have advice of their own. Where the data are so few that no sensible
/// number of epochs makes up for it, those weights are the advice.
fn advice(config: &Config, num_train: u64) -> Option<String> {
    let train = &config.train;
    let steps = (num_train / train.batch_size).saturating_mul(train.epochs);
    // The averages of a run that is shorter are made of its first steps.
    let window = 1.0 / (1.0 - train.ema_decay);
    if train.ema_decay > 0.0 && 3.0 * window > steps as f64 {
        return Some(format!(
            "train.ema_decay {} averages over about the last {window:.0} steps, and the run has {steps}: {:.4} would be a third of \
             them",
            train.ema_decay,
            (1.0 - 3.0 / steps.max(4) as f64).max(0.0)
        ));
    }
    if !config.model.pretrained.as_os_str().is_empty() {
        let is_plain = train.lr_scheduler.0.is_none() && !train.freeze_train;
        let words = "these rates are meant for new weights; --preset fine-tune has those usual for trained ones";
        return is_plain.then(|| words.into());
    }
    if config.model.backbone == Backbone::Small {
        return None;
    }
    let advice = step_advice(num_train, train.batch_size, train.epochs, train.optimizer)?;
    let remedy = if advice.wanted_epoch <= MOST_EPOCHS_ADVISED {
        format!("{} epochs would be enough", advice.wanted_epoch)
    } else {
        format!("with {num_train} images, begin with trained weights (--pretrained FILE)")
    };
    Some(format!(
        "this run has {} steps, fewer than the {} advised to train from scratch with {}: {remedy}",
        advice.total_step,
        advice.wanted_step,
        setting_name(&train.optimizer),
    ))
}
