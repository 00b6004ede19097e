//! What the formats share: numbers of a header, samples and palettes to RGB, and the memory that a decoder asks for.

use crate::decode::fault::{Fault, grown, no_memory};

/// Little-endian numbers of a header, by their place.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The most bytes that a decoder takes beside the pixels, refused in words where the system does not have them: third-party
/// decoders take theirs without asking.
pub(super) fn check_memory(extra_bytes: u64, what: &str) -> Result<(), Fault> {
    let refused = || no_memory(what, extra_bytes);
    let mut probe = Vec::<u8>::new();
    probe.try_reserve_exact(usize::try_from(extra_bytes).map_err(|_| refused())?).map_err(|_| refused())
}

/// Turns pixels of `N` samples into RGB, within the buffer.
pub(super) fn to_rgb<const N: usize>(pixels: &mut Vec<u8>, rgb: impl Fn([u8; N]) -> [u8; 3]) -> Result<(), Fault> {
    let count = pixels.len() / N;
    if N < 3 {
        grown(pixels, 3 * count, 0, "the colours of a picture")?;
    }
    let mut one = |at: usize| {
        let mut samples = [0; N];
        samples.copy_from_slice(&pixels[N * at..N * at + N]);
        pixels[3 * at..3 * at + 3].copy_from_slice(&rgb(samples));
    };
    // In the order in which no sample is overwritten before it is read.
    if N < 3 {
        (0..count).rev().for_each(&mut one)
    } else {
        (0..count).for_each(&mut one)
    }
    pixels.truncate(3 * count);
    Ok(())
}

/// The colours of a palette of 256, black where it has none. One that is nothing but its own numbers as grey stands for all of
/// them, as in Pillow.
pub(super) fn palette(entries: &[u8], entry_bytes: usize, rgb: impl Fn(&[u8]) -> [u8; 3]) -> [[u8; 3]; 256] {
    let mut colours = [[0; 3]; 256];
    colours.iter_mut().zip(entries.chunks_exact(entry_bytes)).for_each(|(colour, entry)| *colour = rgb(entry));
    let count = (entries.len() / entry_bytes).min(256);
    if colours[..count].iter().enumerate().all(|(at, colour)| *colour == [at as u8; 3]) {
        return greys();
    }
    colours
}

/// Each number as grey.
pub(super) fn greys() -> [[u8; 3]; 256] {
    std::array::from_fn(|grey| [grey as u8; 3])
}
