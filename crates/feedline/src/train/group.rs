//! The ranks of a run as one group: the collectives of processes that train together. Owns the contract and the group
//! of one; knows nothing of models, data or how ranks were started.

use crate::error::Result;

/// Environment variable with the seconds that ranks wait for each other before they give up; 600 if unset.
pub const TIMEOUT_VARIABLE: &str = "FEEDLINE_GROUP_TIMEOUT_S";

/// Processes that train together. Every method but `rank`, `world_size` and `abort` is a collective: all ranks call the
/// same ones in the same order with the same lengths, and each waits for the others.
///
/// Sums are bit for bit equal on every rank, and on a repetition with the same number of ranks.
///
/// # Errors
/// Every method fails if another rank has died or cannot be reached; the group is unusable after that.
pub trait Group: Send + Sync {
    /// The number of this process, from 0, below the world size.
    fn rank(&self) -> u64;

    /// Number of processes, at least 1.
    fn world_size(&self) -> u64;

    /// Replaces every value by its sum over the ranks.
    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()>;

    /// As [`Group::all_reduce_f32`].
    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()>;

    /// Replaces the bytes of every rank by those of rank 0, whatever their length.
    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<()>;

    /// The bytes of all ranks in rank order, on rank 0; empty on the others.
    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Returns once every rank has called it.
    fn barrier(&self) -> Result<()>;

    /// Ends the processes of all ranks at once, this one with `exit_code`: for a rank that cannot continue while the
    /// others wait for it. A group of one has no other ranks to end: it returns.
    fn abort(&self, exit_code: i32);
}

/// The group of one process.
#[derive(Debug, Clone, Copy, Default)]
pub struct SingleRank;

impl Group for SingleRank {
    fn rank(&self) -> u64 {
        0
    }

    fn world_size(&self) -> u64 {
        1
    }

    fn all_reduce_f32(&self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn all_reduce_f64(&self, _: &mut [f64]) -> Result<()> {
        Ok(())
    }

    fn broadcast(&self, _: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![bytes.to_vec()])
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }

    fn abort(&self, _: i32) {}
}
