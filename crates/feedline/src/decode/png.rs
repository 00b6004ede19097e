//! PNG to 8-bit RGB, every colour type, bit depth and interlacing, and 16-bit grey unchanged. Owns the reduction to RGB
//! and every verdict on a file: png_whole.rs only decodes ordinary pictures faster than the careful decoder.

use super::png_whole::{self, Pixels};
use crate::decode::fault::{Fault, grown, no_memory};
use crate::decode::guard::guarded;
use crate::decode::image::{Format, Limits, RgbImage, allocate, check_size, format};
use png::{BitDepth, ColorType, Decoder, DecodingError, Transformations};
use std::borrow::Cow;
use std::io::Cursor;

fn open(bytes: &[u8]) -> Decoder<Cursor<&[u8]>> {
    let mut decoder = Decoder::new(Cursor::new(bytes));
    // A wrong checksum of the pixels is damage, as it is for Pillow.
    decoder.ignore_checksums(false);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // 8 bits per sample (the high byte of 16), palettes looked up: grey, RGB, or either with alpha.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    decoder
}

/// Keeps only the chunks that the pixels depend on. The others change no pixel, so a misplaced or broken one must not make
/// the picture count as damaged. Opacity is dropped anyway. Refuses an invalid palette.
fn pixels_alone(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Fault> {
    let mut cuts = Vec::new();
    // Starts after the signature. The header, which gives the kind of pixels, is the first chunk.
    let (mut at, is_indexed) = (8, bytes.get(25) == Some(&3));
    while let Some([length, kind]) = bytes.get(at..at + 8).map(|start| start.as_chunks::<4>().0) {
        let length_bytes = u32::from_be_bytes(*length) as usize;
        let end = at.saturating_add(12).saturating_add(length_bytes);
        if end > bytes.len() || kind == b"IEND" {
            break;
        }
        let is_palette = kind == b"PLTE";
        if is_palette && is_indexed && (length_bytes == 0 || length_bytes > 768 || !length_bytes.is_multiple_of(3)) {
            return Err(format!(
                "damaged PNG: its palette has {length_bytes} bytes, not 3 for each of 1 to 256 colours"
            )
            .into());
        }
        // A lower-case first letter marks a chunk that decoders may ignore.
        if kind[0].is_ascii_lowercase() || (is_palette && !is_indexed) {
            cuts.push(at..end);
        }
        at = end;
    }
    if cuts.is_empty() {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut out = Vec::new();
    out.try_reserve_exact(bytes.len()).map_err(|_| no_memory("the chunks of a PNG", bytes.len() as u64))?;
    let mut from = 0;
    for cut in cuts {
        out.extend_from_slice(&bytes[from..cut.start]);
        from = cut.end;
    }
    out.extend_from_slice(&bytes[from..]);
    Ok(Cow::Owned(out))
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

/// `header`: what [`png_whole::header`] gives of these bytes, here and below.
pub(super) fn dimensions(bytes: &[u8], header: Option<png_whole::Header>) -> Result<(u32, u32), Fault> {
    if let Some(header) = header {
        return Ok((header.width_px, header.height_px));
    }
    let mut decoder = open(bytes);
    let info = decoder.read_header_info().map_err(|e| explain(e, bytes, None))?;
    Ok((info.width, info.height))
}

pub(super) fn decode_rgb(
    bytes: &[u8],
    header: Option<png_whole::Header>,
    limits: &Limits,
    into: &mut RgbImage,
) -> Result<(), Fault> {
    if let Some(header) = header {
        check_size(header.width_px, header.height_px, limits)?;
        if decode_whole(bytes, header, into).is_some() {
            return Ok(());
        }
    }
    decode_carefully(bytes, limits, into)
}

/// Decodes an ordinary picture; `None` leaves it to [`decode_carefully`].
fn decode_whole(bytes: &[u8], header: png_whole::Header, into: &mut RgbImage) -> Option<()> {
    let width = header.width_px as usize;
    let (mut at, mut fits) = (0, true);
    png_whole::rows(bytes, header, |row| {
        if at == 0 && fits {
            // Allocated only after the data has shown that the picture has this size.
            fits = allocate(into, header.width_px, header.height_px, 3).is_ok();
        }
        if !fits {
            return;
        }
        let out = &mut into.pixels[at..at + 3 * width];
        at += 3 * width;
        match header.pixels {
            Pixels::Rgb8 => out.copy_from_slice(row),
            Pixels::Grey8 => spread::<1>(row, out, |[grey]| [grey; 3]),
            Pixels::GreyAlpha8 => spread::<2>(row, out, |[grey, _]| [grey; 3]),
            Pixels::Grey16 => spread::<2>(row, out, |[high, _]| [high; 3]),
            Pixels::Rgba8 => spread::<4>(row, out, |[r, g, b, _]| [r, g, b]),
        }
    })
    .filter(|()| fits)
}

fn spread<const N: usize>(row: &[u8], out: &mut [u8], rgb: impl Fn([u8; N]) -> [u8; 3]) {
    for (out, pixel) in out.as_chunks_mut::<3>().0.iter_mut().zip(row.as_chunks::<N>().0) {
        *out = rgb(*pixel);
    }
}

/// Decodes any picture, row by row; it is also the reference for the fast decoder.
fn decode_carefully(bytes: &[u8], limits: &Limits, into: &mut RgbImage) -> Result<(), Fault> {
    let bytes = &*pixels_alone(bytes)?;
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
                return Err(format!("damaged PNG: only {done} of {height} rows").into());
            }
        }
    }
    // The checksum of the last data chunk follows its pixels.
    reader.finish().map_err(|e| explain(e, bytes, Some((height as usize, height as usize))))?;
    reduce_to_rgb(&mut into.pixels, color)
}

/// Decodes a 16-bit grey PNG, as depth cameras' pictures are stored, to its values (H, W), row-major, into `out`.
///
/// # Errors
/// Not a PNG, truncated, damaged, another kind of PNG (whose values are not depths), or a
/// picture that is not `width_px` x `height_px`. The content of `out` is then unspecified. Never panics, whatever the
/// bytes.
///
/// # Panics
/// If `out` does not hold exactly `width_px * height_px` values.
pub fn decode_depth_u16(bytes: &[u8], width_px: u32, height_px: u32, out: &mut [u16]) -> Result<(), Fault> {
    assert_eq!(Some(out.len()), (width_px as usize).checked_mul(height_px as usize), "{width_px} x {height_px} px");
    guarded(|| {
        let Format::Png = format(bytes)? else { return Err("not a PNG; depth is read from 16-bit grey PNG".into()) };
        if let Some(header) = png_whole::header(bytes) {
            check_depth(header.width_px, header.height_px, width_px, height_px)?;
            if header.pixels == Pixels::Grey16 {
                let mut out = out.chunks_exact_mut(width_px as usize);
                let decoded = png_whole::rows(bytes, header, |row| {
                    let values = out.next().unwrap_or_default().iter_mut().zip(row.as_chunks().0);
                    values.for_each(|(value, bytes)| *value = u16::from_be_bytes(*bytes));
                });
                if decoded.is_some() {
                    return Ok(());
                }
            }
        }
        decode_depth_carefully(bytes, width_px, height_px, out)
    })
}

fn check_depth(width_px: u32, height_px: u32, expect_width_px: u32, expect_height_px: u32) -> Result<(), String> {
    if (width_px, height_px) != (expect_width_px, expect_height_px) {
        return Err(format!(
            "the picture has {width_px} x {height_px} px instead of {expect_width_px} x {expect_height_px}"
        ));
    }
    Ok(())
}

fn decode_depth_carefully(bytes: &[u8], width_px: u32, height_px: u32, out: &mut [u16]) -> Result<(), Fault> {
    let bytes = &*pixels_alone(bytes)?;
    let mut decoder = open(bytes);
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(|e| explain(e, bytes, None))?;
    let info = reader.info();
    check_depth(info.width, info.height, width_px, height_px)?;
    if (info.color_type, info.bit_depth) != (ColorType::Grayscale, BitDepth::Sixteen) {
        return Err(format!(
            "its pixels are {:?} of {} bits, not grey of 16; depth is read from 16-bit grey PNG",
            info.color_type, info.bit_depth as u8
        )
        .into());
    }
    let mut filled = Vec::new();
    grown(&mut filled, 2 * out.len(), 0, "a depth picture")?;
    reader.next_frame(&mut filled).map_err(|e| explain(e, bytes, None))?;
    reader.finish().map_err(|e| explain(e, bytes, None))?;
    out.iter_mut().zip(filled.as_chunks().0).for_each(|(value, bytes)| *value = u16::from_be_bytes(*bytes));
    Ok(())
}

/// Decodes a PNG whose pixels are numbers and not colours, such as labels: 8-bit grey unchanged, and for a palette the indices
/// (as `numpy.asarray(PIL.Image.open(..))` gives; OpenCV converts the palette's colours to grey). Writes them row-major
/// (H, W) to `out`, whose allocation is reused.
///
/// # Returns
/// Width and height.
///
/// # Errors
/// Not a PNG, truncated, damaged, pixels of another kind, or more of them than `limits` allow. Never
/// panics, whatever the bytes.
pub fn decode_labels_u8(bytes: &[u8], limits: &Limits, out: &mut Vec<u8>) -> Result<(u32, u32), Fault> {
    guarded(|| {
        let Format::Png = format(bytes)? else { return Err("not a PNG; labels are read from PNG".into()) };
        if let Some(header) = png_whole::header(bytes).filter(|header| header.pixels == Pixels::Grey8) {
            check_size(header.width_px, header.height_px, limits)?;
            out.clear();
            let mut fits = true;
            let each = |row: &[u8]| {
                fits &= !out.is_empty() || out.try_reserve_exact(row.len() * header.height_px as usize).is_ok();
                if fits {
                    out.extend_from_slice(row);
                }
            };
            if png_whole::rows(bytes, header, each).is_some() && fits {
                return Ok((header.width_px, header.height_px));
            }
        }
        decode_labels_carefully(bytes, limits, out)
    })
}

fn decode_labels_carefully(bytes: &[u8], limits: &Limits, out: &mut Vec<u8>) -> Result<(u32, u32), Fault> {
    let bytes = &*pixels_alone(bytes)?;
    let mut decoder = open(bytes);
    decoder.set_transformations(Transformations::IDENTITY);
    let info = decoder.read_header_info().map_err(|e| explain(e, bytes, None))?;
    let (width, height, color, depth) = (info.width, info.height, info.color_type, info.bit_depth);
    check_size(width, height, limits)?;
    let bits = depth as usize;
    if !(color == ColorType::Indexed || (color, depth) == (ColorType::Grayscale, BitDepth::Eight)) {
        return Err(
            format!("its pixels are {color:?} of {bits} bits; labels are read from 8-bit grey or a palette").into()
        );
    }
    let mut reader = decoder.read_info().map_err(|e| explain(e, bytes, None))?;
    let row_bytes = (width as usize * bits).div_ceil(8);
    let mut packed = Vec::new();
    grown(&mut packed, row_bytes * height as usize, 0, "a picture of labels")?;
    reader.next_frame(&mut packed).map_err(|e| explain(e, bytes, None))?;
    reader.finish().map_err(|e| explain(e, bytes, None))?;
    out.clear();
    grown(out, width as usize * height as usize, 0, "a picture of labels")?;
    out.clear();
    for row in packed.chunks_exact(row_bytes) {
        // The first pixel of a byte is in its high bits.
        let pixel = |x: usize| row[x * bits / 8] >> (8 - bits - x * bits % 8) & (0xFF >> (8 - bits)) as u8;
        out.extend((0..width as usize).map(pixel));
    }
    Ok((width, height))
}

/// Drops alpha and spreads grey, within the buffer.
fn reduce_to_rgb(pixels: &mut Vec<u8>, color: ColorType) -> Result<(), Fault> {
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
            grown(pixels, 3 * count, 0, "the colours of a grey PNG")?;
            // Goes backwards, so that no grey value is overwritten before it is read.
            for at in (0..count).rev() {
                let grey = pixels[step * at];
                pixels[3 * at..3 * at + 3].fill(grey);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::rng::SampleRng;
    use png::{Compression, Encoder, Filter};

    const LIMITS: Limits = Limits { max_pixels: 1_000_000 };

    /// A picture of noise and slopes; `chunk_bytes` is the size of its data chunks.
    fn picture(color: ColorType, depth: BitDepth, filter: Filter, chunk_bytes: usize, rng: &mut SampleRng) -> Vec<u8> {
        let (width, height) = (1 + rng.below(40) as u32, 1 + rng.below(30) as u32);
        let row_bytes = color.samples() * width as usize * depth as usize / 8;
        let (slope, noise) = (rng.next_u32() as usize % 7, 1 + rng.below(200));
        let data: Vec<u8> =
            (0..row_bytes * height as usize).map(|i| (i * slope / 3 + rng.below(noise) as usize) as u8).collect();
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        encoder.set_filter(filter);
        encoder.set_compression(if rng.chance(0.5) { Compression::High } else { Compression::Fast });
        if color == ColorType::Indexed {
            encoder.set_palette((0..=255).flat_map(|i| [i, 255 - i, i / 2]).collect::<Vec<u8>>());
        }
        if rng.chance(0.3) {
            encoder.add_text_chunk("Title".into(), "a picture".into()).unwrap();
        }
        let mut writer = encoder.write_header().unwrap();
        let mut stream = writer.stream_writer_with_size(chunk_bytes).unwrap();
        std::io::Write::write_all(&mut stream, &data).unwrap();
        stream.finish().unwrap();
        writer.finish().unwrap();
        bytes
    }

    fn whole(bytes: &[u8]) -> Option<RgbImage> {
        let mut image = RgbImage::default();
        decode_whole(bytes, png_whole::header(bytes)?, &mut image).map(|()| image)
    }

    fn careful(bytes: &[u8]) -> Result<RgbImage, Fault> {
        let mut image = RgbImage::default();
        decode_carefully(bytes, &LIMITS, &mut image).map(|()| image)
    }

    /// Depth by both decoders; `None` if the fast one needed the careful one.
    fn depths(bytes: &[u8]) -> Option<[Result<Vec<u16>, Fault>; 2]> {
        let header = png_whole::header(bytes).filter(|header| header.pixels == Pixels::Grey16)?;
        let mut quick = Vec::new();
        let read = |row: &[u8]| quick.extend(row.as_chunks().0.iter().map(|bytes| u16::from_be_bytes(*bytes)));
        png_whole::rows(bytes, header, read)?;
        let mut slow = vec![0; (header.width_px * header.height_px) as usize];
        let result = decode_depth_carefully(bytes, header.width_px, header.height_px, &mut slow);
        Some([Ok(quick), result.map(|()| slow)])
    }

    const FILTERS: [Filter; 6] =
        [Filter::NoFilter, Filter::Sub, Filter::Up, Filter::Avg, Filter::Paeth, Filter::Adaptive];

    #[test]
    fn the_quick_way_takes_ordinary_pictures_and_equals_the_careful_one() {
        use BitDepth::{Eight, Sixteen};
        use ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
        let mut rng = SampleRng::new(0, 0, 0, "pictures");
        for (color, depth, is_ordinary) in [
            (Grayscale, Eight, true),
            (GrayscaleAlpha, Eight, true),
            (Rgb, Eight, true),
            (Rgba, Eight, true),
            (Grayscale, Sixteen, true),
            (Indexed, Eight, false),
            (Rgb, Sixteen, false),
            (Rgba, Sixteen, false),
        ] {
            for filter in FILTERS {
                for round in 0..12 {
                    let chunk_bytes = if round % 3 == 0 { 57 } else { 1 << 15 };
                    let bytes = picture(color, depth, filter, chunk_bytes, &mut rng);
                    let quick = whole(&bytes);
                    assert_eq!(quick.is_some(), is_ordinary, "{color:?} {depth:?} {filter:?}");
                    let careful = careful(&bytes).unwrap();
                    assert!(quick.is_none_or(|quick| quick == careful), "{color:?} {depth:?} {filter:?}");
                    assert_eq!(
                        dimensions(&bytes, png_whole::header(&bytes)),
                        Ok((careful.width_px, careful.height_px))
                    );
                    if (color, depth) == (Grayscale, Sixteen) {
                        let [quick, slow] = depths(&bytes).unwrap();
                        assert_eq!(quick, slow);
                    }
                }
            }
        }
    }

    /// Writes the right checksum after every chunk, so that changed bytes pass the first check.
    fn mend_checksums(bytes: &mut [u8]) {
        let mut at = 8;
        while let Some(length) = bytes.get(at..at + 4) {
            let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
            let Some(end) = at.checked_add(length).map(|end| end + 8).filter(|end| end + 4 <= bytes.len()) else {
                return;
            };
            let checksum = crc32fast::hash(&bytes[at + 4..end]).to_be_bytes();
            bytes[end..end + 4].copy_from_slice(&checksum);
            at = end + 4;
        }
    }

    #[test]
    fn the_quick_way_takes_no_damaged_picture_that_the_careful_one_refuses_or_reads_otherwise() {
        let kinds = [
            (ColorType::Grayscale, BitDepth::Eight),
            (ColorType::Rgb, BitDepth::Eight),
            (ColorType::Rgba, BitDepth::Eight),
            (ColorType::Grayscale, BitDepth::Sixteen),
        ];
        let (mut taken, mut left) = (0, 0);
        let mut compare = |bytes: &[u8]| match whole(bytes) {
            Some(quick) => {
                taken += 1;
                assert_eq!(Ok(quick), careful(bytes), "{}", bytes.escape_ascii());
                if let Some([quick, slow]) = depths(bytes) {
                    assert_eq!(quick, slow);
                }
            }
            None => left += 1,
        };
        for round in 0..1500 {
            let mut rng = SampleRng::new(1, round, 0, "damage");
            let (color, depth) = kinds[rng.below(4) as usize];
            let filter = FILTERS[rng.below(6) as usize];
            let bytes = picture(color, depth, filter, if rng.chance(0.3) { 57 } else { 1 << 15 }, &mut rng);
            compare(&bytes[..rng.below(bytes.len() as u64) as usize]);
            compare(&[&bytes[..], b"and so on"].concat());
            for _ in 0..8 {
                let mut damaged = bytes.clone();
                for _ in 0..=rng.below(2) {
                    let at = rng.below(damaged.len() as u64) as usize;
                    match rng.below(4) {
                        0 => damaged[at] ^= 1 << rng.below(8),
                        1 => damaged[at] = rng.next_u32() as u8,
                        2 => drop(damaged.remove(at)),
                        _ => damaged.insert(at, 0),
                    }
                }
                compare(&damaged);
                mend_checksums(&mut damaged);
                compare(&damaged);
            }
        }
        eprintln!("{taken} taken, {left} left to the careful decoder");
        assert!(taken > 1500 && left > 10_000, "{taken} {left}");
    }

    #[test]
    fn a_wrong_checksum_of_chunk_or_pixels_is_not_taken() {
        let mut rng = SampleRng::new(2, 0, 0, "checksums");
        let good = picture(ColorType::Rgb, BitDepth::Eight, Filter::Paeth, 1 << 15, &mut rng);
        assert!(whole(&good).is_some());
        let ends = [4 + 12, 8 + 12]; // the data chunk's checksum, and before it that of the pixels
        for from_end in ends {
            let mut bad = good.clone();
            let at = bad.len() - from_end;
            bad[at] ^= 1;
            assert!(whole(&bad).is_none());
            mend_checksums(&mut bad);
            assert_eq!(whole(&bad).is_some(), from_end == ends[0], "mended");
        }
        // An end that is not an end, and none at all.
        assert!(whole(&good[..good.len() - 12]).is_none());
        assert!(careful(&good[..good.len() - 12]).is_err());
    }

    #[test]
    fn labels_are_grey_values_or_places_in_a_palette() {
        let mut rng = SampleRng::new(4, 0, 0, "labels");
        let mut out = Vec::new();
        for (color, depth) in [
            (ColorType::Grayscale, BitDepth::Eight),
            (ColorType::Indexed, BitDepth::Eight),
            (ColorType::Indexed, BitDepth::Four),
            (ColorType::Indexed, BitDepth::Two),
            (ColorType::Indexed, BitDepth::One),
        ] {
            let (width, height, bits) = (7usize, 5usize, depth as usize);
            let values: Vec<u8> = (0..width * height).map(|_| rng.below(1 << bits.min(7)) as u8).collect();
            let mut packed = Vec::new();
            for row in values.chunks(width) {
                let mut bytes = vec![0u8; (width * bits).div_ceil(8)];
                for (x, value) in row.iter().enumerate() {
                    bytes[x * bits / 8] |= value << (8 - bits - x * bits % 8);
                }
                packed.extend(bytes);
            }
            let mut file = Vec::new();
            let mut encoder = Encoder::new(&mut file, width as u32, height as u32);
            encoder.set_color(color);
            encoder.set_depth(depth);
            if color == ColorType::Indexed {
                encoder.set_palette((0..3usize << bits).map(|i| 255 - i as u8).collect::<Vec<u8>>());
            }
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&packed).unwrap();
            writer.finish().unwrap();
            assert_eq!(decode_labels_u8(&file, &LIMITS, &mut out), Ok((7, 5)), "{color:?} {depth:?}");
            assert_eq!(out, values, "{color:?} {depth:?}");
            if depth == BitDepth::Eight {
                assert_eq!(decode_labels_carefully(&file, &LIMITS, &mut out), Ok((7, 5)));
                assert_eq!(out, values);
            }
            for end in 0..file.len() {
                assert!(decode_labels_u8(&file[..end], &LIMITS, &mut out).is_err(), "{end} of {} bytes", file.len());
            }
        }
        for (color, depth) in [(ColorType::Rgb, BitDepth::Eight), (ColorType::Grayscale, BitDepth::Sixteen)] {
            let bytes = picture(color, depth, Filter::Sub, 1 << 15, &mut rng);
            let problem = decode_labels_u8(&bytes, &LIMITS, &mut out).unwrap_err().to_string();
            assert!(problem.contains("8-bit grey or a palette"), "{problem}");
        }
        assert!(
            decode_labels_u8(b"\xff\xd8\xff\xe0 a JPEG", &LIMITS, &mut out)
                .unwrap_err()
                .to_string()
                .contains("not a PNG")
        );
    }

    #[test]
    fn depth_is_read_from_grey_of_sixteen_bits_alone() {
        let mut rng = SampleRng::new(3, 0, 0, "depth");
        let mut out = Vec::new();
        let mut depth = |bytes: &[u8], (width, height): (u32, u32)| {
            out.resize((width * height) as usize, 0);
            decode_depth_u16(bytes, width, height, &mut out)
        };
        for color in [ColorType::Grayscale, ColorType::Rgb, ColorType::Indexed] {
            let bytes = picture(color, BitDepth::Eight, Filter::Sub, 1 << 15, &mut rng);
            let problem =
                depth(&bytes, dimensions(&bytes, png_whole::header(&bytes)).unwrap()).unwrap_err().to_string();
            assert!(problem.contains("not grey of 16"), "{problem}");
        }
        let bytes = picture(ColorType::Grayscale, BitDepth::Sixteen, Filter::Sub, 1 << 15, &mut rng);
        let (width, height) = dimensions(&bytes, png_whole::header(&bytes)).unwrap();
        assert_eq!(depth(&bytes, (width, height)), Ok(()));
        let problem = depth(&bytes, (width + 1, height)).unwrap_err().to_string();
        assert!(problem.contains(&format!("{width} x {height} px instead of {} x {height}", width + 1)), "{problem}");
        for end in 0..bytes.len() {
            assert!(depth(&bytes[..end], (width, height)).is_err(), "{end} of {} bytes", bytes.len());
        }
        for other in [&b""[..], b"\xff\xd8\xff\xe0 a JPEG", b"hello"] {
            assert!(depth(other, (1, 1)).is_err());
        }
    }
}
