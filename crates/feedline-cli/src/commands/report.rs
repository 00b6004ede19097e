//! `feedline report`: a page about a run. Gathers what the run folder tells, evaluates the best checkpoint once, and draws a
//! batch; what cannot be had is left out, and the page says so. The page itself belongs to `page`.

mod page;

use super::{eval, verify};
use crate::exit::Done;
use clap::Args as ClapArgs;
use feedline::event::Warnings;
use feedline::pipeline::{Pipeline, tell};
use feedline::read::read_text;
use feedline::train::checkpoint::load_model;
use feedline::train::group::SingleRank;
use feedline::train::history::History;
use feedline::train::proof;
use feedline::{Error, Result};
use feedline_recipes::recipe::{BatchChoice, EvalOptions, EvalReport, Setup, Sheet, SplitsOf, Trainable, load_weights};
use feedline_recipes::run::{Meant, SAMPLES, locate, settings_of};
use feedline_recipes::settings::{Sections, Settings};
use page::{BatchPictures, Evaluated, Report, left_out};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(ClapArgs)]
pub struct Args {
    /// Folder of a run, finished or not
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The page to write, one HTML file [default: report.html in the run folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Mistakes that the page shows.
const MISTAKES: usize = 12;
/// Pictures of the batch that the page shows.
const PICTURES: usize = 12;

/// Writes the page of a run of the recipe.
pub fn run_recipe<R: Trainable>(args: &Args) -> Result<Done> {
    let out = args.out.clone().unwrap_or_else(|| args.run.join("report.html"));
    // Before the minutes that an evaluation may take.
    super::check_replaceable(&out, page::BEGIN.as_bytes(), "a report of Feedline")?;
    let history = History::read(&args.run)?;
    if history.epochs.is_empty() {
        return Err(Error::config(
            format!("no epoch of the run in {} is over, so there is nothing to report", args.run.display()),
            "Ask again when the first epoch is done",
        ));
    }
    let config = R::Config::of_run(&args.run)?;
    let mut notes = Vec::new();
    let (about, batch) = match R::open_splits(&config) {
        Ok(splits) => of_data::<R>(&args.run, &config, splits, &mut notes),
        Err(error) => {
            notes.push(left_out("what was trained on what, and a training batch", &error));
            (Vec::new(), None)
        }
    };
    let evaluation = evaluate::<R>(&args.run);
    let evaluation = evaluation.map_err(|error| notes.push(left_out("the evaluation of the best checkpoint", &error)));
    let proof = proof::verify(&args.run).map(|proof| (verify::words(&proof), proof.proved));
    let classes = read_text(&args.run.join("classes.txt")).unwrap_or_default();
    let folder = args.run.canonicalize().map_err(|e| Error::io("find", &args.run, e))?;
    let report = Report {
        name: folder.file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned()),
        recipe: R::Config::RECIPE,
        samples: R::SAMPLES,
        history,
        best: R::BEST,
        epochs_planned: config.epochs(),
        num_workers: config.loader().num_workers(),
        about,
        classes: classes.lines().map(str::to_owned).collect(),
        evaluation: evaluation.ok(),
        batch,
        proof: proof.map_err(|error| error.to_string()),
        settings: config.changed_keys()?,
        notes,
        versions: vec![
            ("written by".into(), format!("Feedline {}", env!("CARGO_PKG_VERSION"))),
            ("on".into(), format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
            ("run folder".into(), folder.display().to_string()),
        ],
    };
    super::write(&out, report.html()?.as_bytes())?;
    report.notes.iter().for_each(|what| feedline::say!("note         {what}"));
    super::print(&format!("{}\n", out.display()))?;
    Ok(Done::Ok)
}

/// Describes data, network and training, and draws a batch, from the data as it is now.
fn of_data<R: Trainable>(
    run: &Path,
    config: &R::Config,
    (train, val): SplitsOf<R>,
    notes: &mut Vec<String>,
) -> (Vec<(String, String)>, Option<BatchPictures>) {
    if read_text(&run.join(SAMPLES)).is_ok_and(|list| list != R::sample_list(&train)) {
        notes.push(
            "the training data is not what it was when the run last began: the batch below is of the data as it is now"
                .into(),
        );
    }
    let batch = draw::<R>(config, &train);
    let batch = batch.map_err(|error| notes.push(left_out("a training batch", &error))).ok();
    let about = R::task(config, &train).map(|task| {
        let text = R::describe(&Setup { config: config.clone(), task, train, val, group: Arc::new(SingleRank) });
        let fact = |line: &str| line.split_once(' ').map(|(word, text)| (word.to_owned(), text.trim().to_owned()));
        text.lines().filter_map(fact).collect()
    });
    let about = about.map_err(|error| notes.push(left_out("what was trained on what", &error)));
    (about.unwrap_or_default(), batch)
}

/// The first batch of the first epoch, as `feedline show` draws it.
fn draw<R: Trainable>(config: &R::Config, train: &Arc<R::Data>) -> Result<BatchPictures> {
    let batch = BatchChoice::new(R::plan(config, train, 1)?, config, 0, 0, true)?;
    let Sheet { mut pictures, large_px, .. } = R::draw(config, train, &batch)?;
    let of = pictures.len();
    pictures.truncate(PICTURES);
    Ok(BatchPictures { pictures, large_px, of })
}

/// Evaluates the best checkpoint on the validation split, as `feedline eval` does.
fn evaluate<R: Trainable>(run: &Path) -> Result<Evaluated> {
    let (checkpoint, run) = locate(run, Meant::Best)?;
    let config = settings_of::<R::Config>(&run, &checkpoint)?.resolve()?.absolute()?;
    let data = R::open_evaluated(&config, &run)?;
    tell([&*data as &dyn Pipeline], &Warnings)?;
    let mut task = R::task(&config, &data)?;
    load_weights(&mut task, load_model(&checkpoint)?)?;
    let bar = eval::bar(data.len(), R::SAMPLES);
    let progress = &mut |samples| bar.inc(samples);
    // No file of the evaluation is kept: the page holds what it needs.
    let options = EvalOptions { out: &run, logits: false, mistakes: MISTAKES, progress };
    let evaluated = R::evaluate(&config, &mut task, &data, options);
    bar.finish_and_clear();
    let EvalReport { text, confusion, .. } = evaluated?;
    let name = checkpoint.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // The last line names files.
    let text = text.trim_end().rsplit_once('\n').map_or(String::new(), |(text, _)| text.to_owned());
    Ok(Evaluated { checkpoint: name, samples: data.len(), text, confusion })
}
