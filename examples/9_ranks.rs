//! Many ranks: 4,096 of them share 10^12 samples, and any stretch of that can be checked in seconds. Then the orders
//! that are made of passes over the data set, and what an index of each costs.
//!
//!     cargo run --release -p feedline-recipes --example 9_ranks

use feedline::plan::rng::SampleRng;
use feedline::plan::{Permutation, Plan, Tail};
use std::time::Instant;

const RANKS: u64 = 4096;
const SAMPLES: u64 = 1_000_000_000_000;

fn main() -> feedline::Result<()> {
    simulate()?;
    costs()
}

/// Ranks are asked only for what is theirs; that all of it together is the data set must come out.
fn simulate() -> feedline::Result<()> {
    let keyed = |ranks| Plan::unshuffled(SAMPLES, ranks)?.with_permutation(Permutation::Feistel);
    let began = Instant::now();
    let mut rng = SampleRng::new(1, 0, 0, "windows");
    let (mut indices, mut doubled, mut missing) = (0, 0, 0);
    for epoch in 0..10 {
        // Every second epoch was begun by fewer ranks, and stopped somewhere.
        let start = if epoch % 2 == 0 { 0 } else { rng.below(SAMPLES / 3) * 3 };
        let dealt = keyed(RANKS)?.with_tail(Tail::Exact).epoch_from(epoch, start);
        let slot = rng.below(dealt.num_samples(RANKS - 1) - 64);
        let mut seen = Vec::new();
        for rank in 0..RANKS {
            seen.extend(dealt.slots(rank, slot..slot + 64).map(|request| request.index));
        }
        indices += seen.len();
        // Coverage: the samples' own places are the window's positions, all of them.
        let first = start + slot * RANKS;
        let mut places: Vec<u64> = seen.iter().filter_map(|&index| dealt.position_of(index)).collect();
        places.sort_unstable();
        missing += seen.len() - places.len();
        missing += places.iter().zip(first..).filter(|&(&place, position)| place != position).count();
        // Disjointness: no sample twice.
        seen.sort_unstable();
        doubled += seen.windows(2).filter(|pair| pair[0] == pair[1]).count();
        // Any samples at all: the rank to which a sample falls must have it.
        for _ in 0..10_000 {
            let index = rng.below(SAMPLES);
            let position = dealt.position_of(index).unwrap_or(u64::MAX);
            if let Some(place) = position.checked_sub(start) {
                let (rank, slot) = (place % RANKS, place / RANKS);
                let found = dealt.slots(rank, slot..slot + 1).all(|request| request.index == index);
                missing += usize::from(!found || slot >= dealt.num_samples(rank));
            }
        }
    }
    println!("{RANKS} ranks, {SAMPLES} samples, 10 epochs, half of them resumed in the middle:");
    println!("  {indices} indices of windows and 100000 samples checked in {:.1?}", began.elapsed());
    println!("  {doubled} doubled, {missing} missing, {} resident at most", peak_memory());
    Ok(())
}

/// The most memory this process ever had resident; known on Linux only.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim().to_owned()
}

fn costs() -> feedline::Result<()> {
    const N: u64 = 1_000_000;
    let torch = Plan::new(N, 1)?;
    let keyed = torch.clone().with_permutation(Permutation::Feistel)?;
    let weights: Vec<f64> = (0..N).map(|i| (i % 1000) as f64).collect();
    let lengths = (0..N as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 22).collect();
    let sources: Vec<(u64, f64)> = (0..8).map(|i| (N / 8, f64::from(i + 1))).collect();
    println!("\n{N} samples, one rank, a whole epoch:");
    for (name, plan) in [
        ("torch", torch.clone()),
        ("keyed", keyed.clone()),
        ("keyed, epochs of 300,000", keyed.clone().with_epoch_length(300_000)?),
        ("keyed, 10 epochs in one", keyed.clone().with_epoch_length(10 * N)?),
        ("torch, 10 epochs merged as in OpenPCDet", torch.clone().with_merged_epochs(10)?),
        ("weighted", keyed.clone().with_weights(&weights)?),
        ("mixture of 8 sources, keyed", keyed.clone().with_mixture(&sources)?),
        ("mixture of 8 sources, torch", torch.with_mixture(&sources)?),
        ("keyed, buckets of 256 in 16,384", keyed.with_buckets(lengths, 16_384, 256)?),
    ] {
        let best = (0..3).map(|_| {
            let began = Instant::now();
            let sum = plan.epoch(1).rank(0).fold(0_u64, |sum, request| sum.wrapping_add(request.index));
            std::hint::black_box(sum);
            began.elapsed().as_secs_f64() * 1e9 / plan.epoch_len() as f64
        });
        println!("  {name:<40} {:6.1} ns an index", best.fold(f64::INFINITY, f64::min));
    }
    Ok(())
}
