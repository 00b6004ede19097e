//! Deliver: hands batches to the consumer in plan order. The loader owns the epoch counter, the cursor and the worker
//! pool; it knows nothing of the content of samples.
//!
//! The delivered batches are a pure function of (data set, seed, epoch, position). The number of workers, their timing
//! and the size of the window change only the speed; `num_workers: 0` makes every batch in the caller's thread with
//! simple code and is the oracle of the pool.

mod batches;
pub mod bench;
mod builder;
pub(crate) mod ledger;
mod make;
mod pool;
mod prefetch;

pub use crate::meter::{SampleContext, Span, StageCount, StatsSnapshot};
pub use builder::LoaderBuilder;
pub use make::{OnBadSample, one_sample};

use crate::collate::{collate, of_batch};
use crate::error::{Error, Result};
use crate::event::{Event, Sink, Warnings};
use crate::meter::Stats;
use crate::pipeline::{Pipeline, make_sample};
use crate::plan::{Cursor, Plan};
use crate::sample::buffer::Buffer;
use crate::sample::{Batch, Collate, Replaced, Sample};
use crate::url::without_secrets;
use batches::{BatchRequest, BatchSampler, batch};
use ledger::{Entry, Ledger};
use make::make_or_replace;
use pool::Pool;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Options of a loader. Only `rank`, `batch_size` and `drop_last` change the delivered batches, as long as no sample is
/// bad.
#[derive(Clone)]
pub struct LoaderOptions {
    /// Name of the split, for messages: "train", "test".
    pub split: String,
    /// Samples per step on this rank, at least 1.
    pub batch_size: u64,
    /// This rank, below the plan's `num_replicas`.
    pub rank: u64,
    /// Drops a last batch that is not full.
    pub drop_last: bool,
    /// Worker threads; 0 makes every batch in the caller's thread when it is requested.
    pub num_workers: usize,
    /// Bytes in flight: batches that are being filled or wait to be taken, and the working memory of samples in
    /// progress. Two batches, and one sample alone, are allowed even if they need more.
    pub memory_budget_bytes: u64,
    /// Prefetching stops before this epoch; `None` never stops.
    pub end_epoch: Option<u64>,
    /// The policy for bad samples.
    pub on_bad_sample: OnBadSample,
    /// Bad samples tolerated over the whole run under [`OnBadSample::Replace`].
    pub max_bad_samples: u64,
    /// Records the work of every worker over time, for [`Loader::take_trace`].
    pub trace: bool,
    /// Counts the delivered samples, for the ledger.
    pub ledger: bool,
    /// Receives warnings.
    pub sink: Arc<dyn Sink>,
}

impl Default for LoaderOptions {
    fn default() -> LoaderOptions {
        LoaderOptions {
            split: "data".into(),
            batch_size: 1,
            rank: 0,
            drop_last: false,
            num_workers: std::thread::available_parallelism().map_or(1, usize::from),
            memory_budget_bytes: 256 << 20,
            end_epoch: None,
            on_bad_sample: OnBadSample::Fail,
            max_bad_samples: 100,
            trace: false,
            ledger: false,
            sink: Arc::new(Warnings),
        }
    }
}

/// Delivers the batches of one rank, epoch after epoch.
pub struct Loader {
    pipeline: Arc<dyn Pipeline>,
    sampler: BatchSampler,
    options: LoaderOptions,
    stats: Arc<Stats>,
    pool: Option<Pool>,
    /// The position of the serial path; unused with a pool.
    serial: Option<BatchSampler>,
    epoch: u64,
    /// Global position delivered so far in `epoch`.
    position: u64,
    /// Batches of the pass still to come; `None` between passes.
    left: Option<u64>,
    bad_samples: u64,
    /// True if the source of batches (pool or serial sampler) is at (epoch, position).
    aligned: bool,
    last_begun: Option<u64>,
    warned: bool,
    ledger: Option<Ledger>,
}

impl Loader {
    /// A loader at the beginning of epoch 0.
    ///
    /// # Errors
    /// A data set of another size than the plan's, a rank out of range, a batch size of 0, or with `drop_last` a split
    /// with fewer samples than one batch on every rank.
    pub fn new(pipeline: Arc<dyn Pipeline>, plan: Plan, options: LoaderOptions) -> Result<Loader> {
        plan.check_rank(options.rank)?;
        if options.batch_size == 0 {
            return Err(Error::config(
                "batch_size should be a positive integer value, but got batch_size=0",
                "A global batch smaller than the number of ranks gives this too",
            ));
        }
        if pipeline.len() != plan.len() {
            return Err(Error::config(
                format!("the plan is made for {} samples, the data set has {}", plan.len(), pipeline.len()),
                "Make the plan from the data set's own length",
            ));
        }
        pipeline.follow(&plan)?;
        let LoaderOptions { rank, batch_size, drop_last, end_epoch, .. } = options;
        let sampler = BatchSampler::new(plan, rank, batch_size, drop_last, end_epoch);
        if drop_last && sampler.batches_in_epoch() == 0 {
            return Err(Error::SplitTooSmall {
                split: options.split,
                samples: sampler.plan.epoch_len(),
                batch_size: batch_size.saturating_mul(sampler.plan.num_replicas()),
            });
        }
        let stats = Arc::new(Stats::new(options.trace));
        let pool = if options.num_workers == 0 {
            None
        } else {
            let batch_bytes =
                pipeline.fields().iter().fold(0usize, |bytes, spec| bytes.saturating_add(spec.slot_bytes()));
            let batch_bytes = (batch_bytes as u64).saturating_mul(batch_size).max(1);
            let budget_bytes = options.memory_budget_bytes;
            // Two batches keep the workers busy while one is consumed; a few more level out uneven samples. A quarter
            // of the budget is left for samples in progress, and another for prefetched bytes.
            let ahead_bytes = if pipeline.read_ahead() == 0 { 0 } else { budget_bytes / 4 };
            let window = budget_bytes / 4 * 3 - ahead_bytes;
            let window =
                (window / batch_bytes).clamp(2, (options.num_workers as u64).saturating_mul(2).saturating_add(2));
            let pool = Pool::new(
                Arc::clone(&pipeline),
                options.on_bad_sample,
                options.num_workers,
                window as usize,
                (budget_bytes - ahead_bytes).saturating_sub(window.saturating_mul(batch_bytes)).max(budget_bytes / 4),
                ahead_bytes,
                Arc::clone(&stats),
            );
            Some(pool?)
        };
        let ledger = options.ledger.then(|| Ledger::new(pipeline.len(), rank, batch_size, drop_last));
        Ok(Loader {
            pipeline,
            sampler,
            options,
            stats,
            pool,
            serial: None,
            epoch: 0,
            position: 0,
            left: None,
            bad_samples: 0,
            aligned: false,
            last_begun: None,
            warned: false,
            ledger,
        })
    }

    /// Number of batches of a whole epoch on this rank.
    #[expect(clippy::len_without_is_empty, reason = "torch's word; an epoch may well be empty on a rank")]
    pub fn len(&self) -> u64 {
        self.batches_from(0)
    }

    /// The plan it follows.
    pub fn plan(&self) -> &Plan {
        &self.sampler.plan
    }

    /// Its options.
    pub fn options(&self) -> &LoaderOptions {
        &self.options
    }

    /// The epoch that is being delivered, or will be next.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Global positions of [`Loader::epoch`] delivered so far, on all ranks together.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Moves to the beginning of an epoch. Optional: a loader counts its epochs itself. In an epoch from before a
    /// change of a mixture's weights, the current weights apply.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.forget_ledger();
        self.go(epoch, 0);
    }

    /// The cursor: the position after the last delivered batch, regardless of prefetching. Valid at any time.
    pub fn state_dict(&self) -> Cursor {
        Cursor::new(self.pipeline.fingerprint(), &self.sampler.plan, self.epoch, self.position, self.bad_samples)
    }

    /// Moves to the position of a saved cursor: the next batch is exactly the one that followed it. A cursor taken
    /// after an epoch's last batch, before the end was reported, first gives the empty rest of that epoch. The weights
    /// of a mixture may differ; they apply from there on.
    ///
    /// # Errors
    /// [`Error::Resume`] if the cursor belongs to other data or another plan; nothing is changed then.
    pub fn load_state_dict(&mut self, cursor: &Cursor) -> Result<()> {
        let plan = cursor.resume(self.pipeline.fingerprint(), &self.sampler.plan)?;
        self.pipeline.follow(&plan)?;
        self.sampler.set_plan(plan);
        self.bad_samples = cursor.bad_samples;
        self.last_begun = None;
        self.forget_ledger();
        self.go(cursor.epoch, cursor.position);
        self.aligned = false; // the plan may be another
        Ok(())
    }

    /// Counts bad samples of other ranks in the step delivered last, so that the limit and the cursor cover all ranks.
    ///
    /// # Errors
    /// More bad samples than the limit.
    pub(crate) fn add_bad_samples(&mut self, count: u64) -> Result<()> {
        self.bad_samples += count;
        if count > 0 && self.bad_samples > self.options.max_bad_samples {
            return Err(Error::TooManyBadSamples {
                found: self.bad_samples,
                limit: self.options.max_bad_samples,
                last: Box::new(Error::group("it was on another rank", "Its own message names it")),
            });
        }
        Ok(())
    }

    /// Batches of this rank left in the epoch, from the cursor on.
    pub fn left(&self) -> u64 {
        self.batches_from(self.position)
    }

    /// The counters of the stages since the loader was made.
    pub fn stats(&self) -> StatsSnapshot {
        let readers = if self.pool.is_some() { self.pipeline.read_ahead() } else { 0 };
        StatsSnapshot { readers, ..self.stats.snapshot() }
    }

    /// The work of the workers since the last call, if [`LoaderOptions::trace`] was set; at most two million spans.
    pub fn take_trace(&self) -> Vec<Span> {
        self.stats.take_trace()
    }

    /// The deliveries since the last call, if [`LoaderOptions::ledger`] was set: one entry for each epoch touched, in
    /// order. Loading a cursor or setting an epoch discards entries that were not taken, like the work done with them.
    pub(crate) fn take_ledger(&mut self) -> Vec<Entry> {
        self.ledger.as_mut().map(Ledger::take).unwrap_or_default()
    }

    /// The first step of [`Loader::iter`]: abandons a running pass, if there is one, for the next epoch.
    pub fn begin_pass(&mut self) {
        if self.left.is_some() {
            self.go(self.epoch + 1, 0);
        }
    }

    /// A pass over the rest of the current epoch if it was set or loaded, else over the next one. Leaving a pass early
    /// is allowed; the next pass is then the next epoch, as if this one had been finished.
    pub fn iter(&mut self) -> impl Iterator<Item = Result<Batch>> + '_ {
        self.begin_pass();
        let mut over = false;
        std::iter::from_fn(move || {
            if over {
                return None;
            }
            let next = self.next_batch().transpose();
            over = !matches!(next, Some(Ok(_)));
            next
        })
    }

    /// The next batch; `None` once at the end of each epoch, after which the next epoch follows.
    ///
    /// # Errors
    /// A bad sample under [`OnBadSample::Fail`], or too many of them. The cursor stays before the failed batch.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        match self.poll_batch(None)? {
            Poll::Ready(batch) => Ok(batch),
            Poll::Pending => unreachable!("without a limit it waits"),
        }
    }

    /// As [`Loader::next_batch`], but waits at most `wait_max`, so that the caller can handle other things (a signal)
    /// and call again: nothing is lost by `Pending`. Without worker threads the batch is made in this call, however
    /// long that takes.
    ///
    /// # Errors
    /// As [`Loader::next_batch`].
    pub fn poll_batch(&mut self, wait_max: Option<Duration>) -> Result<Poll<Option<Batch>>> {
        if self.left.is_none() {
            self.begin()?;
        }
        if self.left == Some(0) {
            if let Some(ledger) = &mut self.ledger {
                ledger.end(self.epoch, self.position);
            }
            self.left = None;
            self.epoch += 1;
            self.position = 0;
            return Ok(Poll::Ready(None));
        }
        let batch = match self.make_next(wait_max) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Some(Ok(batch))) => batch,
            Poll::Ready(Some(Err(error))) => {
                self.aligned = false; // the failed batch is gone from the pool; a retry makes it anew
                return Err(error);
            }
            Poll::Ready(None) => {
                return Err(Error::config("the loader was asked for an epoch past its end_epoch", "Raise end_epoch"));
            }
        };
        if let Err(error) = self.take_note(&batch.replaced).and_then(|()| self.tell_warnings()) {
            self.aligned = false; // as above: the batch was not delivered
            return Err(error);
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.add(&batch, self.position);
        }
        self.position = batch.next_position;
        self.left = self.left.map(|left| left - 1);
        Ok(Poll::Ready(Some(batch)))
    }

    fn forget_ledger(&mut self) {
        self.ledger.iter_mut().for_each(Ledger::clear);
    }

    fn go(&mut self, epoch: u64, position: u64) {
        // Batches made ahead are kept if they are next anyway.
        let next = if self.left == Some(0) { (self.epoch + 1, 0) } else { (self.epoch, self.position) };
        self.aligned &= (epoch, position) == next;
        (self.epoch, self.position) = (epoch, position);
        self.left = None;
    }

    /// Starts a pass at (epoch, position).
    fn begin(&mut self) -> Result<()> {
        if self.last_begun == Some(self.epoch) && self.sampler.plan.is_shuffled() && !self.warned {
            self.warned = true;
            let message = format!(
                "epoch {} is delivered a second time, in the same order as before. The loader counts epochs itself: \
                 leave set_epoch out, or pass it a new number each time",
                self.epoch
            );
            self.options.sink.emit(&Event::Warning { message })?;
        }
        self.last_begun = Some(self.epoch);
        self.left = Some(self.batches_from(self.position));
        Ok(())
    }

    fn batches_from(&self, position: u64) -> u64 {
        self.sampler.plan.num_batches(position, self.options.rank, self.options.batch_size, self.options.drop_last)
    }

    /// Moves the source of batches to (epoch, position).
    fn align(&mut self) {
        // `self.sampler` itself is never moved.
        let mut sampler = self.sampler.clone();
        sampler.seek(self.epoch, self.position);
        match &self.pool {
            Some(pool) => pool.seek(sampler),
            None => self.serial = Some(sampler),
        }
        self.aligned = true;
    }

    fn make_next(&mut self, wait_max: Option<Duration>) -> Poll<Option<Result<Batch>>> {
        if !self.aligned {
            self.align();
        }
        match &self.pool {
            Some(pool) => pool.next(wait_max),
            None => {
                #[expect(clippy::disallowed_methods, reason = "measures the wait for a batch, which no batch sees")]
                let asked = Instant::now();
                let plan = self.serial.as_mut().and_then(Iterator::next);
                let batch =
                    plan.map(|plan| make_batch(&*self.pipeline, &plan, self.options.on_bad_sample, &self.stats));
                self.stats.add_wait(asked);
                Poll::Ready(batch)
            }
        }
    }

    /// Tells what samples have to say. The counters of a batch, and so its warnings, are there before it is delivered.
    fn tell_warnings(&self) -> Result<()> {
        let tell = |message: String| self.options.sink.emit(&Event::Warning { message: without_secrets(&message) });
        self.stats.take_warnings().into_iter().try_for_each(tell)
    }

    /// Counts bad samples in delivery order, so that every run reaches the limit at the same batch.
    fn take_note(&mut self, replaced: &[Replaced]) -> Result<()> {
        for bad in replaced {
            self.options.sink.emit(&Event::Replaced(bad.clone()))?;
        }
        let found = self.bad_samples + replaced.len() as u64;
        match replaced.last() {
            Some(last) if found > self.options.max_bad_samples => Err(Error::TooManyBadSamples {
                found,
                limit: self.options.max_bad_samples,
                last: Box::new(Error::Sample {
                    stage: last.stage,
                    index: last.index,
                    location: last.location.clone(),
                    problem: last.problem.clone(),
                }),
            }),
            _ => {
                self.bad_samples = found;
                Ok(())
            }
        }
    }
}

/// Makes a whole batch in this thread from separate samples: the oracle of the pool.
fn make_batch(pipeline: &dyn Pipeline, plan: &BatchRequest, policy: OnBadSample, stats: &Stats) -> Result<Batch> {
    let mut context = SampleContext::new(None, stats.is_traced());
    // A large batch that does not fit into memory fails before its samples fill the memory.
    for spec in pipeline.fields().iter().filter(|spec| spec.collate == Collate::Stack) {
        let bytes = spec.slot_bytes().saturating_mul(plan.requests.len());
        if bytes >= 1 << 28 {
            let room = Buffer::zeroed(bytes);
            drop(room.map_err(|error| error.needed_for(|| of_batch(spec, plan.requests.len())))?);
        }
    }
    let mut samples: Vec<Sample> = Vec::with_capacity(plan.requests.len());
    let (mut indices, mut replaced) = (Vec::with_capacity(plan.requests.len()), Vec::new());
    for request in &plan.requests {
        context.begin(request.index, true);
        let made = make_or_replace(pipeline, request, policy, &mut context, |request, context| {
            make_sample(pipeline, request, context)
        });
        stats.add(&mut context, 0);
        let made = made?;
        samples.push(made.value);
        indices.push(made.index);
        replaced.extend(made.replaced);
    }
    Ok(batch(plan, collate(pipeline.fields(), &samples)?, indices, replaced))
}

#[cfg(test)]
mod elastic_tests;
#[cfg(test)]
mod tests;
