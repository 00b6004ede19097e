//! Decoding against Pillow's results, and against hostile bytes. Fixtures: `testdata/make_images.py`.

#[cfg(feature = "formats")]
use feedline::decode::{CropBox, decode_rgb_part};
use feedline::decode::{Fault, Limits, RgbImage, decode_rgb, dimensions};
use feedline::plan::rng::SampleRng;
use std::path::{Path, PathBuf};

fn testdata(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata")).join(path)
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(testdata(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn decode(bytes: &[u8]) -> Result<RgbImage, Fault> {
    let mut image = RgbImage::default();
    decode_rgb(bytes, &Limits::default(), &mut image)?;
    Ok(image)
}

#[test]
fn every_kind_of_jpeg_and_png_gives_pillows_pixels() {
    let cases: serde_json::Value = serde_json::from_slice(&read("images/cases.json")).unwrap();
    let mut checked = 0;
    // One image for all: no leftovers of an earlier, larger picture may show.
    let mut image = RgbImage { width_px: 300, height_px: 200, pixels: vec![77; 180_000] };
    for case in cases["cases"].as_array().unwrap().iter().filter(|case| case["op"] == "decode") {
        let source = case["source"].as_str().unwrap();
        let expect = case["expect"].as_str().unwrap();
        let bytes = read(&format!("images/{source}"));
        decode_rgb(&bytes, &Limits::default(), &mut image).unwrap_or_else(|e| panic!("{source}: {e}"));
        let size = [image.height_px, image.width_px];
        assert_eq!(serde_json::json!(size), case["size_px"], "{source}");
        assert_eq!(dimensions(&bytes), Ok((image.width_px, image.height_px)), "{source}");
        let expect = read(&format!("images/{expect}"));
        let expect = if expect.starts_with(b"\x89PNG") { decode(&expect).unwrap().pixels } else { expect };
        let worst = image.pixels.iter().zip(&expect).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert_eq!((image.pixels.len(), worst), (expect.len(), 0), "{source}: largest difference from Pillow");
        checked += 1;
    }
    assert_eq!(checked, 60);
}

/// FNV-1a, 64 bits, as make_images.py computes it.
#[cfg(feature = "formats")]
fn digest(image: &RgbImage) -> String {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    format!("{:016x}", image.pixels.iter().fold(0xCBF2_9CE4_8422_2325, step))
}

/// Also the parts of each, whose pixels must be those of the whole, and what EXIF data change.
#[test]
#[cfg(feature = "formats")]
fn every_other_format_gives_pillows_pixels() {
    use feedline::deliver::SampleContext;
    use feedline::pipeline::{DecodeMode, Exif, FusedDecode};
    let cases: serde_json::Value = serde_json::from_slice(&read("images/cases.json")).unwrap();
    let (mut checked, mut differ) = (0, Vec::new());
    let mut image = RgbImage { width_px: 300, height_px: 200, pixels: vec![77; 180_000] };
    for case in cases["cases"].as_array().unwrap() {
        let Some(op) = case["op"].as_str().filter(|op| ["decode_format", "exif"].contains(op)) else { continue };
        let source = case["source"].as_str().unwrap();
        let bytes = read(&format!("images/{source}"));
        checked += 1;
        if op == "exif" {
            let path = FusedDecode::new(Vec::new(), Limits::default(), DecodeMode::Whole).with_exif(Exif::Apply);
            let request = feedline::plan::Plan::unshuffled(1, 1).unwrap().epoch(0).at(0);
            let run = path.run(&request, &bytes, &mut SampleContext::default(), |picture, _| picture.to_image());
            image = run.unwrap_or_else(|e| panic!("{source}: {e}"));
        } else {
            decode_rgb(&bytes, &Limits::default(), &mut image).unwrap_or_else(|e| panic!("{source}: {e}"));
            assert_eq!(dimensions(&bytes), Ok((image.width_px, image.height_px)), "{source}");
            let part = CropBox { left_px: 3, top_px: 2, width_px: 7, height_px: 4 };
            let mut cut = RgbImage::default();
            decode_rgb_part(&bytes, &Limits::default(), part, 1, &mut cut).unwrap();
            let rows = image.pixels.chunks_exact(3 * image.width_px as usize).skip(2).take(4);
            assert_eq!(cut.pixels, rows.flat_map(|row| &row[9..30]).copied().collect::<Vec<_>>(), "{source}");
        }
        assert_eq!(serde_json::json!([image.height_px, image.width_px]), case["size_px"], "{source}");
        if digest(&image) != case["digest"] {
            differ.push(source.to_owned());
        }
    }
    assert_eq!((differ, checked), (Vec::<String>::new(), 70));
}

#[test]
fn hostile_files_are_refused_in_words() {
    let refused = [
        ("zero.jpg", "0 bytes"),
        ("text.jpg", "not a JPEG, PNG, WebP, BMP, GIF, TIFF, PBM, PGM or PPM (starts with 'hello, I am ')"),
        ("truncated.jpg", "truncated JPEG"),
        ("truncated_header.jpg", "truncated JPEG"),
        ("truncated_progressive.jpg", "truncated JPEG"),
        ("magic_only.jpg", "truncated JPEG"),
        ("huge_header.jpg", "60000 x 60000 px is 3600000000 pixels, more than the 178956970 allowed (max_pixels)"),
        ("no_height.jpg", "41 x 0 px: there is no pixel"),
        ("huge_header.png", "60000 x 60000 px is 3600000000 pixels, more than the 178956970 allowed (max_pixels)"),
        ("no_pixels.png", "damaged PNG"),
        ("truncated.png", "truncated PNG: the data ends early after row"),
        ("bad_crc.png", "damaged PNG"),
        ("bad_last_crc.png", "damaged PNG"),
        ("no_data.png", "PNG"),
        ("too_few_rows.png", "PNG after row 2 of 4"),
        ("ff_twice_before_zero.jpg", "damaged JPEG: in its data 0xff stands twice in front of a zero"),
        ("lost_scan.jpg", "damaged JPEG: a scan of component 1 does not go on with the one before it"),
        ("steps_change_progressive.jpg", "unsupported kind of JPEG: its quantisation steps change between its scans"),
        ("palette_of_7_bytes.png", "damaged PNG: its palette has 7 bytes, not 3 for each of 1 to 256 colours"),
        ("progressive_header_alone.jpg", "truncated JPEG: scan 1 has 0 bytes for 3965814 blocks of 8 x 8 px"),
        #[cfg(feature = "formats")]
        ("truncated_rgb.bmp", "truncated BMP: "),
        #[cfg(feature = "formats")]
        ("truncated_plain.gif", "truncated GIF: the data ends early"),
        #[cfg(feature = "formats")]
        ("truncated_rgb.ppm", "truncated PNM: "),
        #[cfg(feature = "formats")]
        ("truncated_rgb.tif", "truncated TIFF: "),
        #[cfg(feature = "formats")]
        ("truncated_lossless.webp", "damaged WebP: "),
        #[cfg(feature = "formats")]
        ("huge_header.bmp", "60000 x 60000 px is 3600000000 pixels, more than the 178956970 allowed (max_pixels)"),
        #[cfg(feature = "formats")]
        ("huge_header.gif", "60000 x 60000 px is 3600000000 pixels, more than the 178956970 allowed (max_pixels)"),
        #[cfg(feature = "formats")]
        ("huge_header.ppm", "60000 x 60000 px is 3600000000 pixels, more than the 178956970 allowed (max_pixels)"),
        #[cfg(feature = "formats")]
        ("huge_tiles.tif", "damaged TIFF: a part of it: 2147483648 x 16 px"),
        #[cfg(feature = "formats")]
        ("float.tif", "unsupported kind of TIFF: floating-point samples of 32 bits"),
        #[cfg(feature = "formats")]
        ("no_picture.gif", "damaged GIF: there is no picture in it"),
        #[cfg(feature = "formats")]
        ("runs_end_early.bmp", "truncated BMP: the data ends early, after"),
    ];
    let mut image = RgbImage::default();
    for (name, words) in refused {
        decode_rgb(&read("images/png/rgb8.png"), &Limits::default(), &mut image).unwrap();
        let problem =
            decode_rgb(&read(&format!("hostile/{name}")), &Limits::default(), &mut image).unwrap_err().to_string();
        eprintln!("{name}: {problem}");
        assert!(problem.contains(words), "{name}: {problem:?} does not contain {words:?}");
        assert_eq!(image, RgbImage::default(), "{name}: the image must be empty after an error");
    }
    #[cfg(not(feature = "formats"))]
    assert!(
        decode(&read("hostile/huge_header.bmp")).unwrap_err().to_string().contains("Bmp is not read by this build"),
        "the feature is named"
    );
    #[cfg(feature = "formats")]
    let files = std::fs::read_dir(testdata("hostile")).unwrap().count();
    #[cfg(feature = "formats")]
    assert_eq!(files, refused.len(), "every hostile file is tested");
}

/// A file that is cut between scans has an end, and libjpeg interpolates the rest. Nothing else is guessed.
#[test]
fn a_progressive_picture_without_its_last_scans_is_smoothed_and_one_cut_within_a_scan_is_not() {
    let whole = decode(&read("images/jpeg/ycbcr420_progressive.jpg")).unwrap();
    for scans in [1, 2, 4] {
        let bytes = read(&format!("images/jpeg/ycbcr420_progressive_{scans}_scans.jpg"));
        // `every_kind_of_jpeg_and_png_gives_pillows_pixels` has the values.
        assert_ne!(decode(&bytes).unwrap(), whole, "{scans} scans");
        let end = bytes.len() - 2;
        let cut = [&bytes[..end - 6], &bytes[end..]].concat();
        assert!(decode(&cut).unwrap_err().to_string().contains("truncated JPEG"), "{scans} scans");
    }
}

#[test]
fn the_limit_is_the_callers() {
    let bytes = read("images/jpeg/ycbcr420.jpg");
    let mut image = RgbImage::default();
    assert!(decode_rgb(&bytes, &Limits { max_pixels: 41 * 31 }, &mut image).is_ok());
    let problem = decode_rgb(&bytes, &Limits { max_pixels: 41 * 31 - 1 }, &mut image).unwrap_err().to_string();
    assert!(problem.contains("41 x 31 px is 1271 pixels, more than the 1270 allowed"), "{problem}");
}

/// Every prefix of a picture, and pictures with bytes changed, cut out and doubled, give an error or an image whose
/// parts agree, never a panic.
#[test]
fn damaged_pictures_never_panic() {
    let sources = [
        "jpeg/ycbcr420.jpg",
        "jpeg/ycbcr420_progressive.jpg",
        "jpeg/ycbcr420_restarts.jpg",
        "jpeg/cmyk.jpg",
        "jpeg/ycck.jpg",
        "jpeg/grey.jpg",
        "jpeg/scan_of_two_components_first.jpg",
        "jpeg/colour_finer.jpg",
        "jpeg/ycbcr420_progressive_2_scans.jpg",
        "png/bkgd_before_plte.png",
        "png/rgb8.png",
        "png/palette4_interlaced.png",
        "png/rgba16.png",
        "png/grey1.png",
        #[cfg(feature = "formats")]
        "formats/rle8.bmp",
        #[cfg(feature = "formats")]
        "formats/masks32.bmp",
        #[cfg(feature = "formats")]
        "formats/small_transparent_frame.gif",
        #[cfg(feature = "formats")]
        "formats/rgb_tiles.tif",
        #[cfg(feature = "formats")]
        "formats/many_strips.tif",
        #[cfg(feature = "formats")]
        "formats/jpeg.tif",
        #[cfg(feature = "formats")]
        "formats/small_frame.webp",
        #[cfg(feature = "formats")]
        "formats/lossy.webp",
        #[cfg(feature = "formats")]
        "formats/plain_rgb.ppm",
    ];
    // A small limit prevents that a damaged size field costs seconds.
    let limits = Limits { max_pixels: 1_000_000 };
    let mut image = RgbImage::default();
    let (mut tried, mut refused) = (0, 0);
    let mut check = |bytes: &[u8]| {
        tried += 1;
        let _ = dimensions(bytes);
        match decode_rgb(bytes, &limits, &mut image) {
            Ok(()) => assert_eq!(image.pixels.len(), 3 * (image.width_px * image.height_px) as usize),
            Err(problem) => {
                assert!(!problem.to_string().contains("the decoder gave up"), "the decoder panicked: {problem}");
                assert_eq!(image, RgbImage::default());
                refused += 1;
            }
        }
    };
    for (i, source) in sources.into_iter().enumerate() {
        let bytes = read(&format!("images/{source}"));
        for end in (0..bytes.len()).step_by(7) {
            check(&bytes[..end]);
        }
        for round in 0..400 {
            let mut rng = SampleRng::new(1, round, i as u64, "damage");
            let mut damaged = bytes.clone();
            for _ in 0..=rng.below(6) {
                let at = rng.below(damaged.len() as u64) as usize;
                match rng.below(4) {
                    0 => damaged[at] = rng.next_u32() as u8,
                    1 => damaged[at] ^= 1 << rng.below(8),
                    2 => drop(damaged.drain(at..(at + 1 + rng.below(8) as usize).min(damaged.len() - 1).max(at))),
                    _ => damaged.insert(at, 0xFF),
                }
            }
            check(&damaged);
        }
    }
    eprintln!("{refused} of {tried} damaged pictures refused");
    assert!(tried > 4000 && refused > tried / 2, "{refused} of {tried}");
}

#[test]
fn a_cut_jpeg_is_never_passed_off_as_whole() {
    for source in ["ycbcr420.jpg", "ycbcr420_progressive.jpg", "grey.jpg", "cmyk.jpg", "ycbcr420_restarts.jpg"] {
        let bytes = read(&format!("images/jpeg/{source}"));
        for kept in [30, 50, 70, 90] {
            let result = decode(&bytes[..bytes.len() * kept / 100]);
            assert!(result.is_err(), "{source}: {kept} % of the bytes were enough");
        }
        // Any marker ends a scan, whatever is behind it, including markers that are skipped elsewhere.
        let scan = bytes.windows(2).rposition(|two| two == [0xFF, 0xDA]).unwrap() + 20;
        for marker in [0x01, 0xE3] {
            let (before, after) = bytes.split_at(scan);
            assert!(decode(&[before, &[0xFF, marker, 0, 1], after].concat()).is_err(), "{source}: {marker:x}");
        }
    }
}

#[test]
fn what_stands_behind_a_picture_does_no_harm() {
    for source in ["jpeg/ycbcr420.jpg", "jpeg/ycbcr420_progressive.jpg", "png/rgb8.png", "png/rgb8_interlaced.png"] {
        let bytes = read(&format!("images/{source}"));
        let whole = decode(&bytes).unwrap();
        assert_eq!(decode(&[&bytes[..], b"and so on"].concat()).as_ref(), Ok(&whole), "{source}");
        assert_eq!(decode(&[&bytes[..], &[0; 300]].concat()).as_ref(), Ok(&whole), "{source}");
    }
    let bytes = read("images/jpeg/ycbcr420.jpg");
    assert_eq!(decode(&bytes[..bytes.len() - 2]), decode(&bytes), "only the end marker is missing");
}
