//! `feedline show`: a contact sheet of one augmented batch, of any epoch and step, without training.

use super::DataArgs;
use super::demo_data::or_demo;
use super::recipe::Recipe;
use crate::Done;
use clap::{Args as ClapArgs, ValueEnum};
use feedline::decode::RgbImage;
use feedline::deliver::{Loader, LoaderOptions};
use feedline::event::Warnings;
use feedline::pipeline::{Pipeline, tell};
use feedline::plan::{Cursor, Plan};
use feedline::plot::{contact_sheet_within, encode_png};
use feedline::{Batch, Error, Result};
use feedline_recipes::classification::data;
use feedline_recipes::settings::{Said, Settings};
use feedline_recipes::{classification, lidar, scene_completion};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Epoch of the batch, from 0
    #[arg(long, default_value_t = 0)]
    epoch: u64,
    /// Batch of the epoch, from 0
    #[arg(long, default_value_t = 0)]
    step: u64,
    /// Which split
    #[arg(long, value_enum, default_value_t = Split::Train)]
    split: Split,
    /// The picture to write
    #[arg(long, value_name = "FILE", default_value = "batch.png")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Split {
    Train,
    Val,
}

pub fn run(args: Args) -> Result<Done> {
    let ((pictures, columns), large_px) = match args.data.recipe()? {
        Recipe::Classification => (images(&args)?, THUMBNAIL_PX),
        Recipe::SceneCompletion => (scenes(&args)?, THUMBNAIL_PX),
        Recipe::Lidar => (clouds(&args)?, lidar::picture::VIEW_PX),
    };
    super::write(&args.out, &encode_png(contact_sheet_within(&pictures, columns, large_px).image())?)?;
    super::print(&format!("{}\n", args.out.display()))?;
    Ok(Done::Ok)
}

/// Longer side of a picture of which there are many.
const THUMBNAIL_PX: u32 = 256;

/// Pictures with their captions, and how many stand beside each other.
type Sheet = (Vec<(RgbImage, String)>, usize);

fn images(args: &Args) -> Result<Sheet> {
    let said: Said<classification::config::Config> = args.data.said(Said::defaults())?;
    let config = or_demo(said, Recipe::Classification)?.resolve()?;
    let (train_data, val_data) = data::open(&config)?;
    let (data, plan) = match args.split {
        Split::Train => (train_data.clone(), data::plan(&config, &train_data, 1)?),
        Split::Val => (val_data.clone(), Plan::unshuffled(val_data.len(), 1)?),
    };
    tell([&*data as &dyn Pipeline], &Warnings)?;
    let batch_size = config.train.batch_size;
    check_step(args, &plan, batch_size)?;
    let epoch = plan.epoch(args.epoch);
    let requests = epoch.rank(0).skip((args.step * batch_size) as usize).take(batch_size as usize);
    let pictures = requests
        .map(|request| {
            let class = &data.classes()[data.label(request.index) as usize];
            Ok((data.picture(&request)?, class.clone()))
        })
        .collect::<Result<Vec<_>>>()?;
    let columns = (pictures.len() as f64).sqrt().ceil() as usize;
    Ok((pictures, columns))
}

fn scenes(args: &Args) -> Result<Sheet> {
    use scene_completion::{picture, splits};
    let said: Said<scene_completion::config::Config> = args.data.said(Said::defaults())?;
    let config = or_demo(said, Recipe::SceneCompletion)?.resolve()?;
    let split = match args.split {
        Split::Train => splits::Split::Train,
        Split::Val => splits::Split::Val,
    };
    let data = splits::open_split(&config, split)?;
    let plan = match args.split {
        Split::Train => splits::plan(&config, &data, 1)?,
        Split::Val => Plan::unshuffled(data.len(), 1)?,
    };
    let batch = batch(args, data.clone(), plan, &config)?;
    batch.map_or_else(|| Ok((Vec::new(), 1)), |batch| picture::pictures(&batch, data.options()))
}

fn clouds(args: &Args) -> Result<Sheet> {
    use lidar::{picture, splits};
    let said: Said<lidar::config::Config> = args.data.said(Said::defaults())?;
    let config = or_demo(said, Recipe::Lidar)?.resolve()?;
    let split = match args.split {
        Split::Train => splits::Split::Train,
        Split::Val => splits::Split::Val,
    };
    let data = splits::open_split(&config, split)?;
    let plan = match args.split {
        Split::Train => splits::plan(&config, &data, 1)?,
        Split::Val => Plan::unshuffled(data.len(), 1)?,
    };
    let batch = batch(args, data.clone(), plan, &config)?;
    batch.map_or_else(|| Ok((Vec::new(), 1)), |batch| picture::pictures(&batch, data.options()))
}

/// The batch that is asked for, as training gets it.
fn batch(args: &Args, data: Arc<dyn Pipeline>, plan: Plan, config: &impl Settings) -> Result<Option<Batch>> {
    tell([&*data], &Warnings)?;
    let batch_size = config.batch_size();
    check_step(args, &plan, batch_size)?;
    let cursor = Cursor::new(data.fingerprint(), &plan, args.epoch, args.step * batch_size, 0);
    let options = LoaderOptions { batch_size, num_workers: 0, ..config.loader().options(Arc::new(Warnings)) };
    let mut loader = Loader::new(data, plan, options)?;
    loader.load_state_dict(&cursor)?;
    loader.next_batch()
}

fn check_step(args: &Args, plan: &Plan, batch_size: u64) -> Result<()> {
    let steps = plan.num_batches(0, 0, batch_size, args.split == Split::Train);
    if args.step < steps {
        return Ok(());
    }
    Err(Error::config(
        format!("--step {}: an epoch of {} samples has {steps} batches of {batch_size}", args.step, plan.epoch_len()),
        format!("Steps count from 0, so the last one is {}", steps.saturating_sub(1)),
    ))
}
