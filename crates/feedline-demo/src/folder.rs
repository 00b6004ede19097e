//! Demo data sets on disk, whole or not at all. Owns the file that says so, the folder that is written beside and put
//! in place by a rename, and the two threads that draw; what is drawn belongs to the modules beside.
#![expect(clippy::disallowed_methods, reason = "owns the folder of a drawn data set")]

use feedline::train::lock::locks_reach_everyone;
use feedline::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

/// The file that marks a folder as a complete demo data set.
const MARKER: &str = "demo.json";
const THREADS: usize = 2;

/// The version and the options that a demo data set was made with.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Marker<O> {
    /// Incremented whenever the files change.
    pub version: u32,
    pub options: O,
}

/// Calls `write` to fill the folder that becomes `dir`, unless the demo data set of `marker` exists already. It is written
/// next to `dir` and renamed at the end, so that `dir` is never half-written.
///
/// # Errors
/// A folder `dir` that holds something else, which stays untouched; an error of `write`; a file that cannot be
/// written. Nothing is left behind.
pub(crate) fn write_whole<O>(dir: &Path, marker: &Marker<O>, write: impl FnOnce(&Path) -> Result<()>) -> Result<()>
where
    O: PartialEq + Serialize + DeserializeOwned,
{
    if is_written(dir, marker)? {
        return Ok(());
    }
    let (unfinished, _lock) = make_folder_beside(dir)?;
    let filled = write(&unfinished).and_then(|()| write_marker(&unfinished, marker));
    let written = filled.and_then(|()| match fs::rename(&unfinished, dir) {
        Ok(()) => Ok(true),
        // Another process may have been faster.
        Err(_) if is_written(dir, marker)? => Ok(false),
        Err(source) => Err(Error::io("put the demo data set in place at", dir, source)),
    });
    if !matches!(written, Ok(true)) {
        // This process has just made the folder. Only the first error matters.
        let _ = fs::remove_dir_all(&unfinished);
    }
    written.map(|_| ())
}

/// Calls `write` for each of `samples`, on two threads, and `progress` with (samples done, samples in all) after each.
///
/// # Errors
/// The first error of `write`; the rest is not begun.
pub(crate) fn write_each<S: Sync>(
    samples: &[S],
    mut progress: impl FnMut(u64, u64),
    write: impl Fn(&S) -> Result<()> + Sync,
) -> Result<()> {
    let write = &write;
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for thread in 0..THREADS {
            let sender = sender.clone();
            scope.spawn(move || {
                for sample in samples.iter().skip(thread).step_by(THREADS) {
                    let result = write(sample);
                    let failed = result.is_err();
                    // The receiver is gone once the other thread has failed.
                    if sender.send(result).is_err() || failed {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (done, result) in (1..).zip(receiver) {
            result?;
            progress(done, samples.len() as u64);
        }
        Ok(())
    })
}

/// True if `dir` is this demo data set, false if it is absent or empty; an error if it is something else.
fn is_written<O: PartialEq + DeserializeOwned>(dir: &Path, wanted: &Marker<O>) -> Result<bool> {
    let foreign = |problem: &str| {
        Err(Error::dataset(dir, problem, "Choose another folder, or remove this one if nobody needs it any more"))
    };
    match fs::read(dir.join(MARKER)) {
        Ok(bytes) => match serde_json::from_slice::<Marker<O>>(&bytes) {
            Ok(marker) if marker == *wanted => Ok(true),
            _ => foreign("this folder holds a demo data set made with other options or by another version"),
        },
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => match fs::read_dir(dir).map(Iterator::count) {
            Ok(0) => Ok(false),
            Ok(_) => foreign("the demo data set would go here, but the folder holds something else"),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::io("look into", dir, source)),
        },
        Err(source) => Err(Error::io("look into", dir, source)),
    }
}

fn write_marker<O: Serialize>(folder: &Path, marker: &Marker<O>) -> Result<()> {
    let path = folder.join(MARKER);
    let text = serde_json::to_string_pretty(marker).map_err(|error| Error::io("write", &path, error.into()))?;
    fs::write(&path, text + "\n").map_err(|source| Error::io("write", path, source))
}

/// Makes a new folder `dir.tmp-<pid>` on the file system of `dir`, and a lock that marks it as in use. Removes the leftovers
/// of killed processes first.
fn make_folder_beside(dir: &Path) -> Result<(PathBuf, Option<File>)> {
    let dir = std::path::absolute(dir).map_err(|source| Error::io("find", dir, source))?;
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(Error::dataset(dir, "the demo data set cannot be written here", "Name a new folder for it"));
    };
    fs::create_dir_all(parent).map_err(|source| Error::io("make the folder", parent, source))?;
    remove_leftovers(parent, name);
    let mut serial = 0;
    loop {
        let mut name = name.to_owned();
        name.push(format!(".tmp-{}", std::process::id()));
        if serial > 0 {
            name.push(format!("-{serial}"));
        }
        let folder = parent.join(name);
        match fs::create_dir(&folder) {
            // The kernel releases the lock when this process ends in any way.
            Ok(()) => return Ok((folder.clone(), File::open(&folder).ok().filter(|open| open.try_lock().is_ok()))),
            // Left by a killed process of the same number; in containers that is not rare.
            Err(source) if source.kind() == std::io::ErrorKind::AlreadyExists => serial += 1,
            Err(source) => return Err(Error::io("make the folder", folder, source)),
        }
    }
}

/// Linux gives no process a higher number.
const PID_MAX: u32 = 1 << 22;

/// True if there is a process of this number; one that was killed, and whose parent has not asked how it ended, does not live.
fn lives(pid: u32) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    // The name before the state may hold anything, and is in brackets.
    let is_dead = |text: String| text.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']);
    process.exists() && !fs::read_to_string(process.join("stat")).is_ok_and(is_dead)
}

/// Removes `<name>.tmp-<pid>` in `parent` if its process has ended; if that is unknown (another machine may have made it),
/// it stays. Prints what it removes.
fn remove_leftovers(parent: &Path, name: &OsStr) {
    let prefix = format!("{}.tmp-", name.display());
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let Some(rest) = file_name.to_str().and_then(|name| name.strip_prefix(&prefix)) else { continue };
        // The process id, perhaps with a serial number; anything else, such as a date, is a name that a person gave.
        let (pid, serial) = rest.split_once('-').unwrap_or((rest, "0"));
        let (Ok(pid), Ok(_)) = (pid.parse::<u32>(), serial.parse::<u32>()) else { continue };
        if pid > PID_MAX {
            continue;
        }
        // Between making the folder and locking it a process has no lock, but it lives.
        let may_live = pid != std::process::id() && lives(pid);
        let is_free = |path: &Path| File::open(path).is_ok_and(|folder| folder.try_lock().is_ok());
        let path = entry.path();
        let what = if may_live || !locks_reach_everyone(&path) || !is_free(&path) {
            "may still be written by another process, and stays"
        } else {
            match fs::remove_dir_all(&path) {
                Ok(()) => "was left by a process that was killed, and is removed",
                Err(_) => "was left by a process that was killed, and cannot be removed",
            }
        };
        feedline::say!("note         {} {what}", path.display());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Every file below `dir` with its bytes.
    pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![dir.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                    found.insert(name, fs::read(path).unwrap());
                }
            }
        }
        found
    }

    #[test]
    fn an_error_while_writing_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let marker = Marker { version: 1, options: 7 };
        let error = write_whole(&dir.path().join("data"), &marker, |folder| {
            write_each(
                &[0, 1, 2, 3, 4],
                |_, _| (),
                |sample| {
                    fs::write(folder.join(sample.to_string()), "").unwrap();
                    if *sample == 2 { Err(Error::config("the third fails", "Nothing")) } else { Ok(()) }
                },
            )
        });
        assert!(error.unwrap_err().to_string().contains("the third fails"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_no_other_process_is_disturbed() {
        let dir = tempfile::tempdir().unwrap();
        if !locks_reach_everyone(dir.path()) {
            eprintln!("skipped: {} may be shared with other machines", dir.path().display());
            return;
        }
        let names = [
            "data.tmp-4194302",
            "data.tmp-4194302-1",
            "data.tmp-1",
            "data.tmp-4194303",
            "data.tmp-x",
            "data.tmp-20241130",
            "data.tmp-2-of-mine",
            "data2.tmp-4194302",
        ];
        for name in names {
            fs::create_dir_all(dir.path().join(name).join("train")).unwrap();
        }
        // Killed, and still in the table of processes: nobody has asked how it ended.
        let mut killed = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        killed.kill().unwrap();
        while lives(killed.id()) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        fs::create_dir(dir.path().join(format!("data.tmp-{}", killed.id()))).unwrap();
        // Of a container whose processes are not seen here.
        let other = File::open(dir.path().join("data.tmp-4194303")).unwrap();
        other.try_lock().unwrap();
        write_whole(&dir.path().join("data"), &Marker { version: 1, options: 7 }, |_| Ok(())).unwrap();
        killed.wait().unwrap();
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(
            left,
            [
                "data",
                "data.tmp-1",
                "data.tmp-2-of-mine",
                "data.tmp-20241130",
                "data.tmp-4194303",
                "data.tmp-x",
                "data2.tmp-4194302"
            ]
        );
    }
}
