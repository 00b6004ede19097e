//! Pictures declared in a chain of calls, with the words of the Python package. Owns those words and their defaults; the
//! work is that of [`Images`].

use super::images::{CustomTransform, Images, ImagesOptions, PixelOutput, Step};
use super::{DecodeMode, Exif, Pipeline};
use crate::augment::normalize::Normalize;
use crate::augment::{Filter, ImageOp};
use crate::decode::{DecodedCache, Limits};
use crate::error::{Error, Result};
use crate::read::{ImageList, Storage};
use std::path::Path;
use std::sync::Arc;

/// Begins a declaration of labelled pictures: those of a folder with a folder for each class, of an archive, of a folder of
/// archives that hold labels, or of any of these at a URL. For a list of files use [`ImagesBuilder::new`].
///
/// # Errors
/// As [`ImageList::open`].
pub fn images(location: impl AsRef<Path>) -> Result<ImagesBuilder> {
    Ok(ImagesBuilder::new(ImageList::open(location.as_ref(), "given", None, &Storage::default())?))
}

/// A size in pixels: one number, or (height, width).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Both sides; of [`ImagesBuilder::resize`] the shorter one.
    Side(u32),
    /// Height and width.
    Sides([u32; 2]),
}

impl Size {
    fn sides_px(self) -> [u32; 2] {
        match self {
            Size::Side(px) => [px; 2],
            Size::Sides(px) => px,
        }
    }
}

impl From<u32> for Size {
    fn from(px: u32) -> Size {
        Size::Side(px)
    }
}

impl From<[u32; 2]> for Size {
    fn from(size_px: [u32; 2]) -> Size {
        Size::Sides(size_px)
    }
}

impl From<(u32, u32)> for Size {
    fn from((height_px, width_px): (u32, u32)) -> Size {
        Size::Sides([height_px, width_px])
    }
}

/// Labelled pictures and what is done to them, in the order of the calls. Each method has the name and the defaults of the
/// Python package's; [`ImagesBuilder::op`] takes an operation with other numbers. What is wrong is told by
/// [`ImagesBuilder::build`], the first thing first.
#[derive(Debug)]
pub struct ImagesBuilder {
    list: ImageList,
    options: ImagesOptions,
    /// The length and filter of a `resize` to the shorter side, until `center_crop` completes it.
    shorter: Option<(u32, Filter)>,
    problem: Option<Error>,
}

impl ImagesBuilder {
    /// Begins with the pictures of `list`, as they are: u8 (3, H, W).
    pub fn new(list: ImageList) -> ImagesBuilder {
        ImagesBuilder { list, options: ImagesOptions::default(), shorter: None, problem: None }
    }

    /// A random part of 8 to 100 % of the area and of an aspect ratio of 3/4 to 4/3, resized to `size`.
    #[must_use]
    pub fn random_resized_crop(self, size: impl Into<Size>) -> ImagesBuilder {
        self.op(ImageOp::RandomResizedCrop {
            size_px: size.into().sides_px(),
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            filter: Filter::default(),
        })
    }

    /// To exactly (height, width); or, if `size` is one number, the shorter side to it, and then
    /// [`ImagesBuilder::center_crop`] must follow.
    #[must_use]
    pub fn resize(mut self, size: impl Into<Size>) -> ImagesBuilder {
        match size.into() {
            Size::Side(shorter_px) => {
                self.expect_pictures("resize");
                self.shorter = Some((shorter_px, Filter::default()));
                self
            }
            Size::Sides(size_px) => self.op(ImageOp::Resize { size_px, filter: Filter::default() }),
        }
    }

    /// Cuts `size` from the centre, after `resize(n)` and in one pass with it.
    #[must_use]
    pub fn center_crop(mut self, size: impl Into<Size>) -> ImagesBuilder {
        let Some((shorter_px, filter)) = self.shorter.take() else {
            return self.wrong("center_crop has to follow resize(n)", "For example .resize(256).center_crop(224)");
        };
        self.expect_pictures("center_crop");
        self.op(ImageOp::ResizeCenterCrop { shorter_px, size_px: size.into().sides_px(), filter })
    }

    /// Mirrors left and right with probability 1/2.
    #[must_use]
    pub fn hflip(self) -> ImagesBuilder {
        self.op(ImageOp::HorizontalFlip { p: 0.5 })
    }

    /// One of AutoAugment's 25 ImageNet sub-policies.
    #[must_use]
    pub fn autoaugment(self) -> ImagesBuilder {
        self.op(ImageOp::AutoaugmentImagenet {})
    }

    /// Multiplies brightness, contrast and saturation, in this order, by a factor drawn from 1 - v to 1 + v.
    #[must_use]
    pub fn color_jitter(self, brightness: f64, contrast: f64, saturation: f64) -> ImagesBuilder {
        self.op(ImageOp::ColorJitter { brightness, contrast, saturation })
    }

    /// Rotates by up to `degrees` and shifts by up to `translate` of each side, either way.
    #[must_use]
    pub fn random_affine(self, degrees: f64, translate: f64) -> ImagesBuilder {
        self.op(ImageOp::RandomAffine { degrees, translate })
    }

    /// An operation with all its numbers.
    #[must_use]
    pub fn op(mut self, op: ImageOp) -> ImagesBuilder {
        self.expect_pictures(op.name());
        self.options.steps.push(Step::Op(op));
        self
    }

    /// A step of the caller's own, called `name` in errors and as part of the key of its random stream. Before `normalize`
    /// it changes pictures, after it values.
    #[must_use]
    pub fn map(mut self, name: &str, step: impl CustomTransform + 'static) -> ImagesBuilder {
        let (name, step) = (name.to_owned(), Arc::new(step));
        match &mut self.options.numbers {
            PixelOutput::Floats { after, .. } => after.push((name, step)),
            PixelOutput::Bytes => {
                self.expect_pictures(&name);
                self.options.steps.push(Step::Custom { name, step });
            }
        }
        self
    }

    /// Declares the size of the finished pictures, where a step of the caller's own decides it.
    #[must_use]
    pub fn size(mut self, size: impl Into<Size>) -> ImagesBuilder {
        self.options.size_px = Some(size.into().sides_px());
        self
    }

    /// f32 of `(x / 255 - mean) / std` with ImageNet's numbers.
    #[must_use]
    pub fn normalize(self) -> ImagesBuilder {
        self.normalize_with(Normalize::default())
    }

    /// As [`ImagesBuilder::normalize`], with other numbers.
    #[must_use]
    pub fn normalize_with(mut self, normalize: Normalize) -> ImagesBuilder {
        if let PixelOutput::Floats { .. } = self.options.numbers {
            return self.wrong("normalize() stands twice", "Leave one out");
        }
        self.options.numbers = PixelOutput::Floats { normalize, after: Vec::new() };
        self
    }

    /// How much of a picture is decoded.
    #[must_use]
    pub fn decode(mut self, mode: DecodeMode) -> ImagesBuilder {
        self.options.decode = mode;
        self
    }

    /// What becomes of the EXIF orientation.
    #[must_use]
    pub fn exif(mut self, exif: Exif) -> ImagesBuilder {
        self.options.exif = exif;
        self
    }

    /// A picture of more pixels is an error.
    #[must_use]
    pub fn max_pixels(mut self, max_pixels: u64) -> ImagesBuilder {
        self.options.limits = Limits { max_pixels };
        self
    }

    /// Keeps decoded pictures in so much memory; changes speed only.
    #[must_use]
    pub fn cache_bytes(mut self, cache_bytes: u64) -> ImagesBuilder {
        self.options.cache = (cache_bytes > 0).then(|| DecodedCache::new(cache_bytes));
        self
    }

    /// The pictures as a pipeline.
    ///
    /// # Errors
    /// A word in a place where it has no meaning; as [`Images::new`].
    pub fn build(mut self) -> Result<Images> {
        if self.shorter.is_some() {
            self.expect_pictures("build");
        }
        match self.problem {
            Some(problem) => Err(problem),
            None => Images::new(self.list, self.options),
        }
    }

    /// Notes a step that changes pictures where there are none any more, or none of equal size yet.
    fn expect_pictures(&mut self, step: &str) {
        if self.shorter.is_some() {
            let problem = "resize(n) keeps the aspect ratio, so pictures would differ in size";
            self.note(Error::config(problem, "Add .center_crop(n)"));
        }
        if let PixelOutput::Floats { .. } = self.options.numbers {
            let problem = format!("{step} comes after normalize()");
            self.note(Error::config(problem, "Steps on pictures come before normalize()"));
        }
    }

    fn wrong(mut self, problem: &str, remedy: &str) -> ImagesBuilder {
        self.note(Error::config(problem, remedy));
        self
    }

    fn note(&mut self, problem: Error) {
        self.problem.get_or_insert(problem);
    }
}

/// What a loader can be made over: a pipeline, or the declaration of one.
pub trait IntoPipeline {
    /// The pipeline.
    ///
    /// # Errors
    /// What the declaration has wrong.
    fn into_pipeline(self) -> Result<Arc<dyn Pipeline>>;
}

impl<P: Pipeline + 'static> IntoPipeline for P {
    fn into_pipeline(self) -> Result<Arc<dyn Pipeline>> {
        Ok(Arc::new(self))
    }
}

impl<P: Pipeline + 'static> IntoPipeline for Arc<P> {
    fn into_pipeline(self) -> Result<Arc<dyn Pipeline>> {
        Ok(self)
    }
}

impl IntoPipeline for Arc<dyn Pipeline> {
    fn into_pipeline(self) -> Result<Arc<dyn Pipeline>> {
        Ok(self)
    }
}

impl IntoPipeline for ImagesBuilder {
    fn into_pipeline(self) -> Result<Arc<dyn Pipeline>> {
        Ok(Arc::new(self.build()?))
    }
}
