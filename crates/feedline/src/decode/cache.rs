//! Decoded pictures kept in memory, so that a small data set stops decoding after its first epoch. Owns what is kept
//! and how much; decodes nothing itself. It changes speed only: what is kept is what decoding would give again.
#![expect(clippy::disallowed_types, reason = "samples are looked up by number, never listed")]

use crate::decode::image::{CropBox, Header, RgbImage};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

/// Keeps as many pictures as fit and never evicts: every sample is used once an epoch, so all are equally useful.
#[derive(Debug)]
pub struct DecodedCache {
    budget_bytes: u64,
    /// Shared with [`DecodedCache::sibling`]s.
    used_bytes: Arc<AtomicU64>,
    samples: RwLock<HashMap<u64, Known>>,
}

/// The entry of one sample.
#[derive(Debug)]
struct Known {
    header: Header,
    pictures: Vec<Kept>,
}

/// One picture, or part of one, at one scale.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) shrink: u32,
    /// In pixels of the shrunk picture.
    pub(crate) place: CropBox,
    pub(crate) image: Arc<RgbImage>,
}

/// Approximate size of an entry without its pixels.
const ENTRY_BYTES: u64 = 200;

impl DecodedCache {
    /// A cache of up to `budget_bytes` of pixels.
    pub fn new(budget_bytes: u64) -> DecodedCache {
        DecodedCache { budget_bytes, used_bytes: Arc::default(), samples: RwLock::default() }
    }

    /// An empty cache for other samples that draws on the same budget.
    #[must_use]
    pub fn sibling(&self) -> DecodedCache {
        DecodedCache { used_bytes: Arc::clone(&self.used_bytes), ..DecodedCache::new(self.budget_bytes) }
    }

    /// Bytes in use, siblings included; never above the budget.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Relaxed)
    }

    /// The header of a sample that has an entry.
    pub(crate) fn header(&self, index: u64) -> Option<Header> {
        let samples = self.samples.read().unwrap_or_else(PoisonError::into_inner);
        samples.get(&index).map(|known| known.header)
    }

    /// The cached picture of the sample at this scale, if it covers `part`, which is in pixels of the shrunk picture.
    pub(crate) fn find(&self, index: u64, shrink: u32, part: CropBox) -> Option<Kept> {
        let samples = self.samples.read().unwrap_or_else(PoisonError::into_inner);
        let covers = |kept: &&Kept| kept.shrink == shrink && kept.place.contains(part);
        samples.get(&index)?.pictures.iter().find(covers).cloned()
    }

    /// Reserves memory for `part`; false if it does not fit. The caller must fill it by [`DecodedCache::keep`] or give it back.
    pub(crate) fn reserve(&self, part: CropBox) -> bool {
        let bytes = cost_bytes(part);
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.budget_bytes);
        self.used_bytes.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }

    /// Gives back the reservation for `part`.
    pub(crate) fn give_back(&self, part: CropBox) {
        self.used_bytes.fetch_sub(cost_bytes(part), Relaxed);
    }

    /// Keeps a picture for which memory was reserved.
    pub(crate) fn keep(&self, index: u64, header: Header, kept: Kept) {
        let mut samples = self.samples.write().unwrap_or_else(PoisonError::into_inner);
        let known = samples.entry(index).or_insert_with(|| Known { header, pictures: Vec::with_capacity(1) });
        // Two epochs may overlap, and two workers decode the same sample at the same time.
        if known.pictures.iter().any(|other| other.shrink == kept.shrink && other.place.contains(kept.place)) {
            self.give_back(kept.place);
        } else {
            known.pictures.push(kept);
        }
    }
}

fn cost_bytes(part: CropBox) -> u64 {
    // The size that a header claims may overflow; it then saturates and does not fit.
    (u64::from(part.width_px) * u64::from(part.height_px)).saturating_mul(3).saturating_add(ENTRY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_beyond_all_memory_does_not_fit() {
        let part = CropBox { left_px: 0, top_px: 0, width_px: u32::MAX, height_px: u32::MAX };
        assert!(!DecodedCache::new(1 << 40).reserve(part));
    }
}
