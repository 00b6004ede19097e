//! Options of the point cloud data: augmentation and processing, each a list of steps in order. Owns the types and their
//! defaults; `openpcdet_yaml` converts OpenPCDet's YAML to them.

pub use feedline::augment::voxels::Grid;
use feedline::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The layout of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// training/{velodyne,label_2,calib,image_2}, infos with calibration.
    #[default]
    Kitti,
    /// points/ID.npy.
    Custom,
}

/// An optional field of a frame, besides points and boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    Images,
    DepthMaps,
    /// The boxes in the picture; not together with pasted objects, which are in no picture.
    #[serde(rename = "gt_boxes2d")]
    GtBoxes2d,
}

/// The options by which the files of a data set become batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LidarOptions {
    pub layout: Layout,
    /// The classes that count; class i is label i + 1.
    pub class_names: Vec<String>,
    /// Smallest x, y, z and largest x, y, z, in metres.
    pub point_cloud_range: [f64; 6],
    /// Leaves out points that the camera does not see.
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

/// The number of objects of a class that a frame is filled up to.
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
    /// Shifts each object along each axis.
    RandomLocalTranslation {
        along_axis: Vec<Axis>,
        offset_m: [f64; 2],
    },
}

impl LidarOptions {
    /// The grid of the voxels, if a step needs one.
    ///
    /// # Errors
    /// As [`Grid::new`]; two of them.
    pub fn grid(&self) -> Result<Option<Grid>> {
        let grids = self.process.iter().filter_map(|step| match step {
            Process::TransformPointsToVoxels { voxel_size, max_points_per_voxel, .. } => {
                Some((*voxel_size, *max_points_per_voxel))
            }
            Process::CalculateGridSize { voxel_size } => Some((*voxel_size, 1)),
            _ => None,
        });
        let grids: Vec<([f64; 3], usize)> = grids.collect();
        match grids[..] {
            [] => Ok(None),
            [(voxel_size, points)] => Grid::new(self.point_cloud_range, voxel_size, points).map(Some),
            _ => Err(Error::config("two steps make voxels", "Keep one of them in DATA_PROCESSOR")),
        }
    }

    /// Moves pasted objects to the ground of the frame.
    pub(super) fn uses_ground(&self) -> bool {
        self.augment.iter().any(|step| matches!(step, Augment::GtSampling { use_road_plane: true, .. }))
    }

    /// Checks that every value is in its range and none contradicts another.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn check(&self) -> Result<()> {
        let wrong = |problem: String, remedy: &str| Err(Error::config(problem, remedy));
        let distinct = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len() == names.len();
        if self.class_names.is_empty() || !distinct(&self.class_names) {
            return wrong(format!("the classes are {:?}", self.class_names), "Name each class once");
        }
        if !distinct(&self.src_features) || !distinct(&self.used_features) {
            return wrong(
                format!("the features are {:?}, those used {:?}", self.src_features, self.used_features),
                "Name each once",
            );
        }
        if let Some(name) = self.used_features.iter().find(|name| !self.src_features.contains(name)) {
            return wrong(
                format!("the feature {name:?} is used, but a point has {:?}", self.src_features),
                "Correct one of them",
            );
        }
        if self.used_features.len() < 3 || self.used_features[..3] != ["x", "y", "z"] {
            return wrong(format!("the used features are {:?}", self.used_features), "Begin with x, y, z");
        }
        let [low, high] = [&self.point_cloud_range[..3], &self.point_cloud_range[3..]];
        if !low.iter().zip(high).all(|(low, high)| low < high && low.is_finite() && high.is_finite()) {
            return wrong(
                format!("the range of the points is {:?}", self.point_cloud_range),
                "Give the smallest x, y, z and then the largest, in metres",
            );
        }
        let pastes = self.augment.iter().filter(|step| matches!(step, Augment::GtSampling { .. })).count();
        if pastes > 1 {
            return wrong("gt_sampling stands twice in the augmentation".into(), "Keep one of them");
        }
        if pastes > 0 && self.get_items.contains(&Item::GtBoxes2d) {
            return wrong(
                "gt_boxes2d is asked for together with gt_sampling, but pasted objects are in no picture".into(),
                "Leave one of them out",
            );
        }
        if self.layout == Layout::Custom && (self.uses_ground() || !self.get_items.is_empty()) {
            return wrong(
                "a custom data set has no camera, so no ground, pictures or boxes in them".into(),
                "Set USE_ROAD_PLANE to False, and GET_ITEM_LIST to [points]",
            );
        }
        self.grid()?;
        self.augment.iter().try_for_each(Augment::check)?;
        self.process.iter().try_for_each(Process::check)
    }
}

impl Process {
    fn check(&self) -> Result<()> {
        match self {
            Process::SamplePoints { num_points: PerMode { train, test } }
                if [train, test].iter().any(|count| **count < -1 || **count == 0 || **count > 1 << 24) =>
            {
                let problem = format!("sample_points shall take {train} points in training, {test} else");
                Err(Error::config(problem, "Use 1 to 16,777,216, or -1 for all"))
            }
            Process::TransformPointsToVoxels { max_number_of_voxels: PerMode { train, test }, .. }
                if [train, test].iter().any(|count| !(1..=1 << 24).contains(*count)) =>
            {
                let problem = format!("at most {train} voxels in training, {test} else");
                Err(Error::config(problem, "Use 1 to 16,777,216"))
            }
            _ => Ok(()),
        }
    }
}

impl Augment {
    fn check(&self) -> Result<()> {
        let range =
            |[low, high]: [f64; 2], least: f64| low.is_finite() && high.is_finite() && low <= high && low > least;
        let any = f64::NEG_INFINITY;
        let (good, remedy) = match self {
            Augment::GtSampling { sample_groups, remove_extra_width, .. } => {
                let names: BTreeSet<&String> = sample_groups.iter().map(|group| &group.name).collect();
                let widths = remove_extra_width.iter().all(|width| width.is_finite() && *width >= 0.0);
                let counts = sample_groups.iter().all(|group| group.count <= 1 << 12);
                let good = names.len() == sample_groups.len() && !names.is_empty() && widths && counts;
                (good, "Give each class one group of at most 4,096 objects, and widths of at least 0")
            }
            Augment::RandomWorldFlip { along_axis } => (
                !along_axis.is_empty()
                    && !along_axis.contains(&Axis::Z)
                    && (along_axis.len() < 2 || along_axis[0] != along_axis[1]),
                "Name x, y or both",
            ),
            Augment::RandomWorldRotation { angle_rad } | Augment::RandomLocalRotation { angle_rad } => {
                (range(*angle_rad, any), "Give the smallest and the largest angle, in radians")
            }
            Augment::RandomWorldScaling { factor } | Augment::RandomLocalScaling { factor } => {
                (range(*factor, 0.0), "Give the smallest and the largest factor, above 0")
            }
            Augment::RandomWorldTranslation { std_m } => {
                (std_m.iter().all(|std| std.is_finite() && *std >= 0.0), "Give standard deviations of at least 0")
            }
            Augment::RandomLocalTranslation { along_axis, offset_m } => (
                range(*offset_m, any) && !along_axis.is_empty(),
                "Name axes, and the smallest and the largest offset in metres",
            ),
        };
        match good {
            true => Ok(()),
            false => Err(Error::config(format!("{} has a value that is not possible: {self:?}", self.name()), remedy)),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Augment::GtSampling { .. } => "gt_sampling",
            Augment::RandomWorldFlip { .. } => "random_world_flip",
            Augment::RandomWorldRotation { .. } => "random_world_rotation",
            Augment::RandomWorldScaling { .. } => "random_world_scaling",
            Augment::RandomWorldTranslation { .. } => "random_world_translation",
            Augment::RandomLocalRotation { .. } => "random_local_rotation",
            Augment::RandomLocalScaling { .. } => "random_local_scaling",
            Augment::RandomLocalTranslation { .. } => "random_local_translation",
        }
    }
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
    /// The grid alone, for networks that make their own voxels of points.
    CalculateGridSize {
        voxel_size: [f64; 3],
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
