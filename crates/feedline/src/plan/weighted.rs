//! Drawing with replacement, by weights: the alias method with a keyed draw per place, so that no state is carried.
//! Knows nothing of epochs and ranks.

use super::rng::philox4x32_10;
use crate::error::{Error, Result};
use crate::hash::{hash_name, hash_words};

/// A table from which an index is drawn in two reads (Vose, "A linear algorithm for generating random numbers with a
/// given distribution", 1991); 12 bytes an index.
#[derive(Debug, PartialEq)]
pub(super) struct AliasTable {
    /// Number of a column's 2^64 tickets that belong to its own index.
    own: Box<[u64]>,
    /// The index that a column's other tickets belong to.
    other: Box<[u32]>,
    pub(super) hash: u64,
    /// The weights as they follow each other, each with the number of indices that have it in a row; `None` if there are more than
    /// [`MOST_RUNS`], or more than [`MOST_DESCRIBED`] indices: then they are data and no description.
    pub(super) runs: Option<Vec<(u64, f64)>>,
}

/// The changes of weight that a description holds: about a megabyte of JSON.
pub(super) const MOST_RUNS: usize = 1 << 16;

/// The indices whose weights a description holds, so that one that is damaged takes no memory without end.
pub(super) const MOST_DESCRIBED: u64 = 1 << 24;

/// Weights that follow each other, as numbers of indices that have the same one.
fn runs(weights: &[f64]) -> Option<Vec<(u64, f64)>> {
    if weights.len() as u64 > MOST_DESCRIBED {
        return None;
    }
    let mut runs: Vec<(u64, f64)> = Vec::new();
    for &weight in weights {
        let count = runs.len();
        match runs.last_mut() {
            Some((indices, last)) if last.to_bits() == weight.to_bits() => *indices += 1,
            _ if count == MOST_RUNS => return None,
            _ => runs.push((1, weight)),
        }
    }
    Some(runs)
}

/// The sum of the weights, after checking that one can draw by them.
///
/// # Errors
/// A weight that is negative or not finite, or a sum that is 0 or not finite.
pub(super) fn sum(weights: impl Iterator<Item = f64>) -> Result<f64> {
    let mut sum = 0.0;
    for (at, weight) in weights.enumerate() {
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(Error::config(format!("weight {at} is {weight}"), "Weights must be finite and at least 0"));
        }
        sum += weight;
    }
    if !(f64::MIN_POSITIVE..f64::INFINITY).contains(&sum) {
        return Err(Error::config(format!("the weights sum to {sum}"), "At least one of them must be above 0"));
    }
    Ok(sum)
}

impl AliasTable {
    /// The table of `weights`, in time linear in their number.
    ///
    /// # Errors
    /// As [`sum`], or more than 2^32 weights.
    pub(super) fn new(weights: &[f64]) -> Result<AliasTable> {
        let n = weights.len();
        if n as u64 > 1 << 32 {
            return Err(Error::config(format!("{n} weights"), "At most 2^32 samples can be drawn by weight"));
        }
        let total = sum(weights.iter().copied())?;
        // In units of a column's height: 1 on average.
        let mut height: Vec<f64> = weights.iter().map(|weight| weight / total * n as f64).collect();
        let (mut low, mut high): (Vec<u32>, Vec<u32>) =
            (0..n as u64).map(|i| i as u32).partition(|&i| height[i as usize] < 1.0);
        let mut own = vec![u64::MAX; n].into_boxed_slice();
        let mut other: Box<[u32]> = (0..n as u64).map(|i| i as u32).collect();
        let heaviest = (0..n).max_by(|&a, &b| weights[a].total_cmp(&weights[b])).unwrap_or(0) as u32;
        while let Some(small) = low.pop() {
            let at = small as usize;
            // Rounding may leave a low column without a high one. It counts as full, unless its weight is 0.
            let Some(&large) = high.last() else {
                if weights[at] == 0.0 {
                    (own[at], other[at]) = (0, heaviest);
                }
                continue;
            };
            own[at] = (height[at] * 18_446_744_073_709_551_616.0) as u64;
            other[at] = large;
            height[large as usize] -= 1.0 - height[at];
            if height[large as usize] < 1.0 {
                high.pop();
                low.push(large);
            }
        }
        let hash = weights.iter().fold(n as u64, |hash, weight| hash_words(&[hash, weight.to_bits()]));
        Ok(AliasTable { own, other, hash, runs: runs(weights) })
    }

    /// The index drawn at `place` of the run seeded `seed`.
    pub(super) fn draw(&self, seed: u64, place: u64) -> u64 {
        const NAME: u64 = hash_name("weighted");
        let key = hash_words(&[seed, NAME]);
        let counter = [place as u32, (place >> 32) as u32, 0, 0];
        let [a, b, c, d] = philox4x32_10(counter, [key as u32, (key >> 32) as u32]);
        let (column, ticket) = (u64::from(a) << 32 | u64::from(b), u64::from(c) << 32 | u64::from(d));
        // Biased by at most n / 2^64, which is below 2^-32.
        let column = (u128::from(column) * self.own.len() as u128) >> 64;
        if ticket < self.own[column as usize] { column as u64 } else { self.other[column as usize].into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::rng::SampleRng;

    #[test]
    fn indices_come_as_often_as_they_weigh() {
        let mut rng = SampleRng::new(4, 0, 0, "weights");
        for n in [1, 2, 3, 10, 64] {
            let weights: Vec<f64> =
                (0..n).map(|i| if i % 4 == 3 { 0.0 } else { rng.unit() * f64::from(i + 1) }).collect();
            let table = AliasTable::new(&weights).unwrap();
            let (total, draws) = (weights.iter().sum::<f64>(), 200_000_u64);
            let mut counts = vec![0u64; weights.len()];
            (0..draws).for_each(|t| counts[table.draw(n as u64, t) as usize] += 1);
            let (mut chi, mut freedom) = (0.0, -1.0);
            for (&count, weight) in counts.iter().zip(&weights) {
                let expect = weight / total * draws as f64;
                if expect == 0.0 {
                    assert_eq!(count, 0);
                } else {
                    chi += (count as f64 - expect).powi(2) / expect;
                    freedom += 1.0;
                }
            }
            // Mean `freedom`, variance twice that; small expectations only widen it.
            assert!(chi < freedom + 5.0 * (2.0 * f64::max(freedom, 1.0)).sqrt(), "n = {n}: chi-square {chi}");
        }
    }

    #[test]
    fn draws_follow_no_pattern_and_the_seed_matters() {
        let table = AliasTable::new(&[1.0; 16]).unwrap();
        // Pairs of neighbours: 256 cells of 100.
        let mut cells = [0f64; 256];
        (0..25_600).for_each(|t| cells[(table.draw(1, 2 * t) * 16 + table.draw(1, 2 * t + 1)) as usize] += 1.0);
        let chi: f64 = cells.iter().map(|c| (c - 100.0).powi(2) / 100.0).sum();
        assert!((150.0..370.0).contains(&chi), "chi-square {chi} at 255 degrees of freedom");
        let same = (0..1600).filter(|&t| table.draw(1, t) == table.draw(2, t)).count();
        assert!((50..160).contains(&same), "{same} of 1600 equal, 100 expected");
    }

    #[test]
    fn nothing_is_drawn_that_weighs_nothing_whatever_the_rounding() {
        let mut weights = vec![0.1; 1000];
        (0..1000).step_by(3).for_each(|i| weights[i] = 0.0);
        let table = AliasTable::new(&weights).unwrap();
        let reachable = (0..1000).flat_map(|i| {
            [(table.own[i] > 0).then_some(i), (table.own[i] < u64::MAX).then_some(table.other[i] as usize)]
        });
        assert!(reachable.flatten().all(|i| weights[i] > 0.0));
        for bad in [vec![], vec![0.0, 0.0], vec![1.0, -1.0], vec![f64::NAN], vec![f64::INFINITY], vec![f64::MAX; 2]] {
            assert!(AliasTable::new(&bad).is_err(), "{bad:?}");
        }
    }
}
