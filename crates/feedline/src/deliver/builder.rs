//! A loader in a chain of calls, with the words of the Python package. Owns those words and their defaults; the work is that
//! of [`Loader`].

use super::{Loader, LoaderOptions};
use crate::error::Result;
use crate::pipeline::{IntoPipeline, Pipeline};
use crate::plan::{Permutation, Plan, Tail};
use std::sync::Arc;

type Change = Box<dyn FnOnce(Plan) -> Result<Plan>>;

/// What a [`Loader`] is to deliver, and how; [`Loader::over`] makes it. Without a word more it delivers one sample a batch, in
/// order, on one rank, with a thread for each core.
pub struct LoaderBuilder {
    pipeline: Result<Arc<dyn Pipeline>>,
    options: LoaderOptions,
    num_replicas: u64,
    shuffle: bool,
    seed: u64,
    tail: Option<Tail>,
    changes: Vec<Change>,
}

impl Loader {
    /// Begins the declaration of a loader over `data`: a pipeline, or pictures that are declared.
    pub fn over(data: impl IntoPipeline) -> LoaderBuilder {
        LoaderBuilder {
            pipeline: data.into_pipeline(),
            options: LoaderOptions::default(),
            num_replicas: 1,
            shuffle: false,
            seed: 0,
            tail: None,
            changes: Vec::new(),
        }
    }
}

impl LoaderBuilder {
    /// Samples a step on this rank.
    #[must_use]
    pub fn batch_size(mut self, samples: u64) -> LoaderBuilder {
        self.options.batch_size = samples;
        self
    }

    /// Whether the order is that of `torch.utils.data.DistributedSampler` with this seed, index for index, or 0, 1, 2, ...
    #[must_use]
    pub fn shuffle(mut self, shuffle: bool) -> LoaderBuilder {
        self.shuffle = shuffle;
        self
    }

    /// Decides the order and all augmentation.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> LoaderBuilder {
        self.seed = seed;
        self
    }

    /// Leaves out a last batch that is not full, and with several ranks what does not divide by them.
    #[must_use]
    pub fn drop_last(mut self, drop_last: bool) -> LoaderBuilder {
        self.options.drop_last = drop_last;
        self
    }

    /// Threads; 0 makes every batch in the caller's thread when it is asked for.
    #[must_use]
    pub fn num_workers(mut self, threads: usize) -> LoaderBuilder {
        self.options.num_workers = threads;
        self
    }

    /// Which share of the samples is delivered: that of rank `rank` of `num_replicas`.
    #[must_use]
    pub fn rank(mut self, rank: u64, num_replicas: u64) -> LoaderBuilder {
        self.options.rank = rank;
        self.num_replicas = num_replicas;
        self
    }

    /// What happens to samples that do not divide by the ranks; without it [`Tail::Drop`] with `drop_last`, else
    /// [`Tail::Pad`].
    #[must_use]
    pub fn tail(mut self, tail: Tail) -> LoaderBuilder {
        self.tail = Some(tail);
        self
    }

    /// Epochs of the run: nothing is read ahead of its end.
    #[must_use]
    pub fn epochs(mut self, epochs: u64) -> LoaderBuilder {
        self.options.end_epoch = Some(epochs);
        self
    }

    /// Changes the order that the other words describe, by a method of [`Plan`]: `.order(|plan|
    /// plan.with_weights(&weights))`.
    #[must_use]
    pub fn order(mut self, change: impl FnOnce(Plan) -> Result<Plan> + 'static) -> LoaderBuilder {
        self.changes.push(Box::new(change));
        self
    }

    /// Changes what has no word of its own here: `.options(|options| options.max_bad_samples = 3)`.
    #[must_use]
    pub fn options(mut self, change: impl FnOnce(&mut LoaderOptions)) -> LoaderBuilder {
        change(&mut self.options);
        self
    }

    /// The loader, at the beginning of epoch 0.
    ///
    /// # Errors
    /// What the declaration of the data has wrong; no samples; as [`Loader::new`].
    pub fn build(self) -> Result<Loader> {
        let pipeline = self.pipeline?;
        let tail = self.tail.unwrap_or(if self.options.drop_last { Tail::Drop } else { Tail::Pad });
        let permutation = if self.shuffle { Permutation::Torch } else { Permutation::None };
        let plan = Plan::unshuffled(pipeline.len(), self.num_replicas)?.with_seed(self.seed).with_tail(tail);
        let plan = plan.with_permutation(permutation)?;
        let plan = self.changes.into_iter().try_fold(plan, |plan, change| change(plan))?;
        Loader::new(pipeline, plan, self.options)
    }
}
