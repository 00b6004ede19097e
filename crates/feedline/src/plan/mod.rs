//! Plan: maps (rank, step) to a sample. Pure arithmetic: no I/O, no clock, no thread's random state.
//!
//! One global order per epoch, dealt by stride: global position p belongs to rank p % W, local slot p / W. That is
//! torch's `DistributedSampler` index for index, and it makes any restart simple: after k slots on each of W ranks the
//! consumed set is the first k*W positions, and the rest can be dealt to any other number of ranks.

mod buckets;
mod cursor;
mod epoch;
mod feistel;
mod mixed;
mod mt19937;
mod order;
pub mod rng;
mod sampling;
mod spec;
mod torch;
mod weighted;

pub use cursor::Cursor;
pub(crate) use cursor::MAX_EPOCH;
pub use epoch::EpochPlan;
pub use mixed::MixOrigin;
pub use torch::torch_randperm;

use crate::error::{Error, Result};
use crate::hash::hash_words;
use buckets::Buckets;
use mixed::Mixture;
use rng::SampleRng;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use weighted::AliasTable;

/// Upper limit of all lengths, so that sums of positions cannot overflow.
const MAX_LEN: u64 = 1 << 62;

/// The order of the samples in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permutation {
    /// 0, 1, 2, ... in every epoch.
    None,
    /// `torch.randperm` of a generator seeded with seed + epoch; 4 bytes of memory per sample, for each permutation that
    /// an epoch touches. Below 2^32 / 20 (about
    /// 2.1e8) samples an epoch begins at once and position p costs the p steps before it, each made once; from there on
    /// torch's order is final only when it is whole, and the first index asked for waits for that.
    Torch,
    /// A keyed bijection evaluated per position: no memory, no start-up, any length; not torch's order.
    Feistel,
}

/// The treatment of the last samples when the number of ranks does not divide their number.
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

/// The rule that assigns samples to positions. Positions count over the whole run here, through all epochs.
#[derive(Debug, Clone, PartialEq)]
enum Sampling {
    /// One permutation after the other, each of `merged` copies of the data set.
    Passes { merged: u64 },
    /// Drawn by weight, with replacement.
    Weighted(Arc<AliasTable>),
    /// Drawn from several sources by weight; each source has passes of its own.
    Mixed(Arc<Mixture>),
}

/// The order of a whole run: a pure description, cheap to clone.
///
/// For every kind of plan, the sample at a position depends on the plan, the epoch and the position alone, and positions
/// are dealt to the ranks by stride. So any number of ranks and any restart give the same order.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    len: u64,
    num_replicas: u64,
    seed: u64,
    permutation: Permutation,
    tail: Tail,
    sampling: Sampling,
    /// Positions of an epoch; `None`: one full pass of the sampling.
    epoch_length: Option<u64>,
    buckets: Option<Buckets>,
}

/// One place in the plan: everything that decides what is delivered there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Seed of the run.
    pub seed: u64,
    pub epoch: u64,
    /// RNG key: number of the pass over the samples (the epoch, if each epoch is one pass); of a weighted draw, its position
    /// in the run. Apart from padding, no two positions of a run have the same sample and pass.
    pub pass: u64,
    /// Global position in the epoch's order.
    pub position: u64,
    /// The sample that belongs there.
    pub index: u64,
    /// True if this repeats a sample only to give all ranks equally many; it must not count in a metric.
    pub padded: bool,
}

impl Request {
    /// The random stream of `stage` for this sample in this pass; it does not depend on the position.
    pub fn rng(&self, stage: &str) -> SampleRng {
        SampleRng::new(self.seed, self.pass, self.index, stage)
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
        if len == 0 || len > MAX_LEN {
            return Err(Error::config(
                format!("a plan over {len} samples is not possible"),
                "The data set must hold between 1 and 2^62 samples",
            ));
        }
        if num_replicas == 0 || num_replicas > 1 << 31 {
            return Err(Error::config(
                format!("num_replicas is {num_replicas}"),
                "It is the number of ranks and must be at least 1 and at most 2^31",
            ));
        }
        Ok(Plan {
            len,
            num_replicas,
            seed: 0,
            permutation: Permutation::None,
            tail: Tail::Pad,
            sampling: Sampling::Passes { merged: 1 },
            epoch_length: None,
            buckets: None,
        })
    }

    /// With another permutation: of the whole data set, or of each source of a mixture.
    ///
    /// # Errors
    /// `Torch` for 2^31 samples or more.
    pub fn with_permutation(mut self, permutation: Permutation) -> Result<Plan> {
        self.permutation = permutation;
        self.checked()
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

    /// Positions of an epoch, padding not included; the number of samples, unless epochs are merged or their length set.
    pub fn epoch_len(&self) -> u64 {
        self.epoch_length.unwrap_or(match self.sampling {
            Sampling::Passes { merged } => self.len * merged,
            _ => self.len,
        })
    }

    /// True if epochs differ in their order.
    pub fn is_shuffled(&self) -> bool {
        let in_order = self.permutation == Permutation::None && matches!(self.sampling, Sampling::Passes { .. });
        !in_order || !self.epoch_len().is_multiple_of(self.len) || self.buckets.is_some()
    }

    /// The treatment of the last samples of an epoch.
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

    /// Hash of everything that determines the global order: the length, the seed, the kind of order with its weights and
    /// lengths, and the tail. The number of ranks is not part of it.
    pub fn fingerprint(&self) -> u64 {
        let mut words = vec![self.len, self.seed, self.permutation as u64, self.tail as u64];
        match &self.sampling {
            Sampling::Passes { merged: 1 } => {}
            Sampling::Passes { merged } => words.extend([1, *merged]),
            Sampling::Weighted(table) => words.extend([2, table.hash]),
            Sampling::Mixed(mixture) => words.extend([3, mixture.hash()]),
        }
        let plain = Plan { epoch_length: None, ..self.clone() };
        if self.epoch_len() != plain.epoch_len() {
            words.extend([4, self.epoch_len()]);
        }
        if let Some(buckets) = &self.buckets {
            words.extend([5, buckets.hash]);
        }
        hash_words(&words)
    }

    /// Steps of one rank from global position `start` to the end of an epoch, at `batch_size` samples a step. It does not
    /// compute the epoch's order.
    pub fn num_batches(&self, start: u64, rank: u64, batch_size: u64, drop_last: bool) -> u64 {
        self.epoch_from(0, start).num_batches(rank, batch_size, drop_last)
    }

    /// The order of one epoch from its beginning.
    pub fn epoch(&self, epoch: u64) -> EpochPlan {
        self.epoch_from(epoch, 0)
    }

    /// The rest of an epoch of which the first `start` global positions are already consumed, dealt again to this
    /// plan's ranks. For the same number of ranks that is the continuation. The order is computed on demand; with
    /// [`Permutation::Torch`] the first look-up also computes the steps of the consumed positions.
    pub fn epoch_from(&self, epoch: u64, start: u64) -> EpochPlan {
        EpochPlan::new(self.clone(), epoch, start)
    }
}

#[cfg(test)]
mod tests;
