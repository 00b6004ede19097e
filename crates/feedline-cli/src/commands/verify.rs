//! `feedline verify`: was every sample delivered exactly once? The words for what the library finds in a run's ledger.

use crate::exit::Done;
use clap::Args as ClapArgs;
use feedline::train::proof::{self, AttemptProof, Difference, EpochProof, Proof};
use feedline::{Error, Result};
use std::fmt::Write;
use std::path::PathBuf;

#[derive(ClapArgs)]
pub struct Args {
    /// Folder of a run, finished or not
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Print one JSON object, with the first thousand samples of every list; epochs count from 0 in it
    #[arg(long)]
    json: bool,
}

/// Samples named per list.
const NAMED: usize = 20;

pub fn run(args: Args) -> Result<Done> {
    let proof = proof::verify(&args.run)?;
    if args.json {
        let json = serde_json::to_string(&proof).map_err(|e| Error::config(e.to_string(), "Please report this"))?;
        super::print(&format!("{json}\n"))?;
    } else {
        super::print(&words(&proof))?;
    }
    Ok(if proof.proved { Done::Ok } else { Done::NotProved })
}

/// Describes the proof: a line for each kind of epoch and problem; the last line is the verdict.
pub fn words(proof: &Proof) -> String {
    let mut text = String::new();
    let lines: Vec<String> = proof.epochs.iter().map(|epoch| line(epoch, proof)).collect();
    let mut at = 0;
    while at < lines.len() {
        // Epochs that read the same are told together.
        let same = lines[at..].iter().take_while(|line| **line == lines[at]).count();
        let (first, last) = (proof.epochs[at].epoch + 1, proof.epochs[at + same - 1].epoch + 1);
        let name = if same == 1 { format!("epoch {first}") } else { format!("epochs {first}..{last}") };
        let _ = writeln!(text, "{name}{}", lines[at]);
        at += same;
    }
    for problem in &proof.problems {
        let _ = writeln!(text, "problem: {problem}");
    }
    for passed_over in &proof.passed_over {
        let _ = writeln!(text, "passed over: {passed_over}");
    }
    let void: usize = proof.attempts.iter().map(|attempt| attempt.void_entries).sum();
    if void > 0 {
        let entries = if void == 1 { "1 entry is" } else { &format!("{void} entries are") };
        let _ = writeln!(text, "{entries} of work that no checkpoint kept, and counts for nothing");
    }
    text.push_str(match (proof.proved, proof.epochs.is_empty()) {
        (true, _) => "proved up to the last checkpoint: what was delivered is what the plan asks for\n",
        (false, true) => "NOT proved: nothing was delivered up to a checkpoint\n",
        (false, false) => "NOT proved\n",
    });
    text
}

/// Describes an epoch, without its number.
fn line(epoch: &EpochProof, proof: &Proof) -> String {
    let EpochProof { once, more, never, delivered, samples, .. } = epoch;
    let mut text = String::from(if epoch.complete { ": " } else { ", so far: " });
    let plain = epoch.as_planned() && !epoch.wanted_twice && epoch.replaced.is_empty();
    if plain {
        let _ = write!(text, "each of {once} samples exactly once");
        let reason = if epoch.complete { "not in this epoch" } else { "not yet" };
        if *never > 0 {
            let _ = write!(text, " ({never} of {samples} {reason})");
        }
    } else {
        text.push_str(if epoch.as_planned() { "as planned, " } else { "NOT as planned: " });
        let _ = write!(
            text,
            "{delivered} delivered; of {samples} samples {once} exactly once, {more} more often, {never} never"
        );
    }
    if epoch.padded > 0 {
        let _ = write!(text, ", {} more as padding", epoch.padded);
    }
    text.push_str(&attempts(epoch, &proof.attempts));
    list(&mut text, "missed", &epoch.missed);
    list(&mut text, "doubled", &epoch.doubled);
    let listed = (epoch.missed.len() + epoch.doubled.len()) as u64;
    if epoch.differing > listed {
        let _ = write!(text, "\n  {} samples more that came more or less often than planned", epoch.differing - listed);
    }
    for bad in epoch.replaced.iter().take(NAMED) {
        let _ = write!(
            text,
            "\n  replaced: sample {} at position {} by sample {}, which came {} times in all",
            named(bad.index, bad.name.as_deref()),
            bad.position,
            named(bad.replaced_by, bad.replaced_by_name.as_deref()),
            bad.times
        );
    }
    more_of(&mut text, "replaced", epoch.replaced.len());
    text
}

/// ", 2 attempts on 2 and 3 ranks".
fn attempts(epoch: &EpochProof, all: &[AttemptProof]) -> String {
    let ranks: Vec<String> = all
        .iter()
        .filter(|attempt| epoch.attempts.contains(&attempt.attempt))
        .map(|attempt| attempt.ranks.to_string())
        .collect();
    match &ranks[..] {
        [] => String::new(),
        [one] => format!(", on {one} rank{}", if one == "1" { "" } else { "s" }),
        [one, rest @ ..] if rest.iter().all(|other| other == one) => {
            format!(", {} attempts on {one} rank{}", ranks.len(), if one == "1" { "" } else { "s" })
        }
        [first @ .., last] => format!(", {} attempts on {} and {last} ranks", ranks.len(), first.join(", ")),
    }
}

fn list(text: &mut String, what: &str, differences: &[Difference]) {
    for Difference { index, name, planned, delivered } in differences.iter().take(NAMED) {
        let name = named(*index, name.as_deref());
        let _ = write!(text, "\n  {what}: sample {name}, delivered {delivered} times instead of {planned}");
    }
    more_of(text, what, differences.len());
}

fn more_of(text: &mut String, what: &str, all: usize) {
    if all > NAMED {
        let _ = write!(text, "\n  {what}: {} more (--json has them all)", all - NAMED);
    }
}

fn named(index: u64, name: Option<&str>) -> String {
    name.map_or(index.to_string(), |name| format!("{index} ({name})"))
}
