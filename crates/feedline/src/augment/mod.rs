//! Augment: arrays to arrays, with a random stream as argument. It reads no files and draws only from that stream,
//! so the augmented sample is a function of (seed, epoch, sample).
//!
//! An operation is plain data ([`ImageOp`]); a list of them is a pipeline. Every operation works on an image of any
//! size from 1 x 1 px.

pub mod affine;
mod autoaugment;
pub mod boxes;
pub mod color;
mod crop;
pub mod normalize;
pub mod points;
pub mod resize;
mod view;
pub mod voxels;

pub use resize::Filter;
pub use view::View;

use crate::decode::{CropBox, Fault, RgbImage, no_memory};
use crate::error::{Error, Result};
use crate::plan::rng::SampleRng;
use std::cell::RefCell;

/// The longest side an operation may produce.
const MAX_SIDE_PX: u32 = 16_384;

/// One operation on an image. Sizes are (height, width).
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageOp {
    /// A random part (area as a fraction of the image uniform in `scale`, width / height log-uniform in `ratio`),
    /// resized to `size_px`.
    RandomResizedCrop {
        /// Size of the result.
        size_px: [u32; 2],
        /// Smallest and largest area.
        scale: [f64; 2],
        /// Smallest and largest width / height.
        ratio: [f64; 2],
        /// Bilinear unless said otherwise.
        #[serde(default)]
        filter: Filter,
    },
    /// Resizes the shorter side to `shorter_px`, keeping the aspect ratio, and cuts `size_px` from the centre. In one
    /// pass, so that an image of extreme aspect costs no more than another.
    ResizeCenterCrop {
        /// The shorter side after resizing, at least as long as the sides of `size_px`.
        shorter_px: u32,
        /// Size of the centre crop.
        size_px: [u32; 2],
        /// Bilinear unless said otherwise.
        #[serde(default)]
        filter: Filter,
    },
    /// Resizes to exactly `size_px`, whatever the aspect ratio.
    Resize {
        /// Size of the result.
        size_px: [u32; 2],
        /// Bilinear unless said otherwise.
        #[serde(default)]
        filter: Filter,
    },
    /// Mirrors left and right with probability `p`.
    HorizontalFlip {
        /// 0 to 1.
        p: f64,
    },
    /// One of AutoAugment's 25 ImageNet sub-policies.
    AutoaugmentImagenet {},
    /// Multiplies brightness, contrast and saturation, in this order, by factors uniform in 1 - v to 1 + v each.
    ColorJitter {
        /// 0 (off) to 1.
        brightness: f64,
        /// 0 (off) to 1.
        contrast: f64,
        /// 0 (off) to 1.
        saturation: f64,
    },
    /// Rotates about the centre by up to `degrees` either way and shifts by up to `translate` of each side either way.
    /// The border is repeated outward, so that no foreign colour enters.
    RandomAffine {
        /// 0 to 180.
        degrees: f64,
        /// 0 to 1.
        translate: f64,
    },
}

impl ImageOp {
    /// The operation's name, as in a configuration and as part of the key of its random stream.
    pub fn name(&self) -> &'static str {
        match self {
            ImageOp::RandomResizedCrop { .. } => "random_resized_crop",
            ImageOp::ResizeCenterCrop { .. } => "resize_center_crop",
            ImageOp::Resize { .. } => "resize",
            ImageOp::HorizontalFlip { .. } => "horizontal_flip",
            ImageOp::AutoaugmentImagenet {} => "autoaugment_imagenet",
            ImageOp::ColorJitter { .. } => "color_jitter",
            ImageOp::RandomAffine { .. } => "random_affine",
        }
    }

    /// Name of the random stream of this operation when it is the `place`-th of a list, from 0.
    pub fn stream(&self, place: usize) -> String {
        format!("augment.{place}.{}", self.name())
    }

    /// Checks the numbers; an operation that passes never panics on an image of at least one pixel.
    ///
    /// # Errors
    /// [`Error::Config`], with the key and the range allowed.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, key: &str, range: &str| match ok {
            true => Ok(()),
            false => Err(Error::config(
                format!("{key} of {} is out of range: {self:?}", self.name()),
                format!("Use {range}"),
            )),
        };
        let side = |px: u32| (1..=MAX_SIDE_PX).contains(&px);
        let size = |px: [u32; 2]| check(side(px[0]) && side(px[1]), "size_px", "sides of 1 to 16384 px");
        let fraction = |v: f64| (0.0..=1.0).contains(&v);
        match *self {
            ImageOp::RandomResizedCrop { size_px, scale, ratio, .. } => {
                size(size_px)?;
                check(0.0 < scale[0] && scale[0] <= scale[1] && scale[1] <= 1.0, "scale", "0 < low <= high <= 1")?;
                check(
                    0.01 <= ratio[0] && ratio[0] <= ratio[1] && ratio[1] <= 100.0,
                    "ratio",
                    "0.01 <= low <= high <= 100",
                )
            }
            ImageOp::ResizeCenterCrop { shorter_px, size_px, .. } => {
                size(size_px)?;
                check(side(shorter_px), "shorter_px", "1 to 16384 px")?;
                check(size_px.iter().all(|&px| px <= shorter_px), "shorter_px", "at least the sides of size_px")
            }
            ImageOp::Resize { size_px, .. } => size(size_px),
            ImageOp::HorizontalFlip { p } => check(fraction(p), "p", "0 to 1"),
            ImageOp::AutoaugmentImagenet {} => Ok(()),
            ImageOp::ColorJitter { brightness, contrast, saturation } => {
                check(fraction(brightness), "brightness", "0 to 1")?;
                check(fraction(contrast), "contrast", "0 to 1")?;
                check(fraction(saturation), "saturation", "0 to 1")
            }
            ImageOp::RandomAffine { degrees, translate } => {
                check((0.0..=180.0).contains(&degrees), "degrees", "0 to 180")?;
                check(fraction(translate), "translate", "0 to 1")
            }
        }
    }

    /// The view of a picture of `width_px` x `height_px` if this operation resizes a part; rendering the view is then the
    /// whole operation. `None` for all others. Draws the same numbers from `rng` as the operation.
    pub fn view(&self, width_px: u32, height_px: u32, rng: &mut SampleRng) -> Option<View> {
        let picture = (width_px, height_px);
        match *self {
            ImageOp::RandomResizedCrop { size_px, scale, ratio, filter } => {
                let part = crop::random_resized_box(width_px, height_px, scale, ratio, rng);
                Some(View::cut(part, size_px, filter, picture))
            }
            ImageOp::ResizeCenterCrop { shorter_px, size_px, filter } => {
                Some(View::around(crop::centre_box(width_px, height_px, shorter_px, size_px), size_px, filter, picture))
            }
            ImageOp::Resize { size_px, filter } => {
                let whole = CropBox { left_px: 0, top_px: 0, width_px, height_px };
                Some(View::cut(whole, size_px, filter, picture))
            }
            ImageOp::HorizontalFlip { .. }
            | ImageOp::AutoaugmentImagenet {}
            | ImageOp::ColorJitter { .. }
            | ImageOp::RandomAffine { .. } => None,
        }
    }

    /// True if [`ImageOp::view`] gives another part of the same picture in each epoch, so that a cache must keep the whole
    /// picture.
    pub(crate) fn has_random_view(&self) -> bool {
        match self {
            ImageOp::RandomResizedCrop { .. } => true,
            ImageOp::ResizeCenterCrop { .. }
            | ImageOp::Resize { .. }
            | ImageOp::HorizontalFlip { .. }
            | ImageOp::AutoaugmentImagenet {}
            | ImageOp::ColorJitter { .. }
            | ImageOp::RandomAffine { .. } => false,
        }
    }

    /// The size (height, width) that every image has after the operation, if it fixes one; else images keep theirs.
    fn output_size_px(&self) -> Option<[u32; 2]> {
        match *self {
            ImageOp::RandomResizedCrop { size_px, .. }
            | ImageOp::ResizeCenterCrop { size_px, .. }
            | ImageOp::Resize { size_px, .. } => Some(size_px),
            ImageOp::HorizontalFlip { .. }
            | ImageOp::AutoaugmentImagenet {}
            | ImageOp::ColorJitter { .. }
            | ImageOp::RandomAffine { .. } => None,
        }
    }

    /// True if [`ImageOp::apply`] needs a second image to work in.
    fn uses_scratch(&self) -> bool {
        match self {
            ImageOp::HorizontalFlip { .. } | ImageOp::ColorJitter { .. } => false,
            ImageOp::RandomResizedCrop { .. }
            | ImageOp::ResizeCenterCrop { .. }
            | ImageOp::Resize { .. }
            | ImageOp::AutoaugmentImagenet {}
            | ImageOp::RandomAffine { .. } => true,
        }
    }

    /// Applies the operation in place, drawing from `rng` only. `scratch` is working memory: its content does not
    /// matter before and is unspecified after.
    ///
    /// # Panics
    /// If the image has no pixel, or the operation would not pass [`ImageOp::validate`].
    pub fn apply(&self, image: &mut RgbImage, scratch: &mut RgbImage, rng: &mut SampleRng) {
        match *self {
            ImageOp::RandomResizedCrop { .. } | ImageOp::ResizeCenterCrop { .. } | ImageOp::Resize { .. } => {
                let view = self.view(image.width_px, image.height_px, rng).expect("these three have a view");
                view.render(image, (0, 0), 1, scratch);
                std::mem::swap(image, scratch);
            }
            ImageOp::HorizontalFlip { p } => {
                if rng.chance(p) {
                    flip(image);
                }
            }
            ImageOp::AutoaugmentImagenet {} => {
                let (_, drawn) = autoaugment::draw(rng);
                drawn.into_iter().flatten().for_each(|drawn| autoaugment::apply(drawn, image, scratch));
            }
            ImageOp::ColorJitter { brightness, contrast, saturation } => {
                let mut factor = |v: f64| rng.uniform(1.0 - v, 1.0 + v);
                let factors = [factor(brightness), factor(contrast), factor(saturation)];
                let steps = [color::brightness, color::contrast, color::saturation];
                for (step, factor) in steps.into_iter().zip(factors).filter(|(_, factor)| *factor != 1.0) {
                    step(image, factor);
                }
            }
            ImageOp::RandomAffine { degrees, translate } => {
                let (width, height) = (f64::from(image.width_px), f64::from(image.height_px));
                let mut map = affine::rotation(image.width_px, image.height_px, rng.uniform(-degrees, degrees));
                map[2] += rng.uniform(-translate, translate) * width;
                map[5] += rng.uniform(-translate, translate) * height;
                affine::bilinear_edge(image, map, scratch);
            }
        }
    }
}

/// Exchanges left and right.
pub(crate) fn flip(image: &mut RgbImage) {
    let width = image.width_px as usize;
    image.pixels.as_chunks_mut::<3>().0.chunks_exact_mut(width).for_each(<[[u8; 3]]>::reverse);
}

thread_local! {
    /// Working memory of the operations.
    static SCRATCH: RefCell<RgbImage> = RefCell::default();
}

/// Applies `ops` in order. Operation i draws from its own stream ([`ImageOp::stream`]), so that no operation can
/// shift what another draws.
///
/// # Panics
/// As [`ImageOp::apply`].
pub fn apply_all(ops: &[ImageOp], image: &mut RgbImage, rng: impl Fn(&str) -> SampleRng) {
    apply_from(ops, 0, image, rng);
}

/// As [`apply_all`], but the first `done` operations have been applied already.
pub(crate) fn apply_from(ops: &[ImageOp], done: usize, image: &mut RgbImage, rng: impl Fn(&str) -> SampleRng) {
    SCRATCH.with_borrow_mut(|scratch| {
        for (i, op) in ops.iter().enumerate().skip(done) {
            op.apply(image, scratch, &mut rng(&op.stream(i)));
        }
    });
}

/// Reserves memory for the largest picture that `ops` produce; the first `done` of them are applied elsewhere. `size_px`
/// (height, width) is the size of the input, if known. The operations themselves need no more memory than that.
///
/// # Errors
/// A text with the number of bytes that the system refuses.
pub(crate) fn make_room(
    ops: &[ImageOp],
    done: usize,
    size_px: Option<[u32; 2]>,
    image: &mut RgbImage,
) -> Result<(), Fault> {
    let sizes = ops.iter().filter_map(ImageOp::output_size_px).chain(size_px);
    let Some([height, width]) = sizes.max_by_key(|[height, width]| u64::from(*height) * u64::from(*width)) else {
        return Ok(());
    };
    let bytes = 3 * u64::from(height) * u64::from(width);
    let fits = |pixels: &mut Vec<u8>| {
        let more = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_sub(pixels.len());
        pixels
            .try_reserve_exact(more)
            .map_err(|_| no_memory(&format!("an augmented picture of {width} x {height} px"), bytes))
    };
    fits(&mut image.pixels)?;
    if ops.iter().skip(done).any(ImageOp::uses_scratch) {
        SCRATCH.with_borrow_mut(|scratch| fits(&mut scratch.pixels))?;
    }
    Ok(())
}

/// The size (height, width) every image has after `ops`, if one of them fixes it.
pub fn output_size_px(ops: &[ImageOp]) -> Option<[u32; 2]> {
    ops.iter().rev().find_map(ImageOp::output_size_px)
}

/// Ready-made lists of operations. A list never changes, so that a run goes on as it began: another one is another variant,
/// with its version in its name (`light-2`). The names of today are those of the first versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Augmentation {
    /// Mild; suits digits, cells, photos and drawn shapes alike: nothing is mirrored or recoloured.
    #[default]
    #[serde(alias = "light-1")]
    Light,
    /// Strong, for photos: random resized crop of 8 to 100 % of the area, flip, AutoAugment.
    #[serde(alias = "upstream-1")]
    Upstream,
    /// Training uses the operations of evaluation.
    None,
}

impl Augmentation {
    /// The operations of training, which give images of `input_px` x `input_px`.
    pub fn train_ops(self, input_px: u32) -> Vec<ImageOp> {
        let size_px = [input_px; 2];
        match self {
            // The boxes are near those of a centre crop, so that objects have about the size they have in evaluation.
            Augmentation::Light => vec![
                ImageOp::RandomResizedCrop { size_px, scale: [0.7, 1.0], ratio: [0.9, 1.1], filter: Filter::Bilinear },
                ImageOp::RandomAffine { degrees: 10.0, translate: 0.0 },
                ImageOp::ColorJitter { brightness: 0.1, contrast: 0.1, saturation: 0.0 },
            ],
            Augmentation::Upstream => vec![
                ImageOp::RandomResizedCrop {
                    size_px,
                    scale: [0.08, 1.0],
                    ratio: [3.0 / 4.0, 4.0 / 3.0],
                    filter: Filter::Bilinear,
                },
                ImageOp::HorizontalFlip { p: 0.5 },
                ImageOp::AutoaugmentImagenet {},
            ],
            Augmentation::None => Augmentation::eval_ops(input_px),
        }
    }

    /// The operations of evaluation: the shorter side to `input_px`, then the centre. Draws nothing.
    pub fn eval_ops(input_px: u32) -> Vec<ImageOp> {
        let size_px = [input_px; 2];
        vec![ImageOp::ResizeCenterCrop { shorter_px: input_px, size_px, filter: Filter::Bilinear }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image in which every pixel is different (up to 65,536 of them).
    fn numbered(width_px: u32, height_px: u32) -> RgbImage {
        let pixels = (0..width_px * height_px).flat_map(|i| [i as u8, (i >> 8) as u8, (i % 251) as u8]).collect();
        RgbImage { width_px, height_px, pixels }
    }

    fn every_op() -> Vec<ImageOp> {
        let mut ops = Augmentation::Upstream.train_ops(16);
        ops.extend(Augmentation::Light.train_ops(24));
        ops.extend(Augmentation::eval_ops(8));
        ops.push(ImageOp::Resize { size_px: [9, 5], filter: Filter::Bicubic });
        ops.push(ImageOp::RandomAffine { degrees: 180.0, translate: 1.0 });
        ops.push(ImageOp::ColorJitter { brightness: 1.0, contrast: 1.0, saturation: 1.0 });
        ops
    }

    #[test]
    fn every_operation_works_on_images_of_any_size() {
        for (width, height) in [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3000), (3000, 1), (40_000, 2), (5, 7), (90, 60)] {
            for op in every_op() {
                op.validate().unwrap();
                for sample in 0..30 {
                    let mut image = numbered(width, height);
                    let mut scratch = numbered(3, 3);
                    op.apply(&mut image, &mut scratch, &mut SampleRng::new(5, 0, sample, "size"));
                    let size = output_size_px(std::slice::from_ref(&op)).unwrap_or([height, width]);
                    assert_eq!([image.height_px, image.width_px], size, "{op:?} on {width} x {height}");
                    assert_eq!(image.pixels.len(), 3 * (size[0] * size[1]) as usize);
                }
            }
        }
    }

    #[test]
    fn the_result_depends_on_the_stream_alone() {
        let ops = every_op();
        let run = |sample: u64| {
            let mut image = numbered(60, 45);
            apply_all(&ops, &mut image, |stage| SampleRng::new(9, 2, sample, stage));
            image
        };
        let here: Vec<RgbImage> = (0..6).map(run).collect();
        // Another thread has another scratch image and resizer; the order of work is turned round.
        let there: Vec<RgbImage> =
            std::thread::scope(|scope| scope.spawn(|| (0..6).rev().map(run).collect()).join().unwrap());
        assert!(here.iter().eq(there.iter().rev()));
        assert!(here.windows(2).all(|pair| pair[0] != pair[1]), "samples look different");
    }

    #[test]
    fn each_operation_has_its_own_stream() {
        let ops = Augmentation::Upstream.train_ops(8);
        let asked = RefCell::new(vec![]);
        apply_all(&ops, &mut numbered(20, 20), |stage| {
            asked.borrow_mut().push(stage.to_owned());
            SampleRng::new(0, 0, 0, stage)
        });
        let keys = ["augment.0.random_resized_crop", "augment.1.horizontal_flip", "augment.2.autoaugment_imagenet"];
        assert_eq!(asked.into_inner(), keys);
    }

    #[test]
    fn a_flip_mirrors_and_happens_as_often_as_it_should() {
        let original = numbered(7, 3);
        let mut flips = 0;
        for sample in 0..20_000 {
            let mut image = original.clone();
            let op = ImageOp::HorizontalFlip { p: 0.3 };
            op.apply(&mut image, &mut RgbImage::default(), &mut SampleRng::new(1, 0, sample, "flip"));
            if image != original {
                flips += 1;
                for (a, b) in image.pixels.chunks(21).zip(original.pixels.chunks(21)) {
                    assert!(a.chunks(3).eq(b.chunks(3).rev()));
                }
            }
        }
        // 6000 expected, standard deviation 65.
        assert!((5700..6300).contains(&flips), "{flips}");
    }

    #[test]
    fn light_mirrors_nothing_and_brings_no_foreign_colour() {
        assert!(!Augmentation::Light.train_ops(32).iter().any(|op| matches!(op, ImageOp::HorizontalFlip { .. })));
        // A white digit on black stays white on black at the border, however it is turned.
        let mut dark = RgbImage { width_px: 28, height_px: 28, pixels: vec![0; 3 * 28 * 28] };
        dark.pixels[3 * (14 * 28 + 14)..][..3].fill(255);
        for sample in 0..50 {
            let mut image = dark.clone();
            apply_all(&Augmentation::Light.train_ops(28), &mut image, |stage| SampleRng::new(0, 0, sample, stage));
            let corners = [0, 27, 27 * 28, 28 * 28 - 1].map(|at| image.pixels[3 * at]);
            // The contrast jitter may lift black towards the mean, which is all but black.
            assert!(corners.into_iter().all(|x| x <= 1), "{corners:?}");
            assert!(image.pixels.iter().any(|&x| x > 60), "the dot is still there");
        }
    }

    #[test]
    fn a_map_that_does_nothing_changes_nothing() {
        let mut image = numbered(31, 17);
        affine::bilinear_edge(&mut image, affine::rotation(31, 17, 0.0), &mut RgbImage::default());
        assert_eq!(image, numbered(31, 17));
        affine::bilinear_edge(&mut image, affine::rotation(31, 17, 180.0), &mut RgbImage::default());
        assert!(image.pixels.chunks(3).eq(numbered(31, 17).pixels.chunks(3).rev()));
    }

    #[test]
    fn the_smooth_map_is_a_bilinear_look_up() {
        let (w, h) = (37usize, 23usize);
        let source = numbered(37, 23);
        for degrees in [3.0, -10.0, 77.0] {
            let mut map = affine::rotation(37, 23, degrees);
            map[2] += 2.25;
            let mut image = source.clone();
            affine::bilinear_edge(&mut image, map, &mut RgbImage::default());
            for at in 0..w * h * 3 {
                let (x, y, c) = ((at / 3 % w) as f64 + 0.5, (at / 3 / w) as f64 + 0.5, at % 3);
                let xin = map[0] * x + map[1] * y + map[2] - 0.5;
                let yin = map[3] * x + map[4] * y + map[5] - 0.5;
                let value = |x: f64, y: f64| {
                    let (x, y) = (x.clamp(0.0, (w - 1) as f64), y.clamp(0.0, (h - 1) as f64));
                    f64::from(source.pixels[3 * (y as usize * w + x as usize) + c])
                };
                let (l, t) = (xin.floor(), yin.floor());
                let (fx, fy) = (xin - l, yin - t);
                let upper = value(l, t) * (1.0 - fx) + value(l + 1.0, t) * fx;
                let lower = value(l, t + 1.0) * (1.0 - fx) + value(l + 1.0, t + 1.0) * fx;
                let expected = upper * (1.0 - fy) + lower * fy;
                // Weights in 1/256 of neighbours up to 255 apart, and two roundings.
                let got = f64::from(image.pixels[at]);
                assert!((got - expected).abs() < 3.0, "{degrees} degrees, byte {at}: {got}, not {expected}");
            }
        }
    }

    /// The lists are written out: a changed one fails here, and has to become another preset.
    #[test]
    fn the_operations_of_a_preset_never_change() {
        let crop = |scale: &str, ratio: &str| {
            format!(
                r#"{{"op":"random_resized_crop","size_px":[32,32],"scale":{scale},"ratio":{ratio},"filter":"bilinear"}}"#
            )
        };
        let light = r#"{"op":"random_affine","degrees":10.0,"translate":0.0},
            {"op":"color_jitter","brightness":0.1,"contrast":0.1,"saturation":0.0}"#;
        let upstream = r#"{"op":"horizontal_flip","p":0.5},{"op":"autoaugment_imagenet"}"#;
        let eval = r#"[{"op":"resize_center_crop","shorter_px":32,"size_px":[32,32],"filter":"bilinear"}]"#.to_owned();
        for (names, json) in [
            (vec!["light", "light-1"], format!("[{},{light}]", crop("[0.7,1.0]", "[0.9,1.1]"))),
            (
                vec!["upstream", "upstream-1"],
                format!("[{},{upstream}]", crop("[0.08,1.0]", "[0.75,1.3333333333333333]")),
            ),
            (vec!["none"], eval.clone()),
        ] {
            for name in names {
                let preset: Augmentation = toml::Value::from(name).try_into().unwrap();
                assert_eq!(preset.train_ops(32), serde_json::from_str::<Vec<ImageOp>>(&json).unwrap(), "{name}");
            }
        }
        assert_eq!(Augmentation::eval_ops(32), serde_json::from_str::<Vec<ImageOp>>(&eval).unwrap());
    }

    #[test]
    fn operations_are_plain_data() {
        for op in every_op() {
            let json = serde_json::to_string(&op).unwrap();
            assert!(json.contains(&format!("\"op\":\"{}\"", op.name())), "{json}");
            assert_eq!(serde_json::from_str::<ImageOp>(&json).unwrap(), op);
        }
        let problem = toml::from_str::<ImageOp>("op = 'horizontal_flip'\np = 0.5\nq = 1").unwrap_err().to_string();
        assert!(problem.contains("unknown field `q`"), "{problem}");
        assert_eq!(toml::Value::try_from(Augmentation::Upstream).unwrap().as_str(), Some("upstream"));
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let bilinear = Filter::Bilinear;
        let size_px = [8, 8];
        for (op, key) in [
            (ImageOp::Resize { size_px: [0, 8], filter: bilinear }, "size_px"),
            (ImageOp::ResizeCenterCrop { shorter_px: 7, size_px, filter: bilinear }, "shorter_px"),
            (ImageOp::RandomResizedCrop { size_px, scale: [0.5, 0.2], ratio: [1.0, 1.0], filter: bilinear }, "scale"),
            (ImageOp::RandomResizedCrop { size_px, scale: [0.5, 1.0], ratio: [0.0, 1.0], filter: bilinear }, "ratio"),
            (ImageOp::HorizontalFlip { p: f64::NAN }, "p of"),
            (ImageOp::ColorJitter { brightness: 0.0, contrast: 1.5, saturation: 0.0 }, "contrast"),
            (ImageOp::RandomAffine { degrees: -1.0, translate: 0.0 }, "degrees"),
        ] {
            let problem = op.validate().unwrap_err().to_string();
            assert!(problem.contains(&format!("configuration: {key}")), "{problem}");
        }
    }

    #[test]
    fn memory_that_is_not_there_is_an_error_that_says_how_much() {
        let mut image = RgbImage::default();
        let ops =
            [ImageOp::HorizontalFlip { p: 1.0 }, ImageOp::Resize { size_px: [1 << 30; 2], filter: Filter::Bilinear }];
        let fault = make_room(&ops, 0, Some([4, 4]), &mut image).unwrap_err();
        let what = "an augmented picture of 1073741824 x 1073741824 px".into();
        assert_eq!(fault, Fault::NoMemory { what, bytes: 3_458_764_513_820_540_928 });
        make_room(&ops[..1], 0, Some([4, 5]), &mut image).unwrap();
        assert!(image.pixels.capacity() >= 60);
    }
}
