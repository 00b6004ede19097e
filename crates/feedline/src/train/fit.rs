//! The training loop: one function that reads from top to bottom. Knows the order of events and nothing of the model.
#![expect(clippy::disallowed_methods, reason = "measures the times of a step for the record of the run")]

use super::checkpoint::{Checkpoints, Progress, best_epoch};
use super::consistency::{BatchSplit, check_consistent, split_batch};
use super::group::Group;
use super::proof::LedgerFile;
use super::{Tally, Task};
use crate::deliver::{Loader, LoaderOptions};
use crate::error::{Error, Result};
use crate::event::{EpochRecord, Event, Sink};
use crate::pipeline::Pipeline;
use crate::plan::{Plan, Tail};
use crate::sample::Replaced;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

/// The data of a run.
pub struct FitData {
    pub train: Arc<dyn Pipeline>,
    pub val: Arc<dyn Pipeline>,
    /// Workers, budgets and policies of both loaders; rank, batch size and split name are set by the loop.
    pub loader: LoaderOptions,
    /// Order of the training split, for as many ranks as the group has; the validation split is read in order, each
    /// sample once.
    pub plan: Plan,
}

/// A range of epochs with the same settings.
pub struct Phase {
    /// First epoch of the phase, from 0.
    pub first_epoch: u64,
    /// True if the backbone is frozen.
    pub frozen: bool,
    /// Global batch size, over all ranks.
    pub batch_size: u64,
    /// Learning rate of a step, given its epoch (from 0) and the number of global positions of that epoch consumed
    /// before it. A rate per epoch depends on the epoch alone.
    pub lr: Box<dyn Fn(u64, u64) -> f64>,
    /// Momentum of a step, given the same; without it the task keeps its own.
    pub momentum: Option<Box<dyn Fn(u64, u64) -> f64>>,
}

/// Settings of the loop.
pub struct FitOptions {
    /// Epochs in total, all phases together.
    pub epochs: u64,
    /// In order; the first begins with epoch 0.
    pub phases: Vec<Phase>,
    /// Handling of a global batch size that is not a multiple of the number of ranks.
    pub batch_split: BatchSplit,
    /// Ends the run after so many epochs of its last phase without a best epoch; 0 never does.
    pub patience: u64,
    /// Keeps the checkpoint of every `save_period`-th epoch; 0 keeps none.
    pub save_period: u64,
    /// Maximum steps between checkpoints; 0 is no limit.
    pub checkpoint_steps: u64,
    /// Maximum seconds between checkpoints; 0 is no limit.
    pub checkpoint_seconds: f64,
}

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// Stopped on request; a checkpoint was saved.
    Interrupted,
}

/// The ranks of a run, and its outputs.
pub struct FitContext<'a> {
    /// The ranks.
    pub group: &'a dyn Group,
    /// Records the delivered samples, if given; on every rank or on none.
    pub ledger: Option<&'a RefCell<LedgerFile>>,
    /// The folder for checkpoints; only rank 0 writes any, and only it needs one.
    pub checkpoints: Option<&'a Checkpoints>,
    /// Receives this rank's progress. The figures are those of the group, except `data_wait_share` and `stages`.
    pub sink: &'a Arc<dyn Sink>,
    /// True if this rank wants to stop; called after every step. All ranks stop as soon as one wants to.
    pub stop: &'a dyn Fn() -> bool,
}

/// Trains from `progress` on, which must be the same on every rank, until all epochs are done or a rank wants to stop.
///
/// All decisions depend on the step alone, so a killed run that resumes from its last checkpoint gives bit for bit the
/// losses of an uninterrupted one, if the task is deterministic and the number of ranks is the same. The samples of a
/// step over all ranks are the same for any number of ranks.
///
/// # Errors
/// Any error of the data, the task or the disk, on the rank where it happens: the others wait for it at their next
/// collective, until the caller ends them by [`Group::abort`]. Ranks with different data, plans or batches. The last
/// checkpoint stays as it was.
pub fn fit(
    task: &mut dyn Task,
    splits: &FitData,
    options: &FitOptions,
    context: &FitContext<'_>,
    progress: &mut Progress,
) -> Result<Outcome> {
    let &FitContext { group, sink, .. } = context;
    let shares = shares_of_rank(splits, options, group, progress)?;
    // Before the first step, so that no run ends at a later phase that cannot be.
    options.phases.iter().try_for_each(|phase| task.set_frozen(phase.frozen))?;
    task.broadcast(group)?;
    let val_plan = Plan::unshuffled(splits.val.len(), splits.plan.num_replicas())?.with_tail(Tail::Exact);
    let mut last_save = Instant::now();

    for (phase_at, (phase, &share)) in options.phases.iter().zip(&shares).enumerate() {
        let end = options.phases.get(phase_at + 1).map_or(options.epochs, |next| next.first_epoch).min(options.epochs);
        if progress.epoch >= end {
            continue;
        }
        task.set_frozen(phase.frozen)?;
        if context.is_out_of_patience(options, progress)? {
            break;
        }
        let (mut train, mut val) = context.loaders(splits, &val_plan, share, options.epochs)?;
        match &progress.cursor {
            Some(cursor) => train.load_state_dict(cursor)?,
            None => train.set_epoch(progress.epoch),
        }

        while progress.epoch < end {
            let (epoch, epochs) = (progress.epoch + 1, options.epochs);
            // Not the loader's length: a resume may have changed the number of ranks or the batch size in mid-epoch.
            let steps = progress.step + if progress.trained { 0 } else { train.left() };
            // If the epoch's training is done, the rate of its last step: the loader is already at the next epoch.
            let last_lr = progress.lr.filter(|_| progress.trained);
            let mut lr = last_lr.unwrap_or_else(|| (phase.lr)(progress.epoch, train.position()));
            let (step, frozen, batch_size) = (progress.step, phase.frozen, share * group.world_size());
            let metric_names = task.metric_names();
            sink.emit(&Event::EpochStart { epoch, epochs, steps, step, frozen, batch_size, lr, metric_names })?;

            let before = train.stats();
            let (mut began, mut waited) = (Instant::now(), before.wait_s);
            while !progress.trained {
                let position = train.position();
                let Some(batch) = train.next_batch()? else {
                    progress.trained = true;
                    break;
                };
                lr = (phase.lr)(progress.epoch, position);
                if let Some(momentum) = &phase.momentum {
                    task.set_momentum(momentum(progress.epoch, position));
                }
                let tally = task.train_step(&batch, lr, group)?;
                progress.tally.add(&tally);
                progress.step += 1;
                progress.lr = Some(lr);
                let now = train.stats().wait_s;
                progress.wait_seconds += now - waited;
                progress.train_seconds += began.elapsed().as_secs_f64();
                (began, waited) = (Instant::now(), now);
                let seconds = progress.train_seconds.max(1e-9);
                sink.emit(&Event::Step {
                    epoch,
                    step: progress.step,
                    steps,
                    loss: progress.tally.loss(),
                    metrics: task.metrics(&progress.tally),
                    lr,
                    images_per_second: progress.tally.samples as f64 / seconds,
                    data_wait_share: progress.wait_seconds / seconds,
                })?;
                let due = (options.checkpoint_steps > 0 && progress.step.is_multiple_of(options.checkpoint_steps))
                    || (options.checkpoint_seconds > 0.0
                        && last_save.elapsed().as_secs_f64() >= options.checkpoint_seconds);
                let [stopping, due] = context.decide([(context.stop)(), due && group.rank() == 0])?;
                context.share_replaced(&batch.replaced, &mut train)?;
                if due || stopping {
                    progress.cursor = Some(train.state_dict());
                    context.save(task, &mut train, progress, false)?;
                    last_save = Instant::now();
                    began = last_save;
                }
                if stopping {
                    return Ok(Outcome::Interrupted);
                }
            }
            progress.cursor = Some(train.state_dict());
            let stages = train.stats().since(&before);

            let began = Instant::now();
            task.broadcast(group)?;
            let Some(val_tally) = context.evaluate(task, &mut val, epoch)? else {
                context.save(task, &mut train, progress, false)?;
                return Ok(Outcome::Interrupted);
            };
            let record = EpochRecord {
                epoch,
                train_loss: progress.tally.loss(),
                val_loss: val_tally.loss(),
                train_metrics: task.metrics(&progress.tally),
                val_metrics: task.metrics(&val_tally),
                lr,
                images_per_second: progress.tally.samples as f64 / progress.train_seconds.max(1e-9),
                data_wait_share: progress.wait_seconds / progress.train_seconds.max(1e-9),
                train_seconds: progress.train_seconds,
                val_seconds: began.elapsed().as_secs_f64(),
                stages,
            };
            progress.history.push(record.clone());
            *progress = Progress {
                epoch: progress.epoch + 1,
                history: std::mem::take(&mut progress.history),
                cursor: progress.cursor.take(),
                ..Progress::default()
            };
            sink.emit(&Event::EpochEnd(record))?;
            let keep = options.save_period > 0 && epoch % options.save_period == 0;
            context.save(task, &mut train, progress, keep)?;
            last_save = Instant::now();
            let [stopping] = context.decide([(context.stop)()])?;
            if stopping && epoch < options.epochs {
                return Ok(Outcome::Interrupted);
            }
            if context.is_out_of_patience(options, progress)? {
                break;
            }
        }
    }
    Ok(Outcome::Finished)
}

/// Checks that the plan is made for the group and that all ranks mean the same run. Gives this rank's share of the batch
/// of each phase.
fn shares_of_rank(splits: &FitData, options: &FitOptions, group: &dyn Group, progress: &Progress) -> Result<Vec<u64>> {
    let ranks = group.world_size();
    if splits.plan.num_replicas() != ranks {
        return Err(Error::config(
            format!("the plan is made for {} ranks, the group has {ranks}", splits.plan.num_replicas()),
            "Make the plan for the group",
        ));
    }
    if ranks > 1 && splits.plan.tail() == Tail::Exact {
        return Err(Error::config(
            "a training plan with the tail `exact`, by which ranks take different numbers of steps",
            "Use the tail `drop` or `pad`",
        ));
    }
    let shares: Vec<u64> = options
        .phases
        .iter()
        .map(|phase| split_batch(phase.batch_size, ranks, options.batch_split))
        .collect::<Result<_>>()?;
    check_consistent(
        group,
        &[
            ("the training data (files, labels or classes)", format!("{:016x}", splits.train.fingerprint())),
            ("the validation data", format!("{:016x}", splits.val.fingerprint())),
            ("the seed", splits.plan.seed().to_string()),
            ("the plan", format!("{:016x}", splits.plan.fingerprint())),
            ("the epochs and batch sizes", format!("{} {shares:?}", options.epochs)),
            ("where the run stands", format!("epoch {} step {}", progress.epoch, progress.step)),
        ],
    )?;
    Ok(shares)
}

impl FitContext<'_> {
    /// The loaders of both splits, for this rank's `share` of a batch.
    fn loaders(&self, splits: &FitData, val_plan: &Plan, share: u64, epochs: u64) -> Result<(Loader, Loader)> {
        let both = LoaderOptions {
            rank: self.group.rank(),
            batch_size: share,
            sink: self.sink.clone(),
            ..splits.loader.clone()
        };
        let train = LoaderOptions {
            split: "train".into(),
            ledger: self.ledger.is_some(),
            drop_last: true,
            end_epoch: Some(epochs),
            ..both.clone()
        };
        let val =
            LoaderOptions { split: "validation".into(), ledger: false, drop_last: false, end_epoch: Some(1), ..both };
        Ok((
            Loader::new(Arc::clone(&splits.train), splits.plan.clone(), train)?,
            Loader::new(Arc::clone(&splits.val), val_plan.clone(), val)?,
        ))
    }

    /// Whether any rank says yes, to each of some questions.
    fn decide<const N: usize>(&self, answers: [bool; N]) -> Result<[bool; N]> {
        let mut votes = answers.map(|yes| f64::from(u8::from(yes)));
        self.group.all_reduce_f64(&mut votes)?;
        Ok(votes.map(|votes| votes > 0.0))
    }

    /// True, with a word about it, if the run ends before its last epoch because none was the best for so long. The history, which
    /// all ranks have, decides: so a run that is resumed ends at the same epoch.
    fn is_out_of_patience(&self, options: &FitOptions, progress: &Progress) -> Result<bool> {
        let (done, best) = (progress.epoch, best_epoch(&progress.history));
        let last_phase = options.phases.last().map_or(0, |phase| phase.first_epoch);
        let waited = done.saturating_sub(best.max(last_phase));
        if options.patience == 0 || waited < options.patience || done >= options.epochs {
            return Ok(false);
        }
        let message = format!(
            "the run ends after epoch {done} of {}: {waited} epochs without a better validation loss than that of epoch \
             {best}, and its patience is {}",
            options.epochs, options.patience
        );
        self.sink.emit(&Event::Warning { message })?;
        Ok(true)
    }

    /// Tells every loader the number of bad samples on the other ranks, and rank 0 which they were. Collective.
    fn share_replaced(&self, replaced: &[Replaced], loader: &mut Loader) -> Result<()> {
        let mut found = [replaced.len() as f64];
        self.group.all_reduce_f64(&mut found)?;
        let others = found[0] as u64 - replaced.len() as u64;
        if found[0] == 0.0 || self.group.world_size() == 1 {
            return Ok(());
        }
        let json = serde_json::to_vec(replaced)
            .map_err(|e| Error::train(format!("replaced samples are not JSON: {e}"), "Please report this"))?;
        for (rank, json) in self.group.gather(&json)?.iter().enumerate().skip(1) {
            let theirs: Vec<Replaced> = serde_json::from_slice(json)
                .map_err(|e| Error::group(format!("rank {rank} sent no JSON: {e}"), "Use one version on all ranks"))?;
            theirs.into_iter().try_for_each(|replaced| self.sink.emit(&Event::Replaced(replaced)))?;
        }
        loader.add_bad_samples(others)
    }

    /// One pass over the validation split; `None` if it was stopped. Ranks may differ by one batch: those that finish
    /// early still answer whether they want to stop.
    fn evaluate(&self, task: &mut dyn Task, val: &mut Loader, epoch: u64) -> Result<Option<Tally>> {
        let mut tally = Tally { metric_sums: vec![0.0; task.metric_sums_len()], ..Tally::default() };
        let batch_size = val.options().batch_size;
        let steps = val.plan().num_batches(0, 0, batch_size, false); // of rank 0, which has the most
        val.set_epoch(0); // the same pictures every time, whatever random numbers a pipeline draws
        let mut batches = val.iter();
        for step in 1..=steps {
            if let Some(batch) = batches.next() {
                tally.add(&task.eval_step(&batch?)?);
            }
            self.sink.emit(&Event::Validate { epoch, step, steps })?;
            let [stopping] = self.decide([(self.stop)()])?;
            if stopping {
                return Ok(None);
            }
        }
        tally.all_reduce(self.group)?;
        Ok(Some(tally))
    }

    /// Appends the deliveries of `train` to the ledger and then saves a checkpoint, on rank 0.
    fn save(&self, task: &mut dyn Task, train: &mut Loader, progress: &Progress, keep: bool) -> Result<()> {
        if let Some(ledger) = self.ledger {
            ledger.borrow_mut().append(self.group, train)?;
        }
        let Some(checkpoints) = self.checkpoints.filter(|_| self.group.rank() == 0) else { return Ok(()) };
        let saved = checkpoints.save(progress, &task.state()?, keep)?;
        let (path, epoch, step) = (saved.path.display().to_string(), progress.epoch, progress.step);
        let best = progress.ends(best_epoch(&progress.history));
        self.sink.emit(&Event::Checkpoint { path, epoch, step, best })?;
        saved.warnings.into_iter().try_for_each(|message| self.sink.emit(&Event::Warning { message }))
    }
}

#[cfg(test)]
mod tests;
