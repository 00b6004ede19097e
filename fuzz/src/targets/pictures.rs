//! Pictures: whole, partial, scaled and cached decoding give the same pixels, and they equal Pillow's.

use super::{Bench, Verdict, kind};
use crate::mutate::Draw;
use crate::pillow::PillowAnswer;
use feedline::augment::{Filter, ImageOp};
use feedline::decode::{
    CropBox, DecodedCache, Fault, Limits, RgbImage, decode_depth_u16, decode_labels_u8, decode_rgb, decode_rgb_part,
    dimensions, header,
};
use feedline::deliver::SampleContext;
use feedline::pipeline::{DecodeMode, FusedDecode};
use feedline::plan::Plan;

/// Limits the time that a changed size field can cost.
const LIMITS: Limits = Limits { max_pixels: 1_000_000 };

pub const JPEG: &[&[u8]] = &[
    b"\xFF\xD8",
    b"\xFF\xD9",
    b"\xFF\xC0",
    b"\xFF\xC1",
    b"\xFF\xC2",
    b"\xFF\xC4",
    b"\xFF\xDA",
    b"\xFF\xDB",
    b"\xFF\xDD",
    b"\xFF\xDD\0\x04\0\x01",
    b"\xFF\xD0",
    b"\xFF\xD1",
    b"\xFF\xD7",
    b"\xFF\0",
    b"\xFF\xFF",
    b"\xFF\xE0\0\0",
    b"\xFF\xE1\0\x01",
    b"\xFF\xEE\0\x0EAdobe\0d\0\0\0\0\0",
    b"\xFF\xEE\0\x0EAdobe\0d\0\0\0\0\x01",
    b"\xFF\xEE\0\x0EAdobe\0d\0\0\0\0\x02",
    b"\xFF\xFE\0\x04ab",
    b"\x01\x11\0",
    b"\x01\x22\0",
    b"\x02\x11\x01",
    b"\x03\x11\x01",
    b"\x03\x41\x01",
    b"\x01\x44\0",
    b"\0\x3F\0",
    b"\x01\x05\x02",
    b"\0\0\x01",
];

pub const PNG: &[&[u8]] = &[
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"PLTE",
    b"tRNS",
    b"bKGD",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"gAMA",
    b"iCCP",
    b"eXIf",
    b"zTXt",
    b"\0\0\0\0IEND\xAE\x42\x60\x82",
    b"\0\0\0\0IDAT\x35\xAF\x06\x1E",
    b"\0\0\0\x07PLTE",
    b"\0\0\0\x1AfcTL",
    b"\x08\0",
    b"\x08\x02",
    b"\x08\x03",
    b"\x10\0",
    b"\x10\x06",
    b"\x01\0",
    b"\0\0\0\x01",
    b"\x78\x9C",
    b"\x03\0\0\0\0\x01",
];

pub const FORMATS: &[&[u8]] = &[
    b"BM",
    b"GIF89a",
    b"P1 ",
    b"P6\n",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"RIFF",
    b"WEBP",
    b"VP8 ",
    b"VP8L",
    b"VP8X",
    b"ANMF",
    b"EXIF",
    b"!\xF9\x04\x01",
    b",\0\0\0\0",
    b"\0\x01",
    b"\0\x02\xFF\xFF",
    b"\x9D\x01\x2A",
    b"\x2F",
    b"65535\n",
    b"#",
    b"\x01\x03\x03\0\x01\0\0\0\x05\0",
    b"\x01\x03\x03\0\x01\0\0\0\x08\0",
    b"\x01\x03\x03\0\x01\0\0\0\x05\x80",
    b"\x1C\x01\x03\0\x01\0\0\0\x02\0",
    b"\x3D\x01\x03\0\x01\0\0\0\x02\0",
    b"\x42\x01\x04\0",
    b"\x12\x01\x03\0\x01\0\0\0\x06\0",
    b"\xFF\xFF\xFF\xFF",
];

/// Cuts the part out of a picture, the plain way.
fn cut(image: &RgbImage, part: CropBox) -> RgbImage {
    let row_bytes = 3 * image.width_px as usize;
    let rows = image.pixels.chunks_exact(row_bytes).skip(part.top_px as usize).take(part.height_px as usize);
    let start = 3 * part.left_px as usize;
    let pixels = rows.flat_map(|row| &row[start..start + 3 * part.width_px as usize]).copied().collect();
    RgbImage { width_px: part.width_px, height_px: part.height_px, pixels }
}

/// A text that names the first difference of two pictures; `None` if they are equal.
fn difference(one: &RgbImage, other: &RgbImage) -> Option<String> {
    if (one.width_px, one.height_px) != (other.width_px, other.height_px) {
        let size = |image: &RgbImage| format!("{} x {}", image.width_px, image.height_px);
        return Some(format!("one has {} px, the other {}", size(one), size(other)));
    }
    let differing = one.pixels.iter().zip(&other.pixels).filter(|(a, b)| a != b).count();
    let most = one.pixels.iter().zip(&other.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    (differing > 0).then(|| format!("{differing} of {} bytes differ, by up to {most} levels", one.pixels.len()))
}

fn below(draw: &mut Draw, end: u32) -> u32 {
    draw.below(end as usize) as u32
}

fn some_part(draw: &mut Draw, width_px: u32, height_px: u32) -> CropBox {
    let (left_px, top_px) = (below(draw, width_px), below(draw, height_px));
    let (width_px, height_px) = (1 + below(draw, width_px - left_px), 1 + below(draw, height_px - top_px));
    CropBox { left_px, top_px, width_px, height_px }
}

/// A picture as RGB.
pub fn rgb(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    let decoded = decode_rgb(bytes, &LIMITS, &mut bench.whole);
    let Bench { whole, part: cropped, pillow, .. } = bench;
    let mut draw = Draw::new(bytes.len() as u64, bytes);
    match &decoded {
        Err(_) if *whole != RgbImage::default() => return Verdict::Wrong("pixels are left after an error".into()),
        Err(_) => {}
        Ok(()) => {
            let size = (whole.width_px, whole.height_px);
            if whole.pixels.len() as u64 != 3 * u64::from(size.0) * u64::from(size.1) || whole.pixels.is_empty() {
                return Verdict::Wrong(format!("{size:?} px have {} bytes", whole.pixels.len()));
            }
            let first = header(bytes).map(|header| (header.width_px, header.height_px));
            if first != Ok(size) || dimensions(bytes) != Ok(size) {
                return Verdict::Wrong(format!("the header says {first:?}, the picture has {size:?}"));
            }
            if let Some(problem) = parts_differ(bytes, whole, cropped, &mut draw) {
                return Verdict::Wrong(problem);
            }
        }
    }
    if let Some(problem) = ways_differ(bytes, &mut draw) {
        return Verdict::Wrong(problem);
    }
    let mut asked = Ok(None);
    if let Some([pillow, plain]) = pillow {
        asked = pillow.ask(bytes).map_err(|e| format!("Pillow could not be asked: {e}")).and_then(|said| {
            compare(&decoded, whole, &said)
                .or_else(|problem| match plain.ask(bytes) {
                    // Sums outside 16 bits, which only damaged files reach: libjpeg-turbo itself has two results.
                    Ok(other) if other != said => {
                        Ok("both accept, libjpeg-turbo's vector code and plain code differ".into())
                    }
                    _ => Err(problem),
                })
                .map(Some)
        });
    }
    let compared = match asked {
        Ok(compared) => compared,
        Err(problem) => return Verdict::Wrong(problem),
    };
    match decoded {
        Ok(()) => Verdict::Accepted { compared },
        Err(fault) => Verdict::Refused { said: fault.to_string(), compared },
    }
}

/// A part is a cut of the whole; a part of the scaled is a cut of the scaled whole.
fn parts_differ(bytes: &[u8], whole: &RgbImage, cropped: &mut RgbImage, draw: &mut Draw) -> Option<String> {
    let (width_px, height_px) = (whole.width_px, whole.height_px);
    for _ in 0..2 {
        let part = some_part(draw, width_px, height_px);
        if let Err(problem) = decode_rgb_part(bytes, &LIMITS, part, 1, cropped) {
            return Some(format!("a part is refused ({problem}), the whole is not: {part:?}"));
        }
        if let Some(problem) = difference(&cut(whole, part), cropped) {
            return Some(format!("a part is no cut of the whole: {problem}; {part:?}"));
        }
    }
    let all = CropBox { left_px: 0, top_px: 0, width_px, height_px };
    for shrink in [2, 4, 8] {
        let mut scaled = RgbImage::default();
        if let Err(problem) = decode_rgb_part(bytes, &LIMITS, all, shrink, &mut scaled) {
            return Some(format!("at one in {shrink} it is refused ({problem}), whole it is not"));
        }
        let part = some_part(draw, width_px, height_px);
        if let Err(problem) = decode_rgb_part(bytes, &LIMITS, part, shrink, cropped) {
            return Some(format!("a part at one in {shrink} is refused ({problem}), the whole is not: {part:?}"));
        }
        if let Some(problem) = difference(&cut(&scaled, part.shrunk(shrink)), cropped) {
            return Some(format!("a part at one in {shrink} is no cut of the whole at that: {problem}; {part:?}"));
        }
    }
    None
}

/// A sample's pixels do not depend on the cache, nor, without scaling, on the decoded part.
fn ways_differ(bytes: &[u8], draw: &mut Draw) -> Option<String> {
    let size_px = [1 + draw.below(24) as u32, 1 + draw.below(24) as u32];
    let crop =
        ImageOp::RandomResizedCrop { size_px, scale: [0.05, 1.0], ratio: [0.75, 4.0 / 3.0], filter: Filter::default() };
    let centre = ImageOp::ResizeCenterCrop { shorter_px: 24, size_px: [24, 16], filter: Filter::default() };
    let ops = if draw.one_in(3) { vec![centre] } else { vec![crop, ImageOp::HorizontalFlip { p: 0.5 }] };
    let plan = Plan::unshuffled(1, 1).ok()?;
    let mut clock = SampleContext::default();
    let mut made = |path: &FusedDecode, epoch: u64| {
        path.run(&plan.epoch(epoch).at(0), bytes, &mut clock, |image, _| image.to_image())
    };
    let mut by_mode = Vec::new();
    for mode in [DecodeMode::Fused, DecodeMode::Region, DecodeMode::Whole] {
        let plain = FusedDecode::new(ops.clone(), LIMITS, mode);
        let kept = FusedDecode::new(ops.clone(), LIMITS, mode).with_cache(DecodedCache::new(64 << 20));
        let mut pictures = Vec::new();
        for epoch in 0..2 {
            let (one, other) = (made(&plain, epoch), made(&kept, epoch));
            match (&one, &other) {
                (Ok(one), Ok(other)) => {
                    if let Some(problem) = difference(one, other) {
                        return Some(format!(
                            "{mode:?}: what was kept in memory gives other pixels: {problem}; {ops:?}"
                        ));
                    }
                }
                (Err(one), Err(other)) if one == other => {}
                _ => return Some(format!("{mode:?}: plainly {}, with a cache {}; {ops:?}", said(&one), said(&other))),
            }
            pictures.push(one);
        }
        by_mode.push(pictures);
    }
    let [_, region, whole] = &by_mode[..] else { return None };
    for (part, whole) in region.iter().zip(whole) {
        match (part, whole) {
            // Damage below a part is not looked at.
            (_, Err(_)) => {}
            (Err(problem), Ok(_)) => return Some(format!("Region refuses ({problem}) what Whole does not; {ops:?}")),
            (Ok(part), Ok(whole)) => {
                if let Some(problem) = difference(part, whole) {
                    return Some(format!("Region and Whole differ: {problem}; {ops:?}"));
                }
            }
        }
    }
    None
}

fn said(result: &Result<RgbImage, Fault>) -> String {
    result.as_ref().map_or_else(|problem| format!("refused ({problem})"), |_| "accepted".into())
}

/// Compares Feedline's result with Pillow's: the name of the case, or the violation as an error.
fn compare(ours: &Result<(), Fault>, whole: &RgbImage, pillows: &PillowAnswer) -> Result<String, String> {
    match (ours, pillows) {
        (Err(_), PillowAnswer::Refused(_)) => Ok("both refuse".into()),
        (Ok(()), PillowAnswer::Refused(said)) => Ok(format!("accepted, Pillow refuses: {}", kind(said))),
        (Err(said), PillowAnswer::Pixels { .. }) => Ok(format!("refused, Pillow accepts: {}", kind(&said.to_string()))),
        (Ok(()), PillowAnswer::Pixels { mode, width_px, height_px, rgb }) => {
            let theirs = RgbImage { width_px: *width_px, height_px: *height_px, pixels: rgb.clone() };
            match difference(whole, &theirs) {
                None => Ok("both accept, all pixels equal".into()),
                // Rare, of damaged files only, and known; intact ones are compared by the decoder's tests.
                Some(_) if mode == "CMYK" => Ok("both accept, four inks with other pixels".into()),
                // Documented: Pillow clips, this takes the high byte.
                Some(_) if mode.starts_with("I") => Ok("both accept, 16-bit grey, which Pillow clips".into()),
                Some(problem) => Err(format!("pixels differ from Pillow's (mode {mode}): {problem}")),
            }
        }
    }
}

/// A PNG whose pixels are depths or labels.
pub fn numbers(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    let mut labels = Vec::new();
    let found = decode_labels_u8(bytes, &LIMITS, &mut labels);
    if let Ok((width_px, height_px)) = found
        && labels.len() as u64 != u64::from(width_px) * u64::from(height_px)
    {
        return Verdict::Wrong(format!("{width_px} x {height_px} px have {} labels", labels.len()));
    }
    let depth = match dimensions(bytes) {
        Ok((width_px, height_px)) if u64::from(width_px) * u64::from(height_px) <= LIMITS.max_pixels => {
            let mut depths = vec![0; width_px as usize * height_px as usize];
            let depth = decode_depth_u16(bytes, width_px, height_px, &mut depths);
            // The RGB picture shows its high bytes.
            if depth.is_ok() && decode_rgb(bytes, &LIMITS, &mut bench.whole).is_ok() {
                let shown = bench.whole.pixels.as_chunks::<3>().0;
                if let Some(at) = depths.iter().zip(shown).position(|(depth, rgb)| [(depth >> 8) as u8; 3] != *rgb) {
                    return Verdict::Wrong(format!("depth {at} is {}, the picture shows {:?}", depths[at], shown[at]));
                }
            }
            depth
        }
        Ok(_) => Err("too large".into()),
        Err(problem) => Err(problem),
    };
    match (found, depth) {
        (Err(said), Err(more)) => Verdict::Refused { said: format!("{said}; {more}"), compared: None },
        _ => Verdict::Accepted { compared: None },
    }
}
