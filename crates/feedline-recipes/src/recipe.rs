//! The contract of a recipe, in two halves: [`Recipe`] is its settings and data, [`Trainable`] the network that learns from
//! them. Owns what a recipe says of itself and the small types for it. Must not know a recipe, a run folder or a
//! tensor framework.
//!
//! A recipe begins with the first half: its samples can then be drawn, measured and made. The second half makes it one
//! that trains, resumes and is evaluated.

mod metrics;

pub use metrics::{MetricSummary, evaluate_metrics, tally_each_once};

use crate::settings::{Sections, Settings, SettingsBuilder};
use feedline::decode::RgbImage;
use feedline::deliver::{Loader, LoaderOptions};
use feedline::event::{Sink, Warnings};
use feedline::pipeline::Pipeline;
use feedline::plan::{Cursor, Plan, Request, Tail};
use feedline::train::group::Group;
use feedline::train::{FitOptions, Task, TaskState, Tensors};
use feedline::{Batch, Error, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longer side of a picture of which there are many, in pixels.
const THUMBNAIL_PX: u32 = 256;

/// A half of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Samples that are learned from, augmented.
    Train,
    /// Samples that the network is measured on, as they are.
    Val,
}

/// A family of work as far as its data goes: enough for `show`, `bench` and `demo-data`.
pub trait Recipe: Sized + 'static {
    /// Its settings.
    type Config: Settings;
    /// A split of its data.
    type Data: Pipeline + 'static;

    /// The data it is for, in a few words: a line of the command line's help.
    const SUMMARY: &'static str;

    /// The word for its samples, in the plural: `images`.
    const SAMPLES: &'static str;

    /// Opens a split.
    ///
    /// # Errors
    /// Data that cannot be used.
    fn open(config: &Self::Config, split: Split) -> Result<Arc<Self::Data>>;

    /// Order of the training split over `ranks`.
    ///
    /// # Errors
    /// No samples, or no ranks.
    fn plan(config: &Self::Config, train: &Self::Data, ranks: u64) -> Result<Plan> {
        Ok(Plan::new(train.len(), ranks)?.with_seed(config.seed()).with_tail(Tail::Drop))
    }

    /// Draws the samples of a batch as training gets them.
    ///
    /// # Errors
    /// Samples that cannot be used.
    fn draw(config: &Self::Config, data: &Arc<Self::Data>, batch: &BatchChoice) -> Result<Sheet>;

    /// Opens what `bench` loads: the training split in its order, unless the recipe has works of its own. `settings` puts
    /// the user's own settings over those that the recipe begins with.
    ///
    /// # Errors
    /// Settings or data that cannot be used; a work or a shape where there is none.
    fn bench(
        asked: &BenchRequest<'_>,
        settings: &dyn Fn(SettingsBuilder<Self::Config>) -> Result<Self::Config>,
    ) -> Result<BenchSetup<Self::Config>> {
        if asked.work.is_some() || asked.shape.is_some() {
            return Err(Error::config(
                format!("--work and --shape make no sense for the recipe {}", Self::Config::RECIPE),
                "Leave them out: samples are loaded as for training",
            ));
        }
        let config = settings(SettingsBuilder::defaults())?;
        let data = Self::open(&config, Split::Train)?;
        let plan = Self::plan(&config, &data, 1)?;
        Ok(BenchSetup { config, data, plan })
    }

    /// Makes the demo data set in `dir`, unless it is there already. `progress` hears how many samples of how many are
    /// done.
    ///
    /// # Errors
    /// A folder that holds something else, or a file that cannot be written.
    fn write_demo_data(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()>;
}

/// The half of a recipe that needs a network: what `train` and `eval` ask for.
pub trait Trainable: Recipe {
    /// Model, loss and optimiser.
    type Task: Task;
    /// The figures of a finished run, as `summary.json` holds them: [`MetricSummary`], or a struct of the recipe's own.
    type Summary: Serialize;

    /// The direction of the metric that the task names first.
    const BEST: Best = Best::Largest;

    /// True if `eval --logits` can write the network's outputs for each sample.
    const HAS_LOGITS: bool = false;

    /// Checks that the network can learn from a split, or be measured on it.
    ///
    /// # Errors
    /// Samples that can be drawn and measured, but not trained on.
    fn check_data(_config: &Self::Config, _data: &Self::Data, _split: Split) -> Result<()> {
        Ok(())
    }

    /// Opens the training and the validation split.
    ///
    /// # Errors
    /// Data that cannot be used.
    fn open_splits(config: &Self::Config) -> Result<SplitsOf<Self>> {
        let open = |split| {
            let data = Self::open(config, split)?;
            Self::check_data(config, &data, split).map(|()| data)
        };
        Ok((open(Split::Train)?, open(Split::Val)?))
    }

    /// Opens the validation split for a network of the run in `run_dir`.
    ///
    /// # Errors
    /// Data that cannot be used, or does not fit the network.
    fn open_evaluated(config: &Self::Config, _run_dir: &Path) -> Result<Arc<Self::Data>> {
        let data = Self::open(config, Split::Val)?;
        Self::check_data(config, &data, Split::Val)?;
        Ok(data)
    }

    /// Makes the task at its first step, for this data.
    ///
    /// # Errors
    /// A value out of range, or a device that is not to be had.
    fn task(config: &Self::Config, data: &Self::Data) -> Result<Self::Task>;

    /// Brings weights from elsewhere into a task at its first step, for this training data, and reports on it.
    ///
    /// # Errors
    /// Weights that cannot be read or do not fit.
    fn import(_config: &Self::Config, _task: &mut Self::Task, _train: &Self::Data) -> Result<Option<String>> {
        Ok(None)
    }

    /// Phases and learning rates of a run whose epochs have `epoch_len` samples.
    ///
    /// # Errors
    /// A schedule that is not possible.
    fn fit_options(config: &Self::Config, epoch_len: u64) -> Result<FitOptions>;

    /// The list of the samples of a split that a run keeps: for each a line with its name, and perhaps a tab and its class.
    fn sample_list(data: &Self::Data) -> String;

    /// Files of the recipe's own in a new run folder: name and text, a name a line. They say what the network's outputs
    /// mean, so a run does not go on with others.
    fn files(_config: &Self::Config, _train: &Self::Data) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Advice for a person before a new run begins.
    fn advice(_config: &Self::Config, _train: &Self::Data) -> Option<String> {
        None
    }

    /// Describes in a few lines what will be trained on what.
    fn describe(setup: &Setup<Self>) -> String {
        let Setup { config, train, val, .. } = setup;
        format!(
            "data         {} training and {} validation {}\n\
             training     {} epochs of batch {}{}, {} data workers\n",
            train.len(),
            val.len(),
            Self::SAMPLES,
            config.epochs(),
            config.batch_size(),
            setup.over_ranks(),
            config.loader().num_workers(),
        )
    }

    /// Works out the figures of a finished run; all ranks do so together. `sink` hears warnings.
    ///
    /// # Errors
    /// Errors of the data or the model.
    fn summary(setup: &mut Setup<Self>, finished: Finished, sink: Arc<dyn Sink>) -> Result<Self::Summary>;

    /// Reports in a few lines how a finished run went.
    fn report(summary: &Self::Summary) -> String;

    /// Measures a network on a split, every sample once.
    ///
    /// # Errors
    /// Errors of the data, the model or the folder of the figures.
    fn evaluate(
        config: &Self::Config,
        task: &mut Self::Task,
        data: &Arc<Self::Data>,
        options: EvalOptions<'_>,
    ) -> Result<EvalReport>;
}

/// The training and the validation split of a recipe's data.
pub type SplitsOf<R> = (Arc<<R as Recipe>::Data>, Arc<<R as Recipe>::Data>);

/// The parts of a run, as one rank sees it.
pub struct Setup<R: Trainable> {
    /// The settings.
    pub config: R::Config,
    /// Model, loss and optimiser.
    pub task: R::Task,
    /// The training split.
    pub train: Arc<R::Data>,
    /// The validation split.
    pub val: Arc<R::Data>,
    /// The ranks that train together.
    pub group: Arc<dyn Group>,
}

impl<R: Trainable> Setup<R> {
    /// ` over 4 ranks`, or nothing for one.
    pub fn over_ranks(&self) -> String {
        match self.group.world_size() {
            1 => String::new(),
            ranks => format!(" over {ranks} ranks"),
        }
    }
}

/// The direction of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Best {
    /// An accuracy.
    Largest,
    /// An error.
    Smallest,
}

impl Best {
    /// The best of `values`; NaN if all are.
    pub fn of(self, values: impl Iterator<Item = f64>) -> f64 {
        values.fold(
            f64::NAN,
            match self {
                Best::Largest => f64::max,
                Best::Smallest => f64::min,
            },
        )
    }
}

/// The figures of a finished run's history.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Figures that every run has.
    pub figures: RunFigures,
    /// The best value on the validation split of the metric that the task names first; see [`Trainable::BEST`].
    pub best_metric: f64,
    /// Its last value.
    pub last_metric: f64,
}

/// Figures that every finished run has.
#[derive(Debug, Clone, Serialize)]
pub struct RunFigures {
    /// The value of the last epoch.
    pub train_loss: f64,
    /// The value of the last epoch.
    pub val_loss: f64,
    /// Epochs trained.
    pub epochs: u64,
    /// Training time without evaluation.
    pub train_seconds: f64,
    /// Samples per second, a mean over the run.
    pub images_per_second: f64,
    /// Share of the training time spent waiting for data.
    pub data_wait_share: f64,
    /// Samples that were replaced because they could not be used.
    pub bad_samples: u64,
}

impl RunFigures {
    /// Formats duration and speed of the run, in `samples` per second with so many `decimals`.
    pub fn timing(&self, samples: &str, decimals: usize) -> String {
        format!(
            "after {} epochs, {:.1} s of training at {:.*} {samples}/s, {:.1} % of it waiting for data\n",
            self.epochs,
            self.train_seconds,
            decimals,
            self.images_per_second,
            self.data_wait_share * 100.0
        )
    }
}

/// Options of an evaluation.
pub struct EvalOptions<'e> {
    /// The folder that the figures will be written to.
    pub out: &'e Path,
    /// True if the network's outputs for each sample are asked for; only of a recipe that has them.
    pub logits: bool,
    /// How many of the most confident mistakes are asked for, with their pictures; of classes only.
    pub mistakes: usize,
    /// Hears how many samples more are done.
    pub progress: &'e mut dyn FnMut(u64),
}

/// The result of an evaluation.
#[derive(Debug)]
pub struct EvalReport {
    /// Lines for a person; the last one names the files.
    pub text: String,
    /// The figures for `eval.json`, to which checkpoint and data are added.
    pub figures: Vec<(&'static str, serde_json::Value)>,
    /// Files beside it: name in the folder, and content.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// A CSV of the network's outputs, if they were asked for.
    pub logits: String,
    /// Which class was taken for which; of a recipe that gives each sample a class.
    pub confusion: Option<Confusion>,
}

/// Which class a network takes for which.
#[derive(Debug)]
pub struct Confusion {
    /// The names of the classes.
    pub classes: Vec<String>,
    /// `counts[label][predicted]`: samples.
    pub counts: Vec<Vec<u64>>,
    /// The most confident mistakes, as many as were asked for, the worst first.
    pub mistakes: Vec<WrongSample>,
}

/// A sample that was taken for another class, to be looked at.
#[derive(Debug)]
pub struct WrongSample {
    /// Its file.
    pub location: String,
    /// Its class.
    pub label: usize,
    /// The class it was taken for.
    pub predicted: usize,
    /// The probability that the network gives that class, 0 to 1.
    pub probability: f64,
    /// It as the network sees it.
    pub picture: RgbImage,
}

/// A batch of an epoch, chosen to be drawn.
pub struct BatchChoice {
    plan: Plan,
    epoch: u64,
    step: u64,
    batch_size: u64,
    options: LoaderOptions,
}

impl BatchChoice {
    /// Batch `step` of `epoch`, both from 0; `drops_rest` says that an epoch has whole batches only.
    ///
    /// # Errors
    /// A step that the epoch does not have; a training split without a whole batch, in the words of `train`.
    pub fn new(plan: Plan, config: &impl Settings, epoch: u64, step: u64, drops_rest: bool) -> Result<BatchChoice> {
        let (samples, batch_size) = (plan.epoch_len(), config.batch_size());
        let steps = plan.num_batches(0, 0, batch_size, drops_rest);
        if steps == 0 {
            return Err(Error::SplitTooSmall { split: "train".into(), samples, batch_size });
        }
        if step >= steps {
            return Err(Error::config(
                format!("--step {step}: an epoch of {samples} samples has {steps} batches of {batch_size}"),
                format!("Steps count from 0, so the last one is {}", steps - 1),
            ));
        }
        let options = LoaderOptions { batch_size, num_workers: 0, ..config.loader().options(Arc::new(Warnings)) };
        Ok(BatchChoice { plan, epoch, step, batch_size, options })
    }

    /// The samples that the plan asks for.
    pub fn requests(&self) -> Vec<Request> {
        let epoch = self.plan.epoch(self.epoch);
        epoch.rank(0).skip((self.step * self.batch_size) as usize).take(self.batch_size as usize).collect()
    }

    /// The batch as a loader delivers it; `None` if there is no sample in it that can be used.
    ///
    /// # Errors
    /// Errors of the data.
    pub fn load<P: Pipeline + 'static>(&self, data: &Arc<P>) -> Result<Option<Batch>> {
        let cursor = Cursor::new(data.fingerprint(), &self.plan, self.epoch, self.step * self.batch_size, 0);
        let mut loader = Loader::new(data.clone(), self.plan.clone(), self.options.clone())?;
        loader.load_state_dict(&cursor)?;
        loader.next_batch()
    }
}

/// Pictures side by side.
#[derive(Debug)]
pub struct Sheet {
    /// Each with its caption.
    pub pictures: Vec<(RgbImage, String)>,
    /// Number of pictures in a row.
    pub columns: usize,
    /// Larger pictures are shrunk to this longer side if there are many.
    pub large_px: u32,
}

impl Sheet {
    /// Pictures shrunk to the size of thumbnails if there are many.
    pub fn new(pictures: Vec<(RgbImage, String)>, columns: usize) -> Sheet {
        Sheet { pictures, columns, large_px: THUMBNAIL_PX }
    }

    /// A sheet about as wide as high.
    pub fn square(pictures: Vec<(RgbImage, String)>) -> Sheet {
        let columns = (pictures.len() as f64).sqrt().ceil() as usize;
        Sheet::new(pictures, columns)
    }
}

/// The user's request of `bench` besides settings.
#[derive(Debug, Clone, Copy)]
pub struct BenchRequest<'a> {
    /// One of the works of the benchmark.
    pub work: Option<Work>,
    /// Shape of one sample of raw files.
    pub shape: Option<&'a [usize]>,
    /// The data that is named.
    pub data: Option<&'a Path>,
    /// True if there are settings of the user's own: a file, or an augmentation.
    pub has_settings: bool,
}

/// The samples that `bench` loads.
pub struct BenchSetup<C> {
    /// The settings, complete.
    pub config: C,
    /// The samples.
    pub data: Arc<dyn Pipeline>,
    /// Their order.
    pub plan: Plan,
}

/// The works of the benchmark (`bench/README.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    A,
    B,
    C,
    D,
    E,
    F,
    G,
}

impl Work {
    /// Each with its name and what it is, for the command line's help.
    pub const ALL: [(Work, &'static str, &'static str); 7] = [
        (Work::A, "a", "Photographs: random resized crop to 224, flip, normalise, batch 64"),
        (Work::B, "b", "The same for large photographs"),
        (Work::C, "c", "Evaluation: resize to 256, centre crop 224"),
        (Work::D, "d", "Small pictures as they are (28 x 28)"),
        (Work::E, "e", "Arrays, no decoding: rows of a .npy file"),
        (Work::F, "f", "Arrays: a folder of point clouds (.bin, with --shape)"),
        (Work::G, "g", "Arrays: a folder of 16-bit depth pictures (.png)"),
    ];
}

/// Delivers every sample of `data` once over all ranks, in order: `on_batch` sees the batches of this rank. The batch size
/// is that of the settings, over all ranks.
///
/// # Errors
/// Errors of the data, and of `on_batch`.
pub fn each_once<P: Pipeline + 'static>(
    data: &Arc<P>,
    config: &impl Settings,
    group: &dyn Group,
    sink: Arc<dyn Sink>,
    mut on_batch: impl FnMut(&Batch) -> Result<()>,
) -> Result<()> {
    let plan = Plan::unshuffled(data.len(), group.world_size())?.with_tail(Tail::Exact);
    let options = LoaderOptions {
        rank: group.rank(),
        batch_size: config.batch_size().div_ceil(group.world_size()),
        end_epoch: Some(1),
        ..config.loader().options(sink)
    };
    let mut loader = Loader::new(data.clone(), plan, options)?;
    loader.iter().try_for_each(|batch| on_batch(&batch?))
}

/// Puts the weights of a checkpoint into a task at its first step.
///
/// # Errors
/// A tensor that is missing, unknown or of another shape, by name.
pub fn load_weights(task: &mut impl Task, model: Tensors) -> Result<()> {
    let state = task.state()?;
    task.load_state(TaskState { model, ..state })
}

/// The value of a setting as a file has it: `Adam` is `adam`.
pub fn setting_name(value: &dyn std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lidar::config::Config;

    #[test]
    fn a_step_that_an_epoch_does_not_have_is_refused_with_what_helps() {
        let settings = SettingsBuilder::<Config>::defaults().assign("data.dir=/d").unwrap();
        let config = settings.assign("train.batch_size=32").unwrap().resolve().unwrap();
        let refused = |samples: u64, step: u64, drops_rest: bool| {
            let plan = Plan::new(samples, 1).unwrap();
            BatchChoice::new(plan, &config, 0, step, drops_rest).err().map(|error| error.to_string())
        };
        let error = refused(20, 0, true).unwrap();
        assert!(error.contains("the train split has 20 samples, fewer than one batch of 32"), "{error}");
        assert!(error.contains("lower the batch size to 20 or less"), "{error}");
        // The rest of a split that keeps it is a batch.
        assert_eq!(refused(20, 0, false), None);
        assert_eq!(refused(95, 1, true), None);
        let error = refused(95, 2, true).unwrap();
        assert!(error.contains("an epoch of 95 samples has 2 batches of 32"), "{error}");
        assert!(error.contains("the last one is 1"), "{error}");
    }
}
