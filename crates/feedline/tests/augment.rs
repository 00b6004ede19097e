//! Augmentation against Pillow's results. Fixtures: `testdata/make_images.py`.

use feedline::augment::normalize::Normalize;
use feedline::augment::resize::{CropBox, crop_resize};
use feedline::augment::{Filter, ImageOp, affine, color};
use feedline::decode::{Limits, RgbImage, decode_rgb};
use feedline::plan::rng::SampleRng;
use serde_json::Value;

fn read(path: &str) -> Vec<u8> {
    let path = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/images/{}"), path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn picture(path: &str) -> RgbImage {
    let mut image = RgbImage::default();
    decode_rgb(&read(path), &Limits::default(), &mut image).unwrap_or_else(|e| panic!("{path}: {e}"));
    image
}

fn cases(wanted: impl Fn(&str) -> bool) -> Vec<Value> {
    let all: Value = serde_json::from_slice(&read("cases.json")).unwrap();
    all["cases"].as_array().unwrap().iter().filter(|case| wanted(case["op"].as_str().unwrap())).cloned().collect()
}

/// FNV-1a, 64 bits, as in the script.
fn digest(bytes: &[u8]) -> String {
    let fold = |h: u64, &b: &u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3);
    format!("{:016x}", bytes.iter().fold(0xCBF2_9CE4_8422_2325, fold))
}

fn largest_difference(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!((a.width_px, a.height_px), (b.width_px, b.height_px));
    a.pixels.iter().zip(&b.pixels).map(|(x, y)| x.abs_diff(*y)).max().unwrap()
}

fn pair(value: &Value) -> [u32; 2] {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn resizing_a_part_gives_pillows_bytes() {
    let cases = cases(|op| op == "crop_resize");
    assert_eq!(cases.len(), 10 + 60);
    let mut into = RgbImage::default();
    for case in cases {
        let [left_px, top_px, width_px, height_px] = serde_json::from_value(case["box"].clone()).unwrap();
        let part = CropBox { left_px, top_px, width_px, height_px };
        let filter: Filter = serde_json::from_value(case["filter"].clone()).unwrap();
        crop_resize(&picture(case["source"].as_str().unwrap()), part, pair(&case["size_px"]), filter, &mut into);
        check_bytes(&case, &into);
    }
}

#[test]
fn the_centre_crop_gives_the_bytes_of_resizing_the_whole_in_pillow() {
    let cases = cases(|op| op == "resize_center_crop");
    assert_eq!(cases.len(), 3 + 20);
    for case in cases {
        let shorter_px = case["shorter_px"].as_u64().unwrap() as u32;
        let op = ImageOp::ResizeCenterCrop { shorter_px, size_px: pair(&case["size_px"]), filter: Filter::Bilinear };
        let mut image = picture(case["source"].as_str().unwrap());
        op.apply(&mut image, &mut RgbImage::default(), &mut SampleRng::new(0, 0, 0, ""));
        check_bytes(&case, &image);
    }
}

/// Compares with a picture, or with a digest, whichever the case has.
fn check_bytes(case: &Value, got: &RgbImage) {
    if let Some(expect) = case["expect"].as_str() {
        assert_eq!(largest_difference(got, &picture(expect)), 0, "{case}");
    } else {
        assert_eq!(digest(&got.pixels), case["digest"].as_str().unwrap(), "{case}");
    }
}

/// Runs every case of the operations `run` knows and compares bytes with Pillow's.
fn check_exact(count: usize, run: impl Fn(&str, f64, &mut RgbImage) -> bool) {
    let (mut checked, mut wrong) = (0, vec![]);
    for case in cases(|_| true) {
        let op = case["op"].as_str().unwrap();
        let Some(magnitude) = case["magnitude"].as_f64() else { continue };
        let mut image = picture(case["source"].as_str().unwrap());
        if !run(op, magnitude, &mut image) {
            continue;
        }
        checked += 1;
        if digest(&image.pixels) != case["digest"].as_str().unwrap() {
            let difference = case["expect"].as_str().map(|expect| largest_difference(&image, &picture(expect)));
            wrong.push(format!("{case}: largest difference {difference:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {checked} differ from Pillow:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(checked, count);
}

#[test]
fn colour_operations_give_pillows_bytes() {
    check_exact(88, |op, magnitude, image| {
        match op {
            "invert" => color::invert(image),
            "autocontrast" => color::autocontrast(image),
            "equalize" => color::equalize(image),
            "posterize" => color::posterize(image, magnitude as u32),
            "solarize" => color::solarize(image, magnitude),
            "saturation" => color::saturation(image, magnitude),
            "contrast" => color::contrast(image, magnitude),
            "brightness" => color::brightness(image, magnitude),
            "sharpness" => color::sharpness(image, magnitude),
            _ => return false,
        }
        true
    });
}

#[test]
fn affine_operations_give_pillows_bytes() {
    check_exact(104, |op, m, image| {
        let (w, h) = (f64::from(image.width_px), f64::from(image.height_px));
        let scratch = &mut RgbImage::default();
        match op {
            "rotate" => affine::nearest(image, affine::rotation(image.width_px, image.height_px, m), scratch),
            "shear_x" => affine::bicubic(image, [1.0, m, 0.0, 0.0, 1.0, 0.0], scratch),
            "shear_y" => affine::bicubic(image, [1.0, 0.0, 0.0, m, 1.0, 0.0], scratch),
            "translate_x" => affine::nearest(image, [1.0, 0.0, m * w, 0.0, 1.0, 0.0], scratch),
            "translate_y" => affine::nearest(image, [1.0, 0.0, 0.0, 0.0, 1.0, m * h], scratch),
            _ => return false,
        }
        true
    });
}

#[test]
fn normalised_values_are_numpys_bit_for_bit() {
    let expect: Vec<f32> =
        read("normalize.f32").as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    // A ramp of all 256 bytes, as a 64 x 4 image, the same in each channel.
    let pixels = (0..=255u8).flat_map(|x| [x; 3]).collect();
    let image = RgbImage { width_px: 64, height_px: 4, pixels };
    let mut got = vec![0.0; 768];
    Normalize::default().write_chw(&image, false, &mut got);
    assert_eq!(got, expect);
}
