//! One file per subcommand: its flags and what they call.

#[cfg(feature = "train")]
pub mod all_reduce;
pub mod bench;
#[cfg(feature = "train")]
pub mod compare;
pub mod demo_data;
#[cfg(feature = "train")]
pub mod eval;
#[cfg(feature = "train")]
pub mod export;
pub mod index;
#[cfg(feature = "train")]
pub mod launch;
pub mod lidar;
pub mod pack;
pub mod plan;
#[cfg(feature = "train")]
pub mod predict;
#[cfg(feature = "train")]
pub mod report;
pub mod show;
#[cfg(feature = "train")]
pub mod train;
pub mod verify;

use clap::Args;
use feedline::read::{is_in_archive, is_url};
use feedline::{Error, Result};
use feedline_recipes::settings::{Settings, SettingsBuilder};
#[cfg(feature = "train")]
use std::io::Read;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The flags that stand for a setting, and its key. A recipe has the flags whose keys it has.
pub const KEYS: [(&str, &str); 25] = [
    ("--recipe", "recipe"),
    ("--data", "data.dir"),
    ("--train-list", "data.train_list"),
    ("--val-list", "data.val_list"),
    ("--classes", "data.classes"),
    ("--val-fraction", "data.val_fraction"),
    ("--split-seed", "data.split_seed"),
    ("--seed", "seed"),
    ("--input-px", "model.input_px"),
    ("--augment", "augment.preset"),
    ("--batch-size", "train.batch_size"),
    ("--num-workers", "data.num_workers"),
    ("--decoded-cache", "data.decoded_cache_bytes"),
    ("--memory-budget", "data.memory_budget_bytes"),
    ("--on-bad-sample", "data.on_bad_sample"),
    ("--epochs", "train.epochs"),
    ("--sync-bn", "train.sync_bn"),
    ("--backbone", "model.backbone"),
    ("--pretrained", "model.pretrained"),
    ("--partial", "model.partial"),
    ("--freeze-train", "train.freeze_train"),
    ("--precision", "model.precision"),
    ("--device", "model.device"),
    ("--optimizer", "train.optimizer"),
    ("--init-lr", "train.init_lr"),
];

/// The key that a flag stands for.
pub fn key_of(flag: &'static str) -> &'static str {
    KEYS.iter().find(|(name, _)| *name == flag).map_or(flag, |(_, key)| *key)
}

/// Flags that name the data and how it is augmented, the same for every command.
#[derive(Args)]
pub struct DataArgs {
    /// Kind of data and network [default: what --config says, or classification]
    #[arg(long)]
    pub recipe: Option<String>,
    /// Folder of the data, or its URL: s3://BUCKET/FOLDER. Of images it has {train,test}/<class>/*.jpg, or <class>/*.jpg
    /// with --val-fraction
    #[arg(long, value_name = "DIR|URL")]
    pub data: Option<PathBuf>,
    /// List of training samples: of images one `class;path` a line (cls_train.txt), of scenes one id a line
    #[arg(long, value_name = "FILE")]
    pub train_list: Option<PathBuf>,
    /// List of validation samples, of the same form
    #[arg(long, value_name = "FILE")]
    pub val_list: Option<PathBuf>,
    /// Names of the classes, one a line (cls_classes.txt)
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Hold out this share of the images of each class to validate on, where the data has no validation split: 0.2
    #[arg(long, value_name = "SHARE")]
    pub val_fraction: Option<f64>,
    /// Which images are held out follows from this seed and their names [default: 0]
    #[arg(long, value_name = "SEED")]
    pub split_seed: Option<i64>,
    /// Settings that differ from the defaults (see `feedline train --print-config`)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Random seed of the run
    #[arg(long)]
    pub seed: Option<i64>,
    /// Side of the square network input in pixels
    #[arg(long, value_name = "PX")]
    pub input_px: Option<u32>,
    /// light, upstream or none [default: light]
    #[arg(long, value_name = "PRESET")]
    pub augment: Option<String>,
    /// Samples a step, over all ranks
    #[arg(long, value_name = "N")]
    pub batch_size: Option<u32>,
    /// Threads that read, decode and augment; 0 does it in the training thread [default: one per core]
    #[arg(long, visible_alias = "workers", value_name = "N")]
    pub num_workers: Option<u32>,
    /// Keep decoded pictures in so much memory; changes speed only
    #[arg(long, value_name = "BYTES")]
    pub decoded_cache: Option<u64>,
    /// Batches in flight and samples under way take so much memory at most
    #[arg(long, value_name = "BYTES")]
    pub memory_budget: Option<u64>,
    /// fail, or replace by another sample; what a network or a disk does is an error in any case
    #[arg(long, value_name = "POLICY")]
    pub on_bad_sample: Option<String>,
    /// Any other setting, e.g. --set train.weight_decay=1e-4
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl DataArgs {
    /// True if a flag names other data than the settings of a run.
    ///
    /// # Errors
    /// A path that is not there.
    #[cfg(feature = "train")]
    pub fn names_others<C: Settings>(&self, run: &SettingsBuilder<C>) -> Result<bool> {
        for (flag, path) in self.places() {
            let key = key_of(flag).strip_prefix("data.").filter(|key| C::DATASET_KEYS.contains(key));
            if let (Some(key), Some(path)) = (key, path)
                && run.data_text(key) != Some(&*text_of(path)?)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The flags that name data.
    fn places(&self) -> [(&'static str, &Option<PathBuf>); 4] {
        [
            ("--data", &self.data),
            ("--train-list", &self.train_list),
            ("--val-list", &self.val_list),
            ("--classes", &self.classes),
        ]
    }

    /// `builder` with the settings file and these flags on top.
    pub fn settings<C: Settings>(&self, mut builder: SettingsBuilder<C>) -> Result<SettingsBuilder<C>> {
        if let Some(file) = &self.config {
            builder = builder.file(file)?;
        }
        let storage =
            self.set.iter().try_fold(builder.clone(), |builder, assignment| builder.assign(assignment))?.storage()?;
        for (flag, path) in self.places() {
            if let Some(path) = path {
                let text = path.to_str().filter(|_| storage.resolve(path) != *path);
                builder = builder.flag(
                    flag,
                    key_of(flag),
                    text.map_or_else(|| text_of(path), |mapped| Ok(mapped.into()))?,
                )?;
            }
        }
        for (flag, text) in [("--augment", &self.augment), ("--on-bad-sample", &self.on_bad_sample)] {
            if let Some(text) = text {
                if text.is_empty() {
                    return Err(Error::config(format!("{flag} is empty"), "Give it a value, or leave it out"));
                }
                builder = builder.flag(flag, key_of(flag), text.as_str())?;
            }
        }
        if let Some(share) = self.val_fraction {
            builder = builder.flag("--val-fraction", key_of("--val-fraction"), share)?;
        }
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let numbers = [
            ("--seed", self.seed),
            ("--split-seed", self.split_seed),
            ("--input-px", self.input_px.map(i64::from)),
            ("--batch-size", self.batch_size.map(i64::from)),
            ("--num-workers", self.num_workers.map(i64::from)),
            ("--decoded-cache", self.decoded_cache.map(bytes)),
            ("--memory-budget", self.memory_budget.map(bytes)),
        ];
        for (flag, number) in numbers {
            if let Some(number) = number {
                builder = builder.flag(flag, key_of(flag), number)?;
            }
        }
        self.set.iter().try_fold(builder, |builder, assignment| builder.assign(assignment))
    }
}

/// An existing path as absolute text, so that a run can be resumed from anywhere.
pub fn text_of(path: &Path) -> Result<String> {
    let absolute = match path {
        path if is_url(path) => Ok(path.to_path_buf()),
        // May be a pattern, or a folder inside; whether it is there shows when it is opened.
        path if is_in_archive(path) => std::path::absolute(path),
        path => path.canonicalize(),
    };
    let absolute = absolute.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::dataset(path, "there is no such file or folder", "Check the path"),
        _ => Error::dataset(path, e.to_string(), "Check the path"),
    })?;
    absolute.into_os_string().into_string().map_err(|name| {
        Error::config(format!("the path {} is not valid UTF-8", name.display()), "Rename it, or go through a link")
    })
}

/// Writes to standard output; a reader that has gone away (`| head`) is no error.
pub fn print(text: &str) -> Result<()> {
    print_with(|out| out.write_all(text.as_bytes()))
}

/// Prints like [`print`], but piece by piece: the output may be larger than memory, and `write` stops when the reader of the
/// pipe has gone.
pub fn print_with(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("write to", "standard output", e)),
        _ => {
            // The buffered rest has no reader, so it is discarded.
            let _ = out.into_parts();
            Ok(())
        }
    }
}

/// Checks that `path` is free, or holds a file that begins with `ours`, which may be replaced.
///
/// # Errors
/// Another file, or a folder.
#[cfg(feature = "train")]
pub fn check_replaceable(path: &Path, ours: &[u8], what: &str) -> Result<()> {
    let refused = || {
        Err(Error::config(
            format!("--out {}: it is there already and is not {what}", path.display()),
            "Name another file, or remove it",
        ))
    };
    match std::fs::File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("read", path, e)),
        // A pipe or a device has no content to lose.
        Ok(file) if file.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) => Ok(()),
        Ok(mut file) => {
            let mut start = vec![0; ours.len()];
            match file.read_exact(&mut start) {
                Ok(()) if start == ours => Ok(()),
                _ => refused(),
            }
        }
    }
}

/// Writes a file for people, whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e| Error::io("write", path, e);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    }
    // A pipe or a device is written as it is; of a link what it names.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    if std::fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
        return std::fs::write(&target, bytes).map_err(failed);
    }
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp-{}", std::process::id()));
    let unfinished = target.with_file_name(name);
    std::fs::write(&unfinished, bytes).and_then(|()| std::fs::rename(&unfinished, &target)).map_err(|e| {
        let _ = std::fs::remove_file(&unfinished); // of no use, and perhaps not there
        failed(e)
    })
}
