//! `feedline compare`: runs beside each other, the settings that differ, and a picture of their curves. All figures are of
//! the events of the runs, which tell the truth of a run under way, killed or finished alike.

use crate::exit::Done;
use clap::{Args as ClapArgs, ValueEnum};
use feedline::plot::{Canvas, DIFFERENT_COLOURS, Series, colour, encode_png, line_chart, stacked};
use feedline::train::history::History;
use feedline::{Error, Result};
use feedline_recipes::recipe::Best;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};

#[derive(ClapArgs)]
pub struct Args {
    /// Folders of runs, finished or not
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// Draw losses and the first metric of all runs into this file, a PNG
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print words for people, or all figures and the settings that differ for programs
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

/// The first bytes of a PNG file.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The settings are a table if it is no wider than this; else they are told key by key.
const WIDTH: usize = 110;

/// Keys that name the data.
const DATA_KEYS: [&str; 3] = ["data.dir", "data.train_list", "data.val_list"];

/// One of the runs.
pub struct ComparedRun {
    name: String,
    recipe: &'static str,
    best: Best,
    keys: Vec<(String, String)>,
    history: History,
}

impl ComparedRun {
    /// Reads the run in `dir`, of this recipe and with these settings.
    ///
    /// # Errors
    /// Events that cannot be read.
    pub fn read(dir: &Path, recipe: &'static str, best: Best, keys: Vec<(String, String)>) -> Result<ComparedRun> {
        Ok(ComparedRun { name: dir.display().to_string(), recipe, best, keys, history: History::read(dir)? })
    }

    /// A setting as it reads without quotes; `-` if the recipe has no such key.
    fn setting(&self, key: &str) -> String {
        let found = self.keys.iter().find(|(name, _)| name == key);
        found.map_or("-".into(), |(_, value)| value.trim_matches('"').to_owned())
    }

    /// The name of the first metric.
    fn metric(&self) -> Option<String> {
        let name = self.history.metric_names.first().cloned();
        self.history.first_metric().filter(|values| !values.is_empty()).map(|_| name.unwrap_or("metric".into()))
    }

    /// The figures of the run, each with its name; null if there is none.
    fn figures(&self) -> Vec<(&'static str, Value)> {
        let (last, metric) = (self.history.epochs.last(), self.history.first_metric().unwrap_or_default());
        let (samples_per_second, data_wait_share) = self.history.speed();
        vec![
            ("run", json!(self.name)),
            ("recipe", json!(self.recipe)),
            ("epochs", json!(self.history.epochs.len())),
            ("epochs_planned", json!(self.setting("train.epochs").parse::<u64>().ok())),
            ("train_loss", json!(last.map(|record| record.train_loss))),
            ("val_loss", json!(last.map(|record| record.val_loss))),
            ("metric", json!(self.metric())),
            ("metric_best", json!(self.best.of(metric.iter().copied()))),
            ("metric_last", json!(metric.last())),
            ("samples_per_second", json!(samples_per_second)),
            ("data_wait_share", json!(data_wait_share)),
            ("hours", json!(self.history.seconds() / 3600.0)),
        ]
    }
}

/// Compares the runs.
pub fn run(args: &Args, runs: &[ComparedRun]) -> Result<Done> {
    let one_recipe = runs.iter().all(|run| run.recipe == runs[0].recipe);
    if let Some(out) = &args.out {
        if !one_recipe {
            return Err(Error::config(
                "--out: runs of different recipes have no chart in common: their losses and metrics mean different things",
                "Leave it out, or name runs of one recipe",
            ));
        }
        super::check_replaceable(out, PNG, "a PNG picture")?;
    }
    let differing = differing(runs);
    super::print(&match args.format {
        Format::Table => table(runs, &differing),
        Format::Csv => csv(runs, &differing),
        Format::Json => format!("{:#}\n", runs.iter().map(|run| object(run, &differing)).collect::<Value>()),
    })?;
    let named = |keys: &[&str]| differing.iter().any(|key| keys.contains(&key.as_str()));
    if !one_recipe {
        feedline::say!("note         the recipes differ: losses, metrics and samples cannot be compared across them");
    } else if named(&DATA_KEYS) {
        feedline::say!("note         the runs name different data: their losses and metrics are of different samples");
    }
    if let Some(out) = &args.out {
        if runs.len() > DIFFERENT_COLOURS {
            feedline::say!(
                "note         there are {DIFFERENT_COLOURS} colours, so that those of some runs are the same"
            );
        }
        super::write(out, &encode_png(charts(runs).image())?)?;
        feedline::say!("the curves are in {}", out.display());
    }
    Ok(Done::Ok)
}

/// The keys of which not all runs have the same value, in the order of the first run that has them.
fn differing(runs: &[ComparedRun]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for (key, _) in runs.iter().flat_map(|run| &run.keys) {
        if !keys.contains(key) && runs.iter().any(|run| run.setting(key) != runs[0].setting(key)) {
            keys.push(key.clone());
        }
    }
    keys
}

fn table(runs: &[ComparedRun], differing: &[String]) -> String {
    let head = [
        "",
        "recipe",
        "epochs",
        "train loss",
        "val loss",
        "metric",
        "best",
        "last",
        "samples/s",
        "data wait",
        "hours",
        "run",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (at, run) in runs.iter().enumerate() {
        let of = |name: &str| run.figures().into_iter().find(|(figure, _)| *figure == name).map(|(_, value)| value);
        let number = |name: &str, decimals: usize, unit: &str| {
            let value = of(name).and_then(|value| value.as_f64());
            value.map_or("-".to_string(), |value| format!("{value:.decimals$}{unit}"))
        };
        let speed = if run.history.speed().0 < 10.0 { 1 } else { 0 };
        let wait = run.history.speed().1 * 100.0;
        let seconds = run.history.seconds().round() as u64;
        rows.push(vec![
            format!("#{}", at + 1),
            run.recipe.into(),
            format!("{}/{}", run.history.epochs.len(), run.setting("train.epochs")),
            number("train_loss", 4, ""),
            number("val_loss", 4, ""),
            run.metric().unwrap_or("-".into()),
            number("metric_best", 4, ""),
            number("metric_last", 4, ""),
            number("samples_per_second", speed, ""),
            if wait.is_nan() { "-".into() } else { format!("{wait:.1} %") },
            format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
            run.name.clone(),
        ]);
    }
    let mut text = aligned(&rows, &["", "recipe", "metric", "run"]);
    text.push('\n');
    if differing.is_empty() {
        text.push_str(if runs.len() > 1 { "all settings are the same\n" } else { "" });
        return text;
    }
    let head = ["settings that differ".to_string()].into_iter().chain((1..=runs.len()).map(|at| format!("#{at}")));
    let mut rows = vec![head.collect::<Vec<_>>()];
    for key in differing {
        rows.push([key.clone()].into_iter().chain(runs.iter().map(|run| run.setting(key))).collect());
    }
    let settings = aligned(&rows, &["settings that differ"]);
    if settings.lines().all(|line| line.chars().count() <= WIDTH) {
        return text + &settings;
    }
    // Too wide: each value once, with the runs that have it.
    text.push_str("settings that differ\n");
    for key in differing {
        let _ = writeln!(text, "{key}");
        let mut values: Vec<(String, Vec<String>)> = Vec::new();
        for (at, run) in runs.iter().enumerate() {
            let (value, number) = (run.setting(key), format!("#{}", at + 1));
            match values.iter_mut().find(|(known, _)| *known == value) {
                Some((_, numbers)) => numbers.push(number),
                None => values.push((value, vec![number])),
            }
        }
        for (value, numbers) in values {
            let _ = writeln!(text, "    {value}  {}", numbers.join(" "));
        }
    }
    text
}

/// Rows of cells, of which the first row is the head, with every column as wide as it needs; the columns `left` begin at the
/// left, the others end at the right.
fn aligned(rows: &[Vec<String>], left: &[&str]) -> String {
    let columns = rows[0].len();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&rows[0]).zip(&widths).map(|((cell, head), &width)| {
            if left.contains(&head.as_str()) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

/// The figures and the settings that differ, by their names.
fn object(run: &ComparedRun, differing: &[String]) -> Value {
    let settings: Value = differing.iter().map(|key| (key.clone(), json!(run.setting(key)))).collect();
    let settings = ("settings".to_string(), settings);
    run.figures().into_iter().map(|(name, value)| (name.to_string(), value)).chain([settings]).collect()
}

/// The same, a line for each run (RFC 4180).
fn csv(runs: &[ComparedRun], differing: &[String]) -> String {
    let line = |cells: Vec<String>| {
        let quoted = cells.into_iter().map(|cell| match cell {
            cell if cell.contains([',', '"', '\n', '\r']) => format!("\"{}\"", cell.replace('"', "\"\"")),
            cell => cell,
        });
        quoted.collect::<Vec<_>>().join(",") + "\n"
    };
    let names = runs[0].figures().into_iter().map(|(name, _)| name.to_string());
    let mut text = line(names.chain(differing.iter().cloned()).collect());
    for run in runs {
        let cells = run.figures().into_iter().map(|(_, value)| match value {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => other.to_string(),
        });
        text += &line(cells.chain(differing.iter().map(|key| run.setting(key))).collect());
    }
    text
}

/// The losses of all runs, and below them the first metric if they have one.
fn charts(runs: &[ComparedRun]) -> Canvas {
    let names: Vec<String> = runs.iter().enumerate().map(|(at, run)| format!("#{} {}", at + 1, run.name)).collect();
    let points = |of: &dyn Fn(&History) -> Vec<f64>| -> Vec<Vec<(f64, f64)>> {
        let epochs = |history: &History| history.epochs.iter().map(|record| record.epoch as f64).collect::<Vec<_>>();
        runs.iter().map(|run| epochs(&run.history).into_iter().zip(of(&run.history)).collect()).collect()
    };
    let train = points(&|history| history.epochs.iter().map(|record| record.train_loss).collect());
    let val = points(&|history| history.epochs.iter().map(|record| record.val_loss).collect());
    let metric = points(&|history| history.first_metric().unwrap_or_default());
    let losses = [curves(&names, &train, true), curves(&names, &val, false)].concat();
    let mut charts = vec![line_chart("Loss: validation, and dashed training", "Epoch", "Loss", &losses)];
    if let Some(name) = runs.iter().find_map(ComparedRun::metric) {
        charts.push(line_chart(
            &format!("{name} on the validation split"),
            "Epoch",
            &name,
            &curves(&names, &metric, false),
        ));
    }
    stacked(&charts)
}

/// A curve for each run; dashed ones stand beside others of the same colour, which have the names.
fn curves<'a>(names: &'a [String], points: &'a [Vec<(f64, f64)>], dashed: bool) -> Vec<Series<'a>> {
    let curves = names.iter().zip(points).enumerate();
    curves
        .map(|(at, (name, points))| {
            let name = if dashed { "" } else { name.as_str() };
            Series { name, colour: colour(at), dashed, points }
        })
        .collect()
}
