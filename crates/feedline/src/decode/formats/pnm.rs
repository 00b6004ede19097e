//! PBM, PGM and PPM (P1 to P6) to RGB. Values are scaled from the file's largest one as Pillow scales them; of grey with more
//! than 8 bits the high byte is taken, as of 16-bit grey PNG, where Pillow clips.

use crate::decode::fault::Fault;
use crate::decode::image::{Limits, RgbImage, allocate, check_size};

/// Digits of the longest number.
const DIGITS_MAX: usize = 10;

/// The header.
struct Pnm<'a> {
    width_px: u32,
    height_px: u32,
    /// 1 for bits and grey, 3 for colour.
    channels: usize,
    /// 0 for bits.
    max: u32,
    is_plain: bool,
    data: &'a [u8],
}

/// Numbers written as text, with comments from `#` to the end of the line.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    /// The next byte that is not in a comment. A comment separates nothing, as in Pillow.
    fn byte(&mut self) -> Option<u8> {
        loop {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            if *first != b'#' {
                return Some(*first);
            }
            let line = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).map_or(rest.len(), |end| end + 1);
            self.0 = &rest[line..];
        }
    }

    /// The next number, and the one blank behind it.
    fn number(&mut self) -> Result<u32, Fault> {
        let (mut value, mut digits) = (0u64, 0);
        loop {
            match self.byte() {
                Some(byte) if is_blank(byte) => {
                    if digits > 0 {
                        break;
                    }
                }
                Some(byte @ b'0'..=b'9') if digits < DIGITS_MAX => {
                    (value, digits) = (10 * value + u64::from(byte - b'0'), digits + 1);
                }
                Some(byte) => {
                    return Err(format!("damaged PNM: '{}' where a number is due", [byte].escape_ascii()).into());
                }
                None if digits > 0 => break,
                None => return Err("truncated PNM: the data ends early".into()),
            }
        }
        u32::try_from(value).map_err(|_| format!("damaged PNM: the number {value} is too large").into())
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | 9..=13)
}

fn read(bytes: &[u8]) -> Result<Pnm<'_>, Fault> {
    let kind = bytes.get(1).copied().unwrap_or_default();
    let mut text = Text(bytes.get(3..).unwrap_or_default());
    let (width_px, height_px) = (text.number()?, text.number()?);
    let max = if matches!(kind, b'1' | b'4') { 0 } else { text.number()? };
    if !matches!(kind, b'1' | b'4') && !(1..=65535).contains(&max) {
        return Err(format!("damaged PNM: its largest value is {max}, not 1 to 65535").into());
    }
    let channels = if matches!(kind, b'3' | b'6') { 3 } else { 1 };
    Ok(Pnm { width_px, height_px, channels, max, is_plain: matches!(kind, b'1'..=b'3'), data: text.0 })
}

pub(super) fn dimensions(bytes: &[u8]) -> Result<(u32, u32), Fault> {
    let pnm = read(bytes)?;
    Ok((pnm.width_px, pnm.height_px))
}

pub(super) fn decode_rgb(bytes: &[u8], limits: &Limits, into: &mut RgbImage) -> Result<(), Fault> {
    let pnm = read(bytes)?;
    check_size(pnm.width_px, pnm.height_px, limits)?;
    let (wide, high) = (pnm.width_px as usize, pnm.height_px as usize);
    let samples = (wide * high).saturating_mul(pnm.channels);
    let sample_bytes = if pnm.max > 255 { 2 } else { 1 };
    let row_bytes = if pnm.max == 0 { wide.div_ceil(8) } else { wide * pnm.channels * sample_bytes };
    let needed = match (pnm.is_plain, pnm.max) {
        (true, 0) => samples,
        (true, _) => samples.saturating_mul(2) - 1,
        (false, _) => row_bytes.saturating_mul(high),
    };
    if pnm.data.len() < needed {
        return Err(format!(
            "truncated PNM: {} bytes of pixels, {wide} x {high} px take at least {needed}",
            pnm.data.len()
        )
        .into());
    }
    allocate(into, pnm.width_px, pnm.height_px, 3)?;
    let level = levels(&pnm);
    let mut text = Text(pnm.data);
    let mut out = into.pixels.as_chunks_mut::<3>().0.iter_mut();
    if pnm.max == 0 {
        // A set bit is black.
        let mut grey = |bit: bool| out.next().into_iter().for_each(|pixel| *pixel = [if bit { 0 } else { 255 }; 3]);
        if pnm.is_plain {
            let mut left = samples;
            while left > 0 {
                match text.byte() {
                    Some(byte @ (b'0' | b'1')) => grey(byte == b'1'),
                    Some(byte) if is_blank(byte) => continue,
                    Some(byte) => {
                        return Err(format!("damaged PNM: '{}' is no bit", [byte].escape_ascii()).into());
                    }
                    None => return Err("truncated PNM: the data ends early".into()),
                }
                left -= 1;
            }
        } else {
            for row in pnm.data.chunks_exact(row_bytes).take(high) {
                (0..wide).for_each(|x| grey(row[x / 8] >> (7 - x % 8) & 1 == 1));
            }
        }
        return Ok(());
    }
    if (pnm.is_plain, pnm.max) == (false, 255) {
        match pnm.channels {
            1 => out.zip(pnm.data).for_each(|(pixel, grey)| *pixel = [*grey; 3]),
            _ => into.pixels.copy_from_slice(&pnm.data[..needed]),
        }
        return Ok(());
    }
    let mut next = {
        let mut at = 0;
        move || -> Result<u8, Fault> {
            let value = if pnm.is_plain {
                let value = text.number()?;
                if value > pnm.max {
                    return Err(format!("damaged PNM: the value {value} is above its largest, {}", pnm.max).into());
                }
                value
            } else if sample_bytes == 1 {
                u32::from(pnm.data[at])
            } else {
                u32::from(u16::from_be_bytes([pnm.data[2 * at], pnm.data[2 * at + 1]]))
            };
            at += 1;
            // A binary value above the largest is white, as in Pillow.
            Ok(level.get(value as usize).copied().unwrap_or(255))
        }
    };
    for pixel in out {
        *pixel = match pnm.channels {
            1 => [next()?; 3],
            _ => [next()?, next()?, next()?],
        };
    }
    Ok(())
}

/// The 8-bit level of each value up to the largest, rounded to even as Python rounds.
fn levels(pnm: &Pnm<'_>) -> Vec<u8> {
    let is_deep_grey = pnm.channels == 1 && pnm.max > 255;
    let scaled = |value: u32, to: f64| (f64::from(value) / f64::from(pnm.max) * to).round_ties_even() as u32;
    (0..=pnm.max)
        .map(|value| if is_deep_grey { (scaled(value, 65535.0) >> 8) as u8 } else { scaled(value, 255.0) as u8 })
        .collect()
}
