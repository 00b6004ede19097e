//! Ranks as threads of one process: for tests and trials of code meant for many processes. Slower than one process with
//! all cores; if one rank fails, all get an error.

use super::group::Group;
use crate::error::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// One rank of a group whose ranks are threads.
pub struct ThreadGroup {
    rank: usize,
    hall: Arc<Hall>,
}

/// The shared state of all ranks.
struct Hall {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The contributions to the running collective, by rank.
    brought: Vec<Option<Vec<u8>>>,
    /// The result of the last collective, and how many ranks still have to fetch it.
    outcome: Arc<Vec<Vec<u8>>>,
    to_fetch: usize,
    broken: bool,
}

impl ThreadGroup {
    /// The ranks of a group of `world_size`, one for each thread. Dropping a rank ends the group: the others get an
    /// error instead of waiting for it.
    pub fn new(world_size: usize) -> Vec<ThreadGroup> {
        let state = State { brought: vec![None; world_size], outcome: Arc::default(), to_fetch: 0, broken: false };
        let hall = Arc::new(Hall { state: Mutex::new(state), changed: Condvar::new() });
        (0..world_size).map(|rank| ThreadGroup { rank, hall: Arc::clone(&hall) }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.hall.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready`, or until the group is broken.
    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        ready: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>> {
        while !ready(&state) {
            if state.broken {
                return Err(Error::group(
                    format!("rank {}: another rank has ended", self.rank),
                    "Its own message says why",
                ));
            }
            state = self.hall.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
    }

    /// All-gather: the bytes of all ranks, in rank order.
    fn meet(&self, bytes: Vec<u8>) -> Result<Arc<Vec<Vec<u8>>>> {
        let mut state = self.wait(self.lock(), |state| state.to_fetch == 0)?;
        state.brought[self.rank] = Some(bytes);
        if state.brought.iter().all(Option::is_some) {
            state.outcome = Arc::new(state.brought.iter_mut().filter_map(Option::take).collect());
            state.to_fetch = state.brought.len();
            self.hall.changed.notify_all();
        }
        let rank = self.rank;
        let mut state = self.wait(state, |state| state.brought[rank].is_none())?;
        state.to_fetch -= 1;
        self.hall.changed.notify_all();
        Ok(Arc::clone(&state.outcome))
    }
}

impl Drop for ThreadGroup {
    fn drop(&mut self) {
        self.lock().broken = true;
        self.hall.changed.notify_all();
    }
}

macro_rules! all_reduce {
    ($name:ident, $type:ty) => {
        fn $name(&self, values: &mut [$type]) -> Result<()> {
            let all = self.meet(values.iter().flat_map(|value| value.to_le_bytes()).collect())?;
            values.fill(0.0);
            for bytes in all.iter() {
                let (parts, _) = bytes.as_chunks::<{ size_of::<$type>() }>();
                if parts.len() != values.len() {
                    let (rank, here) = (self.rank, values.len());
                    return Err(Error::group(
                        format!("rank {rank} sums up {here} values, another rank {}", parts.len()),
                        "All ranks must do the same",
                    ));
                }
                values.iter_mut().zip(parts).for_each(|(sum, part)| *sum += <$type>::from_le_bytes(*part));
            }
            Ok(())
        }
    };
}

impl Group for ThreadGroup {
    fn rank(&self) -> u64 {
        self.rank as u64
    }

    fn world_size(&self) -> u64 {
        self.lock().brought.len() as u64
    }

    all_reduce!(all_reduce_f32, f32);
    all_reduce!(all_reduce_f64, f64);

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<()> {
        let brought = if self.rank == 0 { std::mem::take(bytes) } else { Vec::new() };
        bytes.clone_from(&self.meet(brought)?[0]);
        Ok(())
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let all = self.meet(bytes.to_vec())?;
        Ok(if self.rank == 0 { all.to_vec() } else { Vec::new() })
    }

    /// The other ranks get an error at their next meeting. The process goes on: its threads are the caller's.
    fn abort(&self, _: i32) {
        self.lock().broken = true;
        self.hall.changed.notify_all();
    }
}
