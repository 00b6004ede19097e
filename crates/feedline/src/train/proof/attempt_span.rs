//! The entries of one attempt that count, and the demands of its plan. Knows one attempt at a time; `check.rs` combines
//! them.

use super::Attempt;
use super::problems::{Place, Problems};
use crate::deliver::ledger::{Counter, Entry, Exchange};
use crate::error::{Error, Result};
use crate::plan::{MAX_EPOCH, Plan};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};

/// Number of slots computed at a time.
const PORTION: u64 = 1 << 16;

/// An epoch that has this many positions more than four times the delivered samples is not computed: it is far from
/// delivered, and listing it would take for ever.
const FEW: u64 = 1 << 20;

/// One attempt, up to the point from which the next one continued.
pub(super) struct AttemptSpan<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) plan: Plan,
    pub(super) from: Place,
    pub(super) to: Place,
    /// The entries that count, by epoch.
    entries: BTreeMap<u64, Vec<&'a Entry>>,
    pub(super) void_entries: usize,
}

impl<'a> AttemptSpan<'a> {
    pub(super) fn new(
        attempt: &'a Attempt,
        all: &'a [Entry],
        to: Place,
        problems: &mut Problems,
    ) -> Result<AttemptSpan<'a>> {
        let mut epochs = all.iter().map(|entry| entry.epoch).chain([attempt.epoch, to.0]);
        if let Some(epoch) = epochs.find(|epoch| *epoch > MAX_EPOCH) {
            return Err(Error::config(format!("it tells of epoch {epoch}, which no run reaches"), "It is damaged"));
        }
        let plan = attempt.plan()?;
        let from = (attempt.epoch, attempt.position);
        check_chains(attempt.attempt, from, all, plan.num_replicas(), problems);
        let mut entries: BTreeMap<u64, Vec<&Entry>> = BTreeMap::new();
        let mut void_entries = 0;
        for entry in all {
            if (entry.epoch, entry.to) <= to {
                entries.entry(entry.epoch).or_default().push(entry);
                continue;
            }
            void_entries += 1;
            if (entry.epoch, entry.from) < to {
                problems.add(format!(
                    "attempt {} was left at position {} of epoch {}, in the middle of an entry of rank {} (positions {} \
                     to {}): which of its samples count is unknown",
                    attempt.attempt,
                    to.1,
                    to.0 + 1,
                    entry.rank,
                    entry.from,
                    entry.to
                ));
            }
        }
        for (epoch, entries) in &entries {
            let batches = |entry: &Entry| (entry.batch_size, entry.drop_last);
            if entries.iter().any(|entry| batches(entry) != batches(entries[0])) {
                problems.add(format!(
                    "the entries of attempt {} for epoch {} do not agree on the batch size",
                    attempt.attempt,
                    epoch + 1
                ));
            }
        }
        Ok(AttemptSpan { attempt, plan, from, to: to.max(from), entries, void_entries })
    }

    /// The part of `epoch` that it had to deliver: from a position, up to another or to the epoch's end.
    pub(super) fn part(&self, epoch: u64) -> Option<(u64, Option<u64>)> {
        let from = if epoch == self.from.0 { self.from.1 } else { 0 };
        let to = (epoch == self.to.0).then_some(self.to.1);
        let any = (self.from.0..=self.to.0).contains(&epoch) && to.is_none_or(|to| to > from) && self.from < self.to;
        any.then_some((from, to))
    }

    pub(super) fn of(&self, epoch: u64) -> &[&'a Entry] {
        self.entries.get(&epoch).map_or(&[], Vec::as_slice)
    }

    /// The last epoch with entries that count.
    pub(super) fn last_epoch(&self) -> Option<u64> {
        self.entries.keys().next_back().copied()
    }

    /// Samples delivered of `epoch`, padding included.
    fn delivered(&self, epoch: u64) -> u64 {
        self.of(epoch).iter().fold(0, |sum, entry| sum.saturating_add(entry.samples).saturating_add(entry.padded))
    }

    /// The replacements of bad samples, by position: the planned sample, and the one finally delivered. A replacement
    /// that deviates from the plan is a problem.
    pub(super) fn exchanges(&self, epoch: u64, problems: &mut Problems) -> BTreeMap<u64, Swap> {
        let mut swaps: BTreeMap<u64, Swap> = BTreeMap::new();
        let told = self.of(epoch).iter().flat_map(|entry| &entry.replaced);
        let order = self.plan.epoch(epoch);
        for &Exchange { position, index, replaced_by } in told {
            let swap = match swaps.entry(position) {
                Occupied(swap) => swap.into_mut(),
                Vacant(place) => {
                    let request = order.at(position);
                    place.insert(Swap { index: request.index, padded: request.padded, by: request.index, times: 0 })
                }
            };
            let wanted = order.at(position).replacement(swap.times, self.plan.len()).index;
            if index != swap.by || replaced_by != wanted {
                problems.add(format!(
                    "at position {position} of epoch {} sample {index} is said to be replaced by {replaced_by}; the plan \
                     replaces {} by {wanted} there",
                    epoch + 1,
                    swap.by
                ));
            }
            (swap.by, swap.times) = (replaced_by, swap.times + 1);
        }
        swaps
    }

    /// Counts the samples that its plan wants of `epoch`, with replacements, as far as its batches go; returns the
    /// number of padded positions, or `None` for an epoch of which too little was delivered to be worth counting.
    pub(super) fn expect(
        &self,
        epoch: u64,
        swaps: &BTreeMap<u64, Swap>,
        expected: &mut Counter,
        problems: &mut Problems,
    ) -> Option<u64> {
        let Some((from, to)) = self.part(epoch) else { return Some(0) };
        // The batch size may change from epoch to epoch. If nothing at all was delivered, everything is missed.
        let (batch_size, drop_last) =
            self.of(epoch).first().map_or((1, false), |entry| (entry.batch_size.max(1), entry.drop_last));
        let (order, ranks) = (self.plan.epoch_from(epoch, from), self.plan.num_replicas());
        let places = to.unwrap_or(u64::MAX).saturating_sub(from).min(order.total_size());
        let delivered = self.delivered(epoch);
        if places > delivered.saturating_mul(4).saturating_add(FEW) {
            problems.add(format!(
                "attempt {} delivered {delivered} samples of epoch {}, where {places} places are to be filled",
                self.attempt.attempt,
                epoch + 1
            ));
            return None;
        }
        let mut padded = 0;
        for rank in 0..ranks.min(places) {
            let dealt = self.plan.num_batches(from, rank, batch_size, drop_last).saturating_mul(batch_size);
            let reached = to.map_or(u64::MAX, |to| to.saturating_sub(from.saturating_add(rank)).div_ceil(ranks));
            let slots = order.num_samples(rank).min(dealt).min(reached);
            if slots > 0 && self.of(epoch).iter().all(|entry| entry.rank != rank) {
                problems.add(format!(
                    "rank {rank} wrote nothing of epoch {} in attempt {}",
                    epoch + 1,
                    self.attempt.attempt
                ));
            }
            let mut first = 0;
            while first < slots {
                let last = slots.min(first + PORTION);
                let mut indices = Vec::with_capacity((last - first) as usize);
                for request in order.slots(rank, first..last) {
                    if request.padded {
                        padded += 1;
                    } else {
                        indices.push(swaps.get(&request.position).map_or(request.index, |swap| swap.by));
                    }
                }
                expected.add(&indices);
                first = last;
            }
        }
        Some(padded)
    }
}

/// The replacement of a sample that could not be used.
pub(super) struct Swap {
    pub(super) index: u64,
    pub(super) padded: bool,
    pub(super) by: u64,
    times: u64,
}

/// Checks that the entries of each rank follow each other without a gap, from the start of the attempt.
fn check_chains(attempt: u64, from: Place, entries: &[Entry], ranks: u64, problems: &mut Problems) {
    let mut ends: BTreeMap<u64, Place> = BTreeMap::new();
    for entry in entries {
        let before = ends.insert(entry.rank, (entry.epoch, entry.to)).unwrap_or(from);
        let follows = (entry.epoch, entry.from) == before || (entry.epoch > before.0 && entry.from == 0);
        if entry.rank >= ranks {
            problems
                .add(format!("attempt {attempt} ran on {ranks} ranks, but there is an entry of rank {}", entry.rank));
        } else if !follows || entry.to < entry.from {
            problems.add(format!(
                "an entry of rank {} in attempt {attempt} is of positions {} to {} of epoch {}, where the one before ends \
                 at position {} of epoch {}: entries are missing, or stand twice",
                entry.rank,
                entry.from,
                entry.to,
                entry.epoch.saturating_add(1),
                before.1,
                before.0.saturating_add(1)
            ));
        }
    }
}
