//! All marker segments of a JPEG of any kind: the frame, its scans, the tables of each scan, and the bytes to leave out for
//! the general decoder, because it takes for damage what libjpeg skips. Decodes no coefficient. Refuses files that libjpeg
//! refuses, and scans that are too short for their blocks, before anything is allocated for them.

use super::header::{huffman_tables, quant_tables};
use crate::decode::fault::{Fault, no_memory};
use std::borrow::Cow;
use std::ops::Range;

/// Files with more scans are left to the general decoder, which has a limit of its own.
pub(super) const MAX_SCANS: usize = 500;

/// The start-of-frame marker of progressive files with arithmetic codes.
pub(super) const ARITHMETIC_PROGRESSIVE: u8 = 0xCA;

/// A component of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Component {
    pub id: u8,
    /// Sampling factors: columns, rows.
    pub factors: (usize, usize),
    /// Number of its quantisation table.
    pub quant: usize,
}

/// The tables in force at the start of a scan; the Huffman tables (DC, AC) are the segment's bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tables<'a> {
    pub quants: [Option<&'a [u8; 64]>; 4],
    pub huffs: [[Option<&'a [u8]>; 4]; 2],
    pub restart_interval: usize,
}

/// A component in a scan: its index in the frame, its DC table, its AC table.
pub(super) type Selector = (usize, usize, usize);

#[derive(Debug, Clone)]
pub(super) struct Scan<'a> {
    pub components: Vec<Selector>,
    /// First coefficient, last coefficient, and the two numbers of successive approximation.
    pub spectrum: [u8; 3],
    pub tables: Tables<'a>,
    /// The scan's bytes up to the next marker.
    pub data: &'a [u8],
}

#[derive(Debug, Clone)]
pub(super) struct Survey<'a> {
    /// The start-of-frame marker.
    pub kind: u8,
    pub width_px: usize,
    pub height_px: usize,
    pub components: Vec<Component>,
    pub scans: Vec<Scan<'a>>,
    /// Counts, for each coefficient of each component of a progressive file, the low bits that its scans have not given yet
    /// (`None`: no scan has begun it).
    bits_left: [[Option<u8>; 64]; 4],
    /// True if the quantisation steps of a component change, or may change, after its first scan. libjpeg keeps the first.
    steps_change: bool,
    /// Bytes that libjpeg skips and the general decoder does not, in the order of the file: markers without a segment before
    /// the first scan, and fill bytes 0xFF before a marker in a scan.
    cuts: Vec<Range<usize>>,
    /// Positions of length fields below 2, which do not count themselves; libjpeg accepts them for empty segments.
    lengths: Vec<usize>,
}

/// Reads all markers that a decoder reads, or only those up to the first scan. `None` leaves the file to the general
/// decoder.
///
/// # Errors
/// Faults that libjpeg refuses too and the general decoder does not detect.
pub(super) fn survey(bytes: &[u8], whole: bool) -> Result<Option<Survey<'_>>, String> {
    let mut found = Survey {
        kind: 0,
        width_px: 0,
        height_px: 0,
        components: vec![],
        scans: vec![],
        bits_left: [[None; 64]; 4],
        steps_change: false,
        cuts: vec![],
        lengths: vec![],
    };
    let mut tables = Tables::default();
    let mut at = 2;
    let damaged = |what: &str| Err(format!("damaged JPEG: {what}"));
    // A file may end after its last scan, without an end marker.
    while let Some(start) = next_marker(bytes, at) {
        let marker = bytes[start + 1];
        at = start + 2;
        match marker {
            // After a scan it must not be cut out: the bytes behind it would then continue the scan's data.
            0x01 | 0xD0..=0xD7 if found.scans.is_empty() => {
                found.cuts.push(start..at);
                continue;
            }
            0x01 | 0xD0..=0xD7 => return damaged(&format!("a marker (0x{marker:02x}) stands between its scans")),
            0xD8 => return damaged("it begins twice"),
            0xD9 if found.scans.is_empty() => return damaged("it ends without a scan"),
            0xD9 => break,
            0x02..=0xBF | 0xC8 | 0xDE | 0xDF | 0xF0..=0xFD => {
                return damaged(&format!("it has a segment of an unknown kind (0x{marker:02x})"));
            }
            _ => {}
        }
        let Some(length) = bytes.get(at..at + 2) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        if length < 2 {
            // libjpeg takes the length field alone for an empty segment, in segments that it skips.
            if !matches!(marker, 0xE0..=0xEF | 0xFE) {
                return damaged("a segment's length is below 2");
            }
            found.lengths.push(at);
            at += 2;
            continue;
        }
        let Some(body) = bytes.get(at + 2..at + length) else { return Ok(None) };
        at += length;
        let is_sound = match marker {
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                if found.kind != 0 {
                    return damaged("it has two frames");
                }
                found.frame(marker, body)
            }
            0xC4 => huffman_tables(body, &mut tables.huffs).is_some(),
            0xDB => {
                let is_understood = quant_tables(body, &mut tables.quants).is_some();
                // Steps of two bytes are left to the general decoder.
                found.steps_change |= !is_understood && !found.scans.is_empty();
                is_understood || has_wide_steps(body)
            }
            0xDD => {
                tables.restart_interval = body.first_chunk().map_or(0, |two| u16::from_be_bytes(*two).into());
                body.len() == 2
            }
            _ => true,
        };
        if !is_sound {
            return damaged(&format!("a segment (0x{marker:02x}) has another length than what is in it"));
        }
        if marker == 0xDA {
            if found.kind == 0 || found.scans.len() == MAX_SCANS {
                return Ok(None);
            }
            let (end, in_order, alone) = end_of_scan(bytes, at, &mut found.cuts);
            let Some((components, spectrum)) = found.selectors(body) else {
                return damaged("a scan's header does not fit the frame");
            };
            let scan = Scan { components, spectrum, tables, data: &bytes[at..end] };
            // libjpeg-turbo decodes such a block twice, and keeps part of the first result.
            if !alone {
                return damaged("in its data 0xff stands twice in front of a zero");
            }
            if tables.restart_interval > 0 && !in_order {
                return damaged("its restart markers are not in order");
            }
            found.check_scan(&scan)?;
            found.follow(&scan)?;
            let is_all = found.is_sequential() && scan.components.len() == found.components.len();
            found.scans.push(scan);
            at = end;
            if !whole || is_all {
                break;
            }
        }
    }
    found.steps_change |= found.has_other_steps(&tables);
    if found.steps_change && !found.is_sequential() {
        return Err("unsupported kind of JPEG: its quantisation steps change between its scans".into());
    }
    Ok((found.kind != 0).then_some(found))
}

/// True if the segment consists of valid quantisation tables, with steps of one or two bytes each.
fn has_wide_steps(mut body: &[u8]) -> bool {
    while let Some((&which, rest)) = body.split_first() {
        let bytes = if which >> 4 == 0 { 64 } else { 128 };
        let Some(rest) = rest.get(bytes..).filter(|_| which & 15 < 4) else { return false };
        body = rest;
    }
    true
}

/// True if libjpeg accepts a Huffman table (16 counts, then the symbols).
fn is_sound(table: &[u8], is_dc: bool) -> bool {
    let mut code = 0_u32;
    let fits = (1..=16).zip(table).all(|(bits, count)| {
        code = 2 * code + u32::from(*count);
        // A code of only ones is not allowed.
        code < 1 << bits
    });
    fits && table.len() <= 16 + 256 && !(is_dc && table[16..].iter().any(|&symbol| symbol > 15))
}

/// Position of the next marker: that of its last 0xFF.
fn next_marker(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xFF)?;
        match bytes.get(at + 1)? {
            0xFF => at += 1,
            0 => at += 2,
            _ => return Some(at),
        }
    }
}

/// Returns the position of the first marker that is no restart marker, or the end; true if the restart markers before it are
/// in order; and true if every 0xFF of data is single before its zero. Adds all but the last 0xFF before a marker to `cuts`.
fn end_of_scan(bytes: &[u8], from: usize, cuts: &mut Vec<Range<usize>>) -> (usize, bool, bool) {
    let (mut at, mut number, mut in_order, mut alone) = (from, 0_u8, true, true);
    while let Some(ahead) = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xFF)) {
        let first = at + ahead;
        let last = first + bytes[first + 1..].iter().take_while(|&&byte| byte == 0xFF).count();
        let Some(&next) = bytes.get(last + 1) else { break };
        if last > first {
            cuts.push(first..last);
        }
        match next {
            0 => alone &= last == first,
            0xD0..=0xD7 => {
                in_order &= next == 0xD0 | number & 7;
                number = number.wrapping_add(1);
            }
            _ => return (last, in_order, alone),
        }
        at = last + 2;
    }
    (bytes.len(), in_order, alone)
}

impl<'a> Survey<'a> {
    /// Reads the frame header; false if its length does not fit its number of components.
    fn frame(&mut self, marker: u8, body: &[u8]) -> bool {
        let [_, h1, h0, w1, w0, count, ref components @ ..] = *body else { return false };
        if components.len() != 3 * usize::from(count) || !(1..=4).contains(&count) {
            return false;
        }
        self.kind = marker;
        (self.width_px, self.height_px) = (u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into());
        for component in components.as_chunks::<3>().0 {
            let [id, factors, quant] = *component;
            // The general decoder refuses factors outside 1 to 4.
            let factors = (usize::from(factors >> 4).clamp(1, 4), usize::from(factors & 15).clamp(1, 4));
            self.components.push(Component { id, factors, quant: usize::from(quant) });
        }
        true
    }

    /// Refuses a scan header that libjpeg refuses.
    fn check_scan(&self, scan: &Scan<'_>) -> Result<(), String> {
        let [first, last, successive] = scan.spectrum;
        let (high, low) = (successive >> 4, successive & 15);
        let is_progressive = self.is_progressive();
        let is_possible = match first {
            0 => last == 0,
            _ => first <= last && last < 64 && scan.components.len() == 1,
        };
        if is_progressive && (!is_possible || (high > 0 && low + 1 != high) || low > 13) {
            return Err(format!("damaged JPEG: a scan of coefficients {first} to {last}, bits {high} to {low}"));
        }
        // libjpeg decodes the second over the remains of the first; no program writes such files.
        let again =
            |place: usize| self.scans.iter().flat_map(|scan| &scan.components).any(|(other, ..)| *other == place);
        if !is_progressive && let Some((place, ..)) = scan.components.iter().find(|(place, ..)| again(*place)) {
            return Err(format!("damaged JPEG: component {} stands in two scans", self.components[*place].id));
        }
        let (needs_dc, needs_ac) = match self.kind {
            0xC0 | 0xC1 => (true, true),
            0xC2 => (first == 0 && high == 0, first > 0),
            _ => (false, false),
        };
        for &(_, dc, ac) in &scan.components {
            for (needed, table, is_dc) in
                [(needs_dc, scan.tables.huffs[0][dc], true), (needs_ac, scan.tables.huffs[1][ac], false)]
            {
                if needed && table.is_some_and(|table| !is_sound(table, is_dc)) {
                    return Err("damaged JPEG: a table of Huffman codes is none".into());
                }
            }
        }
        Ok(())
    }

    /// Tracks the bits of each coefficient that the scans of a progressive file give, and refuses a scan that does not continue
    /// those before it: the file has lost a scan. libjpeg would continue, mostly with a warning, and give a wrong picture.
    fn follow(&mut self, scan: &Scan<'_>) -> Result<(), String> {
        let [first, last, successive] = scan.spectrum;
        if !self.is_progressive() {
            return Ok(());
        }
        for &(place, ..) in &scan.components {
            let id = self.components[place].id;
            let bits = &mut self.bits_left[place];
            let is_begun = first == 0 || bits[0].is_some();
            for bits in &mut bits[usize::from(first)..=usize::from(last.min(63))] {
                let high = successive >> 4;
                if !is_begun || bits.map_or(high > 0, |left| high == 0 || left != high) {
                    return Err(format!(
                        "damaged JPEG: a scan of component {id} does not go on with the one before it"
                    ));
                }
                *bits = Some(successive & 15);
            }
        }
        Ok(())
    }

    /// True if a component began with other quantisation steps than `last` has.
    fn has_other_steps(&self, last: &Tables<'_>) -> bool {
        (0..self.components.len()).any(|place| {
            let is_of = |scan: &&Scan<'_>| scan.components.iter().any(|(other, ..)| *other == place);
            let quant = self.components[place].quant;
            self.scans.iter().find(is_of).is_some_and(|scan| scan.tables.quants.get(quant) != last.quants.get(quant))
        })
    }

    fn selectors(&self, body: &[u8]) -> Option<(Vec<Selector>, [u8; 3])> {
        let (&count, rest) = body.split_first()?;
        let (selectors, spectrum) =
            rest.split_at_checked(2 * usize::from(count)).filter(|_| (1..=4).contains(&count))?;
        let place = |id: u8| self.components.iter().position(|component| component.id == id);
        let components = selectors.as_chunks::<2>().0.iter().map(|&[id, tables]| {
            let (dc, ac) = (usize::from(tables >> 4), usize::from(tables & 15));
            (dc < 4 && ac < 4).then_some((place(id)?, dc, ac))
        });
        Some((components.collect::<Option<_>>()?, spectrum.try_into().ok()?))
    }

    /// The largest sampling factors: columns, rows.
    pub fn largest(&self) -> (usize, usize) {
        let of = |factor: fn(&Component) -> usize| self.components.iter().map(factor).max().unwrap_or(1);
        (of(|c| c.factors.0), of(|c| c.factors.1))
    }

    /// Columns and rows of MCUs of a scan of all components.
    pub fn mcus(&self) -> (usize, usize) {
        let (h, v) = self.largest();
        (self.width_px.div_ceil(8 * h), self.height_px.div_ceil(8 * v))
    }

    /// Columns and rows of samples that a component has in the picture.
    pub fn extent(&self, component: usize) -> (usize, usize) {
        let ((h, v), (h_max, v_max)) = (self.components[component].factors, self.largest());
        ((self.width_px * h).div_ceil(h_max), (self.height_px * v).div_ceil(v_max))
    }

    /// True if a later component has a higher resolution than the first, in columns or rows.
    pub fn is_finer(&self) -> bool {
        let Some((first, others)) = self.components.split_first() else { return false };
        others.iter().any(|other| other.factors.0 > first.factors.0 || other.factors.1 > first.factors.1)
    }

    /// True if it is coded in one pass over the coefficients, with Huffman codes.
    fn is_sequential(&self) -> bool {
        matches!(self.kind, 0xC0 | 0xC1)
    }

    /// True if it is coded in several passes over the coefficients.
    fn is_progressive(&self) -> bool {
        matches!(self.kind, 0xC2 | ARITHMETIC_PROGRESSIVE)
    }

    /// True if a scan holds more than one component, but not all.
    fn is_partly_interleaved(&self) -> bool {
        self.scans.iter().any(|scan| (2..self.components.len()).contains(&scan.components.len()))
    }

    /// True if it is sequential and each scan must be decoded by itself.
    pub fn is_by_scans(&self) -> bool {
        self.is_sequential() && (self.steps_change || self.is_partly_interleaved())
    }

    /// True if the general decoder cannot give its pixels.
    pub fn needs_planes(&self) -> bool {
        self.components.len() > 1 && (self.is_finer() || self.is_odd_ink() || self.is_by_scans())
    }

    /// True if there are four inks and they do not all have the same sampling factors.
    fn is_odd_ink(&self) -> bool {
        self.components.len() == 4 && self.components.iter().any(|ink| ink.factors != self.largest())
    }

    /// True if the scans of a progressive file lack bits of the coefficients that libjpeg estimates by smoothing.
    pub fn needs_smoothing(&self) -> bool {
        let mut of_components = self.bits_left.iter().take(self.components.len());
        self.is_progressive() && of_components.any(|bits| bits[..10].iter().any(|left| *left != Some(0)))
    }

    /// The file for the general decoder, without the bytes that it cannot skip and with valid length fields.
    pub fn tidied(&self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, Fault> {
        if self.cuts.is_empty() && self.lengths.is_empty() {
            return Ok(Cow::Borrowed(bytes));
        }
        let mut out = Vec::new();
        out.try_reserve_exact(bytes.len()).map_err(|_| no_memory("a copy of a JPEG", bytes.len() as u64))?;
        out.extend_from_slice(bytes);
        for &at in &self.lengths {
            out[at..at + 2].copy_from_slice(&2_u16.to_be_bytes());
        }
        let (mut from, mut to) = (0, 0);
        for cut in self.cuts.iter().cloned().chain(std::iter::once(bytes.len()..bytes.len())) {
            out.copy_within(from..cut.start, to);
            to += cut.start - from;
            from = cut.end;
        }
        out.truncate(to);
        Ok(Cow::Owned(out))
    }

    fn blocks(&self, component: usize) -> u64 {
        let ((h, v), (columns, rows)) = (self.components[component].factors, self.mcus());
        (columns * h) as u64 * (rows * v) as u64
    }

    /// Approximate memory that the general decoder needs for the picture, its pixels included.
    pub fn decoder_bytes(&self) -> u64 {
        let pixels = self.width_px as u64 * self.height_px as u64;
        let count = self.components.len() as u64;
        let blocks: u64 = (0..self.components.len()).map(|component| self.blocks(component)).sum();
        // Per block its samples, its coefficients and a flag; a single scan keeps coefficients too, to check for damage.
        let of_block = 64 + 129;
        let upsampled = if self.needs_planes() { count * pixels } else { 0 };
        blocks * of_block + pixels * count.max(3) + upsampled
    }

    /// Refuses a scan that has fewer bits than its blocks need, whatever they hold.
    pub fn check_lengths(&self) -> Result<(), String> {
        // Arithmetic codes may take less than a bit.
        if !matches!(self.kind, 0xC0..=0xC2) {
            return Ok(());
        }
        for (number, scan) in self.scans.iter().enumerate() {
            let blocks: u64 = match *scan.components {
                [(component, ..)] => {
                    let (columns, rows) = self.extent(component);
                    columns.div_ceil(8) as u64 * rows.div_ceil(8) as u64
                }
                _ => scan.components.iter().map(|(component, ..)| self.blocks(*component)).sum(),
            };
            // A code for the first coefficient, and one that ends the block. Later scans may end many blocks by one code.
            let bits = match (self.kind, scan.spectrum[0]) {
                (0xC2, 0) => blocks,
                (0xC2, _) => 0,
                _ => 2 * blocks,
            };
            if (scan.data.len() as u64) < bits / 8 {
                return Err(format!(
                    "truncated JPEG: scan {} has {} bytes for {blocks} blocks of 8 x 8 px, which take {} at least",
                    number + 1,
                    scan.data.len(),
                    bits / 8
                ));
            }
        }
        Ok(())
    }
}
