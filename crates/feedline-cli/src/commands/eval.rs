//! `feedline eval`: a checkpoint on a data set.

use super::DataArgs;
use crate::exit::Done;
use clap::Args as ClapArgs;
use feedline::event::Warnings;
use feedline::pipeline::{Pipeline, tell};
use feedline::read::{is_url, looks_like_picture, read_text};
use feedline::train::checkpoint::load_model;
use feedline::{Error, Result};
use feedline_recipes::recipe::{EvalOptions, EvalReport, Trainable, load_weights};
use feedline_recipes::run::{Meant, locate, settings_of};
use feedline_recipes::settings::{CONFIG, Settings, SettingsBuilder};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

#[derive(ClapArgs)]
pub struct Args {
    /// A checkpoint, e.g. runs/NAME/checkpoints/best, or a run folder for its newest one
    pub checkpoint: PathBuf,
    #[command(flatten)]
    pub data: DataArgs,
    /// Also write `path,label,logit_0,...` for each image, in order; of images only
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    /// Folder for the figures, and of images the confusion matrix, of clouds the detections [default: eval/DATA-CHECKPOINT in
    /// the run folder, with a number if another evaluation has that name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// cpu or gpu [default: that of the run]
    #[arg(long)]
    device: Option<String>,
}

/// Evaluates the `checkpoint` of a run of the recipe.
pub fn run_recipe<R: Trainable>(args: &Args, checkpoint: &Path, run: &Path) -> Result<Done> {
    if args.logits.is_some() && !R::HAS_LOGITS {
        return Err(Error::config(
            format!("--logits makes no sense for the recipe {}", R::Config::RECIPE),
            "Leave it out",
        ));
    }
    let mut builder = settings_of::<R::Config>(run, checkpoint)?;
    if args.data.names_others(&builder)? {
        builder = builder.without_data()?;
    }
    let config = settings(args, builder)?.absolute()?;
    let data = R::open_evaluated(&config, run)?;
    let place = Place::of(args, run, checkpoint, &config, data.fingerprint())?;
    tell([&*data as &dyn Pipeline], &Warnings)?;
    let mut task = R::task(&config, &data)?;
    load_weights(&mut task, load_model(checkpoint)?)?;

    let bar = bar(data.len(), R::SAMPLES);
    let progress = &mut |samples| bar.inc(samples);
    let options = EvalOptions { out: &place.dir, logits: args.logits.is_some(), mistakes: 0, progress };
    let EvalReport { text, figures, files, logits, .. } = R::evaluate(&config, &mut task, &data, options)?;
    bar.finish_and_clear();
    if let Some(file) = &args.logits {
        super::write(file, logits.as_bytes())?;
    }
    let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), value));
    place.publish(&files, &figures.chain(place.identity.clone()).collect())?;
    super::print(&text)?;
    Ok(Done::Ok)
}

/// The run's own settings, so that the network sees what it was trained on, with the flags on top.
fn settings<C: Settings>(args: &Args, mut builder: SettingsBuilder<C>) -> Result<C> {
    if let Some(device) = &args.device {
        builder = builder.set("model.device", device.as_str())?;
    }
    args.data.settings(builder)?.resolve()
}

/// The folder that the figures are written to, and what they describe.
struct Place {
    dir: PathBuf,
    identity: Map<String, Value>,
}

/// The file with the figures. It is written last, so that what lies beside it is of the same evaluation.
const FIGURES: &str = "eval.json";

impl Place {
    /// The folder is named after data and checkpoint, and has a number if another evaluation has that name: with other
    /// settings, or of other data.
    fn of<C: Settings>(args: &Args, run: &Path, checkpoint: &Path, config: &C, fingerprint: u64) -> Result<Place> {
        let own = C::from_resolved(&run.join(CONFIG))?.evaluated()?;
        let asked = config.clone().absolute()?.evaluated()?;
        let is_place = |key: &str| key.strip_prefix("data.").is_some_and(|key| C::LOCATION_KEYS.contains(&key));
        // The query of a URL may be a signature, so it is never written.
        let shown = |value: &str| -> String {
            let value = value.trim_matches('"');
            if is_url(Path::new(value)) { value.split('?').next().unwrap_or_default().into() } else { value.into() }
        };
        let named = asked.iter().filter(|(key, value)| is_place(key) && value != "\"\"");
        let named: Vec<String> = named.map(|(_, value)| shown(value)).collect();
        let differs = |(key, value): &&(String, String)| !is_place(key) && !own.contains(&(key.clone(), value.clone()));
        let settings: Map<String, Value> =
            asked.iter().filter(differs).map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        let is_own = own == asked;
        let identity = Map::from_iter([
            ("checkpoint".to_owned(), checkpoint.display().to_string().into()),
            ("data".to_owned(), named.join(", ").into()),
            ("data_fingerprint".to_owned(), format!("{fingerprint:016x}").into()),
            ("changed_settings".to_owned(), settings.into()),
        ]);
        if let Some(dir) = &args.out {
            return Ok(Place { dir: dir.clone(), identity });
        }
        let last = Path::new(named.last().map_or("", String::as_str)).file_stem().unwrap_or_default();
        let is_plain = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        let last: String = last.to_string_lossy().chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        let checkpoint = checkpoint.file_name().unwrap_or_default().to_string_lossy();
        let name = |number: u32| match number {
            1 => format!("{last}-{checkpoint}"),
            number => format!("{last}-{checkpoint}-{number}"),
        };
        let mut dirs = (1..).map(|number| run.join("eval").join(name(number)));
        let dir = dirs.find(|dir| is_free(dir, &identity)).unwrap_or_default();
        if !is_own {
            feedline::say!(
                "note         this is not the run's own data with its own settings: the figures go to {}",
                dir.display()
            );
        }
        Ok(Place { dir, identity })
    }

    /// Writes the files, and the figures when all others are there.
    fn publish(&self, files: &[(PathBuf, Vec<u8>)], figures: &serde_json::Value) -> Result<()> {
        let path = self.dir.join(FIGURES);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("replace", path, e)),
            _ => {}
        }
        for (name, bytes) in files {
            super::write(&self.dir.join(name), bytes)?;
        }
        super::write(&path, format!("{figures:#}\n").as_bytes())
    }
}

/// True if no evaluation wrote its figures there, or one of this identity did.
fn is_free(dir: &Path, identity: &Map<String, Value>) -> bool {
    let Ok(text) = read_text(&dir.join(FIGURES)) else { return !dir.join(FIGURES).exists() };
    let Ok(Value::Object(found)) = serde_json::from_str(&text) else { return false };
    identity.iter().all(|(key, value)| found.get(key) == Some(value))
}

pub fn bar(len: u64, things: &str) -> ProgressBar {
    let bar = ProgressBar::new(len);
    let template = format!("evaluating [{{bar:24}}] {{pos}}/{{len}} {things} {{per_sec}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// The checkpoint's folder and the folder of its run, of what `eval` is asked for.
///
/// # Errors
/// A path that is neither a checkpoint nor a run, such as a picture.
pub fn located(args: &Args) -> Result<(PathBuf, PathBuf)> {
    let path = &args.checkpoint;
    if looks_like_picture(path) && !path.is_dir() {
        return Err(Error::config(
            format!("{} is a picture, and eval measures a checkpoint on a whole data set with labels", path.display()),
            "What a network makes of pictures says: feedline predict RUN PICTURE...",
        ));
    }
    locate(path, Meant::Last)
}
