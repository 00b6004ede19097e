//! `feedline bench`: the data pipeline alone, as fast as it goes, and a verdict in words.

use super::DataArgs;
use super::demo_data::or_demo;
use super::recipe::Recipe;
use crate::Done;
use clap::{Args as ClapArgs, ValueEnum};
use feedline::augment::{Augmentation, Filter, ImageOp};
use feedline::deliver::bench::{measure, save_chrome_trace};
use feedline::deliver::{Loader, LoaderOptions};
use feedline::event::Warnings;
use feedline::pipeline::{Pipeline, tell};
use feedline::plan::Plan;
use feedline::read::{holds_archives, is_in_archive, is_url};
use feedline::{Error, Result};
use feedline_recipes::classification::config::{Config, Said};
use feedline_recipes::classification::data;
use feedline_recipes::settings::{self, Settings};
use feedline_recipes::{arrays, lidar, scene_completion};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Passes over the data; the first one warms up
    #[arg(long, default_value_t = 3, value_name = "N")]
    epochs: u64,
    /// One of the works of bench/README.md instead of your own settings [default: a, unless --augment or --config is
    /// given; e for a path that is no image data set]
    #[arg(long, value_enum, ignore_case = true)]
    work: Option<Work>,
    /// Shape of one sample of raw files, e.g. 120000,4
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    shape: Option<Vec<usize>>,
    /// Print one JSON object instead of words
    #[arg(long)]
    json: bool,
    /// Write what every worker did when, for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Measure how fast ranks sum up instead: feedline launch --ranks 2 -- bench --all-reduce
    #[cfg(feature = "train")]
    #[arg(long)]
    all_reduce: bool,
    /// With --all-reduce: go on for so long
    #[cfg(feature = "train")]
    #[arg(long, requires = "all_reduce", default_value_t = 0.0)]
    seconds: f64,
}

/// The works of the benchmark.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Work {
    /// Photographs: random resized crop to 224, flip, normalise, batch 64
    A,
    /// The same for large photographs
    B,
    /// Evaluation: resize to 256, centre crop 224
    C,
    /// Small pictures as they are (28 x 28)
    D,
    /// Arrays, no decoding: rows of a .npy file
    E,
    /// Arrays: a folder of point clouds (.bin, with --shape)
    F,
    /// Arrays: a folder of 16-bit depth pictures (.png)
    G,
}

pub fn run(args: Args) -> Result<Done> {
    #[cfg(feature = "train")]
    if args.all_reduce {
        return super::all_reduce::run(args.seconds);
    }
    match args.data.recipe()? {
        Recipe::Classification => pictures_or_arrays(args),
        recipe if args.work.is_some() || args.shape.is_some() => Err(Error::config(
            format!("--work and --shape make no sense for the recipe {}", recipe.name()),
            "Leave them out: samples are loaded as for training",
        )),
        Recipe::SceneCompletion => scenes(args),
        Recipe::Lidar => clouds(args),
    }
}

fn scenes(args: Args) -> Result<Done> {
    use scene_completion::data::splits::{self, Split};
    let said: settings::Said<scene_completion::config::Config> = args.data.said(settings::Said::defaults())?;
    let config = or_demo(said, Recipe::SceneCompletion)?.resolve()?;
    let data = splits::open_split(&config, Split::Train)?;
    let plan = splits::plan(&config, &data, 1)?;
    report(&args, data, plan, &config)
}

fn clouds(args: Args) -> Result<Done> {
    use lidar::data::splits::{self, Split};
    let said: settings::Said<lidar::config::Config> = args.data.said(settings::Said::defaults())?;
    let config = or_demo(said, Recipe::Lidar)?.resolve()?;
    let data = splits::open_split(&config, Split::Train)?;
    let plan = splits::plan(&config, &data, 1)?;
    report(&args, data, plan, &config)
}

fn pictures_or_arrays(args: Args) -> Result<Done> {
    let is_arrays = |path: &PathBuf| match path.extension().and_then(|extension| extension.to_str()) {
        Some("npy" | "npz" | "bin") => true,
        _ if is_url(path) || is_in_archive(path) || holds_archives(path) => false,
        _ => path.exists() && !path.join("train").is_dir(),
    };
    let work = match args.work {
        None if args.data.data.as_ref().is_some_and(is_arrays) => Some(Work::E),
        None if args.data.augment.is_none() && args.data.config.is_none() => Some(Work::A),
        work => work,
    };
    let mut said = Said::defaults();
    if let Some(work) = work {
        said = said.set("model.input_px", if work == Work::D { 28 } else { 224 })?.set("train.batch_size", 64)?;
    }
    let config = or_demo(args.data.said(said)?, Recipe::Classification)?.resolve()?;
    let pipeline = match work {
        Some(Work::E | Work::F | Work::G) => arrays::open(&config.data.dir, args.shape.as_deref(), &config.storage)?,
        _ => photos(&config, work)?,
    };
    let plan = Plan::new(pipeline.len(), 1)?.with_seed(config.seed);
    report(&args, pipeline, plan, &config)
}

/// Measures and tells.
fn report(args: &Args, pipeline: Arc<dyn Pipeline>, plan: Plan, config: &impl Settings) -> Result<Done> {
    let (batch_size, num_workers) = (config.batch_size(), config.loader().num_workers());
    tell([&*pipeline], &Warnings)?;
    if !args.json {
        feedline::say!("{} samples, batch {batch_size}, {num_workers} workers; epoch 0 warms up", plan.epoch_len());
    }
    let make = || {
        let options = LoaderOptions {
            split: "bench".into(),
            batch_size,
            end_epoch: Some(args.epochs.max(1)),
            trace: args.trace.is_some(),
            ..config.loader().options(Arc::new(Warnings))
        };
        Loader::new(Arc::clone(&pipeline), plan.clone(), options)
    };
    let (measured, loader) = measure(make, args.epochs, &mut |epoch, rate| {
        if !args.json {
            feedline::say!("epoch {epoch}: {rate:.0} samples/s");
        }
    })?;
    if let Some(path) = &args.trace {
        save_chrome_trace(&loader.take_trace(), path)?;
    }
    if args.json {
        let json = serde_json::to_string(&measured).map_err(|e| Error::config(e.to_string(), "Please report this"))?;
        super::print(&format!("{json}\n"))?;
    } else {
        let memory = measured.peak_memory_bytes.map_or("unknown".to_string(), |b| format!("{} MB", b >> 20));
        super::print(&format!(
            "first batch after {:.1} ms, peak memory {memory}\n{}\n",
            measured.first_batch_seconds * 1e3,
            measured.verdict
        ))?;
    }
    Ok(Done::Ok)
}

fn photos(config: &Config, work: Option<Work>) -> Result<Arc<dyn Pipeline>> {
    let (px, filter) = (config.input_px(), Filter::Bilinear);
    let size_px = [px; 2];
    let ops = match work {
        None => config.augment.preset.train_ops(px),
        Some(Work::A | Work::B) => vec![
            ImageOp::RandomResizedCrop { size_px, scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0], filter },
            ImageOp::HorizontalFlip { p: 0.5 },
        ],
        Some(Work::C) => vec![ImageOp::ResizeCenterCrop { shorter_px: px * 8 / 7, size_px, filter }],
        Some(_) => Augmentation::eval_ops(px),
    };
    Ok(Arc::new(data::images(data::train_list(config)?, ops, config, data::cache(config))?))
}
