//! The splits that the settings name, and the order of the training split.

use super::clouds::{Clouds, open};
use super::files::LidarFiles;
use crate::lidar::config::Config;
use crate::recipe::Split;
use crate::settings::Settings;
use feedline::Result;
use feedline::pipeline::Pipeline;
use feedline::plan::{Plan, Tail};
use std::sync::Arc;

/// Locations of the files of a split, of settings that are [resolved](Config::resolved).
pub fn files(config: &Config, split: Split) -> LidarFiles {
    let data = &config.data;
    let info_path = match split {
        Split::Train => &data.train_infos,
        Split::Val => &data.val_infos,
    };
    LidarFiles {
        root: data.dir.clone(),
        split_dir: "training".into(),
        info_path: info_path.clone(),
        training: split == Split::Train,
    }
}

/// A split: that of training is augmented and shuffled.
///
/// # Errors
/// A YAML, infos or files that cannot be used.
pub fn open_split(config: &Config, split: Split) -> Result<Arc<Clouds>> {
    let config = config.clone().resolved()?;
    Ok(Arc::new(open(&files(&config, split), &config.clouds, &config.storage)?))
}

/// Order of the training split over `ranks`.
///
/// # Errors
/// No samples, or no ranks.
pub fn plan(config: &Config, train: &Clouds, ranks: u64) -> Result<Plan> {
    Ok(Plan::new(train.len(), ranks)?.with_seed(config.seed).with_tail(Tail::Drop))
}
