//! The ranks of a run as one group: the collectives of processes that train together. Owns the contract and the group
//! of one; knows nothing of models, data or how ranks were started.

use crate::error::{Error, Result};
use std::ops::AddAssign;

/// Environment variable with the seconds that ranks wait for each other before they give up; 600 if unset.
pub const TIMEOUT_VARIABLE: &str = "FEEDLINE_GROUP_TIMEOUT_S";

/// Processes that train together. Every method but `rank`, `world_size` and `abort` is a collective: all ranks call the
/// same ones in the same order with the same lengths, and each waits for the others.
///
/// `rank`, `world_size`, `broadcast`, `gather` and `abort` are enough. The rest is made of them, by default; a transport
/// that has something faster overrides it.
///
/// Sums come out bit for bit equal on every rank, and equal again on a repetition with the same number of ranks.
///
/// # Errors
/// Every method fails if another rank has died or cannot be reached; the group is unusable after that.
pub trait Group: Send + Sync {
    /// The number of this process, from 0, below the world size.
    fn rank(&self) -> u64;

    /// Number of processes, at least 1.
    fn world_size(&self) -> u64;

    /// Replaces every value by its sum over the ranks. By default rank 0 adds them in the order of ranks.
    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()> {
        sum_on_rank_0(self, values, f32::to_le_bytes, f32::from_le_bytes)
    }

    /// As [`Group::all_reduce_f32`].
    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        sum_on_rank_0(self, values, f64::to_le_bytes, f64::from_le_bytes)
    }

    /// Replaces the bytes of every rank by those of rank 0, whatever their length.
    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<()>;

    /// The bytes of all ranks in rank order, on rank 0; empty on the others.
    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Returns once every rank has called it.
    fn barrier(&self) -> Result<()> {
        self.gather(&[])?;
        self.broadcast(&mut Vec::new())
    }

    /// Ends the processes of all ranks at once, this one with `exit_code`: for a rank that cannot continue while the
    /// others wait for it. A group of one has no other ranks to end: it returns.
    fn abort(&self, exit_code: i32);
}

/// [`Group::all_reduce_f32`] of numbers that are `to` so many bytes and `from` them.
fn sum_on_rank_0<T: Copy + Default + AddAssign, const BYTES: usize>(
    group: &(impl Group + ?Sized),
    values: &mut [T],
    to: fn(T) -> [u8; BYTES],
    from: fn([u8; BYTES]) -> T,
) -> Result<()> {
    if group.world_size() == 1 {
        return Ok(());
    }
    let bytes = |values: &[T]| values.iter().flat_map(|value| to(*value)).collect::<Vec<u8>>();
    let mut sums = bytes(values);
    let all = group.gather(&sums)?;
    if group.rank() == 0 {
        if let Some((rank, other)) = (0..).zip(&all).find(|(_, other)| other.len() != sums.len()) {
            // The others must not wait for a sum; what they get is none of theirs.
            group.broadcast(&mut vec![0])?;
            return Err(Error::group(
                format!("rank 0 sums up {} values, rank {rank} {}", values.len(), other.len() / BYTES),
                "All ranks must do the same",
            ));
        }
        values.fill(T::default());
        for bytes in &all {
            let parts = bytes.as_chunks::<BYTES>().0;
            values.iter_mut().zip(parts).for_each(|(sum, part)| *sum += from(*part));
        }
        sums = bytes(values);
    }
    group.broadcast(&mut sums)?;
    if sums.len() != size_of_val(values) {
        return Err(Error::group(
            format!("rank {} sums up {} values, another rank another number", group.rank(), values.len()),
            "All ranks must do the same",
        ));
    }
    values.iter_mut().zip(sums.as_chunks::<BYTES>().0).for_each(|(value, sum)| *value = from(*sum));
    Ok(())
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

    fn broadcast(&self, _: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![bytes.to_vec()])
    }

    fn abort(&self, _: i32) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::threads::ThreadGroup;

    /// What must be said of a group, and no more.
    struct Least(ThreadGroup);

    impl Group for Least {
        fn rank(&self) -> u64 {
            self.0.rank()
        }
        fn world_size(&self) -> u64 {
            self.0.world_size()
        }
        fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<()> {
            self.0.broadcast(bytes)
        }
        fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
            self.0.gather(bytes)
        }
        fn abort(&self, exit_code: i32) {
            self.0.abort(exit_code);
        }
    }

    fn on_ranks<T: Send>(ranks: usize, run: impl Fn(ThreadGroup) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let ranks: Vec<_> = ThreadGroup::new(ranks).into_iter().map(|group| scope.spawn(|| run(group))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_and_barriers_by_default_are_those_of_a_group_that_has_its_own() {
        // Numbers whose sum depends on the order in which they are added.
        let sums = |group: &dyn Group| {
            let mine = [0.1, 1e16, -1e16].map(|value| value * (1.0 + group.rank() as f64 / 3.0));
            let (mut wide, mut narrow) = (mine, mine.map(|value| value as f32));
            group.all_reduce_f64(&mut wide).unwrap();
            group.barrier().unwrap();
            group.all_reduce_f32(&mut narrow).unwrap();
            group.all_reduce_f32(&mut []).unwrap();
            (wide.map(f64::to_bits), narrow.map(f32::to_bits))
        };
        for ranks in [1, 2, 5] {
            let own = on_ranks(ranks, |group| sums(&group));
            assert!(own.iter().all(|sums| *sums == own[0]));
            assert_eq!(on_ranks(ranks, |group| sums(&Least(group))), own);
        }
    }

    #[test]
    fn ranks_that_sum_up_different_numbers_of_values_get_an_error_each() {
        let errors = on_ranks(3, |group| {
            let group = Least(group);
            let mut values = vec![1.0f32; if group.rank() == 1 { 2 } else { 3 }];
            let error = group.all_reduce_f32(&mut values).unwrap_err().to_string();
            group.barrier().unwrap(); // nobody has ended before all have theirs
            error
        });
        for (error, values) in errors.iter().zip([3, 2, 3]) {
            assert!(error.contains(&format!("sums up {values} values")), "{error}");
        }
        assert!(errors[0].contains("rank 1 2"), "{}", errors[0]);
    }
}
