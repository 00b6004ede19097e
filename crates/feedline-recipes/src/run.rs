//! A training run of any recipe: from settings to a run folder. Puts task, data, phases and loop together; owns no step of
//! any of them, and knows no recipe and no tensor framework.
#![expect(clippy::disallowed_methods, reason = "reads the settings and the list of a run that goes on")]

mod checkpoint;

pub use checkpoint::{Meant, locate, settings_of};

use crate::recipe::{Finished, RunFigures, Setup, Trainable};
use crate::settings::{CONFIG, Sections, Settings, SettingsBuilder};
use feedline::deliver::{Loader, LoaderOptions};
use feedline::event::{EpochRecord, Event, MultiSink, Sink, Warnings};
use feedline::pipeline::{Pipeline, tell};
use feedline::train::checkpoint::{Checkpoints, Found, Progress, broadcast};
use feedline::train::consistency::{check_consistent, split_batch};
use feedline::train::group::Group;
use feedline::train::lock::FolderLock;
use feedline::train::proof::LedgerFile;
use feedline::train::run::{CHECKPOINTS, RunFolder};
use feedline::train::{FitContext, FitData, Outcome, Tally, Task, fit};
use feedline::{Error, Result};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of a run folder with a line for each training sample, in order: its name, and perhaps a tab and its class.
pub const SAMPLES: &str = "samples.txt";

/// As [`SAMPLES`], for the validation samples.
pub const VAL_SAMPLES: &str = "val_samples.txt";

/// A run that is ready to train, as one rank sees it.
pub struct Run<R: Trainable> {
    setup: Setup<R>,
    dir: PathBuf,
    /// On rank 0: the others write nothing.
    folder: Option<Arc<RunFolder>>,
    progress: Progress,
    notes: Vec<String>,
}

impl<R: Trainable> Run<R> {
    /// A new run of all ranks in `dir`, which must be empty or not exist on rank 0, or hold a start in which nothing was
    /// trained: that is moved aside. Nothing is written before data, model and weights are known to be good.
    ///
    /// # Errors
    /// Any fault of the settings, the data, the weights or the folder.
    pub fn create(config: R::Config, dir: &Path, group: Arc<dyn Group>) -> Result<Run<R>> {
        let config = config.absolute()?;
        let (train, val) = R::open_splits(&config)?;
        let mut task = R::task(&config, &train)?;
        let mut notes: Vec<String> = R::import(&config, &mut task, &train)?.into_iter().collect();
        let samples = R::plan(&config, &train, 1)?.epoch_len();
        let options = R::fit_options(&config, samples)?;
        let phases = options.phases;
        for phase in &phases {
            split_batch(phase.batch_size, group.world_size(), options.batch_split)?;
        }
        let batch_size = phases.iter().map(|phase| phase.batch_size).max().unwrap_or(1);
        if samples < batch_size {
            return Err(Error::SplitTooSmall { split: "train".into(), samples, batch_size });
        }
        let folder = match group.rank() {
            0 => {
                let folder = RunFolder::create(dir, &config.to_file()?, task.metric_names())?;
                for (name, text) in R::files(&config, &train) {
                    folder.write(name, text.as_bytes())?;
                }
                folder.write(SAMPLES, R::sample_list(&train).as_bytes())?;
                folder.write(VAL_SAMPLES, R::sample_list(&val).as_bytes())?;
                notes.extend(folder.notes());
                Some(Arc::new(folder))
            }
            _ => None,
        };
        notes.extend(R::advice(&config, &train));
        let (dir, progress) = (dir.to_path_buf(), Progress::default());
        Ok(Run { setup: Setup { config, task, train, val, group }, dir, folder, progress, notes })
    }

    /// The run in `dir`, from its newest complete checkpoint, or from its beginning if it never had one; only rank 0 needs to see the
    /// folder. `change` may change the settings as far as a run that goes on allows. The number of ranks may be another
    /// than before: the epoch goes on with exactly the samples that are left.
    ///
    /// With `allow_changed_data` a run goes on though samples were added or removed: the epoch under way begins anew,
    /// over the data as it is now. The run may get another number of epochs, but no fewer than it has begun: from its next epoch
    /// on its rates are those of a run of that length.
    ///
    /// # Errors
    /// A folder that is no run, or that another process works on; settings that may not change or are not those of the
    /// checkpoint, other classes, data that has changed; checkpoints of which none is complete.
    pub fn resume(
        dir: &Path,
        change: impl FnOnce(R::Config) -> Result<R::Config>,
        allow_changed_data: bool,
        group: Arc<dyn Group>,
    ) -> Result<Run<R>> {
        let (mut text, mut lock, mut newest, mut began_with) = (Vec::new(), None, None, None);
        if group.rank() == 0 {
            let saved = R::Config::of_run(dir)?;
            // Before anything is read that another process may be about to change.
            lock = Some(FolderLock::take(dir)?);
            newest = Checkpoints::new(dir.join(CHECKPOINTS)).newest()?;
            match &newest {
                Some(Found { path, settings: Some(made_with), .. }) => {
                    saved.check_checkpoint(dir, path, made_with)?;
                    began_with = Some(SettingsBuilder::defaults().table(made_with.clone())?.resolve()?);
                }
                Some(_) => {}
                None => RunFolder::check_had_no_checkpoint(dir)?,
            }
            let config = change(saved.clone())?.absolute()?;
            saved.check_resume(&config)?;
            text = config.to_toml()?.into_bytes();
            began_with = began_with.or(Some(saved));
        }
        group.broadcast(&mut text)?;
        let config = R::Config::from_toml(&String::from_utf8_lossy(&text))?;
        let (train, val) = R::open_splits(&config)?;
        let mut task = R::task(&config, &train)?;
        let mut notes = Vec::new();
        let (from, loaded) = match newest {
            Some(Found { path, progress, state, passed_over, .. }) => {
                notes.extend(passed_over);
                (Some(path), Some((progress, state)))
            }
            None => (None, None),
        };
        let (mut loaded, mut changed, plan) = (loaded, false, R::plan(&config, &train, 1)?);
        let files = R::files(&config, &train);
        if lock.is_some() {
            let is_checked = loaded.as_ref().and_then(|(saved, _)| saved.cursor.as_ref());
            let is_same = is_checked.is_some_and(|cursor| cursor.check(train.fingerprint(), &plan).is_ok());
            same_files(dir, &files, is_same, loaded.is_some())?;
            // Without a cursor the list alone knows what the run began with.
            let change = difference(&dir.join(SAMPLES), &R::sample_list(&train)).filter(|_| is_checked.is_none());
            match change {
                Some(change) if !allow_changed_data => return Err(changed_data(dir, "run began", &change)),
                Some(change) => notes.push(format!("the run begins with the data as it is now: {change}")),
                None => {}
            }
        }
        if let Some((saved, _)) = &mut loaded
            && let Some(cursor) = &saved.cursor
            && let Err(error) = cursor.check(train.fingerprint(), &plan)
        {
            let change = difference(&dir.join(SAMPLES), &R::sample_list(&train));
            if !allow_changed_data {
                // Perhaps a newer checkpoint was passed over, which was of this data.
                notes.iter().try_for_each(|message| Warnings.emit(&Event::Warning { message: message.clone() }))?;
                return Err(change.map_or(error, |change| changed_data(dir, "checkpoint", &change)));
            }
            if saved.step > 0 && !saved.trained {
                notes.push(format!("epoch {} begins anew with the data as it is now", saved.epoch + 1));
                (saved.step, saved.lr, saved.tally) = (0, None, Tally::default());
                (saved.train_seconds, saved.wait_seconds) = (0.0, 0.0);
            }
            saved.restarts += 1;
            let mut loader = Loader::new(train.clone(), plan, LoaderOptions { num_workers: 0, ..Default::default() })?;
            loader.set_epoch(saved.epoch + u64::from(saved.trained));
            saved.cursor = Some(loader.state_dict());
            changed = true;
        }
        let progress = match broadcast(&*group, loaded)? {
            Some((progress, state)) => {
                task.load_state(state)?;
                progress
            }
            None => {
                R::import(&config, &mut task, &train)?;
                Progress::default()
            }
        };
        if let Some(saved) = &began_with {
            notes.extend(other_length::<R>(saved, &config, &progress, R::plan(&config, &train, 1)?.epoch_len())?);
        }
        let folder = match lock {
            Some(lock) => {
                let folder = RunFolder::open(lock, task.metric_names(), progress.history.clone())?;
                notes.extend(folder.notes());
                let checkpoints = folder.checkpoints().with_settings(config.to_toml()?);
                if changed {
                    // At once: a checkpoint and the list of samples beside it must be of the same data.
                    notes.extend(checkpoints.save(&progress, &task.state()?, false)?.warnings);
                } else if let Some(from) = &from {
                    notes.extend(checkpoints.settle(from, &progress)?);
                }
                for message in &notes {
                    folder.emit(&Event::Warning { message: message.clone() })?;
                }
                folder.write(CONFIG, config.to_file()?.as_bytes())?;
                for (name, text) in files {
                    folder.write(name, text.as_bytes())?;
                }
                folder.write(SAMPLES, R::sample_list(&train).as_bytes())?;
                folder.write(VAL_SAMPLES, R::sample_list(&val).as_bytes())?;
                folder.emit(&Event::Resumed { epoch: progress.epoch + 1, step: progress.step })?;
                Some(Arc::new(folder))
            }
            None => None,
        };
        notes.push(if progress.epoch >= config.epochs() {
            format!("all {} epochs are done already", progress.epoch)
        } else {
            let place = format!("resumed at epoch {}, after step {}", progress.epoch + 1, progress.step);
            let name = from.as_deref().and_then(Path::file_name);
            name.map_or(place.clone(), |name| format!("{place}, from {}", Path::new(CHECKPOINTS).join(name).display()))
        });
        let setup = Setup { config, task, train, val, group };
        Ok(Run { setup, dir: dir.to_path_buf(), folder, progress, notes })
    }

    /// The settings, the task, the data and the ranks.
    pub fn setup(&self) -> &Setup<R> {
        &self.setup
    }

    /// The settings.
    pub fn config(&self) -> &R::Config {
        &self.setup.config
    }

    /// Notes for a person before the run begins.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The folder of the run.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Model, loss and optimiser.
    pub fn task(&self) -> &R::Task {
        &self.setup.task
    }

    /// The task, for whoever evaluates it.
    pub fn task_mut(&mut self) -> &mut R::Task {
        &mut self.setup.task
    }

    /// The training and the validation split.
    pub fn data(&self) -> (&Arc<R::Data>, &Arc<R::Data>) {
        (&self.setup.train, &self.setup.val)
    }

    /// The run's progress: epoch, step, history.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Trains to the end, and rank 0 writes `summary.json`; or until a rank's `stop` says so: then a checkpoint is saved
    /// and there is no summary. `sink` hears this rank's events.
    ///
    /// # Errors
    /// Errors of the data, the model or the disk.
    pub fn train(&mut self, sink: Arc<dyn Sink>, stop: &dyn Fn() -> bool) -> Result<Option<R::Summary>> {
        let facts = self.setup.config.facts()?;
        let facts: Vec<(&str, String)> = facts.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        check_consistent(&*self.setup.group, &facts)?;
        let sink = match &self.folder {
            Some(folder) => Arc::new(MultiSink(vec![folder.clone(), sink])) as Arc<dyn Sink>,
            None => Arc::new(Warnings),
        };
        if self.folder.is_some() {
            tell([&*self.setup.train as &dyn Pipeline, &*self.setup.val], &*sink)?;
        }
        let plan = R::plan(&self.setup.config, &self.setup.train, self.setup.group.world_size())?;
        let options = R::fit_options(&self.setup.config, plan.epoch_len())?;
        let loader = self.setup.config.loader().options(sink.clone());
        let splits = FitData { train: self.setup.train.clone(), val: self.setup.val.clone(), loader, plan };
        let settings = self.setup.config.to_toml()?;
        let checkpoints = self.folder.as_ref().map(|folder| folder.checkpoints().with_settings(settings));
        let cursor = self.progress.cursor.as_ref();
        let ledger = RefCell::new(LedgerFile::begin(
            &self.dir,
            &*self.setup.group,
            &splits.plan,
            splits.train.fingerprint(),
            cursor,
        )?);
        let ledger = Some(&ledger);
        let together =
            FitContext { group: &*self.setup.group, ledger, checkpoints: checkpoints.as_ref(), sink: &sink, stop };
        if fit(&mut self.setup.task, &splits, &options, &together, &mut self.progress)? == Outcome::Interrupted {
            return Ok(None);
        }
        let finished = self.finished();
        let summary = R::summary(&mut self.setup, finished, sink)?;
        if let Some(folder) = &self.folder {
            let json = serde_json::to_string_pretty(&summary)
                .map_err(|e| Error::train(format!("the summary is not JSON: {e}"), "Please report this"))?;
            folder.write("summary.json", (json + "\n").as_bytes())?;
        }
        Ok(Some(summary))
    }

    /// Sums up the history of a run that is done.
    fn finished(&self) -> Finished {
        let history = &self.progress.history;
        let none = EpochRecord { train_loss: f64::NAN, val_loss: f64::NAN, ..EpochRecord::default() };
        let last = history.last().unwrap_or(&none);
        let train_seconds: f64 = history.iter().map(|record| record.train_seconds).sum();
        let share = |part: fn(&EpochRecord) -> f64| {
            history.iter().map(|record| part(record) * record.train_seconds).sum::<f64>() / train_seconds.max(1e-9)
        };
        let first = |record: &EpochRecord| record.val_metrics.first().copied().unwrap_or(f64::NAN);
        Finished {
            figures: RunFigures {
                train_loss: last.train_loss,
                val_loss: last.val_loss,
                epochs: last.epoch,
                train_seconds,
                images_per_second: share(|record| record.images_per_second),
                data_wait_share: share(|record| record.data_wait_share),
                bad_samples: self.progress.cursor.as_ref().map_or(0, |cursor| cursor.bad_samples),
            },
            best_metric: R::BEST.of(history.iter().map(first)),
            last_metric: first(last),
        }
    }
}

/// A note if a run goes on to another epoch than it was begun for, with what becomes of its learning rate.
///
/// # Errors
/// Fewer epochs than were begun.
fn other_length<R: Trainable>(
    began_with: &R::Config,
    config: &R::Config,
    progress: &Progress,
    samples: u64,
) -> Result<Option<String>> {
    let (old, new) = (began_with.epochs(), config.epochs());
    let begun = progress.epoch + u64::from(progress.step > 0);
    if new < begun && new != old {
        return Err(Error::config(
            format!("train.epochs is {new}, and the run has begun epoch {begun}"),
            format!("Give {begun} or more, or begin a new run"),
        ));
    }
    if old == new || progress.epoch >= new {
        return Ok(None);
    }
    let rate = |config: &R::Config, epoch: u64| -> Result<f64> {
        let phases = R::fit_options(config, samples)?.phases;
        let phase = phases.iter().rfind(|phase| phase.first_epoch <= epoch);
        Ok(phase.map_or(f64::NAN, |phase| (phase.lr)(epoch, 0)))
    };
    let next = progress.epoch;
    let before = match progress.history.last() {
        Some(last) if next >= old => format!("that of epoch {} was {:.2e}", last.epoch, last.lr),
        _ => format!("it would have been {:.2e}", rate(began_with, next)?),
    };
    Ok(Some(format!(
        "the run trains to epoch {new} now, not {old}: the learning rate of epoch {} is {:.2e} ({before}), and that of epoch \
         {new} is {:.2e}",
        next + 1,
        rate(config, next)?,
        rate(config, new - 1)?,
    )))
}

/// Checks that the recipe's own files in the run folder equal those that the data gives now. `is_same`: the checkpoint's
/// fingerprint shows the data to be the same, so a missing file can be rewritten.
fn same_files(dir: &Path, files: &[(&'static str, String)], is_same: bool, is_trained: bool) -> Result<()> {
    for (name, now) in files {
        let path = dir.join(name);
        let remedy = match (is_same, is_trained) {
            (true, _) => "The data is what the checkpoint was trained on: remove the file, and it is written anew".into(),
            (false, true) => {
                "A network keeps its classes: restore the data that the run began with, or start a new run for the other"
                    .into()
            }
            (false, false) => {
                format!("Nothing was trained in this folder yet: start anew in it with --out {}", dir.display())
            }
        };
        let refused = |problem: String| Error::Checkpoint { path: path.clone(), problem, remedy: remedy.clone() };
        let old = match std::fs::read_to_string(&path) {
            Ok(old) => old,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && is_same => continue,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(refused(
                    "it is missing, and no checkpoint says that the data is what the run began with".into(),
                ));
            }
            Err(e) => return Err(Error::io("read", path, e)),
        };
        if old == *now {
            continue;
        }
        let (old, now): (Vec<&str>, Vec<&str>) = (old.lines().collect(), now.lines().collect());
        let without = |these: &[&str], others: &[&str]| -> Vec<String> {
            let others: BTreeSet<&str> = others.iter().copied().collect();
            these.iter().filter(|name| !others.contains(*name)).map(|name| name.to_string()).collect()
        };
        let (added, removed) = (without(&now, &old), without(&old, &now));
        let some = |names: Vec<String>, what: &str| {
            let more = if names.len() > 3 { ", ..." } else { "" };
            (!names.is_empty())
                .then(|| format!("{} {what} ({}{more})", names.len(), names[..names.len().min(3)].join(", ")))
        };
        let change: Vec<String> = [some(added, "added"), some(removed, "removed")].into_iter().flatten().collect();
        let change = if change.is_empty() { "their order is another".into() } else { change.join(", ") };
        return Err(refused(format!(
            "the run has {} classes, and the data has {} now: {change}",
            old.len(),
            now.len()
        )));
    }
    Ok(())
}

/// A text with the changes of the training samples since `list` (see [`SAMPLES`]) was written; `None` if it cannot be
/// read or nothing changed.
fn difference(list: &Path, now: &str) -> Option<String> {
    let old = std::fs::read_to_string(list).ok()?;
    let classes = |text: &str| -> BTreeMap<String, String> {
        let parts = text.lines().map(|line| line.rsplit_once('\t').unwrap_or((line, "")));
        parts.map(|(name, class)| (name.into(), class.into())).collect()
    };
    let (old, new) = (classes(&old), classes(now));
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

fn changed_data(dir: &Path, since: &str, change: &str) -> Error {
    Error::Checkpoint {
        path: dir.to_path_buf(),
        problem: format!("the training samples have changed since the {since}: {change}"),
        remedy: "Restore the data, or add --allow-changed-data: the epoch under way then begins anew with the data as it is now".into(),
    }
}
