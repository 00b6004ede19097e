//! The worker pool: threads that make samples straight into the batches they belong to, oldest batch first, and the
//! queue that hands whole batches over in plan order. Owns all locking; knows nothing of epochs' meaning or policies
//! beyond passing them on.
#![expect(clippy::disallowed_methods, reason = "measures the waits of workers, which no batch sees")]

use super::batches::{BatchRequest, BatchSampler, batch};
use super::make::{Made, OnBadSample, make_or_replace};
use super::prefetch::Prefetcher;
use crate::collate::{collate_field, of_batch};
use crate::error::{Error, Result, Stage};
use crate::meter::{Budget, SampleContext, Stats};
use crate::pipeline::{Pipeline, Raw};
use crate::sample::buffer::{BufferPool, SlotBuffer};
use crate::sample::{Array, Batch, BatchField, Collate, Slot};
use crate::stop::Stop;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Duration of the work that a worker claims at once: long enough that claiming is negligible, short enough that
/// workers finish together. Samples that take longer are claimed one by one.
const CLAIM: Duration = Duration::from_micros(50);

/// Maximum storage for a sample's bytes that a worker keeps for the next one; larger storage is freed.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// Maximum number of samples per claim.
const MAX_CLAIM: usize = 256;

/// In longer claims only every eighth sample is timed: reading a clock would cost more than the sample.
const TIMED_CLAIM: usize = 16;

/// The memory of one batch: a buffer per stacked field, cut into slots.
struct Memory {
    plan: BatchRequest,
    stacked: Vec<SlotBuffer>,
}

/// One batch in flight.
struct InFlightBatch {
    /// None once a worker has taken it to collate.
    memory: Option<Arc<Memory>>,
    size: usize,
    next_slot: usize,
    /// Number of the first sample since the seek.
    first_sample: u64,
    /// Results of slots with more than stacked fields: arrays to collate, a replacement, an error.
    outcomes: Vec<SlotOutcome>,
    unfinished: usize,
    ready: Option<Result<Batch>>,
}

/// A slot and its result.
type SlotOutcome = (usize, Result<Made<Vec<Array>>>);

/// Slots of one batch, claimed by one worker.
struct Claim {
    /// Number of the batch since the pool began.
    number: u64,
    slots: Range<usize>,
    first_sample: u64,
    generation: u64,
    memory: Arc<Memory>,
}

struct State {
    /// Oldest first; the front is delivered next.
    flights: VecDeque<InFlightBatch>,
    /// Number of the front flight since the pool began: a worker finds its flight by it.
    front: u64,
    sampler: Option<BatchSampler>,
    /// Samples of the batches opened since the seek.
    opened: u64,
    /// The prefetcher's number for the reads since the seek.
    generation: u64,
    exhausted: bool,
    stopping: bool,
    /// A worker died outside of the pipeline's code: a bug here, which must not become a hang.
    broken: bool,
}

struct Shared {
    pipeline: Arc<dyn Pipeline>,
    policy: OnBadSample,
    window: usize,
    budget: Arc<Budget>,
    stats: Arc<Stats>,
    buffers: Arc<BufferPool>,
    prefetcher: Option<Prefetcher>,
    /// Cancels reads that workers make themselves.
    stop: Stop,
    state: Mutex<State>,
    work: Condvar,
    ready: Condvar,
}

/// Threads that live as long as the loader.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `num_workers` threads, and prefetching threads if the pipeline wants them; they idle until the first
    /// [`Pool::seek`]. At most `window` batches are in flight, samples in progress hold at most `sample_bytes` of
    /// working memory together, and prefetched bytes `ahead_bytes`.
    pub(crate) fn new(
        pipeline: Arc<dyn Pipeline>,
        policy: OnBadSample,
        num_workers: usize,
        window: usize,
        sample_bytes: u64,
        ahead_bytes: u64,
        stats: Arc<Stats>,
    ) -> Result<Pool> {
        let state = State {
            flights: VecDeque::new(),
            front: 0,
            sampler: None,
            opened: 0,
            generation: 0,
            exhausted: false,
            stopping: false,
            broken: false,
        };
        let prefetcher = match pipeline.read_ahead() {
            0 => None,
            count => {
                let prefetcher =
                    Prefetcher::new(Arc::clone(&pipeline), count, ahead_bytes, num_workers, Arc::clone(&stats));
                Some(prefetcher.map_err(|e| super::prefetch::cannot_start(count, &e))?)
            }
        };
        let shared = Arc::new(Shared {
            pipeline,
            policy,
            window,
            budget: Arc::new(Budget::new(sample_bytes)),
            stats,
            buffers: Arc::new(BufferPool::default()),
            prefetcher,
            stop: Stop::default(),
            state: Mutex::new(state),
            work: Condvar::new(),
            ready: Condvar::new(),
        });
        let mut pool = Pool { shared, threads: Vec::new() };
        for worker in 0..num_workers {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("feedline:{worker}")).spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| shared.run(worker))).is_err() {
                    shared.lock().broken = true;
                    shared.ready.notify_all();
                }
            });
            // On failure, dropping the pool stops the threads that started.
            pool.threads.push(thread.map_err(|e| {
                Error::config(format!("cannot start {num_workers} worker threads: {e}"), "Lower num_workers")
            })?);
        }
        Ok(pool)
    }

    /// Discards everything in flight and continues from `sampler`.
    pub(crate) fn seek(&self, sampler: BatchSampler) {
        let mut state = self.shared.lock();
        state.front += state.flights.len() as u64;
        state.flights.clear();
        if let Some(prefetcher) = &self.shared.prefetcher {
            state.generation = prefetcher.seek(sampler.clone());
        }
        state.opened = 0;
        state.sampler = Some(sampler);
        state.exhausted = false;
        drop(state);
        self.shared.work.notify_all();
    }

    /// The next batch in order; `None` after the last. Waits until it is ready, or for at most `wait_max`.
    pub(crate) fn next(&self, wait_max: Option<Duration>) -> Poll<Option<Result<Batch>>> {
        let asked = Instant::now();
        let mut state = self.shared.lock();
        let batch = loop {
            if state.flights.front().is_some_and(|flight| flight.ready.is_some()) {
                state.front += 1;
                break state.flights.pop_front().and_then(|flight| flight.ready);
            }
            if state.flights.is_empty() && state.exhausted {
                break None;
            }
            if state.broken {
                break Some(Err(Error::config(
                    "a worker thread of the loader died",
                    "This is a bug, please report it",
                )));
            }
            let ready = &self.shared.ready;
            state = match wait_max.map(|wait_max| wait_max.saturating_sub(asked.elapsed())) {
                None => ready.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    self.shared.stats.add_wait(asked);
                    return Poll::Pending;
                }
                Some(left) => ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        };
        drop(state);
        self.shared.stats.add_wait(asked);
        self.shared.work.notify_all();
        Poll::Ready(batch)
    }
}

impl Drop for Pool {
    /// Stops the threads; returns as soon as each has finished its current sample. If one of them drops its own pool
    /// (it runs code of the caller's that held the last reference to the loader), none is waited for: it cannot wait
    /// for itself, and the others may be waiting for something that this code holds.
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.work.notify_all();
        self.shared.stop.stop();
        if let Some(prefetcher) = &self.shared.prefetcher {
            prefetcher.end();
        }
        let this = std::thread::current().id();
        if self.threads.iter().any(|thread| thread.thread().id() == this) {
            return;
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a worker catches panics of pipelines; there is nothing else to report
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, worker: usize) {
        let mut raw = Raw::new();
        let mut context =
            SampleContext::new(Some(Arc::clone(&self.budget)), self.stats.is_traced()).with_stop(self.stop.clone());
        let mut outcomes = Vec::new();
        let mut length = 1;
        while let Some(Claim { number, slots, first_sample, generation, memory }) = self.claim(length) {
            let (begun, count) = (Instant::now(), slots.len());
            for slot in slots {
                context.begin(memory.plan.requests[slot].index, count <= TIMED_CLAIM || slot % 8 == 0);
                let sample = (generation, first_sample + slot as u64);
                let made = self.make(&memory, slot, sample, &mut raw, &mut context);
                context.stop();
                context.release();
                if !matches!(&made, Ok(made) if made.value.is_empty() && made.replaced.is_empty()) {
                    outcomes.push((slot, made));
                }
            }
            raw.iter_mut().filter(|part| part.capacity() > MAX_KEPT_BYTES).for_each(|part| *part = Vec::new());
            length = next_length(count, begun.elapsed());
            drop(memory); // before the slots count as done: whoever collates must be the only owner
            self.stats.add(&mut context, worker); // and so must their times: a delivered batch is a counted one
            self.finish(number, count, &mut outcomes, &mut context, worker);
        }
    }

    /// Claims the next slots, at most `length`, of the oldest batch that has any left; opens a new batch if the window
    /// allows it. `None` to stop.
    fn claim(&self, length: usize) -> Option<Claim> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            let (front, generation) = (state.front, state.generation);
            let open = state.flights.iter_mut().enumerate().find(|(_, flight)| flight.next_slot < flight.size);
            if let Some((at, InFlightBatch { memory: Some(memory), next_slot, size, first_sample, .. })) = open {
                let slots = *next_slot..(*next_slot + length).min(*size);
                *next_slot = slots.end;
                let (number, first_sample) = (front + at as u64, *first_sample);
                return Some(Claim { number, slots, first_sample, generation, memory: Arc::clone(memory) });
            }
            if state.flights.len() < self.window
                && let Some(sampler) = &mut state.sampler
            {
                if let Some(plan) = sampler.next() {
                    let flight = self.open(plan, state.opened);
                    state.opened += flight.size as u64;
                    if flight.ready.is_some() && state.flights.is_empty() {
                        self.ready.notify_all();
                    }
                    state.flights.push_back(flight);
                    self.work.notify_all();
                    continue;
                }
                state.sampler = None;
                state.exhausted = true;
                self.ready.notify_all();
            }
            let idle = Instant::now();
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            self.stats.add_idle(idle.elapsed());
        }
    }

    fn open(&self, plan: BatchRequest, first_sample: u64) -> InFlightBatch {
        let size = plan.requests.len();
        let stacked = self
            .pipeline
            .fields()
            .iter()
            .filter(|spec| spec.collate == Collate::Stack)
            .map(|spec| {
                let buffer = self.buffers.take(size.saturating_mul(spec.slot_bytes()));
                let buffer = buffer.map_err(|error| error.needed_for(|| of_batch(spec, size)))?;
                Ok(SlotBuffer::new(buffer, size, spec.slot_bytes()))
            })
            .collect();
        // If its memory cannot be allocated, the batch is that error, delivered in its turn; no slot of it is made.
        let (memory, next_slot, ready) = match stacked {
            Ok(stacked) => (Some(Arc::new(Memory { plan, stacked })), 0, None),
            Err(error) => (None, size, Some(Err(error))),
        };
        InFlightBatch { memory, size, next_slot, first_sample, outcomes: Vec::new(), unfinished: size, ready }
    }

    /// Makes slot `at`; `sample` is its generation and number in the prefetcher.
    fn make(
        &self,
        memory: &Memory,
        at: usize,
        sample: (u64, u64),
        raw: &mut Raw,
        context: &mut SampleContext,
    ) -> Result<Made<Vec<Array>>> {
        let pipeline = &*self.pipeline;
        // Replacement samples are not prefetched.
        let mut ahead = self.prefetcher.as_ref();
        let mut places: Vec<&mut [u8]> = memory.stacked.iter().map(|buffer| buffer.slot(at)).collect();
        make_or_replace(pipeline, &memory.plan.requests[at], self.policy, context, |request, context| {
            match ahead.take() {
                Some(prefetcher) => prefetcher.take(sample.0, sample.1, raw, context)?,
                None => {
                    context.enter(Stage::Read);
                    pipeline.read(request, raw, context)?;
                }
            }
            let mut slot = Slot::new(pipeline.fields(), places.iter_mut().map(|place| &mut **place));
            pipeline.make(request, raw, &mut slot, context)?;
            Ok(slot.into_owned())
        })
    }

    /// Records `count` finished slots; the caller that finishes the last one collates the batch.
    fn finish(
        &self,
        number: u64,
        count: usize,
        outcomes: &mut Vec<SlotOutcome>,
        context: &mut SampleContext,
        worker: usize,
    ) {
        let mut state = self.lock();
        let Some(flight) = number.checked_sub(state.front).and_then(|at| state.flights.get_mut(at as usize)) else {
            outcomes.clear(); // forgotten by a seek
            return;
        };
        flight.outcomes.append(outcomes);
        flight.unfinished -= count;
        if flight.unfinished > 0 {
            return;
        }
        let mut outcomes = std::mem::take(&mut flight.outcomes);
        let memory = flight.memory.take().and_then(Arc::into_inner);
        drop(state);
        let Some(memory) = memory else { unreachable!("every worker gave its share back before it counted") };
        context.begin(number, true);
        context.enter(Stage::Collate);
        outcomes.sort_unstable_by_key(|(slot, _)| *slot);
        let batch = self.assemble(memory, outcomes);
        self.stats.add(context, worker);
        let mut state = self.lock();
        let at = number.checked_sub(state.front);
        if let Some(flight) = at.and_then(|at| state.flights.get_mut(at as usize)) {
            flight.ready = Some(batch);
            if at == Some(0) {
                self.ready.notify_all();
            }
        }
    }

    /// The batch, or the error of its first bad slot. `outcomes` are in the order of their slots.
    fn assemble(&self, memory: Memory, outcomes: Vec<SlotOutcome>) -> Result<Batch> {
        let specs = self.pipeline.fields();
        let mut indices: Vec<u64> = memory.plan.requests.iter().map(|request| request.index).collect();
        let mut replaced = Vec::new();
        let mut owned = Vec::with_capacity(outcomes.len());
        for (slot, made) in outcomes {
            let made = made?;
            indices[slot] = made.index;
            replaced.extend(made.replaced);
            if !made.value.is_empty() {
                owned.push(made.value.into_iter());
            }
        }
        let mut stacked = memory.stacked.into_iter();
        let mut fields = Vec::with_capacity(specs.len());
        for spec in specs {
            let field = match (&spec.collate, stacked.as_slice().is_empty()) {
                (Collate::Stack, false) => {
                    let mut shape = vec![indices.len()];
                    shape.extend(&spec.shape);
                    let Some(buffer) = stacked.next() else { unreachable!("checked by the match") };
                    BatchField::Stack(Array::from_buffer(spec.dtype, shape, buffer.into_buffer()))
                }
                _ => {
                    let arrays: Vec<Array> = owned.iter_mut().filter_map(Iterator::next).collect();
                    collate_field(spec, &arrays.iter().collect::<Vec<_>>())?
                }
            };
            fields.push((spec.name.clone(), field));
        }
        Ok(batch(&memory.plan, fields, indices, replaced))
    }
}

/// The number of samples to claim next, after `count` took `time`. Grows at most fourfold, so that one fast sample does
/// not decide.
fn next_length(count: usize, time: Duration) -> usize {
    let fit = CLAIM.as_nanos() * count as u128 / time.as_nanos().max(1);
    (fit as usize).clamp(1, (4 * count).min(MAX_CLAIM))
}
