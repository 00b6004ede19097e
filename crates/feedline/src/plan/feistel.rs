//! A permutation that is never written down: a keyed bijection of 0..n, evaluated position by position in O(1) memory.

use super::rng::hash_words;

const ROUNDS: u64 = 6;

/// A balanced Feistel network over the smallest even number of bits that holds 0..n (Luby and Rackoff, 1988), walked
/// along its cycles until it lands inside 0..n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): at
/// most four evaluations on average.
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

    /// The index at `position`.
    ///
    /// # Panics
    /// If the position is not below n.
    pub(crate) fn index(&self, position: u64) -> u64 {
        assert!(position < self.n, "position {position} of {}", self.n);
        let mut x = position;
        loop {
            x = self.encrypt(x);
            if x < self.n {
                return x;
            }
        }
    }

    fn encrypt(&self, x: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys {
            // One multiply-xorshift round of the key is enough per Feistel round; the network does the rest.
            let mut f = (right ^ key).wrapping_mul(0xD6E8_FEB8_6659_FD93);
            f ^= f >> 32;
            f = f.wrapping_mul(0xD6E8_FEB8_6659_FD93);
            f ^= f >> 32;
            (left, right) = (right, left ^ (f & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_permuted() {
        for n in [1, 2, 3, 5, 8, 100, 1000, 4097] {
            let f = Feistel::new(n, n * 7);
            let mut all: Vec<u64> = (0..n).map(|p| f.index(p)).collect();
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
