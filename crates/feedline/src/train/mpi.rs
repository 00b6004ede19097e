//! Ranks as processes that MPI started (Open MPI 4.1 was tried). Owns the translation of [`Group`] into MPI's calls and
//! the watch over calls that never return.
#![expect(clippy::disallowed_methods, reason = "bounds the wait for other ranks")]

use super::group::{Group, TIMEOUT_VARIABLE};
use crate::error::{Error, Result};
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Destination, Equivalence, Root, Source};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes per reduction call. Of 1, 2, 4 and 25 MiB and everything at once this was the fastest between two ranks of one
/// machine (docs/decisions/0016-ranks.md); below 1 MiB the number of calls would matter on a slow network.
const BUCKET_BYTES: usize = 1 << 20;

/// Default timeout of a collective: as long as other frameworks wait.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The exit code of a process whose collective took too long.
const TIMED_OUT: i32 = 9;

/// The processes of an MPI job. A rank that panics ends all of them: otherwise its orderly exit would wait for the
/// others, which wait for it.
pub struct MpiGroup {
    rank: u64,
    world_size: u64,
    watch: Arc<Watch>,
    /// Dropping it finalizes MPI.
    universe: Mutex<Option<Universe>>,
}

/// The start time of the running collective, for the watchdog thread.
struct Watch {
    epoch: Instant,
    /// Milliseconds since `epoch`, plus 1; 0 between collectives.
    began_ms: AtomicU64,
}

impl MpiGroup {
    /// Joins the job that this process belongs to. Call it once, on the thread that will call the group's methods.
    ///
    /// # Errors
    /// MPI was initialised before, or the timeout in [`TIMEOUT_VARIABLE`] is no number.
    pub fn start() -> Result<MpiGroup> {
        let timeout = match std::env::var(TIMEOUT_VARIABLE) {
            Ok(text) => match text.parse::<f64>().ok().and_then(|s| Duration::try_from_secs_f64(s).ok()) {
                Some(timeout) => timeout,
                None => {
                    return Err(Error::config(
                        format!("{TIMEOUT_VARIABLE} is {text:?}"),
                        "It is the number of seconds that ranks wait for each other",
                    ));
                }
            },
            Err(_) => TIMEOUT,
        };
        let universe = mpi::initialize()
            .ok_or_else(|| Error::group("MPI was begun a second time in this process", "Join once"))?;
        let world = universe.world();
        let (rank, world_size) = (world.rank() as u64, world.size() as u64);
        let watch = Arc::new(Watch { epoch: Instant::now(), began_ms: AtomicU64::new(0) });
        let watched = Arc::downgrade(&watch);
        std::thread::spawn(move || {
            while let Some(watch) = watched.upgrade() {
                let (began, now) = (watch.began_ms.load(Ordering::Relaxed), watch.epoch.elapsed());
                if began > 0 && now.saturating_sub(Duration::from_millis(began)) > timeout {
                    crate::say!(
                        "error: rank {rank} of {world_size}: no answer from the other ranks for {timeout:?}: one of \
                         them has died or the network is cut. The last checkpoint is as it was; go on with --resume"
                    );
                    std::process::exit(TIMED_OUT);
                }
                drop(watch);
                std::thread::sleep(Duration::from_millis(100).min(timeout / 4));
            }
        });
        Ok(MpiGroup { rank, world_size, watch, universe: Mutex::new(Some(universe)) })
    }

    /// Makes an MPI call under the watchdog.
    fn meet<T>(&self, call: impl FnOnce(&SimpleCommunicator) -> T) -> T {
        let now = self.watch.epoch.elapsed().as_millis() as u64 + 1;
        self.watch.began_ms.store(now, Ordering::Relaxed);
        let result = call(&SimpleCommunicator::world());
        self.watch.began_ms.store(0, Ordering::Relaxed);
        result
    }

    fn all_reduce<T: Equivalence + Copy>(&self, values: &mut [T]) {
        let mut mine = Vec::new();
        for bucket in values.chunks_mut(BUCKET_BYTES / size_of::<T>()) {
            mine.clear();
            mine.extend_from_slice(bucket);
            self.meet(|world| world.all_reduce_into(&mine[..], bucket, SystemOperation::sum()));
        }
    }
}

impl Drop for MpiGroup {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abort(TIMED_OUT);
        }
        // Finalize is collective: it blocks until all ranks call it.
        let universe = self.universe.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.meet(|_| drop(universe));
    }
}

impl Group for MpiGroup {
    fn rank(&self) -> u64 {
        self.rank
    }

    fn world_size(&self) -> u64 {
        self.world_size
    }

    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()> {
        self.all_reduce(values);
        Ok(())
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        self.all_reduce(values);
        Ok(())
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<()> {
        let mut length = bytes.len() as u64;
        self.meet(|world| world.process_at_rank(0).broadcast_into(&mut length));
        bytes.resize(length as usize, 0);
        for bucket in bytes.chunks_mut(BUCKET_BYTES) {
            self.meet(|world| world.process_at_rank(0).broadcast_into(bucket));
        }
        Ok(())
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        // Point-to-point messages, since their lengths need not be known in advance.
        self.meet(|world| {
            if self.rank > 0 {
                world.process_at_rank(0).send(bytes);
                return Ok(Vec::new());
            }
            let others = 1..world.size();
            let theirs = others.map(|rank| world.process_at_rank(rank).receive_vec::<u8>().0);
            Ok(std::iter::once(bytes.to_vec()).chain(theirs).collect())
        })
    }

    fn barrier(&self) -> Result<()> {
        self.meet(|world| world.barrier());
        Ok(())
    }

    fn abort(&self, exit_code: i32) {
        SimpleCommunicator::world().abort(exit_code)
    }
}
