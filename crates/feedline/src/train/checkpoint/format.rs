//! The files of a checkpoint: their content, and the checks that they are complete. Knows no other checkpoint.

use super::progress::Progress;
use crate::error::{Error, Result};
use crate::sample::{Array, DType};
use crate::train::disk::{sync_dir, write_flushed};
use crate::train::group::Group;
use crate::train::{TaskState, Tensors};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

const VERSION: u32 = 1;
pub const MODEL: &str = "model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
/// In the optimiser's file, before the name of a tensor whose average is in the model's file.
pub const RAW: &str = "raw/";
/// TOML and not JSON: it keeps every bit of a float and knows NaN.
pub(super) const PROGRESS: &str = "checkpoint.toml";

/// The content of `checkpoint.toml`, below its first line.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) version: u32,
    /// Text of the settings that it was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) settings: Option<String>,
    /// The other files by name; empty if an older version wrote it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) files: BTreeMap<String, Seal>,
    pub(super) progress: Progress,
    pub(super) scalars: serde_json::Map<String, serde_json::Value>,
}

/// Size and checksum of a complete file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Seal {
    size_bytes: u64,
    crc32: String,
}

impl Seal {
    fn of(bytes: &[u8]) -> Seal {
        Seal { size_bytes: bytes.len() as u64, crc32: format!("{:08x}", crc32fast::hash(bytes)) }
    }
}

/// Parts of the first line of `checkpoint.toml`, which seals the rest. A comment, so that older versions ignore it.
const SEAL: (&str, &str, &str) = ("# crc32 ", " of the ", " bytes that follow\n");

/// True if the checkpoint is damaged; false if it could not be reached.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => matches!(
            source.kind(),
            ErrorKind::NotFound | ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::IsADirectory
        ),
        error => matches!(error, Error::Checkpoint { .. }),
    }
}

/// Reads the description of a checkpoint, and checks that its files exist and have their full size. [`load`] checks
/// their bytes.
pub(super) fn inspect(dir: &Path) -> Result<Stored> {
    let stored = read_progress(dir)?;
    for name in [MODEL, OPTIMIZER] {
        let path = dir.join(name);
        let mut file = fs::File::open(&path).map_err(|e| Error::io("read", &path, e))?;
        let size = file.metadata().map_err(|e| Error::io("read", &path, e))?.len();
        let expected = match stored.files.get(name) {
            Some(seal) => seal.size_bytes,
            None => tensors_size(&mut file).map_err(|e| Error::io("read", &path, e))?,
        };
        if size != expected {
            return Err(incomplete(&path, format!("it is damaged: {size} bytes where {expected} were written")));
        }
    }
    Ok(stored)
}

/// The size of a safetensors file, by its own header.
fn tensors_size(file: &mut fs::File) -> std::io::Result<u64> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length)).read_to_end(&mut header)?;
    let tensors: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&header)?;
    let ends = tensors.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    Ok((8 + header.len() as u64).saturating_add(ends.max().unwrap_or(0)))
}

/// The problem with a checkpoint, without the remedy.
pub(super) fn sentence(error: &Error) -> String {
    match error {
        Error::Checkpoint { path, problem, .. } => format!("{}: {}.", path.display(), problem.trim()),
        error => format!("{error}."),
    }
}

fn incomplete(path: &Path, problem: String) -> Error {
    let remedy = "Take another checkpoint, or bring this one back from a copy".into();
    Error::Checkpoint { path: path.to_path_buf(), problem, remedy }
}

/// The names and contents of a checkpoint's files, in the order in which they are written.
fn files(progress: &Progress, state: &TaskState, settings: Option<&str>) -> Result<[(&'static str, Vec<u8>); 3]> {
    let (model, optimizer) = (tensor_bytes(&state.model)?, tensor_bytes(&state.optimizer)?);
    let stored = Stored {
        version: VERSION,
        settings: settings.map(str::to_owned),
        files: [(MODEL, &model), (OPTIMIZER, &optimizer)].map(|(name, bytes)| (name.into(), Seal::of(bytes))).into(),
        progress: progress.clone(),
        scalars: state.scalars.clone(),
    };
    let text = toml::to_string(&stored)
        .map_err(|e| Error::train(format!("the checkpoint cannot be written as TOML: {e}"), "Please report this"))?;
    let Seal { size_bytes, crc32 } = Seal::of(text.as_bytes());
    let text = format!("{}{crc32}{}{size_bytes}{}{text}", SEAL.0, SEAL.1, SEAL.2);
    Ok([(MODEL, model), (OPTIMIZER, optimizer), (PROGRESS, text.into_bytes())])
}

pub(super) fn write_into(dir: &Path, progress: &Progress, state: &TaskState, settings: Option<&str>) -> Result<()> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).map_err(|e| Error::io("make the folder", dir, e))?;
    for (name, bytes) in files(progress, state, settings)? {
        let path = dir.join(name);
        write_flushed(&path, &bytes).map_err(|e| Error::io("write", &path, e))?;
    }
    sync_dir(dir)
}

/// Returns the checkpoint that rank 0 loaded, if any, on every rank: the others need no access to its disk.
///
/// # Errors
/// If another rank cannot be reached, or has another version.
pub fn broadcast(group: &dyn Group, loaded: Option<(Progress, TaskState)>) -> Result<Option<(Progress, TaskState)>> {
    let files = match &loaded {
        Some((progress, state)) if group.rank() == 0 => files(progress, state, None)?.map(|(_, bytes)| bytes),
        _ => Default::default(),
    };
    if group.world_size() == 1 {
        return Ok(loaded);
    }
    let mut received = Vec::with_capacity(files.len());
    for mut bytes in files {
        group.broadcast(&mut bytes)?;
        received.push(bytes);
    }
    let [model, optimizer, progress] = received.as_slice() else { return Ok(loaded) };
    if group.rank() == 0 || progress.is_empty() {
        return Ok(loaded);
    }
    let rank0 = Path::new("the checkpoint of rank 0");
    let stored = parse_progress(&rank0.join(PROGRESS), &String::from_utf8_lossy(progress))?;
    let state = TaskState {
        model: parse_tensors(&rank0.join(MODEL), model)?,
        optimizer: parse_tensors(&rank0.join(OPTIMIZER), optimizer)?,
        scalars: stored.scalars,
    };
    Ok(Some((stored.progress, state)))
}

const DTYPES: [(DType, Dtype); 6] = [
    (DType::U8, Dtype::U8),
    (DType::U16, Dtype::U16),
    (DType::I32, Dtype::I32),
    (DType::I64, Dtype::I64),
    (DType::F32, Dtype::F32),
    (DType::F64, Dtype::F64),
];

fn tensor_bytes(tensors: &Tensors) -> Result<Vec<u8>> {
    let views = tensors.iter().filter_map(|(name, array)| {
        let (_, dtype) = DTYPES.iter().find(|(ours, _)| *ours == array.dtype())?;
        Some((name, TensorView::new(*dtype, array.shape().to_vec(), array.as_bytes()).ok()?))
    });
    safetensors::serialize(views, None)
        .map_err(|e| Error::train(format!("the tensors cannot be written: {e}"), "Please report this"))
}

/// Reads a safetensors file.
///
/// # Errors
/// A file that is missing, damaged, or has an unsupported element type.
pub fn read_tensors(path: &Path) -> Result<Tensors> {
    parse_tensors(path, &fs::read(path).map_err(|e| Error::io("read", path, e))?)
}

fn parse_tensors(path: &Path, bytes: &[u8]) -> Result<Tensors> {
    let damaged = |problem: String| Error::Checkpoint {
        path: path.to_path_buf(),
        problem,
        remedy: "The file is damaged or not a safetensors file; take another checkpoint".into(),
    };
    let parsed = SafeTensors::deserialize(bytes).map_err(|e| damaged(e.to_string()))?;
    parsed
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let (dtype, _) = DTYPES
                .iter()
                .find(|(_, theirs)| *theirs == view.dtype())
                .ok_or_else(|| damaged(format!("tensor {name} is of type {:?}", view.dtype())))?;
            let mut array = Array::zeros(*dtype, view.shape());
            array.as_bytes_mut().copy_from_slice(view.data());
            Ok((name, array))
        })
        .collect()
}

/// Reads the model's tensors of the checkpoint `dir`: of a run with averages (`train.ema_decay`) these. If the other files are missing, the model file alone is enough.
///
/// # Errors
/// As [`read_tensors`], and bytes that do not match their checksum.
pub fn load_model(dir: &Path) -> Result<Tensors> {
    let files = match read_progress(dir) {
        Ok(stored) => stored.files,
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(error),
    };
    load_tensors(dir, MODEL, &files)
}

/// Reads the numbers that were trained, where [`load_model`] gives their averages; without averages the two are the same.
///
/// # Errors
/// As [`load`].
pub fn load_raw_model(dir: &Path) -> Result<Tensors> {
    let stored = read_progress(dir)?;
    let beside = load_tensors(dir, OPTIMIZER, &stored.files)?;
    let raw: Tensors =
        beside.into_iter().filter_map(|(name, array)| Some((name.strip_prefix(RAW)?.to_owned(), array))).collect();
    if raw.is_empty() { load_tensors(dir, MODEL, &stored.files) } else { Ok(raw) }
}

/// Text of the settings of the checkpoint `dir`; `None` if an older version made it, or only its model is there.
///
/// # Errors
/// As [`load`].
pub fn load_settings(dir: &Path) -> Result<Option<String>> {
    match read_progress(dir) {
        Ok(stored) => Ok(stored.settings),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn load_tensors(dir: &Path, name: &str, files: &BTreeMap<String, Seal>) -> Result<Tensors> {
    let path = dir.join(name);
    let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    if files.get(name).is_some_and(|seal| *seal != Seal::of(&bytes)) {
        return Err(incomplete(&path, "it is damaged: these are not the bytes that were written".into()));
    }
    parse_tensors(&path, &bytes)
}

/// Reads a whole checkpoint.
///
/// # Errors
/// A file that is missing or damaged, or a newer format, with its path.
pub fn load(dir: &Path) -> Result<(Progress, TaskState)> {
    load_stored(dir).map(|(stored, state)| (stored.progress, state))
}

pub(super) fn load_stored(dir: &Path) -> Result<(Stored, TaskState)> {
    let mut stored = read_progress(dir)?;
    let state = TaskState {
        model: load_tensors(dir, MODEL, &stored.files)?,
        optimizer: load_tensors(dir, OPTIMIZER, &stored.files)?,
        scalars: std::mem::take(&mut stored.scalars),
    };
    Ok((stored, state))
}

fn read_progress(dir: &Path) -> Result<Stored> {
    let path = dir.join(PROGRESS);
    parse_progress(&path, &fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?)
}

fn parse_progress(path: &Path, text: &str) -> Result<Stored> {
    let sealed = || {
        let (crc32, rest) = text.strip_prefix(SEAL.0)?.split_once(SEAL.1)?;
        let (size_bytes, rest) = rest.split_once(SEAL.2)?;
        (Seal { size_bytes: size_bytes.parse().ok()?, crc32: crc32.into() } == Seal::of(rest.as_bytes())).then_some(())
    };
    let changed = || incomplete(path, "it is cut or was changed: its checksum is another".into());
    let is_sealed = sealed().is_some();
    if !is_sealed && text.starts_with(SEAL.0) {
        return Err(changed());
    }
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| incomplete(path, e.to_string()))?;
    match table.get("version").and_then(toml::Value::as_integer) {
        Some(version) if version != i64::from(VERSION) => {
            let what = format!("{}: format {version} of a checkpoint (known is {VERSION})", path.display());
            return Err(Error::Unsupported { what, remedy: "Use the version of feedline that wrote it".into() });
        }
        _ => {}
    }
    let stored: Stored = table.try_into().map_err(|e: toml::de::Error| incomplete(path, e.to_string()))?;
    // Older versions wrote no seal, but also no list of files.
    if !is_sealed && !stored.files.is_empty() {
        return Err(changed());
    }
    Ok(stored)
}
