//! The settings of the recipe: [`Config`], checked. Owns the keys; how they are merged belongs to `settings`, what they
//! set off to the other files.

use super::network::backbone::Backbone;
use crate::network::device::{DeviceKind, Precision};
use crate::recipe::setting_name;
use crate::settings::{Settings, at_least_0, in_range, positive};
use feedline::augment::{Augmentation, ImageOp, output_size_px};
use feedline::pipeline::{DecodeMode, Exif};
use feedline::train::consistency::BatchSplit;
use feedline::train::schedule::{LrDecay, OptimizerKind};
use feedline::{Error, Result};
use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer, Serialize};
use std::path::PathBuf;

crate::settings! {
    /// The settings of a run, complete. See [`Settings::reference`] for what each key means.
    Config {
        data: DataConfig {
            dir: PathBuf,
            train_list: PathBuf,
            val_list: PathBuf,
            classes: PathBuf,
            val_fraction: f64,
            split_seed: u64,
            decode: DecodeMode,
            exif: Exif,
            decoded_cache_bytes: u64,
        }
        storage
        [model: ModelConfig]
        [augment: AugmentConfig]
        train: TrainConfig {
            freeze_train: bool,
            freeze_epochs: u64,
            freeze_batch_size: u64,
            batch_split: BatchSplit,
            sync_bn: bool,
            optimizer: OptimizerKind,
            init_lr: f64,
            min_lr_ratio: f64,
            momentum: f64,
            weight_decay: f64,
            lr_decay: LrDecay,
        }
    }
}

/// Section `model`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    pub backbone: Backbone,
    pub input_px: u32,
    pub pretrained: PathBuf,
    pub partial: bool,
    pub precision: Precision,
    pub device: DeviceKind,
}

/// Section `augment`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "AugmentKeys", into = "AugmentKeys")]
pub struct AugmentConfig {
    pub ops: TrainOps,
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

/// The operations on pictures of the training split.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainOps {
    /// Key `preset`: a list that never changes.
    Preset(Augmentation),
    /// Key `ops`: a list that is written out, of one operation at least.
    List(Vec<ImageOp>),
}

impl AugmentConfig {
    /// The operations of training, which give pictures of `input_px` x `input_px`.
    ///
    /// # Errors
    /// A list that ends in pictures of another size.
    pub fn train_ops(&self, input_px: u32) -> Result<Vec<ImageOp>> {
        let ops = match &self.ops {
            TrainOps::Preset(preset) => return Ok(preset.train_ops(input_px)),
            TrainOps::List(ops) => ops,
        };
        let size_px = output_size_px(ops);
        if size_px == Some([input_px; 2]) {
            return Ok(ops.clone());
        }
        let found =
            size_px.map_or("any size".to_string(), |[height, width]| format!("{height} x {width} px (height x width)"));
        Err(Error::config(
            format!("augment.ops ends in pictures of {found}, and the network takes {input_px} x {input_px}"),
            format!("Let its last operation with a size_px have [{input_px}, {input_px}], or set model.input_px"),
        ))
    }
}

/// The keys of section `augment` as they are written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AugmentKeys {
    /// Empty is not set.
    #[serde(default, deserialize_with = "unless_empty", skip_serializing_if = "Option::is_none")]
    preset: Option<Augmentation>,
    mean: [f64; 3],
    std: [f64; 3],
    /// Empty is not set. Last, because TOML has a table for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ops: Vec<ImageOp>,
}

fn unless_empty<'de, D: Deserializer<'de>>(text: D) -> Result<Option<Augmentation>, D::Error> {
    let name = String::deserialize(text)?;
    if name.is_empty() { Ok(None) } else { Augmentation::deserialize(name.into_deserializer()).map(Some) }
}

impl TryFrom<AugmentKeys> for AugmentConfig {
    type Error = String;

    fn try_from(AugmentKeys { preset, ops, mean, std }: AugmentKeys) -> Result<AugmentConfig, String> {
        let ops = match (preset, ops.is_empty()) {
            (preset, true) => TrainOps::Preset(preset.unwrap_or_default()),
            (None, false) => TrainOps::List(ops),
            (Some(preset), false) => {
                return Err(format!(
                    "augment.preset is {} and augment.ops is a list of operations, and only one of them can hold: leave \
                     one out, or set augment.preset to \"\"",
                    setting_name(&preset)
                ));
            }
        };
        Ok(AugmentConfig { ops, mean, std })
    }
}

impl From<AugmentConfig> for AugmentKeys {
    fn from(AugmentConfig { ops, mean, std }: AugmentConfig) -> AugmentKeys {
        let (preset, ops) = match ops {
            TrainOps::Preset(preset) => (Some(preset), Vec::new()),
            TrainOps::List(ops) => (None, ops),
        };
        AugmentKeys { preset, ops, mean, std }
    }
}

impl Config {
    /// The side of the network's square input.
    pub fn input_px(&self) -> u32 {
        if self.model.input_px == 0 { self.model.backbone.input_px() as u32 } else { self.model.input_px }
    }
}

impl Settings for Config {
    const RECIPE: &'static str = "classification";

    const DEFAULT_TOML: &'static str = include_str!("default.toml");

    const LOCATION_KEYS: &'static [&'static str] = &["dir", "train_list", "val_list", "classes"];

    const DATASET_KEYS: &'static [&'static str] = Config::LOCATION_KEYS;

    const SPLIT_KEYS: &'static [&'static str] = &["val_fraction", "split_seed"];

    const MUTABLE_KEYS: &'static [&'static str] = &["data.decoded_cache_bytes"];

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let DataConfig { dir, train_list, val_list, classes, .. } = &mut self.data;
        vec![dir, train_list, val_list, classes, &mut self.model.pretrained]
    }

    fn check(&self) -> Result<()> {
        let train = &self.train;
        in_range([
            (
                self.model.input_px == 0 || (16..=4096).contains(&self.model.input_px),
                "model.input_px",
                "0, or 16 to 4096",
            ),
            ((0.0..1.0).contains(&self.data.val_fraction), "data.val_fraction", "at least 0 and below 1"),
            (self.data.split_seed < 1 << 63, "data.split_seed", "at least 0 and below 2^63"),
            (self.augment.std.iter().all(|s| positive(*s)), "augment.std", "above 0"),
            (self.augment.mean.iter().all(|m| m.is_finite()), "augment.mean", "numbers"),
            ((1..=1 << 20).contains(&train.freeze_batch_size), "train.freeze_batch_size", "1 to 1,048,576"),
            (positive(train.init_lr), "train.init_lr", "above 0"),
            (train.min_lr_ratio > 0.0 && train.min_lr_ratio <= 1.0, "train.min_lr_ratio", "above 0 and at most 1"),
            ((0.0..1.0).contains(&train.momentum), "train.momentum", "at least 0 and below 1"),
            (at_least_0(train.weight_decay), "train.weight_decay", "at least 0"),
        ])?;
        if let TrainOps::List(ops) = &self.augment.ops {
            ops.iter().try_for_each(ImageOp::validate)?;
        }
        if train.freeze_train && train.freeze_epochs > train.epochs {
            return Err(Error::config(
                format!(
                    "train.freeze_epochs is {}, more than the {} epochs of the run",
                    train.freeze_epochs, train.epochs
                ),
                "Lower train.freeze_epochs or raise train.epochs; equal numbers train the head alone",
            ));
        }
        let data = &self.data;
        let is_set =
            [&data.dir, &data.train_list, &data.val_list, &data.classes].map(|path| !path.as_os_str().is_empty());
        match (is_set, data.val_fraction > 0.0) {
            ([false, false, false, false], _) => {
                Err(Error::config("no data is named", "Give --data DIR, or --train-list, --val-list and --classes"))
            }
            ([true, false, false, false], _)
            | ([false, true, true, true], false)
            | ([false, true, false, true], true) => Ok(()),
            ([true, ..], _) => {
                Err(Error::config("both a folder and lists are given", "Give --data DIR, or lists, not both"))
            }
            ([_, true, true, true], true) => Err(Error::config(
                "both a validation list and a share of the training list to validate on are given",
                "Leave out --val-list or --val-fraction",
            )),
            _ => Err(Error::config(
                "lists are given only in part",
                "Give all three: --train-list, --val-list and --classes; or --val-fraction 0.2 in place of --val-list",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SettingsBuilder;

    fn resolved(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        SettingsBuilder::defaults().file(&path)?.resolve()
    }

    #[test]
    fn the_defaults_are_complete_and_a_file_holds_only_differences() {
        let config = resolved("[data]\ndir = \"d\"\n[train]\nepochs = 3\ncheckpoint_seconds = 5").unwrap();
        assert_eq!((config.train.epochs, config.train.checkpoint_seconds), (3, 5.0));
        assert_eq!(config.train.batch_size, 32);
        assert_eq!((config.input_px(), config.model.device), (64, DeviceKind::Cpu));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(resolved(&text).unwrap(), config, "a resolved file means the same again");
        let error = Config::from_toml(&format!("{text}unknown = 1\n")).unwrap_err().to_string();
        assert!(error.contains("unknown field `unknown`"), "{error}");
        let text = text.replace("device = \"cpu\"", "device = \"gpu\"");
        assert_eq!(resolved(&text).unwrap().model.device, DeviceKind::Gpu);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, parts) in [
            (
                "[train]\nepoch = 3",
                vec!["run.toml", "unknown key train.epoch in section [train]", "Did you mean epochs?"],
            ),
            ("sead = 3", vec!["unknown key sead", "Did you mean seed?"]),
            ("epochs = 3", vec!["unknown key epochs outside the sections", "Did you mean train.epochs?"]),
            (
                "[data]\ndir = \"d\"\n[train]\nfreeze_train = true",
                vec!["train.freeze_epochs is 50, more than the 10", "train.freeze_epochs or raise train.epochs"],
            ),
            ("train = 3", vec!["train is a section"]),
            ("[train]\nepochs = \"many\"", vec!["in `train.epochs`", "many"]),
            ("[train]\nbatch_split = \"half\"", vec!["in `train.batch_split`", "half", "exact"]),
            ("[data]\nnum_workers = \"many\"", vec!["in `data.num_workers`", "many"]),
            ("[data]\nnum_workers = 2000", vec!["data.num_workers", "at most 1024"]),
            ("[train]\nepochs = 0", vec!["train.epochs", "1 to 1,000,000"]),
            ("[model]\nbackbone = \"vgg\"", vec!["vgg", "resnet18"]),
            ("[model]\ndevice = \"tpu\"", vec!["tpu", "gpu"]),
            ("[train", vec!["run.toml"]),
            ("seed = 1", vec!["no data is named", "--data DIR"]),
            ("[data]\ndir = \"d\"\nclasses = \"c\"", vec!["both"]),
            ("[data]\nclasses = \"c\"", vec!["in part", "--train-list"]),
        ] {
            let error = resolved(text).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "{text:?} gives {error:?}, without {part:?}");
            }
        }
    }

    #[test]
    fn the_operations_of_training_are_a_preset_or_a_list() {
        let with = |augment: &str| resolved(&format!("[data]\ndir = \"d\"\n[augment]\n{augment}"));
        let ops = r#"ops = [
            { op = "random_resized_crop", size_px = [64, 64], scale = [0.5, 1], ratio = [0.75, 1.25] },
            { op = "horizontal_flip", p = 0.5 },
            { op = "autoaugment_imagenet" },
        ]"#;
        let config = with(ops).unwrap();
        let names: Vec<&str> = config.augment.train_ops(64).unwrap().iter().map(|op| op.name()).collect();
        assert_eq!(names, ["random_resized_crop", "horizontal_flip", "autoaugment_imagenet"]);
        // What is saved means the same again, on its own as well as over the defaults, and may not change in a run.
        let text = config.to_toml().unwrap();
        assert_eq!((&Config::from_toml(&text).unwrap(), &resolved(&text).unwrap()), (&config, &config), "{text}");
        let error = config.check_resume(&with("").unwrap()).unwrap_err().to_string();
        assert!(error.contains("augment.ops was [{") && error.contains("is now not there"), "{error}");
        // A preset is saved by its name, as it always was.
        let default = with("").unwrap();
        assert_eq!(default.augment.ops, TrainOps::Preset(Augmentation::Light));
        assert!(default.to_toml().unwrap().contains("[augment]\npreset = \"light\"\nmean"));
        assert_eq!(with("preset = \"light-1\"").unwrap(), default);

        for (augment, part) in [
            (format!("preset = \"light\"\n{ops}"), "augment.preset is light and augment.ops is a list"),
            ("ops = [{ op = \"flip\" }]".into(), "unknown variant `flip`, expected one of `random_resized_crop`"),
            ("ops = [{ op = \"horizontal_flip\" }]".into(), "missing field `p`"),
            ("ops = [{ op = \"horizontal_flip\", p = 2 }]".into(), "p of horizontal_flip is out of range"),
            ("ops = [{ op = \"autoaugment_imagenet\", p = 0.5 }]".into(), "unknown field `p`"),
            ("preset = \"heavy\"".into(), "unknown variant `heavy`, expected one of `light`"),
        ] {
            let error = with(&augment).unwrap_err().to_string();
            assert!(error.contains(part), "{augment:?} gives {error:?}, without {part:?}");
        }
        // The size is compared where pictures are trained on: another one may be evaluated.
        for (ops, part) in [
            ("[{ op = \"horizontal_flip\", p = 1 }]", "any size, and the network takes 64 x 64"),
            ("[{ op = \"resize\", size_px = [64, 48] }]", "64 x 48 px (height x width), and the network"),
        ] {
            let error = with(&format!("ops = {ops}")).unwrap().augment.train_ops(64).unwrap_err().to_string();
            assert!(error.contains(part), "{ops} gives {error:?}, without {part:?}");
        }
    }

    #[test]
    fn single_keys_can_be_set() {
        let config = SettingsBuilder::<Config>::defaults()
            .assign("data.dir=/a b;c")
            .and_then(|builder| builder.assign("train.init_lr=1"))
            .and_then(|builder| builder.assign("augment.mean=[0.5, 0.5, 0.5]"))
            .and_then(SettingsBuilder::resolve)
            .unwrap();
        assert_eq!((config.data.dir, config.train.init_lr, config.augment.mean), ("/a b;c".into(), 1.0, [0.5; 3]));
        assert!(SettingsBuilder::<Config>::defaults().assign("train.epochs").is_err());
        assert!(SettingsBuilder::<Config>::defaults().assign("train.nothing.deeper=1").is_err());
    }
}
