//! The check of a ledger: merges attempts and ranks, and compares them with their plans. Pure except for [`verify`],
//! which reads the run folder; must trust the loader only for what it delivered.
//!
//! It is no protection against forgery: anyone who can write the file can make it say anything. It finds mistakes of
//! loaders, restarts and people.

use super::attempt_span::AttemptSpan;
use super::problems::{LISTED, Place, Problems};
use super::{Attempt, LEDGER, read};
use crate::deliver::ledger::{Counter, Counts, Digest, Entry};
use crate::error::{Error, Result};
use crate::plan::Cursor;
use crate::read::fingerprint;
use crate::train::checkpoint::Checkpoints;
use crate::train::run::CHECKPOINTS;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The result of the check of a run's ledger. Epochs count from 0 here.
#[derive(Debug, Serialize)]
pub struct Proof {
    /// True if something was delivered up to the last checkpoint, and it is everything that the plan asks for, and
    /// nothing else. Replaced samples count as planned: the plan determines their replacements.
    pub proved: bool,
    pub attempts: Vec<AttemptProof>,
    /// Every epoch up to the last checkpoint.
    pub epochs: Vec<EpochProof>,
    /// Problems of the ledger itself.
    pub problems: Vec<String>,
    /// Incomplete checkpoints in the folder, so that the last complete one may not be the last that was made.
    pub passed_over: Vec<String>,
}

/// One attempt, and how far it counts.
#[derive(Debug, Serialize)]
pub struct AttemptProof {
    /// From 1.
    pub attempt: u64,
    pub ranks: u64,
    /// (epoch, global position) where it began.
    pub from: Place,
    /// The point from which the next one continued, or the last checkpoint.
    pub to: Place,
    /// Entries past that: work that no checkpoint kept.
    pub void_entries: usize,
}

/// The deliveries of one epoch.
#[derive(Debug, Serialize)]
pub struct EpochProof {
    pub epoch: u64,
    /// True if the epoch is over; else the figures are those so far.
    pub complete: bool,
    /// Attempts that delivered part of it.
    pub attempts: Vec<u64>,
    /// Samples of the data set.
    pub samples: u64,
    /// Samples delivered, without padding.
    pub delivered: u64,
    /// Padded positions delivered.
    pub padded: u64,
    /// Samples of the data set that were delivered exactly once, more often, and not at all.
    pub once: u64,
    pub more: u64,
    pub never: u64,
    /// True if the plan itself (or a replacement) wants a sample more than once.
    pub wanted_twice: bool,
    /// Samples that were delivered more or less often than planned.
    pub differing: u64,
    /// Among the first thousand of those, the samples that were delivered too rarely, ascending.
    pub missed: Vec<Difference>,
    /// Among the same, the samples that were delivered too often, ascending.
    pub doubled: Vec<Difference>,
    pub replaced: Vec<Replacement>,
    /// True if the sample names in the run folder belong to its data.
    #[serde(skip)]
    has_names: bool,
}

impl EpochProof {
    /// True if it is exactly as planned.
    pub fn as_planned(&self) -> bool {
        self.differing == 0
    }
}

/// A sample that was delivered more or less often than planned.
#[derive(Debug, Serialize, PartialEq)]
pub struct Difference {
    pub index: u64,
    /// Its file, if the run folder names it.
    pub name: Option<String>,
    pub planned: u64,
    pub delivered: u64,
}

/// A sample that could not be used, and the one delivered in its place.
#[derive(Debug, Serialize, PartialEq)]
pub struct Replacement {
    /// Global position in the epoch.
    pub position: u64,
    pub index: u64,
    pub name: Option<String>,
    pub replaced_by: u64,
    pub replaced_by_name: Option<String>,
    /// Number of times the epoch delivered the latter, including this one.
    pub times: u64,
}

/// Checks the ledger of the run in folder `run` up to its last checkpoint. Names come from its `samples.txt` (line i is
/// sample i, its name up to a tab), if it is there. That list, and `classes.txt` beside it, must be of the data set that the
/// ledger and the checkpoint name.
///
/// # Errors
/// A folder without a ledger; a ledger or a checkpoint that cannot be read.
pub fn verify(run: &Path) -> Result<Proof> {
    let path = run.join(LEDGER);
    if !path.exists() {
        return Err(Error::config(
            format!("there is no {LEDGER} in {}", run.display()),
            "Name the folder of a run; one made by an older version has no ledger",
        ));
    }
    let newest = Checkpoints::new(run.join(CHECKPOINTS)).newest()?;
    let cursor = newest.as_ref().and_then(|newest| newest.progress.cursor.as_ref());
    let end = cursor.map_or((0, 0), |cursor| (cursor.epoch, cursor.position));
    let attempts = read(&path)?;
    let damaged = |error: Error| Error::Checkpoint {
        path: path.clone(),
        problem: error.to_string(),
        remedy: "So nothing can be proved of this run".into(),
    };
    if let Some(problem) = other_length(run, &attempts, cursor).map_err(damaged)? {
        // Nothing is computed: the cost depends on that number, which may be arbitrary.
        let (problems, passed_over) = (vec![problem], newest.map_or(vec![], |newest| newest.passed_over));
        return Ok(Proof { proved: false, attempts: vec![], epochs: vec![], problems, passed_over });
    }
    let mut proof = check(&attempts, end).map_err(damaged)?;
    if let Some((attempt, _)) = attempts.last() {
        proof.problems.extend(difference(run, attempt, cursor)?);
        proof.proved &= proof.problems.is_empty();
    }
    proof.passed_over = newest.map_or(vec![], |newest| newest.passed_over);
    proof.add_names(&run.join("samples.txt"))?;
    Ok(proof)
}

/// Reports an attempt whose number of samples differs from the list in the run folder, or from another attempt on that
/// data.
fn other_length(run: &Path, attempts: &[(Attempt, Vec<Entry>)], cursor: Option<&Cursor>) -> Result<Option<String>> {
    let Some((last, _)) = attempts.last() else { return Ok(None) };
    let expect = last.plan()?.len();
    // After a resume with other data that was killed before its attempt began, the list belongs to the checkpoint's
    // data.
    let is_of_last = cursor.is_none_or(|cursor| cursor.dataset == last.dataset);
    let listed = if is_of_last { text_of(run, "samples.txt")? } else { None };
    let listed = listed.map(|samples| samples.lines().count() as u64);
    if let Some(found) = listed.filter(|found| *found != expect) {
        let number = last.attempt;
        return Ok(Some(format!("samples.txt lists {found} samples, the data of attempt {number} has {expect}")));
    }
    let mut lengths: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (attempt, _) in attempts {
        let (number, len) = (attempt.attempt, attempt.plan()?.len());
        let (first, expect) = *lengths.entry(&attempt.dataset).or_insert((number, len));
        if len != expect {
            return Ok(Some(format!(
                "attempts {first} and {number} say that the same data has {expect} and {len} samples: the ledger is damaged"
            )));
        }
    }
    Ok(None)
}

/// A text file in the run folder, if it exists.
fn text_of(run: &Path, name: &str) -> Result<Option<String>> {
    let path = run.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

/// Reports a checkpoint or lists in the run folder that belong to other data than the last attempt.
fn difference(run: &Path, attempt: &Attempt, cursor: Option<&Cursor>) -> Result<Option<String>> {
    if let Some(cursor) = cursor.filter(|cursor| cursor.dataset != attempt.dataset) {
        // A resume with other data, killed before its attempt began, is valid only at the start of an epoch.
        let problem = format!("the last checkpoint is of other data than attempt {}", attempt.attempt);
        return Ok((cursor.position > 0).then_some(problem));
    }
    let Some(samples) = text_of(run, "samples.txt")? else { return Ok(None) };
    // If each sample is listed with its class, the fingerprint depends only on the lists.
    let labelled: Option<Vec<(&str, &str)>> = samples.lines().map(|line| line.rsplit_once('\t')).collect();
    let (Some(labelled), Some(classes)) = (labelled, text_of(run, "classes.txt")?) else { return Ok(None) };
    let labels: BTreeMap<&str, u32> = classes.lines().zip(0..).collect();
    if let Some((name, class)) = labelled.iter().find(|(_, class)| !labels.contains_key(class)) {
        let known = labels.len();
        return Ok(Some(format!("{name} is of the class {class}, which is none of the {known} in classes.txt")));
    }
    let labelled = labelled.iter().map(|(name, class)| (labels[class], *name));
    let lists = format!("{:016x}", fingerprint(classes.lines(), labelled));
    let problem = "samples.txt and classes.txt are of other data than";
    Ok((lists != attempt.dataset).then(|| format!("{problem} attempt {} and the last checkpoint", attempt.attempt)))
}

/// Checks the entries of these attempts that count, in a run whose last checkpoint is at `end`.
pub(super) fn check(attempts: &[(Attempt, Vec<Entry>)], end: Place) -> Result<Proof> {
    let (mut spans, mut to, mut problems) = (Vec::new(), end, Problems::default());
    // From last to first: all work past the start of a later attempt was done again.
    for (attempt, entries) in attempts.iter().rev() {
        let span = AttemptSpan::new(attempt, entries, to, &mut problems)?;
        to = to.min(span.from);
        spans.push(span);
    }
    spans.reverse();
    check_attempts(&spans, to, &mut problems);
    let names_of = spans.last().map(|span| span.attempt.dataset.clone()).unwrap_or_default();
    let mut last_epoch = if end.1 > 0 { end.0.saturating_add(1) } else { end.0 };
    let known = spans.iter().filter_map(AttemptSpan::last_epoch).max().map_or(to.0, |epoch| epoch.saturating_add(1));
    if last_epoch > known.saturating_add(1) {
        problems.add(format!("the last checkpoint stands in epoch {last_epoch}, the ledger ends with epoch {known}"));
        last_epoch = known;
    }
    let mut epochs = Vec::new();
    for epoch in to.0..last_epoch {
        epochs.push(check_epoch(epoch, epoch < end.0, &spans, &names_of, &mut problems)?);
    }
    let problems = problems.into_list();
    Ok(Proof {
        proved: !epochs.is_empty() && problems.is_empty() && epochs.iter().all(EpochProof::as_planned),
        attempts: spans.iter().map(summary).collect(),
        epochs,
        problems,
        passed_over: vec![],
    })
}

fn summary(span: &AttemptSpan<'_>) -> AttemptProof {
    AttemptProof {
        attempt: span.attempt.attempt,
        ranks: span.plan.num_replicas(),
        from: span.from,
        to: span.to,
        void_entries: span.void_entries,
    }
}

/// Checks that the attempts fit together. `first` is the first position that the ledger covers.
fn check_attempts(spans: &[AttemptSpan<'_>], first: Place, problems: &mut Problems) {
    match spans.first() {
        None => problems.add("the ledger is empty".into()),
        Some(span) if first > (0, 0) => problems.add(format!(
            "the ledger begins with attempt {} at position {} of epoch {}: nothing is known of what was before",
            span.attempt.attempt,
            span.from.1,
            span.from.0 + 1
        )),
        Some(_) => {}
    }
    if spans.iter().zip(1..).any(|(span, number)| span.attempt.attempt != number) {
        problems.add("the attempts are not numbered 1, 2, 3, ...: lines are missing, or stand twice".into());
    }
    for pair in spans.windows(2) {
        // Other data, or another order, may begin with an epoch but not within one.
        if pair[1].from.1 == 0 {
            continue;
        }
        let went_on =
            format!("attempt {} went on in the middle of epoch {}", pair[1].attempt.attempt, pair[1].from.0 + 1);
        if pair[0].attempt.dataset != pair[1].attempt.dataset {
            problems.add(format!("{went_on} with other data than attempt {}", pair[0].attempt.attempt));
        } else if !pair[0].plan.goes_with(&pair[1].plan) {
            problems.add(format!("{went_on} with another order than attempt {}", pair[0].attempt.attempt));
        }
    }
}

fn check_epoch(
    epoch: u64,
    complete: bool,
    spans: &[AttemptSpan<'_>],
    names_of: &str,
    problems: &mut Problems,
) -> Result<EpochProof> {
    let part: Vec<_> = spans.iter().filter(|span| span.part(epoch).is_some()).collect();
    let samples = part.iter().map(|span| span.plan.len()).max().unwrap_or(0);
    let mut expected = Counter::new(epoch, samples);
    let (mut counts, mut digest, mut delivered, mut padded) = (Counts::default(), Digest::default(), 0u64, 0u64);
    let (mut attempts, mut replaced, mut padding) = (Vec::new(), Vec::new(), Some(0));
    for span in &part {
        let swaps = span.exchanges(epoch, problems);
        padding = span.expect(epoch, &swaps, &mut expected, problems).zip(padding).map(|(more, sum)| sum + more);
        for entry in span.of(epoch) {
            counts.add(&entry.counts(span.plan.len())?);
            digest.add(Digest::from_hex(&entry.digest)?);
            delivered = delivered.saturating_add(entry.samples);
            padded = padded.saturating_add(entry.padded);
        }
        if span.of(epoch).iter().any(|entry| entry.samples > 0) {
            attempts.push(span.attempt.attempt);
        }
        // Replaced padding is still padding.
        replaced.extend(swaps.into_iter().filter(|(_, swap)| !swap.padded));
    }
    let problem = |text: &str| format!("{text} of epoch {}", epoch + 1);
    if complete && delivered == 0 {
        problems.add(problem("not one sample was delivered"));
    }
    if padding.is_some_and(|padding| padding != padded) {
        problems.add(problem(&format!("the padding is not what the plan asks for, {padded} places,")));
    }
    let planned = expected.counts();
    let differing = counts.differing(&planned);
    // If an epoch was not worth counting, a problem already says so.
    let differing = if padding.is_some() { differing } else { Default::default() };
    let (mut missed, mut doubled) = (Vec::new(), Vec::new());
    for index in differing.iter().take(LISTED) {
        let (planned, delivered) = (planned.count(index), counts.count(index));
        let list = if delivered < planned { &mut missed } else { &mut doubled };
        list.push(Difference { index, name: None, planned, delivered });
    }
    let same = differing.is_empty();
    if padding.is_some() && (same != (digest == expected.digest()) || (same && delivered != expected.samples())) {
        problems.add(format!(
            "the sets of samples of epoch {} and their digest contradict each other: the ledger is damaged",
            epoch + 1
        ));
    }
    let (once, more) = counts.once_and_more();
    let replaced = replaced.into_iter().map(|(position, swap)| {
        let times = counts.count(swap.by);
        Replacement { position, index: swap.index, name: None, replaced_by: swap.by, replaced_by_name: None, times }
    });
    let replaced = replaced.collect();
    Ok(EpochProof {
        epoch,
        complete,
        attempts,
        samples,
        delivered,
        padded,
        once,
        more,
        never: samples.saturating_sub(once + more),
        wanted_twice: planned.once_and_more().1 > 0,
        differing: differing.len(),
        missed,
        doubled,
        replaced,
        has_names: part.iter().all(|span| span.attempt.dataset == names_of),
    })
}

impl Proof {
    /// Adds the names from the file at `path`, if there is anything to name.
    fn add_names(&mut self, path: &Path) -> Result<()> {
        let mut wanted = BTreeSet::new();
        for epoch in self.epochs.iter().filter(|epoch| epoch.has_names) {
            wanted.extend(epoch.missed.iter().chain(&epoch.doubled).map(|difference| difference.index));
            wanted.extend(epoch.replaced.iter().flat_map(|bad| [bad.index, bad.replaced_by]));
        }
        if wanted.is_empty() || !path.exists() {
            return Ok(());
        }
        let text = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let text = String::from_utf8_lossy(&text);
        let names: BTreeMap<u64, &str> = (0..)
            .zip(text.lines())
            .filter(|(index, _)| wanted.contains(index))
            .map(|(index, line)| (index, line.split('\t').next().unwrap_or_default()))
            .collect();
        let name = |index: u64| names.get(&index).map(|name| name.to_string());
        for epoch in self.epochs.iter_mut().filter(|epoch| epoch.has_names) {
            for difference in epoch.missed.iter_mut().chain(&mut epoch.doubled) {
                difference.name = name(difference.index);
            }
            for bad in &mut epoch.replaced {
                (bad.name, bad.replaced_by_name) = (name(bad.index), name(bad.replaced_by));
            }
        }
        Ok(())
    }
}
