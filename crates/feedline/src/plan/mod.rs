//! Plan: which sample, for which rank, at which step. Pure arithmetic: no I/O, no clock, no thread's random state.
//!
//! One global order per epoch, dealt by stride: global position p belongs to rank p % W, local slot p / W. That is
//! torch's `DistributedSampler` index for index, and it makes any restart simple: after k slots on each of W ranks the
//! consumed set is the first k*W positions, and the rest can be dealt to any other number of ranks.

mod cursor;
mod feistel;
mod mt19937;
pub mod rng;
mod torch;

pub use cursor::Cursor;
pub use torch::torch_randperm;

use crate::error::{Error, Result};
use feistel::Feistel;
use rng::{SampleRng, hash_words};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use torch::TorchOrder;

/// How the samples of an epoch are put in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permutation {
    /// 0, 1, 2, ... in every epoch.
    None,
    /// `torch.randperm` of a generator seeded with seed + epoch; 4 bytes of memory per sample. Below 2^32 / 20 (about
    /// 2.1e8) samples an epoch begins at once and position p costs the p steps before it, each made once; from there on
    /// torch's order is final only when it is whole, and the first index asked for waits for that.
    Torch,
    /// A keyed bijection evaluated per position: no memory, no start-up, any length; not torch's order.
    Feistel,
}

/// What happens when the samples do not divide by the number of ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tail {
    /// Ranks get equally many; the first samples of the order are given again (torch's `drop_last=False`).
    Pad,
    /// Ranks get equally many; up to W - 1 samples are left out (torch's `drop_last=True`).
    Drop,
    /// Every sample exactly once; ranks may differ by one sample.
    Exact,
}

/// The order of a whole run: a pure description, cheap to copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    len: u64,
    num_replicas: u64,
    seed: u64,
    permutation: Permutation,
    tail: Tail,
}

/// One place in the plan: everything that decides what is delivered there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Seed of the run.
    pub seed: u64,
    pub epoch: u64,
    /// Global position in the epoch's order.
    pub position: u64,
    /// The sample that belongs there.
    pub index: u64,
    /// Whether it repeats a sample only to fill up the ranks; it must not count in a metric.
    pub padded: bool,
}

impl Request {
    /// The random stream of `stage` for this sample in this epoch; the position has no part in it.
    pub fn rng(&self, stage: &str) -> SampleRng {
        SampleRng::new(self.seed, self.epoch, self.index, stage)
    }

    /// The same place filled with another sample; `attempt` counts the replacements tried there, from 0. Depends on
    /// (seed, epoch, position, attempt) alone, so every restart and world size picks the same.
    pub fn replacement(&self, attempt: u64, len: u64) -> Request {
        let mut rng = SampleRng::new(self.seed, self.epoch, self.position, "replace");
        let mut index = self.index;
        for _ in 0..=attempt {
            index = rng.below(len);
        }
        Request { index, ..*self }
    }
}

impl Plan {
    /// A shuffled plan over `len` samples for `num_replicas` ranks, as torch's `DistributedSampler` by default:
    /// seed 0, permutation `torch`, tail `pad`.
    ///
    /// # Errors
    /// If `len` or `num_replicas` is 0, or `len` is 2^31 or more (the `torch` permutation would need 8 GiB; use
    /// [`Permutation::Feistel`] through [`Plan::with_permutation`] on a plan of [`Plan::unshuffled`]).
    pub fn new(len: u64, num_replicas: u64) -> Result<Plan> {
        Plan::unshuffled(len, num_replicas)?.with_permutation(Permutation::Torch)
    }

    /// As [`Plan::new`], in the order 0, 1, 2, ...
    ///
    /// # Errors
    /// If `len` or `num_replicas` is 0, or `len` is above 2^62.
    pub fn unshuffled(len: u64, num_replicas: u64) -> Result<Plan> {
        if len == 0 || len > 1 << 62 {
            return Err(Error::config(
                format!("a plan over {len} samples is not possible"),
                "The data set must hold between 1 and 2^62 samples",
            ));
        }
        if num_replicas == 0 || num_replicas > 1 << 31 {
            return Err(Error::config(
                format!("num_replicas is {num_replicas}"),
                "It is the number of ranks and must be at least 1 and below 2^31",
            ));
        }
        Ok(Plan { len, num_replicas, seed: 0, permutation: Permutation::None, tail: Tail::Pad })
    }

    /// With another permutation.
    ///
    /// # Errors
    /// `Torch` for 2^31 samples or more.
    pub fn with_permutation(mut self, permutation: Permutation) -> Result<Plan> {
        if permutation == Permutation::Torch && self.len >= 1 << 31 {
            return Err(Error::config(
                format!("torch's permutation of {} samples would need {} GiB", self.len, self.len >> 28),
                "Use the permutation `feistel`, which needs no memory",
            ));
        }
        self.permutation = permutation;
        Ok(self)
    }

    /// With another seed. As in torch, the `torch` permutation uses only the low 32 bits of seed + epoch.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Plan {
        self.seed = seed;
        self
    }

    /// With another tail.
    #[must_use]
    pub fn with_tail(mut self, tail: Tail) -> Plan {
        self.tail = tail;
        self
    }

    /// Number of samples of the data set.
    #[expect(clippy::len_without_is_empty, reason = "a plan is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Number of ranks W.
    pub fn num_replicas(&self) -> u64 {
        self.num_replicas
    }

    /// Seed of the run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether epochs differ in their order.
    pub fn is_shuffled(&self) -> bool {
        self.permutation != Permutation::None
    }

    /// What happens at the end.
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// Checks a rank.
    ///
    /// # Errors
    /// If it is not below the number of ranks; torch's own wording.
    pub fn check_rank(&self, rank: u64) -> Result<()> {
        if rank < self.num_replicas {
            return Ok(());
        }
        Err(Error::config(
            format!("Invalid rank {rank}, rank should be in the interval [0, {}]", self.num_replicas - 1),
            "Ranks are counted from 0",
        ))
    }

    /// Hash of what decides the global order: the length, seed, permutation and tail, but not the number of ranks.
    pub fn fingerprint(&self) -> u64 {
        hash_words(&[self.len, self.seed, self.permutation as u64, self.tail as u64])
    }

    /// Steps of one rank from global position `start` to the end of an epoch, at `batch_size` samples a step. Costs
    /// nothing, unlike making the epoch's order.
    pub fn num_batches(&self, start: u64, rank: u64, batch_size: u64, drop_last: bool) -> u64 {
        let rest = EpochPlan { plan: self.clone(), epoch: 0, start, order: Order::Identity };
        rest.num_batches(rank, batch_size, drop_last)
    }

    /// The order of one epoch from its beginning.
    pub fn epoch(&self, epoch: u64) -> EpochPlan {
        self.epoch_from(epoch, 0)
    }

    /// The rest of an epoch of which the first `start` global positions are already consumed, dealt anew to this
    /// plan's ranks. For the same number of ranks that is simply the continuation. Costs nothing yet; with
    /// [`Permutation::Torch`] the first index asked for waits for the steps of the consumed positions.
    pub fn epoch_from(&self, epoch: u64, start: u64) -> EpochPlan {
        let order = match self.permutation {
            Permutation::None => Order::Identity,
            Permutation::Torch => {
                let order = TorchOrder::new(self.len as u32, self.seed.wrapping_add(epoch));
                Order::Torch(Arc::new(Mutex::new(order)))
            }
            Permutation::Feistel => Order::Keyed(Feistel::new(self.len, hash_words(&[self.seed, epoch]))),
        };
        EpochPlan { plan: self.clone(), epoch, start, order }
    }
}

/// Slots of a rank that [`EpochPlan::rank`] works out together.
const PORTION: u64 = 256;

#[derive(Clone)]
enum Order {
    Identity,
    /// Shared by clones and threads: whoever asks first for a position makes the order that far, for all.
    Torch(Arc<Mutex<TorchOrder>>),
    Keyed(Feistel),
}

impl Order {
    /// Replaces positions below the length by the indices that stand there.
    fn look_up(&self, places: &mut [u64]) {
        match self {
            Order::Identity => {}
            Order::Torch(order) => {
                let mut order = order.lock().unwrap_or_else(PoisonError::into_inner);
                places.iter_mut().for_each(|place| *place = order.index(*place as usize).into());
            }
            Order::Keyed(bijection) => bijection.look_up(places),
        }
    }
}

/// The order of one epoch, or of what is left of it. A clone shares what is made of torch's order and costs nothing.
#[derive(Clone)]
pub struct EpochPlan {
    plan: Plan,
    epoch: u64,
    start: u64,
    order: Order,
}

impl EpochPlan {
    /// Which epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Global positions dealt out from `start` on, over all ranks, padding included (torch's `total_size`).
    pub fn total_size(&self) -> u64 {
        let (left, w) = (self.plan.len.saturating_sub(self.start), self.plan.num_replicas);
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

    /// What stands at a global position; positions past the data set repeat the order from its beginning, as often as
    /// needed.
    pub fn at(&self, position: u64) -> Request {
        let mut index = [position % self.plan.len];
        self.order.look_up(&mut index);
        self.request(position, index[0])
    }

    /// What stands at some of a rank's local slots, in order. All are worked out at once, which costs less than asking
    /// for one position after the other.
    pub fn slots(&self, rank: u64, slots: Range<u64>) -> impl Iterator<Item = Request> + '_ {
        let len = self.plan.len;
        let positions = slots.map(move |slot| self.position(rank, slot));
        let mut indices: Vec<u64> = positions.clone().map(|p| if p < len { p } else { p % len }).collect();
        self.order.look_up(&mut indices);
        positions.zip(indices).map(|(position, index)| self.request(position, index))
    }

    fn request(&self, position: u64, index: u64) -> Request {
        Request { seed: self.plan.seed, epoch: self.epoch, position, index, padded: position >= self.plan.len }
    }

    /// The requests of one rank in order.
    pub fn rank(&self, rank: u64) -> impl Iterator<Item = Request> + '_ {
        let count = self.num_samples(rank);
        // Few at first: whoever wants one index of torch's order must not wait for a portion of them.
        let portions = std::iter::successors(Some(0..count.min(1)), move |last| {
            let first = last.end;
            (first < count).then(|| first..count.min(first + first.min(PORTION)))
        });
        portions.flat_map(move |slots| self.slots(rank, slots))
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

#[cfg(test)]
mod tests;
