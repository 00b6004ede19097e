//! Stage 4, augment: what a sample looks like is a function of (seed, epoch, sample). Writes a contact sheet.
//!
//!     cargo run --release -p feedline-recipes --example 4_augment [-- OUT.png]

use feedline::Error;
use feedline::augment::{Augmentation, Filter, ImageOp, apply_all};
use feedline::decode::{Limits, RgbImage, decode_rgb};
use feedline::plan::Plan;
use feedline::plot::{contact_sheet, encode_png};
use feedline_recipes::classification::demo::{DemoOptions, write_demo_data};
use std::path::{Path, PathBuf};

fn main() -> feedline::Result<()> {
    let dir = Path::new("demo-data/classification");
    write_demo_data(dir, &DemoOptions::default(), |_, _| {})?;
    let path = dir.join("train/star/0000.jpg");
    let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let mut original = RgbImage::default();
    decode_rgb(&bytes, &Limits::default(), &mut original).map_err(|problem| Error::config(problem, "Draw it anew"))?;

    let mine = vec![
        ImageOp::RandomResizedCrop {
            size_px: [96; 2],
            scale: [0.3, 1.0],
            ratio: [0.75, 4.0 / 3.0],
            filter: Filter::default(),
        },
        ImageOp::HorizontalFlip { p: 0.5 },
        ImageOp::ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4 },
    ];
    let lists = [
        ("light", Augmentation::Light.train_ops(96)),
        ("upstream", Augmentation::Upstream.train_ops(96)),
        ("mine", mine),
    ];
    let mut pictures = Vec::new();
    for (name, ops) in &lists {
        ops.iter().try_for_each(ImageOp::validate)?;
        for epoch in 0..6 {
            let request = Plan::unshuffled(1, 1)?.with_seed(7).epoch(epoch).at(0);
            let make = || {
                let mut image = original.clone();
                apply_all(ops, &mut image, |stage| request.rng(stage));
                image
            };
            let image = make();
            assert_eq!(image, make(), "the same epoch gives the same pixels, on any thread, as often as it is asked");
            pictures.push((image, format!("{name}, {epoch}")));
        }
    }
    let out = std::env::args_os().nth(1).map_or_else(|| std::env::temp_dir().join("4_augment.png"), PathBuf::from);
    std::fs::write(&out, encode_png(contact_sheet(&pictures, 6).image())?).map_err(|e| Error::io("write", &out, e))?;
    println!("{}: one star, three lists of operations by six epochs", out.display());
    for (name, ops) in &lists {
        println!("  {name:<8} {}", ops.iter().map(ImageOp::name).collect::<Vec<_>>().join(", "));
    }
    Ok(())
}
