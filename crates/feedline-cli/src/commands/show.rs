//! `feedline show`: a contact sheet of one augmented batch, of any epoch and step, without training.

use super::DataArgs;
use super::demo_data::or_demo;
use crate::exit::Done;
use clap::{Args as ClapArgs, ValueEnum};
use feedline::Result;
use feedline::event::Warnings;
use feedline::pipeline::{Pipeline, tell};
use feedline::plan::Plan;
use feedline::plot::{contact_sheet_within, encode_png};
use feedline_recipes::recipe::{BatchChoice, Recipe, Sheet, Split};
use feedline_recipes::settings::SettingsBuilder;
use std::path::PathBuf;

#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    pub data: DataArgs,
    /// Epoch of the batch, from 0
    #[arg(long, default_value_t = 0)]
    epoch: u64,
    /// Batch of the epoch, from 0
    #[arg(long, default_value_t = 0)]
    step: u64,
    /// Split of the data
    #[arg(long, value_enum, default_value_t = SplitArg::Train)]
    split: SplitArg,
    /// The picture to write
    #[arg(long, value_name = "FILE", default_value = "batch.png")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum SplitArg {
    Train,
    Val,
}

/// Writes the picture of a recipe's batch.
pub fn run_recipe<R: Recipe>(args: &Args) -> Result<Done> {
    let config = or_demo::<R>(args.data.settings(SettingsBuilder::defaults())?)?.resolve()?;
    let (data, plan) = match args.split {
        SplitArg::Train => {
            let data = R::open(&config, Split::Train)?;
            let plan = R::plan(&config, &data, 1)?;
            (data, plan)
        }
        SplitArg::Val => {
            let data = R::open(&config, Split::Val)?;
            let plan = Plan::unshuffled(data.len(), 1)?;
            (data, plan)
        }
    };
    tell([&*data as &dyn Pipeline], &Warnings)?;
    let drops_rest = args.split == SplitArg::Train;
    let batch = BatchChoice::new(plan, &config, args.epoch, args.step, drops_rest)?;
    let Sheet { pictures, columns, large_px } = R::draw(&config, &data, &batch)?;
    super::write(&args.out, &encode_png(contact_sheet_within(&pictures, columns, large_px).image())?)?;
    super::print(&format!("{}\n", args.out.display()))?;
    Ok(Done::Ok)
}
