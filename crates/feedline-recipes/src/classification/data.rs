//! The data of the recipe: labelled image files as batches of `image` f32 (B, 3, H, W) and `label` i64 (B,). Composes
//! the stages read, decode and augment; owns nothing of their insides.

use super::config::Config;
use feedline::augment::normalize::Normalize;
use feedline::augment::{Augmentation, ImageOp};
use feedline::decode::{DecodedCache, Limits, RgbImage};
use feedline::deliver::Clock;
use feedline::fused::{Augmented, ImagePath};
use feedline::pipeline::{Pipeline, Raw};
use feedline::plan::Request;
use feedline::read::{ImageList, read_classes, read_file_into};
use feedline::{DType, Error, FieldSpec, Result, Slot, Stage};
use std::sync::Arc;

/// One split as a pipeline.
#[derive(Debug)]
pub struct ImageData {
    list: ImageList,
    path: ImagePath,
    normalize: Normalize,
    fields: Vec<FieldSpec>,
    fingerprint: u64,
}

impl ImageData {
    /// The pictures of `list` through `ops`, which must end in pictures of `input_px` x `input_px`. Decoded pictures
    /// are kept in `cache`, if there is one.
    pub fn new(list: ImageList, ops: Vec<ImageOp>, config: &Config, cache: Option<DecodedCache>) -> ImageData {
        let side = config.input_px() as usize;
        let limits = Limits { max_pixels: config.data.max_pixels };
        let path = ImagePath::new(ops, limits, config.data.decode);
        ImageData {
            fingerprint: list.fingerprint(),
            list,
            path: match cache {
                Some(cache) => path.with_cache(cache),
                None => path,
            },
            normalize: Normalize::new(config.augment.mean, config.augment.std),
            fields: vec![
                FieldSpec::stack("image", DType::F32, [3, side, side]),
                FieldSpec::stack("label", DType::I64, []),
            ],
        }
    }

    /// Names of the classes; a label is a place in this list.
    pub fn classes(&self) -> &[String] {
        &self.list.classes
    }

    /// A line for each sample in order: its name (see [`ImageList::names`]), a tab, the name of its class.
    pub fn sample_list(&self) -> String {
        let lines = self.list.names().into_iter().zip(&self.list.entries);
        lines.map(|(name, entry)| format!("{name}\t{}\n", self.list.classes[entry.class as usize])).collect()
    }

    /// The picture as the network sees it, before normalisation.
    ///
    /// # Errors
    /// [`Error::Sample`] for a file that cannot be read or decoded.
    pub fn picture(&self, request: &Request) -> Result<RgbImage> {
        let (mut raw, mut clock) = (Raw::new(), Clock::default());
        self.read(request, &mut raw, &mut clock)?;
        self.augmented(request, &raw[0], &mut clock, |picture, _| picture.to_image())
    }

    /// The label of a sample.
    pub fn label(&self, index: u64) -> u32 {
        self.list.entries[index as usize].class
    }

    fn augmented<T>(
        &self,
        request: &Request,
        bytes: &[u8],
        clock: &mut Clock,
        then: impl FnOnce(Augmented<'_>, &mut Clock) -> T,
    ) -> Result<T> {
        self.path.run(request, bytes, clock, then).map_err(|problem| Error::Sample {
            stage: Stage::Decode,
            index: request.index,
            location: self.location(request.index),
            problem,
        })
    }
}

impl Pipeline for ImageData {
    fn len(&self) -> u64 {
        self.list.entries.len() as u64
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }

    fn location(&self, index: u64) -> String {
        self.list.entries[index as usize].path.display().to_string()
    }

    fn read(&self, request: &Request, raw: &mut Raw, clock: &mut Clock) -> Result<()> {
        raw.resize_with(1, Vec::new);
        if self.path.is_cached(request) {
            raw[0].clear();
            return Ok(());
        }
        let path = &self.list.entries[request.index as usize].path;
        read_file_into(path, &mut raw[0]).map_err(|e| Error::io("read", path, e))?;
        clock.count_bytes(raw[0].len());
        Ok(())
    }

    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, clock: &mut Clock) -> Result<()> {
        slot.dense::<i64>("label")[0] = i64::from(self.label(request.index));
        self.augmented(request, &raw[0], clock, |picture, clock| {
            let out = slot.dense::<f32>("image");
            self.normalize.write_chw(picture.image, picture.mirrored, out);
            clock.count_bytes(size_of_val(out));
        })
    }
}

/// The training and the validation split that `config` names. The training split is augmented by the preset, the
/// validation split never.
///
/// # Errors
/// What the folders or lists have wrong.
pub fn open(config: &Config) -> Result<(Arc<ImageData>, Arc<ImageData>)> {
    let list = train_list(config)?;
    let cache = cache(config);
    let val_cache = cache.as_ref().map(DecodedCache::sibling);
    let val = open_val_cached(config, &list.classes, val_cache)?;
    Ok((Arc::new(ImageData::new(list, config.augment.preset.train_ops(config.input_px()), config, cache)), val))
}

/// The cache of decoded pictures that `config` asks for.
pub fn cache(config: &Config) -> Option<DecodedCache> {
    (config.data.decoded_cache_bytes > 0).then(|| DecodedCache::new(config.data.decoded_cache_bytes))
}

/// The images of the training split.
///
/// # Errors
/// What the folder or the list has wrong.
pub fn train_list(config: &Config) -> Result<ImageList> {
    if config.data.dir.as_os_str().is_empty() {
        ImageList::from_list(&config.data.train_list, "train", &read_classes(&config.data.classes)?)
    } else {
        ImageList::train(&config.data.dir)
    }
}

/// The validation split alone, whose classes must be `classes`: those a network was trained on.
///
/// # Errors
/// As [`open`], and other classes.
pub fn open_val(config: &Config, classes: &[String]) -> Result<Arc<ImageData>> {
    open_val_cached(config, classes, None)
}

fn open_val_cached(config: &Config, classes: &[String], cache: Option<DecodedCache>) -> Result<Arc<ImageData>> {
    let list = if config.data.dir.as_os_str().is_empty() {
        let named = read_classes(&config.data.classes)?;
        if named != classes {
            return Err(Error::dataset(
                &config.data.classes,
                format!("its classes are {}, the network's are {}", named.join(", "), classes.join(", ")),
                "Give the list of classes that the run was started with",
            ));
        }
        ImageList::from_list(&config.data.val_list, "validation", classes)?
    } else {
        ImageList::val(&config.data.dir, classes)?
    };
    Ok(Arc::new(ImageData::new(list, Augmentation::eval_ops(config.input_px()), config, cache)))
}
