//! Batches of samples of about the same length: a permutation of an epoch's positions inside windows, which reduces
//! padding. Knows nothing of how the positions got their samples.

use super::rng::SampleRng;
use crate::error::{Error, Result};
use crate::hash::hash_words;
use std::sync::Arc;

/// Lengths of the samples, and the sizes of windows and chunks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Buckets {
    lengths: Arc<[u32]>,
    pub(super) window: u64,
    chunk: u64,
    pub(super) hash: u64,
}

impl Buckets {
    /// # Errors
    /// A chunk of 0, or a window that is no multiple of it or above 2^31.
    pub(super) fn new(lengths: Arc<[u32]>, window: u64, chunk: u64) -> Result<Buckets> {
        if chunk == 0 || window == 0 || !window.is_multiple_of(chunk) || window > 1 << 31 {
            return Err(Error::config(
                format!("buckets of {chunk} samples in windows of {window}"),
                "The window must be a multiple of the bucket (the samples of a step on all ranks), and at most 2^31",
            ));
        }
        let hash = lengths.iter().fold(hash_words(&[window, chunk]), |hash, &len| hash_words(&[hash, len.into()]));
        Ok(Buckets { lengths, window, chunk, hash })
    }

    /// Reorders window `number` of an epoch: sorts it by length (stable), cuts it into chunks, and puts these in a keyed
    /// order. A chunk that is not full stays last. It is taken from a keyed place of the sorted list, so that an epoch's
    /// end does not always leave out the longest samples.
    pub(super) fn arrange<T: Copy>(&self, window: &mut Vec<T>, index: impl Fn(&T) -> u64, key: (u64, u64, u64)) {
        let (seed, epoch, number) = key;
        let mut rng = SampleRng::new(seed, epoch, number, "buckets");
        window.sort_by_key(|entry| self.lengths[index(entry) as usize]);
        let (chunk, full) = (self.chunk as usize, window.len() / self.chunk as usize);
        let short = window.len() % chunk;
        let short_at = rng.below(full as u64 + 1) as usize;
        let mut chunks: Vec<usize> = (0..full).collect();
        for last in (1..full).rev() {
            chunks.swap(last, rng.below(last as u64 + 1) as usize);
        }
        let starts = chunks.into_iter().map(|at| at * chunk + if at >= short_at { short } else { 0 });
        let ranges =
            starts.map(|start| start..start + chunk).chain(std::iter::once(short_at * chunk..short_at * chunk + short));
        *window = ranges.flat_map(|range| window[range].iter().copied()).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_permuted_into_chunks_of_neighbours() {
        let lengths: Arc<[u32]> = (0..1000).map(|i| (i * 7919) % 1009).collect();
        let buckets = Buckets::new(Arc::clone(&lengths), 120, 12).unwrap();
        for len in [1, 11, 12, 13, 119, 120] {
            let mut window: Vec<u64> = (0..len).map(|i| (i * 31) % 1000).collect();
            let mut sorted: Vec<u32> = window.iter().map(|&i| lengths[i as usize]).collect();
            sorted.sort_unstable();
            buckets.arrange(&mut window, |&i| i, (1, 2, len));
            let mut mine: Vec<u32> = window.iter().map(|&i| lengths[i as usize]).collect();
            for chunk in mine.chunks(12) {
                let first = sorted.iter().position(|l| l == &chunk[0]).unwrap();
                assert_eq!(sorted[first..first + chunk.len()], *chunk, "{len}");
            }
            mine.sort_unstable();
            assert_eq!(mine, sorted);
        }
        for (window, chunk) in [(10, 0), (0, 1), (10, 3), (1 << 32, 1)] {
            assert!(Buckets::new(Arc::clone(&lengths), window, chunk).is_err());
        }
    }
}
