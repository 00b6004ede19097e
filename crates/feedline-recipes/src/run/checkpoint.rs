//! Finds the checkpoint that a person means, and the settings of its run. Owns the meaning of a path to a run or a
//! checkpoint; what is in a checkpoint belongs to `feedline::train::checkpoint`.

use crate::settings::{CONFIG, Settings, SettingsBuilder};
use feedline::train::checkpoint::{Checkpoints, best_epoch, load_settings};
use feedline::train::run::CHECKPOINTS;
use feedline::{Error, Result};
use std::path::{Path, PathBuf};

/// The checkpoint that a run folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meant {
    /// The newest one.
    Last,
    /// The one with the lowest validation loss.
    Best,
}

/// The checkpoint's folder and the folder of its run, of a path to a checkpoint or to a run folder.
///
/// # Errors
/// A path that is neither; a run whose best checkpoint is not there.
pub fn locate(path: &Path, meant: Meant) -> Result<(PathBuf, PathBuf)> {
    let (inside, name) = (path.join(CHECKPOINTS), path.file_name().and_then(|name| name.to_str()));
    let of_run = match meant {
        Meant::Last => "last",
        Meant::Best => "best",
    };
    // `last` and `best` are links, which a copy may lack or have as folders of old: the checkpoints know better.
    let asked = match name {
        // A folder that holds a model and nothing else: it is what was named.
        _ if path.join("model.safetensors").is_file() && !path.join("checkpoint.toml").is_file() => None,
        _ if inside.is_dir() => Some((Checkpoints::new(inside), of_run)),
        Some(name @ ("last" | "best")) => path.parent().map(|dir| (Checkpoints::new(Path::new(".").join(dir)), name)),
        _ => None,
    };
    let mut checkpoint = path.to_path_buf();
    if let Some((checkpoints, name)) = asked
        && let Some(newest) = checkpoints.newest()?
    {
        newest.passed_over.iter().for_each(|problem| feedline::say!("feedline: {problem}"));
        checkpoint = match name {
            "best" => checkpoints.best(&newest.progress.history)?.ok_or_else(|| Error::Checkpoint {
                path: path.to_path_buf(),
                problem: match best_epoch(&newest.progress.history) {
                    0 => "no epoch is over, so none is the best".into(),
                    epoch => format!("the checkpoint of the best epoch, {epoch}, is not there any more"),
                },
                remedy: format!("The newest one is {}", newest.path.display()),
            })?,
            _ => newest.path,
        };
    }
    let real = checkpoint.canonicalize().map_err(|e| Error::io("find the checkpoint", path, e))?;
    let run = real.parent().and_then(Path::parent).filter(|run| run.join(CONFIG).is_file());
    match run {
        Some(run) => Ok((real.clone(), run.to_path_buf())),
        None => Err(Error::Checkpoint {
            path: path.to_path_buf(),
            problem: "it lies in no run folder: there is no config.toml two folders above".into(),
            remedy: "Name a folder like runs/NAME/checkpoints/best".into(),
        }),
    }
}

/// The settings of the run, by which the checkpoint was made.
///
/// # Errors
/// Settings that are not those of the checkpoint, or cannot be read.
pub fn settings_of<C: Settings>(run: &Path, checkpoint: &Path) -> Result<SettingsBuilder<C>> {
    let builder = SettingsBuilder::<C>::of_run(run)?;
    if let Some(made_with) = load_settings(checkpoint)? {
        builder.clone().resolve()?.check_checkpoint(run, checkpoint, &made_with)?;
    }
    Ok(builder)
}
