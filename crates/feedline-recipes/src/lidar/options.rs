//! How clouds become batches: the augmentation and the processing, each a list of steps in order. Owns the types and their
//! defaults; that they can be written as OpenPCDet's YAML belongs to `pcdet`.

pub use feedline::augment::voxels::Grid;
use serde::{Deserialize, Serialize};

/// Which layout the files have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// training/{velodyne,label_2,calib,image_2}, infos with calibration.
    #[default]
    Kitti,
    /// points/ID.npy.
    Custom,
}

/// What a frame delivers besides points and boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    Images,
    DepthMaps,
    /// The boxes in the picture; not together with pasted objects, which are in no picture.
    #[serde(rename = "gt_boxes2d")]
    GtBoxes2d,
}

/// How the files of a data set become batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LidarOptions {
    pub layout: Layout,
    /// The classes that count; class i is label i + 1.
    pub class_names: Vec<String>,
    /// Smallest x, y, z and largest x, y, z, in metres.
    pub point_cloud_range: [f64; 6],
    /// Whether points that the camera does not see are left out.
    pub fov_points_only: bool,
    pub get_items: Vec<Item>,
    /// Names of the numbers of a stored point.
    pub src_features: Vec<String>,
    /// Those that are delivered, x, y, z first.
    pub used_features: Vec<String>,
    /// In training only, in order.
    pub augment: Vec<Augment>,
    /// In order.
    pub process: Vec<Process>,
    /// From this epoch on (from 0) the steps named in `late_disabled` are left out; 0 is never.
    pub late_epoch: u64,
    pub late_disabled: Vec<String>,
}

/// A number in training and one else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerMode<T> {
    pub train: T,
    pub test: T,
}

/// An axis of the ground.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    X,
    Y,
    Z,
}

/// How many objects of a class a frame shall have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleGroup {
    pub name: String,
    pub count: u64,
    /// Objects with fewer points are not pasted.
    pub min_points: u64,
}

/// A random change of a training frame; ranges are uniform, low to high. The names are OpenPCDet's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Augment {
    /// Objects of other frames are pasted where they touch no other.
    GtSampling {
        /// Index files of the database, relative to the root.
        db_info_path: Vec<String>,
        sample_groups: Vec<SampleGroup>,
        /// Objects of these difficulties are not pasted.
        removed_difficulties: Vec<i32>,
        /// Objects are moved to the ground of the frame.
        use_road_plane: bool,
        /// `count` less the objects that the frame has already.
        limit_whole_scene: bool,
        /// Pasted boxes are so much larger, in metres, when points in them are removed.
        remove_extra_width: [f64; 3],
    },
    /// Mirrors at each of the axes with probability 0.5: X turns y round.
    RandomWorldFlip {
        along_axis: Vec<Axis>,
    },
    RandomWorldRotation {
        angle_rad: [f64; 2],
    },
    RandomWorldScaling {
        factor: [f64; 2],
    },
    /// Normal, with these standard deviations in metres.
    RandomWorldTranslation {
        std_m: [f64; 3],
    },
    /// Turns each object about its middle.
    RandomLocalRotation {
        angle_rad: [f64; 2],
    },
    /// Scales each object about its middle.
    RandomLocalScaling {
        factor: [f64; 2],
    },
    /// Shifts each object, by a part of its size along each axis.
    RandomLocalTranslation {
        along_axis: Vec<Axis>,
        offset: [f64; 2],
    },
}

/// A step of every frame. The names are OpenPCDet's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Process {
    /// Points by x and y alone, boxes (in training) by their middles.
    MaskPointsAndBoxesOutsideRange {
        remove_outside_boxes: bool,
    },
    ShufflePoints {
        enabled: PerMode<bool>,
    },
    /// For PointRCNN: exactly so many points, far ones first. -1 leaves them.
    SamplePoints {
        num_points: PerMode<i64>,
    },
    TransformPointsToVoxels {
        voxel_size: [f64; 3],
        max_points_per_voxel: usize,
        max_number_of_voxels: PerMode<usize>,
    },
}

impl Default for LidarOptions {
    /// OpenPCDet's `kitti_dataset.yaml` without augmentation and voxels.
    fn default() -> LidarOptions {
        let features = ["x", "y", "z", "intensity"].map(String::from).to_vec();
        LidarOptions {
            layout: Layout::Kitti,
            class_names: ["Car", "Pedestrian", "Cyclist"].map(String::from).to_vec(),
            point_cloud_range: [0.0, -40.0, -3.0, 70.4, 40.0, 1.0],
            fov_points_only: true,
            get_items: Vec::new(),
            src_features: features.clone(),
            used_features: features,
            augment: Vec::new(),
            process: Vec::new(),
            late_epoch: 0,
            late_disabled: Vec::new(),
        }
    }
}
