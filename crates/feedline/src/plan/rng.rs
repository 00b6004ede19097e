//! Randomness of a sample: a counter-based generator keyed by a hash of (run seed, pass, sample id, stage name).
//! No state outlives a sample, so worker count, order of work and restarts cannot change what is drawn.

pub use crate::hash::{hash_name, hash_words};

/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11): the block of four words at
/// `counter` under `key`.
pub(super) fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for round in 0..10 {
        if round > 0 {
            k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
        }
        let p0 = 0xD251_1F53_u64 * u64::from(c[0]);
        let p1 = 0xCD9E_8D57_u64 * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
    }
    c
}

/// The random stream of one stage of one sample in one epoch.
#[derive(Debug, Clone)]
pub struct SampleRng {
    key: [u32; 2],
    /// High half of the counter: a second hash of the same words, so that the stream is picked by 128 bits.
    stream: u64,
    block: u64,
    words: [u32; 4],
    used: usize,
}

impl SampleRng {
    /// The stream of `stage` for sample `sample` of `epoch` in a run seeded `seed`.
    pub fn new(seed: u64, epoch: u64, sample: u64, stage: &str) -> SampleRng {
        let key = hash_words(&[seed, epoch, sample, hash_name(stage)]);
        let stream = hash_words(&[key, hash_name(stage), sample, epoch, seed]);
        SampleRng { key: [key as u32, (key >> 32) as u32], stream, block: 0, words: [0; 4], used: 4 }
    }

    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            let counter =
                [self.block as u32, (self.block >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32];
            self.words = philox4x32_10(counter, self.key);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in 0..n, without bias (Lemire, "Fast random integer generation in an interval", 2019).
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "no number is below 0");
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(n);
            if (wide as u64) >= n.wrapping_neg() % n {
                return (wide >> 64) as u64;
            }
        }
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// A standard normal number (Box and Muller's transform).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known-answer vectors of the Random123 distribution (kat_vectors).
    #[test]
    fn philox_gives_the_published_vectors() {
        let f = u32::MAX;
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([f; 4], [f; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox4x32_10(pi, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn neighbouring_keys_give_unrelated_streams() {
        let first = |seed, epoch, sample, stage: &str| SampleRng::new(seed, epoch, sample, stage).next_u64();
        // A sum of seed and epoch would make the first pair equal.
        let mut seen = std::collections::HashSet::new();
        for (seed, epoch) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
            for sample in 0..50 {
                for stage in ["crop", "flip"] {
                    assert!(seen.insert(first(seed, epoch, sample, stage)));
                }
            }
        }
    }

    #[test]
    fn uniform_numbers_have_the_right_moments() {
        let mut rng = SampleRng::new(7, 0, 0, "moments");
        let n = 40_000;
        let (mut sum, mut squares, mut normal, mut normal_squares) = (0.0, 0.0, 0.0, 0.0);
        let mut counts = [0u32; 7];
        for _ in 0..n {
            let u = rng.unit();
            sum += u;
            squares += u * u;
            let z = rng.normal();
            normal += z;
            normal_squares += z * z;
            counts[rng.below(7) as usize] += 1;
        }
        let n = f64::from(n);
        assert!((sum / n - 0.5).abs() < 0.006, "mean {}", sum / n);
        assert!((squares / n - 1.0 / 3.0).abs() < 0.006);
        assert!((normal / n).abs() < 0.02 && (normal_squares / n - 1.0).abs() < 0.03);
        for count in counts {
            assert!((f64::from(count) - n / 7.0).abs() < 5.0 * (n / 7.0).sqrt(), "{counts:?}");
        }
    }
}
