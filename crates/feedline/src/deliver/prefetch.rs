//! Reading ahead: threads that fetch the bytes of samples before a worker asks for them, in the order of the plan, so that
//! the time a network takes to answer is nobody's waiting. Owns how far ahead, which a byte budget decides; what is read
//! is the pipeline's.
#![expect(clippy::disallowed_methods, reason = "measures the waits for reads, which no batch sees")]

use super::batches::BatchSampler;
use crate::error::{Error, Result, Stage};
use crate::meter::{SampleContext, Stats};
use crate::pipeline::{Pipeline, Raw};
use crate::plan::Request;
use crate::read::ReadError;
use crate::stop::Stop;
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Maximum number of prefetched samples, however small they are.
const MAX_ITEMS: usize = 1 << 14;

/// Maximum storage kept for later samples.
const MAX_SPARE_BYTES: usize = 32 << 20;

/// Unused memory that a part of a sample may keep, in addition to half of its size.
const SLACK_BYTES: usize = 1 << 10;

/// Maximum number of samples in one read: with more, the first of them would wait too long.
const TOGETHER_MAX: usize = 64;

/// Maximum bytes of samples in one read: less than one request may read, since there are gaps between samples.
const TOGETHER_BYTES_MAX: u64 = crate::read::TOGETHER_BYTES_MAX / 8 * 7;

/// The result of a read; a panic is passed on to the worker, which handles it.
type ReadOutcome = std::result::Result<Result<Raw>, Box<dyn Any + Send>>;

enum Item {
    Reading { bytes: u64 },
    Read { bytes: u64, outcome: ReadOutcome },
    Taken,
}

struct State {
    sampler: Option<BatchSampler>,
    /// Requests of a batch whose reading has not begun.
    open: VecDeque<Request>,
    /// Incremented by each seek: reads of earlier generations are discarded.
    generation: u64,
    stop: Stop,
    /// Number of the first item since the seek.
    first: u64,
    items: VecDeque<Item>,
    held_bytes: u64,
    spare: Vec<Raw>,
    spare_bytes: usize,
    ended: bool,
}

struct Shared {
    pipeline: Arc<dyn Pipeline>,
    stats: Arc<Stats>,
    limit_bytes: u64,
    state: Mutex<State>,
    room: Condvar,
    ready: Condvar,
}

/// Threads that live as long as the pool.
pub(super) struct Prefetcher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Prefetcher {
    /// Starts `count` threads, which idle until the first seek. Bytes that are read but not taken are at most
    /// `limit_bytes`, or one sample.
    pub(super) fn new(
        pipeline: Arc<dyn Pipeline>,
        count: usize,
        limit_bytes: u64,
        first_number: usize,
        stats: Arc<Stats>,
    ) -> std::io::Result<Prefetcher> {
        let state = State {
            sampler: None,
            open: VecDeque::new(),
            generation: 0,
            stop: Stop::default(),
            first: 0,
            items: VecDeque::new(),
            held_bytes: 0,
            spare: Vec::new(),
            spare_bytes: 0,
            ended: false,
        };
        let shared = Shared {
            pipeline,
            stats,
            limit_bytes,
            state: Mutex::new(state),
            room: Condvar::new(),
            ready: Condvar::new(),
        };
        let mut prefetcher = Prefetcher { shared: Arc::new(shared), threads: Vec::with_capacity(count) };
        for number in first_number..first_number + count {
            let shared = Arc::clone(&prefetcher.shared);
            let builder = std::thread::Builder::new().name(format!("feedline:r{number}")).stack_size(512 << 10);
            prefetcher.threads.push(builder.spawn(move || shared.run(number))?); // on failure the drop stops the others
        }
        Ok(prefetcher)
    }

    /// Cancels the reads in progress and continues from `sampler`. Returns the generation of the reads from now on.
    pub(super) fn seek(&self, sampler: BatchSampler) -> u64 {
        let mut state = self.shared.lock();
        state.forget();
        state.sampler = Some(sampler);
        let generation = state.generation;
        drop(state);
        self.shared.room.notify_all();
        generation
    }

    /// Waits for the bytes of sample `number` since the seek that gave `generation`. Records the time waited
    /// in `context`, also if the read failed; each sample is given once.
    pub(super) fn take(&self, generation: u64, number: u64, raw: &mut Raw, context: &mut SampleContext) -> Result<()> {
        let asked = std::time::Instant::now();
        let mut state = self.shared.lock();
        let (bytes, outcome) = loop {
            if state.generation != generation || state.ended {
                return Err(ReadError::stopped("a sample".into()).into_error());
            }
            let at = (number - state.first) as usize;
            if matches!(state.items.get(at), Some(Item::Read { .. }))
                && let Item::Read { bytes, outcome } = std::mem::replace(&mut state.items[at], Item::Taken)
            {
                break (bytes, outcome);
            }
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.held_bytes -= bytes;
        while matches!(state.items.front(), Some(Item::Taken)) {
            state.items.pop_front();
            state.first += 1;
        }
        let outcome = outcome.map(|read| {
            read.map(|mut read| {
                std::mem::swap(raw, &mut read);
                state.keep(read);
            })
        });
        // Waking a thread for nothing costs as much as a small sample.
        let is_more = state.sampler.is_some() || !state.open.is_empty();
        drop(state);
        if is_more {
            self.shared.room.notify_one();
        }
        context.fetched(asked.elapsed());
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Stops all reads; waiting callers get an error.
    pub(super) fn end(&self) {
        let mut state = self.shared.lock();
        state.forget();
        state.ended = true;
        drop(state);
        self.shared.room.notify_all();
        self.shared.ready.notify_all();
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.end();
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // panics of pipelines are caught and passed on
        }
    }
}

impl State {
    fn forget(&mut self) {
        self.stop.stop();
        self.stop = Stop::default();
        self.generation += 1;
        self.sampler = None;
        self.open.clear();
        self.items.clear();
        (self.first, self.held_bytes) = (0, 0);
    }

    /// The next sample to read.
    fn next(&mut self) -> Option<Request> {
        while self.open.is_empty() {
            match self.sampler.as_mut()?.next() {
                Some(plan) => self.open.extend(plan.requests),
                None => self.sampler = None,
            }
        }
        self.open.front().copied()
    }

    /// Takes the next sample, of about `bytes`, and marks it as being read.
    fn begin(&mut self, bytes: u64) -> Request {
        self.held_bytes += bytes;
        self.items.push_back(Item::Reading { bytes });
        self.open.pop_front().expect("`next` has just given it")
    }

    fn keep(&mut self, raw: Raw) {
        let bytes: usize = raw.iter().map(Vec::capacity).sum();
        if bytes > 0 && self.spare_bytes + bytes <= MAX_SPARE_BYTES {
            self.spare_bytes += bytes;
            self.spare.push(raw);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, number: usize) {
        let mut state = self.lock();
        loop {
            if state.ended {
                return;
            }
            let Some(request) = state.next() else {
                state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let bytes = self.bytes_of(request.index);
            if !self.fits(&state, bytes) && !state.items.is_empty() {
                state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let place = state.first + state.items.len() as u64;
            let (mut requests, mut run_bytes) = (vec![state.begin(bytes)], bytes);
            while let Some(next) = state.next() {
                let bytes = self.bytes_of(next.index);
                run_bytes = run_bytes.saturating_add(bytes);
                let is_wanted =
                    run_bytes <= TOGETHER_BYTES_MAX && requests.len() < TOGETHER_MAX && self.fits(&state, bytes);
                if !is_wanted || !self.is_near(requests[requests.len() - 1].index, next.index) {
                    break;
                }
                requests.push(state.begin(bytes));
            }
            let (generation, stop) = (state.generation, state.stop.clone());
            let mut context = SampleContext::new(None, self.stats.is_traced()).with_stop(stop.clone());
            let mut raws: Vec<Raw> = requests.iter().map(|_| state.spare.pop().unwrap_or_default()).collect();
            state.spare_bytes -= raws.iter().flatten().map(Vec::capacity).sum::<usize>();
            drop(state);

            context.begin(request.index, true);
            context.enter(Stage::Read);
            let outcomes = catch_unwind(AssertUnwindSafe(|| match (&*requests, &mut *raws) {
                ([request], [raw]) => vec![self.pipeline.read(request, raw, &mut context)],
                (requests, raws) => self.pipeline.read_many(requests, raws, &mut context),
            }));
            self.stats.add(&mut context, number);
            let outcomes: Vec<ReadOutcome> = match outcomes {
                Ok(results) if results.len() == requests.len() => {
                    results.into_iter().zip(raws).map(|(read, raw)| Ok(read.map(|()| trimmed(raw)))).collect()
                }
                Err(panic) if requests.len() == 1 => vec![Err(panic)],
                // A panic, or too few results: the samples are read one by one, so that only the faulty one fails, and
                // no caller waits for ever.
                _ => requests.iter().map(|request| self.read(request, &stop)).collect(),
            };

            state = self.lock();
            if state.generation != generation {
                continue;
            }
            for (place, outcome) in (place..).zip(outcomes) {
                let at = (place - state.first) as usize;
                if let Some(Item::Reading { bytes }) = state.items.get(at) {
                    // Its real size, including unused memory.
                    let held = match &outcome {
                        Ok(Ok(raw)) => raw.iter().map(|part| part.capacity() as u64).sum(),
                        _ => 0,
                    };
                    state.held_bytes = state.held_bytes - *bytes + held;
                    state.items[at] = Item::Read { bytes: held, outcome };
                }
            }
            self.ready.notify_all();
        }
    }

    /// The expected size of a sample. A pipeline that panics here may panic again where that is caught: when it reads.
    fn bytes_of(&self, index: u64) -> u64 {
        catch_unwind(AssertUnwindSafe(|| self.pipeline.raw_bytes(index))).unwrap_or_default()
    }

    fn is_near(&self, one: u64, next: u64) -> bool {
        catch_unwind(AssertUnwindSafe(|| self.pipeline.is_near(one, next))).unwrap_or_default()
    }

    fn fits(&self, state: &State, bytes: u64) -> bool {
        state.held_bytes.saturating_add(bytes) <= self.limit_bytes && state.items.len() < MAX_ITEMS
    }

    fn read(&self, request: &Request, stop: &Stop) -> ReadOutcome {
        let (mut raw, mut context) = (Raw::new(), SampleContext::default().with_stop(stop.clone()));
        catch_unwind(AssertUnwindSafe(|| self.pipeline.read(request, &mut raw, &mut context)))
            .map(|read| read.map(|()| raw))
    }
}

/// Frees most of the unused memory: otherwise each reused buffer would soon be as large as the largest sample it ever
/// held, and all prefetched samples together a multiple of the budget.
fn trimmed(mut raw: Raw) -> Raw {
    for part in &mut raw {
        if part.capacity() > part.len() + part.len() / 2 + SLACK_BYTES {
            part.shrink_to_fit();
        }
    }
    raw
}

/// The error if the prefetching threads cannot be started.
pub(super) fn cannot_start(count: usize, error: &std::io::Error) -> Error {
    Error::config(format!("cannot start {count} threads that read ahead: {error}"), "Lower storage.requests_in_flight")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::sample::{FieldSpec, Slot};

    /// Samples of very different sizes.
    struct Uneven;

    const SAMPLES: u64 = 200;

    fn size(index: u64) -> usize {
        if index.is_multiple_of(20) { 100_000 } else { 2_000 + index as usize }
    }

    impl Pipeline for Uneven {
        fn len(&self) -> u64 {
            SAMPLES
        }
        fn fields(&self) -> &[FieldSpec] {
            &[]
        }
        fn read(&self, request: &Request, raw: &mut Raw, _: &mut SampleContext) -> Result<()> {
            raw.resize_with(1, Vec::new);
            raw[0].clear();
            raw[0].resize(size(request.index), request.index as u8);
            Ok(())
        }
        fn make(&self, _: &Request, _: &Raw, _: &mut Slot<'_>, _: &mut SampleContext) -> Result<()> {
            Ok(())
        }
        fn raw_bytes(&self, index: u64) -> u64 {
            size(index) as u64
        }
    }

    /// Held memory must not grow from epoch to epoch with the largest sample that each buffer ever held.
    #[test]
    fn memory_that_is_used_again_stays_within_the_budget() {
        const LIMIT: usize = 400_000;
        let stats = Arc::new(Stats::new(false));
        let prefetcher = Prefetcher::new(Arc::new(Uneven), 2, LIMIT as u64, 0, stats).unwrap();
        let plan = Plan::new(SAMPLES, 1).unwrap();
        let generation = prefetcher.seek(BatchSampler::new(plan.clone(), 0, 1, false, None));
        let (mut raw, mut most, mut number) = (Raw::new(), 0, 0);
        for epoch in 0..40 {
            for request in plan.epoch(epoch).rank(0) {
                prefetcher.take(generation, number, &mut raw, &mut SampleContext::default()).unwrap();
                assert_eq!(raw[0], vec![request.index as u8; size(request.index)]);
                number += 1;
            }
            // Until no other sample fits.
            let begun = std::time::Instant::now();
            while begun.elapsed().as_secs() < 10 && prefetcher.shared.lock().held_bytes < LIMIT as u64 - 100_000 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let held = |item: &Item| -> usize {
                match item {
                    Item::Read { outcome: Ok(Ok(raw)), .. } => raw.iter().map(Vec::capacity).sum(),
                    _ => 0,
                }
            };
            most = most.max(prefetcher.shared.lock().items.iter().map(held).sum::<usize>());
        }
        // Two may have been started before the sizes of the others were known.
        assert!(most < LIMIT + 2 * 200_000, "{most} bytes");
    }
}
