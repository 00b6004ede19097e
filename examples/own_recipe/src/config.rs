//! The settings of the recipe, checked. Owns its own keys; those of every recipe, and how settings are merged, belong to
//! Feedline.

use feedline::train::consistency::BatchSplit;
use feedline::{Error, Result};
use feedline_recipes::settings::{Settings, in_range, positive};
use std::path::PathBuf;

feedline_recipes::settings! {
    /// The settings of a run, complete. `default.toml` says what each key means.
    Config {
        data: DataConfig {
            dir: PathBuf,
            side_px: u32,
        }
        storage
        train: TrainConfig {
            batch_split: BatchSplit,
            lr: f64,
        }
    }
}

impl Settings for Config {
    const RECIPE: &'static str = "regression";

    const DEFAULT_TOML: &'static str = include_str!("default.toml");

    const LOCATION_KEYS: &'static [&'static str] = &["dir"];

    fn check(&self) -> Result<()> {
        in_range([
            ((1..=256).contains(&self.data.side_px), "data.side_px", "1 to 256"),
            (positive(self.train.lr), "train.lr", "above 0"),
        ])?;
        match self.data.dir.as_os_str().is_empty() {
            true => Err(Error::config("no data is named", "Give --data DIR")),
            false => Ok(()),
        }
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.data.dir]
    }
}
