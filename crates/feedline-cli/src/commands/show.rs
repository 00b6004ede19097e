//! `feedline show`: a contact sheet of one augmented batch, of any epoch and step, without training.

use super::DataArgs;
use crate::Done;
use clap::{Args as ClapArgs, ValueEnum};
use feedline::picture::{contact_sheet, encode_png};
use feedline::pipeline::Pipeline;
use feedline::{Error, Result};
use feedline_recipes::classification::config::Said;
use feedline_recipes::classification::data;
use std::path::PathBuf;

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
    let mut said = args.data.said(Said::defaults())?;
    if !said.names_data() {
        let dir = super::demo_data::ensure(super::demo_data::DEFAULT_DIR.as_ref())?;
        said = said.set("data.dir", super::text_of(&dir)?)?;
    }
    let config = said.resolve()?;
    let (train_data, val_data) = data::open(&config)?;
    let (data, plan) = match args.split {
        Split::Train => (train_data.clone(), data::plan(&config, &train_data, 1)?),
        Split::Val => (val_data.clone(), feedline::plan::Plan::unshuffled(val_data.len(), 1)?),
    };
    let batch_size = config.train.batch_size;
    let steps = plan.num_batches(0, 0, batch_size, args.split == Split::Train);
    if args.step >= steps {
        return Err(Error::config(
            format!("--step {}: an epoch of {} images has {steps} batches of {batch_size}", args.step, data.len()),
            format!("Steps count from 0, so the last one is {}", steps.saturating_sub(1)),
        ));
    }
    let epoch = plan.epoch(args.epoch);
    let requests = epoch.rank(0).skip((args.step * batch_size) as usize).take(batch_size as usize);
    let pictures = requests
        .map(|request| {
            let class = &data.classes()[data.label(request.index) as usize];
            Ok((data.picture(&request)?, class.clone()))
        })
        .collect::<Result<Vec<_>>>()?;
    let columns = (pictures.len() as f64).sqrt().ceil() as usize;
    super::write(&args.out, &encode_png(contact_sheet(&pictures, columns).image())?)?;
    super::print(&format!("{}\n", args.out.display()))?;
    Ok(Done::Ok)
}
