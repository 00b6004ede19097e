//! An evaluation: a network on every scene of a split, SSC mIoU, the IoU of each class, and how well rooms are completed.

use super::config::Config;
use super::data::Scenes;
use super::metrics::Scores;
use super::network::task::SceneTask;
use crate::recipe::{EvalOptions, EvalReport, tally_each_once};
use feedline::event::{Sink, Warnings};
use feedline::pipeline::Pipeline;
use feedline::train::group::{Group, SingleRank};
use feedline::{Batch, Result};
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;

/// One class of a summary.
#[derive(Debug, Clone, Serialize)]
pub struct ClassSummary {
    pub name: String,
    /// Null for a class that is in neither labels nor predictions.
    pub iou: Option<f64>,
}

/// The IoU of each class with its name.
pub fn class_summaries(config: &Config, scores: &Scores) -> Vec<ClassSummary> {
    let names = config.class_names().into_iter();
    let share = |iou: f64| Some(iou).filter(|iou| !iou.is_nan());
    names.zip(scores.ssc_iou()).map(|(name, iou)| ClassSummary { name, iou: share(iou) }).collect()
}

/// Evaluates the task on every sample of `data`, each exactly once over all ranks; `on_batch` sees each batch of this rank,
/// in order, when it is done. The scores are those of the group.
///
/// # Errors
/// Errors of the data or the model.
pub fn evaluate(
    task: &mut SceneTask,
    data: &Arc<Scenes>,
    config: &Config,
    group: &dyn Group,
    sink: Arc<dyn Sink>,
    on_batch: &mut dyn FnMut(&Batch) -> Result<()>,
) -> Result<Scores> {
    let tally = tally_each_once(task, data, config, group, sink, on_batch)?;
    Ok(Scores::from_sums(config.data.num_classes as usize, &tally.metric_sums))
}

/// Evaluates alone and reports.
///
/// # Errors
/// Errors of the data or the model.
pub fn report(
    config: &Config,
    task: &mut SceneTask,
    data: &Arc<Scenes>,
    options: EvalOptions<'_>,
) -> Result<EvalReport> {
    let scores = evaluate(task, data, config, &SingleRank, Arc::new(Warnings), &mut |batch| {
        (options.progress)(batch.valid as u64);
        Ok(())
    })?;
    let classes = class_summaries(config, &scores);
    let mut text = format!("{} scenes\nSSC mIoU {:.4}\n", data.len(), scores.ssc_miou());
    for class in &classes {
        let iou = class.iou.map_or("-".to_string(), |iou| format!("{iou:.4}"));
        let _ = writeln!(text, "{:<20} IoU {iou}", class.name);
    }
    let (iou, precision, recall) = (scores.sc_iou(), scores.sc_precision(), scores.sc_recall());
    let _ = writeln!(text, "scene completion     IoU {iou:.4}  precision {precision:.4}  recall {recall:.4}");
    let _ = writeln!(text, "eval.json is in {}", options.out.display());
    let figures = vec![
        ("samples", json!(data.len())),
        ("ssc_miou", json!(scores.ssc_miou())),
        ("sc_iou", json!(iou)),
        ("sc_precision", json!(precision)),
        ("sc_recall", json!(recall)),
        ("classes", json!(classes)),
    ];
    Ok(EvalReport { text, figures, files: Vec::new(), logits: String::new(), confusion: None })
}
