//! The data of the recipe: labelled image files as batches of `image` f32 (B, 3, H, W) and `label` i64 (B,). Composes
//! the stages read, decode and augment; owns nothing of their insides.
#![expect(clippy::disallowed_methods, reason = "asks whether the data is a folder or a file")]

pub mod bench;

use super::config::{ClassWeights, Config, DataConfig, Sampler};
use crate::recipe::Split;
use feedline::augment::normalize::Normalize;
use feedline::augment::{Augmentation, ImageOp};
use feedline::decode::{DecodedCache, Limits};
use feedline::pipeline::{Images, ImagesOptions, Pipeline, PixelOutput, Step};
use feedline::plan::{Plan, Tail};
use feedline::read::{Folder, ImageEntry, ImageList, Layout, is_in_archive, looks_like_picture, read_classes};
use feedline::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of a run folder with the names of its classes, in the order of the network's outputs.
pub const CLASSES: &str = "classes.txt";

/// Number of classes that a message names.
const NAMED: usize = 5;

/// How many times as many pictures the largest class must have as the smallest for advice about it.
const IMBALANCE: u64 = 10;

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

/// The operations on pictures that are evaluated or predicted. They draw nothing.
pub fn eval_ops(config: &Config) -> Vec<ImageOp> {
    Augmentation::eval_ops(config.input_px())
}

/// Order of the training split over `ranks`.
///
/// # Errors
/// No samples, or no ranks.
pub fn plan(config: &Config, train: &Images, ranks: u64) -> Result<Plan> {
    let plan = Plan::new(train.len(), ranks)?.with_seed(config.seed).with_tail(Tail::Drop);
    match config.train.sampler {
        Sampler::Shuffle => Ok(plan),
        Sampler::Balanced => {
            let samples = class_samples(train);
            let weights = (0..train.len()).map(|index| 1.0 / samples[train.label(index) as usize] as f64);
            plan.with_weights(&weights.collect::<Vec<_>>())
        }
    }
}

/// Number of samples of each class.
pub fn class_samples(data: &Images) -> Vec<u64> {
    let mut samples = vec![0; data.classes().len()];
    (0..data.len()).for_each(|index| samples[data.label(index) as usize] += 1);
    samples
}

/// The cache of decoded pictures that `config` asks for.
pub fn cache(config: &Config) -> Option<DecodedCache> {
    (config.data.decoded_cache_bytes > 0).then(|| DecodedCache::new(config.data.decoded_cache_bytes))
}

/// What the settings name as the data.
enum Place {
    /// A folder of class folders, with splits or without, or archives of it.
    Folder(Layout),
    /// The files `train_list`, `val_list` and `classes`.
    Lists,
    /// One list of `class;path` lines.
    List(PathBuf),
    /// One picture.
    Picture(PathBuf),
}

impl Place {
    fn of(config: &Config) -> Result<Place> {
        let dir = config.storage.resolve(&config.data.dir);
        if dir.as_os_str().is_empty() {
            return Ok(Place::Lists);
        }
        let is_list = dir.extension().is_some_and(|end| ["txt", "csv", "lst"].iter().any(|list| *list == end));
        match () {
            () if looks_like_picture(&dir) && !dir.is_dir() => Ok(Place::Picture(dir)),
            () if is_list && !dir.is_dir() && !is_in_archive(&dir) => Ok(Place::List(dir)),
            () => Ok(Place::Folder(Layout::of(&Folder::open(&dir, &config.storage)?)?)),
        }
    }

    /// All images that are not of the data's own validation split.
    fn train(&self, config: &Config) -> Result<ImageList> {
        let Config { data, storage, .. } = config;
        match self {
            Place::Folder(layout) => ImageList::train_of(layout),
            Place::Lists => {
                let classes = read_classes(&data.classes, storage)?;
                ImageList::from_list(&data.train_list, "train", &classes, storage)
            }
            Place::List(list) => ImageList::from_numbered_list(list, "train", storage),
            Place::Picture(path) => picture(path, config.train.batch_size, config),
        }
    }

    /// The data's own validation split, if it has one; with `classes`, they decide the labels.
    fn val(&self, config: &Config, classes: Option<&[String]>) -> Result<Option<ImageList>> {
        let Config { data, storage, .. } = config;
        match self {
            Place::Folder(layout) => ImageList::val_of(layout, classes.map(<[String]>::to_vec)),
            Place::Lists if data.val_list.as_os_str().is_empty() => Ok(None),
            Place::Lists => {
                let named = read_classes(&data.classes, storage)?;
                check_classes(&data.classes, &named, classes)?;
                ImageList::from_list(&data.val_list, "validation", &named, storage).map(Some)
            }
            Place::List(list) => match classes {
                Some(classes) => ImageList::from_list(list, "validation", classes, storage).map(Some),
                None => ImageList::from_numbered_list(list, "validation", storage).map(Some),
            },
            Place::Picture(path) => picture(path, 1, config).map(Some),
        }
    }

    /// The training images, and those of the validation split if the data has one or a share is held out.
    ///
    /// # Errors
    /// Data that cannot be used; a share where there is a split.
    fn splits(&self, config: &Config) -> Result<(ImageList, Option<ImageList>)> {
        let DataConfig { val_fraction, split_seed, .. } = config.data;
        let list = self.train(config)?;
        if val_fraction == 0.0 {
            let val = self.val(config, Some(&list.classes))?;
            return Ok((list, val));
        }
        if let Place::Folder(Layout::Splits { train: Some(train), val: Some(val), .. }) = self {
            return Err(Error::config(
                format!(
                    "data.val_fraction is {val_fraction}, and there is a validation split: {}",
                    val.path().display()
                ),
                format!(
                    "Leave out --val-fraction, or name the training split alone: --data {}",
                    train.path().display()
                ),
            ));
        }
        let (train, val) = list.split(val_fraction, split_seed);
        if val.entries.is_empty() {
            return Err(Error::dataset(
                &*list.place,
                "no class has two pictures, so none can be held out",
                "Add pictures, or name data with a validation split",
            ));
        }
        Ok((train, Some(val)))
    }
}

/// One picture, as often as a sheet of it has places; its class is its name.
fn picture(path: &Path, copies: u64, config: &Config) -> Result<ImageList> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = (0..copies).map(|_| ImageEntry { path: path.into(), class: 0 }).collect();
    ImageList::from_entries(entries, "given", Some(vec![name]), &config.storage)
}

/// The training and the validation split that `config` names. The training split is augmented, the validation
/// split never.
///
/// # Errors
/// Folders or lists that cannot be used; no validation split.
pub fn open(config: &Config) -> Result<(Arc<Images>, Arc<Images>)> {
    let place = Place::of(config)?;
    if let Place::List(path) | Place::Picture(path) = &place {
        return Err(Error::dataset(
            path,
            "it is a file, and --data names a folder to train on",
            "Name a folder; or lists: --train-list FILE --classes FILE, with --val-list FILE or --val-fraction 0.2",
        ));
    }
    let (mut train, val) = place.splits(config)?;
    let mut val = val.ok_or_else(|| no_validation(&train))?;
    train.warnings.extend(imbalance(&train, config));
    val.warnings.extend(classes_without(&val));
    let cache = cache(config);
    let val_cache = cache.as_ref().map(DecodedCache::sibling);
    let val = images(val, eval_ops(config), config, val_cache)?;
    Ok((Arc::new(images(train, config.augment.train_ops(config.input_px())?, config, cache)?), Arc::new(val)))
}

/// One of the splits that `config` names, to be looked at.
///
/// # Errors
/// As [`open`].
pub fn open_split(config: &Config, split: Split) -> Result<Arc<Images>> {
    let place = Place::of(config)?;
    if split == Split::Train {
        let list = train_list_of(&place, config)?;
        return Ok(Arc::new(images(list, config.augment.train_ops(config.input_px())?, config, cache(config))?));
    }
    let list = match &place {
        // A folder may have a validation split alone.
        Place::Folder(Layout::Splits { train: None, .. }) => place.val(config, None)?,
        _ => None,
    };
    let list = match list {
        Some(list) => list,
        None => {
            let (train, val) = place.splits(config)?;
            val.ok_or_else(|| no_validation(&train))?
        }
    };
    Ok(Arc::new(images(list, eval_ops(config), config, cache(config))?))
}

/// The images of the training split.
///
/// # Errors
/// A folder or a list that cannot be used.
pub fn train_list(config: &Config) -> Result<ImageList> {
    train_list_of(&Place::of(config)?, config)
}

/// Does not read the validation split, which may be missing, unless a share is to be held out.
fn train_list_of(place: &Place, config: &Config) -> Result<ImageList> {
    if config.data.val_fraction == 0.0 { place.train(config) } else { Ok(place.splits(config)?.0) }
}

/// The validation split alone, whose classes must be `classes`: those a network was trained on. Of a folder of class folders
/// without splits, and of a single list, these are all images.
///
/// # Errors
/// As [`open`], and other classes; a picture, which has no label.
pub fn open_val(config: &Config, classes: &[String]) -> Result<Arc<Images>> {
    let place = Place::of(config)?;
    let list = match &place {
        Place::Picture(path) => {
            return Err(Error::dataset(
                path,
                "it is a picture without a label, so there is nothing to compare a prediction with",
                "To see what the network says: feedline predict RUN PICTURE; to evaluate, name a folder or a list",
            ));
        }
        Place::Folder(Layout::Classes(folder)) if config.data.val_fraction == 0.0 => {
            ImageList::from_folder(folder.clone(), "validation", Some(classes.to_vec()))?
        }
        _ if config.data.val_fraction > 0.0 => {
            let (train, val) = place.splits(config)?;
            check_classes(Path::new(&train.place), &train.classes, Some(classes))?;
            val.ok_or_else(|| no_validation(&train))?
        }
        _ => match place.val(config, Some(classes))? {
            Some(list) => list,
            None => return Err(no_validation(&place.train(config)?)),
        },
    };
    Ok(Arc::new(images(list, eval_ops(config), config, None)?))
}

fn no_validation(train: &ImageList) -> Error {
    Error::dataset(
        &*train.place,
        "there is no validation split beside these pictures",
        "Hold out a share of each class: --val-fraction 0.2; or move some to DIR/test/<class>/, beside DIR/train/<class>/",
    )
}

fn check_classes(place: &Path, found: &[String], classes: Option<&[String]>) -> Result<()> {
    match classes {
        Some(classes) if classes != found => Err(Error::dataset(
            place,
            format!("its classes are {}, the network's are {}", some(found), some(classes)),
            "Give the classes that the run was started with",
        )),
        _ => Ok(()),
    }
}

/// The first few names, and of how many they are.
fn some<T: AsRef<str>>(names: &[T]) -> String {
    let first = names.iter().take(NAMED).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{first}, ... ({} in all)", names.len()) } else { first }
}

/// The number of images of each class.
fn counts(list: &ImageList) -> Vec<u64> {
    let mut counts = vec![0; list.classes.len()];
    list.entries.iter().for_each(|entry| counts[entry.class as usize] += 1);
    counts
}

/// Names the classes of which there is no image.
fn classes_without(val: &ImageList) -> Option<String> {
    let classes: Vec<&String> =
        val.classes.iter().zip(counts(val)).filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
    (!classes.is_empty()).then(|| {
        let (number, all) = (classes.len(), val.classes.len());
        format!("{}: no validation picture of {number} of the {all} classes: {}", val.place, some(&classes))
    })
}

/// Advice where the largest class has many times the pictures of the smallest.
fn imbalance(train: &ImageList, config: &Config) -> Option<String> {
    let is_weighted = config.train.class_weights != ClassWeights::None || config.train.sampler == Sampler::Balanced;
    let counts: Vec<(u64, &String)> =
        counts(train).into_iter().zip(&train.classes).filter(|(count, _)| *count > 0).collect();
    let ((most, largest), (least, smallest)) = (counts.iter().max()?, counts.iter().min()?);
    (most / least >= IMBALANCE && !is_weighted).then(|| format!(
        "{}: class `{largest}` has {most} pictures and `{smallest}` {least}: a network may neglect the small classes; \
         --set train.class_weights=balanced weighs all alike",
        train.place
    ))
}
