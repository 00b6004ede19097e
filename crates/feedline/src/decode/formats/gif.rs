//! The first picture of a GIF to RGB. What it leaves of the screen has the transparent colour, or the palette's first, as in
//! Pillow.

use crate::decode::fault::{Fault, grown};
use crate::decode::formats::samples::{greys, palette, u16_at};
use crate::decode::image::{Limits, RgbImage, allocate, check_size};
use weezl::decode::Configuration;
use weezl::{BitOrder, LzwStatus};

/// Most pixels for a byte of data: a code of 12 bits stands for at most 4096 of them.
const PIXELS_PER_BYTE_MAX: usize = 2731;

/// The file up to the data of its first picture.
struct Gif<'a> {
    width_px: u32,
    height_px: u32,
    left_px: u32,
    top_px: u32,
    frame_width_px: u32,
    frame_height_px: u32,
    is_interlaced: bool,
    transparent: Option<u8>,
    palette: Option<&'a [u8]>,
    /// The size of the first codes, then blocks.
    data: &'a [u8],
}

fn read(bytes: &[u8]) -> Result<Gif<'_>, Fault> {
    let cut = || Fault::Bad(format!("truncated GIF: the data ends early ({} bytes)", bytes.len()));
    let short = |at: usize| u16_at(bytes, at).ok_or_else(cut);
    let byte = |at: usize| bytes.get(at).copied().ok_or_else(cut);
    let table = |flags: u8, at: usize| -> Result<Option<&[u8]>, Fault> {
        let len = 3usize << ((flags & 7) + 1);
        if flags & 0x80 == 0 { Ok(None) } else { bytes.get(at..at + len).map(Some).ok_or_else(cut) }
    };
    let (mut width_px, mut height_px, flags) = (short(6)?, short(8)?, byte(10)?);
    let shared = table(flags, 13)?;
    let mut at = 13 + shared.map_or(0, <[u8]>::len);
    let mut transparent = None;
    loop {
        match byte(at)? {
            b'!' => {
                if let [0xF9, len, flags, _, _, colour, ..] = bytes[at + 1..]
                    && len >= 4
                {
                    transparent = if flags & 1 == 1 { Some(colour) } else { transparent };
                }
                at += 2;
                loop {
                    let len = usize::from(byte(at)?);
                    at += 1 + len;
                    if len == 0 {
                        break;
                    }
                }
            }
            b',' => {
                let (left_px, top_px) = (short(at + 1)?, short(at + 3)?);
                let (frame_width_px, frame_height_px) = (short(at + 5)?, short(at + 7)?);
                let flags = byte(at + 9)?;
                let own = table(flags, at + 10)?;
                // A picture that reaches beyond the screen makes it larger.
                width_px = width_px.max(left_px + frame_width_px);
                height_px = height_px.max(top_px + frame_height_px);
                let data = bytes.get(at + 10 + own.map_or(0, <[u8]>::len)..).unwrap_or_default();
                return Ok(Gif {
                    width_px,
                    height_px,
                    left_px,
                    top_px,
                    frame_width_px,
                    frame_height_px,
                    is_interlaced: flags & 0x40 != 0,
                    transparent,
                    palette: own.or(shared),
                    data,
                });
            }
            b';' => return Err("damaged GIF: there is no picture in it".into()),
            // Pillow passes over such bytes too.
            _ => at += 1,
        }
    }
}

pub(super) fn dimensions(bytes: &[u8]) -> Result<(u32, u32), Fault> {
    let gif = read(bytes)?;
    Ok((gif.width_px, gif.height_px))
}

pub(super) fn decode_rgb(
    bytes: &[u8],
    limits: &Limits,
    into: &mut RgbImage,
    reserve: &mut dyn FnMut(u64),
) -> Result<(), Fault> {
    let gif = read(bytes)?;
    check_size(gif.width_px, gif.height_px, limits)?;
    check_size(gif.frame_width_px, gif.frame_height_px, limits)?;
    let (wide, high) = (gif.frame_width_px as usize, gif.frame_height_px as usize);
    reserve(3 * u64::from(gif.width_px) * u64::from(gif.height_px) + (wide * high) as u64);
    let indices = indices(&gif, wide * high)?;
    let colours = gif.palette.map_or_else(greys, |table| palette(table, 3, |entry| [entry[0], entry[1], entry[2]]));
    allocate(into, gif.width_px, gif.height_px, 3)?;
    let screen = into.pixels.as_chunks_mut::<3>().0;
    if (gif.width_px, gif.height_px) != (gif.frame_width_px, gif.frame_height_px) {
        screen.fill(colours[usize::from(gif.transparent.unwrap_or(0))]);
    }
    // Interlaced rows come in four passes: (first row, step).
    let passes: &[(usize, usize)] = if gif.is_interlaced { &[(0, 8), (4, 8), (2, 4), (1, 2)] } else { &[(0, 1)] };
    let places = passes.iter().flat_map(|(first, step)| (*first..high).step_by(*step));
    for (row, place) in indices.chunks_exact(wide).zip(places) {
        let start = (gif.top_px as usize + place) * gif.width_px as usize + gif.left_px as usize;
        screen[start..start + wide].iter_mut().zip(row).for_each(|(out, index)| *out = colours[usize::from(*index)]);
    }
    Ok(())
}

/// The numbers of the colours, in the order of the file.
fn indices(gif: &Gif<'_>, count: usize) -> Result<Vec<u8>, Fault> {
    let truncated =
        |done: usize| Fault::Bad(format!("truncated GIF: the data ends early, after {done} of {count} pixels"));
    let Some((&bits, mut rest)) = gif.data.split_first() else { return Err(truncated(0)) };
    if !(1..=8).contains(&bits) {
        return Err(format!("damaged GIF: its codes begin with {bits} bits, not 1 to 8").into());
    }
    if rest.len() < count / PIXELS_PER_BYTE_MAX {
        return Err(truncated(0));
    }
    let mut out = Vec::new();
    grown(&mut out, count, 0, "the pixels of a GIF")?;
    let mut decoder = Configuration::new(BitOrder::Lsb, bits).with_yield_on_full_buffer(true).build();
    let mut done = 0;
    while done < count {
        let block = rest.split_first().filter(|(len, _)| **len > 0);
        let Some((mut block, after)) = block.and_then(|(len, rest)| rest.split_at_checked(usize::from(*len))) else {
            return Err(truncated(done));
        };
        rest = after;
        loop {
            let result = decoder.decode_bytes(block, &mut out[done..]);
            (block, done) = (&block[result.consumed_in..], done + result.consumed_out);
            match result.status {
                _ if done == count => break,
                Ok(LzwStatus::Done) => return Err(truncated(done)),
                Ok(LzwStatus::NoProgress) => break,
                Ok(LzwStatus::Ok) if block.is_empty() && result.consumed_out == 0 => break,
                Ok(LzwStatus::Ok) => {}
                Err(error) => return Err(format!("damaged GIF after {done} of {count} pixels: {error}").into()),
            }
        }
    }
    Ok(out)
}
