//! The files of a split and what its infos say of each frame: boxes, the view of the camera, the ground. Reads no cloud.

use super::camera::{Camera, CameraView};
use super::frame::Frame;
use super::frame_plan::PlannedBox;
use super::kitti;
use super::options::{Layout, LidarOptions};
use feedline::augment::boxes::Box3d;
use feedline::read::{FileList, Storage, text_in};
use feedline::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Locations of the files of a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LidarFiles {
    /// A folder or URL that all other names are relative to.
    pub root: PathBuf,
    /// The folder of the files in KITTI's layout: `training` or `testing`.
    pub split_dir: String,
    /// The info files of the split.
    pub info_path: Vec<String>,
    /// True if frames are augmented, and need boxes.
    pub training: bool,
}

/// Boxes of a frame's labels, `DontCare` left out.
pub(super) fn labelled(frame: &Frame, files: &LidarFiles, options: &LidarOptions) -> Result<Vec<PlannedBox>> {
    let wrong = |problem: String, remedy: &str| {
        let id = &frame.point_cloud.lidar_idx;
        Err(Error::dataset(&files.root, format!("frame {id} of {} {problem}", files.info_path.join(", ")), remedy))
    };
    let features = options.src_features.len();
    if frame.point_cloud.num_features != features {
        return wrong(
            format!("has points of {} features, src_feature_list names {features}", frame.point_cloud.num_features),
            "Correct POINT_FEATURE_ENCODING, or build the infos anew",
        );
    }
    let Some(annos) = &frame.annos else {
        return match files.training {
            true => wrong("has no labels, and training needs gt_boxes".into(), "Use infos of a labelled split"),
            false => Ok(Vec::new()),
        };
    };
    let names: Vec<(usize, &String)> = annos.name.iter().enumerate().filter(|(_, name)| *name != "DontCare").collect();
    if names.len() != annos.gt_boxes_lidar.len() {
        return wrong(
            format!("has {} labelled objects, but {} boxes", names.len(), annos.gt_boxes_lidar.len()),
            "Build the infos anew: feedline lidar infos",
        );
    }
    let own = |((label, name), bounds): ((usize, &String), &Box3d)| {
        let class = options.class_names.iter().position(|known| known == name).map_or(0, |at| at as u32 + 1);
        PlannedBox { bounds: *bounds, class, pasted: false, label }
    };
    Ok(names.into_iter().zip(&annos.gt_boxes_lidar).map(own).collect())
}

/// Gives the camera's view, if points outside it are to be left out.
pub(super) fn view(frame: &Frame, files: &LidarFiles, options: &LidarOptions) -> Result<Option<CameraView>> {
    if options.layout == Layout::Custom || !options.fov_points_only {
        return Ok(None);
    }
    match (&frame.calib, &frame.image) {
        (Some(calib), Some(image)) => Ok(Some(Camera::new(calib).view(image.image_shape))),
        _ => Err(Error::dataset(
            &files.root,
            format!("frame {} has no calibration or image size in the infos", frame.point_cloud.lidar_idx),
            "Build the infos anew, or set FOV_POINTS_ONLY to False",
        )),
    }
}

/// Reads the ground of those frames whose infos do not tell it.
pub(super) fn add_ground(frames: &mut [Frame], files: &LidarFiles, storage: &Storage) -> Result<()> {
    let unknown: Vec<usize> = (0..frames.len()).filter(|at| frames[*at].road_plane.is_none()).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let name = |at: usize| {
        let id = &frames[unknown[at]].point_cloud.lidar_idx;
        files.root.join(&files.split_dir).join("planes").join(format!("{id}.txt"))
    };
    let paths: Vec<PathBuf> = (0..unknown.len()).map(name).collect();
    let missing = |at: usize| {
        let problem = format!("there is no file {}, and USE_ROAD_PLANE needs the ground", name(at).display());
        Error::dataset(&files.root, problem, "Get the planes, or set USE_ROAD_PLANE to False")
    };
    let list = FileList::of_paths(paths.clone(), storage, missing)?;
    for (at, frame) in unknown.iter().enumerate() {
        let bytes = list.read_whole(at)?;
        let plane = text_in(bytes).and_then(|text| kitti::parse_plane(&text));
        let plane = plane.map_err(|problem| Error::dataset(&paths[at], problem, "Get the file again"))?;
        frames[*frame].road_plane = Some(plane);
    }
    Ok(())
}
