//! The data of the recipe: pictures, voxels and what joins them, as batches of TorchSSC's keys. Composes the stages read,
//! decode and augment; owns the fields of a sample and what its files must hold.
//!
//! Axis letters: H and W are the pictures' height and width, X, Y, Z the sides of the voxel grid, N = X * Y * Z.

pub mod augment;
pub mod list;
pub mod splits;

use augment::{Cut, SceneAugment};
use feedline::augment::normalize::{IMAGENET_MEAN, IMAGENET_STD, Normalize};
use feedline::decode::{
    Fault, Limits, NpyHeader, RgbImage, array_fits, decode_labels_u8, decode_npy, decode_npz, decode_rgb, npz_shape,
};
use feedline::deliver::SampleContext;
use feedline::pipeline::{Pipeline, Raw};
use feedline::plan::rng::{hash_name, hash_words};
use feedline::plan::{Plan, Request};
use feedline::read::{ReadError, SampleReader, Storage, read_sample};
use feedline::{Array, DType, Error, FieldSpec, Result, Slot, Stage};
use list::{Layout, Part, SceneFiles, SceneList};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::path::Path;

/// A label that says nothing; it is left out of losses and metrics.
pub const IGNORE: i64 = 255;

/// First samples that are looked at for the shape of the labels.
const FIRST: usize = 8;

/// In which order the channels of the HHA pictures are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// From the last to the first, as TorchSSC has it, which turns round the RGB picture alone.
    #[default]
    Bgr,
    /// As in the file.
    Rgb,
}

/// The options by which the files of a data set become fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SceneOptions {
    /// H and W. Without an augmentation every picture must have this size; with one it is that of the crop.
    pub image_px: [u32; 2],
    /// X, Y, Z.
    pub grid: [usize; 3],
    /// Labels are below this, or [`IGNORE`].
    pub num_classes: u32,
    /// Means of the delivered channels, in 0..1; of both pictures.
    pub mean: [f64; 3],
    /// Standard deviations of the same.
    pub std: [f64; 3],
    /// Order of the HHA channels.
    pub hha_order: ChannelOrder,
    /// Random changes, for segmentation lists only: a mapping names pixels of the picture as it is.
    pub augment: Option<SceneAugment>,
    /// Larger pictures are refused before they are decoded.
    pub max_pixels: u64,
}

impl Default for SceneOptions {
    /// TorchSSC's.
    fn default() -> SceneOptions {
        SceneOptions {
            image_px: [480, 640],
            grid: [60, 36, 60],
            num_classes: 12,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            hha_order: ChannelOrder::default(),
            augment: None,
            max_pixels: Limits::default().max_pixels,
        }
    }
}

/// A data set for scene completion or RGB-D segmentation as a pipeline. Fields of TorchSSC's layout:
///
/// | field | | |
/// |---|---|---|
/// | `data` | f32 (3, H, W) | the RGB picture, `x / 255` in float32, `- mean`, `/ std` in float64, as NumPy computes it |
/// | `label` | i64, shape as in the first sample | the class of each voxel, below `num_classes` or 255 |
/// | `label_weight` | f32 (N,) | not 0 where the voxel counts |
/// | `depth_mapping_3d` | i64 (N,) | the pixel h * W + w that shows a voxel, H * W for none |
/// | `tsdf` | f32 (1, X, Y, Z) | truncated signed distances |
/// | `sketch_gt` | i64, shape as in the first sample | 1 where there is an edge of structure |
/// | `fn` | bytes | the id |
/// | `n` | i64 () | number of listed samples |
/// | `hha_img` | f32 (3, H, W) | the HHA picture, normalised with the same numbers |
///
/// Segmentation lists have `data`, `label` i64 (H, W) (the label picture's values less 1, so that 0 is 255), `fn`, `n` and
/// `hha_img`. A sample without random changes is a function of its files alone, else of (seed, pass, sample).
#[derive(Debug)]
pub struct Scenes {
    list: SceneList,
    options: SceneOptions,
    normalize: Normalize,
    /// For the channels of HHA in the order of the file.
    normalize_hha: Normalize,
    fields: Vec<FieldSpec>,
    fingerprint: u64,
}

/// Opens the data set that `files` name. Looks for every file; reads the list, and of the first sample what shape its labels
/// have.
///
/// # Errors
/// A list with something wrong, a file that is not there, by id and line; options out of range; labels of the first samples
/// that cannot be read.
pub fn open(files: &SceneFiles, options: &SceneOptions, storage: &Storage) -> Result<Scenes> {
    let wrong = |problem: &str, remedy: &str| Err(Error::config(problem, remedy));
    let [height, width] = options.image_px.map(|px| px as usize);
    if options.image_px.iter().any(|px| !(1..=1 << 14).contains(px)) {
        return wrong("the pictures' height and width are out of range", "Use 1 to 16,384 px");
    }
    if options.grid.iter().any(|side| !(1..=1 << 10).contains(side)) {
        return wrong("the sides of the voxel grid are out of range", "Use 1 to 1,024 voxels");
    }
    if !(2..=255).contains(&options.num_classes) {
        return wrong("the number of classes is out of range", "Use 2 to 255: 255 is the label that is ignored");
    }
    if options.std.iter().any(|std| !(*std > 0.0 && std.is_finite())) || options.mean.iter().any(|m| !m.is_finite()) {
        return wrong("mean or std are out of range", "Give three numbers each, std above 0");
    }
    let list = SceneList::open(files, storage)?;
    if let Some(augment) = &options.augment {
        augment.check()?;
        if list.layout == Layout::Voxels {
            return wrong(
                "random changes are asked for, but the mapping of each voxel names a pixel of the picture as it is",
                "Leave them out; they are for lists of RGB and label pictures",
            );
        }
    }
    let (label_shape, sketch_shape) = match list.layout {
        Layout::Segmentation => (vec![height, width], Vec::new()),
        Layout::Voxels => stored_shapes(&list, options.grid)?,
    };
    let voxels = options.grid.iter().product::<usize>();
    let pictures = |name: &str| FieldSpec::stack(name, DType::F32, [3, height, width]);
    let mut fields = vec![pictures("data"), FieldSpec::stack("label", DType::I64, label_shape)];
    if list.layout == Layout::Voxels {
        let [x, y, z] = options.grid;
        fields.extend([
            FieldSpec::stack("label_weight", DType::F32, [voxels]),
            FieldSpec::stack("depth_mapping_3d", DType::I64, [voxels]),
            FieldSpec::stack("tsdf", DType::F32, [1, x, y, z]),
            FieldSpec::stack("sketch_gt", DType::I64, sketch_shape),
        ]);
    }
    fields.extend([FieldSpec::bytes("fn"), FieldSpec::stack("n", DType::I64, [])]);
    if list.parts.contains(&Part::Hha) {
        fields.push(pictures("hha_img"));
    }
    let turned = |numbers: [f64; 3]| match options.hha_order {
        ChannelOrder::Rgb => numbers,
        ChannelOrder::Bgr => [numbers[2], numbers[1], numbers[0]],
    };
    let mut words = vec![list.layout as u64, u64::from(list.parts.contains(&Part::Hha))];
    words.extend(list.ids.iter().map(|id| hash_name(id)));
    Ok(Scenes {
        fingerprint: hash_words(&words),
        normalize: Normalize::in_float64(options.mean, options.std),
        normalize_hha: Normalize::in_float64(turned(options.mean), turned(options.std)),
        options: options.clone(),
        list,
        fields,
    })
}

/// The shapes of labels and sketches, of the first sample of which they can be read.
fn stored_shapes(list: &SceneList, grid: [usize; 3]) -> Result<(Vec<usize>, Vec<usize>)> {
    let shapes = |sample: usize| -> Result<(Vec<usize>, Vec<usize>)> {
        let [label, sketch] = [Part::Label, Part::Sketch].map(|part| list.file(sample as u64, part));
        let wrong = |at: usize, problem: String| {
            Error::dataset(&list.files.entries[at].path, problem, "Write the file again with numpy.savez_compressed")
        };
        let label_shape =
            npz_shape(&list.files.read_whole(label)?, "arr_0").map_err(|problem| wrong(label, problem))?;
        let bytes = list.files.read_whole(sketch)?;
        // As any array of numbers, whose shape alone matters.
        let sketch_shape = NpyHeader::shape(&bytes).map_err(|problem| wrong(sketch, problem))?;
        for (at, shape) in [(label, &label_shape), (sketch, &sketch_shape)] {
            if !array_fits(shape, &grid) {
                return Err(wrong(at, format!("it holds an array of shape {shape:?}, the voxel grid is {grid:?}")));
            }
        }
        Ok((label_shape, sketch_shape))
    };
    let first = shapes(0);
    // A bad first sample may be one that is to be replaced.
    let others = (1..list.ids.len().min(FIRST)).filter(|_| first.is_err());
    others.map(shapes).find(Result::is_ok).unwrap_or(first)
}

impl Scenes {
    /// The parts of its samples.
    pub fn layout(&self) -> Layout {
        self.list.layout
    }

    /// The options by which its files become fields.
    pub fn options(&self) -> &SceneOptions {
        &self.options
    }

    /// The ids of the samples, in order.
    pub fn ids(&self) -> &[String] {
        &self.list.ids
    }

    /// A line for each sample, in order: its id.
    pub fn sample_list(&self) -> String {
        self.list.ids.iter().map(|id| format!("{id}\n")).collect()
    }

    fn stored(&self) -> Option<&SampleReader> {
        self.list.files.stored.as_ref()
    }

    fn path(&self, sample: u64, part: Part) -> &Path {
        &self.list.files.entries[self.list.file(sample, part)].path
    }

    /// Decodes a picture; it must have the size that was said, unless a crop is made of it.
    fn decode(&self, bytes: &[u8], image: &mut RgbImage) -> Result<(), Fault> {
        decode_rgb(bytes, &Limits { max_pixels: self.options.max_pixels }, image)?;
        match self.options.augment {
            None => Ok(self.check_size([image.height_px, image.width_px])?),
            Some(_) => Ok(()),
        }
    }

    fn check_size(&self, [height, width]: [u32; 2]) -> Result<(), String> {
        let [expect_height, expect_width] = self.options.image_px;
        if [height, width] == self.options.image_px {
            return Ok(());
        }
        Err(format!("it has {height} x {width} px (height x width), not {expect_height} x {expect_width}"))
    }

    fn labels(&self, values: &[i64], what: &str, known: i64) -> Result<(), String> {
        match values.iter().position(|value| !(0..known).contains(value) && *value != IGNORE) {
            None => Ok(()),
            Some(at) => Err(format!("{what}: voxel {at} is {}, not below {known} or {IGNORE}", values[at])),
        }
    }

    fn voxels(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, clock: &mut SampleContext) -> Result<()> {
        let grid = self.options.grid;
        let no_pixel = i64::from(self.options.image_px[0]) * i64::from(self.options.image_px[1]);
        let bytes = |part: Part| &raw[self.list.raw(part)][..];
        let bad = |part: Part| move |fault: Fault| self.bad(Stage::Decode, request, part, fault);

        let label = slot.dense::<i64>("label");
        decode_npz(bytes(Part::Label), "arr_0", &grid, label)
            .and_then(|()| Ok(self.labels(label, "arr_0", self.options.num_classes.into())?))
            .map_err(bad(Part::Label))?;
        clock.count_bytes(size_of_val(label));
        let sketch = slot.dense::<i64>("sketch_gt");
        decode_npy(bytes(Part::Sketch), &grid, sketch)
            .and_then(|()| Ok(self.labels(sketch, "the array", 2)?))
            .map_err(bad(Part::Sketch))?;
        clock.count_bytes(size_of_val(sketch));
        for (name, member) in [("tsdf", "arr_0"), ("label_weight", "arr_1")] {
            let values = slot.dense::<f32>(name);
            let finite = |values: &[f32]| match values.iter().position(|value| !value.is_finite()) {
                None => Ok(()),
                Some(at) => Err(format!("{member}: voxel {at} is {}", values[at]).into()),
            };
            decode_npz(bytes(Part::Tsdf), member, &grid, values)
                .and_then(|()| finite(values))
                .map_err(bad(Part::Tsdf))?;
            clock.count_bytes(size_of_val(values));
        }
        let mapping = slot.dense::<i64>("depth_mapping_3d");
        let in_range = |mapping: &[i64]| match mapping.iter().position(|pixel| !(0..=no_pixel).contains(pixel)) {
            None => Ok(()),
            Some(at) => {
                Err(format!("arr_0: voxel {at} is {}, not a pixel from 0 to {no_pixel} (none)", mapping[at]).into())
            }
        };
        decode_npz(bytes(Part::Mapping), "arr_0", &grid, mapping)
            .and_then(|()| in_range(mapping))
            .map_err(bad(Part::Mapping))?;
        clock.count_bytes(size_of_val(mapping));
        Ok(())
    }

    fn bad(&self, stage: Stage, request: &Request, part: Part, fault: Fault) -> Error {
        let location = match self.stored().and_then(|stored| stored.archive(self.list.file(request.index, part) as u64))
        {
            Some(archive) => format!("{} in {archive}", self.path(request.index, part).display()),
            None => self.path(request.index, part).display().to_string(),
        };
        fault.at(stage, request.index, location)
    }
}

/// Working memory that a thread keeps from sample to sample.
#[derive(Default)]
struct SceneScratch {
    image: RgbImage,
    labels: Vec<u8>,
}

/// Working memory that a thread keeps from sample to sample; a rare giant's is given back.
const MAX_KEPT_BYTES: usize = 16 << 20;

impl Pipeline for Scenes {
    fn len(&self) -> u64 {
        self.list.ids.len() as u64
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }

    /// Of its RGB picture.
    fn location(&self, index: u64) -> String {
        self.path(index, Part::Rgb).display().to_string()
    }

    fn warnings(&self) -> Vec<String> {
        self.list.files.warnings.clone()
    }

    fn read_ahead(&self) -> usize {
        self.stored().map_or(0, SampleReader::requests_in_flight)
    }

    fn raw_bytes(&self, index: u64) -> u64 {
        let first = index as usize * self.list.parts.len();
        self.list.files.entries[first..first + self.list.parts.len()].iter().map(|file| file.size_bytes).sum()
    }

    fn follow(&self, plan: &Plan) -> Result<()> {
        let parts = self.list.parts.len() as u64;
        self.stored().map_or(Ok(()), |stored| stored.follow_parts(plan, parts))
    }

    fn read(&self, request: &Request, raw: &mut Raw, clock: &mut SampleContext) -> Result<()> {
        let count = self.list.parts.len();
        raw.resize_with(count, Vec::new);
        let first = request.index * count as u64;
        match self.stored() {
            Some(stored) => {
                stored.reached(request.epoch, request.position);
                let files: Vec<u64> = (first..first + count as u64).collect();
                let results = stored.read_many(&files, clock.stop_signal(), raw);
                results.into_iter().try_for_each(|result| result.map_err(ReadError::into_error))?;
            }
            None => {
                for (file, bytes) in (first..).zip(&mut *raw) {
                    let path = &self.list.files.entries[file as usize].path;
                    read_sample(None, file, path, clock.stop_signal(), bytes)?;
                }
            }
        }
        clock.count_bytes(raw.iter().map(Vec::len).sum());
        Ok(())
    }

    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, clock: &mut SampleContext) -> Result<()> {
        thread_local! {
            static SCRATCH: RefCell<SceneScratch> = RefCell::default();
        }
        slot.put("fn", {
            let id = self.list.ids[request.index as usize].as_bytes();
            Array::from_slice([id.len()], id)
        });
        slot.dense::<i64>("n")[0] = self.list.ids.len() as i64;
        clock.enter(Stage::Decode);
        let [height, width] = self.options.image_px.map(u64::from);
        clock.reserve(self.raw_bytes(request.index) + 6 * height * width);
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.image.pixels.capacity().max(scratch.labels.capacity()) > MAX_KEPT_BYTES {
                *scratch = SceneScratch::default();
            }
            let SceneScratch { image, labels } = scratch;
            if self.list.layout == Layout::Voxels {
                self.voxels(request, raw, slot, clock)?;
            }
            let mut cut: Option<Cut> = None;
            for (part, field) in [(Part::Rgb, "data"), (Part::Hha, "hha_img")] {
                let Some(bytes) = raw.get(self.list.raw(part)) else { continue };
                clock.enter(Stage::Decode);
                let bad = |fault: Fault| self.bad(Stage::Decode, request, part, fault);
                self.decode(bytes, image).map_err(bad)?;
                clock.count_bytes(image.pixels.len());
                clock.enter(Stage::Augment);
                let size_px = [image.height_px, image.width_px];
                let normalize = if part == Part::Rgb { &self.normalize } else { &self.normalize_hha };
                let out = slot.dense::<f32>(field);
                clock.count_bytes(size_of_val(out));
                let (first, rest) = out.split_at_mut(out.len() / 3);
                let (second, third) = rest.split_at_mut(rest.len() / 2);
                let mut planes = [first, second, third];
                if part == Part::Hha && self.options.hha_order == ChannelOrder::Bgr {
                    planes.reverse();
                }
                let Some(augment) = &self.options.augment else {
                    normalize.write_planes(image, false, planes);
                    continue;
                };
                let cut = cut.get_or_insert_with(|| Cut::draw(augment, request, size_px, self.options.image_px));
                cut.check(size_px).map_err(|problem| bad(problem.into()))?;
                cut.picture(image, normalize.table().each_ref(), planes);
            }
            if self.list.layout == Layout::Segmentation {
                clock.enter(Stage::Decode);
                let bad = |fault: Fault| self.bad(Stage::Decode, request, Part::Label, fault);
                let limits = Limits { max_pixels: self.options.max_pixels };
                let bytes = &raw[self.list.raw(Part::Label)];
                let (width_px, height_px) = decode_labels_u8(bytes, &limits, labels).map_err(bad)?;
                let known = self.options.num_classes;
                if let Some(at) = labels.iter().position(|label| u32::from(*label) > known && *label != 255) {
                    let (row, column) = (at / width_px as usize, at % width_px as usize);
                    let label = labels[at];
                    let problem = format!("row {row}, column {column}: label {label} is above {known} and not 255");
                    return Err(bad(problem.into()));
                }
                let cut = match cut {
                    Some(cut) => cut.check([height_px, width_px]).map(|()| cut),
                    None => self.check_size([height_px, width_px]).map(|()| Cut::whole([height_px, width_px])),
                }
                .map_err(|problem| bad(problem.into()))?;
                // Label 0 belongs to no class.
                let table =
                    std::array::from_fn(|label| if label == 0 || label == 255 { IGNORE } else { label as i64 - 1 });
                cut.labels(labels, &table, slot.dense::<i64>("label"));
            }
            Ok(())
        })
    }
}
