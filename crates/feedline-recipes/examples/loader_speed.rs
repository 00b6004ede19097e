//! How fast batches are delivered without a model: `cargo run --release -p feedline-recipes --example loader_speed --
//! DIR [INPUT_PX]`, where DIR holds {train,test}/<class>/ with images. Random resized crop, flip, normalise to f32 CHW;
//! three epochs per number of workers, the first of which warms the page cache.

use feedline::augment::{Filter, ImageOp};
use feedline::deliver::{Loader, LoaderOptions};
use feedline::pipeline::Pipeline;
use feedline::plan::Plan;
use feedline::read::ImageList;
use feedline_recipes::classification::config::Said;
use feedline_recipes::classification::data::ImageData;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn main() -> feedline::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| "demo-data/classification".into());
    let input_px: u32 = args.next().and_then(|text| text.parse().ok()).unwrap_or(224);
    let config =
        Said::defaults().set("data.dir", dir.as_str())?.set("model.input_px", i64::from(input_px))?.resolve()?;
    let ops = vec![
        ImageOp::RandomResizedCrop {
            size_px: [input_px; 2],
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            filter: Filter::Bilinear,
        },
        ImageOp::HorizontalFlip { p: 0.5 },
    ];
    let data = Arc::new(ImageData::new(ImageList::train(Path::new(&dir))?, ops, &config));
    println!("{} images to {input_px} px, batch 64", data.len());
    for num_workers in [1, 2, 4] {
        let options = LoaderOptions { batch_size: 64, num_workers, end_epoch: Some(3), ..LoaderOptions::default() };
        let mut loader = Loader::new(data.clone(), Plan::new(data.len(), 1)?, options)?;
        for epoch in 0..3 {
            let (start, before) = (Instant::now(), loader.stats());
            let mut images = 0;
            for batch in loader.iter() {
                images += batch?.len();
            }
            let (seconds, stats) = (start.elapsed().as_secs_f64(), loader.stats().since(&before));
            println!(
                "{num_workers} workers, epoch {epoch}: {:.0} images/s (busy: read {:.2} s, decode {:.2} s, augment {:.2} s of {seconds:.2} s)",
                images as f64 / seconds,
                stats.read.busy_s,
                stats.decode.busy_s,
                stats.augment.busy_s,
            );
        }
    }
    Ok(())
}
