//! Mixing of several sources by weight: maps a place to a source and to the number of the draw from it. Exact, evenly
//! spread and evaluated place by place; knows nothing of epochs, ranks, or the order inside a source.

use super::weighted;
use crate::error::{Error, Result};
use crate::hash::{hash_name, hash_words};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The weights of a mixture and the position from which they apply; a part of the cursor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixOrigin {
    /// Position from which the weights apply, counted over all epochs of the run.
    pub origin: u64,
    /// Draws from each source before that position.
    pub counts: Vec<u64>,
    /// The weights.
    pub weights: Vec<f64>,
}

/// Places that share a hash: one bit of it for each node of a binary tree over them.
const BLOCK: u64 = 64;

/// Sources, stored one after the other in the data set, and their mixing weights.
///
/// A binary tree over the sources. At each node a share w of the places goes left: of every 64 places that begin at
/// t the number floor((t + 64) w) - floor(t w) (a Beatty sequence), halved again and again with an odd one going to a
/// side by a keyed coin, until each place has its side. So in t places a source differs from t times its share by no
/// more than a few, its places keep no period that could fall together with the ranks, and the number of places before
/// t that go left is known without visiting them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mixture {
    sizes: Vec<u64>,
    /// First index of each source.
    starts: Vec<u64>,
    now: MixOrigin,
    /// By the middle of the node's range of sources: the part of its places that goes left, in units of 2^-64.
    splits: Vec<u128>,
}

/// A draw from a source: its sample is at `place` of the source's own order of pass `pass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SourceDraw {
    pub(super) source: usize,
    pub(super) pass: u64,
    pub(super) place: u64,
}

impl Mixture {
    /// Sources of (samples, weight).
    ///
    /// # Errors
    /// No source, an empty one, or weights that are invalid: one below 0 or not finite, a sum of 0.
    pub(super) fn new(sources: &[(u64, f64)]) -> Result<Mixture> {
        if let Some(empty) = sources.iter().position(|&(size, _)| size == 0) {
            return Err(Error::config(format!("source {empty} of the mixture is empty"), "Leave it out"));
        }
        let sizes: Vec<u64> = sources.iter().map(|source| source.0).collect();
        let starts = sizes.iter().scan(0_u64, |end, &size| Some(std::mem::replace(end, end.saturating_add(size))));
        let now = MixOrigin {
            origin: 0,
            counts: vec![0; sizes.len()],
            weights: sources.iter().map(|source| source.1).collect(),
        };
        Mixture { starts: starts.collect(), splits: Vec::new(), sizes, now: now.clone() }.beginning(now)
    }

    /// The same sources from another origin on.
    ///
    /// # Errors
    /// Another number of sources, or invalid weights.
    pub(super) fn beginning(mut self, now: MixOrigin) -> Result<Mixture> {
        let k = self.sizes.len();
        if now.weights.len() != k || now.counts.len() != k {
            return Err(Error::config(
                format!("{} weights for a mixture of {k} sources", now.weights.len()),
                "Give each source one",
            ));
        }
        weighted::sum(now.weights.iter().copied())?;
        self.splits = vec![0; k];
        self.now = now;
        self.set_splits(0, k);
        Ok(self)
    }

    fn set_splits(&mut self, low: usize, high: usize) {
        if high - low > 1 {
            let middle = usize::midpoint(low, high);
            let sum = |range: Range<usize>| self.now.weights[range].iter().sum::<f64>();
            let (left, right): (f64, f64) = (sum(low..middle), sum(middle..high));
            // If both weights are 0, no place reaches this node, and 0 / 0 cast to an integer gives 0.
            self.splits[middle] = (left / (left + right) * 18_446_744_073_709_551_616.0) as u128;
            self.set_splits(low, middle);
            self.set_splits(middle, high);
        }
    }

    pub(super) fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    pub(super) fn start(&self, source: usize) -> u64 {
        self.starts[source]
    }

    pub(super) fn now(&self) -> &MixOrigin {
        &self.now
    }

    /// True if the weights give the same shares, bit for bit.
    pub(super) fn mixes_as(&self, other: &Mixture) -> bool {
        (&self.sizes, &self.splits) == (&other.sizes, &other.splits)
    }

    pub(super) fn hash(&self) -> u64 {
        let mut words = vec![self.sizes.len() as u64];
        words.extend(&self.sizes);
        words.extend(self.splits.iter().flat_map(|&split| [split as u64, (split >> 64) as u64]));
        if self.now.origin > 0 || self.now.counts.iter().any(|&count| count > 0) {
            words.push(self.now.origin);
            words.extend(&self.now.counts);
        }
        hash_words(&words)
    }

    /// The draw at place `t` of the run. The weights that applied before the origin are unknown. Places there are looked up
    /// only for padding, or after a seek back to an earlier epoch; they get the draw that the present weights would have
    /// given from the run's beginning on.
    pub(super) fn draw(&self, seed: u64, t: u64) -> SourceDraw {
        let (key, since) = (key(seed), t.checked_sub(self.now.origin));
        let (mut low, mut high, mut rank) = (0, self.sizes.len(), since.unwrap_or(t));
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            let (before, left) = self.left_before(key, middle, rank);
            if left {
                (high, rank) = (middle, before);
            } else {
                (low, rank) = (middle, rank - before);
            }
        }
        let drawn = rank.wrapping_add(since.map_or(0, |_| self.now.counts[low]));
        let size = self.sizes[low];
        SourceDraw { source: low, pass: drawn / size, place: drawn % size }
    }

    /// Draws from each source before place `t`, which is not before the origin.
    pub(super) fn counts_before(&self, seed: u64, t: u64) -> Vec<u64> {
        let (key, mut counts) = (key(seed), self.now.counts.clone());
        let mut open = vec![(0, counts.len(), t - self.now.origin)];
        while let Some((low, high, rank)) = open.pop() {
            if high - low == 1 {
                counts[low] = counts[low].wrapping_add(rank);
            } else {
                let middle = usize::midpoint(low, high);
                let (before, _) = self.left_before(key, middle, rank);
                open.extend([(low, middle, before), (middle, high, rank - before)]);
            }
        }
        counts
    }

    /// The number of a node's places before `rank` that go left, and true if place `rank` itself goes left.
    fn left_before(&self, key: u64, middle: usize, rank: u64) -> (u64, bool) {
        let whole = |t: u128| ((t * self.splits[middle]) >> 64) as u64;
        let (first, offset) = (rank - rank % BLOCK, rank % BLOCK);
        let mut before = whole(first.into());
        let mut lefts = whole(u128::from(first) + u128::from(BLOCK)) - before;
        let coins = hash_words(&[key ^ middle as u64, first]);
        let (mut node, mut half) = (1, BLOCK / 2);
        while half > 0 {
            let in_first = lefts / 2 + (lefts & coins >> node & 1);
            let second = offset & half != 0;
            (before, lefts) = if second { (before + in_first, lefts - in_first) } else { (before, in_first) };
            node = 2 * node + u64::from(second);
            half /= 2;
        }
        (before, lefts == 1)
    }
}

/// The key of all coins of a run.
fn key(seed: u64) -> u64 {
    const NAME: u64 = hash_name("mixture");
    hash_words(&[seed, NAME])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixture(weights: &[f64]) -> Mixture {
        let sources: Vec<(u64, f64)> = (5..).step_by(7).zip(weights.iter().copied()).collect();
        Mixture::new(&sources).unwrap()
    }

    /// The draws of t in order number each source's samples without a gap, and shares are exact.
    #[test]
    fn every_source_is_drawn_in_sequence_and_in_proportion() {
        for weights in [vec![1.0], vec![1.0, 1.0], vec![0.0, 3.0, 1.0], vec![0.7, 0.1, 0.05, 0.15, 1e-3], vec![1.0; 33]]
        {
            let mixture = mixture(&weights);
            let total: f64 = weights.iter().sum();
            let mut counts = vec![0; weights.len()];
            for t in 0..20_000 {
                assert!(t % 997 > 0 || mixture.counts_before(9, t) == counts);
                let draw = mixture.draw(9, t);
                assert_eq!(
                    draw.pass * mixture.sizes[draw.source] + draw.place,
                    counts[draw.source],
                    "{weights:?} at {t}"
                );
                counts[draw.source] += 1;
                for (&count, weight) in counts.iter().zip(&weights) {
                    let off = count as f64 - weight / total * (t + 1) as f64;
                    assert!(off.abs() < 12.0, "{off} off at {t} of {weights:?}");
                }
            }
            assert!(weights.iter().zip(&counts).all(|(&weight, &count)| (weight == 0.0) == (count == 0)));
        }
    }

    #[test]
    fn a_source_keeps_no_step_with_the_ranks() {
        // One to one: with plain alternation one of two ranks would get only one source.
        let mixture = mixture(&[1.0, 1.0]);
        for world in [2, 4, 64] {
            let mine = (0..10_000).filter(|slot| mixture.draw(3, slot * world).source == 0).count();
            assert!((4700..5300).contains(&mine), "{mine} of 10,000 at {world} ranks");
        }
        let (a, b): (Vec<_>, Vec<_>) = (0..500).map(|t| (mixture.draw(3, t), mixture.draw(4, t))).unzip();
        assert_ne!(a, b, "the seed matters");
    }

    #[test]
    fn far_places_cost_the_same_and_stay_exact() {
        let mixture = mixture(&[1.0, 3.0]);
        let counts = mixture.counts_before(0, 1 << 62);
        assert_eq!(counts, [1 << 60, 3 << 60]);
    }
}
