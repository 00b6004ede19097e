//! The Mersenne Twister of torch's CPU generator: only the raw 32-bit words, a block of 624 at a time.

/// Words of the state.
const WORDS: usize = 624;
/// Distance between the two words that make a new one.
const MIDDLE: usize = 397;

/// MT19937 (Matsumoto and Nishimura, 1998) seeded by `init_genrand`, as torch's CPU generator.
pub(super) struct Mt19937 {
    state: [u32; WORDS],
    /// The tempered words of `state`.
    words: [u32; WORDS],
    next: usize,
}

impl Mt19937 {
    pub(super) fn new(seed: u32) -> Mt19937 {
        let mut state = [seed; WORDS];
        for j in 1..WORDS {
            let before = state[j - 1];
            state[j] = 1_812_433_253_u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(j as u32);
        }
        Mt19937 { state, words: [0; WORDS], next: WORDS }
    }

    /// The next words, as many as `out` holds.
    pub(super) fn fill(&mut self, mut out: &mut [u32]) {
        while !out.is_empty() {
            if self.next == WORDS {
                self.regenerate();
            }
            let count = out.len().min(WORDS - self.next);
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&self.words[self.next..self.next + count]);
            self.next += count;
            out = later;
        }
    }

    /// Computes the next 624 words. A new word needs its own old one, its neighbour's, and the word 397 places on, which
    /// is a new one from word 227 on. So there are three stretches in which no word needs another of the same stretch;
    /// the compiler can vectorise each.
    fn regenerate(&mut self) {
        let old = self.state;
        let new = &mut self.state;
        let twist = |high: u32, low: u32| {
            let y = (high & 0x8000_0000) | (low & 0x7FFF_FFFF);
            (y >> 1) ^ ((y & 1).wrapping_neg() & 0x9908_B0DF)
        };
        const FIRST: usize = WORDS - MIDDLE;
        let (first, rest) = new.split_at_mut(FIRST);
        let (second, third) = rest.split_at_mut(FIRST);
        stretch(first, &old[MIDDLE..], &old, twist);
        stretch(second, first, &old[FIRST..], twist);
        let last = third.len() - 1;
        stretch(&mut third[..last], second, &old[2 * FIRST..], twist);
        third[last] = second[last] ^ twist(old[WORDS - 1], first[0]);
        for (word, &state) in self.words.iter_mut().zip(&self.state) {
            let mut y = state;
            y ^= y >> 11;
            y ^= (y << 7) & 0x9D2C_5680;
            y ^= (y << 15) & 0xEFC6_0000;
            *word = y ^ (y >> 18);
        }
        self.next = 0;
    }
}

/// new[i] = middle[i] ^ twist(old[i], old[i + 1]).
#[inline(always)]
fn stretch(new: &mut [u32], middle: &[u32], old: &[u32], twist: impl Fn(u32, u32) -> u32) {
    for (((new, &middle), &high), &low) in new.iter_mut().zip(middle).zip(old).zip(&old[1..]) {
        *new = middle ^ twist(high, low);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_c_plus_plus_standard() {
        // [rand.predef]: the 10000th word of a default-seeded (5489) std::mt19937 is 4123659995.
        let mut words = [0; 10_000];
        Mt19937::new(5489).fill(&mut words);
        assert_eq!(words[9_999], 4_123_659_995);
    }

    #[test]
    fn portions_do_not_matter() {
        let (mut whole, mut parts) = ([0; 5000], [0; 5000]);
        Mt19937::new(7).fill(&mut whole);
        let mut twister = Mt19937::new(7);
        let (mut at, mut size) = (0, 1);
        while at < parts.len() {
            let end = (at + size).min(parts.len());
            twister.fill(&mut parts[at..end]);
            (at, size) = (end, size * 3 % 1009);
        }
        assert_eq!(whole, parts);
    }
}
