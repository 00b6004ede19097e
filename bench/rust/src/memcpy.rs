//! The yardstick of the array works: a plain memcpy of shuffled rows into batch buffers.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::input::Rows;
use crate::{Args, report};

/// Copies every row once an epoch, in shuffled order, into two batch buffers a thread, used in turn.
pub fn run(args: &Args, from_ram: bool) -> Result<serde_json::Value, Box<dyn Error>> {
    let rows = Rows::open(&args.data)?;
    let ram = if from_ram { rows.all().to_vec() } else { Vec::new() };
    let source: &[f32] = if from_ram { &ram } else { rows.all() };
    let width = rows.width;
    let batch_len = args.batch_size * width;
    let mut buffers: Vec<[Vec<f32>; 2]> =
        (0..args.workers).map(|_| [vec![0.0; batch_len], vec![0.0; batch_len]]).collect();
    let started = Instant::now();
    report::epochs(args, started, rows.count, |epoch, mark| {
        let mut order: Vec<usize> = (0..rows.count).collect();
        fastrand::Rng::with_seed(epoch as u64).shuffle(&mut order);
        let batches: Vec<&[usize]> = order.chunks(args.batch_size).collect();
        let next = AtomicUsize::new(0);
        let done: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = buffers
                .iter_mut()
                .map(|pair| {
                    let (batches, next) = (&batches, &next);
                    scope.spawn(move || {
                        let mut done = 0;
                        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                            pair.swap(0, 1);
                            for (slot, &row) in pair[0].chunks_exact_mut(width).zip(*batch) {
                                slot.copy_from_slice(&source[row * width..(row + 1) * width]);
                            }
                            std::hint::black_box(&pair[0]);
                            done += batch.len();
                        }
                        done
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
        });
        mark();
        Ok(done)
    })
}
