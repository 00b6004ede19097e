//! `feedline eval` of a network for scenes: SSC mIoU, IoU of each class, and how well rooms are completed.

use super::{Args, Place};
use crate::Done;
use feedline::event::Warnings;
use feedline::pipeline::{Pipeline, tell};
use feedline::train::checkpoint::load_model;
use feedline::train::group::SingleRank;
use feedline::{Error, Result};
use feedline_recipes::scene_completion::SceneTask;
use feedline_recipes::scene_completion::config::Config;
use feedline_recipes::scene_completion::splits::{Split, open_voxels};
use feedline_recipes::scene_completion::train::{class_summaries, evaluate, task_options};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

pub fn run(args: Args, checkpoint: &Path, run: &Path) -> Result<Done> {
    if args.logits.is_some() {
        return Err(Error::config("--logits makes no sense for the recipe scene_completion", "Leave it out"));
    }
    let mut said = super::said_of::<Config>(run, checkpoint)?;
    // A list alone is one of other scenes in the run's own folders.
    if args.data.data.is_some() {
        said = super::elsewhere(said)?;
    }
    let config = super::settings(&args, said)?;
    let place = Place::of(&args, run, &config)?;
    let val = open_voxels(&config, Split::Val)?;
    tell([&*val as &dyn Pipeline], &Warnings)?;
    let mut task = SceneTask::new(task_options(&config))?;
    task.load_model(&load_model(checkpoint)?)?;
    let bar = super::bar(val.len(), "scenes");
    let scores = evaluate(&mut task, &val, &config, &SingleRank, Arc::new(Warnings), &mut |batch| {
        bar.inc(batch.valid as u64);
        Ok(())
    })?;
    bar.finish_and_clear();

    let classes = class_summaries(&config, &scores);
    let mut text = format!("{} scenes\nSSC mIoU {:.4}\n", val.len(), scores.ssc_miou());
    for class in &classes {
        let iou = class.iou.map_or("-".to_string(), |iou| format!("{iou:.4}"));
        let _ = writeln!(text, "{:<20} IoU {iou}", class.name);
    }
    let (iou, precision, recall) = (scores.sc_iou(), scores.sc_precision(), scores.sc_recall());
    let _ = writeln!(text, "scene completion     IoU {iou:.4}  precision {precision:.4}  recall {recall:.4}");
    let figures = serde_json::json!({
        "checkpoint": checkpoint.display().to_string(),
        "data": place.data,
        "samples": val.len(),
        "ssc_miou": scores.ssc_miou(),
        "sc_iou": iou,
        "sc_precision": precision,
        "sc_recall": recall,
        "classes": classes,
    });
    place.publish(&[], &figures)?;
    let _ = writeln!(text, "eval.json is in {}", place.dir.display());
    super::super::print(&text)?;
    Ok(Done::Ok)
}
