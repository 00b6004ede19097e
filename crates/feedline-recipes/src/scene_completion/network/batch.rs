//! The network's inputs from a batch: the fields by name, checked. Owns only the checks of shapes and values.

use super::forward::Inputs;
use super::model::{SKETCH_CLASSES, Sizes};
use crate::scene_completion::data::IGNORE;
use crate::scene_completion::metrics::Voxels;
use feedline::{Batch, BatchField, Element, Error, Result};

/// The targets of the samples, `samples` of each, row-major voxels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Targets<'b> {
    samples: usize,
    no_pixel: i64,
    label: &'b [i64],
    label_weight: &'b [f32],
    mapping: &'b [i64],
    sketch: &'b [i64],
}

/// The target of one sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'b> {
    pub(super) voxels: Voxels<'b>,
    /// 0, 1 or [`IGNORE`] for each voxel.
    pub(super) sketch: &'b [i64],
}

impl<'b> Targets<'b> {
    /// The samples one by one.
    pub(super) fn each(self) -> impl Iterator<Item = Target<'b>> {
        let size = self.label.len() / self.samples.max(1);
        (0..self.samples).map(move |at| {
            let own = at * size..(at + 1) * size;
            let voxels = Voxels {
                label: &self.label[own.clone()],
                label_weight: &self.label_weight[own.clone()],
                mapping: &self.mapping[own.clone()],
                no_pixel: self.no_pixel,
            };
            Target { voxels, sketch: &self.sketch[own] }
        })
    }
}

/// Takes the network's input from the leading `samples` of `batch`.
pub(super) fn inputs<'b>(batch: &'b Batch, samples: usize, sizes: &Sizes) -> Result<Inputs<'b>> {
    let [height, width] = sizes.image_px;
    let [x, y, z] = sizes.grid;
    let picture = |name| field::<f32>(batch, name, &[3, height, width], samples);
    let mapping = field::<i64>(batch, "depth_mapping_3d", &[sizes.voxels()], samples)?;
    let most = sizes.pixels() as i64;
    check(
        batch,
        mapping,
        sizes.voxels(),
        |pixel| (0..=most).contains(&pixel),
        |pixel| {
            (
                format!("field \"depth_mapping_3d\" names pixel {pixel} of a picture of {height} x {width}"),
                format!("Pixels are 0..{most}, and {most} says that no pixel shows the voxel; check the Mapping file"),
            )
        },
    )?;
    Ok(Inputs {
        samples,
        colours: picture("data")?,
        hha: sizes.use_hha.then(|| picture("hha_img")).transpose()?,
        tsdf: field(batch, "tsdf", &[1, x, y, z], samples)?,
        mapping,
    })
}

/// Takes the targets of the leading `samples` of `batch`.
pub(super) fn targets<'b>(batch: &'b Batch, samples: usize, sizes: &Sizes) -> Result<Targets<'b>> {
    let (voxels, classes) = (sizes.voxels(), sizes.num_classes as i64);
    let label = field_of_any_shape::<i64>(batch, "label", voxels, samples)?;
    check(
        batch,
        label,
        voxels,
        |label| (0..classes).contains(&label) || label == IGNORE,
        |label| {
            (
                format!("field \"label\" has class {label}, but there are {classes} classes"),
                format!("Labels are 0..{classes}, and {IGNORE} for unknown; check the Label file and num_classes"),
            )
        },
    )?;
    let sketch = field_of_any_shape::<i64>(batch, "sketch_gt", voxels, samples)?;
    let edge = 0..SKETCH_CLASSES as i64;
    check(
        batch,
        sketch,
        voxels,
        |value| edge.contains(&value) || value == IGNORE,
        |value| {
            (
                format!("field \"sketch_gt\" has the value {value}"),
                format!("A sketch holds 0 and 1, and {IGNORE} for unknown; check the sketch3D file"),
            )
        },
    )?;
    let label_weight = field::<f32>(batch, "label_weight", &[voxels], samples)?;
    check(batch, label_weight, voxels, f32::is_finite, |weight| {
        (format!("field \"label_weight\" has the value {weight}"), "Check the second array of the TSDF file".into())
    })?;
    let mapping = field::<i64>(batch, "depth_mapping_3d", &[voxels], samples)?;
    Ok(Targets { samples, no_pixel: sizes.pixels() as i64, label, label_weight, mapping, sketch })
}

/// The leading `samples` of a field whose samples have `shape`.
fn field<'b, T: Element>(batch: &'b Batch, name: &str, shape: &[usize], samples: usize) -> Result<&'b [T]> {
    let array = batch.stacked(name)?;
    if array.dtype() != T::DTYPE || array.shape().split_first() != Some((&batch.len(), shape)) {
        let (dtype, found) = (array.dtype(), array.shape());
        return Err(misfit(
            format!("{dtype:?} {found:?}, not {:?} {:?}", T::DTYPE, [&[batch.len()], shape].concat()),
            name,
        ));
    }
    Ok(&array.as_slice()[..samples * shape.iter().product::<usize>()])
}

/// The leading `samples` of a field whose samples have `voxels` elements, in whatever shape they are stored.
fn field_of_any_shape<'b, T: Element>(batch: &'b Batch, name: &str, voxels: usize, samples: usize) -> Result<&'b [T]> {
    let array = batch.stacked(name)?;
    let fits = array.shape().first() == Some(&batch.len()) && array.shape()[1..].iter().product::<usize>() == voxels;
    if array.dtype() != T::DTYPE || !fits {
        let (dtype, found, samples) = (array.dtype(), array.shape(), batch.len());
        let wanted = format!("{dtype:?} {found:?}, not {:?} of {samples} samples of {voxels} voxels", T::DTYPE);
        return Err(misfit(wanted, name));
    }
    Ok(&array.as_slice()[..samples * voxels])
}

fn misfit(problem: String, name: &str) -> Error {
    Error::train(
        format!("field {name:?} is {problem}"),
        "Use the scene completion pipeline with the image_px and grid of the network",
    )
}

/// Checks that all `values` are `good`, `per_sample` of them in a sample; `describe` gives problem and remedy of a bad one.
fn check<T: Copy>(
    batch: &Batch,
    values: &[T],
    per_sample: usize,
    good: impl Fn(T) -> bool,
    describe: impl Fn(T) -> (String, String),
) -> Result<()> {
    match values.iter().position(|&value| !good(value)) {
        None => Ok(()),
        Some(at) => {
            let (problem, remedy) = describe(values[at]);
            let (sample, voxel) = (at / per_sample, at % per_sample);
            Err(Error::train(format!("sample {}: {problem} (voxel {voxel})", name(batch, sample)), remedy))
        }
    }
}

/// Names a sample for a person: its index, and its id if the batch has one.
fn name(batch: &Batch, sample: usize) -> String {
    match batch.field("fn") {
        Some(BatchField::List(ids)) if sample < ids.len() => {
            format!("{} ({})", batch.indices[sample], String::from_utf8_lossy(&ids[sample]))
        }
        _ => batch.indices[sample].to_string(),
    }
}
