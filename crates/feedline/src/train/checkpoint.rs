//! Checkpoints: one directory that is there whole or not at all. Owns the files in `checkpoints/`; knows nothing of the
//! model beyond named tensors.
//!
//! ```text
//! checkpoints/ep002-step00000124/{checkpoint.toml, model.safetensors, optimizer.safetensors}
//!                                            after two whole epochs and 124 steps of the third
//! checkpoints/last -> ep002-step00000124     the newest
//! checkpoints/best -> ep002-step00000124     the lowest validation loss
//! ```
//!
//! A directory is written under another name, flushed to disk and renamed; the links are replaced by renaming too. So
//! `last` names a complete checkpoint at every moment, whenever the process is killed.

use super::group::Group;
use super::{Tally, TaskState, Tensors};
use crate::error::{Error, Result};
use crate::event::EpochRecord;
use crate::plan::Cursor;
use crate::sample::{Array, DType};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// TOML and not JSON: it keeps every bit of a float and knows NaN.
const PROGRESS: &str = "checkpoint.toml";

/// Where a training run stands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The running epoch, from 0.
    pub epoch: u64,
    /// Steps of it that are done.
    pub step: u64,
    /// Whether the epoch's training is done and its evaluation is next.
    pub trained: bool,
    /// Seconds of training in the running epoch so far.
    pub train_seconds: f64,
    /// Seconds of these spent waiting for data.
    pub wait_seconds: f64,
    /// Learning rate of the last step of the running epoch; `None` before its first, or if an older version saved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Sums over the running epoch so far.
    pub tally: Tally,
    /// Epochs that are done.
    pub history: Vec<EpochRecord>,
    /// Where the data stands; `None` before the first batch.
    pub cursor: Option<Cursor>,
}

/// What `checkpoint.toml` holds.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    progress: Progress,
    scalars: serde_json::Map<String, serde_json::Value>,
}

/// The folder of a run's checkpoints.
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    /// The checkpoints in `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Checkpoints {
        Checkpoints { dir: dir.into() }
    }

    /// The newest complete checkpoint, if there is one.
    pub fn last(&self) -> Option<PathBuf> {
        let last = self.dir.join("last");
        last.join(PROGRESS).is_file().then_some(last)
    }

    /// Writes a checkpoint and points `last` at it (and `best`, if it is). Then removes those that no link names and
    /// that are not `keep`t, its own only.
    ///
    /// # Errors
    /// A failed write, with the file; what was there before is untouched and nothing half-written is left.
    pub fn save(&self, progress: &Progress, state: &TaskState, best: bool, keep: bool) -> Result<PathBuf> {
        let kept = if keep { "-kept" } else { "" };
        let name = format!("ep{:03}-step{:08}{kept}", progress.epoch, progress.step);
        let (target, partial) = (self.dir.join(&name), self.dir.join(format!("tmp-{}", std::process::id())));
        fs::create_dir_all(&self.dir).map_err(|e| Error::io("make the folder", &self.dir, e))?;
        let written = write_into(&partial, progress, state).and_then(|()| {
            if target.exists() {
                // The same step again, after a resume: the old one is as good, but it may be of another state's run.
                let old = self.dir.join(format!("tmp-old-{}", std::process::id()));
                fs::rename(&target, &old).map_err(|e| Error::io("move away", &target, e))?;
                let moved = fs::rename(&partial, &target).map_err(|e| Error::io("publish", &target, e));
                let _ = fs::remove_dir_all(&old);
                moved
            } else {
                fs::rename(&partial, &target).map_err(|e| Error::io("publish", &target, e))
            }
        });
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
        self.point("last", &name)?;
        if best {
            self.point("best", &name)?;
        }
        sync_dir(&self.dir)?;
        self.prune();
        Ok(target)
    }

    fn point(&self, link: &str, name: &str) -> Result<()> {
        let (path, partial) = (self.dir.join(link), self.dir.join(format!("tmp-link-{}", std::process::id())));
        let _ = fs::remove_file(&partial);
        std::os::unix::fs::symlink(name, &partial).map_err(|e| Error::io("make the link", &partial, e))?;
        fs::rename(&partial, &path).map_err(|e| Error::io("replace the link", &path, e))
    }

    /// Removes checkpoints that nothing needs any more, and what a killed process left. A failure is harmless.
    fn prune(&self) {
        let named: Vec<PathBuf> =
            ["last", "best"].iter().filter_map(|link| fs::read_link(self.dir.join(link)).ok()).collect();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let ours = text.starts_with("tmp-") || (text.starts_with("ep") && text.contains("-step"));
            if ours && !text.ends_with("-kept") && !named.iter().any(|path| path.as_os_str() == name) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// The names of a checkpoint's files and what they hold.
fn files(progress: &Progress, state: &TaskState) -> Result<[(&'static str, Vec<u8>); 3]> {
    let stored = Stored { version: VERSION, progress: progress.clone(), scalars: state.scalars.clone() };
    let text = toml::to_string(&stored)
        .map_err(|e| Error::train(format!("the checkpoint cannot be written as TOML: {e}"), "Please report this"))?;
    Ok([
        (MODEL, tensor_bytes(&state.model)?),
        (OPTIMIZER, tensor_bytes(&state.optimizer)?),
        (PROGRESS, text.into_bytes()),
    ])
}

fn write_into(dir: &Path, progress: &Progress, state: &TaskState) -> Result<()> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).map_err(|e| Error::io("make the folder", dir, e))?;
    for (name, bytes) in files(progress, state)? {
        write_synced(&dir.join(name), &bytes)?;
    }
    sync_dir(dir)
}

/// What rank 0 loaded, if anything, on every rank: the others need not see its disk.
///
/// # Errors
/// If another rank cannot be reached, or has another version.
pub fn broadcast(group: &dyn Group, loaded: Option<(Progress, TaskState)>) -> Result<Option<(Progress, TaskState)>> {
    let files = match &loaded {
        Some((progress, state)) if group.rank() == 0 => files(progress, state)?.map(|(_, bytes)| bytes),
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

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = fs::File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io("write", path, e))
}

fn sync_dir(dir: &Path) -> Result<()> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("flush the folder", dir, e))
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
/// A file that is missing, damaged, or has an element type this crate does not know.
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

/// Reads the model's tensors of the checkpoint `dir`.
///
/// # Errors
/// As [`read_tensors`].
pub fn load_model(dir: &Path) -> Result<Tensors> {
    read_tensors(&dir.join(MODEL))
}

/// Reads a whole checkpoint.
///
/// # Errors
/// A file that is missing or damaged, or a newer format, with its path.
pub fn load(dir: &Path) -> Result<(Progress, TaskState)> {
    let path = dir.join(PROGRESS);
    let stored = parse_progress(&path, &fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?)?;
    let state =
        TaskState { model: load_model(dir)?, optimizer: read_tensors(&dir.join(OPTIMIZER))?, scalars: stored.scalars };
    Ok((stored.progress, state))
}

fn parse_progress(path: &Path, text: &str) -> Result<Stored> {
    let damaged = |problem: String| Error::Checkpoint {
        path: path.to_path_buf(),
        problem,
        remedy: "Take another checkpoint, or the version of feedline that wrote this one".into(),
    };
    let stored: Stored = toml::from_str(text).map_err(|e| damaged(e.to_string()))?;
    match stored.version {
        VERSION => Ok(stored),
        other => Err(damaged(format!("format {other} where {VERSION} is known"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(value: f32) -> TaskState {
        let mut state = TaskState::default();
        state.model.insert("layer.weight".into(), Array::from_slice([2, 1], &[value, f32::NAN]));
        state.optimizer.insert("momentum/layer.weight".into(), Array::from_slice([2], &[0.1f64, -0.0]));
        state.scalars.insert("loss_scale".into(), 65536.0.into());
        state
    }

    fn progress(epoch: u64, step: u64) -> Progress {
        let tally = Tally { samples: 3, loss_sum: 0.1 + 0.2, metric_sums: vec![1.0 / 3.0] };
        let record = EpochRecord {
            epoch: 1,
            train_loss: f64::NAN,
            val_loss: 5e-324,
            train_metrics: vec![2.0 / 3.0],
            val_metrics: vec![],
            lr: 1e-3,
            images_per_second: 1.0,
            data_wait_share: 0.5,
            train_seconds: 1.0,
            val_seconds: 1.0,
            stages: Default::default(),
        };
        Progress { epoch, step, tally, history: vec![record], ..Progress::default() }
    }

    #[test]
    fn every_bit_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path().join("checkpoints"));
        assert_eq!(checkpoints.last(), None);
        let path = checkpoints.save(&progress(1, 7), &state(1.5), true, false).unwrap();
        assert_eq!(path.file_name().unwrap(), "ep001-step00000007");
        let (back, back_state) = load(&checkpoints.last().unwrap()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", progress(1, 7)), "Debug shows every digit and NaN");
        assert_eq!(back.tally.loss_sum.to_bits(), (0.1f64 + 0.2).to_bits());
        assert_eq!((back_state.model, back_state.optimizer), (state(1.5).model, state(1.5).optimizer));
        assert_eq!(back_state.scalars["loss_scale"].as_f64(), Some(65536.0));
    }

    #[test]
    fn only_what_is_needed_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        let checkpoints = Checkpoints::new(dir.path());
        for (step, best, keep) in [(1, true, false), (2, false, true), (3, false, false), (4, false, false)] {
            checkpoints.save(&progress(0, step), &state(step as f32), best, keep).unwrap();
        }
        checkpoints.save(&progress(0, 4), &state(40.0), false, false).unwrap();
        let mut names: Vec<String> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let expect =
            ["best", "ep000-step00000001", "ep000-step00000002-kept", "ep000-step00000004", "last", "notes.txt"];
        assert_eq!(names, expect);
        assert_eq!(load_model(&dir.path().join("last")).unwrap()["layer.weight"].as_slice::<f32>()[0], 40.0);
        assert_eq!(load_model(&dir.path().join("best")).unwrap()["layer.weight"].as_slice::<f32>()[0], 1.0);
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = Checkpoints::new(dir.path()).save(&progress(0, 1), &state(1.0), false, false).unwrap();
        let full = std::fs::read(path.join(MODEL)).unwrap();
        std::fs::write(path.join(MODEL), &full[..full.len() - 3]).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("model.safetensors") && error.contains("damaged"), "{error}");
        std::fs::write(path.join(PROGRESS), "version = 2").unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("checkpoint.toml"));
    }
}
