//! The settings of the recipe: [`Config`], checked. Owns the keys, and what an OpenPCDet YAML puts in their place; how they are
//! merged belongs to `settings`, what they set off to the other files.

use super::data::openpcdet_yaml;
use super::data::options::{LidarOptions, Process};
use crate::network::device::{DeviceKind, Precision};
use crate::settings::{LoaderSettings, Settings, in_range};
use feedline::read::{Storage, check_url, is_url};
use feedline::train::consistency::BatchSplit;
use feedline::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The commented reference of every key, with its default.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// The settings of a run, complete. See [`DEFAULT_TOML`] for what each key means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub recipe: String,
    pub name: String,
    pub seed: u64,
    pub data: DataConfig,
    pub clouds: LidarOptions,
    pub storage: Storage,
    pub model: ModelConfig,
    pub train: TrainConfig,
}

/// Section `data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    pub dir: PathBuf,
    pub dataset_cfg: PathBuf,
    pub train_infos: Vec<String>,
    pub val_infos: Vec<String>,
    #[serde(flatten)]
    pub loader: LoaderSettings,
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

/// Section `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    pub epochs: u64,
    pub batch_size: u64,
    pub batch_split: BatchSplit,
    pub lr: f64,
    pub div_factor: f64,
    pub pct_start: f64,
    pub moms: [f64; 2],
    pub weight_decay: f64,
    pub grad_norm_clip: f64,
    pub save_period: u64,
    pub checkpoint_steps: u64,
    pub checkpoint_seconds: f64,
}

impl Config {
    /// With what the YAML of `data.dataset_cfg` says in place, and none named any more.
    ///
    /// # Errors
    /// A file that cannot be read or says what is not offered.
    pub fn resolved(mut self) -> Result<Config> {
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

    const DEFAULT_TOML: &'static str = DEFAULT_TOML;

    const MUTABLE_KEYS: &'static [&'static str] = &[
        "name",
        "data.dir",
        "data.train_infos",
        "data.val_infos",
        "data.num_workers",
        "data.memory_budget_bytes",
        "data.max_bad_samples",
        "model.score_threshold",
        "model.nms_iou",
        "model.nms_most",
        "train.batch_size",
        "train.batch_split",
        "train.save_period",
        "train.checkpoint_steps",
        "train.checkpoint_seconds",
    ];

    const LOCATION_KEYS: &'static [&'static str] = &["dir", "dataset_cfg"];

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let Storage { cache_dir, listings_dir, .. } = &mut self.storage;
        vec![&mut self.data.dir, &mut self.data.dataset_cfg, cache_dir, listings_dir]
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn epochs(&self) -> u64 {
        self.train.epochs
    }

    fn batch_size(&self) -> u64 {
        self.train.batch_size
    }

    fn loader(&self) -> &LoaderSettings {
        &self.data.loader
    }

    /// The YAML has its say first: a run folder must not depend on that file.
    fn absolute(self) -> Result<Config> {
        let mut config = self.resolved()?;
        for path in config.paths() {
            path.to_str().map_or(Ok(()), check_url)?;
            if !path.as_os_str().is_empty() && !is_url(path) {
                *path = std::path::absolute(&*path).map_err(|e| Error::io("find", &*path, e))?;
            }
        }
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let at_least_0 = |value: f64| value.is_finite() && value >= 0.0;
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
        self.storage.check()?;
        let checks = [
            (self.seed < 1 << 63, "seed", "at least 0 and below 2^63"),
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
            ((1..=1_000_000).contains(&train.epochs), "train.epochs", "1 to 1,000,000"),
            ((1..=1 << 20).contains(&train.batch_size), "train.batch_size", "1 to 1,048,576"),
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
            (train.checkpoint_seconds >= 0.0, "train.checkpoint_seconds", "at least 0"),
        ];
        in_range(checks.into_iter().chain(data.loader.checks()))?;
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
