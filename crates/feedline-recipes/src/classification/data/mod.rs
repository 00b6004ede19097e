//! The data of the recipe: labelled image files as batches of `image` f32 (B, 3, H, W) and `label` i64 (B,). Composes
//! the stages read, decode and augment; owns nothing of their insides.

pub mod bench;

use super::config::Config;
use feedline::augment::normalize::Normalize;
use feedline::augment::{Augmentation, ImageOp};
use feedline::decode::{DecodedCache, Limits};
use feedline::pipeline::{Images, ImagesOptions, Pipeline, PixelOutput, Step};
use feedline::plan::{Plan, Tail};
use feedline::read::{Folder, ImageList, read_classes};
use feedline::{Error, Result};
use std::sync::Arc;

/// The file of a run folder with the names of its classes, in the order of the network's outputs.
pub const CLASSES: &str = "classes.txt";

/// The pictures of `list` through `ops`, which must end in pictures of the size that `config` says. Decoded pictures are
/// kept in `cache`, if there is one.
///
/// # Errors
/// An operation whose numbers are out of range.
pub fn images(list: ImageList, ops: Vec<ImageOp>, config: &Config, cache: Option<DecodedCache>) -> Result<Images> {
    let normalize = Normalize::new(config.augment.mean, config.augment.std);
    Images::new(
        list,
        ImagesOptions {
            steps: ops.into_iter().map(Step::Op).collect(),
            size_px: Some([config.input_px(); 2]),
            numbers: PixelOutput::Floats { normalize, after: Vec::new() },
            limits: Limits { max_pixels: config.data.max_pixels },
            decode: config.data.decode,
            exif: config.data.exif,
            cache,
            labels: None,
        },
    )
}

/// The training and the validation split that `config` names. The training split is augmented, the validation
/// split never.
///
/// # Errors
/// Folders or lists that cannot be used.
pub fn open(config: &Config) -> Result<(Arc<Images>, Arc<Images>)> {
    let folder = folder(config)?;
    let list = train_list_of(config, &folder)?;
    let cache = cache(config);
    let val_cache = cache.as_ref().map(DecodedCache::sibling);
    let val = open_val_cached(config, &folder, &list.classes, val_cache)?;
    Ok((Arc::new(images(list, config.augment.train_ops(config.input_px())?, config, cache)?), val))
}

/// The operations on pictures that are evaluated or predicted. They draw nothing.
pub fn eval_ops(config: &Config) -> Vec<ImageOp> {
    Augmentation::eval_ops(config.input_px())
}

/// Order of the training split over `ranks`.
///
/// # Errors
/// No samples, or no ranks.
pub fn plan(config: &Config, train: &Images, ranks: u64) -> Result<Plan> {
    Ok(Plan::new(train.len(), ranks)?.with_seed(config.seed).with_tail(Tail::Drop))
}

/// The cache of decoded pictures that `config` asks for.
pub fn cache(config: &Config) -> Option<DecodedCache> {
    (config.data.decoded_cache_bytes > 0).then(|| DecodedCache::new(config.data.decoded_cache_bytes))
}

/// The images of the training split.
///
/// # Errors
/// A folder or a list that cannot be used.
pub fn train_list(config: &Config) -> Result<ImageList> {
    train_list_of(config, &folder(config)?)
}

/// The folder of the data, if it is no list.
fn folder(config: &Config) -> Result<Option<Folder>> {
    let is_named = !config.data.dir.as_os_str().is_empty();
    is_named.then(|| Folder::open(&config.data.dir, &config.storage)).transpose()
}

fn train_list_of(config: &Config, folder: &Option<Folder>) -> Result<ImageList> {
    match folder {
        Some(folder) => ImageList::train(folder.clone()),
        None => {
            let classes = read_classes(&config.data.classes, &config.storage)?;
            ImageList::from_list(&config.data.train_list, "train", &classes, &config.storage)
        }
    }
}

/// The validation split alone, whose classes must be `classes`: those a network was trained on.
///
/// # Errors
/// As [`open`], and other classes.
pub fn open_val(config: &Config, classes: &[String]) -> Result<Arc<Images>> {
    open_val_cached(config, &folder(config)?, classes, None)
}

fn open_val_cached(
    config: &Config,
    folder: &Option<Folder>,
    classes: &[String],
    cache: Option<DecodedCache>,
) -> Result<Arc<Images>> {
    let list = if let Some(folder) = folder {
        ImageList::val(folder.clone(), classes)?
    } else {
        let named = read_classes(&config.data.classes, &config.storage)?;
        if named != classes {
            return Err(Error::dataset(
                &config.data.classes,
                format!("its classes are {}, the network's are {}", named.join(", "), classes.join(", ")),
                "Give the list of classes that the run was started with",
            ));
        }
        ImageList::from_list(&config.data.val_list, "validation", classes, &config.storage)?
    };
    Ok(Arc::new(images(list, eval_ops(config), config, cache)?))
}
