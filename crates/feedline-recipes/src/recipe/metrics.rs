//! The figures of a recipe that has none but loss and metrics: a task's sums over a split, the summary of a run, and an
//! evaluation. Owns what is read and written of them; how they are computed belongs to the task.

use super::{EvalOptions, EvalReport, Finished, RunFigures, Setup, Trainable, each_once};
use crate::settings::Settings;
use feedline::event::{Sink, Warnings};
use feedline::pipeline::Pipeline;
use feedline::train::group::{Group, SingleRank};
use feedline::train::{Tally, Task};
use feedline::{Batch, Result};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// The sums of loss and metrics of a task over every sample of `data`, each once over all ranks, the same on all; `on_batch`
/// sees each batch of this rank when it is done.
///
/// # Errors
/// Errors of the data, the model, and of `on_batch`.
pub fn tally_each_once<P: Pipeline + 'static>(
    task: &mut impl Task,
    data: &Arc<P>,
    config: &impl Settings,
    group: &dyn Group,
    sink: Arc<dyn Sink>,
    on_batch: &mut dyn FnMut(&Batch) -> Result<()>,
) -> Result<Tally> {
    let mut tally = Tally { metric_sums: vec![0.0; task.metric_sums_len()], ..Tally::default() };
    each_once(data, config, group, sink, |batch| {
        tally.add(&task.eval_step(batch)?);
        on_batch(batch)
    })?;
    tally.all_reduce(group)?;
    Ok(tally)
}

/// The figures of a finished run: `val_NAME` of each metric on the validation split with the final weights, and
/// `best_val_NAME` of the first.
#[derive(Debug, Clone, Serialize)]
pub struct MetricSummary {
    #[serde(flatten)]
    metrics: BTreeMap<String, f64>,
    #[serde(flatten)]
    run: RunFigures,
}

impl MetricSummary {
    /// Works out the figures; all ranks do so together. See [`Trainable::summary`].
    ///
    /// # Errors
    /// Errors of the data or the model.
    pub fn of<R: Trainable>(setup: &mut Setup<R>, finished: Finished, sink: Arc<dyn Sink>) -> Result<MetricSummary> {
        let Setup { config, task, val, group, .. } = setup;
        let tally = tally_each_once(task, val, config, &**group, sink, &mut |_| Ok(()))?;
        let names = task.metric_names();
        let first = names.first().map(|name| (format!("best_val_{name}"), finished.best_metric));
        let values = names.iter().zip(task.metrics(&tally)).map(|(name, value)| (format!("val_{name}"), value));
        Ok(MetricSummary { metrics: values.chain(first).collect(), run: finished.figures })
    }

    /// The figures in a few lines, of `samples`, a word in the plural. See [`Trainable::report`].
    pub fn report(&self, samples: &str) -> String {
        let figures = self.metrics.iter().map(|(name, value)| format!("{name} {value:.4}"));
        format!("{} {}", figures.collect::<Vec<_>>().join(", "), self.run.timing(samples, 0))
    }
}

/// Measures loss and metrics on a split, every sample once. See [`Trainable::evaluate`].
///
/// # Errors
/// Errors of the data or the model.
pub fn evaluate_metrics<R: Trainable>(
    config: &R::Config,
    task: &mut R::Task,
    data: &Arc<R::Data>,
    options: EvalOptions<'_>,
) -> Result<EvalReport> {
    let tally = tally_each_once(task, data, config, &SingleRank, Arc::new(Warnings), &mut |batch| {
        (options.progress)(batch.valid as u64);
        Ok(())
    })?;
    let metrics = task.metric_names().iter().copied().zip(task.metrics(&tally));
    let figures: Vec<(&str, f64)> = [("loss", tally.loss())].into_iter().chain(metrics).collect();
    let mut text = format!("{} {}\n", tally.samples, R::SAMPLES);
    for (name, value) in &figures {
        let _ = writeln!(text, "{name} {value:.4}");
    }
    let _ = writeln!(text, "eval.json is in {}", options.out.display());
    let figures = figures.into_iter().map(|(name, value)| (name, json!(value)));
    let figures = [("samples", json!(tally.samples))].into_iter().chain(figures).collect();
    Ok(EvalReport { text, figures, files: Vec::new(), logits: String::new(), confusion: None })
}
