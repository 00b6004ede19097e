//! The entropy-coded bits: a 64-bit reservoir, and the decoding or skipping of one block. Strict: bits that a
//! valid file does not have mark the block, or the segment, as damaged. Knows nothing of a block's position.

use super::huffman::{AcTable, DcTable, END_OF_BLOCK, LOOK_BITS, SKIP_ENDS, extend};

/// Coefficients of two blocks, which the IDCT dequantises: row by row, 8 of the first block and 8 of the second. The
/// places after these 128 take coefficients that are discarded.
pub(super) type BlockPair = [i16; 256];

/// Position in a [`BlockPair`] of the coefficient with a zigzag index; indices above 63 map to the discarded places.
static PLACE: [u8; 256] = {
    let mut place = [128_u8; 256];
    let (mut row, mut column, mut at) = (0_i32, 0_i32, 0);
    let mut up = true;
    while at < 64 {
        place[at] = (row * 16 + column) as u8;
        let (dr, dc) = if up { (-1, 1) } else { (1, -1) };
        if column + dc > 7 {
            row += 1;
            up = false;
        } else if row + dr > 7 {
            column += 1;
            up = true;
        } else if row + dr < 0 {
            column += 1;
            up = false;
        } else if column + dc < 0 {
            row += 1;
            up = true;
        } else {
            row += dr;
            column += dc;
        }
        at += 1;
    }
    place
};

/// The zigzag order, as (row * 8 + column).
pub(super) fn natural(zigzag: usize) -> usize {
    let place = usize::from(PLACE[zigzag & 63]);
    place / 16 * 8 + place % 16
}

/// The bits of a scan. Copied into the functions that use it and back, so that it can live in registers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// Beginning of `data`, up to the next 0xFF at or after `at`.
    clean: &'a [u8],
    at: usize,
    /// The next bit is the highest one.
    reservoir: u64,
    /// Number of valid bits in the reservoir.
    count: u32,
    /// Number of zeros that were added at the end of a segment: the last bits of the reservoir.
    made_up: u32,
}

/// The result of decoding a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// Upper bound of the zigzag index of the last coefficient that is not 0; above 63: the block is damaged.
    pub last: u32,
}

impl Block {
    const DAMAGED: u32 = 255;

    pub fn is_damaged(self) -> bool {
        self.last > 63
    }
}

impl<'a> Bits<'a> {
    /// Starts at the beginning of a scan's data.
    pub fn new(data: &'a [u8]) -> Bits<'a> {
        let mut bits = Bits { data, clean: data, at: 0, reservoir: 0, count: 0, made_up: 0 };
        bits.find_clean();
        bits
    }

    fn find_clean(&mut self) {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let mut end = self.at;
        for chunk in rest.chunks(32) {
            let whole = <&[u8; 32]>::try_from(chunk);
            if whole.is_ok_and(|chunk| !chunk.iter().fold(false, |any, &b| any | (b == 0xFF))) {
                end += 32;
                continue;
            }
            end += chunk.iter().position(|&b| b == 0xFF).unwrap_or(chunk.len());
            if end < self.data.len() && self.data[end] == 0xFF {
                break;
            }
        }
        self.clean = &self.data[..end.min(self.data.len())];
    }

    /// Fills the reservoir to at least 56 valid bits.
    #[inline(always)]
    fn refill(&mut self) {
        match self.clean.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            Some(next) => {
                self.reservoir |= u64::from_be_bytes(*next) >> self.count;
                self.at += ((63 - self.count) >> 3) as usize;
                self.count |= 56;
            }
            None => *self = self.refilled_slowly(),
        }
    }

    #[cold]
    #[inline(never)]
    fn refilled_slowly(mut self) -> Bits<'a> {
        while self.count < 56 {
            let byte = match self.data.get(self.at) {
                Some(0xFF) if self.data.get(self.at + 1) == Some(&0) => {
                    self.at += 2;
                    self.find_clean();
                    0xFF
                }
                Some(&byte) if byte != 0xFF => {
                    self.at += 1;
                    byte
                }
                _ => {
                    self.made_up += 8;
                    0
                }
            };
            self.reservoir |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        self
    }

    #[inline(always)]
    fn take(&mut self, bits: u32) {
        self.reservoir <<= bits & 63;
        self.count = self.count.wrapping_sub(bits & 63);
    }

    #[inline(always)]
    fn look(&self) -> usize {
        (self.reservoir >> (64 - LOOK_BITS)) as usize
    }

    /// True if more bits were read than the segment has.
    pub fn overdrawn(&self) -> bool {
        self.count < self.made_up
    }

    /// True if the segment ends here: less than a byte is left before a marker or the end.
    pub fn at_end_of_segment(&self) -> bool {
        let left = self.count.wrapping_sub(self.made_up);
        let stopped = match self.data.get(self.at..) {
            Some([0xFF, next, ..]) => *next != 0 && *next != 0xFF,
            Some([0xFF]) => false,
            Some([_, ..]) => false,
            _ => true,
        };
        !self.overdrawn() && left < 8 && stopped
    }

    /// True if the scan ends here. If a restart marker follows, the scan has more data than blocks.
    pub fn at_end_of_scan(&self) -> bool {
        let next = self.data.get(self.at..).unwrap_or_default();
        self.at_end_of_segment() && !matches!(next, [0xFF, 0xD0..=0xD7, ..])
    }

    /// Skips the restart marker `number` (mod 8); `None` if it is not here.
    pub fn restart(&mut self, number: usize) -> Option<()> {
        let marker = [0xFF, 0xD0 | (number & 7) as u8];
        if !self.at_end_of_segment() || !self.data[self.at..].starts_with(&marker) {
            return None;
        }
        *self = Bits { data: self.data, clean: self.data, at: self.at + 2, reservoir: 0, count: 0, made_up: 0 };
        self.find_clean();
        Some(())
    }

    /// The next DC difference; `None` for a code that the table lacks.
    #[inline(always)]
    fn dc(&mut self, table: &DcTable) -> Option<i32> {
        self.refill();
        let mut entry = table.look[self.look()];
        if entry == 0 {
            entry = table.find((self.reservoir >> 48) as u32);
            if entry == 0 {
                return None;
            }
        }
        let value = extend(self.reservoir << (entry >> 16), entry >> 8 & 15);
        self.take(entry);
        Some(value)
    }

    /// Decodes one coefficient with a code of any length; returns its distance from the last one, and its value.
    #[cold]
    #[inline(never)]
    fn coefficient(mut self, table: &AcTable) -> (Bits<'a>, u32, i32) {
        self.refill();
        let Some(found) = table.find((self.reservoir >> 48) as u32) else { return (self, Block::DAMAGED, 0) };
        let (run, size) = (u32::from(found.symbol >> 4), u32::from(found.symbol & 15));
        let value = extend(self.reservoir << found.code_bits, size);
        self.take(found.code_bits + size);
        let advance = if found.symbol == 0 { END_OF_BLOCK } else { run + 1 };
        (self, advance, value)
    }

    /// Decodes a block into `pair`, which is 0 there; `lane` 0 or 8 is the first or the second block.
    #[inline(always)]
    pub fn block(&mut self, dc: &DcTable, ac: &AcTable, last_dc: &mut i32, pair: &mut BlockPair, lane: u8) -> Block {
        let mut bits = *self;
        let mut last = 0_u32;
        let Some(difference) = bits.dc(dc) else { return Block { last: Block::DAMAGED } };
        *last_dc = last_dc.wrapping_add(difference);
        pair[usize::from(lane)] = *last_dc as i16;
        let mut put = |index: u32, value: i32| {
            pair[usize::from(PLACE[usize::from(index as u8)].wrapping_add(lane))] = value as i16;
        };
        'refill: loop {
            bits.refill();
            // Five times 11 bits.
            for _ in 0..5 {
                let entry = ac.pairs[bits.look()];
                if entry & 63 != 0 {
                    let first = last + (entry >> 12 & 31);
                    let more = entry >> 6 & 63;
                    let second = first + more;
                    put(second, (entry << 8) as i32 >> 25);
                    put(first, entry as i32 >> 24);
                    if second < 63 {
                        bits.take(entry);
                        last = second;
                        continue;
                    }
                    if first < 63 && (more == END_OF_BLOCK || second == 63) || (first == 63 && more == 0) {
                        bits.take(entry);
                        *self = bits;
                        // An end of block without a coefficient before it counts as a coefficient of 0.
                        let ended_at = if entry >> 24 == 0 { first - 1 } else { first };
                        return Block { last: if more == END_OF_BLOCK { ended_at } else { 63 } };
                    }
                    // The block is full after the first coefficient, or overfull: decodes the rest one by one.
                }
                let (after, advance, value) = bits.coefficient(ac);
                bits = after;
                if advance == END_OF_BLOCK {
                    *self = bits;
                    return Block { last };
                }
                last += advance;
                put(last, value);
                if last >= 63 {
                    *self = bits;
                    return Block { last };
                }
                continue 'refill;
            }
        }
    }

    /// Skips a block: only its DC coefficient is decoded, into `last_dc`.
    #[inline(always)]
    pub fn skip_block(
        &mut self,
        dc: &DcTable,
        ac: &AcTable,
        skips: &[u16; 1 << LOOK_BITS],
        last_dc: &mut i32,
    ) -> Block {
        let mut bits = *self;
        let mut last = 0_u32;
        let Some(difference) = bits.dc(dc) else { return Block { last: Block::DAMAGED } };
        *last_dc = last_dc.wrapping_add(difference);
        'refill: loop {
            bits.refill();
            for _ in 0..4 {
                let entry = skips[bits.look()];
                let then = last + u32::from(entry >> 6 & 63);
                // The entry is 0 if not even one symbol fits.
                if entry != 0 && then < 63 {
                    bits.take(entry.into());
                    last = then;
                    if entry & SKIP_ENDS != 0 {
                        *self = bits;
                        return Block { last };
                    }
                    continue;
                }
                let (after, advance, _) = bits.coefficient(ac);
                bits = after;
                if advance == END_OF_BLOCK {
                    *self = bits;
                    return Block { last };
                }
                last += advance;
                if last >= 63 {
                    *self = bits;
                    return Block { last };
                }
                continue 'refill;
            }
        }
    }
}
