//! `feedline bench --all-reduce`: how fast the ranks sum up, and whether they do it right. Started as a training would
//! be: `feedline launch --ranks 2 -- bench --all-reduce`.

use crate::exit::Done;
use feedline::train::group::Group;
use feedline::train::ranks::join;
use feedline::{Error, Result};
use std::time::{Duration, Instant};

/// Sizes in numbers of f32: from a step's loss to the gradient of a network of 25 million parameters.
const SIZES: [usize; 6] = [1, 16, 1 << 10, 256 << 10, 1 << 20, 25 << 20];

/// Repeats all sizes until `seconds` are over; each is measured once at least.
pub fn run(seconds: f64) -> Result<Done> {
    let (group, ranks) = join()?;
    let group = &*group;
    if ranks.rank == 0 {
        feedline::say!("{} ranks, {}", ranks.world_size, ranks.rule);
    }
    let began = Instant::now();
    for round in 0.. {
        for size in SIZES {
            let time = measure(group, size, round)?;
            if ranks.rank == 0 {
                let bytes = (4 * size) as f64;
                let seconds = time.as_secs_f64();
                feedline::say!("{bytes:>11} bytes  {:>10.1} us  {:>6.2} GB/s", seconds * 1e6, bytes / seconds / 1e9);
            }
        }
        // Rank 0's clock decides for all.
        let mut over = [f64::from(u8::from(ranks.rank == 0 && began.elapsed().as_secs_f64() >= seconds))];
        group.all_reduce_f64(&mut over)?;
        if over[0] > 0.0 {
            break;
        }
    }
    if ranks.rank == 0 {
        feedline::say!("all sums are right, and the same on every rank");
    }
    Ok(Done::Ok)
}

/// The least time of some sums of `size` numbers, each checked.
fn measure(group: &dyn Group, size: usize, round: u64) -> Result<Duration> {
    let (rank, world_size) = (group.rank(), group.world_size());
    // Numbers whose sum does not depend on the order, and some whose sum does.
    let whole = |rank: u64, at: usize| ((at as u64 * 31 + rank * 7 + round) % 1000) as f32;
    let uneven = |rank: u64, at: usize| {
        1.0 / ((at as u64 % 977 + 3 * rank + 1) as f32) * if at.is_multiple_of(2) { 1e6 } else { -1e-3 }
    };
    let mut best = Duration::MAX;
    let mut values: Vec<f32> = vec![0.0; size];
    for _ in 0..(1 << 22) / size.clamp(1 << 14, 1 << 21) {
        (0..size).for_each(|at| values[at] = whole(rank, at));
        group.barrier()?;
        let began = Instant::now();
        group.all_reduce_f32(&mut values)?;
        best = best.min(began.elapsed());
        let right = |at: usize| (0..world_size).map(|rank| whole(rank, at)).sum::<f32>();
        if let Some(at) = (0..size).find(|&at| values[at] != right(at)) {
            return Err(Error::group(
                format!("rank {rank}: the sum of number {at} of {size} is {}, not {}", values[at], right(at)),
                "The MPI library or the network is broken",
            ));
        }
    }
    let mut sums: Vec<Vec<u8>> = Vec::new();
    for _ in 0..2 {
        (0..size).for_each(|at| values[at] = uneven(rank, at));
        group.all_reduce_f32(&mut values)?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut rank0 = bytes.clone();
        group.broadcast(&mut rank0)?;
        sums.extend([bytes, rank0]);
    }
    match sums.iter().all(|bytes| *bytes == sums[0]) {
        true => Ok(best),
        false => Err(Error::group(
            format!("rank {rank}: sums of {size} numbers differ between ranks or repetitions"),
            "Training needs an MPI library that sums in a fixed order",
        )),
    }
}
