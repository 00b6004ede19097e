//! The settings of the recipe: [`Config`], checked. Owns the keys, and what an OpenPCDet YAML puts in their place; how they are
//! merged belongs to `settings`, what they set off to the other files.

use super::data::openpcdet_yaml;
use super::data::options::{LidarOptions, Process};
use crate::network::device::{DeviceKind, Precision};
use crate::settings::{Settings, at_least_0, in_range, positive};
use feedline::train::consistency::BatchSplit;
use feedline::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

crate::settings! {
    /// The settings of a run, complete. See [`Settings::reference`] for what each key means.
    Config {
        data: DataConfig {
            dir: PathBuf,
            dataset_cfg: PathBuf,
            train_infos: Vec<String>,
            val_infos: Vec<String>,
        }
        [clouds: LidarOptions]
        storage
        [model: ModelConfig]
        train: TrainConfig {
            batch_split: BatchSplit,
            lr: f64,
            div_factor: f64,
            pct_start: f64,
            moms: [f64; 2],
            weight_decay: f64,
            grad_norm_clip: f64,
        }
    }
}

/// Section `model`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    pub channels: usize,
    pub blocks: Vec<BlockConfig>,
    pub anchors: Vec<AnchorConfig>,
    pub score_threshold: f64,
    pub nms_iou: f64,
    pub nms_most: [usize; 2],
    pub precision: Precision,
    pub device: DeviceKind,
}

/// A stretch of the network that works at one resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockConfig {
    /// Convolutions after the one that halves the map.
    pub layers: usize,
    pub channels: usize,
    /// Channels of what it gives to the head.
    pub up_channels: usize,
}

/// The boxes of a class that the network starts from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorConfig {
    /// Length, width, height.
    pub size_m: [f64; 3],
    /// Height of its bottom in the cloud.
    pub bottom_m: f64,
    /// IoU at or above which an anchor is positive.
    pub matched: f64,
    /// IoU below which an anchor is negative.
    pub unmatched: f64,
}

impl Config {
    /// The size of a pillar in metres.
    fn pillar_m(&self) -> Option<[f64; 3]> {
        self.clouds.process.iter().find_map(|step| match step {
            Process::TransformPointsToVoxels { voxel_size, .. } => Some(*voxel_size),
            _ => None,
        })
    }

    /// Checks that the clouds become what the network needs.
    fn check_clouds(&self) -> Result<()> {
        self.clouds.check()?;
        let (classes, anchors) = (self.clouds.class_names.len(), self.model.anchors.len());
        if classes != anchors {
            return Err(Error::config(
                format!("model.anchors has {anchors} anchors for {classes} classes ({:?})", self.clouds.class_names),
                "Give one for each of clouds.class_names, in their order",
            ));
        }
        let [low, high] = [self.clouds.point_cloud_range[2], self.clouds.point_cloud_range[5]];
        match self.pillar_m() {
            Some(size) if ((high - low) / size[2]).round() == 1.0 => Ok(()),
            Some(size) => Err(Error::config(
                format!("a voxel is {} m high and the range goes from {low} m to {high} m", size[2]),
                "The network works on pillars: give them the height of the range, as pointpillar.yaml does",
            )),
            None => Err(Error::config(
                "no step of clouds.process makes voxels, and the network works on pillars",
                "Add transform_points_to_voxels, as pointpillar.yaml does",
            )),
        }
    }
}

impl Settings for Config {
    const RECIPE: &'static str = "lidar";

    const DEFAULT_TOML: &'static str = include_str!("default.toml");

    const LOCATION_KEYS: &'static [&'static str] = &["dir", "dataset_cfg"];

    const MUTABLE_KEYS: &'static [&'static str] =
        &["data.train_infos", "data.val_infos", "model.score_threshold", "model.nms_iou", "model.nms_most"];

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.data.dir, &mut self.data.dataset_cfg]
    }

    /// The settings with the words of the YAML of `data.dataset_cfg` in place, and no such file named any more.
    fn resolved(mut self) -> Result<Config> {
        if self.data.dataset_cfg.as_os_str().is_empty() {
            return Ok(self);
        }
        let path = std::mem::take(&mut self.data.dataset_cfg);
        let whole = openpcdet_yaml::read_yaml(&path)?;
        let names = whole.get("CLASS_NAMES").map(|names| serde_json::from_value(names.clone()));
        let names = names.transpose().map_err(|problem| {
            Error::dataset(&path, format!("CLASS_NAMES is no list of names: {problem}"), "Write ['Car', 'Pedestrian']")
        })?;
        let names: Vec<String> = names.unwrap_or_else(|| self.clouds.class_names.clone());
        let dataset = whole.get("DATA_CONFIG").unwrap_or(&whole);
        let root = Some(self.data.dir.as_path()).filter(|dir| !dir.as_os_str().is_empty());
        let (train, val) = (openpcdet_yaml::files(dataset, root, true)?, openpcdet_yaml::files(dataset, root, false)?);
        if let Some(other) = [&train, &val].into_iter().find(|files| files.split_dir != "training") {
            return Err(Error::dataset(
                &path,
                format!("DATA_SPLIT names frames of {}, which have no labels", other.split_dir),
                "Train on the split train or trainval, and test on val",
            ));
        }
        self.clouds = openpcdet_yaml::options(dataset, &names)?;
        self.data.dir = train.root;
        (self.data.train_infos, self.data.val_infos) = (train.info_path, val.info_path);
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<()> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let (data, model, train) = (&self.data, &self.model, &self.train);
        let layers = |block: &BlockConfig| {
            block.layers <= 64 && (1..=1024).contains(&block.channels) && (1..=1024).contains(&block.up_channels)
        };
        let anchor = |anchor: &AnchorConfig| {
            anchor.size_m.iter().all(|side| positive(*side))
                && anchor.bottom_m.is_finite()
                && positive(anchor.unmatched)
                && anchor.unmatched <= anchor.matched
                && anchor.matched <= 1.0
        };
        in_range([
            (!data.train_infos.is_empty(), "data.train_infos", "one info file or more"),
            (!data.val_infos.is_empty(), "data.val_infos", "one info file or more"),
            ((1..=1024).contains(&model.channels), "model.channels", "1 to 1,024"),
            (
                (1..=6).contains(&model.blocks.len()) && model.blocks.iter().all(layers),
                "model.blocks",
                "1 to 6 blocks, each of at most 64 layers and 1 to 1,024 channels",
            ),
            (
                model.anchors.iter().all(anchor),
                "model.anchors",
                "sizes above 0, and overlaps with 0 < unmatched <= matched <= 1",
            ),
            (share(model.score_threshold), "model.score_threshold", "0 to 1"),
            (share(model.nms_iou), "model.nms_iou", "0 to 1"),
            (model.nms_most.iter().all(|most| (1..=1 << 16).contains(most)), "model.nms_most", "1 to 65,536 each"),
            (positive(train.lr), "train.lr", "above 0"),
            (train.div_factor.is_finite() && train.div_factor >= 1.0, "train.div_factor", "at least 1"),
            (share(train.pct_start), "train.pct_start", "0 to 1"),
            (train.moms.iter().all(|momentum| (0.0..1.0).contains(momentum)), "train.moms", "at least 0 and below 1"),
            (
                at_least_0(train.weight_decay) && train.weight_decay * train.lr < 1.0,
                "train.weight_decay",
                "at least 0, and below 1 / train.lr",
            ),
            (at_least_0(train.grad_norm_clip), "train.grad_norm_clip", "at least 0"),
        ])?;
        if !data.dataset_cfg.as_os_str().is_empty() {
            return Ok(()); // `resolved` checks what comes of it
        }
        if data.dir.as_os_str().is_empty() {
            return Err(Error::config("no data is named", "Give --data DIR, or an OpenPCDet YAML in data.dataset_cfg"));
        }
        self.check_clouds()
    }
}

#[cfg(test)]
mod tests;
