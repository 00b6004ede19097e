//! A trained network on pictures without labels: probabilities of the classes for each picture, in the order in which they were
//! named. Owns the rows that a person or a program reads; the pictures and their order belong to `feedline::read`.

use super::config::Config;
use super::data::images;
use super::export::Facts;
use super::metrics::quoted;
use super::network::task::{ClassificationTask, task_options};
use crate::recipe::{Sheet, load_weights};
use crate::settings::Sections;
use feedline::deliver::{Loader, LoaderOptions, OnBadSample};
use feedline::event::Warnings;
use feedline::pipeline::{Images, Pipeline};
use feedline::plan::{Cursor, Plan, Tail};
use feedline::read::Pictures;
use feedline::train::Tensors;
use feedline::{Batch, Error, Result};
use serde_json::json;
use std::cmp::Ordering;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// A picture and what the network makes of it.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// Its place among the pictures.
    pub index: u64,
    /// Its path or URL.
    pub location: String,
    /// Its class, if that is known.
    pub label: Option<u32>,
    /// The most probable classes with their probabilities, the best first; of equal ones the lower class.
    pub top: Vec<(u32, f64)>,
}

impl Prediction {
    /// The class that it is taken for, and how probable that is.
    pub fn best(&self) -> (u32, f64) {
        self.top.first().copied().unwrap_or_default()
    }
}

/// Pictures and the network that looks at them.
pub struct Predictor {
    config: Config,
    classes: Vec<String>,
    task: ClassificationTask,
    data: Arc<Images>,
    labels: Vec<Option<u32>>,
    plan: Plan,
}

impl Predictor {
    /// A network on the pictures at `places` ([`Pictures::at`]). `config` says how they are loaded.
    ///
    /// # Errors
    /// Settings that do not fit the network, weights that are not its own, places that cannot be used.
    pub fn new(config: Config, facts: &Facts, weights: Tensors, places: &[PathBuf]) -> Result<Predictor> {
        facts.check(&config)?;
        let Pictures { list, labels } = Pictures::at(places, &facts.classes, config.storage())?;
        let data = Arc::new(images(list, facts.steps.clone(), &config, None)?);
        let mut task = ClassificationTask::new(task_options(&config, &vec![0; facts.classes.len()]))?;
        load_weights(&mut task, weights)?;
        let plan = Plan::unshuffled(data.len(), 1)?.with_tail(Tail::Exact);
        Ok(Predictor { config, classes: facts.classes.clone(), task, data, labels, plan })
    }

    /// The pictures.
    pub fn data(&self) -> &Images {
        &self.data
    }

    /// Names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Number of pictures whose class is known.
    pub fn labelled(&self) -> usize {
        self.labels.iter().flatten().count()
    }

    /// Predicts every picture: `on_row` gets those that can be used, in order, each with its `top_k` most probable classes;
    /// `on_bad` gets the others, with what is wrong. A bad picture changes no other row.
    ///
    /// # Errors
    /// What is no fault of a picture, such as a network or a disk that fails; errors of `on_row`.
    pub fn run(
        &self,
        top_k: usize,
        on_row: &mut dyn FnMut(Prediction) -> Result<()>,
        on_bad: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let options = LoaderOptions {
            split: "predict".into(),
            batch_size: self.config.batch_size(),
            end_epoch: Some(1),
            // Another picture takes the place of a bad one, so that batches stay whole, and its row is dropped.
            on_bad_sample: OnBadSample::Replace,
            max_bad_samples: u64::MAX,
            ..self.config.loader().options(Arc::new(Warnings))
        };
        let loader = |options| Loader::new(self.data.clone(), self.plan.clone(), options);
        let at = |position| Cursor::new(self.data.fingerprint(), &self.plan, 0, position, 0);
        let mut many = loader(options.clone())?;
        loop {
            match many.next_batch() {
                Ok(None) => return Ok(()),
                Ok(Some(batch)) => self.rows(&batch, top_k, on_row, on_bad)?,
                // Where most are bad, none is found to take a place: then one after the other.
                Err(Error::Sample { .. }) => {
                    let end = (many.position() + options.batch_size).min(self.data.len());
                    let alone = LoaderOptions {
                        batch_size: 1,
                        num_workers: 0,
                        on_bad_sample: OnBadSample::Fail,
                        ..options.clone()
                    };
                    let mut one = loader(alone)?;
                    for position in many.position()..end {
                        one.load_state_dict(&at(position))?;
                        match one.next_batch() {
                            Ok(batch) => batch.iter().try_for_each(|batch| self.rows(batch, top_k, on_row, on_bad))?,
                            Err(error @ Error::Sample { .. }) => on_bad(&error.to_string()),
                            Err(error) => return Err(error),
                        }
                    }
                    many.load_state_dict(&at(end))?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The rows of a batch.
    fn rows(
        &self,
        batch: &Batch,
        top_k: usize,
        on_row: &mut dyn FnMut(Prediction) -> Result<()>,
        on_bad: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let logits = self.task.logits(batch)?;
        // Unshuffled, so that a position is the number of a picture.
        let first = batch.next_position - batch.len() as u64;
        for (index, row) in (first..).zip(logits.chunks(self.classes.len())) {
            if let Some(bad) = batch.replaced.iter().find(|bad| bad.position == index) {
                on_bad(&format!("failed to {} sample {index} ({}): {}", bad.stage, bad.location, bad.problem));
                continue;
            }
            let (location, label) = (self.data.location(index), self.labels[index as usize]);
            on_row(Prediction { index, location, label, top: top(row, top_k) })?;
        }
        Ok(())
    }

    /// The pictures of some predictions as the network sees them, each with the class that it is taken for; where that is not
    /// its own, this one too.
    ///
    /// # Errors
    /// A picture that cannot be read any more.
    pub fn sheet(&self, predictions: &[Prediction]) -> Result<Sheet> {
        let epoch = self.plan.epoch(0);
        let picture = |prediction: &Prediction| {
            let (class, probability) = prediction.best();
            let mut caption = format!("{} {:.0} %", self.classes[class as usize], 100.0 * probability);
            if let Some(label) = prediction.label.filter(|label| *label != class) {
                caption += &format!("\nis {}", self.classes[label as usize]);
            }
            Ok((self.data.picture(&epoch.at(prediction.index))?, caption))
        };
        Ok(Sheet::square(predictions.iter().map(picture).collect::<Result<_>>()?))
    }
}

/// The softmax of some logits, in f64, as the `count` most probable classes. NaN is below every number.
fn top(logits: &[f32], count: usize) -> Vec<(u32, f64)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f64> = logits.iter().map(|logit| (f64::from(*logit) - f64::from(largest)).exp()).collect();
    let sum: f64 = exps.iter().sum();
    let mut classes: Vec<usize> = (0..logits.len()).collect();
    let order = |a: f32, b: f32| b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
    classes.sort_by(|a, b| match order(logits[*a], logits[*b]) {
        Ordering::Equal => a.cmp(b),
        other => other,
    });
    classes.into_iter().take(count).map(|class| (class as u32, exps[class] / sum)).collect()
}

/// The confident mistakes among some predictions: those that are sure of a class that is not theirs, the surest first.
#[derive(Debug)]
pub struct Worst {
    kept: Vec<Prediction>,
    count: usize,
    /// Mistakes met, kept or not.
    pub mistakes: u64,
    /// Predictions met of which the class is known.
    pub labelled: u64,
    /// Predictions met of which it is not.
    pub unlabelled: u64,
}

impl Worst {
    /// None met yet; `count` mistakes are kept.
    pub fn new(count: usize) -> Worst {
        Worst { kept: Vec::new(), count, mistakes: 0, labelled: 0, unlabelled: 0 }
    }

    /// Counts a prediction, and keeps it if it is among the worst. Of equal ones the first is kept.
    pub fn add(&mut self, prediction: Prediction) {
        let Some(label) = prediction.label else {
            self.unlabelled += 1;
            return;
        };
        self.labelled += 1;
        let (class, probability) = prediction.best();
        if class == label {
            return;
        }
        self.mistakes += 1;
        let at = self.kept.partition_point(|other| other.best().1 >= probability);
        self.kept.insert(at, prediction);
        self.kept.truncate(self.count);
    }

    /// The mistakes that were kept.
    pub fn into_rows(self) -> Vec<Prediction> {
        self.kept
    }
}

/// A form of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// For people: the path, then classes with their probabilities.
    Table,
    /// A head, then a line for each picture.
    Csv,
    /// An object for each picture, one a line.
    Jsonl,
}

/// Writes predictions as rows.
#[derive(Debug)]
pub struct Rows<'c> {
    format: RowFormat,
    classes: &'c [String],
    top_k: usize,
    with_labels: bool,
    /// Widths of the columns of a table.
    path_width: usize,
    class_width: usize,
}

/// Wider columns than this do not line up.
const WIDEST: usize = 60;

impl<'c> Rows<'c> {
    /// Rows of the `top_k` most probable classes, with the label if `with_labels`.
    pub fn new(format: RowFormat, predictor: &'c Predictor, top_k: usize, with_labels: bool) -> Rows<'c> {
        let classes = predictor.classes();
        let widest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or_default().min(WIDEST);
        let paths = (0..predictor.data.len()).map(|index| predictor.data.location(index).chars().count());
        let (path_width, class_width) = match format {
            RowFormat::Table => {
                (widest(&mut { paths }), widest(&mut classes.iter().map(|class| class.chars().count())))
            }
            _ => (0, 0),
        };
        Rows { format, classes, top_k: top_k.min(classes.len()), with_labels, path_width, class_width }
    }

    /// The lines before the first row.
    pub fn head(&self) -> String {
        let label = if self.with_labels { ",label" } else { "" };
        let places = (1..=self.top_k).map(|place| format!(",class_{place},probability_{place}"));
        match self.format {
            RowFormat::Csv => format!("path{label}{}\n", places.collect::<String>()),
            RowFormat::Table | RowFormat::Jsonl => String::new(),
        }
    }

    /// The row of a prediction, with its line feed.
    pub fn row(&self, prediction: &Prediction) -> String {
        let name = |class: u32| self.classes[class as usize].as_str();
        let Prediction { location, top, .. } = prediction;
        let label = prediction.label.filter(|_| self.with_labels).map(name);
        let mut row = String::new();
        match self.format {
            RowFormat::Table => {
                let _ = write!(row, "{location:<width$}", width = self.path_width);
                if let Some(label) = label {
                    let _ = write!(row, "  is {label:<width$}", width = self.class_width);
                }
                for (class, probability) in top {
                    let _ = write!(row, "  {:<width$} {probability:.4}", name(*class), width = self.class_width);
                }
            }
            RowFormat::Csv => {
                row += &quoted(location);
                if self.with_labels {
                    row += &format!(",{}", quoted(label.unwrap_or_default()));
                }
                for (class, probability) in top {
                    let _ = write!(row, ",{},{probability}", quoted(name(*class)));
                }
            }
            RowFormat::Jsonl => {
                let top = top.iter().map(
                    |(class, probability)| json!({ "class": name(*class), "index": class, "probability": probability }),
                );
                let mut object = json!({ "path": location, "top": top.collect::<serde_json::Value>() });
                if self.with_labels {
                    object["label"] = json!(label);
                }
                row += &object.to_string();
            }
        }
        row.push('\n');
        row
    }
}
