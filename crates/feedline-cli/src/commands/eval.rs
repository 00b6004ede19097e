//! `feedline eval`: a checkpoint on a data set.

use super::DataArgs;
use crate::exit::Done;
use clap::Args as ClapArgs;
use feedline::event::Warnings;
use feedline::pipeline::{Pipeline, tell};
use feedline::read::{is_url, read_text};
use feedline::train::checkpoint::{Checkpoints, best_epoch, load_model, load_settings};
use feedline::train::run::CHECKPOINTS;
use feedline::{Error, Result};
use feedline_recipes::recipe::{EvalOptions, EvalReport, Trainable, load_weights};
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
    if args.data.names_any(R::Config::DATASET_KEYS) {
        builder = elsewhere(builder)?;
    }
    let config = settings(args, builder)?.absolute()?;
    let data = R::open_evaluated(&config, run)?;
    let place = Place::of(args, run, checkpoint, &config, data.fingerprint())?;
    tell([&*data as &dyn Pipeline], &Warnings)?;
    let mut task = R::task(&config, &data)?;
    load_weights(&mut task, load_model(checkpoint)?)?;

    let bar = bar(data.len(), R::SAMPLES);
    let options =
        EvalOptions { out: &place.dir, logits: args.logits.is_some(), progress: &mut |samples| bar.inc(samples) };
    let EvalReport { text, figures, files, logits } = R::evaluate(&config, &mut task, &data, options)?;
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

/// Without the places of the run's own data.
fn elsewhere<C: Settings>(builder: SettingsBuilder<C>) -> Result<SettingsBuilder<C>> {
    C::LOCATION_KEYS.iter().try_fold(builder, |builder, key| builder.set(&format!("data.{key}"), ""))
}

fn bar(len: u64, things: &str) -> ProgressBar {
    let bar = ProgressBar::new(len);
    let template = format!("evaluating [{{bar:24}}] {{pos}}/{{len}} {things} {{per_sec}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// The settings of the run, by which the checkpoint was made.
fn settings_of<C: Settings>(run: &Path, checkpoint: &Path) -> Result<SettingsBuilder<C>> {
    let builder = SettingsBuilder::<C>::of_run(run)?;
    if let Some(made_with) = load_settings(checkpoint)? {
        builder.clone().resolve()?.check_checkpoint(run, checkpoint, &made_with)?;
    }
    Ok(builder)
}

/// The checkpoint's folder and the folder of its run.
pub fn locate(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let (inside, name) = (path.join(CHECKPOINTS), path.file_name().and_then(|name| name.to_str()));
    // `last` and `best` are links, which a copy may lack or have as folders of old: the checkpoints know better.
    let asked = match name {
        // A folder that holds a model and nothing else: it is what was named.
        _ if path.join("model.safetensors").is_file() && !path.join("checkpoint.toml").is_file() => None,
        _ if inside.is_dir() => Some((Checkpoints::new(inside), "last")),
        Some(name @ ("last" | "best")) => path.parent().map(|dir| (Checkpoints::new(Path::new(".").join(dir)), name)),
        _ => None,
    };
    let mut checkpoint = path.to_path_buf();
    if let Some((checkpoints, name)) = asked
        && let Some(newest) = checkpoints.newest()?
    {
        newest.passed_over.iter().for_each(|problem| feedline::say!("feedline: {problem}"));
        checkpoint = match name {
            "best" => checkpoints.best(&newest.progress.history)?.ok_or_else(|| Error::Checkpoint {
                path: path.to_path_buf(),
                problem: match best_epoch(&newest.progress.history) {
                    0 => "no epoch is over, so none is the best".into(),
                    epoch => format!("the checkpoint of the best epoch, {epoch}, is not there any more"),
                },
                remedy: format!("The newest one is {}", newest.path.display()),
            })?,
            _ => newest.path,
        };
    }
    let real = checkpoint.canonicalize().map_err(|e| Error::io("find the checkpoint", path, e))?;
    let run = real.parent().and_then(Path::parent).filter(|run| run.join(CONFIG).is_file());
    match run {
        Some(run) => Ok((real.clone(), run.to_path_buf())),
        None => Err(Error::Checkpoint {
            path: path.to_path_buf(),
            problem: "it lies in no run folder: there is no config.toml two folders above".into(),
            remedy: "Name a folder like runs/NAME/checkpoints/best".into(),
        }),
    }
}
