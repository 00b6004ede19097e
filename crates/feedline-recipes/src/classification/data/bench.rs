//! The works of the benchmark: pictures or arrays as `bench/README.md` describes them. Owns what each of them loads.
#![expect(clippy::disallowed_methods, reason = "asks where the data of a measurement lie")]

use super::{cache, images, train_list};
use crate::arrays;
use crate::classification::config::Config;
use crate::recipe::{BenchRequest, BenchSetup, Work};
use crate::settings::SettingsBuilder;
use feedline::Result;
use feedline::augment::{Augmentation, Filter, ImageOp};
use feedline::pipeline::Pipeline;
use feedline::plan::Plan;
use feedline::read::{holds_archives, is_in_archive, is_url, looks_like_picture};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opens the work that is asked for. Without one: arrays for a path that is no image data set, work A without settings of
/// the user's own, else the training split as it is trained on.
///
/// # Errors
/// Settings or data that cannot be used.
pub fn open(
    asked: &BenchRequest<'_>,
    settings: &dyn Fn(SettingsBuilder<Config>) -> Result<Config>,
) -> Result<BenchSetup<Config>> {
    let work = match asked.work {
        None if asked.data.is_some_and(holds_arrays) => Some(Work::E),
        None if !asked.has_settings => Some(Work::A),
        work => work,
    };
    let mut builder = SettingsBuilder::defaults();
    if let Some(work) = work {
        builder = builder.set("model.input_px", if work == Work::D { 28 } else { 224 })?.set("train.batch_size", 64)?;
    }
    let config = settings(builder)?;
    let data = match work {
        Some(Work::E | Work::F | Work::G) => arrays::open(&config.data.dir, asked.shape, &config.storage)?,
        _ => photos(&config, work)?,
    };
    let plan = Plan::new(data.len(), 1)?.with_seed(config.seed);
    Ok(BenchSetup { config, data, plan })
}

fn holds_arrays(path: &Path) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("npy" | "npz" | "bin") => true,
        _ if is_url(path) || is_in_archive(path) || holds_archives(path) => false,
        _ if !path.is_dir() => path.exists() && !looks_like_picture(path),
        _ => {
            let entries: Vec<PathBuf> =
                std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect();
            let is_array = |path: &PathBuf| path.extension().is_some_and(|end| end == "npy" || end == "bin");
            let is_class = |path: &PathBuf| {
                path.is_dir() && !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
            };
            entries.iter().any(is_array) || !entries.iter().any(is_class)
        }
    }
}

fn photos(config: &Config, work: Option<Work>) -> Result<Arc<dyn Pipeline>> {
    let (px, filter) = (config.input_px(), Filter::Bilinear);
    let size_px = [px; 2];
    let ops = match work {
        None => config.augment.train_ops(px)?,
        Some(Work::A | Work::B) => vec![
            ImageOp::RandomResizedCrop { size_px, scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0], filter },
            ImageOp::HorizontalFlip { p: 0.5 },
        ],
        Some(Work::C) => vec![ImageOp::ResizeCenterCrop { shorter_px: px * 8 / 7, size_px, filter }],
        Some(_) => Augmentation::eval_ops(px),
    };
    Ok(Arc::new(images(train_list(config)?, ops, config, cache(config))?))
}
