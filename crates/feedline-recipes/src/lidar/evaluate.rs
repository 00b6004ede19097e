//! An evaluation: a network on every frame of a split, KITTI's average precision, and the detections as KITTI's label files.
#![expect(clippy::disallowed_methods, reason = "looks which files of detections there are")]

use super::config::Config;
use super::data::frame::Annos;
use super::data::{Clouds, predictions};
use super::metrics::{self, Detection, Report};
use super::network::task::LidarTask;
use crate::recipe::{EvalOptions, EvalReport, each_once};
use feedline::event::{Sink, Warnings};
use feedline::train::group::{Group, SingleRank};
use feedline::{Error, Result};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder of the detections, a file a frame.
const DETECTIONS: &str = "detections";

/// The result of [`evaluate`].
#[derive(Debug, Clone, Default)]
pub struct Evaluation {
    /// The same on every rank.
    pub report: Report,
    /// The detections of each frame that was read, as labels, by the frame's number; on rank 0.
    pub frames: BTreeMap<u64, Annos>,
}

/// Evaluates the task on every frame of `data`, each exactly once over all ranks; `on_batch` hears how many frames of this
/// rank are done more. A frame that was replaced, because it could not be read, counts in no figure.
///
/// # Errors
/// Frames without labels; what the data or the model report.
pub fn evaluate(
    task: &mut LidarTask,
    data: &Arc<Clouds>,
    config: &Config,
    group: &dyn Group,
    sink: Arc<dyn Sink>,
    on_batch: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    check_labelled(data)?;
    let mut found: Vec<(u64, Vec<Detection>)> = Vec::new();
    each_once(data, config, group, sink, |batch| {
        found.extend(batch.indices.iter().copied().zip(task.predictions(batch)?));
        on_batch(batch.valid);
        Ok(())
    })?;
    let json = serde_json::to_vec(&found)
        .map_err(|e| Error::train(format!("detections are not JSON: {e}"), "Please report this"))?;
    let mut all: BTreeMap<u64, Vec<Detection>> = BTreeMap::new();
    for (rank, json) in group.gather(&json)?.iter().enumerate() {
        let theirs: Vec<(u64, Vec<Detection>)> = serde_json::from_slice(json)
            .map_err(|e| Error::group(format!("rank {rank} sent no JSON: {e}"), "Use one version on all ranks"))?;
        all.extend(theirs);
    }
    let names = &config.clouds.class_names;
    let frames: BTreeMap<u64, Annos> = all
        .iter()
        .map(|(frame, found)| {
            let boxes: Vec<_> = found.iter().map(|one| one.bounds).collect();
            let scores: Vec<f32> = found.iter().map(|one| one.score).collect();
            let labels: Vec<u32> = found.iter().map(|one| one.class as u32 + 1).collect();
            (*frame, predictions::annos(&data.frames()[*frame as usize], &boxes, &scores, &labels, names))
        })
        .collect();
    let mut bytes = Vec::new();
    if group.rank() == 0 {
        let truth: Vec<&Annos> =
            frames.keys().filter_map(|frame| data.frames()[*frame as usize].annos.as_ref()).collect();
        let detections: Vec<Annos> = frames.values().cloned().collect();
        let report = metrics::evaluate(&truth, &detections, names)?;
        bytes = serde_json::to_vec(&report)
            .map_err(|e| Error::train(format!("the figures are not JSON: {e}"), "Please report this"))?;
    }
    group.broadcast(&mut bytes)?;
    let report = serde_json::from_slice(&bytes)
        .map_err(|e| Error::group(format!("rank 0 sent no JSON: {e}"), "Use one version on all ranks"))?;
    Ok(Evaluation { report, frames })
}

/// Checks that every frame has labels.
///
/// # Errors
/// The first frame that has none.
pub fn check_labelled(data: &Clouds) -> Result<()> {
    match data.frames().iter().find(|frame| frame.annos.is_none()) {
        None => Ok(()),
        Some(frame) => Err(Error::config(
            format!("frame {} has no labels, and cannot be evaluated", frame.point_cloud.lidar_idx),
            "Name infos of labelled frames: data.val_infos",
        )),
    }
}

/// Evaluates alone and reports; the detections of each frame are files.
///
/// # Errors
/// Errors of the data or the model; a folder that holds detections of other frames.
pub fn report(
    config: &Config,
    task: &mut LidarTask,
    data: &Arc<Clouds>,
    options: EvalOptions<'_>,
) -> Result<EvalReport> {
    let name = |id: &str| PathBuf::from(DETECTIONS).join(format!("{id}.txt"));
    let names: BTreeSet<PathBuf> = data.frames().iter().map(|frame| name(&frame.point_cloud.lidar_idx)).collect();
    let there = std::fs::read_dir(options.out.join(DETECTIONS)).into_iter().flatten().flatten();
    if let Some(other) =
        there.map(|entry| entry.file_name()).find(|file| !names.contains(&Path::new(DETECTIONS).join(file)))
    {
        return Err(Error::config(
            format!("{} holds detections of other frames, such as {}", options.out.display(), other.display()),
            "Name another folder with --out, or remove them: those of two data sets must not mix",
        ));
    }
    let evaluation = evaluate(task, data, config, &SingleRank, Arc::new(Warnings), &mut |frames| {
        (options.progress)(frames as u64);
    })?;
    let (report, frames) = (&evaluation.report, &evaluation.frames);
    let text = format!(
        "{} frames\n{}mean AP in space, moderate, 40 steps of recall: {:.2}\neval.json and detections/ are in {}\n",
        frames.len(),
        report.text(),
        report.mean_3d(),
        options.out.display()
    );
    let figures = vec![
        ("samples", json!(frames.len())),
        ("mean_ap_3d", json!(report.mean_3d())),
        ("classes", json!(report.classes)),
    ];
    let detections = frames.iter().map(|(frame, annos)| {
        let id = &data.frames()[*frame as usize].point_cloud.lidar_idx;
        (name(id), predictions::text(annos).into_bytes())
    });
    Ok(EvalReport { text, figures, files: detections.collect(), logits: String::new(), confusion: None })
}
