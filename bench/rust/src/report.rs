//! Times epochs and writes the JSON object that the harness reads.

use std::error::Error;
use std::time::Instant;

use crate::Args;

/// Runs one warm-up epoch and then warm ones until `args.seconds` have passed (two at least).
///
/// `epoch` runs a whole epoch, returns how many samples it delivered and calls the closure that it is
/// given when its first batch is there. `started` is the moment before the loader was built.
pub fn epochs(
    args: &Args,
    started: Instant,
    samples: usize,
    mut epoch: impl FnMut(usize, &mut dyn FnMut()) -> Result<usize, Box<dyn Error>>,
) -> Result<serde_json::Value, Box<dyn Error>> {
    let mut first_batch = None;
    let mut rates = Vec::new();
    let mut cpu_after_warm_up = 0.0;
    let mut warm_seconds = 0.0;
    while rates.len() < args.epochs && (rates.len() < 3 || warm_seconds < args.seconds) {
        let at = Instant::now();
        let mut mark = || {
            first_batch.get_or_insert_with(|| started.elapsed().as_secs_f64());
        };
        let delivered = epoch(rates.len(), &mut mark)?;
        if delivered != samples {
            return Err(format!("{delivered} of {samples} samples were delivered").into());
        }
        let seconds = at.elapsed().as_secs_f64();
        if rates.is_empty() {
            cpu_after_warm_up = cpu_seconds()?;
        } else {
            warm_seconds += seconds;
        }
        rates.push(samples as f64 / seconds);
    }
    let warm = samples * (rates.len() - 1);
    Ok(serde_json::json!({
        "images_per_second": rates,
        "first_batch_seconds": first_batch,
        "cpu_seconds_per_1000": (cpu_seconds()? - cpu_after_warm_up) * 1000.0 / warm.max(1) as f64,
    }))
}

/// CPU time of this process, all its threads, from /proc (1/100 s).
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}
