//! Fuzzing of every parser of Feedline: inputs are changed at random, and none may panic, hang, overflow, use memory beyond
//! a bound, or give pixels that depend on the way of decoding.
//!
//! ```text
//! fuzz/run                                       a minute over all targets
//! fuzz/run --seconds 300 --pillow PYTHON         five minutes, pictures compared with Pillow's
//! fuzz/run --target png --replay FILE            one input again
//! ```
//!
//! Owns the flags, the processes and the table. Each target runs in a process of its own (`worker.rs`), so that an abort or
//! a hang ends that alone and leaves the input behind.

mod mutate;
mod pillow;
mod targets;
mod worker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use targets::Target;
use worker::Report;

/// The allocator that measures the memory of an input.
#[global_allocator]
static MEMORY: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

const USAGE: &str = "\
usage: feedline-fuzz [--seconds S] [--seed N] [--jobs N] [--target NAME]... [--pillow PYTHON] [--failures DIR]
                     [--hang-seconds S] [--list] [--target NAME --replay FILE]

--seconds S       for all targets together, 60 by default
--seed N          another seed, other inputs; 0 by default
--jobs N          targets at once, the number of cores by default
--target NAME     only this target; may be said several times
--pillow PYTHON   compares pictures with those of the Pillow that this Python has
--failures DIR    where inputs that failed are kept, fuzz/failures by default
--hang-seconds S  an input that takes longer has hung, 10 by default
--list            the names of the targets
--replay FILE     runs this input alone, and says what comes of it
--worker FILE     for the program itself: runs one target and writes its report there
--scratch DIR     for the program itself: where targets write the files they read";

/// The command line's flags.
#[derive(Debug, Clone)]
pub struct Flags {
    pub seconds: f64,
    pub seed: u64,
    pub jobs: usize,
    pub targets: Vec<String>,
    pub pillow: Option<PathBuf>,
    pub failures: PathBuf,
    pub hang: Duration,
    pub replay: Option<PathBuf>,
    pub worker: Option<PathBuf>,
    pub scratch: PathBuf,
    list: bool,
}

impl Flags {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Flags, String> {
        let memory = Path::new("/dev/shm");
        let scratch = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let mut flags = Flags {
            seconds: 60.0,
            seed: 0,
            jobs: std::thread::available_parallelism().map_or(2, |cores| cores.get()),
            targets: Vec::new(),
            pillow: None,
            failures: Path::new(env!("CARGO_MANIFEST_DIR")).join("failures"),
            hang: Duration::from_secs(10),
            replay: None,
            worker: None,
            scratch: scratch.join(format!("feedline-fuzz-{}", std::process::id())),
            list: false,
        };
        while let Some(flag) = words.next() {
            if flag == "--list" {
                flags.list = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{flag} needs a value, or is none of the flags"))?;
            let number = || value.parse::<f64>().ok().filter(|n| *n > 0.0).ok_or(format!("{flag} {value}: no number"));
            match &*flag {
                "--seconds" => flags.seconds = number()?,
                "--seed" => flags.seed = value.parse().map_err(|_| format!("--seed {value}: no whole number"))?,
                "--jobs" => flags.jobs = number()? as usize,
                "--target" => flags.targets.push(value),
                "--pillow" => flags.pillow = Some(value.into()),
                "--failures" => flags.failures = value.into(),
                "--hang-seconds" => flags.hang = Duration::from_secs_f64(number()?),
                "--replay" => flags.replay = Some(value.into()),
                "--worker" => flags.worker = Some(value.into()),
                "--scratch" => flags.scratch = value.into(),
                _ => return Err(format!("unknown flag {flag}")),
            }
        }
        if let Some(name) = flags.targets.iter().find(|name| targets::ALL.iter().all(|target| target.name != **name)) {
            return Err(format!("there is no target {name}; --list names them"));
        }
        Ok(flags)
    }

    fn chosen(&self) -> Vec<&'static Target> {
        let is_chosen = |target: &&Target| self.targets.is_empty() || self.targets.iter().any(|t| t == target.name);
        targets::ALL.iter().filter(is_chosen).collect()
    }
}

fn main() -> ExitCode {
    let flags = match Flags::parse(std::env::args().skip(1)) {
        Ok(flags) => flags,
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let chosen = flags.chosen();
    if flags.list {
        chosen.iter().for_each(|target| println!("{}", target.name));
        return ExitCode::SUCCESS;
    }
    let result = match (&flags.worker, &flags.replay, &chosen[..]) {
        (Some(report), _, [target]) => worker::run(target, &flags, report).map(|()| true),
        (None, Some(file), [target]) => replay(target, &flags, file),
        (None, None, _) => all(&chosen, &flags),
        _ => Err("--replay needs one --target".into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::from(2)
        }
    }
}

/// Runs one input as a worker would. True if it passes.
fn replay(target: &'static Target, flags: &Flags, file: &Path) -> Result<bool, String> {
    let bytes = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let said = worker::replay(target, flags, bytes);
    let _ = std::fs::remove_dir_all(&flags.scratch);
    let (is_fine, said) = said?;
    println!("{}: {said}", if is_fine { "fine" } else { "FAILED" });
    Ok(is_fine)
}

/// Runs all chosen targets and prints the table. True if nothing failed.
fn all(chosen: &[&'static Target], flags: &Flags) -> Result<bool, String> {
    let begun = Instant::now();
    let weights: u32 = chosen.iter().map(|target| target.weight).sum();
    let jobs = flags.jobs.min(chosen.len()).max(1);
    let next = AtomicUsize::new(0);
    let reports: Mutex<BTreeMap<usize, Result<Report, String>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(target) = Some(next.fetch_add(1, Relaxed)).filter(|at| *at < chosen.len()) {
                    let share = f64::from(chosen[target].weight) / f64::from(weights);
                    let report = watched(chosen[target], flags, flags.seconds * jobs as f64 * share);
                    if let Ok(mut reports) = reports.lock() {
                        reports.insert(target, report);
                    }
                }
            });
        }
    });
    let _ = std::fs::remove_dir_all(&flags.scratch);
    let mut total = Report::default();
    let mut rows = Vec::new();
    for (at, report) in reports.into_inner().unwrap_or_default() {
        let report = report.map_err(|problem| format!("{}: {problem}", chosen[at].name))?;
        rows.push((chosen[at].name, report.clone()));
        total.add(report);
    }
    println!("| target | inputs | accepted | refused | ways to be refused | caught panics | failures |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    let row = |name: &str, report: &Report, kinds: usize| {
        let Report { inputs, accepted, caught, failures, .. } = report;
        let failed: u64 = failures.values().map(|failure| failure.count).sum();
        println!("| {name} | {inputs} | {accepted} | {} | {kinds} | {caught} | {failed} |", inputs - accepted - failed);
    };
    rows.iter().for_each(|(name, report)| row(name, report, report.kinds.len()));
    row("all", &total, rows.iter().map(|(_, report)| report.kinds.len()).sum());
    println!("\nseed {}, {:.0} s, {} at once", flags.seed, begun.elapsed().as_secs_f64(), jobs);
    for (name, report) in &rows {
        print_counts(&format!("{name}: compared"), &report.compared);
        print_counts(&format!("{name}: panics of dependencies that became errors"), &report.panics);
    }
    let mut fine = true;
    for (name, report) in &rows {
        for (kind, failure) in &report.failures {
            fine = false;
            println!("\nFAILED {name} ({} times): {}", failure.count, failure.said);
            println!("  the same again: fuzz/run --target {name} --replay {}", failure.file);
            if kind.is_empty() {
                println!("  it has no words of its own");
            }
        }
    }
    println!("\n{}", if fine { "nothing failed" } else { "see FAILED above" });
    Ok(fine)
}

fn print_counts(title: &str, counts: &BTreeMap<String, u64>) {
    if counts.is_empty() {
        return;
    }
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(words, count)| (std::cmp::Reverse(**count), (*words).clone()));
    println!("\n{title}");
    sorted.iter().take(40).for_each(|(words, count)| println!("  {count:>9}  {words}"));
    if sorted.len() > 40 {
        println!("  and {} more kinds", sorted.len() - 40);
    }
}

/// Runs a worker for `seconds`, and another for the rest of the time whenever an input has ended one.
fn watched(target: &'static Target, flags: &Flags, seconds: f64) -> Result<Report, String> {
    let begun = Instant::now();
    let mut total = Report::default();
    let scratch = flags.scratch.join(target.name);
    std::fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    for attempt in 0..20u64 {
        let left = seconds - begun.elapsed().as_secs_f64();
        if attempt > 0 && left < 0.2 {
            break;
        }
        let report = scratch.join("report.json");
        let _ = std::fs::remove_file(&report);
        let mut command = Command::new(&program);
        command.args(["--target", target.name, "--seconds", &left.max(0.05).to_string()]);
        command.args(["--seed", &flags.seed.wrapping_add(attempt << 32).to_string()]);
        command.args(["--hang-seconds", &flags.hang.as_secs_f64().to_string()]);
        command.arg("--failures").arg(&flags.failures).arg("--scratch").arg(&scratch).arg("--worker").arg(&report);
        if let Some(python) = &flags.pillow {
            command.arg("--pillow").arg(python);
        }
        let ended = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        if let Some(text) = std::fs::read_to_string(&report).ok().and_then(|text| Report::parse(&text)) {
            total.add(text);
        }
        if ended.status.success() {
            return Ok(total);
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        if ended.status.code() == Some(2) {
            return Err(said.into_owned());
        }
        // The input that the worker was running when it ended.
        let input =
            std::fs::read(worker::input_path(&scratch)).map_err(|e| format!("{}: {e}; {said}", ended.status))?;
        let how = match ended.status.code() {
            Some(worker::HUNG) => format!("an input of {} bytes took longer than {:?}", input.len(), flags.hang),
            _ => format!("an input of {} bytes ended the process: {}; {}", input.len(), ended.status, last_line(&said)),
        };
        total.inputs += 1;
        total.fail(target, flags, &input, how)?;
    }
    Ok(total)
}

fn last_line(text: &str) -> &str {
    text.trim().lines().last().unwrap_or_default()
}
