//! The ledger: the samples that a loader really delivered, as an order-free digest and a compressed multiset. Owns
//! counting and its serial form; must not know the plan, so that it can prove that the plan was followed.

use crate::error::{Error, Result};
use crate::hash::{hash_words, mix};
use crate::sample::Batch;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use roaring::{RoaringBitmap, RoaringTreemap};
use serde::{Deserialize, Serialize};

/// Data sets of at most this many samples are counted in plain bits (16 MiB), which costs a nanosecond per sample;
/// larger ones in compressed sets, which costs tens.
const MAX_PLAIN: u64 = 1 << 27;

/// The samples that one rank delivered of one epoch between two calls of `take`: one line of a run's `ledger.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub rank: u64,
    /// From 0.
    pub epoch: u64,
    /// Global position in the epoch, over all ranks, at which the range begins.
    pub from: u64,
    /// Global position at which the range ends.
    pub to: u64,
    /// Samples per step on this rank.
    pub batch_size: u64,
    /// True if an incomplete last batch is dropped.
    pub drop_last: bool,
    /// Samples delivered, without padding.
    pub samples: u64,
    /// Padded positions delivered.
    pub padded: u64,
    /// [`Digest`] of the samples, 32 hexadecimal digits.
    pub digest: String,
    /// [`Counts`] of the samples: per plane the base64 of a 64-bit roaring bitmap in its portable format.
    pub planes: Vec<String>,
    /// Samples that could not be used, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<Exchange>,
}

/// A sample that could not be used, and its replacement (which may have been bad too: then it has an exchange of its
/// own).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Global position in the epoch's order.
    pub position: u64,
    pub index: u64,
    pub replaced_by: u64,
}

/// An order-free digest of a multiset of (epoch, sample) pairs: the sum modulo 2^128 of a 128-bit hash of each. Digests
/// of parts add up to the digest of the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest(pub u128);

impl Digest {
    /// Adds another digest.
    pub fn add(&mut self, other: Digest) {
        self.0 = self.0.wrapping_add(other.0);
    }

    /// Parses 32 hexadecimal digits.
    ///
    /// # Errors
    /// Anything else, in words.
    pub fn from_hex(text: &str) -> Result<Digest> {
        u128::from_str_radix(text, 16).map(Digest).map_err(|e| damaged(format!("the digest {text:?} is none: {e}")))
    }
}

/// The number of times each sample was seen: bit k of the count of sample i is set if plane k contains i. So a sample
/// that comes a million times takes twenty bits, and counts of ranks add up plane by plane.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    planes: Vec<RoaringTreemap>,
}

impl Counts {
    /// Counts sample `index` once more.
    pub fn insert(&mut self, index: u64) {
        for plane in &mut self.planes {
            if plane.insert(index) {
                return;
            }
            plane.remove(index); // 1 + 1: carry
        }
        self.planes.push(RoaringTreemap::from_iter([index]));
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Counts) {
        let (mut carry, mut at) = (RoaringTreemap::new(), 0);
        while at < other.planes.len() || !carry.is_empty() {
            if self.planes.len() == at {
                self.planes.push(RoaringTreemap::new());
            }
            let sum = &mut self.planes[at];
            let mut next = &*sum & &carry;
            *sum ^= &carry;
            if let Some(plane) = other.planes.get(at) {
                next |= &*sum & plane;
                *sum ^= plane;
            }
            (carry, at) = (next, at + 1);
        }
    }

    /// Number of times sample `index` was seen.
    pub fn count(&self, index: u64) -> u64 {
        self.planes.iter().rev().fold(0, |count, plane| count << 1 | u64::from(plane.contains(index)))
    }

    /// Number of samples that were seen (exactly once, more often).
    pub fn once_and_more(&self) -> (u64, u64) {
        let more = self.planes.iter().skip(1).fold(RoaringTreemap::new(), |more, plane| more | plane);
        (self.planes.first().map_or(0, |once| once.len() - once.intersection_len(&more)), more.len())
    }

    /// The samples whose counts differ, ascending.
    pub fn differing(&self, other: &Counts) -> RoaringTreemap {
        let empty = RoaringTreemap::new();
        let planes = 0..self.planes.len().max(other.planes.len());
        planes.fold(RoaringTreemap::new(), |differing, at| {
            let [ours, theirs] = [self, other].map(|counts| counts.planes.get(at).unwrap_or(&empty));
            differing | (ours ^ theirs)
        })
    }

    /// The largest sample that was seen.
    fn max(&self) -> Option<u64> {
        self.planes.iter().filter_map(RoaringTreemap::max).max()
    }

    /// All counts added up.
    fn total(&self) -> u128 {
        self.planes.iter().zip(0..).map(|(plane, at)| u128::from(plane.len()) << at).sum()
    }

    fn to_text(&self) -> Vec<String> {
        let text = |plane: &RoaringTreemap| {
            let mut plane = plane.clone();
            plane.optimize();
            let mut bytes = Vec::with_capacity(plane.serialized_size());
            plane.serialize_into(&mut bytes).expect("writing to memory does not fail");
            STANDARD.encode(bytes)
        };
        self.planes.iter().map(text).collect()
    }

    fn from_text(text: &[String]) -> Result<Counts> {
        let plane = |text: &String| {
            let bytes = STANDARD.decode(text).map_err(|e| damaged(format!("a set is not base64: {e}")))?;
            RoaringTreemap::deserialize_from(&bytes[..]).map_err(|e| damaged(format!("a set is no bitmap: {e}")))
        };
        if text.len() > 64 {
            return Err(damaged(format!("{} planes of counts, where 64 count everything", text.len())));
        }
        Ok(Counts { planes: text.iter().map(plane).collect::<Result<_>>()? })
    }
}

fn damaged(problem: String) -> Error {
    Error::train(problem, "The entry of the ledger is damaged")
}

/// Counts the samples of one epoch as they are delivered.
#[derive(Debug)]
pub(crate) struct Counter {
    keys: [u64; 2],
    sum: u128,
    samples: u64,
    /// Planes as in [`Counts`], plain bits; the first has room for the whole data set, unless that is large.
    plain: Vec<Vec<u64>>,
    /// Counts that do not fit there.
    rest: Counts,
}

impl Counter {
    /// A counter for `epoch`, over a data set of `len` samples (larger indices are counted too, slowly).
    pub(crate) fn new(epoch: u64, len: u64) -> Counter {
        let words = if len <= MAX_PLAIN { len.div_ceil(64) as usize } else { 0 };
        let keys = [hash_words(&[epoch, 1]), hash_words(&[epoch, 2])];
        Counter { keys, sum: 0, samples: 0, plain: vec![vec![0; words]], rest: Counts::default() }
    }

    pub(crate) fn add(&mut self, indices: &[u64]) {
        let [first, second] = self.keys;
        let mut sum = self.sum;
        let plain = &mut self.plain[0][..];
        let mut again = Vec::new(); // empty but for repetitions: costs nothing
        for &index in indices {
            let hash = [mix(index.wrapping_add(first)), mix(index.wrapping_add(second))];
            sum = sum.wrapping_add(u128::from(hash[0]) << 64 | u128::from(hash[1]));
            let (word, bit) = (usize::try_from(index / 64).unwrap_or(usize::MAX), 1 << (index % 64));
            match plain.get_mut(word) {
                Some(word) => {
                    *word ^= bit;
                    if *word & bit == 0 {
                        again.push(index);
                    }
                }
                None => self.rest.insert(index),
            }
        }
        self.sum = sum;
        self.samples += indices.len() as u64;
        again.into_iter().for_each(|index| self.carry(index));
    }

    #[cold]
    fn carry(&mut self, index: u64) {
        let (word, bit) = ((index / 64) as usize, 1 << (index % 64));
        for plane in &mut self.plain[1..] {
            plane[word] ^= bit;
            if plane[word] & bit != 0 {
                return;
            }
        }
        let mut plane = vec![0; self.plain[0].len()];
        plane[word] = bit;
        self.plain.push(plane);
    }

    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest(self.sum)
    }

    pub(crate) fn counts(&self) -> Counts {
        let plane = |words: &Vec<u64>| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            RoaringTreemap::from_bitmaps([(0, RoaringBitmap::from_lsb0_bytes(0, &bytes))])
        };
        let mut counts = Counts { planes: self.plain.iter().map(plane).collect() };
        counts.add(&self.rest);
        counts.planes.pop_if(|plane| plane.is_empty());
        counts
    }
}

impl Entry {
    /// Number of times each sample of a data set of `len` samples was delivered.
    ///
    /// # Errors
    /// A damaged entry, in words.
    pub fn counts(&self, len: u64) -> Result<Counts> {
        let counts = Counts::from_text(&self.planes)?;
        match counts.max() {
            Some(index) if index >= len => Err(damaged(format!("it counts sample {index} of {len}"))),
            _ if counts.total() != u128::from(self.samples) => {
                Err(damaged(format!("its sets hold {} samples, it says {}", counts.total(), self.samples)))
            }
            _ => Ok(counts),
        }
    }

    /// `like`, with other samples.
    #[cfg(test)]
    pub(crate) fn counted(like: &Entry, indices: &[u64]) -> Entry {
        let mut counter = Counter::new(like.epoch, 1_000);
        counter.add(indices);
        Entry {
            samples: counter.samples(),
            digest: format!("{:032x}", counter.digest().0),
            planes: counter.counts().to_text(),
            ..like.clone()
        }
    }
}

/// The samples that a loader delivered since the last [`Ledger::take`].
pub(crate) struct Ledger {
    rank: u64,
    batch_size: u64,
    drop_last: bool,
    /// Samples of the data set.
    len: u64,
    done: Vec<Entry>,
    open: Option<Stretch>,
}

/// A range of one epoch that is being counted.
struct Stretch {
    epoch: u64,
    from: u64,
    to: u64,
    padded: u64,
    counter: Counter,
    replaced: Vec<Exchange>,
}

impl Ledger {
    pub(crate) fn new(len: u64, rank: u64, batch_size: u64, drop_last: bool) -> Ledger {
        Ledger { rank, batch_size, drop_last, len, done: Vec::new(), open: None }
    }

    /// Records a batch that begins at global position `from`, when it is delivered.
    pub(crate) fn add(&mut self, batch: &Batch, from: u64) {
        let open = self.stretch(batch.epoch, from);
        let (real, padded) = batch.indices.split_at(batch.valid.min(batch.indices.len()));
        open.to = batch.next_position;
        open.padded += padded.len() as u64;
        open.counter.add(real);
        open.replaced.extend(batch.replaced.iter().map(|bad| Exchange {
            position: bad.position,
            index: bad.index,
            replaced_by: bad.replaced_by,
        }));
    }

    /// Records that `epoch` ended at global position `at`, even if no batch of it was left to deliver, so that an entry
    /// states its batch size.
    pub(crate) fn end(&mut self, epoch: u64, at: u64) {
        self.stretch(epoch, at);
    }

    /// The open range if it continues at this position, else a new one.
    fn stretch(&mut self, epoch: u64, from: u64) -> &mut Stretch {
        if self.open.as_ref().is_some_and(|open| (open.epoch, open.to) != (epoch, from)) {
            self.close();
        }
        let len = self.len;
        self.open.get_or_insert_with(|| Stretch {
            epoch,
            from,
            to: from,
            padded: 0,
            counter: Counter::new(epoch, len),
            replaced: Vec::new(),
        })
    }

    /// The entries since the last call, one for each gapless range.
    pub(crate) fn take(&mut self) -> Vec<Entry> {
        self.close();
        std::mem::take(&mut self.done)
    }

    /// Discards all entries that were not taken.
    pub(crate) fn clear(&mut self) {
        self.done.clear();
        self.open = None;
    }

    fn close(&mut self) {
        let Some(Stretch { epoch, from, to, padded, counter, replaced }) = self.open.take() else { return };
        self.done.push(Entry {
            rank: self.rank,
            epoch,
            from,
            to,
            batch_size: self.batch_size,
            drop_last: self.drop_last,
            samples: counter.samples(),
            padded,
            digest: format!("{:032x}", counter.digest().0),
            planes: counter.counts().to_text(),
            replaced,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(epoch: u64, len: u64, indices: &[u64]) -> Counter {
        let mut counter = Counter::new(epoch, len);
        counter.add(indices);
        counter
    }

    #[test]
    fn counts_are_those_of_a_naive_count_wherever_they_are_kept() {
        // Skewed: some samples come hundreds of times and many never.
        let indices: Vec<u64> = (0..5_000u64).map(|i| mix(i) % (1 + mix(i + 9) % 200_000)).collect();
        let naive = |index| indices.iter().filter(|&&i| i == index).count() as u64;
        let (mut merged, mut one_by_one) = (Counts::default(), Counts::default());
        for part in indices.chunks(700) {
            merged.add(&counted(0, 200_000, part).counts());
            part.iter().for_each(|&index| one_by_one.insert(index));
        }
        for (name, counts) in [
            ("plain", counted(0, 200_000, &indices).counts()),
            ("too large for plain", counted(0, MAX_PLAIN + 1, &indices).counts()),
            ("beyond the data set", counted(0, 1_000, &indices).counts()),
            ("merged", merged),
            ("read back", Counts::from_text(&one_by_one.to_text()).unwrap()),
        ] {
            let (mut once, mut more) = (0, 0);
            for index in 0..2_000 {
                assert_eq!(counts.count(index), naive(index), "{name}: {index}");
            }
            let mut distinct = indices.clone();
            distinct.sort_unstable();
            distinct.dedup();
            for index in distinct {
                *(if naive(index) == 1 { &mut once } else { &mut more }) += 1;
            }
            assert_eq!(counts.once_and_more(), (once, more), "{name}");
            assert_eq!(counts.differing(&one_by_one).len(), 0, "{name}");
            let mut other = counts.clone();
            other.insert(7);
            other.insert(70_000);
            assert_eq!(counts.differing(&other).into_iter().collect::<Vec<_>>(), [7, 70_000], "{name}");
        }
    }

    #[test]
    fn the_digest_knows_no_order_and_sees_every_exchange() {
        let digest = |epoch, indices: &[u64]| counted(epoch, 1_000, indices).digest();
        assert_eq!(digest(3, &[1, 2, 3, 2]), digest(3, &[2, 2, 3, 1]));
        let mut sum = digest(3, &[1, 2]);
        sum.add(digest(3, &[3, 2]));
        assert_eq!(sum, digest(3, &[1, 2, 3, 2]));
        // Exchanges that keep the number, the sum and the exclusive or of the indices.
        assert_ne!(digest(0, &[0, 3, 5, 6]), digest(0, &[1, 2, 4, 7]));
        assert_ne!(digest(0, &[0, 3]), digest(0, &[1, 2]));
        assert_ne!(digest(0, &[1, 1, 2]), digest(0, &[1, 2, 2]));
        assert_ne!(digest(0, &[1, 2]), digest(1, &[1, 2]));
        assert_eq!(Digest::from_hex("000000000000000000000000000000ff").unwrap(), Digest(255));
    }

    #[test]
    fn a_damaged_entry_is_refused_in_words() {
        let good = counted(0, 100, &[1, 2, 70]).counts().to_text();
        for text in ["=".to_string(), STANDARD.encode([1, 0, 0]), STANDARD.encode([255; 40]), good[0][..8].into()] {
            let error = Counts::from_text(&[text]).unwrap_err().to_string();
            assert!(error.contains("ledger is damaged"), "{error}");
        }
        assert!(Counts::from_text(&vec![good[0].clone(); 65]).is_err());
        assert!(Digest::from_hex("xyz").is_err());
    }
}
