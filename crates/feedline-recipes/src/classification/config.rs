//! Settings in two steps: what was said (the embedded defaults, a file, the command line, merged key by key) and what
//! it means ([`Config`], checked). Owns the keys; what they set off belongs to the other files.

use super::{Backbone, DeviceKind, Precision};
use feedline::augment::Augmentation;
use feedline::deliver::OnBadSample;
use feedline::fused::DecodeMode;
use feedline::read::{Storage, is_url};
use feedline::train::agree::BatchSplit;
use feedline::train::schedule::{LrDecay, OptimizerKind};
use feedline::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The commented reference of every key, with its default.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// The settings of a run, complete. See [`DEFAULT_TOML`] for what each key means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub name: String,
    pub seed: u64,
    pub data: DataConfig,
    pub storage: Storage,
    pub model: ModelConfig,
    pub augment: AugmentConfig,
    pub train: TrainConfig,
}

/// Section `data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    pub dir: PathBuf,
    pub train_list: PathBuf,
    pub val_list: PathBuf,
    pub classes: PathBuf,
    pub num_workers: i64,
    pub memory_budget_bytes: u64,
    pub max_pixels: u64,
    pub decode: DecodeMode,
    pub decoded_cache_bytes: u64,
    pub on_bad_sample: OnBadSample,
    pub max_bad_samples: u64,
}

/// Section `model`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    pub backbone: Backbone,
    pub input_px: u32,
    pub pretrained: PathBuf,
    pub precision: Precision,
    pub device: DeviceKind,
}

/// Section `augment`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentConfig {
    pub preset: Augmentation,
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

/// Section `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    pub epochs: u64,
    pub batch_size: u64,
    pub freeze_train: bool,
    pub freeze_epochs: u64,
    pub freeze_batch_size: u64,
    pub batch_split: BatchSplit,
    pub sync_bn: bool,
    pub optimizer: OptimizerKind,
    pub init_lr: f64,
    pub min_lr_ratio: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub lr_decay: LrDecay,
    pub save_period: u64,
    pub checkpoint_steps: u64,
    pub checkpoint_seconds: f64,
}

/// What may be another when a run goes on: where things are and how fast they go, and who gets how much of a step. All
/// else would make it another run.
const CHANGEABLE: [&str; 14] = [
    "name",
    "data.dir",
    "data.train_list",
    "data.val_list",
    "data.classes",
    "data.num_workers",
    "data.memory_budget_bytes",
    "data.decoded_cache_bytes",
    "data.max_bad_samples",
    "train.batch_size",
    "train.batch_split",
    "train.save_period",
    "train.checkpoint_steps",
    "train.checkpoint_seconds",
];

/// What was said so far: the defaults, overlaid key by key.
#[derive(Debug, Clone)]
pub struct Said(Table);

impl Said {
    /// The embedded defaults.
    pub fn defaults() -> Said {
        match DEFAULT_TOML.parse() {
            Ok(table) => Said(table),
            Err(e) => unreachable!("the embedded defaults are valid TOML, a test says so: {e}"),
        }
    }

    /// Overlays the text of a file.
    ///
    /// # Errors
    /// As [`Said::file`].
    pub fn table(mut self, text: String) -> Result<Said> {
        let table = text.parse().map_err(|e: toml::de::Error| Error::config(e.to_string(), "Correct the settings"))?;
        overlay(&mut self.0, table, &mut vec![])?;
        Ok(self)
    }

    /// Overlays a file.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML, or has an unknown key: with its path, place and what it may mean.
    pub fn file(mut self, path: &Path) -> Result<Said> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let wrong = |problem: String| Error::config(format!("{}: {problem}", path.display()), "Correct the file");
        let table: Table = text.parse().map_err(|e: toml::de::Error| wrong(e.to_string()))?;
        overlay(&mut self.0, table, &mut vec![]).map_err(|error| match error {
            Error::Config { problem, remedy } => {
                Error::Config { problem: format!("{}: {problem}", path.display()), remedy }
            }
            other => other,
        })?;
        Ok(self)
    }

    /// Sets one key, e.g. `train.epochs`, to a value as it would stand in a file.
    ///
    /// # Errors
    /// An unknown key.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Result<Said> {
        let mut names: Vec<&str> = key.split('.').collect();
        let last = names.pop().unwrap_or_default();
        let mut table = Table::from_iter([(last.to_string(), value.into())]);
        while let Some(name) = names.pop() {
            table = Table::from_iter([(name.to_string(), Value::Table(table))]);
        }
        overlay(&mut self.0, table, &mut vec![])?;
        Ok(self)
    }

    /// Sets one key from `KEY=VALUE`; a value that is no TOML is taken as text.
    ///
    /// # Errors
    /// No `=` in it, or an unknown key.
    pub fn assign(self, assignment: &str) -> Result<Said> {
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(Error::config(format!("--set {assignment}: no `=` in it"), "Write --set train.epochs=20"));
        };
        let parsed = format!("v = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
        self.set(key.trim(), parsed.unwrap_or_else(|| Value::String(value.to_string())))
    }

    /// Whether a folder or a list is named.
    pub fn names_data(&self) -> bool {
        let data = self.0.get("data").and_then(Value::as_table);
        ["dir", "train_list", "val_list", "classes"].iter().any(|key| {
            data.and_then(|data| data.get(*key)).and_then(Value::as_str).is_some_and(|text| !text.is_empty())
        })
    }

    /// What it means for storage alone.
    ///
    /// # Errors
    /// As [`Said::resolve`].
    pub fn storage(self) -> Result<Storage> {
        let section = self.0.get("storage").cloned().unwrap_or_else(|| Value::Table(Table::new()));
        let storage: Storage = section.try_into().map_err(|e: toml::de::Error| {
            Error::config(e.to_string().trim().to_string(), "See the reference: feedline train --print-config")
        })?;
        storage.check()?;
        Ok(storage)
    }

    /// What it means.
    ///
    /// # Errors
    /// A value of another type or out of range, settings that contradict each other, or no data at all.
    pub fn resolve(self) -> Result<Config> {
        let config: Config = Value::Table(self.0).try_into().map_err(|e: toml::de::Error| {
            Error::config(e.to_string().trim().to_string(), "See the reference: feedline train --print-config")
        })?;
        config.check()?;
        Ok(config)
    }
}

/// Replaces values of `below` by those of `above`, refusing keys that `below` does not have.
fn overlay(below: &mut Table, above: Table, path: &mut Vec<String>) -> Result<()> {
    for (key, value) in above {
        path.push(key.clone());
        match (below.get_mut(&key), value) {
            (None, _) => return Err(unknown(below, path)),
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above, path)?,
            (Some(Value::Table(_)), _) => {
                let problem = format!("{} is a section, not a value", path.join("."));
                return Err(Error::config(problem, "Set one of its keys"));
            }
            // "epochs = 20" must be good for a float too: TOML tells 30 from 30.0, people do not.
            (Some(below @ Value::Float(_)), Value::Integer(value)) => *below = Value::Float(value as f64),
            (Some(below), value) => *below = value,
        }
        path.pop();
    }
    Ok(())
}

fn unknown(known: &Table, path: &[String]) -> Error {
    let (key, section) = match path.split_last() {
        Some((key, section)) => (key.as_str(), section),
        None => ("", path),
    };
    let inside = known.iter().find(|(_, value)| value.as_table().is_some_and(|table| table.contains_key(key)));
    if let Some((section, _)) = inside {
        return Error::config(
            format!("unknown key {key} outside the sections"),
            format!("Did you mean {section}.{key}?"),
        );
    }
    let place = match section {
        [] => "outside the sections".to_string(),
        section => format!("in section [{}]", section.join(".")),
    };
    let alike = known.keys().map(|name| (distance(name, key), name)).min().filter(|(d, _)| *d <= 2 + key.len() / 4);
    let names = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let remedy = match alike {
        Some((_, name)) => format!("Did you mean {name}? Known there: {names}"),
        None => format!("Known there: {names}"),
    };
    Error::config(format!("unknown key {} {place}", path.join(".")), remedy)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let cost = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

impl Config {
    /// A config from the text of a resolved file, as a run folder holds it.
    ///
    /// # Errors
    /// As [`Said::resolve`].
    pub fn from_resolved(path: &Path) -> Result<Config> {
        Said::defaults().file(path)?.resolve()
    }

    /// The settings as the text of a file.
    ///
    /// # Errors
    /// None that is known of.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|e| Error::config(format!("the settings cannot be written as TOML: {e}"), "Please report this"))
    }

    /// Settings from [`Config::to_toml`].
    ///
    /// # Errors
    /// A text that is none, or of another version.
    pub fn from_toml(text: &str) -> Result<Config> {
        toml::from_str(text)
            .map_err(|e| Error::config(format!("these are no settings: {e}"), "Use one version on all ranks"))
    }

    /// Every key with its value as text, in order, but those that say where things are and how fast they go.
    ///
    /// # Errors
    /// As [`Config::to_toml`].
    pub fn facts(&self) -> Result<Vec<(String, String)>> {
        let table = self.to_toml()?.parse::<Table>().unwrap_or_default();
        let keys = table.iter().flat_map(|(name, value)| match value {
            Value::Table(section) => {
                section.iter().map(|(key, value)| (format!("{name}.{key}"), value.to_string())).collect()
            }
            _ => vec![(name.clone(), value.to_string())],
        });
        // Nor does it matter by which way the bytes come.
        Ok(keys.filter(|(key, _)| !CHANGEABLE.contains(&key.as_str()) && !key.starts_with("storage.")).collect())
    }

    /// That a run which was started with `self` may go on with `now`.
    ///
    /// # Errors
    /// The first key that differs and may not.
    pub fn check_resume(&self, now: &Config) -> Result<()> {
        for ((key, saved), (_, now)) in self.facts()?.into_iter().zip(now.facts()?) {
            if saved != now {
                return Err(Error::config(
                    format!("{key} was {saved} when the run began and is now {now}"),
                    format!(
                        "A run goes on with its own settings, but for storage.* and {}",
                        CHANGEABLE[1..].join(", ")
                    ),
                ));
            }
        }
        Ok(())
    }

    /// With every path made absolute, so that a run can be resumed from any folder.
    ///
    /// # Errors
    /// The current folder is unknown.
    pub fn absolute(mut self) -> Result<Config> {
        let DataConfig { dir, train_list, val_list, classes, .. } = &mut self.data;
        let Storage { cache_dir, listings_dir, .. } = &mut self.storage;
        for path in [dir, train_list, val_list, classes, &mut self.model.pretrained, cache_dir, listings_dir] {
            if !path.as_os_str().is_empty() && !is_url(path) {
                *path = std::path::absolute(&*path).map_err(|e| Error::io("find", &*path, e))?;
            }
        }
        Ok(self)
    }

    /// The side of the network's square input.
    pub fn input_px(&self) -> u32 {
        if self.model.input_px == 0 { self.model.backbone.input_px() as u32 } else { self.model.input_px }
    }

    /// Worker threads of a loader.
    pub fn num_workers(&self) -> usize {
        usize::try_from(self.data.num_workers)
            .unwrap_or_else(|_| std::thread::available_parallelism().map_or(1, usize::from))
    }

    fn check(&self) -> Result<()> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let train = &self.train;
        self.storage.check()?;
        let checks = [
            (self.seed < 1 << 63, "seed", "at least 0 and below 2^63"),
            (self.data.num_workers <= 1024, "data.num_workers", "at most 1024"),
            (
                self.model.input_px == 0 || (16..=4096).contains(&self.model.input_px),
                "model.input_px",
                "0, or 16 to 4096",
            ),
            (self.augment.std.iter().all(|s| positive(*s)), "augment.std", "above 0"),
            (self.augment.mean.iter().all(|m| m.is_finite()), "augment.mean", "numbers"),
            ((1..=1_000_000).contains(&train.epochs), "train.epochs", "1 to 1,000,000"),
            ((1..=1 << 20).contains(&train.batch_size), "train.batch_size", "1 to 1,048,576"),
            ((1..=1 << 20).contains(&train.freeze_batch_size), "train.freeze_batch_size", "1 to 1,048,576"),
            (positive(train.init_lr), "train.init_lr", "above 0"),
            (train.min_lr_ratio > 0.0 && train.min_lr_ratio <= 1.0, "train.min_lr_ratio", "above 0 and at most 1"),
            ((0.0..1.0).contains(&train.momentum), "train.momentum", "at least 0 and below 1"),
            (train.weight_decay >= 0.0 && train.weight_decay.is_finite(), "train.weight_decay", "at least 0"),
            (train.checkpoint_seconds >= 0.0, "train.checkpoint_seconds", "at least 0"),
        ];
        for (good, key, range) in checks {
            if !good {
                return Err(Error::config(format!("{key} is out of range"), format!("It must be {range}")));
            }
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
        let lists = [&data.train_list, &data.val_list, &data.classes];
        let listed = lists.iter().filter(|path| !path.as_os_str().is_empty()).count();
        match (data.dir.as_os_str().is_empty(), listed) {
            (true, 0) => {
                Err(Error::config("no data is named", "Give --data DIR, or --train-list, --val-list and --classes"))
            }
            (true, 3) | (false, 0) => Ok(()),
            (false, _) => {
                Err(Error::config("both a folder and lists are given", "Give --data DIR, or lists, not both"))
            }
            (true, _) => Err(Error::config(
                "lists are given only in part",
                "Give all three: --train-list, --val-list and --classes",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        Said::defaults().file(&path)?.resolve()
    }

    #[test]
    fn the_defaults_are_complete_and_a_file_holds_only_differences() {
        let config = said("[data]\ndir = \"d\"\n[train]\nepochs = 3\ncheckpoint_seconds = 5").unwrap();
        assert_eq!((config.train.epochs, config.train.checkpoint_seconds), (3, 5.0));
        assert_eq!(config.train.batch_size, 32);
        assert_eq!((config.input_px(), config.model.device), (64, DeviceKind::Cpu));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(said(&text).unwrap(), config, "a resolved file means the same again");
        let text = text.replace("device = \"cpu\"", "device = \"gpu\"");
        assert_eq!(said(&text).unwrap().model.device, DeviceKind::Gpu);
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
            ("[train]\nepochs = \"many\"", vec!["epochs", "many"]),
            ("[train]\nepochs = 0", vec!["train.epochs", "1 to 1,000,000"]),
            ("[model]\nbackbone = \"vgg\"", vec!["vgg", "resnet18"]),
            ("[model]\ndevice = \"tpu\"", vec!["tpu", "gpu"]),
            ("[train", vec!["run.toml"]),
            ("seed = 1", vec!["no data is named", "--data DIR"]),
            ("[data]\ndir = \"d\"\nclasses = \"c\"", vec!["both"]),
            ("[data]\nclasses = \"c\"", vec!["in part", "--train-list"]),
        ] {
            let error = said(text).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "{text:?} gives {error:?}, without {part:?}");
            }
        }
    }

    #[test]
    fn single_keys_can_be_set() {
        let config = Said::defaults()
            .assign("data.dir=/a b;c")
            .and_then(|said| said.assign("train.init_lr=1"))
            .and_then(|said| said.assign("augment.mean=[0.5, 0.5, 0.5]"))
            .and_then(Said::resolve)
            .unwrap();
        assert_eq!((config.data.dir, config.train.init_lr, config.augment.mean), ("/a b;c".into(), 1.0, [0.5; 3]));
        assert!(Said::defaults().assign("train.epochs").is_err());
        assert!(Said::defaults().assign("train.nothing.deeper=1").is_err());
    }
}
