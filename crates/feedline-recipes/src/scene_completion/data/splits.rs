//! The splits that the settings name, and the order of the training split. Owns what an empty root means.

use super::list::{Layout, SceneFiles};
use super::{SceneOptions, Scenes, open};
use crate::recipe::Split;
use crate::scene_completion::config::Config;
use feedline::pipeline::Pipeline;
use feedline::plan::{Plan, Tail};
use feedline::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;

/// Locations of the files of a split.
pub fn files(config: &Config, split: Split) -> SceneFiles {
    let data = &config.data;
    let (list, listed, name) = match split {
        Split::Train => (&data.train_list, "train.txt", "train"),
        Split::Val => (&data.val_list, "test.txt", "validation"),
    };
    let or = |path: &PathBuf, default: PathBuf| if path.as_os_str().is_empty() { default } else { path.clone() };
    let folder = SceneFiles::in_folder(&data.dir, listed, name);
    SceneFiles {
        img_root: or(&data.img_root, folder.img_root),
        gt_root: or(&data.gt_root, folder.gt_root),
        hha_root: if config.model.use_hha { or(&data.hha_root, folder.hha_root) } else { PathBuf::new() },
        mapping_root: or(&data.mapping_root, folder.mapping_root),
        list: or(list, folder.list),
        split: folder.split,
    }
}

/// Gives the options by which files become fields.
pub fn options(config: &Config) -> SceneOptions {
    let data = &config.data;
    SceneOptions {
        image_px: data.image_px,
        grid: data.grid,
        num_classes: data.num_classes,
        mean: config.augment.mean,
        std: config.augment.std,
        hha_order: data.hha_order,
        augment: None,
        max_pixels: data.max_pixels,
    }
}

/// A split, of either layout.
///
/// # Errors
/// A list or files that cannot be used.
pub fn open_split(config: &Config, split: Split) -> Result<Arc<Scenes>> {
    Ok(Arc::new(open(&files(config, split), &options(config), &config.storage)?))
}

/// Checks that a split is one of voxels, as the network needs them.
///
/// # Errors
/// A list of segmentation.
pub fn check_voxels(config: &Config, scenes: &Scenes, split: Split) -> Result<()> {
    match scenes.layout() {
        Layout::Voxels => Ok(()),
        Layout::Segmentation => Err(Error::dataset(
            files(config, split).list,
            "it lists pictures with a label for each pixel, and the network labels voxels",
            "Name a list of ids, such as 0003",
        )),
    }
}

/// Order of the training split over `ranks`.
///
/// # Errors
/// No samples, or no ranks.
pub fn plan(config: &Config, train: &Scenes, ranks: u64) -> Result<Plan> {
    let plan = Plan::new(train.len(), ranks)?.with_seed(config.seed).with_tail(Tail::Drop);
    match config.data.epoch_samples {
        0 => Ok(plan),
        samples => plan.with_epoch_length(samples),
    }
}
