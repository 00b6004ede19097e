//! The settings of the recipe: [`Config`], checked. Owns the keys; how they are merged belongs to `settings`, what they
//! set off to the other files.

use super::network::backbone::Backbone;
use crate::network::device::{DeviceKind, Precision};
use crate::recipe::setting_name;
use crate::settings::{Settings, at_least_0, in_range, positive};
use feedline::augment::{Augmentation, ImageOp, output_size_px};
use feedline::pipeline::{DecodeMode, Exif};
use feedline::train::consistency::BatchSplit;
use feedline::train::schedule::{LrDecay, LrScheduler, OptimizerKind};
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
            nesterov: bool,
            beta2: f64,
            lr_scheduler: Scheduler,
            lr_base_size: u64,
            warmup_epochs: u64,
            warmup_steps: u64,
            warmup_start_factor: f64,
            lr_power: f64,
            lr_step_size: u64,
            lr_milestones: Vec<u64>,
            lr_gamma: f64,
            pct_start: f64,
            div_factor: f64,
            loss: LossKind,
            label_smoothing: f64,
            focal_gamma: f64,
            focal_alpha: f64,
            class_weights: ClassWeights,
            sampler: Sampler,
            layer_decay: f64,
            ema_decay: f64,
            accumulate: u64,
            clip_grad_norm: f64,
            clip_grad_value: f64,
            patience: u64,
        }
    }
}

/// The loss that a network is trained by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossKind {
    /// Cross entropy over all classes.
    Ce,
    /// Binary cross entropy of each class for itself.
    Bce,
    /// Binary cross entropy in which what is known well counts less.
    Focal,
}

/// Key `lr_scheduler`: empty is none, and then `lr_decay` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scheduler(pub Option<LrScheduler>);

impl TryFrom<String> for Scheduler {
    type Error = serde::de::value::Error;

    fn try_from(name: String) -> Result<Scheduler, Self::Error> {
        if name.is_empty() {
            return Ok(Scheduler(None));
        }
        LrScheduler::deserialize(name.into_deserializer()).map(|scheduler| Scheduler(Some(scheduler)))
    }
}

impl From<Scheduler> for String {
    fn from(Scheduler(scheduler): Scheduler) -> String {
        scheduler.map(|scheduler| setting_name(&scheduler)).unwrap_or_default()
    }
}

/// The order of training samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampler {
    /// Each sample once an epoch, shuffled.
    Shuffle,
    /// As many draws as there are samples, with replacement: each class as often as the others.
    Balanced,
}

/// Key `class_weights`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "WeightsKey", into = "WeightsKey")]
pub enum ClassWeights {
    /// 1 for all.
    None,
    /// By the number of training samples.
    Balanced,
    /// One for each class.
    List(Vec<f64>),
}

/// The key as it is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"none\", \"balanced\", or a list of numbers, one for each class")]
enum WeightsKey {
    Name(String),
    List(Vec<f64>),
}

impl TryFrom<WeightsKey> for ClassWeights {
    type Error = String;

    fn try_from(key: WeightsKey) -> Result<ClassWeights, String> {
        match key {
            WeightsKey::Name(name) if name == "none" => Ok(ClassWeights::None),
            WeightsKey::Name(name) if name == "balanced" => Ok(ClassWeights::Balanced),
            WeightsKey::Name(name) => {
                Err(format!("{name:?} is no way to weigh classes: none, balanced, or a list of numbers"))
            }
            WeightsKey::List(weights) => Ok(ClassWeights::List(weights)),
        }
    }
}

impl From<ClassWeights> for WeightsKey {
    fn from(weights: ClassWeights) -> WeightsKey {
        match weights {
            ClassWeights::None => WeightsKey::Name("none".into()),
            ClassWeights::Balanced => WeightsKey::Name("balanced".into()),
            ClassWeights::List(weights) => WeightsKey::List(weights),
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

impl TrainConfig {
    /// Checks the keys of learning rates, losses and steps, and that none is set that nothing looks at.
    fn check_recipe(&self) -> Result<()> {
        let share = 0.0..1.0;
        in_range([
            (share.contains(&self.beta2), "train.beta2", "at least 0 and below 1"),
            (
                self.warmup_start_factor > 0.0 && self.warmup_start_factor <= 1.0,
                "train.warmup_start_factor",
                "above 0 and at most 1",
            ),
            (positive(self.lr_power), "train.lr_power", "above 0"),
            (self.lr_step_size > 0, "train.lr_step_size", "at least 1"),
            (
                self.lr_milestones.is_sorted_by(|one, next| one < next),
                "train.lr_milestones",
                "epochs in rising order, none twice",
            ),
            (self.lr_gamma > 0.0 && self.lr_gamma <= 1.0, "train.lr_gamma", "above 0 and at most 1"),
            (self.pct_start > 0.0 && self.pct_start < 1.0, "train.pct_start", "above 0 and below 1"),
            (self.div_factor >= 1.0 && self.div_factor.is_finite(), "train.div_factor", "at least 1"),
            (share.contains(&self.label_smoothing), "train.label_smoothing", "at least 0 and below 1"),
            (at_least_0(self.focal_gamma), "train.focal_gamma", "at least 0"),
            (
                (0.0..=1.0).contains(&self.focal_alpha) || self.focal_alpha == -1.0,
                "train.focal_alpha",
                "0 to 1, or -1 for no weight",
            ),
            (
                !matches!(&self.class_weights, ClassWeights::List(weights) if weights.is_empty() || !weights.iter().all(|weight| positive(*weight))),
                "train.class_weights",
                "none, balanced, or numbers above 0, one for each class",
            ),
            (self.layer_decay > 0.0 && self.layer_decay <= 1.0, "train.layer_decay", "above 0 and at most 1 (off)"),
            (share.contains(&self.ema_decay), "train.ema_decay", "at least 0 (off) and below 1"),
            ((1..=1 << 20).contains(&self.accumulate), "train.accumulate", "1 to 1,048,576"),
            (at_least_0(self.clip_grad_norm), "train.clip_grad_norm", "at least 0 (off)"),
            (at_least_0(self.clip_grad_value), "train.clip_grad_value", "at least 0 (off)"),
        ])?;
        let scheduler = self.lr_scheduler.0;
        let by = |these: &[LrScheduler]| scheduler.is_some_and(|scheduler| these.contains(&scheduler));
        let (adam, focal) = (self.optimizer != OptimizerKind::Sgd, self.loss == LossKind::Focal);
        let warms_up = scheduler.is_some() && !by(&[LrScheduler::OneCycle]);
        use LrScheduler::{Cosine, MultiStep, OneCycle, Poly, Step};
        // Key, whether it has its default, whether something looks at it, what does.
        let keys = [
            ("nesterov", self.nesterov, !adam, "the optimizer sgd"),
            ("beta2", self.beta2 == 0.999, adam, "the optimizers adam, adamw and lamb"),
            ("lr_decay", self.lr_decay == LrDecay::Cos, scheduler.is_none(), "no lr_scheduler"),
            (
                "min_lr_ratio",
                self.min_lr_ratio == 0.01,
                scheduler.is_none() || by(&[Cosine, Poly]),
                "lr_decay, and cosine and poly",
            ),
            ("lr_base_size", self.lr_base_size == 0, scheduler.is_some(), "an lr_scheduler"),
            ("warmup_epochs", self.warmup_epochs == 0, warms_up, "an lr_scheduler other than onecycle"),
            ("warmup_steps", self.warmup_steps == 0, warms_up, "an lr_scheduler other than onecycle"),
            ("warmup_start_factor", self.warmup_start_factor == 0.01, warms_up, "an lr_scheduler other than onecycle"),
            ("lr_power", self.lr_power == 0.9, by(&[Poly]), "the lr_scheduler poly"),
            ("lr_step_size", self.lr_step_size == 30, by(&[Step]), "the lr_scheduler step"),
            ("lr_milestones", self.lr_milestones.is_empty(), by(&[MultiStep]), "the lr_scheduler multistep"),
            ("lr_gamma", self.lr_gamma == 0.1, by(&[Step, MultiStep]), "the lr_schedulers step and multistep"),
            ("pct_start", self.pct_start == 0.3, by(&[OneCycle]), "the lr_scheduler onecycle"),
            ("div_factor", self.div_factor == 25.0, by(&[OneCycle]), "the lr_scheduler onecycle"),
            ("focal_gamma", self.focal_gamma == 2.0, focal, "the loss focal"),
            ("focal_alpha", self.focal_alpha == 0.25, focal, "the loss focal"),
            ("class_weights", self.class_weights == ClassWeights::None, self.loss == LossKind::Ce, "the loss ce"),
        ];
        if let Some((key, _, _, who)) = keys.iter().find(|(_, is_default, is_used, _)| !is_default && !is_used) {
            return Err(Error::config(
                format!("train.{key} is set, and nothing looks at it: it belongs to {who}"),
                format!("Leave train.{key} out, or choose {who}"),
            ));
        }
        let problem = if by(&[MultiStep]) && self.lr_milestones.is_empty() {
            Some(("train.lr_scheduler is multistep, and train.lr_milestones is empty", "Set the epochs: [30, 60, 80]"))
        } else if self.warmup_epochs > 0 && self.warmup_steps > 0 {
            Some(("both train.warmup_epochs and train.warmup_steps are set", "Set one of them to 0"))
        } else if self.clip_grad_norm > 0.0 && self.clip_grad_value > 0.0 {
            Some(("both train.clip_grad_norm and train.clip_grad_value are set", "Set one of them to 0"))
        } else {
            None
        };
        if let Some((problem, remedy)) = problem {
            return Err(Error::config(problem, remedy));
        }
        let batches = [("train.batch_size", self.batch_size), ("train.freeze_batch_size", self.freeze_batch_size)];
        let batches = batches.into_iter().take(if self.freeze_train { 2 } else { 1 });
        match batches.into_iter().find(|(_, batch_size)| !batch_size.is_multiple_of(self.accumulate)) {
            Some((key, batch_size)) => Err(Error::config(
                format!("{key} is {batch_size}, no multiple of train.accumulate, which is {}", self.accumulate),
                format!("{key} is the batch of a whole step, which is cut into so many parts: choose a multiple"),
            )),
            None => Ok(()),
        }
    }
}

impl Settings for Config {
    const RECIPE: &'static str = "classification";

    const DEFAULT_TOML: &'static str = include_str!("default.toml");

    const LOCATION_KEYS: &'static [&'static str] = &["dir", "train_list", "val_list", "classes"];

    const DATASET_KEYS: &'static [&'static str] = Config::LOCATION_KEYS;

    const SPLIT_KEYS: &'static [&'static str] = &["val_fraction", "split_seed"];

    const MUTABLE_KEYS: &'static [&'static str] = &["data.decoded_cache_bytes"];

    const PRESETS: &'static [(&'static str, &'static str)] = &[
        ("fine-tune", include_str!("presets/fine-tune.toml")),
        ("from-scratch", include_str!("presets/from-scratch.toml")),
        ("timm-a3", include_str!("presets/timm-a3.toml")),
        ("torchvision-v2", include_str!("presets/torchvision-v2.toml")),
    ];

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
            (
                (0.0..=1.0).contains(&train.min_lr_ratio)
                    && (train.min_lr_ratio > 0.0 || train.lr_scheduler.0.is_some()),
                "train.min_lr_ratio",
                "at most 1, and above 0, with train.lr_scheduler at least 0",
            ),
            ((0.0..1.0).contains(&train.momentum), "train.momentum", "at least 0 and below 1"),
            (at_least_0(train.weight_decay), "train.weight_decay", "at least 0"),
        ])?;
        train.check_recipe()?;
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
    fn a_key_of_training_that_nothing_looks_at_is_refused_and_so_are_two_that_contradict_each_other() {
        let with = |train: &str| resolved(&format!("[data]\ndir = \"d\"\n[train]\n{train}"));
        for (train, part) in [
            ("warmup_epochs = 2", "train.warmup_epochs is set, and nothing looks at it: it belongs to an lr_scheduler"),
            ("lr_scheduler = \"onecycle\"\nwarmup_steps = 2", "train.warmup_steps is set"),
            ("lr_scheduler = \"cosine\"\nlr_gamma = 0.5", "it belongs to the lr_schedulers step and multistep"),
            ("lr_scheduler = \"cosine\"\nlr_decay = \"step\"", "train.lr_decay is set"),
            ("lr_scheduler = \"step\"\nmin_lr_ratio = 0.1", "train.min_lr_ratio is set"),
            ("lr_scheduler = \"linear\"", "unknown variant `linear`, expected one of `cosine`"),
            ("lr_scheduler = \"multistep\"", "train.lr_milestones is empty"),
            ("lr_scheduler = \"multistep\"\nlr_milestones = [5, 5]", "train.lr_milestones"),
            ("lr_scheduler = \"poly\"\nwarmup_epochs = 1\nwarmup_steps = 1", "both train.warmup_epochs and"),
            ("lr_base_size = 256", "train.lr_base_size is set"),
            ("min_lr_ratio = 0", "train.min_lr_ratio"),
            ("beta2 = 0.99", "it belongs to the optimizers adam, adamw and lamb"),
            ("optimizer = \"adamw\"\nnesterov = false", "it belongs to the optimizer sgd"),
            ("loss = \"bce\"\nclass_weights = \"balanced\"", "train.class_weights is set"),
            ("focal_gamma = 1", "train.focal_gamma is set"),
            ("class_weights = \"equal\"", "\"equal\" is no way to weigh classes"),
            ("class_weights = 3", "expected \"none\", \"balanced\", or a list"),
            ("class_weights = [1, 0]", "train.class_weights is out of range"),
            ("label_smoothing = 1", "train.label_smoothing"),
            ("ema_decay = 1", "train.ema_decay"),
            ("accumulate = 5", "train.batch_size is 32, no multiple of train.accumulate, which is 5"),
            ("clip_grad_norm = 1\nclip_grad_value = 1", "both train.clip_grad_norm and"),
        ] {
            let error = with(train).unwrap_err().to_string();
            assert!(error.contains(part), "{train:?} gives {error:?}, without {part:?}");
        }
        let config = with("lr_scheduler = \"multistep\"\nlr_milestones = [3, 8]\nclass_weights = [1, 2.5]").unwrap();
        assert_eq!(config.train.class_weights, ClassWeights::List(vec![1.0, 2.5]));
        assert_eq!(Config::from_toml(&config.to_toml().unwrap()).unwrap(), config);
    }

    #[test]
    fn presets_lie_above_the_defaults_and_below_everything_else() {
        for (name, _) in Config::PRESETS {
            let (builder, words) = SettingsBuilder::<Config>::defaults().preset(name).unwrap();
            assert!(words.len() >= 2 && words[1].starts_with("left out: "), "{name}: {words:?}");
            let preset = builder.assign("data.dir=d").unwrap();
            let config = preset.clone().resolve().unwrap();
            assert_eq!(config.train.lr_scheduler, Scheduler(Some(LrScheduler::Cosine)), "{name}");
            let own = preset.assign("train.epochs=7").unwrap().resolve().unwrap();
            assert_eq!((own.train.epochs, own.train.init_lr), (7, config.train.init_lr), "{name}");
        }
        let error = SettingsBuilder::<Config>::defaults().preset("a3").unwrap_err().to_string();
        assert!(error.contains("no preset \"a3\"") && error.contains("timm-a3, torchvision-v2"), "{error}");
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
