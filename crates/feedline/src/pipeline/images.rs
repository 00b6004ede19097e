//! Images: labelled picture files as batches of `image` and `label`. Composes the stages read, decode and augment for a
//! list of files and a list of steps; owns none of their details.

use super::fused_decode::{Augmented, DecodeMode, Exif, FusedDecode};
use crate::augment::normalize::Normalize;
use crate::augment::{ImageOp, output_size_px};
use crate::decode::{DecodedCache, Limits, RgbImage};
use crate::error::{Error, Result, Stage, StepError};
use crate::hash::{hash_name, hash_words};
use crate::meter::SampleContext;
use crate::pipeline::{Pipeline, Raw, read_samples};
use crate::plan::Request;
use crate::read::{ImageList, SampleReader, Skipped, read_sample};
use crate::sample::{Array, DType, FieldSpec, Slot};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A transform that the caller supplies.
///
/// It must be a pure function of its arguments, or the delivered batches are no longer a function of (seed, epoch,
/// position): take randomness from [`Request::rng`] with the given `stream`.
pub trait CustomTransform: Debug + Send + Sync {
    /// Changes a picture (H, W, 3); its size may change.
    ///
    /// # Errors
    /// Any failure of the transform.
    fn picture(&self, image: &mut RgbImage, request: &Request, stream: &str) -> Result<(), StepError>;

    /// Changes a finished picture, f32 (3, H, W).
    ///
    /// # Errors
    /// Any failure of the transform.
    fn values(&self, values: &mut [f32], size_px: [u32; 2], request: &Request, stream: &str) -> Result<(), StepError>;
}

/// One step between a decoded picture and the batch.
#[derive(Debug, Clone)]
pub enum Step {
    /// A built-in operation.
    Op(ImageOp),
    /// A transform of the caller's, called `name` in errors and in the key of its random stream.
    Custom { name: String, step: Arc<dyn CustomTransform> },
}

/// How pictures become numbers.
#[derive(Debug, Clone, Default)]
pub enum PixelOutput {
    /// u8 (3, H, W), as they are.
    #[default]
    Bytes,
    /// f32 (3, H, W), normalised; then the transforms that follow, each with its name.
    Floats { normalize: Normalize, after: Vec<(String, Arc<dyn CustomTransform>)> },
}

/// What is declared of a data set of pictures.
#[derive(Debug, Default)]
pub struct ImagesOptions {
    /// In order; the final pictures must have `size_px`.
    pub steps: Vec<Step>,
    /// Height and width of every finished picture; `None` is the size that the operations fix.
    pub size_px: Option<[u32; 2]>,
    /// What is delivered of them.
    pub numbers: PixelOutput,
    /// Size limits for decoding.
    pub limits: Limits,
    /// The part of a picture that is decoded.
    pub decode: DecodeMode,
    /// What becomes of the EXIF orientation. With [`Exif::Ignore`] one picture that asks for a turn is told: the first that a worker meets.
    pub exif: Exif,
    /// Caches decoded pictures; changes speed only.
    pub cache: Option<DecodedCache>,
    /// What is delivered as the label of each picture, a row of its own, instead of its class.
    pub labels: Option<Array>,
}

/// Labelled pictures as a pipeline with the fields `image` (3, H, W) and `label`: the class, i64 (), or what
/// [`ImagesOptions::labels`] has.
#[derive(Debug)]
pub struct Images {
    list: ImageList,
    path: FusedDecode,
    /// The steps from the first custom transform on, with their indexes in the whole list.
    rest: Vec<(usize, Step)>,
    size_px: [u32; 2],
    numbers: PixelOutput,
    labels: Option<Array>,
    fields: Vec<FieldSpec>,
    fingerprint: u64,
    has_told_exif: AtomicBool,
}

impl Images {
    /// The pictures of `list` through the steps of `options`.
    ///
    /// # Errors
    /// An operation whose numbers are out of range; no operation that fixes a size, where `size_px` is `None`; labels of
    /// another number than that of the pictures.
    pub fn new(list: ImageList, options: ImagesOptions) -> Result<Images> {
        let ImagesOptions { mut steps, size_px, numbers, limits, decode, exif, cache, labels } = options;
        let ops: Vec<ImageOp> =
            steps.iter().filter_map(|step| if let Step::Op(op) = step { Some(op.clone()) } else { None }).collect();
        ops.iter().try_for_each(ImageOp::validate)?;
        let Some(size_px) = size_px.or_else(|| output_size_px(&ops)) else {
            return Err(Error::config(
                "the pictures are of any size, so they cannot be put into one batch",
                "Add .random_resized_crop(224), .resize((224, 224)) or .resize(256).center_crop(224), or name the size \
                 that your own step gives: .map(step, size=224), from Rust .size(224)",
            ));
        };
        let label = match &labels {
            None => FieldSpec::stack("label", DType::I64, []),
            Some(labels) => match labels.shape().split_first() {
                Some((rows, row)) if *rows == list.entries.len() => FieldSpec::stack("label", labels.dtype(), row),
                _ => {
                    let (shape, pictures) = (labels.shape(), list.entries.len());
                    return Err(Error::config(
                        format!("there are {pictures} pictures, and labels of shape {shape:?}"),
                        "Give one row for each picture",
                    ));
                }
            },
        };
        let own = steps.iter().position(|step| matches!(step, Step::Custom { .. })).unwrap_or(steps.len());
        let rest = steps.drain(own..).zip(own..).map(|(step, place)| (place, step)).collect();
        let ops = ops.into_iter().take(own).collect();
        let path = FusedDecode::new(ops, limits, decode).with_exif(exif);
        let dtype = if matches!(numbers, PixelOutput::Bytes) { DType::U8 } else { DType::F32 };
        let [height_px, width_px] = size_px.map(|px| px as usize);
        let fingerprint = match &labels {
            None => list.fingerprint(),
            Some(labels) => hash_words(&[list.fingerprint(), hash_of(labels)]),
        };
        Ok(Images {
            // Only what is not the default counts: cursors of before stay valid.
            fingerprint: match exif {
                Exif::Ignore => fingerprint,
                Exif::Apply => hash_words(&[fingerprint, hash_name("exif = apply")]),
            },
            has_told_exif: AtomicBool::new(false),
            path: match cache {
                Some(cache) => path.with_cache(cache),
                None => path,
            },
            list,
            rest,
            size_px,
            numbers,
            labels,
            fields: vec![FieldSpec::stack("image", dtype, [3, height_px, width_px]), label],
        })
    }

    /// Class names; a label is an index into this list.
    pub fn classes(&self) -> &[String] {
        &self.list.classes
    }

    /// Where the pictures are, for messages ([`ImageList::place`]).
    pub fn place(&self) -> &str {
        &self.list.place
    }

    /// The class of a sample.
    pub fn label(&self, index: u64) -> u32 {
        self.list.entries[index as usize].class
    }

    /// One line for each sample in order: its name (see [`ImageList::names`]), a tab, its class name.
    pub fn sample_list(&self) -> String {
        let lines = self.list.names().into_iter().zip(&self.list.entries);
        lines.map(|(name, entry)| format!("{name}\t{}\n", self.list.classes[entry.class as usize])).collect()
    }

    /// The picture as the network gets it, before conversion to tensor values.
    ///
    /// # Errors
    /// [`Error::Sample`] for a file that cannot be read or decoded, [`Error::Step`] for a step that failed.
    pub fn picture(&self, request: &Request) -> Result<RgbImage> {
        let (mut raw, mut context) = (Raw::new(), SampleContext::default());
        self.read(request, &mut raw, &mut context)?;
        self.augmented(request, &raw[0], &mut context, |picture, _| Ok(picture.to_image()))
    }

    fn augmented<T>(
        &self,
        request: &Request,
        bytes: &[u8],
        context: &mut SampleContext,
        then: impl FnOnce(Augmented<'_>, &mut SampleContext) -> Result<T>,
    ) -> Result<T> {
        let done = self.path.run(request, bytes, context, |picture, context| {
            if picture.ignored_exif {
                self.tell_exif(request, context);
            }
            if self.rest.is_empty() {
                self.check_size(picture.image, request)?;
                return then(picture, context);
            }
            let mut image = picture.to_image();
            let mut scratch = RgbImage::default();
            for (place, step) in &self.rest {
                match step {
                    Step::Op(op) => op.apply(&mut image, &mut scratch, &mut request.rng(&op.stream(*place))),
                    Step::Custom { name, step } => step
                        .picture(&mut image, request, &stream(*place, name))
                        .map_err(|source| self.failed(name, request, source))?,
                }
            }
            self.check_size(&image, request)?;
            then(Augmented { image: &image, mirrored: false, ..picture }, context)
        });
        done.map_err(|fault| fault.at(Stage::Decode, request.index, self.location(request.index)))?
    }

    /// Warns once that pictures ask for a turn that is not made.
    fn tell_exif(&self, request: &Request, context: &mut SampleContext) {
        if self.has_told_exif.load(Relaxed) || !context.is_heard() || self.has_told_exif.swap(true, Relaxed) {
            return;
        }
        context.warn(format!(
            "{}: its EXIF orientation asks for a turn, and so may others of {} pictures. They are used as they are stored, as by              torchvision's ImageFolder. To turn them upright, set data.exif = \"apply\"; from Python,              feedline.images(..., exif=\"apply\"); from Rust, .exif(Exif::Apply)",
            self.location(request.index),
            self.len()
        ));
    }

    fn check_size(&self, image: &RgbImage, request: &Request) -> Result<()> {
        let (found, [height, width]) = ([image.height_px, image.width_px], self.size_px);
        if found == self.size_px {
            return Ok(());
        }
        Err(Error::Sample {
            stage: Stage::Augment,
            index: request.index,
            location: self.location(request.index),
            problem: format!(
                "the steps end in a picture of {} x {} px (height x width), {height} x {width} are declared",
                found[0], found[1]
            ),
        })
    }

    fn failed(&self, name: &str, request: &Request, source: StepError) -> Error {
        Error::Step { name: name.into(), index: request.index, location: self.location(request.index), source }
    }
}

/// Name of the random stream of the custom transform at `place`, as [`ImageOp::stream`].
fn stream(place: usize, name: &str) -> String {
    format!("augment.{place}.{name}")
}

impl Pipeline for Images {
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
        let path = self.list.entries[index as usize].path.display();
        match self.list.stored.as_ref().and_then(|stored| stored.archive(index)) {
            Some(archive) => format!("{path} in {archive}"),
            None => path.to_string(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.list.warnings.clone()
    }

    fn skipped(&self) -> Vec<Skipped> {
        self.list.skipped.iter().cloned().collect()
    }

    fn sample_reader(&self) -> Option<&SampleReader> {
        self.list.stored.as_ref()
    }

    fn read(&self, request: &Request, raw: &mut Raw, context: &mut SampleContext) -> Result<()> {
        raw.resize_with(1, Vec::new);
        if self.path.is_cached(request) {
            raw[0].clear();
            return Ok(());
        }
        let (path, stored) = (&self.list.entries[request.index as usize].path, self.list.stored.as_ref());
        if let Some(stored) = stored {
            stored.reached(request.epoch, request.position);
        }
        read_sample(stored, request.index, path, context.stop_signal(), &mut raw[0])?;
        context.count_bytes(raw[0].len());
        Ok(())
    }

    fn read_many(&self, requests: &[Request], raws: &mut [Raw], context: &mut SampleContext) -> Vec<Result<()>> {
        match &self.list.stored {
            Some(stored) => {
                // Cached pictures are not read; the others are still one request.
                let is_read = |request: &Request| !self.path.is_cached(request);
                let places: Vec<usize> = (0..requests.len()).filter(|at| is_read(&requests[*at])).collect();
                let wanted: Vec<Request> = places.iter().map(|at| requests[*at]).collect();
                let mut read: Vec<Raw> = places.iter().map(|at| std::mem::take(&mut raws[*at])).collect();
                let mut results: Vec<Result<()>> = requests.iter().map(|_| Ok(())).collect();
                for raw in &mut *raws {
                    raw.resize_with(1, Vec::new);
                    raw[0].clear();
                }
                for (at, result) in places.iter().zip(read_samples(stored, &wanted, &mut read, context)) {
                    results[*at] = result;
                }
                places.iter().zip(read).for_each(|(at, read)| raws[*at] = read);
                results
            }
            None => requests.iter().zip(raws).map(|(request, raw)| self.read(request, raw, context)).collect(),
        }
    }

    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, context: &mut SampleContext) -> Result<()> {
        match &self.labels {
            None => slot.dense::<i64>("label")[0] = i64::from(self.label(request.index)),
            Some(labels) => {
                let into = slot.dense_bytes("label");
                let start = request.index as usize * into.len();
                into.copy_from_slice(&labels.as_bytes()[start..start + into.len()]);
            }
        }
        self.augmented(request, &raw[0], context, |picture, context| {
            match &self.numbers {
                PixelOutput::Bytes => {
                    let out = slot.dense::<u8>("image");
                    write_chw(picture.image, picture.mirrored, out);
                    context.count_bytes(out.len());
                }
                PixelOutput::Floats { normalize, after } => {
                    let out = slot.dense::<f32>("image");
                    normalize.write_chw(picture.image, picture.mirrored, out);
                    for (at, (name, step)) in after.iter().enumerate() {
                        step.values(out, self.size_px, request, &stream(at, &format!("values.{name}")))
                            .map_err(|source| self.failed(name, request, source))?;
                    }
                    context.count_bytes(size_of_val(out));
                }
            }
            Ok(())
        })
    }
}

/// Hash of an array: its type, shape and content.
fn hash_of(array: &Array) -> u64 {
    let (whole, rest) = array.as_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let facts = hash_name(&format!("{:?} {:?}", array.dtype(), array.shape()));
    let words = whole.iter().chain([&last]).map(|bytes| u64::from_le_bytes(*bytes));
    hash_words(&std::iter::once(facts).chain(words).collect::<Vec<_>>())
}

/// Writes `image` (H, W, 3) to `into` as (3, H, W), left and right exchanged if `mirrored`.
fn write_chw(image: &RgbImage, mirrored: bool, into: &mut [u8]) {
    let width = image.width_px as usize;
    let pixels = image.pixels.as_chunks::<3>().0;
    for (c, plane) in into.chunks_exact_mut(pixels.len().max(1)).enumerate() {
        for (row, out) in pixels.chunks_exact(width).zip(plane.chunks_exact_mut(width)) {
            for (x, value) in out.iter_mut().enumerate() {
                *value = row[if mirrored { width - 1 - x } else { x }][c];
            }
        }
    }
}
