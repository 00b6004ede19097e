//! The settings of the recipe: [`Config`], checked. Owns the keys; how they are merged belongs to `settings`, what they
//! set off to the other files.

use super::data::ChannelOrder;
use crate::network::device::DeviceKind;
use crate::settings::{Settings, at_least_0, in_range, positive};
use feedline::train::consistency::BatchSplit;
use feedline::train::schedule::OptimizerKind;
use feedline::{Error, Result};
use feedline_demo::rooms::DEMO_CLASSES;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

crate::settings! {
    /// The settings of a run, complete. See [`Settings::reference`] for what each key means.
    Config {
        data: DataConfig {
            dir: PathBuf,
            train_list: PathBuf,
            val_list: PathBuf,
            img_root: PathBuf,
            gt_root: PathBuf,
            hha_root: PathBuf,
            mapping_root: PathBuf,
            image_px: [u32; 2],
            grid: [usize; 3],
            num_classes: u32,
            hha_order: ChannelOrder,
            epoch_samples: u64,
        }
        storage
        [model: ModelConfig]
        [augment: AugmentConfig]
        train: TrainConfig {
            batch_split: BatchSplit,
            optimizer: OptimizerKind,
            lr: f64,
            lr_power: f64,
            momentum: f64,
            weight_decay: f64,
            sketch_weight: f64,
            class_weights: Vec<f64>,
            freeze_2d: bool,
        }
    }
}

/// Section `model`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    pub channels: usize,
    pub use_hha: bool,
    pub device: DeviceKind,
}

/// Section `augment`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentConfig {
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

impl Config {
    /// Names of the classes, in the order of their labels: for 12 those of NYU, which the demo data has too, else numbers.
    pub fn class_names(&self) -> Vec<String> {
        match self.data.num_classes as usize {
            12 => DEMO_CLASSES.map(String::from).to_vec(),
            other => (0..other).map(|class| format!("class {class}")).collect(),
        }
    }
}

impl Settings for Config {
    const RECIPE: &'static str = "scene_completion";

    const DEFAULT_TOML: &'static str = include_str!("default.toml");

    const LOCATION_KEYS: &'static [&'static str] =
        &["dir", "train_list", "val_list", "img_root", "gt_root", "hha_root", "mapping_root"];

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let DataConfig { dir, train_list, val_list, img_root, gt_root, hha_root, mapping_root, .. } = &mut self.data;
        vec![dir, train_list, val_list, img_root, gt_root, hha_root, mapping_root]
    }

    fn check(&self) -> Result<()> {
        let (data, train) = (&self.data, &self.train);
        in_range([
            (data.image_px.iter().all(|px| (1..=1 << 14).contains(px)), "data.image_px", "1 to 16,384"),
            (data.grid.iter().all(|side| (1..=1 << 10).contains(side)), "data.grid", "1 to 1,024"),
            (
                (2..=255).contains(&data.num_classes),
                "data.num_classes",
                "2 to 255: 255 is the label of what is ignored",
            ),
            (data.epoch_samples < 1 << 62, "data.epoch_samples", "0 (one pass), or below 2^62"),
            (
                data.epoch_samples == 0 || data.epoch_samples >= train.batch_size,
                "data.epoch_samples",
                "0 (one pass), or at least train.batch_size, or an epoch has no step",
            ),
            ((1..=1024).contains(&self.model.channels), "model.channels", "1 to 1,024"),
            (self.augment.std.iter().all(|s| positive(*s)), "augment.std", "above 0"),
            (self.augment.mean.iter().all(|m| m.is_finite()), "augment.mean", "numbers"),
            (positive(train.lr), "train.lr", "above 0"),
            (at_least_0(train.lr_power), "train.lr_power", "at least 0"),
            ((0.0..1.0).contains(&train.momentum), "train.momentum", "at least 0 and below 1"),
            (at_least_0(train.weight_decay), "train.weight_decay", "at least 0"),
            (at_least_0(train.sketch_weight), "train.sketch_weight", "at least 0"),
            (
                train.class_weights.iter().all(|weight| at_least_0(*weight))
                    && (train.class_weights.is_empty()
                        || train.class_weights.len() == data.num_classes as usize
                            && train.class_weights.iter().any(|weight| *weight > 0.0)),
                "train.class_weights",
                "empty, or a weight of at least 0 for each of data.num_classes, and not all 0",
            ),
        ])?;
        if !data.dir.as_os_str().is_empty() {
            return Ok(());
        }
        let places = [
            ("train_list", &data.train_list),
            ("val_list", &data.val_list),
            ("img_root", &data.img_root),
            ("gt_root", &data.gt_root),
            ("hha_root", &data.hha_root),
            ("mapping_root", &data.mapping_root),
        ];
        let needed = places.iter().filter(|(name, _)| self.model.use_hha || *name != "hha_root");
        let missing: Vec<&str> =
            needed.filter(|(_, path)| path.as_os_str().is_empty()).map(|(name, _)| *name).collect();
        match (missing.is_empty(), places.iter().all(|(_, path)| path.as_os_str().is_empty())) {
            (true, _) => Ok(()),
            (false, true) => Err(Error::config("no data is named", "Give --data DIR, or every root and list")),
            (false, false) => Err(Error::config(
                format!("without data.dir, these are missing: data.{}", missing.join(", data.")),
                "Give --data DIR, or every root and list",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SettingsBuilder;

    fn resolved(assignments: &[&str]) -> Result<Config> {
        assignments
            .iter()
            .try_fold(SettingsBuilder::defaults(), |builder, assignment| builder.assign(assignment))?
            .resolve()
    }

    #[test]
    fn the_defaults_are_complete_and_mean_the_same_once_written_down() {
        let config = resolved(&["data.dir=/d", "train.lr=1", "train.class_weights=[]"]).unwrap();
        assert_eq!((config.train.batch_size, config.train.lr, config.data.grid), (4, 1.0, [60, 36, 60]));
        assert_eq!(config.class_names()[9], "tvs");
        assert_eq!(Config::from_toml(&config.to_toml().unwrap()).unwrap(), config);
        let small = resolved(&["data.dir=/d", "data.num_classes=3", "train.class_weights=[1, 2, 0.5]"]).unwrap();
        assert_eq!(small.class_names(), ["class 0", "class 1", "class 2"]);
        assert_eq!(small.train.class_weights, [1.0, 2.0, 0.5]);
    }

    #[test]
    fn mistakes_are_named() {
        for (assignments, parts) in [
            (&["seed=1"][..], &["no data is named", "--data DIR"][..]),
            (
                &["data.img_root=/i", "data.train_list=/l"],
                &["data.val_list, data.gt_root, data.hha_root", "--data DIR"],
            ),
            (&["data.dir=/d", "train.class_weights=[1, 2]"], &["train.class_weights", "data.num_classes"]),
            (&["data.dir=/d", "data.epoch_samples=3"], &["data.epoch_samples", "train.batch_size"]),
            (&["data.dir=/d", "data.hha_order=gbr"], &["gbr", "bgr"]),
            (&["data.dir=/d", "data.num_worker=3"], &["unknown key data.num_worker", "Did you mean num_workers?"]),
            (&["data.dir=/d", "model.backbone=small"], &["unknown key model.backbone"]),
            (&["recipe=classification"], &["settings of the recipe \"classification\"", "--recipe classification"]),
            (&["data.dir=/d", "train.lr=0"], &["train.lr is out of range"]),
        ] {
            let error = resolved(assignments).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "{assignments:?} gives {error:?}, without {part:?}");
            }
        }
        let roots =
            ["train_list", "val_list", "img_root", "gt_root", "mapping_root"].map(|key| format!("data.{key}=/p"));
        let mut all: Vec<&str> = roots.iter().map(String::as_str).collect();
        assert!(resolved(&all).unwrap_err().to_string().contains("data.hha_root"));
        all.push("model.use_hha=false");
        assert!(resolved(&all).is_ok());
    }

    #[test]
    fn a_run_goes_on_with_another_batch_and_place_but_not_another_rate() {
        let run = resolved(&["data.dir=/d"]).unwrap();
        let changed =
            resolved(&["data.dir=/e", "train.batch_size=2", "storage.anonymous=true", "data.num_workers=3"]).unwrap();
        run.check_resume(&changed).unwrap();
        let error = run.check_resume(&resolved(&["data.dir=/d", "train.lr=0.1"]).unwrap()).unwrap_err().to_string();
        assert!(error.contains("train.lr was 0.05 when the run began and is now 0.1"), "{error}");
    }
}
