//! Reading infos, from JSON lines or from OpenPCDet's pickles, and their checks; how they are made belongs to `build`.

use super::super::frame::{Annos, DbObject, Frame};
use super::super::pickle;
use feedline::read::{FileList, Storage, text_in};
use feedline::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The remedy for a file that cannot be used.
const REBUILD: &str = "Build the infos anew: feedline lidar infos --data DIR --overwrite";

/// The frames of some info files in `root`, one file behind the other. A file `x.pkl` that is not there is looked for as
/// `x.jsonl`, which is what `feedline lidar infos` makes.
///
/// # Errors
/// A file that is not there or cannot be understood, with its line or entry; labels that do not fit each other; a frame that
/// comes twice.
pub fn read_infos(root: &Path, names: &[String], storage: &Storage) -> Result<Vec<Frame>> {
    let mut frames = Vec::new();
    let mut ids = BTreeSet::new();
    for name in names {
        let (path, entries) = entries(root, name, storage, |value| match value {
            Value::Array(frames) => Ok(frames),
            _ => Err("it holds no list of frames"),
        })?;
        for (number, entry) in (1..).zip(entries) {
            let wrong = |problem: String| Error::dataset(&path, format!("frame {number}: {problem}"), REBUILD);
            let frame: Frame = serde_json::from_value(entry).map_err(|e| wrong(e.to_string()))?;
            check(&frame).map_err(&wrong)?;
            if !ids.insert(frame.point_cloud.lidar_idx.clone()) {
                return Err(wrong(format!("{} comes twice", frame.point_cloud.lidar_idx)));
            }
            frames.push(frame);
        }
    }
    Ok(frames)
}

/// The objects of some data bases in `root`, as [`read_infos`].
///
/// # Errors
/// As [`read_infos`].
pub fn read_db(root: &Path, names: &[String], storage: &Storage) -> Result<Vec<DbObject>> {
    let mut objects = Vec::new();
    for name in names {
        let (path, entries) = entries(root, name, storage, |value| match value {
            Value::Object(classes) => {
                let lists = classes.into_iter().map(|(_, list)| match list {
                    Value::Array(objects) => Ok(objects),
                    _ => Err("a class is no list of objects"),
                });
                Ok(lists.collect::<Result<Vec<_>, _>>()?.concat())
            }
            _ => Err("it holds no classes of objects"),
        })?;
        for (number, entry) in (1..).zip(entries) {
            let wrong = |problem: String| Error::dataset(&path, format!("object {number}: {problem}"), REBUILD);
            let object: DbObject = serde_json::from_value(entry).map_err(|e| wrong(e.to_string()))?;
            check_box(&object.box3d_lidar.into()).map_err(&wrong)?;
            objects.push(object);
        }
    }
    Ok(objects)
}

/// The entries of a file, and where it is.
fn entries(
    root: &Path,
    name: &str,
    storage: &Storage,
    of_pickle: impl Fn(Value) -> Result<Vec<Value>, &'static str>,
) -> Result<(PathBuf, Vec<Value>)> {
    let path = root.join(name);
    let read = |path: &Path| {
        let is_missing = Cell::new(false);
        let missing = |_| {
            is_missing.set(true);
            let problem = "there is no such file";
            Error::dataset(path, problem, format!("Make it: feedline lidar infos --data {}", root.display()))
        };
        let bytes = FileList::of_paths(vec![path.to_path_buf()], storage, missing).and_then(|list| list.read_whole(0));
        (bytes, is_missing.get())
    };
    let is_pickle = |path: &Path| path.extension().is_some_and(|end| end == "pkl");
    let (path, bytes) = match read(&path) {
        (Err(error), true) if is_pickle(&path) => {
            let lines = path.with_extension("jsonl");
            match read(&lines) {
                (Err(_), true) => return Err(error),
                (bytes, _) => (lines, bytes?),
            }
        }
        (bytes, _) => (path, bytes?),
    };
    let wrong = |problem: String| Error::dataset(&path, problem, REBUILD);
    if is_pickle(&path) {
        let value = pickle::read(&bytes).map_err(&wrong)?;
        let entries = of_pickle(value).map_err(|problem| wrong(problem.into()))?;
        return Ok((path, entries));
    }
    let entries = lines(bytes).map_err(wrong)?;
    Ok((path, entries))
}

fn lines<T: DeserializeOwned>(bytes: Vec<u8>) -> Result<Vec<T>, String> {
    let text = text_in(bytes)?;
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| format!("line {number}: it is no JSON: {e}"))
    };
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

/// Checks that the infos of a frame fit together.
fn check(frame: &Frame) -> Result<(), String> {
    if let Some(calib) = &frame.calib {
        let values = [&calib.p2, &calib.r0_rect, &calib.tr_velo_to_cam];
        let inverse = super::super::camera::Camera::new(calib).rect_to_lidar;
        let finite = inverse.0.as_flattened().iter().all(|value| value.is_finite());
        if !finite || values.iter().any(|matrix| matrix.as_flattened().iter().any(|value| !value.is_finite())) {
            return Err("its calibration has no inverse".into());
        }
    }
    if let Some([a, b, c, d]) = frame.road_plane
        && (b == 0.0 || [a, b, c, d].iter().any(|value| !value.is_finite()))
    {
        return Err(format!("its ground is {:?}", [a, b, c, d]));
    }
    if let Some(Annos { name, gt_boxes_lidar, bbox, difficulty, num_points_in_gt, dimensions, location, .. }) =
        &frame.annos
    {
        let objects = name.iter().filter(|name| *name != "DontCare").count();
        if gt_boxes_lidar.len() != objects {
            return Err(format!("it has {objects} labelled objects, but {} boxes", gt_boxes_lidar.len()));
        }
        for (key, len) in [
            ("bbox", bbox.len()),
            ("difficulty", difficulty.len()),
            ("num_points_in_gt", num_points_in_gt.len()),
            ("dimensions", dimensions.len()),
            ("location", location.len()),
        ] {
            if len != 0 && len != name.len() {
                return Err(format!("it has {} names, but {len} of {key}", name.len()));
            }
        }
        gt_boxes_lidar.iter().try_for_each(|own| check_box(&(*own).into()))?;
    }
    Ok(())
}

fn check_box(values: &[f64; 7]) -> Result<(), String> {
    match values.iter().all(|value| value.is_finite()) && values[3..6].iter().all(|side| *side > 0.0) {
        true => Ok(()),
        false => Err(format!("a box is {values:?}: x, y, z, dx, dy, dz, heading")),
    }
}
