//! PNG to 8-bit RGB: every colour type, bit depth and interlacing. Owns the reduction to RGB; checksums are verified.

use super::{Limits, RgbImage, allocate, check_size};
use png::{ColorType, Decoder, DecodingError, Transformations};
use std::io::Cursor;

fn open(bytes: &[u8]) -> Decoder<Cursor<&[u8]>> {
    let mut decoder = Decoder::new(Cursor::new(bytes));
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // 8 bits per sample (the high byte of 16), palettes looked up: grey, RGB, or either with alpha.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    decoder
}

fn explain(error: DecodingError, bytes: &[u8], rows: Option<(usize, usize)>) -> String {
    let place = rows.map(|(done, all)| format!(" after row {done} of {all}")).unwrap_or_default();
    match error {
        DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!("truncated PNG: the data ends early{place} ({} bytes)", bytes.len())
        }
        DecodingError::LimitsExceeded => format!("damaged PNG: it wants more memory than an honest one would{place}"),
        other => format!("damaged PNG{place}: {other}"),
    }
}

pub(super) fn dimensions(bytes: &[u8]) -> Result<(u32, u32), String> {
    let mut decoder = open(bytes);
    let info = decoder.read_header_info().map_err(|e| explain(e, bytes, None))?;
    Ok((info.width, info.height))
}

pub(super) fn decode_rgb(bytes: &[u8], limits: &Limits, into: &mut RgbImage) -> Result<(), String> {
    let mut decoder = open(bytes);
    let info = decoder.read_header_info().map_err(|e| explain(e, bytes, None))?;
    let (width, height) = (info.width, info.height);
    check_size(width, height, limits)?;
    let mut reader = decoder.read_info().map_err(|e| explain(e, bytes, None))?;
    let (color, _) = reader.output_color_type();
    let channels = color.samples();
    allocate(into, width, height, channels)?;

    if reader.info().interlaced {
        reader.next_frame(&mut into.pixels).map_err(|e| explain(e, bytes, None))?;
    } else {
        let rows = into.pixels.chunks_exact_mut(channels * width as usize);
        for (done, row) in rows.enumerate() {
            let place = Some((done, height as usize));
            if reader.read_row(row).map_err(|e| explain(e, bytes, place))?.is_none() {
                return Err(format!("damaged PNG: only {done} of {height} rows"));
            }
        }
    }
    // The last data chunk's checksum stands behind its pixels.
    reader.finish().map_err(|e| explain(e, bytes, Some((height as usize, height as usize))))?;
    reduce_to_rgb(&mut into.pixels, color);
    Ok(())
}

/// Drops alpha and spreads grey, within the buffer.
fn reduce_to_rgb(pixels: &mut Vec<u8>, color: ColorType) {
    let count = pixels.len() / color.samples();
    match color {
        ColorType::Rgb | ColorType::Indexed => {}
        ColorType::Rgba => {
            for at in 1..count {
                pixels.copy_within(4 * at..4 * at + 3, 3 * at);
            }
            pixels.truncate(3 * count);
        }
        ColorType::Grayscale | ColorType::GrayscaleAlpha => {
            let step = color.samples();
            pixels.resize(3 * count, 0);
            // From the back, so that no grey value is overwritten before it is read.
            for at in (0..count).rev() {
                let grey = pixels[step * at];
                pixels[3 * at..3 * at + 3].fill(grey);
            }
        }
    }
}
