//! A network and its facts as the bytes of one file, in three forms, and the reading of our own. What torch's files look like
//! belongs to `torch`, what ONNX' do to `network::onnx`.
#![expect(clippy::disallowed_methods, reason = "reads exported networks")]
#![expect(clippy::disallowed_types, reason = "the crate safetensors takes its metadata so")]

use super::facts::Facts;
use super::torch;
use crate::classification::network::model::Model;
use crate::classification::network::onnx;
use feedline::train::Tensors;
use feedline::train::checkpoint::read_tensors;
use feedline::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// The key of the metadata of a safetensors file under which the facts stand.
const KEY: &str = "feedline";

/// A form of exported files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// Tensors under torchvision's names; the facts are JSON in the metadata, under `feedline`.
    Safetensors,
    /// `torch.load` gives a dict: the facts, and under `model` the state dict.
    Torch,
    /// A graph from `image` to `logits`; the facts are in the metadata.
    Onnx,
}

impl ExportFormat {
    /// Every form with its name and the extensions of its files, the usual one first.
    pub const ALL: [(ExportFormat, &'static str, &'static [&'static str]); 3] = [
        (ExportFormat::Safetensors, "safetensors", &["safetensors"]),
        (ExportFormat::Torch, "torch", &["pt", "pth"]),
        (ExportFormat::Onnx, "onnx", &["onnx"]),
    ];

    /// The form that a file's extension says.
    pub fn of_file(path: &Path) -> Option<ExportFormat> {
        let extension = path.extension()?.to_str()?;
        let found = Self::ALL.into_iter().find(|(.., ends)| ends.contains(&extension));
        found.map(|(format, ..)| format)
    }

    /// The extensions of its files, the usual one first.
    pub fn extensions(self) -> &'static [&'static str] {
        Self::ALL.into_iter().find(|(format, ..)| *format == self).map_or(&[], |(.., ends)| ends)
    }
}

/// The bytes of a file with a network and its facts: the same for the same weights and facts.
///
/// # Errors
/// Weights that are not those of the network, by the tensor's name.
pub fn export(facts: &Facts, weights: &Tensors, format: ExportFormat) -> Result<Vec<u8>> {
    let mut model = Model::zeros(facts.backbone, facts.classes.len());
    model.store.load(weights, facts.backbone.name())?;
    match format {
        ExportFormat::Safetensors => safetensors(facts, &model),
        ExportFormat::Torch => torch::bytes(facts, &model),
        ExportFormat::Onnx => {
            let value = serde_json::to_value(facts).unwrap_or_default();
            let entries = value.as_object().into_iter().flatten();
            // Texts as they are, all else as JSON.
            let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let metadata = entries.map(|(key, value)| (key.clone(), text(value))).collect();
            Ok(onnx::bytes(&model, facts.input_px, &facts.producer, metadata))
        }
    }
}

fn safetensors(facts: &Facts, model: &Model) -> Result<Vec<u8>> {
    let bytes: Vec<(&str, &[usize], Vec<u8>)> =
        model.store.specs.iter().map(|spec| (spec.name.as_str(), &*spec.shape, model.store.bytes(spec))).collect();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| TensorView::new(Dtype::F32, shape.to_vec(), bytes).map(|view| (*name, view)));
    // One key: several would stand in an order that differs from run to run.
    let metadata = HashMap::from([(KEY.to_owned(), facts.to_json()?)]);
    let written = views.collect::<Result<Vec<_>, _>>().and_then(|views| safetensors::serialize(views, Some(metadata)));
    written.map_err(|e| Error::train(format!("the network cannot be written: {e}"), "Please report this"))
}

/// The facts in a safetensors file; `None` if `feedline export` did not write it.
///
/// # Errors
/// A file that cannot be read, is damaged, or is of another version.
pub fn facts_in(path: &Path) -> Result<Option<Facts>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let (_, header) = SafeTensors::read_metadata(&bytes)
        .map_err(|e| refused(path, format!("it is not a complete safetensors file ({e})")))?;
    let json = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
    json.map(|json| Facts::from_json(json, path)).transpose()
}

/// Reads a network that was exported as safetensors.
///
/// # Errors
/// A file that cannot be read, is damaged, or was not written by `feedline export`.
pub fn read(path: &Path) -> Result<(Facts, Tensors)> {
    let facts = facts_in(path)?.ok_or_else(|| {
        refused(path, "it says nothing of its classes and its input, since feedline did not export it".into())
    })?;
    Ok((facts, read_tensors(path)?))
}

fn refused(path: &Path, problem: String) -> Error {
    Error::Checkpoint {
        path: path.to_path_buf(),
        problem,
        remedy: "Give a file that `feedline export --format safetensors` wrote, or a run folder".into(),
    }
}
