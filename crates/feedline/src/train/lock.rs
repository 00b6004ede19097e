//! One process at a time works on a run folder. Owns the file `lock` in it, and the check whether its recorded holder
//! still runs; knows nothing of the other contents of the folder.
//!
//! Two things guard a folder. The kernel's lock on the file, which ends with the process, however that ends. And the words
//! in the file: for people, and for folders that several machines share, where the lock of one kernel may be unknown to
//! another. There the words decide, and where they cannot (a process of another machine), the folder is refused.
#![expect(clippy::disallowed_methods, reason = "owns the lock of a run folder, which names its time")]

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name of the file.
pub(crate) const LOCK: &str = "lock";

/// A folder that no other process works on while this value exists.
#[derive(Debug)]
pub struct FolderLock {
    dir: PathBuf,
    file: File,
    note: Option<String>,
}

/// The holder of a folder, as recorded in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Holder {
    host: String,
    pid: u32,
    /// Time when it took the folder, for people.
    since: String,
    /// Start of the process, in ticks since boot: distinguishes it from a later process with the same id.
    #[serde(default)]
    started_ticks: u64,
    /// Identify the boot of the machine and the PID namespace (container): process ids are only meaningful within
    /// these. Host names do not identify them: containers may share one.
    #[serde(default)]
    boot: String,
    #[serde(default)]
    processes: String,
}

/// The processes that the kernel's lock excludes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Reach {
    /// All that can see the folder.
    Everyone,
    /// Those of this machine, and perhaps of others.
    ThisMachine,
    /// None: the file system has no locks.
    Nobody,
}

/// State of the holder in a lock file that no other process has locked here.
#[derive(Debug, PartialEq)]
enum Verdict {
    Free,
    Ended(Holder),
    Lives(Holder),
    /// It cannot be determined from here.
    Unknown(Option<Holder>),
}

/// Time for which the lock is tried before it is refused.
const PATIENCE: Duration = Duration::from_secs(5);

impl FolderLock {
    /// Takes the folder `dir`, which must exist, for this process.
    ///
    /// # Errors
    /// Another process holds it, or may hold it; a file that cannot be written.
    pub fn take(dir: &Path) -> Result<FolderLock> {
        let path = dir.join(LOCK);
        let failed = |e: std::io::Error| Error::io("lock the folder by", &path, e);
        let (me, begun) = (Holder::of_this_process(), Instant::now());
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true);
            let (mut file, is_new) = match options.clone().create_new(true).open(&path) {
                Ok(file) => (file, true),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => match options.open(&path) {
                    Ok(file) => (file, false),
                    Err(e) if e.kind() == ErrorKind::NotFound => continue, // released a moment ago
                    Err(e) => return Err(failed(e)),
                },
                Err(e) => return Err(failed(e)),
            };
            let reach = match file.try_lock() {
                Ok(()) if locks_reach_everyone(dir) => Reach::Everyone,
                Ok(()) => Reach::ThisMachine,
                // A process that is ending releases it in a moment.
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(PATIENCE / 50);
                    continue;
                }
                Err(TryLockError::WouldBlock) => return Err(taken(dir, read(&mut file).map_err(failed)?.as_deref())),
                Err(TryLockError::Error(_)) => Reach::Nobody,
            };
            // The former holder may have removed the file since it was opened, and another process created a new one.
            if !is_at(&file, &path) {
                continue;
            }
            let words = read(&mut file).map_err(failed)?;
            let verdict = if is_new { Verdict::Free } else { judge(words.as_deref(), reach, &me) };
            let mut notes = Vec::new();
            match verdict {
                Verdict::Free => {}
                Verdict::Ended(holder) => notes.push(format!(
                    "the folder was held by {}, which has ended without giving it back; it is taken over",
                    holder.words()
                )),
                Verdict::Lives(_) => return Err(taken(dir, words.as_deref())),
                Verdict::Unknown(holder) => return Err(unknown(dir, holder)),
            }
            if reach == Reach::Nobody {
                notes.push(format!(
                    "the file system of {} has no locks (flock): the words in {LOCK} alone keep other processes out",
                    dir.display()
                ));
            }
            let text = me.text()?;
            let write = |file: &mut File| {
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                file.write_all(text.as_bytes())?;
                file.sync_all()
            };
            write(&mut file).map_err(failed)?;
            // Without locks across machines two processes may get here at once: the last writer wins.
            let now = fs::read_to_string(&path).map_err(failed)?;
            if reach != Reach::Everyone && now != text {
                return Err(taken(dir, Some(&now)));
            }
            let note = (!notes.is_empty()).then(|| notes.join("; "));
            return Ok(FolderLock { dir: dir.to_path_buf(), file, note });
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A message for the user about how the folder was taken.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        let path = self.dir.join(LOCK);
        // Removed while still locked; afterwards it might be another process's. If it stays, its text names a dead
        // process.
        if is_at(&self.file, &path) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// The text of a lock file, `None` if it is not UTF-8.
fn read(file: &mut File) -> std::io::Result<Option<String>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(1 << 16).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes).ok())
}

/// True if `path` is this open file.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(path)) => (file.dev(), file.ino()) == (path.dev(), path.ino()),
        _ => false,
    }
}

fn judge(words: Option<&str>, reach: Reach, me: &Holder) -> Verdict {
    let holder = words.and_then(|words| toml::from_str::<Holder>(words).ok());
    match holder {
        // Its process ended between creating and writing it, or is about to write.
        None if reach != Reach::Nobody && words == Some("") => Verdict::Free,
        None if reach == Reach::Everyone => Verdict::Free,
        None => Verdict::Unknown(None),
        Some(holder) if reach == Reach::Everyone => Verdict::Ended(holder),
        Some(holder) if holder.is_where(me) => {
            let is_me = (holder.pid, holder.started_ticks) == (me.pid, me.started_ticks);
            match started_ticks(holder.pid) {
                Some(ticks) if ticks == holder.started_ticks && !is_me => Verdict::Lives(holder),
                _ => Verdict::Ended(holder),
            }
        }
        Some(holder) => Verdict::Unknown(Some(holder)),
    }
}

fn taken(dir: &Path, words: Option<&str>) -> Error {
    let holder = words.and_then(|words| toml::from_str::<Holder>(words).ok());
    let (who, how) = match holder {
        Some(holder) => (holder.words(), format!(" (kill -TERM {} on {} saves a checkpoint)", holder.pid, holder.host)),
        None => ("another process".into(), String::new()),
    };
    Error::config(
        format!("the run in {} is under way: it is held by {who}", dir.display()),
        format!("Two processes must not write one run: wait for its end, or stop it{how}"),
    )
}

fn unknown(dir: &Path, holder: Option<Holder>) -> Error {
    let who = holder.map_or("the file does not say by whom".into(), |holder| format!("by {}", holder.words()));
    Error::config(
        format!(
            "the run in {} is held ({who}), and from this machine or container it cannot be seen whether that process lives",
            dir.display()
        ),
        format!("If it has ended for certain, remove {}; if not, wait for its end", dir.join(LOCK).display()),
    )
}

impl Holder {
    fn of_this_process() -> Holder {
        let first_line = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let host = first_line("/proc/sys/kernel/hostname").or_else(|| {
            let output = std::process::Command::new("uname").arg("-n").output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        });
        let processes = fs::read_link("/proc/self/ns/pid").map_or(String::new(), |name| name.display().to_string());
        let pid = std::process::id();
        Holder {
            host: host.unwrap_or_else(|| "an unknown machine".into()),
            pid,
            since: format!("{:.0}", jiff::Timestamp::now()),
            started_ticks: started_ticks(pid).unwrap_or(0),
            boot: first_line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            processes,
        }
    }

    /// True if its process belongs to the same boot and PID namespace as `me`.
    fn is_where(&self, me: &Holder) -> bool {
        !me.boot.is_empty() && !me.processes.is_empty() && (&self.boot, &self.processes) == (&me.boot, &me.processes)
    }

    fn words(&self) -> String {
        format!("process {} on {}, since {}", self.pid, self.host, self.since)
    }

    fn text(&self) -> Result<String> {
        let text = toml::to_string(self)
            .map_err(|e| Error::train(format!("the lock cannot be written as TOML: {e}"), "Please report this"))?;
        Ok(format!(
            "# This process trains the run in this folder. Remove the file only if it has ended for certain.\n{text}"
        ))
    }
}

/// Start of a process of this machine and container, in ticks since boot; `None` if it has ended.
fn started_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything. Then the state; the start is the twentieth field.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(ticks)
}

/// File systems that only one kernel mounts, so that its locks cover all users.
const LOCAL: [&str; 11] =
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "tmpfs", "overlay", "ramfs", "bcachefs"];

/// True if a kernel lock on a file in `dir` is visible to everyone who can see the folder: it is on a local file
/// system, or on one whose locks hold across machines.
pub fn locks_reach_everyone(dir: &Path) -> bool {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return cfg!(not(target_os = "linux")) };
    let Ok(dir) = dir.canonicalize() else { return false };
    reach_everyone(&mounts, &dir)
}

fn reach_everyone(mounts: &str, dir: &Path) -> bool {
    let mount = |line: &str| {
        let (mount, of) = line.split_once(" - ")?;
        let mut of = of.split(' ');
        let (kind, mut options) = (of.next()?, of.nth(1).unwrap_or_default().split(','));
        let reaches = match kind {
            "nfs" | "nfs4" => options.any(|option| option == "local_lock=none"),
            "lustre" => options.any(|option| option == "flock"),
            _ => kind == "ceph" || LOCAL.contains(&kind),
        };
        let point = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
            .iter()
            .fold(mount.split(' ').nth(4)?.to_owned(), |point, (code, character)| point.replace(code, character));
        dir.starts_with(&point).then(|| (Path::new(&point).iter().count(), reaches))
    };
    // The deepest mount; of several at one place the last, which hides the others.
    mounts.lines().filter_map(mount).max_by_key(|(depth, _)| *depth).is_some_and(|(_, reaches)| reaches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(dir.path()).unwrap();
        assert_eq!(lock.note(), None);
        let words = fs::read_to_string(dir.path().join(LOCK)).unwrap();
        assert!(words.contains(&format!("pid = {}", std::process::id())) && words.contains("since = \"20"), "{words}");
        let error = FolderLock::take(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("is under way") && error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(lock);
        assert!(!dir.path().join(LOCK).exists());
        FolderLock::take(dir.path()).unwrap();
    }

    #[test]
    fn the_words_decide_where_the_kernel_cannot() {
        let me = Holder::of_this_process();
        let judged = |holder: &Holder, reach| judge(Some(&holder.text().unwrap()), reach, &me);
        let (shared, none) = (Reach::ThisMachine, Reach::Nobody);
        // Process 1 always runs.
        let init = Holder { pid: 1, started_ticks: started_ticks(1).unwrap(), ..me.clone() };
        assert_eq!(judged(&init, shared), Verdict::Lives(init.clone()));
        assert_eq!(judged(&init, none), Verdict::Lives(init.clone()));
        let reused = Holder { started_ticks: init.started_ticks + 1, ..init.clone() };
        assert_eq!(judged(&reused, shared), Verdict::Ended(reused.clone()));
        let dead = Holder { pid: u32::MAX, ..me.clone() };
        assert_eq!(judged(&dead, none), Verdict::Ended(dead.clone()));
        // The same pid on another machine, and in another container on this one.
        let elsewhere = Holder { boot: "other".into(), ..init.clone() };
        assert_eq!(judged(&elsewhere, shared), Verdict::Unknown(Some(elsewhere.clone())));
        let container = Holder { processes: "pid:[1]".into(), ..init.clone() };
        assert_eq!(judged(&container, shared), Verdict::Unknown(Some(container.clone())));
        // On a local disk, and where locks hold across machines, the kernel's lock decides.
        assert_eq!(judged(&elsewhere, Reach::Everyone), Verdict::Ended(elsewhere));
        assert_eq!(judge(Some(""), shared, &me), Verdict::Free);
        assert_eq!(judge(Some(""), none, &me), Verdict::Unknown(None));
        assert_eq!(judge(Some("pid ="), shared, &me), Verdict::Unknown(None));
        let error = unknown(Path::new("runs/a"), Some(container)).to_string();
        assert!(error.contains("remove runs/a/lock") && error.contains("process 1 on"), "{error}");
    }

    #[test]
    fn what_a_killed_process_left_is_taken_over_with_a_word() {
        let dir = tempfile::tempdir().unwrap();
        if !locks_reach_everyone(dir.path()) {
            eprintln!("skipped: {} may be shared with other machines", dir.path().display());
            return;
        }
        let dead = Holder { pid: 4_000_000_000, ..Holder::of_this_process() };
        fs::write(dir.path().join(LOCK), dead.text().unwrap()).unwrap();
        let lock = FolderLock::take(dir.path()).unwrap();
        let note = lock.note().unwrap();
        assert!(note.contains("process 4000000000 on") && note.contains("taken over"), "{note}");
    }

    #[test]
    fn a_lock_is_trusted_where_no_machine_is_left_out() {
        let mounts = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            40 27 0:50 / /nfs rw shared:1 - nfs4 host:/x rw,vers=4.2,local_lock=none,addr=10.0.0.1\n\
            41 27 0:51 / /old\\040nfs rw - nfs host:/y rw,vers=3,nolock,local_lock=all\n\
            42 27 0:52 / /lustre rw - lustre mgs:/l rw,flock,lazystatfs\n\
            43 27 0:53 / /lustre2 rw - lustre mgs:/m rw,localflock\n\
            44 27 0:54 / /bucket rw - fuse.s3fs s3fs rw\n\
            45 40 0:55 / /nfs/scratch rw - fuse.s3fs s3fs rw\n";
        for (dir, expect) in [
            ("/home/me/runs", true),
            ("/nfs/runs", true),
            ("/nfs/scratch/runs", false),
            ("/nfsx/runs", true),
            ("/old nfs/runs", false),
            ("/lustre/runs", true),
            ("/lustre2/runs", false),
            ("/bucket", false),
        ] {
            assert_eq!(reach_everyone(mounts, Path::new(dir)), expect, "{dir}");
        }
        assert!(!reach_everyone("", Path::new("/")));
    }
}
