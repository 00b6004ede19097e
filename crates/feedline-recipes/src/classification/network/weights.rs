//! Import of trained weights (`--pretrained`): `.safetensors`, and torch's `.pth` / `.pt` state dicts, matched by name
//! and shape. Owns the reading of foreign files; never executes a pickle, and knows nothing of checkpoints of ours.
#![expect(clippy::disallowed_methods, reason = "reads files of weights")]

use super::task::ClassificationTask;
use crate::classification::data::CLASSES;
use crate::classification::export;
use crate::network::parameters::Spec;
use burn::store::pytorch_reader::{DType as TorchDType, PytorchReader};
use burn::tensor::{bf16, f16};
use feedline::read::{Storage, read_classes};
use feedline::train::checkpoint::MODEL;
use feedline::{Error, Result};
use safetensors::{Dtype as SafeDType, SafeTensors};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Keys under which training scripts wrap a state dict; if one is there, the rest of the file is not the model.
const WRAPPERS: [&str; 3] = ["state_dict.", "model_state_dict.", "model."];
/// The prefix that torch's parallel wrappers put before every name.
const PARALLEL: &str = "module.";

/// Why a tensor was not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The model has it, the file has not.
    Missing,
    /// Both have it, with different shapes.
    Shape {
        /// Shape in the file.
        file: Vec<usize>,
        /// Shape in the model.
        model: Vec<usize>,
    },
    /// The file has it, the model has not.
    Unknown,
    /// The file holds something else than floating-point numbers.
    Type(String),
    /// It says which output is which class, and the run that it comes from had other classes.
    OtherClasses,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Missing => f.write_str("not in the file"),
            Mismatch::Shape { file, model } => write!(f, "{file:?} in the file, {model:?} in the model"),
            Mismatch::Unknown => f.write_str("not in the model"),
            Mismatch::OtherClasses => f.write_str("of other classes, so it begins anew"),
            Mismatch::Type(found) => write!(f, "{found} in the file, not floating point"),
        }
    }
}

/// The result of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WeightReport {
    /// Names of the tensors that were loaded, in the order of the model.
    pub loaded: Vec<String>,
    /// Names of those that were not, and why: first those of the model, then those only in the file.
    pub unmatched: Vec<(String, Mismatch)>,
}

impl fmt::Display for WeightReport {
    /// One line, then one more for each tensor that did not match.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loaded {} tensors, {} did not match", self.loaded.len(), self.unmatched.len())?;
        self.unmatched.iter().try_for_each(|(name, why)| write!(f, "\n  {name}: {why}"))
    }
}

/// What a network asks of foreign weights.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The classes of the network's outputs, in order.
    pub classes: &'a [String],
    /// Weights that fit only a part of the network, or of which only a part fits, are taken too.
    pub partial: bool,
}

/// Share of a file's tensors that may be unknown to a network which it is for.
const UNKNOWN_MAX: f64 = 0.1;

/// Values of one tensor of a file, or the name of a type that is not floating point.
type Values = std::result::Result<Vec<f32>, String>;

/// Loads every tensor of `path` that fits the model of `task` by name and shape; the others keep their values and are
/// reported, so that weights for another number of classes give all but the head. So do those of a checkpoint of a run
/// whose classes were others, even of the same number: it is known by the `classes.txt` of its run folder, or by an exported file. The optimiser is
/// not touched.
///
/// # Errors
/// A file that cannot be read or understood, or of which nothing fits; unless `wanted.partial`, one that has less than half
/// of the backbone's values, or a tenth of whose tensors the network does not know. Nothing is changed then.
pub fn load_into(task: &mut ClassificationTask, path: &Path, wanted: Wanted<'_>) -> Result<WeightReport> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    let tensors = match extension.as_str() {
        "safetensors" => read_safetensors(path)?,
        "pth" | "pt" => read_torch(path)?,
        _ => {
            return Err(unusable(path, "weights are read from .safetensors, .pth and .pt files only".into()));
        }
    };
    let mut tensors = canonical(tensors);
    let found = tensors.len();

    let model = task.model_mut();
    let has_other_classes = classes_of_run(path)?.is_some_and(|classes| classes != wanted.classes);
    let mut report = WeightReport::default();
    let mut matched = Vec::new();
    for spec in &model.store.specs {
        match tensors.remove(&spec.name) {
            Some((file, _)) if file == spec.shape && has_other_classes && !spec.in_backbone => {
                report.unmatched.push((spec.name.clone(), Mismatch::OtherClasses));
            }
            None => report.unmatched.push((spec.name.clone(), Mismatch::Missing)),
            Some((file, _)) if file != spec.shape => {
                report.unmatched.push((spec.name.clone(), Mismatch::Shape { file, model: spec.shape.clone() }));
            }
            Some((_, Err(found))) => report.unmatched.push((spec.name.clone(), Mismatch::Type(found))),
            Some((_, Ok(values))) => {
                report.loaded.push(spec.name.clone());
                matched.push((spec.clone(), values));
            }
        }
    }
    let unknown = tensors.len();
    report.unmatched.extend(tensors.into_keys().map(|name| (name, Mismatch::Unknown)));
    if matched.is_empty() {
        let problem = format!("none of its {found} tensors fits the backbone {}", model.backbone.name());
        return Err(unusable(path, problem));
    }
    let values = |specs: &mut dyn Iterator<Item = &Spec>| -> usize {
        specs.filter(|spec| spec.in_backbone).map(|spec| spec.range.len()).sum()
    };
    let (all, loaded) = (values(&mut model.store.specs.iter()), values(&mut matched.iter().map(|(spec, _)| spec)));
    let backbone = model.backbone.name();
    let problem = if unknown as f64 > UNKNOWN_MAX * found as f64 {
        format!("{unknown} of its {found} tensors are not in the backbone {backbone}, so it is of another network")
    } else {
        format!("it has {loaded} of the {all} values of the backbone {backbone}, fewer than half")
    };
    if !wanted.partial && (unknown as f64 > UNKNOWN_MAX * found as f64 || loaded < all.div_ceil(2)) {
        return Err(Error::Checkpoint {
            path: path.to_path_buf(),
            problem,
            remedy: "Name the backbone that it was made with by --backbone, or take what fits by --partial".into(),
        });
    }
    for (spec, values) in matched {
        model.store.values_mut(&spec).copy_from_slice(&values);
    }
    Ok(report)
}

/// The classes of the run whose checkpoint the file is, RUN/checkpoints/NAME/model.safetensors, or of the run that it was exported
/// from.
fn classes_of_run(path: &Path) -> Result<Option<Vec<String>>> {
    if path.extension().is_some_and(|end| end == "safetensors")
        && let Some(facts) = export::facts_in(path)?
    {
        return Ok(Some(facts.classes));
    }
    let list = path.ancestors().nth(3).map(|run| run.join(CLASSES));
    match list.filter(|list| path.ends_with(MODEL) && list.is_file()) {
        Some(list) => read_classes(&list, &Storage::default()).map(Some),
        None => Ok(None),
    }
}

/// Names without wrappers and without torch's batch counters.
fn canonical(tensors: BTreeMap<String, (Vec<usize>, Values)>) -> BTreeMap<String, (Vec<usize>, Values)> {
    let wrapper = WRAPPERS.into_iter().find(|wrapper| tensors.keys().any(|name| name.starts_with(wrapper)));
    tensors
        .into_iter()
        .filter_map(|(name, tensor)| {
            let name = name.strip_prefix(wrapper.unwrap_or_default())?;
            let name = name.strip_prefix(PARALLEL).unwrap_or(name);
            (!name.ends_with("num_batches_tracked")).then(|| (name.to_string(), tensor))
        })
        .collect()
}

fn read_safetensors(path: &Path) -> Result<BTreeMap<String, (Vec<usize>, Values)>> {
    let bytes = std::fs::read(path).map_err(|source| Error::io("read", path, source))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|problem| unusable(path, format!("it is not a complete safetensors file ({problem})")))?;
    let read = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
        let values = match view.dtype() {
            SafeDType::F32 => Ok(decode(view.data(), f32::from_le_bytes)),
            SafeDType::F64 => Ok(decode(view.data(), |b| f64::from_le_bytes(b) as f32)),
            SafeDType::F16 => Ok(decode(view.data(), |b| f16::from_le_bytes(b).to_f32())),
            SafeDType::BF16 => Ok(decode(view.data(), |b| bf16::from_le_bytes(b).to_f32())),
            other => Err(format!("{other:?}")),
        };
        (name.to_string(), (view.shape().to_vec(), values))
    };
    Ok(file.iter().map(read).collect())
}

fn read_torch(path: &Path) -> Result<BTreeMap<String, (Vec<usize>, Values)>> {
    std::fs::File::open(path).map_err(|source| Error::io("read", path, source))?;
    let file = PytorchReader::new(path)
        .map_err(|problem| unusable(path, format!("it is not a state dict saved by torch ({problem})")))?;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in file.into_tensors() {
        let bytes =
            || tensor.read().map_err(|problem| unusable(path, format!("tensor {name} cannot be read ({problem})")));
        let values = match tensor.dtype() {
            TorchDType::F32 => Ok(decode(&bytes()?, f32::from_le_bytes)),
            TorchDType::F64 => Ok(decode(&bytes()?, |b| f64::from_le_bytes(b) as f32)),
            TorchDType::F16 => Ok(decode(&bytes()?, |b| f16::from_le_bytes(b).to_f32())),
            TorchDType::BF16 => Ok(decode(&bytes()?, |b| bf16::from_le_bytes(b).to_f32())),
            other => Err(format!("{other:?}")),
        };
        tensors.insert(name, (tensor.shape().to_vec(), values));
    }
    Ok(tensors)
}

/// Little-endian elements of N bytes as f32.
fn decode<const N: usize>(bytes: &[u8], element: fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| element(*chunk)).collect()
}

fn unusable(path: &Path, problem: String) -> Error {
    Error::Checkpoint {
        path: path.to_path_buf(),
        problem,
        remedy: "Give --pretrained a state dict in torchvision's names, saved by torch.save or safetensors, for the \
                 backbone in use"
            .into(),
    }
}
