//! The settings of the recipe, checked. Owns the keys; how they are merged belongs to Feedline.

use feedline::read::Storage;
use feedline::train::consistency::BatchSplit;
use feedline::{Error, Result};
use feedline_recipes::settings::{LoaderSettings, Settings, in_range};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The settings of a run, complete. `default.toml` says what each key means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    recipe: String,
    name: String,
    pub seed: u64,
    pub data: DataConfig,
    pub storage: Storage,
    pub train: TrainConfig,
}

/// Section `data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    pub dir: PathBuf,
    pub side_px: u32,
    #[serde(flatten)]
    pub loader: LoaderSettings,
}

/// Section `train`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    pub epochs: u64,
    pub batch_size: u64,
    pub batch_split: BatchSplit,
    pub lr: f64,
    pub save_period: u64,
    pub checkpoint_steps: u64,
    pub checkpoint_seconds: f64,
}

impl Settings for Config {
    const RECIPE: &'static str = "regression";

    const DEFAULT_TOML: &'static str = include_str!("default.toml");

    const MUTABLE_KEYS: &'static [&'static str] = &[
        "name",
        "data.dir",
        "data.num_workers",
        "data.memory_budget_bytes",
        "data.max_bad_samples",
        "train.batch_size",
        "train.batch_split",
        "train.save_period",
        "train.checkpoint_steps",
        "train.checkpoint_seconds",
    ];

    const LOCATION_KEYS: &'static [&'static str] = &["dir"];

    fn check(&self) -> Result<()> {
        let train = &self.train;
        self.storage.check()?;
        in_range(
            [
                (self.seed < 1 << 63, "seed", "at least 0 and below 2^63"),
                ((1..=256).contains(&self.data.side_px), "data.side_px", "1 to 256"),
                ((1..=1_000_000).contains(&train.epochs), "train.epochs", "1 to 1,000,000"),
                ((1..=1 << 20).contains(&train.batch_size), "train.batch_size", "1 to 1,048,576"),
                (train.lr.is_finite() && train.lr > 0.0, "train.lr", "above 0"),
                (train.checkpoint_seconds >= 0.0, "train.checkpoint_seconds", "at least 0"),
            ]
            .into_iter()
            .chain(self.data.loader.checks()),
        )?;
        match self.data.dir.as_os_str().is_empty() {
            true => Err(Error::config("no data is named", "Give --data DIR")),
            false => Ok(()),
        }
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.data.dir, &mut self.storage.cache_dir, &mut self.storage.listings_dir]
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
}
