//! `feedline eval` of a network for clouds: KITTI's average precision, and the detections as KITTI's label files.

use super::{Args, Place};
use crate::Done;
use feedline::event::Warnings;
use feedline::pipeline::{Pipeline, tell};
use feedline::train::checkpoint::load_model;
use feedline::train::group::SingleRank;
use feedline::{Error, Result};
use feedline_recipes::lidar::config::Config;
use feedline_recipes::lidar::splits::{Split, open_split};
use feedline_recipes::lidar::train::{evaluate, task_options};
use feedline_recipes::lidar::{LidarTask, predictions};
use feedline_recipes::settings::Settings;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub fn run(args: Args, checkpoint: &Path, run: &Path) -> Result<Done> {
    if args.logits.is_some() {
        return Err(Error::config("--logits makes no sense for the recipe lidar", "Leave it out"));
    }
    let mut said = super::said_of::<Config>(run, checkpoint)?;
    if args.data.data.is_some() {
        said = super::elsewhere(said)?;
    }
    let config = super::settings(&args, said)?.absolute()?;
    let place = Place::of(&args, run, &config)?;
    let val = open_split(&config, Split::Val)?;
    tell([&*val as &dyn Pipeline], &Warnings)?;
    let name = |id: &str| PathBuf::from("detections").join(format!("{id}.txt"));
    let names: HashSet<PathBuf> = val.frames().iter().map(|frame| name(&frame.point_cloud.lidar_idx)).collect();
    let there = std::fs::read_dir(place.dir.join("detections")).into_iter().flatten().flatten();
    if let Some(other) =
        there.map(|entry| entry.file_name()).find(|file| !names.contains(&Path::new("detections").join(file)))
    {
        return Err(Error::config(
            format!("{} holds detections of other frames, such as {}", place.dir.display(), other.display()),
            "Name another folder with --out, or remove them: those of two data sets must not mix",
        ));
    }
    let mut task = LidarTask::new(task_options(&config, &val)?)?;
    task.load_model(&load_model(checkpoint)?)?;
    let bar = super::bar(val.len(), "frames");
    let evaluation =
        evaluate(&mut task, &val, &config, &SingleRank, Arc::new(Warnings), &mut |frames| bar.inc(frames as u64))?;
    bar.finish_and_clear();

    let (report, frames) = (&evaluation.report, &evaluation.frames);
    let figures = serde_json::json!({
        "checkpoint": checkpoint.display().to_string(),
        "data": place.data,
        "samples": frames.len(),
        "mean_ap_3d": report.mean_3d(),
        "classes": report.classes,
    });
    let detections = frames.iter().map(|(frame, annos)| {
        let id = &val.frames()[*frame as usize].point_cloud.lidar_idx;
        (name(id), predictions::text(annos).into_bytes())
    });
    place.publish(&detections.collect::<Vec<_>>(), &figures)?;
    super::super::print(&format!(
        "{} frames\n{}mean AP in space, moderate, 40 steps of recall: {:.2}\neval.json and detections/ are in {}\n",
        frames.len(),
        report.text(),
        report.mean_3d(),
        place.dir.display()
    ))?;
    Ok(Done::Ok)
}
