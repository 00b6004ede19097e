//! Hashes of names and of sequences of numbers, for keys of random streams, fingerprints and file names. Saved runs contain
//! their values, so they must never change.

/// The finaliser of SplitMix64 (Steele et al., OOPSLA'14): a bijection in which every input bit reaches every output bit.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A 64-bit hash of a sequence of words; order matters, so no two keys coincide the way sums do.
pub fn hash_words(words: &[u64]) -> u64 {
    words.iter().fold(0x243F_6A88_85A3_08D3, |h, &w| mix(h.rotate_left(5) ^ mix(w.wrapping_add(0x9E37_79B9_7F4A_7C15))))
}

/// FNV-1a, for names; `const` so that a stage's key costs nothing at run time.
pub const fn hash_name(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut h = 0xCBF2_9CE4_8422_2325_u64;
    let mut i = 0;
    while i < bytes.len() {
        h = (h ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01B3);
        i += 1;
    }
    h
}
