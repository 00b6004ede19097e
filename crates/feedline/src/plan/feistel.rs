//! A permutation that is never written down: a keyed bijection of 0..n, evaluated position by position in O(1) memory.

use crate::hash::hash_words;

const ROUNDS: u64 = 6;

/// A balanced Feistel network over the smallest even number of bits that holds 0..n (Luby and Rackoff, 1988), walked
/// along its cycles until it lands inside 0..n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): at
/// most four evaluations on average.
///
/// Below about 16 positions the orders are not equally likely: for 5, some occur 1.5 times as often as others.
/// This must stay, because saved runs must continue in the same order.
#[derive(Debug, Clone)]
pub(crate) struct Feistel {
    n: u64,
    half_bits: u32,
    keys: [u64; ROUNDS as usize],
}

impl Feistel {
    pub(crate) fn new(n: u64, key: u64) -> Feistel {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        let keys = std::array::from_fn(|round| hash_words(&[key, round as u64]));
        Feistel { n, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Replaces positions below n by the indices that stand there.
    pub(crate) fn look_up(&self, places: &mut [u64]) {
        // Interleaves many walks, one evaluation of each in turn, without a branch on the result: a single walk is a chain
        // of dependent evaluations, and its length cannot be predicted.
        const WALKS: usize = 64;
        let mut out = [0u8; WALKS];
        for places in places.chunks_mut(WALKS) {
            let mut count = 0;
            for (at, place) in (0..).zip(&mut *places) {
                *place = self.encrypt(*place);
                out[count] = at;
                count += usize::from(*place >= self.n);
            }
            while count > 0 {
                let mut still_out = 0;
                for walk in 0..count {
                    let at = out[walk];
                    let place = &mut places[usize::from(at)];
                    *place = self.encrypt(*place);
                    out[still_out] = at;
                    still_out += usize::from(*place >= self.n);
                }
                count = still_out;
            }
        }
    }

    #[inline]
    fn encrypt(&self, x: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (round(right, key) & mask));
        }
        left << self.half_bits | right
    }

    /// The position below n of an index below n: the same walk backwards.
    pub(crate) fn position(&self, index: u64) -> u64 {
        let mut x = index;
        loop {
            x = self.decrypt(x);
            if x < self.n {
                return x;
            }
        }
    }

    fn decrypt(&self, x: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys.iter().rev() {
            (left, right) = (right ^ (round(left, *key) & mask), left);
        }
        left << self.half_bits | right
    }
}

/// One multiply-xorshift round of the key is enough per Feistel round; the network does the rest.
#[inline]
fn round(half: u64, key: u64) -> u64 {
    let mut f = (half ^ key).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    f ^= f >> 32;
    f = f.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    f ^ f >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Feistel {
        /// Looks up one position by a plain walk; `look_up` must give the same.
        fn index(&self, position: u64) -> u64 {
            std::iter::successors(Some(self.encrypt(position)), |&x| Some(self.encrypt(x)))
                .find(|&x| x < self.n)
                .expect("a cycle comes back to where it began")
        }
    }

    #[test]
    fn many_at_once_are_the_same_as_one_by_one() {
        // Also just above a power of 4, where a walk needs four evaluations on average.
        for n in [1, 2, 5, 63, 64, 65, 4097, (1 << 20) + 1, 100_000_000, 1_000_000_000_000] {
            let f = Feistel::new(n, n ^ 5);
            for (count, stride) in [(1, 1), (63, 1), (64, 3), (65, n / 70), (300, n / 300)] {
                let positions: Vec<u64> = (0..count).map(|k| k * stride % n).collect();
                let mut indices = positions.clone();
                f.look_up(&mut indices);
                assert_eq!(indices, positions.iter().map(|&p| f.index(p)).collect::<Vec<_>>(), "n = {n}");
            }
        }
    }

    #[test]
    fn the_order_is_the_one_of_runs_that_were_saved() {
        // A cursor names the plan, not its order: these values must never change.
        let of = |n, key| (0..3).map(|p| Feistel::new(n, key).index(p)).collect::<Vec<_>>();
        assert_eq!(of(1_000_000_000_000, 7), [513_492_011_466, 711_435_255_267, 57_912_810_135]);
        assert_eq!(of(100_000_000, 7), [30_094_800, 24_310_159, 9_463_483]);
    }

    #[test]
    fn every_length_is_permuted() {
        for n in [1, 2, 3, 5, 8, 100, 1000, 4097] {
            let f = Feistel::new(n, n * 7);
            let mut all: Vec<u64> = (0..n).map(|p| f.index(p)).collect();
            assert!(all.iter().zip(0..).all(|(&index, p)| f.position(index) == p), "n = {n}: the way back");
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>(), "n = {n}");
        }
    }

    #[test]
    fn a_trillion_positions_cost_nothing_and_look_shuffled() {
        let n = 1_000_000_000_000;
        let (a, b) = (Feistel::new(n, 1), Feistel::new(n, 2));
        let mean = (0..2000).map(|p| a.index(p) as f64).sum::<f64>() / 2000.0;
        // The mean of 2000 uniform numbers is within 4 standard errors: 4 * n/sqrt(12*2000).
        assert!((mean / n as f64 - 0.5).abs() < 0.026, "{mean}");
        assert!((0..1000).all(|p| a.index(p) != b.index(p)));
    }

    #[test]
    fn neighbours_of_one_key_are_unrelated() {
        // Bucket the index of each position by tens: a chi-square over 10 x 10 cells of (position, index) tenths.
        let n = 10_000;
        let f = Feistel::new(n, 99);
        let mut cells = [[0f64; 10]; 10];
        for p in 0..n {
            cells[(p / 1000) as usize][(f.index(p) / 1000) as usize] += 1.0;
        }
        let chi: f64 = cells.iter().flatten().map(|c| (c - 100.0).powi(2) / 100.0).sum();
        // 81 degrees of freedom: mean 81, standard deviation 12.7.
        assert!((30.0..145.0).contains(&chi), "chi-square {chi}");
    }
}
