//! The training loop: one function that reads from top to bottom. Knows the order of events and nothing of the model.

use super::checkpoint::{Checkpoints, Progress};
use super::{Tally, Task};
use crate::deliver::{Loader, LoaderOptions};
use crate::error::Result;
use crate::event::{EpochRecord, Event, Sink};
use crate::pipeline::Pipeline;
use crate::plan::{Plan, Tail};
use std::sync::Arc;
use std::time::Instant;

/// The data of a run.
pub struct Splits {
    pub train: Arc<dyn Pipeline>,
    pub val: Arc<dyn Pipeline>,
    /// Workers, budgets and policies of both loaders; the batch size and split name are set by the loop.
    pub loader: LoaderOptions,
    /// Order of the training split; the validation split is read in order, each sample once.
    pub plan: Plan,
}

/// A stretch of epochs with the same settings.
pub struct Phase {
    /// First epoch of the phase, from 0.
    pub first_epoch: u64,
    /// Whether the backbone is frozen.
    pub frozen: bool,
    /// Global batch size.
    pub batch_size: u64,
    /// Learning rate of an epoch (from 0).
    pub lr: Box<dyn Fn(u64) -> f64>,
}

/// Settings of the loop.
pub struct FitOptions {
    /// Epochs in total, all phases together.
    pub epochs: u64,
    /// In order; the first begins with epoch 0.
    pub phases: Vec<Phase>,
    /// Keeps the checkpoint of every so many epochs; 0 keeps none.
    pub save_period: u64,
    /// A checkpoint at least every so many steps; 0 is never.
    pub checkpoint_steps: u64,
    /// A checkpoint at least every so many seconds; 0 is never.
    pub checkpoint_seconds: f64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// On request; a checkpoint was saved.
    Interrupted,
}

/// Trains from `progress` on until all epochs are done or `stop` says so (it is asked after every step).
///
/// Everything that is decided depends on the step alone, so a run that was killed and goes on from its last checkpoint
/// gives the losses of one that was not, bit for bit, if the task does.
///
/// # Errors
/// Whatever the data, the task or the disk report; the last checkpoint stays as it was.
pub fn fit(
    task: &mut dyn Task,
    splits: &Splits,
    options: &FitOptions,
    checkpoints: &Checkpoints,
    progress: &mut Progress,
    sink: &Arc<dyn Sink>,
    stop: &dyn Fn() -> bool,
) -> Result<Outcome> {
    let loader = |pipeline: &Arc<dyn Pipeline>, plan: Plan, split: &str, batch_size, end_epoch, drop_last| {
        let end_epoch = Some(end_epoch);
        let options = LoaderOptions {
            split: split.into(),
            batch_size,
            drop_last,
            end_epoch,
            sink: sink.clone(),
            ..splits.loader.clone()
        };
        Loader::new(Arc::clone(pipeline), plan, options)
    };
    let val_plan = Plan::unshuffled(splits.val.len(), splits.plan.num_replicas())?.with_tail(Tail::Exact);
    let mut last_save = Instant::now();

    for phase_at in 0..options.phases.len() {
        let phase = &options.phases[phase_at];
        let end = options.phases.get(phase_at + 1).map_or(options.epochs, |next| next.first_epoch).min(options.epochs);
        if progress.epoch >= end {
            continue;
        }
        task.set_frozen(phase.frozen);
        let mut train = loader(&splits.train, splits.plan.clone(), "train", phase.batch_size, options.epochs, true)?;
        let mut val = loader(&splits.val, val_plan.clone(), "validation", phase.batch_size, 1, false)?;
        match &progress.cursor {
            Some(cursor) => train.load_state_dict(cursor)?,
            None => train.set_epoch(progress.epoch),
        }

        while progress.epoch < end {
            let (epoch, epochs, steps) = (progress.epoch + 1, options.epochs, train.len());
            let lr = (phase.lr)(progress.epoch);
            let (step, frozen, batch_size) = (progress.step, phase.frozen, phase.batch_size);
            sink.emit(&Event::EpochStart { epoch, epochs, steps, step, frozen, batch_size, lr })?;

            let before = train.stats();
            let (mut began, mut waited) = (Instant::now(), before.wait_s);
            while !progress.trained {
                let Some(batch) = train.next_batch()? else {
                    progress.trained = true;
                    break;
                };
                let tally = task.train_step(&batch, lr)?;
                progress.tally.add(&tally);
                progress.step += 1;
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
                    metrics: means(&progress.tally),
                    lr,
                    images_per_second: progress.tally.samples as f64 / seconds,
                    data_wait_share: progress.wait_seconds / seconds,
                })?;
                let due = (options.checkpoint_steps > 0 && progress.step.is_multiple_of(options.checkpoint_steps))
                    || (options.checkpoint_seconds > 0.0
                        && last_save.elapsed().as_secs_f64() >= options.checkpoint_seconds);
                let stopping = stop();
                if due || stopping {
                    progress.cursor = Some(train.state_dict());
                    save(task, checkpoints, progress, sink, false, false)?;
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
            let Some(val_tally) = evaluate(task, &mut val, epoch, sink, stop)? else {
                save(task, checkpoints, progress, sink, false, false)?;
                return Ok(Outcome::Interrupted);
            };
            let record = EpochRecord {
                epoch,
                train_loss: progress.tally.loss(),
                val_loss: val_tally.loss(),
                train_metrics: means(&progress.tally),
                val_metrics: means(&val_tally),
                lr,
                images_per_second: progress.tally.samples as f64 / progress.train_seconds.max(1e-9),
                data_wait_share: progress.wait_seconds / progress.train_seconds.max(1e-9),
                train_seconds: progress.train_seconds,
                val_seconds: began.elapsed().as_secs_f64(),
                stages,
            };
            // As upstream: the first epoch, and every one whose loss is no worse than all before.
            let best = progress.history.iter().all(|earlier| record.val_loss <= earlier.val_loss);
            progress.history.push(record.clone());
            *progress = Progress {
                epoch: progress.epoch + 1,
                history: std::mem::take(&mut progress.history),
                cursor: progress.cursor.take(),
                ..Progress::default()
            };
            sink.emit(&Event::EpochEnd(record))?;
            let keep = options.save_period > 0 && epoch % options.save_period == 0;
            save(task, checkpoints, progress, sink, best, keep)?;
            last_save = Instant::now();
            if stop() && epoch < options.epochs {
                return Ok(Outcome::Interrupted);
            }
        }
    }
    Ok(Outcome::Finished)
}

/// One pass over the validation split; `None` if it was stopped.
fn evaluate(
    task: &mut dyn Task,
    val: &mut Loader,
    epoch: u64,
    sink: &Arc<dyn Sink>,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Tally>> {
    let (mut tally, steps) = (Tally::default(), val.len());
    val.set_epoch(0); // the same pictures every time, whatever random numbers a pipeline draws
    for batch in val.iter() {
        let batch = batch?;
        tally.add(&task.eval_step(&batch)?);
        sink.emit(&Event::Validate { epoch, step: batch.step + 1, steps })?;
        if stop() {
            return Ok(None);
        }
    }
    Ok(Some(tally))
}

fn means(tally: &Tally) -> Vec<f64> {
    (0..tally.metric_sums.len()).map(|at| tally.metric(at)).collect()
}

fn save(
    task: &dyn Task,
    checkpoints: &Checkpoints,
    progress: &Progress,
    sink: &Arc<dyn Sink>,
    best: bool,
    keep: bool,
) -> Result<()> {
    let path = checkpoints.save(progress, &task.state()?, best, keep)?;
    let (epoch, step) = (progress.epoch, progress.step);
    sink.emit(&Event::Checkpoint { path: path.display().to_string(), epoch, step, best })
}

#[cfg(test)]
mod tests;
