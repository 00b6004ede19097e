//! One epoch dealt to its ranks: positions by stride, tails, and the requests of a rank. The order maps positions to
//! samples.

use super::order::{Found, Order};
use super::{Plan, Request, Sampling, Tail};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Slots of a rank that [`EpochPlan::rank`] computes together.
const PORTION: u64 = 256;

/// The order of one epoch, or of the rest of it. A clone is cheap and shares the computed part of the order.
#[derive(Clone)]
pub struct EpochPlan {
    plan: Plan,
    epoch: u64,
    start: u64,
    order: Arc<Order>,
}

impl EpochPlan {
    pub(super) fn new(plan: Plan, epoch: u64, start: u64) -> EpochPlan {
        EpochPlan { plan, epoch, start, order: Arc::default() }
    }

    /// As [`Plan::epoch_from`] of the same plan, but keeps the computed part of a pass of the data set that continues
    /// in that epoch.
    pub(crate) fn seek(&mut self, epoch: u64, start: u64) {
        self.order.trim(&self.plan, epoch);
        (self.epoch, self.start) = (epoch, start);
    }

    /// Number of the epoch, from 0.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Global positions dealt out from `start` on, over all ranks, padding included (torch's `total_size`).
    pub fn total_size(&self) -> u64 {
        let (left, w) = (self.plan.epoch_len().saturating_sub(self.start), self.plan.num_replicas);
        match self.plan.tail {
            Tail::Pad => left.div_ceil(w) * w,
            Tail::Drop => left / w * w,
            Tail::Exact => left,
        }
    }

    /// Samples of one rank (torch's `num_samples`).
    pub fn num_samples(&self, rank: u64) -> u64 {
        (self.total_size() + self.plan.num_replicas - 1 - rank.min(self.plan.num_replicas - 1)) / self.plan.num_replicas
    }

    /// Steps of one rank at `batch_size` samples a step.
    pub fn num_batches(&self, rank: u64, batch_size: u64, drop_last: bool) -> u64 {
        let samples = self.num_samples(rank);
        if drop_last { samples / batch_size } else { samples.div_ceil(batch_size) }
    }

    /// Global position of a rank's local slot.
    pub fn position(&self, rank: u64, slot: u64) -> u64 {
        self.start + slot * self.plan.num_replicas + rank
    }

    /// The request at a global position; positions past the epoch's end repeat its order from the beginning, as often
    /// as needed.
    pub fn at(&self, position: u64) -> Request {
        self.requests(vec![position])[0]
    }

    /// The requests at some of a rank's local slots, in order. All are computed at once, which is cheaper than one
    /// position after the other.
    pub fn slots(&self, rank: u64, slots: Range<u64>) -> impl Iterator<Item = Request> + '_ {
        self.requests(slots.map(|slot| self.position(rank, slot)).collect()).into_iter()
    }

    fn requests(&self, positions: Vec<u64>) -> Vec<Request> {
        let len = self.plan.epoch_len();
        let found = self.order.look_up(
            &self.plan,
            self.epoch,
            positions.iter().map(|&p| if p < len { p } else { p % len }).collect(),
        );
        let request = |(position, Found { index, pass })| Request {
            seed: self.plan.seed,
            epoch: self.epoch,
            pass,
            position,
            index,
            padded: position >= len,
        };
        positions.into_iter().zip(found).map(request).collect()
    }

    /// The requests of one rank in order.
    pub fn rank(&self, rank: u64) -> impl Iterator<Item = Request> + '_ {
        let count = self.num_samples(rank);
        // Starts with one: a caller who needs one index of torch's order must not wait for a whole portion.
        let portions = std::iter::successors(Some(0..count.min(1)), move |last| {
            let first = last.end;
            (first < count).then(|| first..count.min(first + first.min(PORTION)))
        });
        portions.flat_map(move |slots| self.slots(rank, slots))
    }

    /// The position of a sample, found without a search. Available if each epoch is one pass in the data set's own order
    /// or in that of [`Permutation::Feistel`](super::Permutation::Feistel). `None` for all other plans, and for an
    /// index that is not below the plan's length.
    pub fn position_of(&self, index: u64) -> Option<u64> {
        let plan = &self.plan;
        let plain = matches!(plan.sampling, Sampling::Passes { merged: 1 }) && plan.epoch_len() == plan.len;
        if !plain || plan.buckets.is_some() || index >= plan.len {
            return None;
        }
        Order::place_of(plan, self.epoch, index)
    }
}

impl fmt::Debug for EpochPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EpochPlan { plan, epoch, start, order: _ } = self;
        f.debug_struct("EpochPlan")
            .field("plan", plan)
            .field("epoch", epoch)
            .field("start", start)
            .finish_non_exhaustive()
    }
}
