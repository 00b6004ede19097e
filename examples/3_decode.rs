//! Stage 3, decode: bytes to pixels, and what happens to bytes that are none.
//!
//!     cargo run --release -p feedline-recipes --example 3_decode [-- FILE]

use feedline::Error;
use feedline::decode::{Limits, RgbImage, decode_rgb, dimensions};
use feedline_recipes::classification::demo::{DemoOptions, write_demo_data};
use std::path::{Path, PathBuf};

/// The picture in 60 columns, from dark to light.
fn print(image: &RgbImage) {
    let (columns, rows) = (60, 60 * image.height_px as usize / image.width_px as usize / 2);
    for row in 0..rows {
        let line: String = (0..columns)
            .map(|column| {
                let (x, y) = (column * image.width_px as usize / columns, row * image.height_px as usize / rows);
                let pixel = &image.pixels[3 * (y * image.width_px as usize + x)..][..3];
                let light: usize = pixel.iter().map(|&value| usize::from(value)).sum();
                char::from(b" .:-=+*#%@"[light * 10 / (3 * 256)])
            })
            .collect();
        println!("  {line}");
    }
}

fn main() -> feedline::Result<()> {
    let path = match std::env::args_os().nth(1) {
        Some(path) => PathBuf::from(path),
        None => {
            let dir = Path::new("demo-data/classification");
            write_demo_data(dir, &DemoOptions::default(), |_, _| {})?;
            dir.join("train/star/0000.jpg")
        }
    };
    let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    println!("{}: {:?} px by its header", path.display(), dimensions(&bytes));
    let mut image = RgbImage::default();
    match decode_rgb(&bytes, &Limits::default(), &mut image) {
        Ok(()) => print(&image),
        Err(problem) => println!("  {problem}"),
    }

    println!("\nThe same picture cut short, spoilt, empty, and larger than allowed:");
    let mut spoilt = bytes.clone();
    spoilt[bytes.len() / 2..].fill(0xFF);
    for bytes in [&bytes[..bytes.len() / 2], &spoilt, &[], b"hello, world"] {
        println!("  {:?}", decode_rgb(bytes, &Limits::default(), &mut image));
    }
    println!("  {:?}", decode_rgb(&bytes, &Limits { max_pixels: 1000 }, &mut image));
    Ok(())
}
