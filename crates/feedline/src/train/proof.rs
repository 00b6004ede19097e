//! The proof of a run: a record of all that the ranks delivered, written at every checkpoint. Owns `ledger.jsonl` of
//! the run folder; `check.rs` evaluates it.
//!
//! ```text
//! {"attempt":1,"epoch":0,"position":0,"dataset":...}          one line as each attempt (a start, a resume) begins
//! {"rank":0,"epoch":0,"from":0,"to":64,...}                   then at each checkpoint the entries of all ranks
//! {"rank":1,"epoch":0,"from":0,"to":64,...}
//! ```
//!
//! Entries are on the disk before their checkpoint is published, so a checkpoint never knows more than the ledger. What
//! was lost by a kill stands in the ledger and counts for nothing: an attempt counts up to where the next one began.
#![expect(clippy::disallowed_methods, reason = "owns the files of the ledger")]

mod attempt_span;
mod check;
mod problems;

pub use check::{AttemptProof, Difference, EpochProof, Proof, Replacement, verify};

use crate::deliver::Loader;
use crate::deliver::ledger::Entry;
use crate::error::{Error, Result};
use crate::plan::{Cursor, Plan};
use crate::train::disk::sync_dir;
use crate::train::group::Group;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// Name of the file in the run folder.
pub(crate) const LEDGER: &str = "ledger.jsonl";

/// The beginning of an attempt: a start or a resume. Its line begins with its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub attempt: u64,
    /// The epoch in which it begins.
    pub epoch: u64,
    /// The global position in that epoch.
    pub position: u64,
    /// Fingerprint of the data set, hexadecimal, as in a cursor.
    pub dataset: String,
    /// The plan as it serialises, so that a check needs neither settings nor data.
    plan: serde_json::Value,
}

impl Attempt {
    /// The plan it followed.
    fn plan(&self) -> Result<Plan> {
        Plan::from_description(&self.plan)
    }
}

/// The first bytes of an attempt's line.
const ATTEMPT: &[u8] = b"{\"attempt\":";

/// One line of the file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Attempt(Attempt),
    Entry(Entry),
}

/// The ledger of a running training. Rank 0 writes; the others only send their entries.
#[derive(Debug)]
pub struct LedgerFile {
    path: PathBuf,
    /// `None` except on rank 0.
    file: Option<File>,
}

impl LedgerFile {
    /// Begins an attempt of the run in folder `dir` on the data set with this fingerprint, from `cursor` or else from
    /// the beginning. Not a collective.
    ///
    /// # Errors
    /// On rank 0: a file that cannot be read or written.
    pub fn begin(
        dir: &Path,
        group: &dyn Group,
        plan: &Plan,
        dataset: u64,
        cursor: Option<&Cursor>,
    ) -> Result<LedgerFile> {
        let path = dir.join(LEDGER);
        if group.rank() != 0 {
            return Ok(LedgerFile { path, file: None });
        }
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).read(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
        let attempts = count_attempts(&file).map_err(|e| Error::io("read", &path, e))?;
        let attempt = Attempt {
            attempt: attempts + 1,
            epoch: cursor.map_or(0, |cursor| cursor.epoch),
            position: cursor.map_or(0, |cursor| cursor.position),
            dataset: format!("{dataset:016x}"),
            plan: cursor.map_or(Ok(plan.clone()), |cursor| cursor.goes_on(plan))?.describe()?,
        };
        let mut ledger = LedgerFile { path, file: Some(file) };
        ledger.write(&[Line::Attempt(attempt)])?;
        sync_dir(dir)?;
        Ok(ledger)
    }

    /// Appends the deliveries of the loaders of all ranks since the last call, and returns once they are on disk. Call
    /// it right before each checkpoint, on the loader that the checkpoint's cursor comes from. Collective; loaders
    /// without [`LoaderOptions::ledger`](crate::deliver::LoaderOptions::ledger) add nothing.
    ///
    /// # Errors
    /// Any error of the group; on rank 0 also a failed write.
    pub fn append(&mut self, group: &dyn Group, loader: &mut Loader) -> Result<()> {
        let entries = serde_json::to_vec(&loader.take_ledger()).map_err(not_json)?;
        let mut lines = Vec::new();
        for bytes in group.gather(&entries)? {
            let entries: Vec<Entry> = serde_json::from_slice(&bytes).map_err(not_json)?;
            lines.extend(entries.into_iter().map(Line::Entry));
        }
        self.write(&lines)
    }

    fn write(&mut self, lines: &[Line]) -> Result<()> {
        let Some(file) = self.file.as_mut().filter(|_| !lines.is_empty()) else { return Ok(()) };
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line).map_err(not_json)?;
            text.push(b'\n');
        }
        file.write_all(&text).and_then(|()| file.sync_data()).map_err(|e| Error::io("write", &self.path, e))
    }
}

/// Counts the attempts of a ledger, and cuts off half a line at its end: a process killed while writing leaves one, and
/// it belongs to no checkpoint. Parses nothing else, so that a resume costs no more than reading the file, and leaves
/// damage for the check to report.
fn count_attempts(file: &File) -> io::Result<u64> {
    let (mut reader, mut line) = (BufReader::new(file), Vec::new());
    let (mut attempts, mut whole) = (0, 0);
    while reader.read_until(b'\n', &mut line)? > 0 {
        if line.last() != Some(&b'\n') {
            file.set_len(whole)?;
            break;
        }
        attempts += u64::from(line.starts_with(ATTEMPT));
        whole += line.len() as u64;
        line.clear();
    }
    Ok(attempts)
}

/// The attempts of a ledger file with their entries, in order. An unterminated last line is ignored.
fn read(path: &Path) -> Result<Vec<(Attempt, Vec<Entry>)>> {
    let damaged = |problem: String| Error::Checkpoint {
        path: path.to_path_buf(),
        problem,
        remedy: "It is damaged or not a ledger; with the file moved away a resumed run begins a new one".into(),
    };
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let mut attempts: Vec<(Attempt, Vec<Entry>)> = Vec::new();
    let mut lines = bytes.split(|&byte| byte == b'\n').enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        if lines.peek().is_none() {
            break; // what follows the last end of line: nothing, or half a line
        }
        let line = serde_json::from_slice(line)
            .map_err(|_| damaged(format!("line {} is neither an attempt nor an entry", at + 1)))?;
        match (line, attempts.last_mut()) {
            (Line::Attempt(attempt), _) => attempts.push((attempt, Vec::new())),
            (Line::Entry(entry), Some((_, entries))) => entries.push(entry),
            (Line::Entry(_), None) => return Err(damaged("there is an entry before the first attempt".into())),
        }
    }
    Ok(attempts)
}

fn not_json(error: serde_json::Error) -> Error {
    Error::train(format!("an entry of the ledger is not JSON: {error}"), "Please report this")
}

#[cfg(test)]
mod tests;
