//! What the stages did: items, bytes, busy time, and time blocked. Counted by each worker on its own and added to the
//! shared figures once a claim, so that counting costs nothing that can be measured. Owns the memory budget of samples
//! under way too, because it is the same worker that waits.
#![expect(clippy::disallowed_methods, reason = "measures times, which no batch sees")]

use crate::error::Stage;
use crate::stop::Stop;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

const STAGES: usize = Stage::ALL.len();

/// A worker's report to its loader while it makes a sample: the running stage, the bytes put out, and the memory
/// needed. A pipeline calls [`SampleContext::enter`]; the context adds up the times.
#[derive(Debug)]
pub struct SampleContext {
    index: u64,
    timed: bool,
    stage: Option<Stage>,
    since: Option<Instant>,
    /// Stages the current sample has been in, as bits.
    entered: u8,
    sums: [Sum; STAGES],
    idle: Duration,
    fetch: Duration,
    stop: Stop,
    reserved_bytes: u64,
    budget: Option<Arc<Budget>>,
    trace: Option<Vec<Span>>,
    /// What the loader shall tell its user; `None` without a loader.
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    items: u64,
    timed_items: u64,
    bytes: u64,
    busy_ns: u64,
}

impl Default for SampleContext {
    /// A context without a loader: it counts, and every reservation is granted.
    fn default() -> SampleContext {
        let mut context = SampleContext::new(None, false);
        context.warnings = None;
        context
    }
}

impl SampleContext {
    pub(crate) fn new(budget: Option<Arc<Budget>>, traced: bool) -> SampleContext {
        SampleContext {
            index: 0,
            timed: true,
            stage: None,
            since: None,
            entered: 0,
            sums: Default::default(),
            idle: Duration::ZERO,
            fetch: Duration::ZERO,
            stop: Stop::default(),
            reserved_bytes: 0,
            budget,
            trace: traced.then(Vec::new),
            warnings: Some(Vec::new()),
        }
    }

    pub(crate) fn with_stop(mut self, stop: Stop) -> SampleContext {
        self.stop = stop;
        self
    }

    /// The signal that cancels a slow read when the loader is dropped or seeks to another position.
    pub fn stop_signal(&self) -> &Stop {
        &self.stop
    }

    /// True if there is a loader, which passes warnings on.
    pub fn is_heard(&self) -> bool {
        self.warnings.is_some()
    }

    /// Lets the loader warn its user, with a batch that is delivered soon. A pipeline says a thing once, and only where it
    /// [is heard](SampleContext::is_heard): which sample comes first may depend on the timing of workers.
    pub fn warn(&mut self, message: String) {
        if let Some(warnings) = &mut self.warnings {
            warnings.push(message);
        }
    }

    /// Adds the time that the sample waited for bytes that other threads read.
    pub(crate) fn fetched(&mut self, waited: Duration) {
        self.fetch += waited;
    }

    /// Starts the sample `index`. One that is not `timed` is counted; its time is estimated by that of the others.
    pub(crate) fn begin(&mut self, index: u64, timed: bool) {
        (self.index, self.timed, self.entered) = (index, timed, 0);
    }

    /// Counts the time from now on for `stage`.
    pub fn enter(&mut self, stage: Stage) {
        self.stop();
        self.stage = Some(stage);
        self.since = self.timed.then(Instant::now);
        let (bit, sum) = (1 << stage as u8, &mut self.sums[stage as usize]);
        if self.entered & bit == 0 {
            self.entered |= bit;
            sum.items += 1;
            sum.timed_items += u64::from(self.timed);
        }
    }

    /// Counts `bytes` put out by the stage that is running.
    pub fn count_bytes(&mut self, bytes: usize) {
        if let Some(stage) = self.stage {
            self.sums[stage as usize].bytes += bytes as u64;
        }
    }

    /// Reserves about `bytes` of working memory from now to the sample's end, and waits until the loader's
    /// memory budget allows it. A request above the whole budget is granted once no other sample holds any. A second call
    /// for the same sample replaces the first.
    pub fn reserve(&mut self, bytes: u64) {
        let Some(budget) = self.budget.clone() else { return };
        self.release();
        let waited = budget.take(bytes);
        self.reserved_bytes = bytes;
        if let (Some(waited), Some(since)) = (waited, &mut self.since) {
            *since += waited; // not this stage's work
            self.idle += waited;
        }
    }

    /// Releases the sample's reservation.
    pub(crate) fn release(&mut self) {
        if let Some(budget) = &self.budget
            && self.reserved_bytes > 0
        {
            budget.give(self.reserved_bytes);
        }
        self.reserved_bytes = 0;
    }

    /// The stage that is running, or the first.
    pub(crate) fn stage(&self) -> Stage {
        self.stage.unwrap_or(Stage::Read)
    }

    pub(crate) fn stop(&mut self) {
        if let (Some(stage), Some(since)) = (self.stage, self.since.take()) {
            let busy = since.elapsed();
            self.sums[stage as usize].busy_ns += busy.as_nanos() as u64;
            if let Some(spans) = &mut self.trace {
                spans.push(Span { stage, worker: 0, index: self.index, start: since, busy });
            }
        }
        self.stage = None;
    }
}

impl Drop for SampleContext {
    fn drop(&mut self) {
        self.release(); // a worker that dies must not keep the others waiting
    }
}

/// An uninterrupted span of one worker's work on one sample (or batch, for collate).
#[derive(Debug, Clone)]
pub struct Span {
    pub stage: Stage,
    /// Number of the worker, from 0; the consumer's own thread is `usize::MAX`.
    pub worker: usize,
    /// The sample; for [`Stage::Collate`] the batch, for [`Stage::Deliver`] (the consumer waiting) nothing.
    pub index: u64,
    pub start: Instant,
    pub busy: Duration,
}

/// Most spans that a trace keeps, so that a long run does not fill the memory: about 200 MB as JSON.
const MAX_SPANS: usize = 2_000_000;

/// Limit of the working memory of all samples in flight, in bytes.
#[derive(Debug)]
pub(crate) struct Budget {
    limit_bytes: u64,
    held_bytes: Mutex<u64>,
    freed: Condvar,
}

impl Budget {
    pub(crate) fn new(limit_bytes: u64) -> Budget {
        Budget { limit_bytes, held_bytes: Mutex::new(0), freed: Condvar::new() }
    }

    /// Takes `bytes` from the budget; blocks until they are free. Returns the time waited, if any.
    fn take(&self, bytes: u64) -> Option<Duration> {
        let mut held = self.held_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |held: u64| held == 0 || held.saturating_add(bytes) <= self.limit_bytes;
        let mut waited = None;
        if !fits(*held) {
            let asked = Instant::now();
            held = self.freed.wait_while(held, |held| !fits(*held)).unwrap_or_else(PoisonError::into_inner);
            waited = Some(asked.elapsed());
        }
        *held += bytes;
        waited
    }

    fn give(&self, bytes: u64) {
        *self.held_bytes.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.freed.notify_all();
    }
}

/// The figures of a loader, shared by its workers.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    items: [AtomicU64; STAGES],
    bytes: [AtomicU64; STAGES],
    busy_ns: [AtomicU64; STAGES],
    idle_ns: AtomicU64,
    fetch_ns: AtomicU64,
    wait_ns: AtomicU64,
    trace: Option<Mutex<Vec<Span>>>,
    warnings: Mutex<Vec<String>>,
}

impl Stats {
    pub(crate) fn new(traced: bool) -> Stats {
        Stats { trace: traced.then(Mutex::default), ..Stats::default() }
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    /// Adds the figures of `worker` and resets its context.
    pub(crate) fn add(&self, context: &mut SampleContext, worker: usize) {
        context.stop();
        for (at, sum) in context.sums.iter_mut().enumerate().filter(|(_, sum)| sum.items > 0) {
            let scaled = u128::from(sum.busy_ns) * u128::from(sum.items) / u128::from(sum.timed_items.max(1));
            self.items[at].fetch_add(sum.items, Relaxed);
            self.busy_ns[at].fetch_add(scaled as u64, Relaxed);
            self.bytes[at].fetch_add(sum.bytes, Relaxed);
            *sum = Sum::default();
        }
        if !context.idle.is_zero() {
            self.add_idle(std::mem::take(&mut context.idle));
        }
        self.fetch_ns.fetch_add(std::mem::take(&mut context.fetch).as_nanos() as u64, Relaxed);
        if let Some(warnings) = context.warnings.as_mut().filter(|warnings| !warnings.is_empty()) {
            self.warnings.lock().unwrap_or_else(PoisonError::into_inner).append(warnings);
        }
        if let (Some(all), Some(spans)) = (&self.trace, &mut context.trace) {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MAX_SPANS.saturating_sub(all.len());
            all.extend(spans.drain(..).take(room).map(|span| Span { worker, ..span }));
        }
    }

    /// Adds time in which a worker was idle, because the limit of batches in flight was reached.
    pub(crate) fn add_idle(&self, time: Duration) {
        self.idle_ns.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    /// Adds the time that the consumer waited for a batch, since `asked`.
    pub(crate) fn add_wait(&self, asked: Instant) {
        let busy = asked.elapsed();
        self.wait_ns.fetch_add(busy.as_nanos() as u64, Relaxed);
        if let Some(all) = &self.trace {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() < MAX_SPANS {
                all.push(Span { stage: Stage::Deliver, worker: usize::MAX, index: 0, start: asked, busy });
            }
        }
    }

    /// Removes and returns the warnings of samples.
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes and returns the spans recorded so far.
    pub(crate) fn take_trace(&self) -> Vec<Span> {
        self.trace
            .as_ref()
            .map_or_else(Vec::new, |all| std::mem::take(&mut *all.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(crate) fn snapshot(&self) -> StatsSnapshot {
        let stage = |stage: Stage| StageCount {
            items: self.items[stage as usize].load(Relaxed),
            bytes: self.bytes[stage as usize].load(Relaxed),
            busy_s: self.busy_ns[stage as usize].load(Relaxed) as f64 / 1e9,
        };
        StatsSnapshot {
            read: stage(Stage::Read),
            decode: stage(Stage::Decode),
            augment: stage(Stage::Augment),
            collate: stage(Stage::Collate),
            idle_s: self.idle_ns.load(Relaxed) as f64 / 1e9,
            fetch_s: self.fetch_ns.load(Relaxed) as f64 / 1e9,
            readers: 0,
            wait_s: self.wait_ns.load(Relaxed) as f64 / 1e9,
        }
    }
}

/// Statistics of one stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StageCount {
    pub items: u64,
    /// Bytes put out.
    pub bytes: u64,
    /// Seconds of work, added over all workers.
    pub busy_s: f64,
}

/// The figures of a loader at one moment, or between two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StatsSnapshot {
    pub read: StageCount,
    pub decode: StageCount,
    pub augment: StageCount,
    pub collate: StageCount,
    /// Seconds workers were blocked because enough batches were ready (on put), added over all workers.
    pub idle_s: f64,
    /// Seconds workers were blocked because the bytes of their sample had not arrived yet, added over all workers. 0
    /// without prefetch threads; with them `read.busy_s` is the time of their requests, and `read.items` the number.
    #[serde(default)]
    pub fetch_s: f64,
    /// Threads that read ahead; 0 if workers read for themselves.
    #[serde(default)]
    pub readers: usize,
    /// Seconds the consumer was blocked because no batch was ready (on get).
    pub wait_s: f64,
}

impl StatsSnapshot {
    /// The figures since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &StatsSnapshot) -> StatsSnapshot {
        let stage = |now: StageCount, then: StageCount| StageCount {
            items: now.items - then.items,
            bytes: now.bytes - then.bytes,
            busy_s: now.busy_s - then.busy_s,
        };
        StatsSnapshot {
            read: stage(self.read, earlier.read),
            decode: stage(self.decode, earlier.decode),
            augment: stage(self.augment, earlier.augment),
            collate: stage(self.collate, earlier.collate),
            idle_s: self.idle_s - earlier.idle_s,
            fetch_s: self.fetch_s - earlier.fetch_s,
            readers: self.readers,
            wait_s: self.wait_s - earlier.wait_s,
        }
    }
}
