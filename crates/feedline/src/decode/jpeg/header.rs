//! The markers before the scan, as far as the fast decoder needs them. Strict: anything unusual, doubtful or damaged gives
//! `None`, never an error, because the general decoder decides on such files. Allocates nothing and decodes no pixel.

/// The chroma subsampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) enum Sampling {
    /// One component.
    Grey,
    /// Three of the picture's size (4:4:4).
    Full,
    /// Colour of half the width (4:2:2).
    HalfWidth,
    /// Colour of half the width and half the height (4:2:0).
    Half,
}

impl Sampling {
    /// Luma blocks per MCU: columns, rows.
    pub fn luma_blocks(self) -> (usize, usize) {
        match self {
            Sampling::Grey | Sampling::Full => (1, 1),
            Sampling::HalfWidth => (2, 1),
            Sampling::Half => (2, 2),
        }
    }
}

/// The tables of a component of the scan. The Huffman tables are the segment's bytes: 16 counts, then the symbols.
#[derive(Debug, Clone, Copy)]
pub(in crate::decode) struct Component<'a> {
    /// Quantisation steps in zigzag order.
    pub quant: &'a [u8; 64],
    pub dc: &'a [u8],
    pub ac: &'a [u8],
}

/// A picture that the fast decoder can decode.
#[derive(Debug, Clone, Copy)]
pub(in crate::decode) struct Frame<'a> {
    pub width_px: usize,
    pub height_px: usize,
    pub sampling: Sampling,
    /// MCUs between two restart markers; 0: there are none.
    pub restart_interval: usize,
    /// Three for colour; a grey picture uses the first.
    pub components: [Component<'a>; 3],
    /// All bytes after the scan's header.
    pub scan: &'a [u8],
    /// EXIF data: the first segment of them.
    pub exif: Option<&'a [u8]>,
}

/// The last bytes of the header of a scan that holds all coefficients completely.
pub(super) const ALL_COEFFICIENTS: [u8; 3] = [0, 63, 0];

/// What EXIF data begin with.
const EXIF: &[u8] = b"Exif\0\0";

/// The EXIF data of a file that [`parse`] does not take.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.strip_prefix(&[0xFF, 0xD8])?;
    loop {
        match *rest {
            // Markers without a segment, and bytes that fill.
            [0xFF, 0x01 | 0xD0..=0xD7, ref after @ ..] => rest = after,
            [0xFF, 0xFF, ..] => rest = &rest[1..],
            [0xFF, 0xD9 | 0xDA, ..] => return None,
            [0xFF, marker, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([high, low])).max(2);
                let body = rest.get(4..2 + length)?;
                if marker == 0xE1 && body.starts_with(EXIF) {
                    return Some(body);
                }
                rest = &rest[2 + length..];
            }
            _ => return None,
        }
    }
}

struct Size {
    width_px: usize,
    height_px: usize,
    /// (id, sampling factors, quantisation table) of each component.
    components: [(u8, u8, usize); 3],
    count: usize,
}

/// Reads everything up to the first scan.
pub(in crate::decode) fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let mut rest = bytes.strip_prefix(&[0xFF, 0xD8])?;
    let mut quants: [Option<&[u8; 64]>; 4] = [None; 4];
    let mut huffs: [[Option<&[u8]>; 4]; 2] = [[None; 4]; 2];
    let mut size: Option<Size> = None;
    let mut restart_interval = 0;
    let (mut jfif, mut adobe, mut exif) = (false, None, None);
    loop {
        // libjpeg skips markers without a segment, and takes a length field alone for an empty segment.
        if let [0xFF, 0x01 | 0xD0..=0xD7, after @ ..] = rest {
            rest = after;
            continue;
        }
        let [0xFF, marker, high, low, ..] = *rest else { return None };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let length = if matches!(marker, 0xE0..=0xEF | 0xFE) { length.max(2) } else { length };
        let body = rest.get(4..2 + length)?;
        rest = &rest[4 + body.len()..];
        match marker {
            0xC0 | 0xC1 if size.is_none() => size = Some(frame_size(body)?),
            0xC4 => huffman_tables(body, &mut huffs)?,
            0xDB => quant_tables(body, &mut quants)?,
            0xDD => restart_interval = usize::from(u16::from_be_bytes(body.try_into().ok()?)),
            0xE0 => jfif |= body.len() >= 14 && body.starts_with(b"JFIF\0"),
            0xEE if body.len() >= 12 && body.starts_with(b"Adobe") => adobe = Some(body[11]),
            0xE1 if exif.is_none() && body.starts_with(EXIF) => exif = Some(body),
            0xE1..=0xEF | 0xFE => {}
            0xDA => {
                let size = size?;
                let sampling = sampling(&size, jfif, adobe)?;
                let mut components = [None; 3];
                let selectors = scan_tables(body, &size)?;
                for (at, component) in components.iter_mut().enumerate() {
                    let at = at.min(size.count - 1);
                    let (dc, ac) = selectors[at];
                    *component =
                        Some(Component { quant: quants[size.components[at].2]?, dc: huffs[0][dc]?, ac: huffs[1][ac]? });
                }
                let [Some(a), Some(b), Some(c)] = components else { return None };
                return Some(Frame {
                    width_px: size.width_px,
                    height_px: size.height_px,
                    sampling,
                    restart_interval,
                    components: [a, b, c],
                    scan: rest,
                    exif,
                });
            }
            _ => return None,
        }
    }
}

fn frame_size(body: &[u8]) -> Option<Size> {
    let [8, h1, h0, w1, w0, count, ref components @ ..] = *body else { return None };
    let count = usize::from(count);
    if !(count == 1 || count == 3) || components.len() != 3 * count {
        return None;
    }
    let mut size = Size {
        width_px: u16::from_be_bytes([w1, w0]).into(),
        height_px: u16::from_be_bytes([h1, h0]).into(),
        components: [(0, 0, 0); 3],
        count,
    };
    for (to, from) in size.components.iter_mut().zip(components.chunks_exact(3)) {
        *to = (from[0], from[1], usize::from(from[2]));
        if from[2] > 3 {
            return None;
        }
    }
    (size.width_px > 0 && size.height_px > 0).then_some(size)
}

/// The colour space by libjpeg's rules: JFIF means YCbCr; else Adobe's transform decides; else the component ids do.
fn sampling(size: &Size, jfif: bool, adobe: Option<u8>) -> Option<Sampling> {
    let [(a, first, _), (b, second, _), (c, third, _)] = size.components;
    if size.count == 1 {
        // With one component its sampling factors have no meaning.
        let sound = (1..=4).contains(&(first >> 4)) && (1..=4).contains(&(first & 15));
        return sound.then_some(Sampling::Grey);
    }
    let ycbcr = match adobe {
        Some(transform) => transform == 1,
        None => jfif || [a, b, c] == [1, 2, 3],
    };
    if !ycbcr || a == b || b == c || a == c || (second, third) != (0x11, 0x11) {
        return None;
    }
    match first {
        0x11 => Some(Sampling::Full),
        0x21 => Some(Sampling::HalfWidth),
        0x22 => Some(Sampling::Half),
        _ => None,
    }
}

pub(super) fn quant_tables<'a>(mut body: &'a [u8], tables: &mut [Option<&'a [u8; 64]>; 4]) -> Option<()> {
    while let Some((&which, rest)) = body.split_first() {
        // The high half is the precision: 0 means bytes.
        let (table, rest) = rest.split_first_chunk::<64>()?;
        *tables.get_mut(usize::from(which))? = Some(table);
        body = rest;
    }
    Some(())
}

pub(super) fn huffman_tables<'a>(mut body: &'a [u8], tables: &mut [[Option<&'a [u8]>; 4]; 2]) -> Option<()> {
    while let Some((&which, rest)) = body.split_first() {
        let symbols: usize = rest.get(..16)?.iter().map(|&n| usize::from(n)).sum();
        let (table, rest) = rest.split_at_checked(16 + symbols)?;
        *tables.get_mut(usize::from(which >> 4))?.get_mut(usize::from(which & 15))? = Some(table);
        body = rest;
    }
    Some(())
}

/// The Huffman tables (DC, AC) of each component: one scan with all components in the frame's order.
fn scan_tables(body: &[u8], size: &Size) -> Option<[(usize, usize); 3]> {
    let (&count, rest) = body.split_first()?;
    let (selectors, spectrum) = rest.split_at_checked(2 * usize::from(count))?;
    if usize::from(count) != size.count || spectrum != ALL_COEFFICIENTS {
        return None;
    }
    let mut tables = [(0, 0); 3];
    for (at, selector) in selectors.chunks_exact(2).enumerate() {
        tables[at] = (usize::from(selector[1] >> 4), usize::from(selector[1] & 15));
        if selector[0] != size.components[at].0 || tables[at].0 > 3 || tables[at].1 > 3 {
            return None;
        }
    }
    Some(tables)
}
