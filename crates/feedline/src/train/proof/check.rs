//! The check of a ledger: attempts and ranks merged, and compared with what their plans ask for. Pure but for [`verify`],
//! which reads the run folder; must not take the loader's word for more than what it delivered.

use super::{Attempt, LEDGER, read};
use crate::deliver::ledger::{Counter, Counts, Digest, Entry};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::train::checkpoint::{self, Checkpoints};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A place in the run: (epoch, global position).
type Place = (u64, u64);

/// Slots worked out at once.
const PORTION: u64 = 1 << 16;

/// What the ledger of a run says. Epochs count from 0 here.
#[derive(Debug, Serialize)]
pub struct Proof {
    /// Whether everything that the plan asks for was delivered, and nothing else. Replaced samples are as planned: the
    /// plan says by what.
    pub proved: bool,
    /// Samples of the data set.
    pub samples: u64,
    pub attempts: Vec<AttemptProof>,
    /// Every epoch up to the last checkpoint.
    pub epochs: Vec<EpochProof>,
    /// What is wrong with the ledger itself.
    pub problems: Vec<String>,
}

/// One attempt, and how far it counts.
#[derive(Debug, Serialize)]
pub struct AttemptProof {
    /// From 1.
    pub attempt: u64,
    pub ranks: u64,
    /// (epoch, global position) where it began.
    pub from: Place,
    /// Where the next one went on, or the last checkpoint stands.
    pub to: Place,
    /// Entries past that: work that was lost and done again.
    pub void_entries: usize,
}

/// What was delivered of one epoch.
#[derive(Debug, Serialize)]
pub struct EpochProof {
    pub epoch: u64,
    /// Whether it is over; else this is what was delivered so far.
    pub complete: bool,
    /// Attempts that had a part in it.
    pub attempts: Vec<u64>,
    /// Samples delivered, padding apart.
    pub delivered: u64,
    /// Padded places delivered besides.
    pub padded: u64,
    /// Samples of the data set that were delivered exactly once, more often, and not at all.
    pub once: u64,
    pub more: u64,
    pub never: u64,
    /// Whether the plan itself (or a replacement) wants a sample more than once.
    pub wanted_twice: bool,
    /// Samples that should have been delivered (more often), ascending.
    pub missed: Vec<Difference>,
    /// Samples that were delivered more often than they should have been, ascending.
    pub doubled: Vec<Difference>,
    pub replaced: Vec<Replacement>,
}

impl EpochProof {
    /// Whether it is exactly what the plan asks for.
    pub fn as_planned(&self) -> bool {
        self.missed.is_empty() && self.doubled.is_empty()
    }
}

/// A sample that came more or less often than planned.
#[derive(Debug, Serialize, PartialEq)]
pub struct Difference {
    pub index: u64,
    /// Its file, where the run folder says it.
    pub name: Option<String>,
    pub planned: u64,
    pub delivered: u64,
}

/// A sample that could not be used, and the one delivered in its place.
#[derive(Debug, Serialize, PartialEq)]
pub struct Replacement {
    /// Global position in the epoch.
    pub position: u64,
    pub index: u64,
    pub name: Option<String>,
    pub replaced_by: u64,
    pub replaced_by_name: Option<String>,
    /// How often the epoch delivered the latter, this time included.
    pub times: u64,
}

/// Checks the ledger of the run in folder `run` up to its last checkpoint. Names come from its `samples.txt` (line i is
/// sample i, its name up to a tab), if it is there.
///
/// # Errors
/// A folder without a ledger; a ledger or a checkpoint that cannot be read.
pub fn verify(run: &Path) -> Result<Proof> {
    let path = run.join(LEDGER);
    if !path.exists() {
        return Err(Error::config(
            format!("there is no {LEDGER} in {}", run.display()),
            "Name the folder of a run; one made by an older version has no ledger",
        ));
    }
    let end = match Checkpoints::new(run.join("checkpoints")).last() {
        Some(last) => checkpoint::load(&last)?.0.cursor.map_or((0, 0), |cursor| (cursor.epoch, cursor.position)),
        None => (0, 0),
    };
    let mut proof = check(&read(&path)?, end).map_err(|error| Error::Checkpoint {
        path,
        problem: error.to_string(),
        remedy: "So nothing can be proved of this run".into(),
    })?;
    proof.add_names(&run.join("samples.txt"))?;
    Ok(proof)
}

/// Checks what counts of these attempts, in a run whose last checkpoint stands at `end`.
pub(super) fn check(attempts: &[(Attempt, Vec<Entry>)], end: Place) -> Result<Proof> {
    let mut stretches = Vec::new();
    let (mut to, mut problems) = (end, Vec::new());
    // From the last to the first: whatever is past a later attempt's beginning was done again.
    for (attempt, entries) in attempts.iter().rev() {
        let stretch = Stretch::new(attempt, entries, to, &mut problems)?;
        to = to.min(stretch.from);
        stretches.push(stretch);
    }
    stretches.reverse();
    match stretches.first() {
        None => problems.push("the ledger is empty".into()),
        Some(first) if to > (0, 0) => problems.push(format!(
            "the ledger begins with attempt {} at position {} of epoch {}: nothing is known of what was before",
            first.attempt.attempt,
            first.from.1,
            first.from.0 + 1
        )),
        Some(_) => {}
    }
    for pair in stretches.windows(2) {
        if pair[0].attempt.samples != pair[1].attempt.samples {
            problems.push(format!(
                "attempt {} ran on {} samples, attempt {} on {}",
                pair[0].attempt.attempt, pair[0].attempt.samples, pair[1].attempt.attempt, pair[1].attempt.samples
            ));
        }
    }
    let mut epochs = Vec::new();
    let last_epoch = if end.1 > 0 { end.0 + 1 } else { end.0 };
    for epoch in to.0..last_epoch {
        epochs.push(check_epoch(epoch, epoch < end.0, &stretches, &mut problems)?);
    }
    Ok(Proof {
        proved: problems.is_empty() && epochs.iter().all(EpochProof::as_planned),
        samples: stretches.last().map_or(0, |stretch| stretch.attempt.samples),
        attempts: stretches.iter().map(Stretch::summary).collect(),
        epochs,
        problems,
    })
}

/// What counts of one attempt.
struct Stretch<'a> {
    attempt: &'a Attempt,
    plan: Plan,
    from: Place,
    to: Place,
    entries: Vec<&'a Entry>,
    void_entries: usize,
}

impl<'a> Stretch<'a> {
    fn new(attempt: &'a Attempt, all: &'a [Entry], to: Place, problems: &mut Vec<String>) -> Result<Stretch<'a>> {
        let (entries, void): (Vec<_>, Vec<_>) = all.iter().partition(|entry| (entry.epoch, entry.to) <= to);
        for entry in void.iter().filter(|entry| (entry.epoch, entry.from) < to) {
            problems.push(format!(
                "attempt {} was left at position {} of epoch {}, in the middle of an entry of rank {} (positions {} to \
                 {}): which of its samples count is unknown",
                attempt.attempt,
                to.1,
                to.0 + 1,
                entry.rank,
                entry.from,
                entry.to
            ));
        }
        let from = (attempt.epoch, attempt.position);
        Ok(Stretch { attempt, plan: attempt.plan()?, from, to: to.max(from), entries, void_entries: void.len() })
    }

    fn summary(&self) -> AttemptProof {
        AttemptProof {
            attempt: self.attempt.attempt,
            ranks: self.attempt.world_size,
            from: self.from,
            to: self.to,
            void_entries: self.void_entries,
        }
    }

    /// The part of `epoch` that it was to deliver: from a position, up to another or to the epoch's end.
    fn part(&self, epoch: u64) -> Option<(u64, Option<u64>)> {
        let from = if epoch == self.from.0 { self.from.1 } else { 0 };
        let to = (epoch == self.to.0).then_some(self.to.1);
        let any = (self.from.0..=self.to.0).contains(&epoch) && to.is_none_or(|to| to > from) && self.from < self.to;
        any.then_some((from, to))
    }

    fn of(&self, epoch: u64) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().copied().filter(move |entry| entry.epoch == epoch)
    }

    /// By position: the sample that could not be used there, and the one delivered in the end.
    fn replaced(&self, epoch: u64) -> BTreeMap<u64, (u64, u64)> {
        let mut replaced: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for bad in self.of(epoch).flat_map(|entry| &entry.replaced) {
            replaced.entry(bad.position).or_insert((bad.index, 0)).1 = bad.replaced_by;
        }
        replaced
    }

    /// Counts what its plan wants of `epoch`, with replacements in their places, as far as its batches go.
    fn expect(&self, epoch: u64, expected: &mut Counter) {
        let Some((from, to)) = self.part(epoch) else { return };
        // Batches may change from epoch to epoch. Where nothing at all was delivered, all is missed.
        let (batch_size, drop_last) =
            self.of(epoch).next().map_or((1, false), |entry| (entry.batch_size.max(1), entry.drop_last));
        let instead = self.replaced(epoch);
        let (order, ranks) = (self.plan.epoch_from(epoch, from), self.plan.num_replicas());
        for rank in 0..ranks {
            let dealt = self.plan.num_batches(from, rank, batch_size, drop_last).saturating_mul(batch_size);
            let reached = to.map_or(u64::MAX, |to| to.saturating_sub(from + rank).div_ceil(ranks));
            let slots = order.num_samples(rank).min(dealt).min(reached);
            let mut first = 0;
            while first < slots {
                let last = slots.min(first + PORTION);
                let requests = order.slots(rank, first..last).filter(|request| !request.padded);
                let indices: Vec<u64> = requests
                    .map(|request| match instead.get(&request.position) {
                        Some((bad, by)) if *bad == request.index => *by,
                        _ => request.index,
                    })
                    .collect();
                expected.add(&indices);
                first = last;
            }
        }
    }
}

fn check_epoch(
    epoch: u64,
    complete: bool,
    stretches: &[Stretch<'_>],
    problems: &mut Vec<String>,
) -> Result<EpochProof> {
    let samples = stretches.iter().map(|stretch| stretch.attempt.samples).max().unwrap_or(0);
    let mut expected = Counter::new(epoch, samples);
    let (mut counts, mut digest, mut delivered, mut padded) = (Counts::default(), Digest::default(), 0, 0);
    let (mut attempts, mut replaced) = (Vec::new(), Vec::new());
    for stretch in stretches {
        stretch.expect(epoch, &mut expected);
        for entry in stretch.of(epoch) {
            counts.add(&entry.counts()?);
            digest.add(Digest::from_hex(&entry.digest)?);
            delivered += entry.samples;
            padded += entry.padded;
        }
        if stretch.of(epoch).any(|entry| entry.samples > 0) {
            attempts.push(stretch.attempt.attempt);
        }
        // Padding that was replaced is padding still.
        let order = stretch.plan.epoch(epoch);
        replaced.extend(stretch.replaced(epoch).into_iter().filter(|(position, _)| !order.at(*position).padded));
    }
    let planned = expected.counts();
    let (mut missed, mut doubled) = (Vec::new(), Vec::new());
    for index in counts.differing(&planned) {
        let (planned, delivered) = (planned.count(index), counts.count(index));
        let list = if delivered < planned { &mut missed } else { &mut doubled };
        list.push(Difference { index, name: None, planned, delivered });
    }
    let same = missed.is_empty() && doubled.is_empty();
    if same != (digest == expected.digest()) || (same && delivered != expected.samples()) {
        problems.push(format!(
            "the sets of samples of epoch {} and their digest contradict each other: the ledger is damaged",
            epoch + 1
        ));
    }
    let (once, more) = counts.once_and_more();
    let replaced = replaced.into_iter().map(|(position, (index, replaced_by))| {
        let times = counts.count(replaced_by);
        Replacement { position, index, name: None, replaced_by, replaced_by_name: None, times }
    });
    let replaced = replaced.collect();
    Ok(EpochProof {
        epoch,
        complete,
        attempts,
        delivered,
        padded,
        once,
        more,
        never: samples.saturating_sub(once + more),
        wanted_twice: planned.once_and_more().1 > 0,
        missed,
        doubled,
        replaced,
    })
}

impl Proof {
    /// Fills in the names from the file at `path`, if there is anything to name.
    fn add_names(&mut self, path: &Path) -> Result<()> {
        let mut wanted = BTreeSet::new();
        for epoch in &self.epochs {
            wanted.extend(epoch.missed.iter().chain(&epoch.doubled).map(|difference| difference.index));
            wanted.extend(epoch.replaced.iter().flat_map(|bad| [bad.index, bad.replaced_by]));
        }
        if wanted.is_empty() || !path.exists() {
            return Ok(());
        }
        let text = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let text = String::from_utf8_lossy(&text);
        let names: BTreeMap<u64, &str> = (0..)
            .zip(text.lines())
            .filter(|(index, _)| wanted.contains(index))
            .map(|(index, line)| (index, line.split('\t').next().unwrap_or_default()))
            .collect();
        let name = |index: u64| names.get(&index).map(|name| name.to_string());
        for epoch in &mut self.epochs {
            for difference in epoch.missed.iter_mut().chain(&mut epoch.doubled) {
                difference.name = name(difference.index);
            }
            for bad in &mut epoch.replaced {
                (bad.name, bad.replaced_by_name) = (name(bad.index), name(bad.replaced_by));
            }
        }
        Ok(())
    }
}
