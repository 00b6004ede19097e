//! Checks before ranks train together: that all have the same run, and how a batch is split among them.

use super::group::Group;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Compares the ranks: `facts` are names and values that must be equal on all ranks; the names and their order must be,
/// too.
///
/// # Errors
/// On every rank: the first rank that differs from rank 0, the fact, and both values.
pub fn check_consistent(group: &dyn Group, facts: &[(&str, String)]) -> Result<()> {
    // Lengths first, so that no value can be mistaken for the next name.
    let bytes: Vec<u8> = facts
        .iter()
        .flat_map(|(_, value)| (value.len() as u64).to_le_bytes().into_iter().chain(value.bytes()))
        .collect();
    let all = group.gather(&bytes)?;
    let mut verdict = Vec::new();
    if let Some((rank, theirs)) = (0..).zip(&all).find(|(_, theirs)| **theirs != bytes) {
        let theirs = values(theirs);
        let differs = (0..facts.len()).find(|at| theirs.get(*at) != Some(&facts[*at].1));
        verdict = match differs {
            Some(at) => format!(
                "rank {rank} differs from rank 0 in {}: {:?} there, {:?} on rank 0",
                facts[at].0,
                theirs.get(at).map_or("nothing", String::as_str),
                facts[at].1
            ),
            None => format!("rank {rank} has other facts than rank 0"),
        }
        .into_bytes();
    }
    group.broadcast(&mut verdict)?;
    if verdict.is_empty() {
        return Ok(());
    }
    Err(Error::group(
        String::from_utf8_lossy(&verdict).into_owned(),
        "All ranks must have the same data, settings and version; nothing was trained",
    ))
}

fn values(mut bytes: &[u8]) -> Vec<String> {
    let mut values = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (value, rest) = rest.split_at(rest.len().min(u64::from_le_bytes(*length) as usize));
        values.push(String::from_utf8_lossy(value).into_owned());
        bytes = rest;
    }
    values
}

/// Handling of a global batch size that is not a multiple of the number of ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchSplit {
    /// An error: the run would not be the one that was asked for.
    Exact,
    /// Each rank gets the quotient, rounded down, so the global batch is smaller (bubbliiiing's `batch_size // ngpus`).
    Floor,
}

/// A rank's share of the global batch size.
///
/// # Errors
/// A batch that does not divide, with the nearest ones that do; fewer samples than ranks.
pub fn split_batch(batch_size: u64, world_size: u64, split: BatchSplit) -> Result<u64> {
    let share = batch_size / world_size;
    if batch_size.is_multiple_of(world_size) || (split == BatchSplit::Floor && share > 0) {
        return Ok(share);
    }
    let above = format!("{}", (share + 1) * world_size);
    let nearest = if share == 0 { above } else { format!("{} or {above}", share * world_size) };
    Err(Error::config(
        format!("a batch of {batch_size} does not divide by {world_size} ranks"),
        format!("Use {nearest}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::threads::ThreadGroup;

    #[test]
    fn a_batch_is_split_exactly_or_the_nearest_sizes_are_named() {
        assert_eq!(split_batch(32, 4, BatchSplit::Exact).unwrap(), 8);
        let error = split_batch(32, 3, BatchSplit::Exact).unwrap_err().to_string();
        assert!(error.contains("32 does not divide by 3 ranks") && error.contains("30 or 33"), "{error}");
        assert_eq!(split_batch(32, 3, BatchSplit::Floor).unwrap(), 10);
        for split in [BatchSplit::Exact, BatchSplit::Floor] {
            let error = split_batch(2, 3, split).unwrap_err().to_string();
            assert!(error.contains("Use 3"), "{error}");
        }
    }

    #[test]
    fn the_rank_and_the_fact_that_differ_are_named_on_every_rank() {
        let run = |seeds: [u64; 3]| -> Vec<Option<String>> {
            std::thread::scope(|scope| {
                let ranks: Vec<_> = ThreadGroup::new(3)
                    .into_iter()
                    .zip(seeds)
                    .map(|(group, seed)| {
                        let facts = [("data", "d".into()), ("seed", seed.to_string())];
                        scope.spawn(move || {
                            let result = check_consistent(&group, &facts);
                            group.barrier().unwrap();
                            result.err().map(|error| error.to_string())
                        })
                    })
                    .collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
            })
        };
        assert_eq!(run([7, 7, 7]), [None, None, None]);
        let errors = run([7, 7, 8]);
        for error in errors {
            let error = error.unwrap();
            assert!(error.contains("rank 2 differs from rank 0 in seed: \"8\" there, \"7\" on rank 0"), "{error}");
        }
    }
}
