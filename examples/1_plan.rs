//! Stage 1, plan: which sample, for which rank, in which order, and how a run goes on with another number of ranks.
//!
//!     cargo run --release -p feedline-recipes --example 1_plan

use feedline::plan::{Permutation, Plan, Tail};
use std::time::Instant;

fn main() -> feedline::Result<()> {
    println!("10 samples over 3 ranks, as torch's DistributedSampler deals them (* only fills up the ranks):");
    for (tail, name) in [(Tail::Pad, "pad"), (Tail::Drop, "drop"), (Tail::Exact, "exact")] {
        let epoch = Plan::new(10, 3)?.with_tail(tail).epoch(0);
        let ranks: Vec<String> = (0..3)
            .map(|rank| epoch.rank(rank).map(|r| format!("{}{}", r.index, if r.padded { "*" } else { "" })))
            .map(|indices| indices.collect::<Vec<_>>().join(" "))
            .collect();
        println!("  {name:<5}  {}", ranks.join("  |  "));
    }

    println!("\nStopped after 2 samples on each of 3 ranks, gone on with on 2 ranks: each sample once.");
    let before = Plan::new(10, 3)?.with_tail(Tail::Exact).epoch(0);
    let after = Plan::new(10, 2)?.with_tail(Tail::Exact).epoch_from(0, 6);
    for rank in 0..3 {
        println!("  before, rank {rank}: {:?}", before.rank(rank).take(2).map(|r| r.index).collect::<Vec<_>>());
    }
    for rank in 0..2 {
        println!("  after,  rank {rank}: {:?}", after.rank(rank).map(|r| r.index).collect::<Vec<_>>());
    }

    println!("\nThe first index of an epoch waits for nothing:");
    for (len, permutation) in [(100_000_000, Permutation::Torch), (1_000_000_000_000, Permutation::Feistel)] {
        let plan = Plan::unshuffled(len, 64)?.with_permutation(permutation)?;
        let began = Instant::now();
        let first = plan.epoch(0).at(0).index;
        println!("  {permutation:?}, {len} samples: index {first} after {:?}", began.elapsed());
    }
    Ok(())
}
