//! Checkpoints: directories that are written atomically. Owns the files in `checkpoints/`; knows nothing of the model
//! beyond named tensors, nor of the settings beyond their text.
//!
//! ```text
//! checkpoints/ep002-step00000124/{checkpoint.toml, model.safetensors, optimizer.safetensors}
//!                                            after two whole epochs and 124 steps of the third
//! checkpoints/ep002-step00000124-2/          the same step, saved once more
//! checkpoints/ep002-step00000000-kept/       stays when newer ones come
//! checkpoints/last -> ep002-step00000124-2   the newest
//! checkpoints/best -> ep002-step00000000-kept   the lowest validation loss
//! ```
//!
//! A directory is written under another name, flushed to disk and renamed to a name that is free; only then what it
//! supersedes is removed. `checkpoint.toml` is written last, says the sizes and checksums of the others and its own: so a
//! checkpoint says by itself that it is complete, what comes after what, and which is the best. The links are for people:
//! nothing here believes them, and a copy without them, or with folders in their place, is as good.
#![expect(clippy::disallowed_methods, reason = "owns the files of checkpoints")]

mod format;
mod progress;

pub use format::{MODEL, RAW, broadcast, load, load_model, load_raw_model, load_settings, read_tensors};
pub use progress::Progress;

use super::TaskState;
use super::disk::{make_dir, sync_dir};
use crate::error::{Error, Result};
use crate::event::EpochRecord;
use format::{Stored, inspect, is_damage, load_stored, sentence, write_into};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Links, for people only.
const LAST: &str = "last";
const BEST: &str = "best";

/// The best of some epochs, counted from 1; 0 if there are none. As upstream, an epoch is the best so far if its
/// validation loss is no worse than all before.
pub fn best_epoch(history: &[EpochRecord]) -> u64 {
    let is_best = |at: &usize| history[..*at].iter().all(|earlier| history[*at].val_loss <= earlier.val_loss);
    (0..history.len()).rev().find(is_best).map_or(0, |at| at as u64 + 1)
}

/// A name that [`Checkpoints::save`] gives.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Name {
    epoch: u64,
    step: u64,
    /// The number of the save of that step, from 1.
    time: u64,
    kept: bool,
}

impl Name {
    fn parse(text: &str) -> Option<Name> {
        let rest = text.strip_prefix("ep")?;
        let (rest, kept) = rest.strip_suffix("-kept").map_or((rest, false), |rest| (rest, true));
        let (epoch, rest) = rest.split_once("-step")?;
        let (step, time) = rest.split_once('-').unwrap_or((rest, "1"));
        let name = Name { epoch: epoch.parse().ok()?, step: step.parse().ok()?, time: time.parse().ok()?, kept };
        (name.to_string() == text).then_some(name)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ep{:03}-step{:08}", self.epoch, self.step)?;
        if self.time > 1 {
            write!(f, "-{}", self.time)?;
        }
        f.write_str(if self.kept { "-kept" } else { "" })
    }
}

/// A folder that may be a checkpoint.
#[derive(Debug)]
struct Candidate {
    path: PathBuf,
    file_name: String,
    /// `None` for a copy of a link, or if an older version moved it away.
    name: Option<Name>,
}

impl Candidate {
    fn time(&self) -> u64 {
        self.name.map_or(0, |name| name.time)
    }
}

/// A checkpoint that was read, and the incomplete ones that were skipped to find it.
#[derive(Debug)]
pub struct Found {
    pub path: PathBuf,
    pub progress: Progress,
    pub state: TaskState,
    /// Text of the settings that it was made with; `None` if an older version made it.
    pub settings: Option<String>,
    /// The incomplete checkpoints in the folder, in words.
    pub passed_over: Vec<String>,
}

/// A checkpoint that was written, and warnings for the user.
#[derive(Debug)]
pub struct Saved {
    pub path: PathBuf,
    pub warnings: Vec<String>,
}

/// The folder of a run's checkpoints.
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    settings: Option<String>,
    /// Warnings that were given before and are not repeated.
    told: Mutex<BTreeSet<String>>,
}

impl Checkpoints {
    /// The checkpoints in `dir`, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Checkpoints {
        Checkpoints { dir: dir.into(), settings: None, told: Mutex::default() }
    }

    /// The same, for a run with these settings: each checkpoint keeps their text.
    pub fn with_settings(mut self, settings: String) -> Checkpoints {
        self.settings = Some(settings);
        self
    }

    /// Reads the newest complete checkpoint, if there is one. Incomplete ones are reported in [`Found::passed_over`].
    ///
    /// # Errors
    /// There are checkpoints and none is complete; or a disk error, which does not mean that a checkpoint is
    /// incomplete.
    pub fn newest(&self) -> Result<Option<Found>> {
        let mut candidates = self.candidates()?;
        loop {
            let seen = |(candidates, problems): &(Vec<Candidate>, Vec<String>)| {
                (candidates.iter().map(|candidate| candidate.path.clone()).collect::<Vec<_>>(), problems.clone())
            };
            let before = seen(&candidates);
            let found = self.newest_of(candidates);
            if found.as_ref().is_ok_and(|found| found.as_ref().is_none_or(|found| found.passed_over.is_empty())) {
                return found;
            }
            // A running training may have removed a listed checkpoint, once a newer one was there.
            candidates = self.candidates()?;
            if seen(&candidates) == before {
                return found;
            }
        }
    }

    fn newest_of(&self, (candidates, mut passed_over): (Vec<Candidate>, Vec<String>)) -> Result<Option<Found>> {
        let mut complete = Vec::new();
        for candidate in candidates {
            match inspect(&candidate.path) {
                Ok(stored) => complete.push((stored.progress.place(), candidate)),
                Err(error) if is_damage(&error) => passed_over.push(sentence(&error)),
                Err(error) => return Err(error),
            }
        }
        // Among equals the last has the most readable name: candidates are in that order.
        complete.sort_by_key(|(place, candidate)| (*place, candidate.time()));
        for (_, candidate) in complete.into_iter().rev() {
            match load_stored(&candidate.path) {
                Ok((stored, state)) => {
                    let Stored { progress, settings, .. } = stored;
                    return Ok(Some(Found { path: candidate.path, progress, state, settings, passed_over }));
                }
                Err(error) if is_damage(&error) => passed_over.push(sentence(&error)),
                Err(error) => return Err(error),
            }
        }
        if passed_over.is_empty() {
            return Ok(None);
        }
        Err(Error::Checkpoint {
            path: self.dir.clone(),
            problem: format!("no checkpoint in it is complete. {}", passed_over.join(" ").trim_end_matches('.')),
            remedy: "Bring one back from a copy, or begin a new run in another folder".into(),
        })
    }

    /// The checkpoint with the lowest validation loss of these epochs, which are those of the newest one.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn best(&self, history: &[EpochRecord]) -> Result<Option<PathBuf>> {
        Ok(best_of(&self.candidates()?.0, history)?.map(|best| best.path.clone()))
    }

    /// Writes a checkpoint, then updates the links, and removes the checkpoints that it supersedes: never the best, a
    /// `keep`t or an incomplete one, or one that is further ahead.
    ///
    /// # Errors
    /// A failed write, with the file; earlier checkpoints are then untouched and nothing half-written is left.
    pub fn save(&self, progress: &Progress, state: &TaskState, keep: bool) -> Result<Saved> {
        make_dir(&self.dir)?;
        let partial = self.dir.join(format!("tmp-{}", std::process::id()));
        let written = write_into(&partial, progress, state, self.settings.as_deref()).and_then(|()| {
            // Never over another one, which may be the newest until this one is complete.
            let name = |time| Name { epoch: progress.epoch, step: progress.step, time, kept: keep }.to_string();
            let taken = |name: &String| fs::symlink_metadata(self.dir.join(name)).is_ok();
            let name = (1..).map(name).find(|name| !taken(name)).unwrap_or_default();
            let target = self.dir.join(&name);
            fs::rename(&partial, &target).map_err(|e| Error::io("publish", &target, e))?;
            Ok(target)
        });
        let path = written.inspect_err(|_| drop(fs::remove_dir_all(&partial)))?;
        sync_dir(&self.dir)?;
        let mut warnings = self.settle(&path, progress)?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.retain(|warning| told.insert(warning.clone()));
        Ok(Saved { path, warnings })
    }

    /// Points the links to `newest`, whose progress is `progress`, and to the best one; removes superseded checkpoints
    /// and the leftovers of killed processes. Returns warnings for the user.
    ///
    /// # Errors
    /// The disk cannot be read. A failed removal is harmless and no error.
    pub fn settle(&self, newest: &Path, progress: &Progress) -> Result<Vec<String>> {
        let (candidates, _) = self.candidates()?;
        let best = best_of(&candidates, &progress.history)?;
        let spared = best.map(|best| best.path.clone()).or_else(|| self.dir.join(BEST).canonicalize().ok());
        let mut warnings = Vec::new();
        if let (None, epoch @ 1..) = (best, best_epoch(&progress.history)) {
            let dir = self.dir.display();
            warnings.push(format!("{dir}: the best checkpoint, of the end of epoch {epoch}, is not there any more"));
        }
        let newest_file = newest.canonicalize().ok();
        let dir = self.dir.canonicalize().ok();
        let (mut links, mut others) = (Vec::new(), Vec::new());
        for candidate in &candidates {
            let is = |path: &Option<PathBuf>| path.as_ref() == Some(&candidate.path);
            let kept = candidate.name.is_some_and(|name| name.kept);
            if candidate.path.parent() != dir.as_deref() || is(&newest_file) || is(&spared) || kept {
                continue;
            }
            match inspect(&candidate.path) {
                Ok(stored) if stored.progress.place() > progress.place() => {
                    let (ahead, newest) = (candidate.path.display(), newest.display());
                    warnings.push(format!("{ahead} stands further on than {newest}; a resume will try it first"));
                }
                Ok(_) if [LAST, BEST].contains(&candidate.file_name.as_str()) => links.push(candidate),
                Ok(_) => others.push(candidate),
                Err(_) => {} // left alone; a resume tells of it
            }
        }
        // Folders in place of links are removed first, to make room for the links.
        links.into_iter().for_each(|candidate| self.remove(&candidate.path));
        let named = [(LAST, newest_file.as_deref()), (BEST, best.map(|best| best.path.as_path()))];
        warnings.extend(named.into_iter().filter_map(|(link, path)| self.point(link, path?).err()));
        others.into_iter().for_each(|candidate| self.remove(&candidate.path));
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let is_candidate = candidates.iter().any(|candidate| *candidate.file_name == *entry.file_name());
            if !is_candidate && is_leftover(&entry.file_name().to_string_lossy()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(warnings)
    }

    /// Points `link` to `path`, or returns why that failed.
    fn point(&self, link: &str, path: &Path) -> Result<(), String> {
        let at = self.dir.join(link);
        let name = path.file_name().unwrap_or_default();
        let is_here = self.dir.join(name).canonicalize().is_ok_and(|here| here == path);
        if name == link || !is_here || fs::read_link(&at).is_ok_and(|old| old.as_os_str() == name) {
            return Ok(());
        }
        let cannot = |why: String| format!("{} stays as it is: {why}. Nothing relies on it", at.display());
        if fs::symlink_metadata(&at).is_ok_and(|found| !found.is_symlink()) {
            return Err(cannot("it is no link and no complete checkpoint".into()));
        }
        let partial = self.dir.join(format!("tmp-link-{}", std::process::id()));
        let _ = fs::remove_file(&partial);
        std::os::unix::fs::symlink(name, &partial)
            .and_then(|()| fs::rename(&partial, &at))
            .inspect_err(|_| drop(fs::remove_file(&partial)))
            .map_err(|e| cannot(e.to_string()))
    }

    /// Removes a whole checkpoint, renamed first, so that a kill leaves no half of it. A failure is harmless.
    fn remove(&self, path: &Path) {
        let gone = self.dir.join(format!("tmp-gone-{}", std::process::id()));
        let _ = fs::remove_dir_all(&gone);
        if fs::rename(path, &gone).is_ok() {
            let _ = fs::remove_dir_all(&gone);
        }
    }

    /// All folders that may be a checkpoint, and in words those that only look like one. Among equals the last is to be
    /// kept.
    fn candidates(&self) -> Result<(Vec<Candidate>, Vec<String>)> {
        let list = |e| Error::io("list", &self.dir, e);
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok((vec![], vec![])),
            entries => entries.map_err(list)?,
        };
        let (mut found, mut problems) = (Vec::<Candidate>::new(), Vec::new());
        for entry in entries {
            let entry = entry.map_err(list)?;
            let Ok(file_name) = entry.file_name().into_string() else { continue };
            let name = Name::parse(&file_name);
            let like_one = file_name.starts_with("ep") && file_name.contains("-step");
            // Older versions moved the earlier folder here to save the same step again.
            let moved = file_name.starts_with("tmp-old-");
            if !like_one && !moved && file_name != LAST && file_name != BEST {
                continue;
            }
            let at = entry.path();
            if like_one && name.is_none() {
                problems.push(format!("{} is no name of a checkpoint; it was left alone.", at.display()));
                continue;
            }
            match at.canonicalize() {
                Ok(path) if path.is_dir() && (!moved || inspect(&path).is_ok()) => {
                    found.push(Candidate { path, file_name, name });
                }
                Ok(_) if moved => {}
                Ok(_) => problems.push(format!("{} is no folder; it was left alone.", at.display())),
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    problems.push(format!("{} names a checkpoint that is not there.", at.display()));
                }
                Err(e) => return Err(Error::io("find", &at, e)),
            }
        }
        found.sort_by_key(|candidate| (candidate.name.is_some(), candidate.file_name.clone()));
        // Of a link and its target, keeps the target.
        let paths: Vec<PathBuf> = found.iter().map(|candidate| candidate.path.clone()).collect();
        let mut at = 0;
        found.retain(|_| {
            at += 1;
            !paths[at..].contains(&paths[at - 1])
        });
        problems.sort();
        Ok((found, problems))
    }
}

/// The checkpoint at the end of the best epoch.
fn best_of<'a>(candidates: &'a [Candidate], history: &[EpochRecord]) -> Result<Option<&'a Candidate>> {
    let epoch = best_epoch(history);
    let mut best: Option<&Candidate> = None;
    for candidate in candidates.iter().filter(|c| c.name.is_none_or(|n| (n.epoch, n.step) == (epoch, 0))) {
        match inspect(&candidate.path) {
            Ok(stored) if stored.progress.ends(epoch) => {
                best = best.filter(|best| best.time() > candidate.time()).or(Some(candidate));
            }
            Err(error) if !is_damage(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(best)
}

/// True for a leftover of a process that no longer runs.
fn is_leftover(name: &str) -> bool {
    // Only these exact names: a user's own file may be called `tmp-something-2`.
    let process =
        ["tmp-gone-", "tmp-link-", "tmp-old-", "tmp-"].iter().find_map(|of| name.strip_prefix(of)?.parse().ok());
    process.is_some_and(|id: u32| id == std::process::id() || !Path::new("/proc").join(id.to_string()).exists())
}

#[cfg(test)]
mod tests;
