//! The information on a frame without its points: calibration and labels, with the keys of OpenPCDet's info files.
//! Owns the types; `infos` reads them.

use feedline::augment::boxes::Box3d;
use serde::{Deserialize, Serialize};

/// A frame: one line of an info file, one entry of OpenPCDet's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    pub point_cloud: PointCloud,
    /// None in custom data sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// None in custom data sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calib: Option<Calib>,
    /// None where nobody has labelled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annos: Option<Annos>,
    /// a, b, c, d of the ground a x + b y + c z + d = 0 in camera coordinates, (a, b, c) of length 1 and b below 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub road_plane: Option<[f64; 4]>,
}

/// The points of a frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointCloud {
    /// Numbers of a point: 4 in KITTI.
    pub num_features: usize,
    /// The frame's id, which its files are named after.
    pub lidar_idx: String,
}

/// The camera's picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    pub image_idx: String,
    /// Height and width in pixels.
    pub image_shape: [i32; 2],
}

/// The calibration of a KITTI frame, row-major; each with (0, 0, 0, 1) as last row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calib {
    /// From rectified camera coordinates to pixels of camera 2.
    #[serde(rename = "P2")]
    pub p2: [[f32; 4]; 4],
    /// The rectifying rotation.
    #[serde(rename = "R0_rect")]
    pub r0_rect: [[f32; 4]; 4],
    /// From lidar to camera coordinates.
    #[serde(rename = "Tr_velo_to_cam")]
    pub tr_velo_to_cam: [[f32; 4]; 4],
}

/// The labels of a frame, an entry for each object; those that are `DontCare` come last. In a custom data set all but `name`
/// and `gt_boxes_lidar` are empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Annos {
    pub name: Vec<String>,
    pub truncated: Vec<f64>,
    pub occluded: Vec<f64>,
    pub alpha: Vec<f64>,
    /// Left, top, right, bottom in pixels.
    pub bbox: Vec<[f64; 4]>,
    /// Length, height, width in metres.
    pub dimensions: Vec<[f64; 3]>,
    /// Middle of the bottom in rectified camera coordinates, in metres.
    pub location: Vec<[f64; 3]>,
    pub rotation_y: Vec<f64>,
    pub score: Vec<f64>,
    /// 0 easy, 1 moderate, 2 hard, -1 none of them.
    pub difficulty: Vec<i32>,
    /// Its number among the objects, -1 for `DontCare`.
    pub index: Vec<i32>,
    /// Of the objects that are not `DontCare`.
    pub gt_boxes_lidar: Vec<Box3d>,
    /// Of all; -1 for `DontCare`.
    pub num_points_in_gt: Vec<i32>,
}

/// An object of the ground-truth database: one line of its index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DbObject {
    pub name: String,
    /// The file with its points, relative to the root: f32, x, y, z relative to the middle of its box.
    pub path: String,
    /// Offset of the points in that file; `None` for a file of its own, as OpenPCDet writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_bytes: Option<u64>,
    /// Id of the frame it was cut from.
    #[serde(default)]
    pub image_idx: String,
    #[serde(default)]
    pub gt_idx: i64,
    pub box3d_lidar: Box3d,
    pub num_points_in_gt: u64,
    /// As [`Annos::difficulty`]; 0 in custom data sets.
    #[serde(default)]
    pub difficulty: i32,
    #[serde(default)]
    pub bbox: [f64; 4],
    #[serde(default)]
    pub score: f64,
}
