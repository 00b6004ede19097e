//! The file that `torch.save` would write of a dict with a state dict and plain values: a zip archive with a pickle and the
//! numbers of each tensor. Owns the few instructions of the pickle that it takes; reads nothing.

use super::facts::Facts;
use crate::classification::network::model::Model;
use feedline::{Error, Result};
use serde_json::Value;
use std::io::Write;

/// Folder of every entry of the archive.
const ROOT: &str = "model";

/// The bytes of the file: `{"model": state dict, ...}` with the facts beside it.
pub(super) fn bytes(facts: &Facts, model: &Model) -> Result<Vec<u8>> {
    let mut pickle = Pickle(b"\x80\x02".to_vec());
    pickle.op(b"}(");
    pickle.text("model");
    pickle.op(b"}(");
    for (at, spec) in model.store.specs.iter().enumerate() {
        pickle.text(&spec.name);
        pickle.tensor(at, &spec.shape);
    }
    pickle.op(b"u");
    if let Value::Object(entries) = serde_json::to_value(facts).unwrap_or_default() {
        for (name, value) in &entries {
            pickle.text(name);
            pickle.value(value);
        }
    }
    pickle.op(b"u.");

    let data = model.store.specs.iter().map(|spec| model.store.bytes(spec));
    let named = data.enumerate().map(|(at, bytes)| (format!("data/{at}"), bytes));
    let first = [("data.pkl".into(), pickle.0), ("byteorder".into(), b"little".to_vec())];
    let last = [("version".into(), b"3\n".to_vec())];
    zip(first.into_iter().chain(named).chain(last))
        .map_err(|e| Error::train(format!("the network cannot be written as a zip archive: {e}"), "Please report this"))
}

/// A zip archive of these entries, not compressed.
fn zip(entries: impl Iterator<Item = (String, Vec<u8>)>) -> Result<Vec<u8>, rawzip::Error> {
    let mut file = Vec::new();
    let mut archive = rawzip::ZipArchiveWriter::new(&mut file);
    for (name, content) in entries {
        let (mut entry, config) = archive.new_file(format!("{ROOT}/{name}")).start()?;
        let mut writer = config.wrap(&mut entry);
        writer.write_all(&content)?;
        let (_, descriptor) = writer.finish()?;
        entry.finish(descriptor)?;
    }
    archive.finish()?;
    Ok(file)
}

/// Instructions of pickle protocol 2.
struct Pickle(Vec<u8>);

impl Pickle {
    fn op(&mut self, op: &[u8]) {
        self.0.extend(op);
    }

    fn text(&mut self, text: &str) {
        self.op(b"X");
        self.op(&(text.len() as u32).to_le_bytes());
        self.op(text.as_bytes());
    }

    fn int(&mut self, number: i64) {
        match i32::try_from(number) {
            Ok(number) => {
                self.op(b"J");
                self.op(&number.to_le_bytes());
            }
            Err(_) => {
                self.op(b"\x8a\x08");
                self.op(&number.to_le_bytes());
            }
        }
    }

    fn ints(&mut self, numbers: &[usize]) {
        self.op(b"(");
        numbers.iter().for_each(|number| self.int(*number as i64));
        self.op(b"t");
    }

    /// What `torch.save` writes of a tensor whose numbers are the entry `data/at`.
    fn tensor(&mut self, at: usize, shape: &[usize]) {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        self.op(b"ctorch._utils\n_rebuild_tensor_v2\n(");
        self.op(b"(");
        self.text("storage");
        self.op(b"ctorch\nFloatStorage\n");
        self.text(&at.to_string());
        self.text("cpu");
        self.int(shape.iter().product::<usize>() as i64);
        self.op(b"tQ");
        self.int(0); // its place in the storage
        self.ints(shape);
        self.ints(&strides);
        self.op(b"\x89"); // needs no gradient
        self.op(b"ccollections\nOrderedDict\n)R"); // has no hooks
        self.op(b"tR");
    }

    /// A value of JSON as Python's `json` would read it.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.op(b"N"),
            Value::Bool(true) => self.op(b"\x88"),
            Value::Bool(false) => self.op(b"\x89"),
            Value::String(text) => self.text(text),
            Value::Number(number) => match number.as_i64() {
                Some(number) => self.int(number),
                None => {
                    self.op(b"G");
                    self.op(&number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
                }
            },
            Value::Array(values) => {
                self.op(b"](");
                values.iter().for_each(|value| self.value(value));
                self.op(b"e");
            }
            Value::Object(entries) => {
                self.op(b"}(");
                for (name, value) in entries {
                    self.text(name);
                    self.value(value);
                }
                self.op(b"u");
            }
        }
    }
}
