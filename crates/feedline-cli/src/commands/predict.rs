//! `feedline predict`: what a trained network makes of pictures.

use super::export::tell_best;
use crate::exit::Done;
use clap::{Args as ClapArgs, ValueEnum};
use feedline::event::Warnings;
use feedline::pipeline::{Pipeline, tell};
use feedline::plot::{contact_sheet_within, encode_png};
use feedline::train::Tensors;
use feedline::{Error, Result};
use feedline_recipes::classification::export::{ExportFormat, Facts, open, read};
use feedline_recipes::classification::predict::{Prediction, Predictor, RowFormat, Rows, Worst};
use feedline_recipes::recipe::Sheet;
use feedline_recipes::settings::SettingsBuilder;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Pictures of a sheet, at most.
const SHOWN: usize = 100;

#[derive(ClapArgs)]
pub struct Args {
    /// A run folder for its best checkpoint, a checkpoint, or a file that `export` wrote: NAME.safetensors
    model: PathBuf,
    /// Pictures, folders (at any depth), lists (*.txt, or - for standard input: a path or `class;path` a line), URLs
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Classes for each picture, the most probable first; all if there are fewer
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
    /// Form of the rows
    #[arg(long, value_enum, default_value_t = FormatArg::Table)]
    format: FormatArg,
    /// Write the rows into a file instead of printing them
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also write a picture of the first 100 pictures with what they are taken for, or with --worst of those
    #[arg(long, value_name = "FILE")]
    show: Option<PathBuf>,
    /// Only the N mistakes that the network is surest of [default: 20]; of pictures in class folders or lists with classes
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20", value_parser = clap::value_parser!(u32).range(1..))]
    worst: Option<u32>,
    /// Pictures at a time [default: that of the run, or 32]
    #[arg(long, value_name = "N")]
    batch_size: Option<u32>,
    /// Threads that read and decode; 0 does it in the thread of the network [default: that of the run, or one per core]
    #[arg(long, visible_alias = "workers", value_name = "N")]
    num_workers: Option<u32>,
    /// cpu or gpu [default: that of the run, or cpu]
    #[arg(long)]
    device: Option<String>,
    /// Any setting that does not change the network's input, e.g. --set storage.endpoint=http://127.0.0.1:9000
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    Table,
    Csv,
    Jsonl,
}

pub fn run(args: &Args) -> Result<Done> {
    let predictor = predictor(args)?;
    tell([predictor.data() as &dyn Pipeline], &Warnings)?;
    if args.worst.is_some() && predictor.labelled() == 0 {
        let classes = predictor.classes();
        let some = classes.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(Error::config(
            "--worst: of no picture the class is known",
            format!(
                "Name pictures in folders that are called like their classes ({some}{}), or a list of `class;path`",
                if classes.len() > 3 { ", ..." } else { "" }
            ),
        ));
    }
    let format = match args.format {
        FormatArg::Table => RowFormat::Table,
        FormatArg::Csv => RowFormat::Csv,
        FormatArg::Jsonl => RowFormat::Jsonl,
    };
    let top_k = args.top_k as usize;
    let rows = Rows::new(format, &predictor, top_k, args.worst.is_some());
    let mut output = Output { file: args.out.as_deref(), text: String::new() };
    output.add(&rows.head())?;
    let mut worst = args.worst.map(|count| Worst::new(count as usize));
    let (mut shown, mut done, mut bad): (Vec<Prediction>, u64, u64) = (Vec::new(), 0, 0);
    let since = Instant::now();
    predictor.run(
        top_k,
        &mut |prediction| {
            done += 1;
            match &mut worst {
                Some(worst) => worst.add(prediction),
                None => {
                    output.add(&rows.row(&prediction))?;
                    if args.show.is_some() && shown.len() < SHOWN {
                        shown.push(prediction);
                    }
                }
            }
            Ok(())
        },
        &mut |problem| {
            bad += 1;
            feedline::say!("feedline: {problem}");
        },
    )?;
    let seconds = since.elapsed().as_secs_f64();
    if let Some(worst) = worst {
        feedline::say!("{} of {} pictures are taken for a class that is not theirs", worst.mistakes, worst.labelled);
        if worst.unlabelled > 0 {
            feedline::say!("{} pictures are left out: their class is not known", worst.unlabelled);
        }
        shown = worst.into_rows();
        shown.iter().try_for_each(|prediction| output.add(&rows.row(prediction)))?;
        shown.truncate(SHOWN);
    }
    output.finish()?;
    if let Some(file) = &args.show {
        show(file, &predictor, &shown, if args.worst.is_some() { shown.len() as u64 } else { done })?;
    }
    feedline::say!("{done} pictures in {seconds:.1} s, {:.0} images/s", done as f64 / seconds.max(1e-9));
    if bad == 0 {
        return Ok(Done::Ok);
    }
    feedline::say!("error: {bad} of {} pictures could not be used; they are named above, and have no row", done + bad);
    Ok(Done::BadSamples)
}

/// The network and the pictures.
fn predictor(args: &Args) -> Result<Predictor> {
    let file = args.model.is_file().then(|| ExportFormat::of_file(&args.model)).flatten();
    let (facts, mut builder, weights): (Facts, SettingsBuilder<_>, Tensors) = match file {
        Some(ExportFormat::Safetensors) => {
            let (facts, weights) = read(&args.model)?;
            let builder = facts.settings()?;
            (facts, builder, weights)
        }
        Some(ExportFormat::Torch | ExportFormat::Onnx) => {
            return Err(Error::Unsupported {
                what: format!("{}: prediction with a network in this form", args.model.display()),
                remedy: "Export it as safetensors: feedline export RUN --format safetensors".into(),
            });
        }
        None => {
            let opened = open(&args.model, "predict")?;
            tell_best(&args.model, &opened);
            let weights = opened.weights()?;
            (opened.facts, opened.settings, weights)
        }
    };
    for (key, number) in [("train.batch_size", args.batch_size), ("data.num_workers", args.num_workers)] {
        if let Some(number) = number {
            builder = builder.set(key, i64::from(number))?;
        }
    }
    if let Some(device) = &args.device {
        builder = builder.set("model.device", device.as_str())?;
    }
    let config = args.set.iter().try_fold(builder, |builder, assignment| builder.assign(assignment))?.resolve()?;
    Predictor::new(config, &facts, weights, &args.paths)
}

/// The rows: printed as they come, or kept for a file, which is written whole.
struct Output<'f> {
    file: Option<&'f Path>,
    text: String,
}

impl Output<'_> {
    fn add(&mut self, text: &str) -> Result<()> {
        if self.file.is_none() {
            return super::print(text);
        }
        self.text += text;
        Ok(())
    }

    fn finish(self) -> Result<()> {
        self.file.map_or(Ok(()), |file| super::write(file, self.text.as_bytes()))
    }
}

/// Writes the sheet of some of `count` pictures.
fn show(file: &Path, predictor: &Predictor, shown: &[Prediction], count: u64) -> Result<()> {
    if shown.is_empty() {
        feedline::say!("feedline: {} is not written: there is no picture for it", file.display());
        return Ok(());
    }
    if count > shown.len() as u64 {
        feedline::say!("feedline: {} shows the first {} of {count} pictures", file.display(), shown.len());
    }
    let Sheet { pictures, columns, large_px } = predictor.sheet(shown)?;
    super::write(file, &encode_png(contact_sheet_within(&pictures, columns, large_px).image())?)
}
