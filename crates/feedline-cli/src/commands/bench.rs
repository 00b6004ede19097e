//! `feedline bench`: the data pipeline alone, as fast as it goes, and a verdict in words.

use super::DataArgs;
use super::demo_data::or_demo;
use crate::exit::Done;
use clap::Args as ClapArgs;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use feedline::deliver::bench::{measure, save_chrome_trace};
use feedline::deliver::{Loader, LoaderOptions};
use feedline::event::Warnings;
use feedline::pipeline::tell;
use feedline::{Error, Result};
use feedline_recipes::recipe::{BenchRequest, BenchSetup, Recipe, Work};
use feedline_recipes::settings::Sections;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    pub data: DataArgs,
    /// Passes over the data; the first one warms up
    #[arg(long, default_value_t = 3, value_name = "N")]
    epochs: u64,
    /// One of the works of bench/README.md instead of your own settings [default: a, unless --augment, --config or
    /// --set augment.ops is given; e for a path that is no image data set]
    #[arg(long, value_parser = works(), ignore_case = true)]
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
    pub all_reduce: bool,
    /// With --all-reduce: go on for so long
    #[cfg(feature = "train")]
    #[arg(long, requires = "all_reduce", default_value_t = 0.0)]
    pub seconds: f64,
}

/// The values of the flag `--work`.
fn works() -> impl TypedValueParser<Value = Work> {
    let values = Work::ALL.map(|(_, name, help)| PossibleValue::new(name).help(help));
    PossibleValuesParser::new(values).try_map(|asked| {
        let found = Work::ALL.into_iter().find(|(_, name, _)| name.eq_ignore_ascii_case(&asked));
        found.map(|(work, ..)| work).ok_or("there is no such work")
    })
}

/// Measures how fast a recipe's samples are loaded, and reports.
pub fn run_recipe<R: Recipe>(args: &Args) -> Result<Done> {
    let asked = BenchRequest {
        work: args.work,
        shape: args.shape.as_deref(),
        data: args.data.data.as_deref(),
        has_settings: args.data.augment.is_some()
            || args.data.config.is_some()
            || args.data.set.iter().any(|assignment| {
                ["augment.ops", "augment="].iter().any(|key| assignment.trim_start().starts_with(key))
            }),
    };
    let BenchSetup { config, data, plan } =
        R::bench(&asked, &|builder| or_demo::<R>(args.data.settings(builder)?)?.resolve())?;
    let (batch_size, num_workers) = (config.batch_size(), config.loader().num_workers());
    tell([&*data], &Warnings)?;
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
        Loader::new(Arc::clone(&data), plan.clone(), options)
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
