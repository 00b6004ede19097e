//! What the stages did: items, bytes, busy time, and time blocked. Counted per sample by each worker on its own and
//! added to the shared figures once a sample, so that counting costs nothing that can be measured.

use crate::error::Stage;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A worker's stop-watch: a pipeline says which stage it enters, the clock adds up.
#[derive(Debug, Default)]
pub struct Clock {
    running: Option<(Stage, Instant)>,
    busy_ns: [u64; Stage::ALL.len()],
    bytes: [u64; Stage::ALL.len()],
}

impl Clock {
    /// From now on time belongs to `stage`.
    pub fn enter(&mut self, stage: Stage) {
        self.stop();
        self.running = Some((stage, Instant::now()));
    }

    /// Counts `bytes` put out by the stage that is running.
    pub fn count_bytes(&mut self, bytes: usize) {
        if let Some((stage, _)) = self.running {
            self.bytes[stage as usize] += bytes as u64;
        }
    }

    /// The stage that is running, or the first.
    pub(crate) fn stage(&self) -> Stage {
        self.running.map_or(Stage::Read, |(stage, _)| stage)
    }

    pub(crate) fn stop(&mut self) {
        if let Some((stage, since)) = self.running.take() {
            self.busy_ns[stage as usize] += since.elapsed().as_nanos() as u64;
        }
    }
}

/// The figures of a loader, shared by its workers.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    items: [AtomicU64; Stage::ALL.len()],
    bytes: [AtomicU64; Stage::ALL.len()],
    busy_ns: [AtomicU64; Stage::ALL.len()],
    idle_ns: AtomicU64,
    wait_ns: AtomicU64,
}

impl Stats {
    /// Adds one sample's times and sets the clock back.
    pub(crate) fn add(&self, clock: &mut Clock) {
        clock.stop();
        for at in 0..Stage::ALL.len() {
            if clock.busy_ns[at] > 0 {
                self.items[at].fetch_add(1, Relaxed);
                self.busy_ns[at].fetch_add(clock.busy_ns[at], Relaxed);
                self.bytes[at].fetch_add(clock.bytes[at], Relaxed);
            }
        }
        *clock = Clock::default();
    }

    /// A worker had nothing to do: the batches allowed in flight were all taken.
    pub(crate) fn add_idle(&self, time: Duration) {
        self.idle_ns.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    /// The consumer waited for a batch.
    pub(crate) fn add_wait(&self, time: Duration) {
        self.wait_ns.fetch_add(time.as_nanos() as u64, Relaxed);
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
            wait_s: self.wait_ns.load(Relaxed) as f64 / 1e9,
        }
    }
}

/// What one stage did.
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
    /// Seconds the consumer was blocked because no batch was ready (on get).
    pub wait_s: f64,
}

impl StatsSnapshot {
    /// What happened since `earlier`.
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
            wait_s: self.wait_s - earlier.wait_s,
        }
    }
}
