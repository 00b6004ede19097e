//! Measuring a loader without a model: samples a second, the first batch, memory, and in words what limits it. Owns the
//! reading of the figures; changes nothing of what is delivered.
#![expect(clippy::disallowed_methods, reason = "measures, and writes what it measured")]

use super::{Loader, Span, StageCount, StatsSnapshot};
use crate::error::{Error, Result, Stage};
use serde::Serialize;
use std::io::Write;
use std::time::Instant;

/// The performance of a loader over some epochs.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// Samples per second, one number per epoch. The first epoch warms up caches, buffers and the page cache.
    pub images_per_second: Vec<f64>,
    /// Seconds from just before the loader was made to its first batch.
    pub first_batch_seconds: f64,
    /// Peak memory of the process, if the system tells (Linux).
    pub peak_memory_bytes: Option<u64>,
    /// Samples per epoch.
    pub samples: u64,
    /// Samples per step.
    pub batch_size: u64,
    /// Number of worker threads.
    pub num_workers: usize,
    /// Duration of the epochs in `stages`.
    pub seconds: f64,
    /// Counters of all epochs but the first, or of the first if it is the only one.
    pub stages: StatsSnapshot,
    /// The bottleneck, in words.
    pub verdict: String,
}

/// Makes a loader and takes `epochs` epochs from it as fast as it delivers. `on_epoch` is called with each epoch's
/// number and its samples per second.
///
/// # Errors
/// Any error of the loader.
pub fn measure(
    make: impl FnOnce() -> Result<Loader>,
    epochs: u64,
    on_epoch: &mut dyn FnMut(u64, f64),
) -> Result<(Measurement, Loader)> {
    let begun = Instant::now();
    let mut loader = make()?;
    let mut first_batch_seconds = 0.0;
    let mut images_per_second = Vec::new();
    let (mut warm, mut warm_since) = (StatsSnapshot::default(), begun);
    let mut samples = 0;
    for epoch in 0..epochs.max(1) {
        let since = Instant::now();
        samples = 0;
        while let Some(batch) = loader.next_batch()? {
            if epoch == 0 && samples == 0 {
                first_batch_seconds = begun.elapsed().as_secs_f64();
            }
            samples += batch.valid as u64;
        }
        images_per_second.push(samples as f64 / since.elapsed().as_secs_f64());
        on_epoch(epoch, samples as f64 / since.elapsed().as_secs_f64());
        if epoch == 0 && epochs > 1 {
            (warm, warm_since) = (loader.stats(), Instant::now());
        }
    }
    let (seconds, stages) = (warm_since.elapsed().as_secs_f64(), loader.stats().since(&warm));
    let (batch_size, num_workers) = (loader.options.batch_size, loader.options.num_workers);
    let measurement = Measurement {
        images_per_second,
        first_batch_seconds,
        peak_memory_bytes: peak_memory_bytes(),
        samples,
        batch_size,
        num_workers,
        seconds,
        stages,
        verdict: stages.verdict(seconds, num_workers),
    };
    Ok((measurement, loader))
}

impl StatsSnapshot {
    /// Interprets these figures, taken over `seconds` with `num_workers` workers: names the bottleneck stage, the share
    /// of the consumer's time that is lost, and the number of workers that would hide it.
    pub fn verdict(&self, seconds: f64, num_workers: usize) -> String {
        // Reads by separate threads take no time of a worker.
        let read = if self.readers > 0 { StageCount::default() } else { self.read };
        let stages = [
            (Stage::Read, read),
            (Stage::Decode, self.decode),
            (Stage::Augment, self.augment),
            (Stage::Collate, self.collate),
        ];
        let busy_s: f64 = stages.iter().map(|(_, count)| count.busy_s).sum();
        let samples = [self.read, self.decode, self.augment].iter().map(|count| count.items).max().unwrap_or(0);
        if samples == 0 || seconds <= 0.0 || busy_s <= 0.0 {
            return "nothing was delivered, so there is nothing to say".into();
        }
        let mut shares: Vec<_> = stages.iter().map(|(stage, count)| (count.busy_s / busy_s, *stage)).collect();
        shares.sort_by(|a, b| b.0.total_cmp(&a.0));
        let work = shares
            .iter()
            .filter(|(share, _)| *share >= 0.005)
            .map(|(share, stage)| format!("{stage} {:.0} %", share * 100.0))
            .collect::<Vec<_>>()
            .join(", ");
        // Samples per second of one worker that never waits.
        let per_worker = samples as f64 / busy_s;
        let limit = per_worker * num_workers.max(1) as f64;
        let waited = self.wait_s / seconds;
        let own_s = seconds - self.wait_s;
        let mut text = format!("a worker's time goes to {work}; one worker makes {per_worker:.0} samples/s. ");
        let starved = self.fetch_s / (seconds * num_workers.max(1) as f64);
        text += &match () {
            // With less than half a request in flight on average, late bytes are not the bottleneck.
            _ if self.read.busy_s >= seconds / 2.0 && num_workers > 0 && starved >= 0.1 && waited >= 0.02 => {
                self.verdict_on_the_network(seconds, starved, limit)
            }
            _ if num_workers == 0 => format!(
                "There are no workers: the consumer makes every batch itself, {:.0} % of its time. One worker would \
                 work while it computes",
                waited * 100.0
            ),
            _ if waited < 0.02 => format!(
                "The consumer waits {:.1} % of its time: the loader keeps up, and has room for {limit:.0} samples/s",
                waited * 100.0
            ),
            _ if own_s > 0.25 * seconds => {
                let workers = (busy_s / own_s).ceil();
                let remedy = if workers > num_workers as f64 {
                    format!("{workers} worker{} would hide it", if workers > 1.0 { "s" } else { "" })
                } else {
                    "there are workers enough to hide it, so they do not get the cores, or a slow batch comes now and then".into()
                };
                format!("The consumer waits {:.0} % of its time, mostly for {}; {remedy}", waited * 100.0, shares[0].1)
            }
            _ => format!(
                "Without a model the limit is {}: {:.0} samples/s with {num_workers} worker{}. A model that takes \
                 more than {per_worker:.0} samples/s needs another worker for each as many, as long as there are cores",
                shares[0].1,
                samples as f64 / seconds,
                if num_workers == 1 { "" } else { "s" },
            ),
        };
        text
    }
}

impl StatsSnapshot {
    /// The verdict if the network is the bottleneck: whether more concurrent requests would help, and how much
    /// bandwidth would be enough.
    fn verdict_on_the_network(&self, seconds: f64, starved: f64, limit: f64) -> String {
        let reads = self.read.items.max(1) as f64;
        let (each_bytes, each_s) = (self.read.bytes as f64 / reads, self.read.busy_s / reads);
        // Requests that wait for their turn are not in flight.
        let under_way = (self.read.busy_s / seconds).min(self.readers as f64);
        let remedy = if under_way > 0.8 * self.readers as f64 {
            "If more of them at once do not help (storage.requests_in_flight), the bandwidth or the server is used up: a \
             cache (storage.cache_dir) makes every epoch but the first local"
        } else {
            "More may be under way: reading ahead has come to the end of the data, or of its memory (memory_budget_bytes)"
        };
        format!(
            "The limit is the network: workers wait for bytes {:.0} % of their time. {:.1} MB/s come with {under_way:.0} \
             of {} requests under way, of {:.1} KB and {:.1} ms each; with {:.1} MB/s the limit would be the workers, \
             {limit:.0} samples/s. {remedy}",
            starved * 100.0,
            self.read.bytes as f64 / seconds / 1e6,
            self.readers,
            each_bytes / 1e3,
            each_s * 1e3,
            limit * each_bytes / 1e6,
        )
    }
}

/// Peak memory of the process so far, in bytes; `None` if the system does not tell.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Writes spans as a Chrome trace (the JSON array format of chrome://tracing and Perfetto): one row per worker, and one
/// for the consumer's waiting.
///
/// # Errors
/// Any error of `out`.
pub(crate) fn write_chrome_trace(spans: &[Span], mut out: impl Write) -> std::io::Result<()> {
    let zero = spans.iter().map(|span| span.start).min();
    out.write_all(b"[")?;
    for (i, span) in spans.iter().enumerate() {
        let start_us = zero.map_or(0.0, |zero| (span.start - zero).as_secs_f64() * 1e6);
        let consumer = span.worker == usize::MAX;
        let event = serde_json::json!({
            "name": if consumer { "wait" } else { span.stage.name() },
            "cat": if consumer { "consumer" } else { "worker" },
            "ph": "X",
            "ts": start_us,
            "dur": span.busy.as_secs_f64() * 1e6,
            "pid": 1,
            "tid": if consumer { 0 } else { span.worker + 1 },
            "args": { "index": span.index },
        });
        write!(out, "{}\n{event}", if i == 0 { "" } else { "," })?;
    }
    out.write_all(b"\n]\n")?;
    out.flush()
}

/// As [`write_chrome_trace`], into a new file.
///
/// # Errors
/// [`Error::Io`] with the file's name.
pub fn save_chrome_trace(spans: &[Span], path: &std::path::Path) -> Result<()> {
    let file = std::fs::File::create(path).map_err(|e| Error::io("write", path, e))?;
    write_chrome_trace(spans, std::io::BufWriter::new(file)).map_err(|e| Error::io("write", path, e))
}
