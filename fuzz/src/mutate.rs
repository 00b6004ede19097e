//! Mutation of inputs: a random generator, and changes that keep enough of a file to pass the parser's first check. Knows
//! nothing of formats except the checksums that would refuse every change.

/// SplitMix64: all random choices here follow from its seed.
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    /// Seeded by a number and a word, so that no two targets draw the same numbers.
    pub fn new(seed: u64, word: &[u8]) -> Draw {
        Draw(word.iter().fold(seed ^ 0xCBF2_9CE4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
        }))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`, which is at least 1.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// The checksums that are repaired after most changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mend {
    Nothing,
    /// The CRC of every PNG chunk.
    Png,
    /// The checksum of every header of a tar.
    Tar,
}

const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
    0xFFFF_FFFF_FFFF_FFFF,
];

const IN_TEXT: [&str; 14] = [
    "0",
    "-1",
    "1",
    "255",
    "256",
    "65536",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e309",
    "nan",
    "0.1",
];

/// One to eight changes of `bytes`. `other` is another input of the target, `words` are what its files are made of.
pub fn mutate(bytes: &mut Vec<u8>, draw: &mut Draw, other: &[u8], words: &[&[u8]], mend: Mend, most_bytes: usize) {
    let mut count = 1;
    while count < 8 && draw.one_in(2) {
        count += 1;
    }
    for _ in 0..count {
        change(bytes, draw, other, words);
    }
    bytes.truncate(most_bytes);
    if !draw.one_in(4) {
        match mend {
            Mend::Nothing => {}
            Mend::Png => mend_png(bytes),
            Mend::Tar => mend_tar(bytes),
        }
    }
}

fn change(bytes: &mut Vec<u8>, draw: &mut Draw, other: &[u8], words: &[&[u8]]) {
    let len = bytes.len();
    let at = draw.below(len);
    let some =
        |draw: &mut Draw, most: usize| 1 + if draw.one_in(4) { draw.below(most) } else { draw.below(most.min(8)) };
    match draw.below(14) {
        _ if len == 0 => bytes.extend_from_slice(other),
        0 | 1 => bytes[at] ^= 1 << draw.below(8),
        2 => bytes[at] = draw.next() as u8,
        3 => bytes[at] = NUMBERS[draw.below(8)] as u8,
        4 => {
            let number = NUMBERS[draw.below(NUMBERS.len())].wrapping_add(draw.next() % 3).wrapping_sub(1);
            let width = [2, 4, 8][draw.below(3)].min(len - at);
            let is_big = draw.one_in(2);
            let (big, little) = (number.to_be_bytes(), number.to_le_bytes());
            bytes[at..at + width].copy_from_slice(if is_big { &big[8 - width..] } else { &little[..width] });
        }
        5 => {
            let end = len.min(at + some(draw, len));
            bytes.drain(at..end);
        }
        6 => {
            let count = some(draw, 64);
            let new: Vec<u8> = (0..count).map(|_| draw.next() as u8).collect();
            bytes.splice(at..at, new);
        }
        7 => {
            let (from, count) = (draw.below(len), some(draw, len));
            let part = bytes[from..len.min(from + count)].to_vec();
            bytes.splice(at..at, part);
        }
        8 => {
            let (from, count) = (draw.below(len), some(draw, len));
            let part = bytes[from..len.min(from + count)].to_vec();
            let end = len.min(at + part.len());
            bytes.splice(at..end, part);
        }
        9 => bytes.truncate(at),
        10 if !other.is_empty() => {
            let from = draw.below(other.len());
            let count = some(draw, other.len()).min(other.len() - from);
            let end = if draw.one_in(2) { at } else { len.min(at + count) };
            bytes.splice(at..end, other[from..from + count].iter().copied());
        }
        11 if !words.is_empty() => {
            let word = words[draw.below(words.len())];
            let end = if draw.one_in(2) { at } else { len.min(at + word.len()) };
            bytes.splice(at..end, word.iter().copied());
        }
        12 => {
            // A number written out, from a random place on.
            let Some(start) = (at..len).find(|at| bytes[*at].is_ascii_digit()) else { return };
            let end = (start..len).find(|at| !bytes[*at].is_ascii_digit()).unwrap_or(len);
            let number = IN_TEXT[draw.below(IN_TEXT.len())];
            bytes.splice(start..end, number.bytes());
        }
        _ => {
            // A line, twice or not at all.
            let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |before| before + 1);
            let end = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(len, |more| at + more + 1);
            let line = bytes[start..end].to_vec();
            if draw.one_in(2) {
                bytes.splice(start..start, line)
            } else {
                bytes.splice(start..end, Vec::new())
            };
        }
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & 0u32.wrapping_sub(crc & 1)))
    };
    !bytes.iter().fold(!0, step)
}

fn mend_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4).and_then(|word| <[u8; 4]>::try_from(word).ok()) {
        let end = at + 8 + u32::from_be_bytes(length) as usize;
        let Some(chunk) = bytes.get(at + 4..end) else { return };
        let crc = crc32(chunk).to_be_bytes();
        let Some(place) = bytes.get_mut(end..end + 4) else { return };
        place.copy_from_slice(&crc);
        at = end + 4;
    }
}

fn mend_tar(bytes: &mut [u8]) {
    for header in bytes.as_chunks_mut::<512>().0.iter_mut().filter(|header| &header[257..262] == b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
