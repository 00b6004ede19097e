//! An evaluation: a network on every sample of a split, its figures, and what a person reads of them.

use super::config::Config;
use super::metrics::{Evaluation, Mistake, Shown, most_confident_mistakes};
use super::network::task::ClassificationTask;
use crate::recipe::{Confusion, EvalOptions, EvalReport, WrongSample, each_once};
use feedline::event::{Sink, Warnings};
use feedline::pipeline::{Images, Pipeline};
use feedline::plan::Plan;
use feedline::plot::encode_png;
use feedline::train::group::{Group, SingleRank};
use feedline::{Batch, Result};
use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;

/// Evaluates the task on every sample of `data`, each exactly once over all ranks; `on_batch` sees each batch of this
/// rank with its logits (B, classes), in order. The figures are those of the group.
///
/// # Errors
/// Errors of the data or the model.
pub fn evaluate(
    task: &mut ClassificationTask,
    data: &Arc<Images>,
    config: &Config,
    group: &dyn Group,
    sink: Arc<dyn Sink>,
    on_batch: &mut dyn FnMut(&Batch, &[f32]) -> Result<()>,
) -> Result<Evaluation> {
    let classes = data.classes().len();
    let mut evaluation = Evaluation::new(classes);
    each_once(data, config, group, sink, |batch| {
        let logits = task.logits(batch)?;
        let labels = batch.stacked("label")?.as_slice::<i64>();
        for (row, label) in logits.chunks(classes).zip(labels).take(batch.valid) {
            evaluation.add(row, *label as usize)?;
        }
        on_batch(batch, &logits)
    })?;
    evaluation.all_reduce(group)?;
    Ok(evaluation)
}

/// Evaluates alone and reports: accuracy, the figures of each class and the confusion matrix, and the logits if they are
/// asked for.
///
/// # Errors
/// Errors of the data or the model.
pub fn report(
    config: &Config,
    task: &mut ClassificationTask,
    data: &Arc<Images>,
    options: EvalOptions<'_>,
) -> Result<EvalReport> {
    let classes = data.classes();
    let mut logits = format!("path,label,{}\n", joined((0..classes.len()).map(|at| format!("logit_{at}"))));
    let mut mistakes = Vec::new();
    let evaluation = evaluate(task, data, config, &SingleRank, Arc::new(Warnings), &mut |batch, rows| {
        (options.progress)(batch.len() as u64);
        if options.mistakes > 0 {
            let labels = batch.stacked("label")?.as_slice::<i64>();
            let samples = batch.indices.iter().zip(rows.chunks(classes.len())).zip(labels).take(batch.valid);
            mistakes.extend(samples.filter_map(|((index, row), label)| Mistake::of(*index, row, *label as usize)));
        }
        if options.logits {
            for (index, row) in batch.indices.iter().zip(rows.chunks(classes.len())) {
                let path = data.location(*index).replace('"', "\"\"");
                let _ =
                    writeln!(logits, "\"{path}\",{},{}", data.label(*index), joined(row.iter().map(f32::to_string)));
            }
        }
        Ok(())
    })?;

    let (recall, precision) = (evaluation.recall(), evaluation.precision());
    let mut text = format!("{} images\ntop-1 {:.4}\n", evaluation.samples, evaluation.top1_accuracy());
    if classes.len() > 5 {
        let _ = writeln!(text, "top-5 {:.4}", evaluation.top5_accuracy());
    }
    let share = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.4}"));
    let shown = Shown::of(&recall, "eval.json");
    for at in shown.classes {
        let (name, samples): (_, u64) = (&classes[at], evaluation.confusion[at].iter().sum());
        let (recall, precision) = (share(recall[at]), share(precision[at]));
        let _ = writeln!(text, "{name:<20} {samples:>7} images  recall {recall:<6}  precision {precision:<6}");
    }
    if let Some(more) = shown.more {
        let _ = writeln!(text, "{more}");
    }
    let out = options.out.display();
    let _ = writeln!(text, "eval.json, confusion_matrix.csv and confusion_matrix.png are in {out}");
    let of_class = |(at, name): (usize, &String)| {
        let samples: u64 = evaluation.confusion[at].iter().sum();
        json!({ "name": name, "samples": samples, "recall": recall[at], "precision": precision[at] })
    };
    let figures = vec![
        ("samples", json!(evaluation.samples)),
        ("top1", json!(evaluation.top1_accuracy())),
        ("top5", json!(evaluation.top5_accuracy())),
        ("classes", classes.iter().enumerate().map(of_class).collect()),
    ];
    let picture = encode_png(evaluation.confusion_picture(classes).image())?;
    let files = vec![
        ("confusion_matrix.csv".into(), evaluation.confusion_csv(classes).into_bytes()),
        ("confusion_matrix.png".into(), picture),
    ];
    let mistakes = most_confident_mistakes(mistakes, options.mistakes);
    let mistakes = mistakes.into_iter().map(|mistake| wrong_sample(data, mistake)).collect::<Result<_>>()?;
    let confusion = Some(Confusion { classes: classes.to_vec(), counts: evaluation.confusion, mistakes });
    Ok(EvalReport { text, figures, files, logits, confusion })
}

/// The mistake with its picture as an evaluation makes it.
fn wrong_sample(data: &Images, mistake: Mistake) -> Result<WrongSample> {
    let Mistake { index, label, predicted, probability } = mistake;
    let picture = data.picture(&Plan::unshuffled(data.len(), 1)?.epoch(0).at(index))?;
    Ok(WrongSample { location: data.location(index), label, predicted, probability, picture })
}

fn joined(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(",")
}
