//! Batch sampler: turns the plan into the batches of one rank, epoch after epoch. Pure, like the plan itself.

use crate::plan::{EpochPlan, Plan, Request};
use crate::sample::{Batch, BatchField, Replaced};

/// The request for one batch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BatchRequest {
    pub(crate) epoch: u64,
    pub(crate) step: u64,
    pub(crate) requests: Vec<Request>,
    /// Global position once this batch is delivered on every rank.
    pub(crate) next_position: u64,
}

/// Yields the batches of one rank in order, across epochs, up to but not including `end_epoch`.
#[derive(Debug, Clone)]
pub(crate) struct BatchSampler {
    pub(crate) plan: Plan,
    pub(crate) rank: u64,
    pub(crate) batch_size: u64,
    pub(crate) drop_last: bool,
    pub(crate) end_epoch: Option<u64>,
    dealt: EpochPlan,
    start: u64,
    step: u64,
}

impl BatchSampler {
    /// A sampler at the beginning of epoch 0.
    pub(crate) fn new(plan: Plan, rank: u64, batch_size: u64, drop_last: bool, end_epoch: Option<u64>) -> BatchSampler {
        let dealt = plan.epoch(0);
        BatchSampler { plan, rank, batch_size, drop_last, end_epoch, dealt, start: 0, step: 0 }
    }

    /// Moves to global position `start` of `epoch`.
    pub(crate) fn seek(&mut self, epoch: u64, start: u64) {
        self.dealt.seek(epoch, start);
        (self.start, self.step) = (start, 0);
    }

    /// Follows another plan, from the position of the next `seek`.
    pub(crate) fn set_plan(&mut self, plan: Plan) {
        self.dealt = plan.epoch(0);
        self.plan = plan;
    }

    /// Batches from the last `seek` to the end of its epoch.
    pub(crate) fn batches_in_epoch(&self) -> u64 {
        self.dealt.num_batches(self.rank, self.batch_size, self.drop_last)
    }

    /// Batches already delivered before the last `seek`, if the batch size and the ranks were the same then.
    pub(crate) fn steps_before(&self) -> u64 {
        self.start / self.batch_size.saturating_mul(self.plan.num_replicas())
    }
}

impl Iterator for BatchSampler {
    type Item = BatchRequest;

    fn next(&mut self) -> Option<BatchRequest> {
        if self.step >= self.batches_in_epoch() {
            let epoch = self.dealt.epoch() + 1;
            if self.end_epoch.is_some_and(|end| epoch >= end) {
                return None;
            }
            self.seek(epoch, 0);
            if self.batches_in_epoch() == 0 {
                return None;
            }
        }
        let first = self.step * self.batch_size;
        let last = first.saturating_add(self.batch_size).min(self.dealt.num_samples(self.rank));
        let requests = self.dealt.slots(self.rank, first..last).collect();
        let step = self.steps_before() + self.step;
        self.step += 1;
        let dealt_out = self
            .step
            .saturating_mul(self.batch_size)
            .saturating_mul(self.plan.num_replicas())
            .min(self.dealt.total_size());
        Some(BatchRequest { epoch: self.dealt.epoch(), step, requests, next_position: self.start + dealt_out })
    }
}

/// Assembles the parts of a batch.
pub(super) fn batch(
    plan: &BatchRequest,
    fields: Vec<(String, BatchField)>,
    indices: Vec<u64>,
    replaced: Vec<Replaced>,
) -> Batch {
    Batch {
        epoch: plan.epoch,
        step: plan.step,
        next_position: plan.next_position,
        indices,
        valid: plan.requests.iter().take_while(|request| !request.padded).count(),
        fields,
        replaced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Tail;

    #[test]
    fn batches_cross_epochs_and_stop_at_the_end() {
        let sampler = BatchSampler::new(Plan::new(10, 2).unwrap(), 1, 2, false, Some(2));
        let batches: Vec<BatchRequest> = sampler.collect();
        let shape: Vec<_> = batches.iter().map(|b| (b.epoch, b.step, b.requests.len(), b.next_position)).collect();
        assert_eq!(shape, [(0, 0, 2, 4), (0, 1, 2, 8), (0, 2, 1, 10), (1, 0, 2, 4), (1, 1, 2, 8), (1, 2, 1, 10)]);
        let indices = |epoch: u64| -> Vec<u64> {
            batches.iter().filter(|b| b.epoch == epoch).flat_map(|b| b.requests.iter().map(|r| r.index)).collect()
        };
        for epoch in 0..2 {
            let expect: Vec<u64> = Plan::new(10, 2).unwrap().epoch(epoch).rank(1).map(|r| r.index).collect();
            assert_eq!(indices(epoch), expect);
        }
    }

    #[test]
    fn a_batch_sampler_resumed_anywhere_goes_on_the_same() {
        for (tail, drop_last) in [(Tail::Pad, true), (Tail::Drop, false), (Tail::Exact, false)] {
            let plan = Plan::new(23, 3).unwrap().with_tail(tail);
            for rank in 0..3 {
                let whole: Vec<BatchRequest> = BatchSampler::new(plan.clone(), rank, 2, drop_last, Some(2)).collect();
                for cut in 0..whole.len() {
                    let mut sampler = BatchSampler::new(plan.clone(), rank, 2, drop_last, Some(2));
                    let (epoch, position) = cut.checked_sub(1).map_or((0, 0), |at| {
                        let before = &whole[at];
                        (before.epoch, before.next_position)
                    });
                    sampler.seek(epoch, position);
                    assert_eq!(sampler.collect::<Vec<_>>(), whole[cut..], "{tail:?} cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn an_epoch_without_a_batch_ends_the_batches() {
        assert_eq!(BatchSampler::new(Plan::new(3, 1).unwrap(), 0, 4, true, None).count(), 0);
    }
}
