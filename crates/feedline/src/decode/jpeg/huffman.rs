//! Huffman tables made for speed: one look-up gives up to two coefficients, or skips as many as fit. Owns the
//! construction of the tables and their per-thread cache; reads no bits itself.
//!
//! Codes are canonical (ITU-T T.81, annex C). A table that defines a symbol which no 8-bit baseline file needs is
//! refused, and the general decoder takes the picture.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

/// Number of bits that one look-up takes.
pub(super) const LOOK_BITS: u32 = 11;
const LOOK: usize = 1 << LOOK_BITS;

/// The `second` advance of a [`AcTable::pairs`] entry that ends the block.
pub(super) const END_OF_BLOCK: u32 = 63;
/// Most bits that an entry of [`AcTable::skips`] takes: four of them fit into the 56 bits of a full reservoir.
const MAX_SKIP_BITS: u32 = 14;
/// Marks an entry of [`AcTable::skips`] that ends the block.
pub(super) const SKIP_ENDS: u16 = 1 << 15;

/// The codes of one table, to decode from the next 16 bits.
#[derive(Debug)]
struct Codes {
    /// By length 1..=16: the first value of 16 bits that is no code of this length or shorter.
    limit: [u32; 17],
    /// By length: index of a code's symbol, less the code.
    offset: [i32; 17],
    symbols: [u8; 256],
}

/// A symbol and the length of its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Symbol {
    pub symbol: u8,
    pub code_bits: u32,
}

impl Codes {
    /// `segment`: 16 counts, then the symbols.
    fn new(segment: &[u8]) -> Option<Codes> {
        let (counts, symbols) = segment.split_at_checked(16)?;
        let mut codes = Codes { limit: [0; 17], offset: [0; 17], symbols: [0; 256] };
        codes.symbols.get_mut(..symbols.len())?.copy_from_slice(symbols);
        let (mut code, mut index) = (0_u32, 0_u32);
        for bits in 1..=16 {
            let count = u32::from(counts[bits - 1]);
            codes.offset[bits] = index as i32 - code as i32;
            code += count;
            index += count;
            // A code of only ones is not allowed: libjpeg refuses a table that has it.
            if code >= 1 << bits {
                return None;
            }
            codes.limit[bits] = code << (16 - bits);
            code <<= 1;
        }
        Some(codes)
    }

    /// The symbol whose code begins the 16 bits `next`; `None` if no code does.
    fn find(&self, next: u32) -> Option<Symbol> {
        let bits = (1..=16).find(|&bits| next < self.limit[bits])?;
        let index = (next >> (16 - bits)) as i32 + self.offset[bits];
        Some(Symbol { symbol: self.symbols[index as usize & 255], code_bits: bits as u32 })
    }

    /// For every `LOOK_BITS` bits the symbol they begin with (`code_bits` 0 where the code is longer or none).
    fn spread(&self, counts: &[u8]) -> Box<[Symbol; LOOK]> {
        let mut table = Box::new([Symbol { symbol: 0, code_bits: 0 }; LOOK]);
        let (mut at, mut index) = (0, 0);
        for (code_bits, &count) in (1..=LOOK_BITS).zip(counts) {
            let copies = LOOK >> code_bits;
            for _ in 0..count {
                table[at..at + copies].fill(Symbol { symbol: self.symbols[index], code_bits });
                at += copies;
                index += 1;
            }
        }
        table
    }
}

/// The coefficient that the top `bits` bits of `next` (64 bits) encode (T.81, figure F.12). `bits` <= 32.
#[inline(always)]
pub(super) fn extend(next: u64, bits: u32) -> i32 {
    let extra = ((next >> 1) >> (63 - bits)) as i32;
    let negative = !(next as i64) >> 63;
    extra - (((1_i64 << bits) - 1) & negative) as i32
}

/// Table of DC differences.
#[derive(Debug)]
pub(super) struct DcTable {
    codes: Codes,
    /// Bits 0..5: bits of code and extra together; 8..11: extra bits; 16..20: bits of the code. 0: a longer code.
    pub look: Box<[u32; LOOK]>,
}

impl DcTable {
    fn new(segment: &[u8]) -> Option<DcTable> {
        let codes = Codes::new(segment)?;
        if segment[16..].iter().any(|&size| size > 11) {
            return None;
        }
        let mut look = Box::new([0; LOOK]);
        for (entry, found) in look.iter_mut().zip(codes.spread(&segment[..16]).iter()) {
            if found.code_bits > 0 {
                *entry = Self::entry(*found);
            }
        }
        Some(DcTable { codes, look })
    }

    fn entry(found: Symbol) -> u32 {
        let size = u32::from(found.symbol);
        (found.code_bits + size) | size << 8 | found.code_bits << 16
    }

    /// The entry for a code of any length; 0 if there is none.
    pub fn find(&self, next_16: u32) -> u32 {
        self.codes.find(next_16).map_or(0, Self::entry)
    }
}

/// Table of AC coefficients.
#[derive(Debug)]
pub(super) struct AcTable {
    codes: Codes,
    spread: Box<[Symbol; LOOK]>,
    /// One or two coefficients with all their bits. Bits 0..5: number of bits of all; 6..11: distance from the first to
    /// the second (0: there is none, [`END_OF_BLOCK`]); 12..16: distance from the previous one to the first; 17..23 and
    /// 24..31: second and first value. Bits 0..5 are 0 if not even one fits: see [`AcTable::find`].
    pub pairs: Box<[u32; LOOK]>,
    skips: OnceCell<Box<[u16; LOOK]>>,
}

impl AcTable {
    fn new(segment: &[u8]) -> Option<AcTable> {
        let codes = Codes::new(segment)?;
        if segment[16..].iter().any(|&symbol| symbol & 15 > 10 || (symbol & 15 == 0 && !matches!(symbol, 0 | 0xF0))) {
            return None;
        }
        let spread = codes.spread(&segment[..16]);
        let mut pairs = Box::new([0; LOOK]);
        for (at, entry) in pairs.iter_mut().enumerate() {
            *entry = Self::pair(&spread, at);
        }
        Some(AcTable { codes, spread, pairs, skips: OnceCell::new() })
    }

    fn pair(spread: &[Symbol; LOOK], bits: usize) -> u32 {
        let Some((used, advance, value)) = Self::single(spread, bits) else { return 0 };
        if advance == END_OF_BLOCK {
            // A coefficient of 0 before the end of the block changes nothing.
            return used | END_OF_BLOCK << 6 | 1 << 12;
        }
        if !(-128..128).contains(&value) {
            return 0;
        }
        let first = used | advance << 12 | (value as u32) << 24;
        match Self::single(spread, (bits << used) & (LOOK - 1)) {
            Some((more, advance, value)) if used + more <= LOOK_BITS && (-64..64).contains(&value) => {
                (first + more) | advance << 6 | (value as u32 & 127) << 17
            }
            _ => first,
        }
    }

    /// Bits, advance and value of the first coefficient, if all its bits are there.
    fn single(spread: &[Symbol; LOOK], bits: usize) -> Option<(u32, u32, i32)> {
        let Symbol { symbol, code_bits } = spread[bits];
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if code_bits == 0 || code_bits + size > LOOK_BITS {
            return None;
        }
        if symbol == 0 {
            return Some((code_bits, END_OF_BLOCK, 0));
        }
        let value = extend((bits as u64).checked_shl(64 - LOOK_BITS + code_bits).unwrap_or(0), size);
        Some((code_bits + size, run + 1, value))
    }

    /// The symbol that the next 16 bits begin with.
    pub fn find(&self, next_16: u32) -> Option<Symbol> {
        let short = self.spread[(next_16 >> (16 - LOOK_BITS)) as usize & (LOOK - 1)];
        if short.code_bits > 0 { Some(short) } else { self.codes.find(next_16) }
    }

    /// As many symbols as fit, without their values. Bits 0..5: bits of all; 6..11: coefficients passed; and
    /// [`SKIP_ENDS`]. 0 if not even one fits.
    pub fn skips(&self) -> &[u16; LOOK] {
        self.skips.get_or_init(|| {
            let mut skips = Box::new([0; LOOK]);
            for (at, entry) in skips.iter_mut().enumerate() {
                *entry = self.skip(at);
            }
            skips
        })
    }

    fn skip(&self, bits: usize) -> u16 {
        let (mut used, mut passed, mut ends) = (0, 0, 0);
        while ends == 0 {
            let Symbol { symbol, code_bits } = self.spread[(bits << used) & (LOOK - 1)];
            let all = code_bits + u32::from(symbol & 15);
            // The extra bits of the last symbol may lie outside the look-up: their values are not needed.
            if code_bits == 0 || used + code_bits > LOOK_BITS || used + all > MAX_SKIP_BITS {
                break;
            }
            let more = u16::from(symbol >> 4) + 1;
            if symbol != 0 && passed + more > 63 {
                break;
            }
            used += all;
            if symbol == 0 {
                ends = SKIP_ENDS;
            } else {
                passed += more;
            }
            if used >= LOOK_BITS {
                break;
            }
        }
        used as u16 | passed << 6 | ends
    }
}

/// Tables kept per thread and kind: nearly all files use those of the standard or of their encoder.
const KEPT: usize = 8;

struct Cache<T> {
    kept: Vec<(Vec<u8>, Option<Rc<T>>)>,
    next: usize,
}

impl<T> Cache<T> {
    const fn new() -> Cache<T> {
        Cache { kept: Vec::new(), next: 0 }
    }

    fn get(&mut self, segment: &[u8], make: impl FnOnce(&[u8]) -> Option<T>) -> Option<Rc<T>> {
        if let Some((_, table)) = self.kept.iter().find(|(key, _)| key == segment) {
            return table.clone();
        }
        let table = make(segment).map(Rc::new);
        if self.kept.len() < KEPT {
            self.kept.push((segment.to_vec(), table.clone()));
        } else {
            self.kept[self.next] = (segment.to_vec(), table.clone());
            self.next = (self.next + 1) % KEPT;
        }
        table
    }
}

thread_local! {
    static DC: RefCell<Cache<DcTable>> = const { RefCell::new(Cache::new()) };
    static AC: RefCell<Cache<AcTable>> = const { RefCell::new(Cache::new()) };
}

/// The DC table of a segment (16 counts, then the symbols), built or from the cache; `None` if it is not a usual one.
pub(super) fn dc_table(segment: &[u8]) -> Option<Rc<DcTable>> {
    DC.with_borrow_mut(|cache| cache.get(segment, DcTable::new))
}

/// The AC table of a segment, likewise.
pub(super) fn ac_table(segment: &[u8]) -> Option<Rc<AcTable>> {
    AC.with_borrow_mut(|cache| cache.get(segment, AcTable::new))
}
