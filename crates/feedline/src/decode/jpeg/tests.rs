//! The fast decoder against the general one, pixel for pixel: sizes, samplings, qualities, parts, scales, damage.

use super::{frame, general, survey};
use crate::decode::{CropBox, Limits, RgbImage, decode_rgb, decode_rgb_part, header};
use crate::plan::rng::SampleRng;
use libjpeg_turbo_rs::{
    Decoder, Encoder, PixelFormat, ScalingFactor, Subsampling, read_coefficients, write_coefficients_progressive,
};

/// The fast decoder, if it knows the kind of picture.
fn own(
    bytes: &[u8],
    limits: &Limits,
    part: Option<CropBox>,
    shrink: u32,
    portable: bool,
    into: &mut RgbImage,
) -> Option<()> {
    super::own(&frame(bytes)?, limits, part, shrink, portable, into)
}

/// Grain on slopes and edges; `grain` 0 to 255.
fn scene(width: usize, height: usize, grain: u64, rng: &mut SampleRng) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            let edge = if (x / 13 + y / 9) % 3 == 0 { 90 } else { 0 };
            let slopes = [x * 255 / width, y * 255 / height, (x + y) * 127 / (width + height) + edge];
            pixels.extend(slopes.map(|v| (v as u64 + rng.below(grain + 1)).min(255) as u8));
        }
    }
    pixels
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    sampling: Option<Subsampling>,
    quality: u8,
    restart_mcus: u16,
    optimised: bool,
    grain: u64,
}

fn encode(width: usize, height: usize, kind: Kind, rng: &mut SampleRng) -> Vec<u8> {
    let pixels = scene(width, height, kind.grain, rng);
    let mut encoder = Encoder::new(&pixels, width, height, PixelFormat::Rgb)
        .quality(kind.quality)
        .force_baseline(true)
        .optimize_huffman(kind.optimised)
        .subsampling(kind.sampling.unwrap_or(Subsampling::S444))
        .grayscale_from_color(kind.sampling.is_none());
    if kind.restart_mcus > 0 {
        encoder = encoder.restart_blocks(kind.restart_mcus);
    }
    encoder.encode().unwrap()
}

fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for sampling in [None, Some(Subsampling::S444), Some(Subsampling::S422), Some(Subsampling::S420)] {
        for (quality, restart_mcus, optimised, grain) in
            [(5, 0, false, 20), (50, 3, true, 60), (90, 0, false, 30), (97, 7, false, 255), (100, 0, true, 255)]
        {
            kinds.push(Kind { sampling, quality, restart_mcus, optimised, grain });
        }
    }
    kinds
}

fn whole(image: &RgbImage) -> CropBox {
    CropBox { left_px: 0, top_px: 0, width_px: image.width_px, height_px: image.height_px }
}

fn cut(image: &RgbImage, part: CropBox) -> RgbImage {
    let mut pixels = Vec::new();
    for row in part.top_px..part.top_px + part.height_px {
        let at = 3 * (row * image.width_px + part.left_px) as usize;
        pixels.extend_from_slice(&image.pixels[at..at + 3 * part.width_px as usize]);
    }
    RgbImage { width_px: part.width_px, height_px: part.height_px, pixels }
}

/// The whole picture at 1/`shrink` by the general decoder's own scaling.
fn scaled(bytes: &[u8], shrink: u32) -> RgbImage {
    let mut decoder = Decoder::new(bytes).unwrap();
    decoder.set_output_format(PixelFormat::Rgb);
    decoder.set_scale(ScalingFactor::try_new(1, shrink).unwrap());
    let image = decoder.decode_image().unwrap();
    RgbImage { width_px: image.width as u32, height_px: image.height as u32, pixels: image.data }
}

#[track_caller]
fn same(found: &RgbImage, expected: &RgbImage, what: &dyn std::fmt::Debug) {
    assert_eq!((found.width_px, found.height_px), (expected.width_px, expected.height_px), "{what:?}");
    if let Some(at) = found.pixels.iter().zip(&expected.pixels).position(|(a, b)| a != b) {
        let (x, y) = (at / 3 % found.width_px as usize, at / 3 / found.width_px as usize);
        panic!("{what:?}: column {x}, row {y}: {} is not {}", found.pixels[at], expected.pixels[at]);
    }
    assert_eq!(found.pixels.len(), expected.pixels.len(), "{what:?}");
}

fn random_part(width: u32, height: u32, rng: &mut SampleRng) -> CropBox {
    let width_px = 1 + rng.below(width.into()) as u32;
    let height_px = 1 + rng.below(height.into()) as u32;
    let left_px = rng.below(u64::from(width - width_px) + 1) as u32;
    let top_px = rng.below(u64::from(height - height_px) + 1) as u32;
    CropBox { left_px, top_px, width_px, height_px }
}

#[test]
fn any_part_at_any_scale_is_cut_from_the_general_decoders_picture() {
    let sizes =
        [(1, 1), (2, 3), (3, 2), (4, 5), (5, 4), (7, 40), (8, 8), (16, 16), (17, 31), (33, 15), (64, 48), (129, 97)];
    let limits = Limits::default();
    let mut found = RgbImage::default();
    for (round, kind) in kinds().into_iter().enumerate() {
        for (width, height) in sizes {
            let mut rng = SampleRng::new(7, round as u64, (width * 1000 + height) as u64, "parts");
            let bytes = encode(width, height, kind, &mut rng);
            let mut full = RgbImage::default();
            general::decode_rgb(&bytes, &limits, 1, &mut full, &mut |_| ()).unwrap();
            assert_eq!(header(&bytes).unwrap().max_shrink, 8, "{kind:?}");
            for shrink in [1, 2, 4, 8] {
                let expected = if shrink == 1 { full.clone() } else { scaled(&bytes, shrink) };
                for turn in 0..6 {
                    let part =
                        if turn == 0 { whole(&full) } else { random_part(width as u32, height as u32, &mut rng) };
                    let what = (kind, width, height, shrink, part);
                    let expected = cut(&expected, part.shrunk(shrink));
                    for portable in [false, true] {
                        assert!(own(&bytes, &limits, Some(part), shrink, portable, &mut found).is_some(), "{what:?}");
                        same(&found, &expected, &(what, portable));
                    }
                    decode_rgb_part(&bytes, &limits, part, shrink, &mut found).unwrap();
                    same(&found, &expected, &what);
                }
            }
        }
    }
}

/// Photographs, and the small fixtures: whole, and in parts.
#[test]
fn photographs_and_fixtures_are_the_general_decoders() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for (folder, most) in [("testdata/images/jpeg", 100), ("../shared/data/bccd", 5)] {
        let mut found = Vec::new();
        let mut folders = vec![root.join(folder)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else {
                eprintln!("skipped: {} is not there", folder.display());
                continue;
            };
            for path in entries.map(|entry| entry.unwrap().path()) {
                match path.extension() {
                    _ if path.is_dir() => folders.push(path),
                    Some(end) if end == "jpg" => found.push(path),
                    _ => {}
                }
            }
        }
        found.sort();
        files.extend(found.into_iter().take(most));
    }
    assert!(files.len() >= 8);
    let limits = Limits::default();
    let (mut found, mut expected) = (RgbImage::default(), RgbImage::default());
    let mut own_ones = 0;
    for (number, path) in files.into_iter().enumerate() {
        let bytes = std::fs::read(&path).unwrap();
        general::decode_rgb(&bytes, &limits, 1, &mut expected, &mut |_| ()).unwrap();
        let mut rng = SampleRng::new(9, 0, number as u64, "photographs");
        for turn in 0..8 {
            let (w, h) = (expected.width_px, expected.height_px);
            let part = if turn == 0 { whole(&expected) } else { random_part(w, h, &mut rng) };
            decode_rgb_part(&bytes, &limits, part, 1, &mut found).unwrap();
            same(&found, &cut(&expected, part), &(&path, part));
            own_ones += usize::from(own(&bytes, &limits, Some(part), 1, true, &mut found).is_some());
        }
    }
    assert!(own_ones >= 8, "the fast decoder took {own_ones}");
}

#[test]
fn parts_of_other_formats_are_cut_and_averaged() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/images/png/rgb8.png");
    let bytes = std::fs::read(path).unwrap();
    let limits = Limits::default();
    let mut full = RgbImage::default();
    decode_rgb(&bytes, &limits, &mut full).unwrap();
    let mut rng = SampleRng::new(10, 0, 0, "other formats");
    for shrink in [1, 2, 4, 8] {
        for _ in 0..20 {
            let part = random_part(full.width_px, full.height_px, &mut rng);
            let mut found = RgbImage::default();
            decode_rgb_part(&bytes, &limits, part, shrink, &mut found).unwrap();
            let small = part.shrunk(shrink);
            assert_eq!((found.width_px, found.height_px), (small.width_px, small.height_px));
            for (at, &value) in found.pixels.iter().enumerate() {
                let (pixel, channel) = (at as u32 / 3, at % 3);
                let (x, y) = (small.left_px + pixel % small.width_px, small.top_px + pixel / small.width_px);
                let (mut sum, mut count) = (0, 0);
                for row in y * shrink..((y + 1) * shrink).min(full.height_px) {
                    for column in x * shrink..((x + 1) * shrink).min(full.width_px) {
                        sum += u32::from(full.pixels[3 * (row * full.width_px + column) as usize + channel]);
                        count += 1;
                    }
                }
                assert_eq!(u32::from(value), (2 * sum + count) / (2 * count), "{part:?} at 1/{shrink}, byte {at}");
            }
        }
    }
}

#[test]
fn parts_that_are_none_are_refused() {
    let mut rng = SampleRng::new(11, 0, 0, "refused");
    let bytes = encode(40, 30, kinds()[7], &mut rng);
    let part = |left_px, top_px, width_px, height_px| CropBox { left_px, top_px, width_px, height_px };
    let parts = [
        part(0, 0, 0, 5),
        part(0, 0, 5, 0),
        part(40, 0, 1, 1),
        part(0, 29, 1, 2),
        part(1, 0, 40, 1),
        part(u32::MAX, 0, u32::MAX, 1),
        part(5, 5, u32::MAX, u32::MAX),
    ];
    for part in parts {
        for shrink in [1, 8] {
            let mut image = RgbImage { width_px: 1, height_px: 1, pixels: vec![1; 3] };
            let problem =
                decode_rgb_part(&bytes, &Limits::default(), part, shrink, &mut image).unwrap_err().to_string();
            assert!(problem.contains("is no part of 40 x 30 px"), "{problem}");
            assert_eq!(image, RgbImage::default());
        }
    }
    let problem = decode_rgb_part(&bytes, &Limits::default(), part(0, 0, 1, 1), 3, &mut RgbImage::default());
    assert!(problem.unwrap_err().to_string().contains("1/3"));
}

/// With bytes changed, lost and doubled, the verdict and the pixels equal those of the general decoder alone.
#[test]
fn damage_changes_nothing_but_the_speed() {
    let limits = Limits { max_pixels: 1_000_000 };
    let (mut found, mut expected) = (RgbImage::default(), RgbImage::default());
    let (mut tried, mut refused, mut own_ones) = (0, 0, 0);
    for (round, kind) in kinds().into_iter().enumerate() {
        let mut rng = SampleRng::new(8, round as u64, 0, "damage");
        let bytes = encode(75, 50, kind, &mut rng);
        for turn in 0..400 {
            let mut damaged = bytes.clone();
            match turn % 4 {
                0 => damaged.truncate(rng.below(damaged.len() as u64) as usize),
                _ => {
                    for _ in 0..=rng.below(3) {
                        let at = rng.below(damaged.len() as u64) as usize;
                        match rng.below(4) {
                            0 => damaged[at] = rng.next_u32() as u8,
                            1 => damaged[at] ^= 1 << rng.below(8),
                            2 => drop(damaged.remove(at)),
                            _ => damaged.insert(at, 0xFF),
                        }
                    }
                }
            }
            tried += 1;
            let verdict = decode_rgb(&damaged, &limits, &mut found);
            let oracle = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                general::decode_rgb(&damaged, &limits, 1, &mut expected, &mut |_| ())
            }));
            let Ok(oracle) = oracle else { continue };
            if damaged.starts_with(&[0xFF, 0xD8, 0xFF]) {
                assert_eq!(verdict, oracle, "{kind:?}, turn {turn}");
            }
            if oracle.is_err() {
                refused += 1;
            } else if verdict.is_ok() {
                same(&found, &expected, &(kind, turn));
                own_ones += usize::from(own(&damaged, &limits, None, 1, true, &mut found).is_some());
                same(&found, &expected, &("portable", kind, turn));
            }
        }
    }
    eprintln!("{refused} of {tried} refused, {own_ones} decoded by the fast decoder");
    assert!(refused > tried / 4 && own_ones > tried / 10, "{refused} {own_ones} {tried}");
}

/// Makes the quantisation steps so coarse that sums leave 16 and 32 bits.
fn coarsen(bytes: &mut [u8], times: u8) {
    for at in 0..bytes.len() - 69 {
        if bytes[at..at + 2] == [0xFF, 0xDB] {
            bytes[at + 5..at + 69].iter_mut().for_each(|step| *step = step.saturating_mul(times));
        }
    }
}

/// A part equals the same pixels of the whole picture, at every scale and with every implementation.
#[test]
fn a_part_of_a_damaged_picture_is_cut_from_the_whole_one() {
    let limits = Limits { max_pixels: 1_000_000 };
    let (mut found, mut expected) = (RgbImage::default(), RgbImage::default());
    // Counts whole pictures that the fast decoder leaves to the general one, and parts of those that it decodes itself.
    let (mut left, mut own_parts, mut wild) = (0, 0, 0);
    for (round, kind) in kinds().into_iter().enumerate() {
        let mut rng = SampleRng::new(12, round as u64, 0, "parts of damage");
        for turn in 0..120 {
            let mut damaged = encode(90, 70, kind, &mut rng);
            let scan = damaged.windows(2).position(|two| two == [0xFF, 0xDA]).unwrap() + 14;
            for _ in 0..turn % 4 {
                let at = scan + rng.below((damaged.len() - scan) as u64) as usize;
                damaged[at] ^= 1 << rng.below(8);
            }
            if turn % 3 == 0 {
                coarsen(&mut damaged, [3, 20, 255][turn / 3 % 3]);
                wild += 1;
            }
            let Ok(found_header) = header(&damaged) else { continue };
            let (w, h) = (found_header.width_px, found_header.height_px);
            for shrink in [1, 2, 4, 8] {
                let all = CropBox { left_px: 0, top_px: 0, width_px: w, height_px: h };
                if decode_rgb_part(&damaged, &limits, all, shrink, &mut expected).is_err() {
                    continue;
                }
                let is_left = own(&damaged, &limits, None, shrink, false, &mut found).is_none();
                assert_eq!(
                    is_left,
                    own(&damaged, &limits, None, shrink, true, &mut found).is_none(),
                    "{kind:?}, turn {turn}"
                );
                left += usize::from(is_left);
                for _ in 0..4 {
                    let part = random_part(w, h, &mut rng);
                    let what = (kind, turn, shrink, part);
                    let expected = cut(&expected, part.shrunk(shrink));
                    decode_rgb_part(&damaged, &limits, part, shrink, &mut found).unwrap();
                    same(&found, &expected, &what);
                    for portable in [false, true] {
                        if own(&damaged, &limits, Some(part), shrink, portable, &mut found).is_some() {
                            same(&found, &expected, &(what, portable));
                            own_parts += usize::from(is_left);
                        }
                    }
                }
            }
        }
    }
    eprintln!("{left} whole pictures left to the general decoder, {own_parts} parts of them not; {wild} coarse ones");
    assert!(left > 500 && own_parts > 500 && wild > 500, "{left} {own_parts} {wild}");
}

#[test]
fn the_general_decoder_asks_for_memory_before_it_takes_any_and_never_for_a_header_alone() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/");
    let mut asked = Vec::new();
    let mut decode = |name: &str| {
        let bytes = std::fs::read(format!("{root}{name}")).unwrap();
        let mut image = RgbImage::default();
        asked.clear();
        let result = general::decode_rgb(&bytes, &Limits::default(), 1, &mut image, &mut |bytes| asked.push(bytes));
        (result, asked.clone(), image.pixels.capacity())
    };
    // 41 x 31 px are 3 x 2 MCUs of six blocks, each with 64 coefficients of two bytes, a note, and 64 samples.
    let (result, asked, _) = decode("images/jpeg/ycbcr420_progressive.jpg");
    assert_eq!((result, asked), (Ok(()), vec![3 * 2 * 6 * (129 + 64) + 3 * 41 * 31]));
    let (result, asked, taken) = decode("hostile/progressive_header_alone.jpg");
    assert!(result.unwrap_err().to_string().contains("truncated JPEG"));
    assert_eq!((asked.len(), taken), (0, 0));
    // Arithmetic codes may take very few bytes, so no length check applies; the header alone determines the memory.
    let mut bytes = std::fs::read(format!("{root}hostile/progressive_header_alone.jpg")).unwrap();
    let at = bytes.windows(2).position(|two| two == [0xFF, 0xC2]).unwrap();
    bytes[at + 1] = 0xCA;
    let found = survey::survey(&bytes, true).unwrap().unwrap();
    assert!(found.check_lengths().is_ok() && found.decoder_bytes() > 1 << 30, "{}", found.decoder_bytes());
}

/// The same coefficients in several scans; the general decoder gives only their samples.
#[test]
fn colour_finer_than_luma_is_read_from_progressive_files_too() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/images/jpeg/");
    let bytes = std::fs::read(format!("{root}colour_finer.jpg")).unwrap();
    let (mut image, mut again) = (RgbImage::default(), RgbImage::default());
    decode_rgb(&bytes, &Limits::default(), &mut image).unwrap();
    let progressive = write_coefficients_progressive(&read_coefficients(&bytes).unwrap(), None).unwrap();
    assert!(progressive.windows(2).any(|two| two == [0xFF, 0xC2]));
    decode_rgb(&progressive, &Limits::default(), &mut again).unwrap();
    same(&again, &image, &"progressive");
    let last = progressive.windows(2).rposition(|two| two == [0xFF, 0xDA]).unwrap();
    let problem = decode_rgb(&[&progressive[..last], &[0xFF, 0xD9]].concat(), &Limits::default(), &mut again);
    assert!(problem.unwrap_err().to_string().contains("incomplete JPEG: its last scans are missing"));
    // A picture that the general decoder does not smooth is refused too.
    let arithmetic = Encoder::new(&[90; 3 * 40 * 30], 40, 30, PixelFormat::Rgb).arithmetic(true).progressive(true);
    let arithmetic = arithmetic.encode().unwrap();
    decode_rgb(&arithmetic, &Limits::default(), &mut again).unwrap();
    let last = arithmetic.windows(2).rposition(|two| two == [0xFF, 0xDA]).unwrap();
    let problem = decode_rgb(&[&arithmetic[..last], &[0xFF, 0xD9]].concat(), &Limits::default(), &mut again);
    assert!(problem.unwrap_err().to_string().contains("codes are arithmetic"));
}

#[test]
fn a_component_in_two_scans_is_damage() {
    let bytes = std::fs::read("../../testdata/images/jpeg/colour_finer_in_scans.jpg").unwrap();
    let scans: Vec<usize> = (0..bytes.len() - 1).filter(|&at| bytes[at..].starts_with(&[0xFF, 0xDA])).collect();
    let [first, second, _] = scans[..] else { panic!("three scans, and not {scans:?}") };
    let twice = [&bytes[..second], &bytes[first..second], &bytes[second..]].concat();
    let (mut image, limits) = (RgbImage::default(), Limits::default());
    decode_rgb(&bytes, &limits, &mut image).unwrap();
    let problem = decode_rgb(&twice, &limits, &mut image).unwrap_err().to_string();
    assert_eq!(problem, "damaged JPEG: component 1 stands in two scans");
}
