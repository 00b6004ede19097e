//! The kinds of order: the methods that set them, and the conversion of (epoch, position) to a position of the run.

use super::buckets::Buckets;
use super::mixed::{MixOrigin, Mixture};
use super::weighted::AliasTable;
use super::{MAX_LEN, Permutation, Plan, Sampling};
use crate::error::{Error, Result};
use std::sync::Arc;

impl Plan {
    pub(super) fn checked(self) -> Result<Plan> {
        let longest = match &self.sampling {
            Sampling::Passes { merged } => self.len * merged,
            Sampling::Weighted(_) => 0,
            Sampling::Mixed(mixture) => mixture.sizes().iter().copied().max().unwrap_or(0),
        };
        if self.permutation == Permutation::Torch && longest >= 1 << 31 {
            return Err(Error::config(
                format!("torch's permutation of {longest} samples would need {} GiB", longest >> 28),
                "Use the permutation `feistel`, which needs no memory",
            ));
        }
        Ok(self)
    }

    /// With epochs of `positions` positions, independent of the size n of the data set. Passes over the data set are joined
    /// and cut into epochs of this length: over the whole run, any n consecutive positions that begin at a multiple of n
    /// hold each of the n samples once. A length of n times E merges E epochs into one.
    ///
    /// Weighted draws, mixtures and merged epochs are cut the same way. The next epoch does not make up for samples that a
    /// tail drops or repeats at the end of an epoch: with [`Tail::Drop`](super::Tail::Drop), unshuffled samples and a length
    /// that divides n, the same samples are dropped every time.
    ///
    /// # Errors
    /// 0, or above 2^62.
    pub fn with_epoch_length(mut self, positions: u64) -> Result<Plan> {
        if positions == 0 || positions > MAX_LEN {
            return Err(Error::config(format!("epochs of {positions} samples"), "Between 1 and 2^62 are possible"));
        }
        self.epoch_length = Some(positions);
        Ok(self)
    }

    /// With all epochs merged into one, as OpenPCDet's `merge_all_iters_to_one_epoch`: one permutation over `epochs`
    /// copies of the data set. Each sample occurs `epochs` times, at any positions; the order has no epochs inside.
    /// [`Plan::with_epoch_length`] merges epochs that stay whole.
    ///
    /// # Errors
    /// 0 epochs, more than 2^62 positions, `Torch` for 2^31 positions or more, or a plan that has another kind of order already.
    pub fn with_merged_epochs(self, epochs: u64) -> Result<Plan> {
        if epochs == 0 || self.len.checked_mul(epochs).is_none_or(|len| len > MAX_LEN) {
            return Err(Error::config(
                format!("{epochs} epochs merged into one"),
                "Merge at least 1, at most 2^62 samples",
            ));
        }
        self.drawing(Sampling::Passes { merged: epochs })?.checked()
    }

    /// With samples drawn by weight, with replacement; the permutation is not used. Needs 12 bytes of memory per sample,
    /// shared by clones.
    ///
    /// # Errors
    /// Not one weight for each sample, more than 2^32 of them, a weight below 0 or not finite, a sum of 0, or a plan
    /// that has another kind of order already.
    pub fn with_weights(self, weights: &[f64]) -> Result<Plan> {
        if weights.len() as u64 != self.len {
            return Err(Error::config(
                format!("{} weights for {} samples", weights.len(), self.len),
                "Give each sample one",
            ));
        }
        let table = Arc::new(AliasTable::new(weights)?);
        self.drawing(Sampling::Weighted(table))
    }

    /// With the data set as a mixture of sources, stored one after the other and given as (samples, weight). In
    /// any stretch of the run a source has its weight's share, within a few samples. Each source is used up
    /// completely, in the plan's permutation, before any of its samples repeats.
    ///
    /// A cursor may be loaded into a plan with other weights, which apply from there on. With buckets, the cursor must be
    /// at the beginning of a window.
    ///
    /// # Errors
    /// Sources that do not add up to the data set, an empty one, a weight below 0 or not finite, a sum of 0, or a plan
    /// that has another kind of order already.
    pub fn with_mixture(self, sources: &[(u64, f64)]) -> Result<Plan> {
        let sum: u128 = sources.iter().map(|source| u128::from(source.0)).sum();
        if sum != self.len.into() {
            return Err(Error::config(
                format!("the sources of the mixture hold {sum} samples, the data set {}", self.len),
                "Give the sources in the data set's order, with their numbers of samples",
            ));
        }
        let mixture = Arc::new(Mixture::new(sources)?);
        self.drawing(Sampling::Mixed(mixture))?.checked()
    }

    fn drawing(mut self, sampling: Sampling) -> Result<Plan> {
        if self.sampling != (Sampling::Passes { merged: 1 }) {
            return Err(Error::config(
                "a plan with two of: merged epochs, weights, a mixture",
                "Choose one of them; a mixture has weights for its sources",
            ));
        }
        self.sampling = sampling;
        Ok(self)
    }

    /// With samples of about the same length grouped: each `window` positions of an epoch are sorted by `lengths[index]`
    /// and cut into chunks of `chunk`, in a keyed order. Set `chunk` to the number of samples of a step on all ranks, so
    /// that a step needs little padding. A look-up of a position computes its whole window.
    ///
    /// # Errors
    /// Not one length for each sample, or a window that is no multiple of the chunk or above 2^31.
    pub fn with_buckets(mut self, lengths: Arc<[u32]>, window: u64, chunk: u64) -> Result<Plan> {
        if lengths.len() as u64 != self.len {
            return Err(Error::config(
                format!("{} lengths for {} samples", lengths.len(), self.len),
                "Give each sample one",
            ));
        }
        self.buckets = Some(Buckets::new(lengths, window, chunk)?);
        Ok(self)
    }

    /// The weights of a mixture and the position from which they apply; `None` for other plans.
    pub fn mix(&self) -> Option<&MixOrigin> {
        match &self.sampling {
            Sampling::Mixed(mixture) => Some(mixture.now()),
            _ => None,
        }
    }

    /// A mixture's plan with the weights and the origin of `mix`.
    pub(super) fn with_mix(mut self, mix: &MixOrigin) -> Result<Plan> {
        if let Sampling::Mixed(mixture) = &self.sampling {
            self.sampling = Sampling::Mixed(Arc::new(Mixture::clone(mixture).beginning(mix.clone())?));
        }
        Ok(self)
    }

    /// This plan, continued from the position that `before` reached: a mixture with the same weights keeps its origin, one
    /// with other weights begins there.
    pub(super) fn after(self, before: Plan, epoch: u64, position: u64) -> Result<Plan> {
        let (Sampling::Mixed(old), Sampling::Mixed(new)) = (&before.sampling, &self.sampling) else { return Ok(self) };
        if new.mixes_as(old) {
            return Ok(Plan { sampling: before.sampling.clone(), ..self });
        }
        let origin = before.place_in_run(epoch, position.min(before.epoch_len()));
        if origin < old.now().origin {
            // The position lies before the last change of weights. The draws up to here are unknown, so the mixture starts again.
            let mix =
                MixOrigin { origin: 0, counts: vec![0; new.now().counts.len()], weights: new.now().weights.clone() };
            return self.with_mix(&mix);
        }
        let inside = |buckets: &Buckets| position < self.epoch_len() && !position.is_multiple_of(buckets.window);
        if self.buckets.as_ref().is_some_and(inside) {
            return Err(Error::config(
                "the weights of a mixture change inside a window of buckets, part of which is delivered already",
                "Go on with the old weights, or change them at an epoch's beginning",
            ));
        }
        let counts = old.counts_before(self.seed, origin);
        let mix = MixOrigin { origin, counts, weights: new.now().weights.clone() };
        self.with_mix(&mix)
    }

    /// Positions of the run before this one.
    pub(super) fn place_in_run(&self, epoch: u64, position: u64) -> u64 {
        epoch.wrapping_mul(self.epoch_len()).wrapping_add(position)
    }

    /// The number of the permutation that a position of an epoch lies in, and the position inside it.
    pub(super) fn pass_at(&self, epoch: u64, position: u64) -> (u64, u64) {
        let Sampling::Passes { merged } = self.sampling else { return (epoch, position) };
        let (length, period) = (self.epoch_len(), self.len * merged);
        if length == period && position < length {
            return (epoch, position);
        }
        let place = u128::from(epoch) * u128::from(length) + u128::from(position);
        ((place / u128::from(period)) as u64, (place % u128::from(period)) as u64)
    }
}
