//! `feedline plan`: what `set_epoch` does, and who gets what.

use crate::exit::Done;
use clap::{Args as ClapArgs, ValueEnum};
use feedline::plan::{EpochPlan, Permutation, Plan, Request, Tail};
use feedline::read::read_text;
use feedline::{Error, Result};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(ClapArgs)]
pub struct Args {
    /// Number of samples of the data set
    #[arg(long, value_name = "N")]
    len: u64,
    /// Number of ranks
    #[arg(long, value_name = "W")]
    num_replicas: u64,
    /// Show only this rank
    #[arg(long)]
    rank: Option<u64>,
    /// Epoch to show; the table shows the two after it as well
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1 << 62))]
    epoch: u64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Samples in their own order
    #[arg(long)]
    no_shuffle: bool,
    /// Handling of samples that do not divide by the ranks
    #[arg(long, value_enum, default_value_t = TailArg::Pad)]
    tail: TailArg,
    /// torch: as torch.randperm; feistel: a keyed bijection without memory, for any length
    #[arg(long, value_enum, default_value_t = PermutationArg::Torch)]
    permutation: PermutationArg,
    /// Positions of an epoch: passes over the data set are laid end to end and cut anew
    #[arg(long, value_name = "L")]
    epoch_length: Option<u64>,
    /// One permutation over E times the data set, as OpenPCDet's merge_all_iters_to_one_epoch
    #[arg(long, value_name = "E")]
    merge_epochs: Option<u64>,
    /// Draw with replacement by weights: a text file with one number a line, one for each sample
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Mix sources that follow each other in the data set: samples and weight of each
    #[arg(long, value_name = "N1:W1,N2:W2", value_delimiter = ',', value_parser = source)]
    mix: Option<Vec<(u64, f64)>>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Draw all indices of one rank (0 unless said) without keeping them, and say what it took, as JSON
    #[arg(long, conflicts_with = "format")]
    timing: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum TailArg {
    Pad,
    Drop,
    Exact,
}

#[derive(Clone, Copy, ValueEnum)]
enum PermutationArg {
    Torch,
    Feistel,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Epochs against ranks, padded positions marked with *
    Table,
    /// One index a line, for one rank (0 unless said)
    Indices,
    Json,
}

/// Indices shown per cell of the table.
const CELL: usize = 8;

fn source(text: &str) -> std::result::Result<(u64, f64), String> {
    let parsed = text.split_once(':').and_then(|(len, weight)| Some((len.parse().ok()?, weight.parse().ok()?)));
    parsed.ok_or_else(|| "it should be samples:weight, such as 1000:0.5".into())
}

fn read_weights(path: &Path) -> Result<Vec<f64>> {
    let text = read_text(path)?;
    let number = |(at, line): (usize, &str)| {
        line.trim().parse().map_err(|_| {
            let problem = format!("line {} of {} is no number: {line}", at + 1, path.display());
            Error::config(problem, "Write one weight a line, one for each sample")
        })
    };
    text.lines().enumerate().map(number).collect()
}

pub fn run(args: Args) -> Result<Done> {
    let plan = Plan::unshuffled(args.len, args.num_replicas)?.with_seed(args.seed).with_tail(match args.tail {
        TailArg::Pad => Tail::Pad,
        TailArg::Drop => Tail::Drop,
        TailArg::Exact => Tail::Exact,
    });
    let plan = args.merge_epochs.map_or(Ok(plan.clone()), |epochs| plan.with_merged_epochs(epochs))?;
    let plan = match &args.weights {
        Some(path) => plan.with_weights(&read_weights(path)?)?,
        None => plan,
    };
    let plan = args.mix.as_deref().map_or(Ok(plan.clone()), |sources| plan.with_mixture(sources))?;
    let plan = args.epoch_length.map_or(Ok(plan.clone()), |len| plan.with_epoch_length(len))?;
    // Must come last: the limit of torch's order depends on the sizes of the sources.
    let plan = plan.with_permutation(match (args.no_shuffle, args.permutation) {
        (true, _) => Permutation::None,
        (false, PermutationArg::Torch) => Permutation::Torch,
        (false, PermutationArg::Feistel) => Permutation::Feistel,
    })?;
    plan.check_rank(args.rank.unwrap_or(0))?;
    match args.format {
        _ if args.timing => super::print(&timing(&plan, &args)),
        Format::Table => super::print(&table(&plan, &args)),
        Format::Json => super::print_with(|out| json(&plan, &args, out)),
        Format::Indices => super::print_with(|out| {
            let epoch = plan.epoch(args.epoch);
            epoch.rank(args.rank.unwrap_or(0)).try_for_each(|request| writeln!(out, "{}", request.index))
        }),
    }?;
    Ok(Done::Ok)
}

/// True if each epoch has each sample once.
fn plain(args: &Args) -> bool {
    args.weights.is_none() && args.mix.is_none() && args.merge_epochs.is_none_or(|epochs| epochs == 1)
}

fn ranks(plan: &Plan, args: &Args) -> std::ops::Range<u64> {
    args.rank.map_or(0..plan.num_replicas(), |rank| rank..rank + 1)
}

fn table(plan: &Plan, args: &Args) -> String {
    let first = plan.epoch(args.epoch);
    let (total, n, length) = (first.total_size(), plan.len(), plan.epoch_len());
    let tail = match plan.tail() {
        Tail::Pad if total > length => format!("{} positions padded (*)", total - length),
        Tail::Drop if total < length => format!("{} samples left out", length - total),
        Tail::Exact if length == n && plain(args) => "each sample exactly once".into(),
        _ => "no padding needed".into(),
    };
    let sizes = match (first.num_samples(plan.num_replicas() - 1), first.num_samples(0)) {
        (least, most) if least == most => format!("{most} a rank"),
        (least, most) => format!("{least} or {most} a rank"),
    };
    let mut text = format!("{n} samples over {} ranks, seed {}: {sizes}, {tail}\n\n", plan.num_replicas(), plan.seed());
    let shown: Vec<u64> = ranks(plan, args).take(16).collect();
    let epochs: Vec<EpochPlan> = (args.epoch..args.epoch.saturating_add(3)).map(|e| plan.epoch(e)).collect();
    let rows: Vec<Vec<String>> =
        epochs.iter().map(|epoch| shown.iter().map(|&rank| cell(epoch, rank)).collect()).collect();
    let widths: Vec<usize> = shown
        .iter()
        .enumerate()
        .map(|(at, rank)| {
            rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0).max(format!("rank {rank}").len())
        })
        .collect();
    let _ = write!(text, "epoch");
    for (rank, width) in shown.iter().zip(&widths) {
        let _ = write!(text, "  {:<width$}", format!("rank {rank}"));
    }
    for (epoch, row) in epochs.iter().zip(&rows) {
        let _ = write!(text, "\n{:<5}", epoch.epoch());
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "  {cell:<width$}");
        }
    }
    if (shown.len() as u64) < ranks(plan, args).count() as u64 {
        let _ = write!(text, "\n(the first {} ranks; name another with --rank)", shown.len());
    }
    text.push_str("\n\n");
    text.push_str(if length != n || !plain(args) {
        "A rank takes every W-th position of one order that all ranks share. Epochs are not passes over the data here.\n"
    } else if plan.is_shuffled() {
        "A rank takes every W-th position of one order that all ranks share, so no two ranks meet the same sample\n\
         (but for the padding).\n\
         set_epoch(e) picks the row: the order comes from seed + e. Who forgets it trains every epoch on the first row.\n\
         Feedline's loader counts its epochs itself.\n"
    } else {
        "Without shuffling every epoch is the same; set_epoch changes nothing.\n"
    });
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

fn cell(epoch: &EpochPlan, rank: u64) -> String {
    let show = |request: Request| format!("{}{}", request.index, if request.padded { "*" } else { "" });
    let count = epoch.num_samples(rank) as usize;
    let mut parts: Vec<String> = epoch.rank(rank).take(if count > CELL { CELL - 2 } else { CELL }).map(show).collect();
    if count > CELL {
        // The end is where padding shows.
        parts.push("…".into());
        parts.push(show(epoch.at(epoch.position(rank, count as u64 - 1))));
    }
    parts.join(" ")
}

/// The keys in the order of the alphabet; what can be long is written as it is drawn.
fn json(plan: &Plan, args: &Args, out: &mut dyn io::Write) -> io::Result<()> {
    let epoch = plan.epoch(args.epoch);
    let (len, num_replicas) = (plan.len(), plan.num_replicas());
    write!(out, "{{\"epoch\":{},\"len\":{len},\"num_replicas\":{num_replicas},\"ranks\":[", args.epoch)?;
    for (place, rank) in ranks(plan, args).enumerate() {
        write!(out, "{}{{\"indices\":[", if place == 0 { "" } else { "," })?;
        let mut padded_slots: Vec<usize> = Vec::new();
        for (slot, request) in epoch.rank(rank).enumerate() {
            write!(out, "{}{}", if slot == 0 { "" } else { "," }, request.index)?;
            padded_slots.extend(request.padded.then_some(slot));
        }
        write!(out, "],\"padded_slots\":{},\"rank\":{rank}}}", serde_json::json!(padded_slots))?;
    }
    let tail = serde_json::json!({
        "seed": plan.seed(), "shuffle": plan.is_shuffled(), "tail": plan.tail(), "total_size": epoch.total_size(),
    });
    writeln!(out, "],{}", &tail.to_string()[1..])
}

/// Seconds are counted from the moment the epoch is asked for. The checksum is the sum of (place + 1) * index over the
/// rank's places, modulo 2^64: `(i * np.arange(1, len(i) + 1, dtype=np.uint64)).sum()` of the indices as np.uint64.
fn timing(plan: &Plan, args: &Args) -> String {
    let began = Instant::now();
    let epoch = plan.epoch(args.epoch);
    let start_seconds = began.elapsed().as_secs_f64();
    let (mut first_index_seconds, mut indices, mut checksum) = (None, 0_u64, 0_u64);
    for request in epoch.rank(args.rank.unwrap_or(0)) {
        first_index_seconds.get_or_insert_with(|| began.elapsed().as_secs_f64());
        indices += 1;
        checksum = checksum.wrapping_add(request.index.wrapping_mul(indices));
    }
    let draw_seconds = began.elapsed().as_secs_f64();
    let value = serde_json::json!({
        "start_seconds": start_seconds, "first_index_seconds": first_index_seconds, "draw_seconds": draw_seconds,
        "indices": indices, "peak_memory_bytes": peak_memory_bytes(), "checksum": format!("{checksum:016x}"),
    });
    value.to_string() + "\n"
}

/// The most memory this process ever had resident; known on Linux only.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
