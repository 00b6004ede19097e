//! The fused image path against the plain one: decode everything, then apply one operation after the other.

use feedline::augment::{Augmentation, Filter, ImageOp, apply_all};
use feedline::decode::{DecodedCache, Limits, RgbImage, decode_rgb, header};
use feedline::deliver::SampleContext;
use feedline::pipeline::{DecodeMode, Exif, FusedDecode};
use feedline::plan::rng::SampleRng;
use feedline::plan::{Plan, Request};
use libjpeg_turbo_rs::{Encoder, PixelFormat, Subsampling};
use std::path::Path;

/// A picture with gentle and hard structure, as JPEG.
fn jpeg(width: usize, height: usize, quality: u8, subsampling: Subsampling, seed: u64) -> Vec<u8> {
    let mut rng = SampleRng::new(seed, 0, 0, "picture");
    let waves: Vec<[f64; 4]> = (0..9).map(|_| [(); 4].map(|()| rng.uniform(0.0, 1.0))).collect();
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                let wave: f64 = waves[3 * c..3 * c + 3]
                    .iter()
                    .map(|w| 40.0 * (w[0] * x as f64 / 5.0 + w[1] * y as f64 / 3.0 + 6.3 * w[2]).sin())
                    .sum();
                let block = if (x / 23 + y / 17) % 2 == 0 { 25.0 } else { -25.0 };
                pixels.push((128.0 + wave + block).clamp(0.0, 255.0) as u8);
            }
        }
    }
    Encoder::new(&pixels, width, height, PixelFormat::Rgb).quality(quality).subsampling(subsampling).encode().unwrap()
}

/// Pictures of all sizes and kinds.
fn pictures() -> Vec<Vec<u8>> {
    use Subsampling::{S420, S422, S444};
    let mut pictures: Vec<Vec<u8>> = [
        (500, 375, 92, S420),
        (375, 500, 75, S422),
        (97, 61, 98, S444),
        (640, 480, 50, S420),
        (31, 17, 90, S420),
        (1, 1, 90, S420),
        (300, 5, 90, S422),
        (1023, 769, 85, S420),
    ]
    .into_iter()
    .zip(0..)
    .map(|((w, h, q, s), seed)| jpeg(w, h, q, s, seed))
    .collect();
    for name in ["images/jpeg", "images/png"] {
        let folder = format!("{}/../../testdata/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let images = files.iter().filter(|path| path.extension().is_some_and(|e| e == "jpg" || e == "png"));
        pictures.extend(images.map(|path| std::fs::read(path).unwrap()).filter(|bytes| header(bytes).is_ok()));
    }
    assert!(pictures.len() > 15);
    pictures
}

fn lists() -> Vec<Vec<ImageOp>> {
    let (size_px, filter) = ([40, 56], Filter::Bicubic);
    let mut flipped = Augmentation::Upstream.train_ops(48);
    flipped.truncate(2);
    vec![
        flipped,
        Augmentation::Upstream.train_ops(33),
        Augmentation::Light.train_ops(64),
        Augmentation::eval_ops(50),
        vec![ImageOp::ResizeCenterCrop { shorter_px: 64, size_px, filter }, ImageOp::HorizontalFlip { p: 1.0 }],
        vec![ImageOp::Resize { size_px, filter }],
        vec![ImageOp::ColorJitter { brightness: 0.3, contrast: 0.3, saturation: 0.3 }],
        vec![],
    ]
}

fn request(index: u64, epoch: u64) -> Request {
    Request { seed: 7, epoch, pass: epoch, position: 0, index, padded: false }
}

/// The picture by the simple code.
fn plain(ops: &[ImageOp], bytes: &[u8], request: &Request) -> RgbImage {
    let mut image = RgbImage::default();
    decode_rgb(bytes, &Limits::default(), &mut image).unwrap();
    apply_all(ops, &mut image, |stage| request.rng(stage));
    image
}

fn run(path: &FusedDecode, bytes: &[u8], request: &Request) -> RgbImage {
    path.run(request, bytes, &mut SampleContext::default(), |picture, _| picture.to_image()).unwrap()
}

#[test]
fn decoding_only_the_part_that_is_needed_changes_no_pixel() {
    let pictures = pictures();
    for ops in lists() {
        for mode in [DecodeMode::Region, DecodeMode::Whole] {
            let path = FusedDecode::new(ops.clone(), Limits::default(), mode);
            for (index, bytes) in (0..).zip(&pictures) {
                for epoch in 0..6 {
                    let request = request(index, epoch);
                    let got = run(&path, bytes, &request);
                    assert!(got == plain(&ops, bytes, &request), "{mode:?}, picture {index}, epoch {epoch}, {ops:?}");
                }
            }
        }
    }
}

/// Upright means: as if the file had been stored upright, for every operation, way of decoding and cache.
#[test]
fn a_picture_that_is_turned_upright_is_the_one_that_is_stored_so() {
    let read = |name: &str| {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/images/formats").join(name)).unwrap()
    };
    let whole = FusedDecode::new(Vec::new(), Limits::default(), DecodeMode::Whole).with_exif(Exif::Apply);
    let names =
        (1..9).map(|value| format!("exif_{value}.jpg")).chain(["exif_6.png".into(), "exif_6_progressive.jpg".into()]);
    let mut shrunk = 0;
    let small = ImageOp::Resize { size_px: [8, 9], filter: Filter::Bilinear };
    for name in names {
        let bytes = read(&name);
        let upright = run(&whole, &bytes, &request(0, 0));
        for ops in lists().into_iter().chain([vec![small.clone()]]) {
            for mode in [DecodeMode::Fused, DecodeMode::Region, DecodeMode::Whole] {
                let path = FusedDecode::new(ops.clone(), Limits::default(), mode).with_exif(Exif::Apply);
                let cached = FusedDecode::new(ops.clone(), Limits::default(), mode)
                    .with_exif(Exif::Apply)
                    .with_cache(DecodedCache::new(1 << 30));
                for epoch in 0..4 {
                    let request = request(0, epoch);
                    let got = run(&path, &bytes, &request);
                    assert!(got == run(&cached, &bytes, &request), "{name}, {mode:?}, cached, {ops:?}");
                    let mut expect = upright.clone();
                    apply_all(&ops, &mut expect, |stage| request.rng(stage));
                    let worst = got.pixels.iter().zip(&expect.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                    shrunk += u32::from(worst > 0);
                    assert_eq!((got.height_px, got.width_px), (expect.height_px, expect.width_px));
                    // What was shrunk while it was decoded has other pixels, near those.
                    let bound = if mode == DecodeMode::Fused { 60 } else { 0 };
                    assert!(worst <= bound, "{name}, {mode:?}, epoch {epoch}, off by {worst}, {ops:?}");
                }
            }
        }
    }
    assert!(shrunk > 20, "{shrunk} were shrunk while they were decoded");
}

#[test]
fn a_cache_of_any_size_changes_no_pixel_and_stays_within_its_budget() {
    let pictures = pictures();
    for mode in [DecodeMode::Fused, DecodeMode::Region, DecodeMode::Whole] {
        for ops in [lists().swap_remove(0), lists().swap_remove(3)] {
            let uncached = FusedDecode::new(ops.clone(), Limits::default(), mode);
            for budget_bytes in [0, 60_000, 1 << 30] {
                let cache = DecodedCache::new(budget_bytes);
                let sibling = cache.sibling();
                let path = FusedDecode::new(ops.clone(), Limits::default(), mode).with_cache(cache);
                for epoch in 0..5 {
                    for (index, bytes) in (0..).zip(&pictures) {
                        let request = request(index, epoch);
                        // A sample from the cache needs no bytes.
                        let bytes_now = if path.is_cached(&request) { &[][..] } else { bytes };
                        assert!(
                            run(&path, bytes_now, &request) == run(&uncached, bytes, &request),
                            "{mode:?}, {budget_bytes} bytes, picture {index}, epoch {epoch}"
                        );
                    }
                }
                assert!(sibling.used_bytes() <= budget_bytes);
                let cached = (0..pictures.len() as u64).filter(|index| path.is_cached(&request(*index, 4))).count();
                match budget_bytes {
                    0 => assert_eq!(cached, 0),
                    60_000 => assert!(cached > 0 && cached < pictures.len(), "{cached} of {}", pictures.len()),
                    _ => assert_eq!(cached, pictures.len()),
                }
            }
        }
    }
}

#[test]
fn a_shrunk_picture_differs_little_and_one_that_cannot_be_shrunk_not_at_all() {
    let mut worst_mean: f64 = 0.0;
    let mut shrunk = 0;
    for (seed, (width, height, side)) in (20..).zip([(1920, 1280, 224), (1600, 1200, 96), (901, 1203, 128)]) {
        let bytes = jpeg(width, height, 90, Subsampling::S420, seed);
        for ops in [Augmentation::Upstream.train_ops(side), Augmentation::eval_ops(side)] {
            let ops = &ops[..1];
            let fused = FusedDecode::new(ops.to_vec(), Limits::default(), DecodeMode::Fused);
            for epoch in 0..8 {
                let request = request(3, epoch);
                let (got, expect) = (run(&fused, &bytes, &request), plain(ops, &bytes, &request));
                let found = header(&bytes).unwrap();
                let mut rng = request.rng(&ops[0].stream(0));
                let view = ops[0].view(found.width_px, found.height_px, &mut rng).unwrap();
                if view.shrink(found.max_shrink) == 1 {
                    assert!(got == expect, "nothing is shrunk, so nothing differs");
                    continue;
                }
                shrunk += 1;
                let sum: f64 = got.pixels.iter().zip(&expect.pixels).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
                worst_mean = worst_mean.max(sum / got.pixels.len() as f64);
            }
        }
    }
    assert!(shrunk >= 10, "{shrunk}");
    assert!(worst_mean < 6.0, "mean difference {worst_mean} of 255 levels");
    eprintln!("largest mean difference of a shrunk picture: {worst_mean:.2} levels of 255");
}

#[test]
fn crops_drawn_from_the_header_follow_the_plan() {
    // The same sample in the same epoch looks the same on any rank and at any position.
    let bytes = jpeg(500, 375, 90, Subsampling::S420, 1);
    let path = FusedDecode::new(lists().swap_remove(0), Limits::default(), DecodeMode::Fused);
    let of = |ranks: u64| {
        let plan = Plan::new(30, ranks).unwrap();
        let order = plan.epoch(2);
        let found = (0..ranks).flat_map(|rank| order.rank(rank).collect::<Vec<_>>()).find(|r| r.index == 9).unwrap();
        run(&path, &bytes, &found)
    };
    assert!(of(1) == of(3) && of(3) == of(5));
}

#[test]
fn a_cache_does_not_change_what_becomes_of_damaged_pictures() {
    let small = jpeg(300, 400, 90, Subsampling::S420, 5);
    let large = jpeg(1600, 1200, 90, Subsampling::S420, 6);
    let mut pictures = vec![];
    for whole in [&small, &large] {
        // Cut short, without its end marker, and with one byte of the lower half changed.
        pictures.extend([whole[..whole.len() * 2 / 3].to_vec(), whole[..whole.len() - 2].to_vec()]);
        pictures.extend((0..6).map(|i| {
            let mut bytes = whole.clone();
            let at = bytes.len() / 2 + i * bytes.len() / 14;
            bytes[at] ^= 0x5A;
            bytes
        }));
    }
    let mut noticed = [0, 0];
    for mode in [DecodeMode::Fused, DecodeMode::Region] {
        let ops = lists().swap_remove(0);
        let plain = FusedDecode::new(ops.clone(), Limits::default(), mode);
        let cached = FusedDecode::new(ops, Limits::default(), mode).with_cache(DecodedCache::new(1 << 30));
        for epoch in 0..8 {
            for (index, bytes) in (0..).zip(&pictures) {
                let request = request(index, epoch);
                let of = |path: &FusedDecode| {
                    path.run(&request, bytes, &mut SampleContext::default(), |picture, _| picture.to_image())
                };
                let (expect, got) = (of(&plain), of(&cached));
                noticed[usize::from(expect.is_ok())] += 1;
                assert!(got == expect, "{mode:?}, picture {index}, epoch {epoch}: {:?}", got.err());
            }
        }
    }
    assert!(noticed.iter().all(|count| *count > 10), "damage noticed and not: {noticed:?}");
}
