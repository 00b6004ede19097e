//! The folder of a cache on disk, which several users may share: its permissions, and the one lock on it. Knows the
//! names and sizes of entries, not their content.
//!
//! Anyone who may write there may be hostile. So each name is opened relative to a handle of the folder, and no link is
//! followed except in the configured path itself: nothing outside is written or removed, and a pipe placed there blocks
//! no reader. A lock that is never released costs one wait, and then cache space, and nothing else.

use crate::error::{Error, Result};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, futimens, linkat, mkdirat, openat,
    renameat, statat, unlinkat,
};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, Metadata, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The folder inside the configured one; nothing outside of it is ever touched.
const FOLDER: &str = "feedline-cache-1";

/// Maximum wait for the lock of other processes. They hold it for milliseconds, or for seconds to count a million
/// entries.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// After a failed wait, the lock is not tried again for this time, and no entries are added.
const LOCK_REST: Duration = Duration::from_secs(60);

/// The users who share a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// One user.
    #[default]
    Private,
    /// The group of the folder; any member may evict entries of the others.
    Group,
    /// All users of the machine; each evicts only entries of their own.
    All,
}

impl CacheMode {
    /// Permissions of folders: the set-group-ID bit hands the group down, the sticky bit keeps users from removing
    /// others' files.
    fn of_folders(self) -> u32 {
        match self {
            CacheMode::Private => 0o700,
            CacheMode::Group => 0o2770,
            CacheMode::All => 0o1777,
        }
    }

    /// Permissions of entries. A user who may only read an entry cannot record its use.
    fn of_entries(self) -> u32 {
        match self {
            CacheMode::Private => 0o600,
            CacheMode::Group => 0o660,
            CacheMode::All => 0o644,
        }
    }

    /// Permissions of the count of bytes.
    fn of_usage(self) -> u32 {
        self.of_folders() & 0o666
    }
}

/// A handle of the folder.
#[derive(Debug)]
pub(in crate::read) struct CacheFolder {
    path: PathBuf,
    root: File,
    mode: CacheMode,
    user: u32,
    /// Holds the number of bytes in use, and the lock between processes; `None` if the folder is read-only.
    usage: Option<File>,
    remark: Option<String>,
    /// A file lock covers all threads of a process, so threads need a lock of their own. Holds when to try the file
    /// lock again.
    threads: Mutex<Option<Instant>>,
}

/// The metadata of an entry.
pub(in crate::read) struct Found {
    pub(in crate::read) size_bytes: u64,
    pub(in crate::read) changed: SystemTime,
    /// True if this user may remove it.
    pub(in crate::read) is_removable: bool,
}

impl CacheFolder {
    /// Opens the folder of the cache in `dir`, and creates it if it does not exist.
    ///
    /// # Errors
    /// A folder that can be neither created nor read, or that belongs to another user in mode `private`.
    pub(in crate::read) fn open(dir: &Path, mode: CacheMode) -> Result<CacheFolder> {
        let path = dir.join(FOLDER);
        let failed = |e: io::Error| Error::io("open the cache", &path, e);
        let made = fs::create_dir_all(dir).and_then(|()| DirBuilder::new().mode(mode.of_folders()).create(&path));
        if let Err(e) = made
            && e.kind() != ErrorKind::AlreadyExists
            && fs::symlink_metadata(&path).is_err()
        {
            return Err(failed(e));
        }
        let user = user().map_err(failed)?;
        // Root may use any user's folder; inside a container, root is often another user outside.
        let is_trusted = |metadata: &Metadata| user == 0 || metadata.uid() == user || metadata.uid() == 0;
        let link = fs::symlink_metadata(&path).map_err(failed)?;
        let is_link = link.is_symlink();
        if is_link && !is_trusted(&link) {
            let problem = format!("the cache {} is a link that another user has made", path.display());
            return Err(Error::config(problem, "Remove it, or choose another storage.cache_dir"));
        }
        let follow = if is_link { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | follow;
        let root = File::from(openat(CWD, &path, flags, Mode::empty()).map_err(|e| failed(e.into()))?);
        let metadata = root.metadata().map_err(failed)?;
        let mut remark = None;
        let mut is_widened = false;
        if mode == CacheMode::Private && !is_trusted(&metadata) {
            return Err(Error::config(
                format!("the cache {} belongs to another user, and storage.cache_mode is \"private\"", path.display()),
                "Choose a storage.cache_dir of your own; or, if you trust all who may write there, say storage.cache_mode = \
                 \"group\" or \"all\"",
            ));
        } else if mode == CacheMode::Private && metadata.mode() & 0o022 != 0 {
            remark = Some(format!(
                "others may write to the cache {} (mode {:o}), though storage.cache_mode is \"private\"; say \"group\" or \
                 \"all\" if they are meant to, else: chmod -R go-w {0}",
                path.display(),
                metadata.mode() & 0o7777
            ));
        } else if mode != CacheMode::Private && metadata.uid() == user {
            is_widened = widen(&root, &metadata, mode).map_err(failed)?;
        }
        let mut folder = CacheFolder { path, root, mode, user, usage: None, remark, threads: Mutex::default() };
        match folder.furnish(is_widened) {
            Ok(usage) => folder.usage = Some(usage),
            Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                let path = folder.path.display();
                folder.remark = Some(format!(
                    "the cache {path} cannot be written to ({e}): what is in it is used, and nothing is added"
                ));
            }
            Err(e) => return Err(Error::io("open the cache", &folder.path, e)),
        }
        Ok(folder)
    }

    /// Creates the contents of the folder, and opens the byte count.
    fn furnish(&self, is_widened: bool) -> io::Result<File> {
        for part in 0..=255u8 {
            let name = format!("{part:02x}");
            let is_new = match mkdirat(&self.root, &*name, Mode::from_raw_mode(self.mode.of_folders())) {
                Ok(()) => true,
                Err(rustix::io::Errno::EXIST) => false,
                Err(e) => return Err(e.into()),
            };
            // Restores the permissions that the umask removed. Anything other than a folder keeps no entries.
            if self.mode != CacheMode::Private
                && (is_new || is_widened)
                && let Ok(part) = self.part(&name)
            {
                let metadata = part.metadata()?;
                if metadata.uid() == self.user {
                    widen(&part, &metadata, self.mode)?;
                }
            }
        }
        // Tells backup programs to skip the folder (https://bford.info/cachedir/).
        if let Ok(tag) = self.open_at("CACHEDIR.TAG", OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL) {
            tag.write_all_at(b"Signature: 8a477f597d28d172789f06886806bc55\n", 0)?;
        }
        // Without CREATE first: in a folder open to all, systems refuse to create another user's existing file.
        let opened = match self.open_at("usage", OFlags::RDWR) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                match self.open_at("usage", OFlags::RDWR | OFlags::CREATE | OFlags::EXCL) {
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => self.open_at("usage", OFlags::RDWR),
                    other => other,
                }
            }
            other => other,
        };
        let usage = opened?;
        let metadata = usage.metadata()?;
        // A hard link to another file may be an attack.
        if !metadata.is_file() || metadata.nlink() != 1 {
            return Err(io::Error::other("its file `usage` is no file of its own; remove it"));
        }
        if self.mode != CacheMode::Private && metadata.uid() == self.user {
            usage.set_permissions(Permissions::from_mode(self.mode.of_usage()))?;
        }
        Ok(usage)
    }

    fn open_at(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat(&self.root, name, flags, Mode::from_raw_mode(0o600))?.into())
    }

    /// One of the 256 folders of entries.
    fn part(&self, name: &str) -> io::Result<File> {
        self.open_at(&name[..2], OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// A warning for the user, if there is one.
    pub(in crate::read) fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// True if entries can be added.
    pub(in crate::read) fn is_writable(&self) -> bool {
        self.usage.is_some()
    }

    /// Opens an entry in its folder; refuses links in either.
    fn open_below(&self, name: &str) -> io::Result<File> {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{ResolveFlags, openat2};
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            match openat2(&self.root, format!("{}/{name}", &name[..2]), flags, Mode::empty(), within) {
                // Old kernels, and containers that forbid it.
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {}
                opened => return Ok(opened?.into()),
            }
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat(&self.part(name)?, name, flags, Mode::empty())?.into())
    }

    /// Opens an entry for reading, if it exists.
    pub(in crate::read) fn entry(&self, name: &str) -> io::Result<(File, Metadata)> {
        let file = self.open_below(name)?;
        let metadata = file.metadata()?;
        if metadata.is_file() { Ok((file, metadata)) } else { Err(ErrorKind::NotFound.into()) }
    }

    /// Records a use of the entry, if this user may.
    pub(in crate::read) fn touch(&self, entry: &File) {
        let now = || Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let _ = futimens(entry, &Timestamps { last_access: now(), last_modification: now() });
    }

    /// Begins an entry of this size under a temporary name, which is returned; counts include it from now on.
    pub(in crate::read) fn begin(&self, size_bytes: u64) -> io::Result<(File, String)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut tries = 0;
        let (file, new) = loop {
            let new = format!("new-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
            match self.open_at(&new, create) {
                // Made by a process of the same number in another container.
                Err(e) if e.kind() == ErrorKind::AlreadyExists && tries < 100 => tries += 1,
                other => break (other?, new),
            }
        };
        // Locked until it is closed, which marks it as being written.
        match file.lock().and_then(|()| file.set_len(size_bytes)) {
            Ok(()) => Ok((file, new)),
            Err(e) => {
                let _ = self.remove_new(&new);
                Err(e)
            }
        }
    }

    /// Gives a complete entry its final name; false if there is one already.
    pub(in crate::read) fn publish(&self, file: &File, new: &str, name: &str) -> io::Result<bool> {
        if self.mode != CacheMode::Private {
            file.set_permissions(Permissions::from_mode(self.mode.of_entries()))?;
        }
        let part = self.part(name)?;
        match linkat(&self.root, new, &part, name, AtFlags::empty()).map_err(io::Error::from) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            // A file system without hard links.
            Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                Ok(renameat(&self.root, new, &part, name).map(|()| true)?)
            }
            Err(e) => Err(e),
        }
    }

    pub(in crate::read) fn remove_new(&self, new: &str) -> io::Result<()> {
        Ok(unlinkat(&self.root, new, AtFlags::empty())?)
    }

    pub(in crate::read) fn remove_entry(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(self.part(name)?, name, AtFlags::empty())?)
    }

    /// True if this user may remove entries of any owner.
    pub(in crate::read) fn may_remove_all(&self) -> bool {
        let owner = || self.root.metadata().is_ok_and(|metadata| metadata.uid() == self.user);
        self.mode != CacheMode::All || self.user == 0 || owner()
    }

    /// Lists the names in one of 256 parts; `take` may call its second argument for the metadata of an entry.
    pub(in crate::read) fn entries(&self, part: u8, mut take: impl FnMut(&str, &dyn Fn() -> Option<Found>)) {
        let Ok(part) = self.part(&format!("{part:02x}")) else { return };
        let Ok(names) = Dir::read_from(&part) else { return };
        for entry in names.flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            take(name, &|| {
                let stat = statat(&part, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
                let since = Duration::new(stat.st_mtime.try_into().ok()?, stat.st_mtime_nsec as u32);
                (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then(|| Found {
                    size_bytes: stat.st_size.max(0) as u64,
                    changed: SystemTime::UNIX_EPOCH + since,
                    is_removable: stat.st_uid == self.user || self.may_remove_all(),
                })
            });
        }
    }

    /// Entries that are being written, or were when their process was killed.
    fn begun(&self) -> Vec<String> {
        let names = Dir::read_from(&self.root).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        names.filter(|name| name.starts_with("new-")).collect()
    }

    /// Bytes of the entries that are being written.
    pub(in crate::read) fn begun_bytes(&self) -> u64 {
        let size = |name: &String| statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        self.begun().iter().filter_map(size).map(|stat| stat.st_size.max(0) as u64).sum()
    }

    /// Removes unfinished entries of processes that were killed.
    pub(in crate::read) fn remove_leftovers(&self) {
        for name in self.begun() {
            let is_left =
                |file: File| file.metadata().is_ok_and(|metadata| metadata.is_file()) && file.try_lock().is_ok();
            if self.open_at(&name, OFlags::RDONLY).is_ok_and(is_left) {
                let _ = self.remove_new(&name);
            }
        }
    }

    /// Takes the lock of the folder across processes and threads. A process that dies releases it; `None` if it is not
    /// released within [`LOCK_WAIT`], and for [`LOCK_REST`] after that.
    pub(in crate::read) fn locked(&self) -> Option<Locked<'_>> {
        let usage = self.usage.as_ref()?;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let (begun, mut wait) = (Instant::now(), Duration::from_micros(50));
        while let Err(refused) = usage.try_lock() {
            // A file system without locks fails at once, each time.
            if begun.elapsed() > LOCK_WAIT || matches!(refused, TryLockError::Error(_)) {
                *threads = Some(Instant::now() + LOCK_REST);
                return None;
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(Duration::from_micros(400));
        }
        *threads = None;
        Some(Locked { usage, _threads: threads })
    }
}

/// The lock of the folder, which guards the number of bytes in use.
pub(in crate::read) struct Locked<'a> {
    usage: &'a File,
    _threads: MutexGuard<'a, Option<Instant>>,
}

impl Locked<'_> {
    pub(in crate::read) fn used_bytes(&self) -> u64 {
        let mut bytes = [0; 8];
        // A new file holds no count yet.
        self.usage.read_exact_at(&mut bytes, 0).map_or(0, |()| u64::from_le_bytes(bytes))
    }

    /// False if the count could not be written.
    pub(in crate::read) fn set_used_bytes(&self, used_bytes: u64) -> bool {
        self.usage.write_all_at(&used_bytes.to_le_bytes(), 0).is_ok()
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let _ = self.usage.unlock();
    }
}

/// Gives a folder the permissions that others need; true if some were missing.
fn widen(folder: &File, metadata: &Metadata, mode: CacheMode) -> io::Result<bool> {
    let (has, needs) = (metadata.mode() & 0o7777, mode.of_folders());
    if has & needs == needs {
        return Ok(false);
    }
    folder.set_permissions(Permissions::from_mode(has | needs)).map(|()| true)
}

/// The user that this process acts as.
fn user() -> io::Result<u32> {
    let home = || std::env::home_dir().ok_or(ErrorKind::NotFound.into()).and_then(fs::metadata);
    Ok(fs::metadata("/proc/self").or_else(|_| home())?.uid())
}
