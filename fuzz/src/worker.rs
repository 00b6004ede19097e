//! One target in one process: the loop over inputs, and its counts. Owns the bounds on time and memory; knows no
//! format.

use crate::mutate::{Draw, mutate};
use crate::targets::{Bench, Target, Verdict, kind};
use crate::{Flags, MEMORY};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Exit code of a worker that an input has hung.
pub const HUNG: i32 = 3;

/// Inputs that are kept to be changed further, besides those of the corpus.
const POOL: usize = 1000;

/// Most kinds of refusals that are distinguished.
const KINDS: usize = 10_000;

/// The counts of a worker.
#[derive(Debug, Default, Clone)]
pub struct Report {
    pub inputs: u64,
    pub accepted: u64,
    /// Inputs during which a dependency panicked, which became an error.
    pub caught: u64,
    /// The different ways to be refused, numbers and names left out.
    pub kinds: BTreeSet<String>,
    /// Results of comparisons with another program, and their counts.
    pub compared: BTreeMap<String, u64>,
    /// Places of panics in dependencies, and their counts.
    pub panics: BTreeMap<String, u64>,
    /// Failures by their text without numbers.
    pub failures: BTreeMap<String, Failure>,
}

/// Inputs with the same kind of failure.
#[derive(Debug, Clone)]
pub struct Failure {
    pub count: u64,
    pub said: String,
    pub file: String,
    bytes: u64,
}

impl Report {
    pub fn add(&mut self, other: Report) {
        self.inputs += other.inputs;
        self.accepted += other.accepted;
        self.caught += other.caught;
        self.kinds.extend(other.kinds);
        other.compared.into_iter().for_each(|(words, count)| *self.compared.entry(words).or_default() += count);
        other.panics.into_iter().for_each(|(words, count)| *self.panics.entry(words).or_default() += count);
        for (kind, failure) in other.failures {
            match self.failures.get_mut(&kind) {
                Some(known) => known.count += failure.count,
                None => drop(self.failures.insert(kind, failure)),
            }
        }
    }

    /// Counts a failure, and keeps its input if it is the first or smallest of its kind.
    pub fn fail(&mut self, target: &Target, flags: &Flags, input: &[u8], said: String) -> Result<(), String> {
        let kind = kind(&said);
        let known = self.failures.get_mut(&kind);
        if let Some(known) = known {
            known.count += 1;
            if known.bytes <= input.len() as u64 {
                return Ok(());
            }
        }
        let name = format!("{}-{:016x}", target.name, Draw::new(0, kind.as_bytes()).next());
        let file = flags.failures.join(name);
        let written = fs::create_dir_all(&flags.failures).and_then(|()| fs::write(&file, input));
        written.map_err(|e| format!("{}: {e}", file.display()))?;
        let count = self.failures.get(&kind).map_or(1, |known| known.count);
        let file = file.display().to_string();
        self.failures.insert(kind, Failure { count, said, file, bytes: input.len() as u64 });
        Ok(())
    }

    fn to_json(&self) -> Value {
        let failures: Vec<Value> = (self.failures.iter())
            .map(|(kind, Failure { count, said, file, bytes })| json!([kind, count, said, file, bytes]))
            .collect();
        json!({
            "inputs": self.inputs, "accepted": self.accepted, "caught": self.caught, "kinds": self.kinds,
            "compared": self.compared, "panics": self.panics, "failures": failures,
        })
    }

    pub fn parse(text: &str) -> Option<Report> {
        let value: Value = serde_json::from_str(text).ok()?;
        let number = |key: &str| value[key].as_u64();
        let counts = |key: &str| -> Option<BTreeMap<String, u64>> {
            value[key].as_object()?.iter().map(|(words, count)| Some((words.clone(), count.as_u64()?))).collect()
        };
        let failure = |entry: &Value| {
            let text = |at: usize| entry[at].as_str().map(str::to_owned);
            let (count, bytes) = (entry[1].as_u64()?, entry[4].as_u64()?);
            Some((text(0)?, Failure { count, said: text(2)?, file: text(3)?, bytes }))
        };
        Some(Report {
            inputs: number("inputs")?,
            accepted: number("accepted")?,
            caught: number("caught")?,
            kinds: value["kinds"].as_array()?.iter().filter_map(|kind| kind.as_str().map(str::to_owned)).collect(),
            compared: counts("compared")?,
            panics: counts("panics")?,
            failures: value["failures"].as_array()?.iter().map(failure).collect::<Option<_>>()?,
        })
    }
}

/// Where the input lies that a worker is at.
pub fn input_path(scratch: &Path) -> PathBuf {
    scratch.join("input")
}

/// Panics since they were last taken: their place and message.
static PANICS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

fn listen_to_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|place| format!("{}:{}", place.file(), place.line())).unwrap_or_default();
        let payload = info.payload();
        let said =
            payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
        let said = said.unwrap_or("no reason given").to_owned();
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push((place, said));
    }));
}

/// True if code at this place is Feedline's own, and not that of a dependency.
fn is_ours(place: &str) -> bool {
    place.contains("crates/feedline") || place.starts_with("src/")
}

/// The outcome of an input.
enum InputOutcome {
    Fine { accepted: bool, said: String, compared: Option<String>, caught: Vec<String> },
    Failed(String),
}

fn try_input(target: &Target, bench: &mut Bench, bytes: &[u8]) -> InputOutcome {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let before_bytes = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let verdict = catch_unwind(AssertUnwindSafe(|| (target.run)(bench, bytes)));
    let used_bytes = MEMORY.peak_usage().saturating_sub(before_bytes);
    let panics = std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner));
    if let Some((place, said)) = panics.iter().find(|(place, _)| is_ours(place)) {
        return InputOutcome::Failed(format!("panic at {place}: {said}"));
    }
    let bound_bytes = (64 << 20) + target.bytes_per_byte * bytes.len();
    let caught = panics.into_iter().map(|(place, _)| short(&place)).collect::<Vec<_>>();
    match verdict {
        Err(_) => InputOutcome::Failed(format!("a panic that nothing caught: {caught:?}")),
        Ok(Verdict::Wrong(said)) => InputOutcome::Failed(said),
        Ok(_) if used_bytes > bound_bytes => {
            InputOutcome::Failed(format!("{used_bytes} bytes of memory for an input of {} bytes", bytes.len()))
        }
        Ok(Verdict::Accepted { compared }) => {
            InputOutcome::Fine { accepted: true, said: "accepted".into(), compared, caught }
        }
        Ok(Verdict::Refused { said, compared }) => InputOutcome::Fine { accepted: false, said, compared, caught },
    }
}

/// The place in a dependency without cargo's folder.
fn short(place: &str) -> String {
    match place.find("/registry/src/") {
        Some(at) => place[at..].splitn(5, '/').nth(4).unwrap_or(place).to_owned(),
        None => place.to_owned(),
    }
}

/// Ends the process if an input takes longer than `hang`.
fn watch(begun_ms: Arc<AtomicU64>, start: Instant, hang: Duration) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let (since, now) = (begun_ms.load(Relaxed), start.elapsed().as_millis() as u64);
            if since != 0 && now.saturating_sub(since) > hang.as_millis() as u64 {
                eprintln!("an input took longer than {hang:?}");
                std::process::exit(HUNG);
            }
        }
    });
}

/// Runs inputs until the time is over, writing the report every second.
pub fn run(target: &'static Target, flags: &Flags, report_path: &Path) -> Result<(), String> {
    // A stack as the threads of a loader have it.
    let (flags, report_path) = (flags.clone(), report_path.to_path_buf());
    let thread = std::thread::spawn(move || run_here(target, &flags, &report_path));
    thread.join().map_err(|_| String::from("the fuzzer itself panicked"))?
}

fn run_here(target: &'static Target, flags: &Flags, report_path: &Path) -> Result<(), String> {
    let start = Instant::now();
    let mut bench = Bench::new(flags)?;
    let corpus = corpus_of(target)?;
    listen_to_panics();
    let begun_ms = Arc::new(AtomicU64::new(0));
    watch(Arc::clone(&begun_ms), start, flags.hang);
    let shown = File::create(input_path(&flags.scratch)).map_err(|e| e.to_string())?;
    let mut draw = Draw::new(flags.seed, target.name.as_bytes());
    let (mut pool, mut report) = (corpus.clone(), Report::default());
    let mut written = Instant::now();
    for at in 0.. {
        let mut bytes = match corpus.get(at) {
            Some(seed) => seed.clone(),
            // Half of the inputs come from the corpus: mutated ones are farther from a valid file.
            None if draw.one_in(2) => corpus[draw.below(corpus.len())].clone(),
            None => pool[draw.below(pool.len())].clone(),
        };
        if at >= corpus.len() {
            let other = draw.below(pool.len());
            mutate(&mut bytes, &mut draw, &pool[other], target.words, target.mend, target.most_bytes);
        }
        // The parent has it if this process ends.
        shown.set_len(bytes.len() as u64).and_then(|()| shown.write_all_at(&bytes, 0)).map_err(|e| e.to_string())?;
        begun_ms.store(start.elapsed().as_millis().max(1) as u64, Relaxed);
        let outcome = try_input(target, &mut bench, &bytes);
        begun_ms.store(0, Relaxed);
        report.inputs += 1;
        match outcome {
            InputOutcome::Failed(said) => report.fail(target, flags, &bytes, said)?,
            InputOutcome::Fine { accepted, said, compared, caught } => {
                report.accepted += u64::from(accepted);
                report.caught += u64::from(!caught.is_empty());
                caught.into_iter().for_each(|place| *report.panics.entry(place).or_default() += 1);
                if let Some(compared) = compared {
                    *report.compared.entry(compared).or_default() += 1;
                }
                let is_new = report.kinds.len() < KINDS && report.kinds.insert(kind(&said));
                // An input with a new kind of refusal, or an accepted one, is kept for further changes.
                if at >= corpus.len() && pool.len() < POOL && (is_new || accepted && draw.one_in(50)) {
                    pool.push(bytes);
                }
            }
        }
        let is_over = start.elapsed().as_secs_f64() > flags.seconds && at >= corpus.len();
        if is_over || written.elapsed() > Duration::from_secs(1) {
            fs::write(report_path, report.to_json().to_string()).map_err(|e| e.to_string())?;
            written = Instant::now();
        }
        if is_over {
            break;
        }
    }
    Ok(())
}

fn corpus_of(target: &Target) -> Result<Vec<Vec<u8>>, String> {
    let corpus: Vec<Vec<u8>> = (target.seeds)().map_err(|e| format!("the corpus of {}: {e}", target.name))?;
    if corpus.is_empty() {
        return Err(format!("there is no corpus for {}", target.name));
    }
    Ok(corpus)
}

/// Runs one input: true if it passes, and a text with the result.
pub fn replay(target: &'static Target, flags: &Flags, bytes: Vec<u8>) -> Result<(bool, String), String> {
    fs::create_dir_all(&flags.scratch).map_err(|e| e.to_string())?;
    let flags = flags.clone();
    let work = move || -> Result<(bool, String), String> {
        let mut bench = Bench::new(&flags)?;
        listen_to_panics();
        watch(Arc::new(AtomicU64::new(1)), Instant::now(), flags.hang);
        Ok(match try_input(target, &mut bench, &bytes) {
            InputOutcome::Failed(said) => (false, said),
            InputOutcome::Fine { said, compared, caught, .. } => {
                let compared = compared.map_or(String::new(), |compared| format!("; {compared}"));
                let caught = if caught.is_empty() { String::new() } else { format!("; caught panics: {caught:?}") };
                (true, format!("{said}{compared}{caught}"))
            }
        })
    };
    std::thread::spawn(work).join().map_err(|_| String::from("the fuzzer itself panicked"))?
}
