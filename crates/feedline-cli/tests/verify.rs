//! `feedline verify` on ledgers that the library wrote, whole and spoilt.

use feedline::deliver::{Loader, LoaderOptions, OnBadSample, SampleContext};
use feedline::pipeline::{Pipeline, Raw};
use feedline::plan::{Plan, Request, Tail};
use feedline::train::TaskState;
use feedline::train::checkpoint::{Checkpoints, Progress};
use feedline::train::group::SingleRank;
use feedline::train::proof::LedgerFile;
use feedline::{DType, Error, FieldSpec, Result, Slot};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

struct Numbered(Vec<FieldSpec>, Option<u64>);

impl Pipeline for Numbered {
    fn len(&self) -> u64 {
        12
    }
    fn fingerprint(&self) -> u64 {
        1
    }
    fn fields(&self) -> &[FieldSpec] {
        &self.0
    }
    fn location(&self, index: u64) -> String {
        index.to_string()
    }
    fn read(&self, request: &Request, raw: &mut Raw, _: &mut SampleContext) -> Result<()> {
        if self.1 == Some(request.index) {
            return Err(Error::io("read", "x", std::io::Error::from(std::io::ErrorKind::NotFound)));
        }
        raw.clear();
        Ok(())
    }
    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, _: &mut SampleContext) -> Result<()> {
        slot.dense::<i64>("label")[0] = request.index as i64;
        Ok(())
    }
}

fn plan() -> Plan {
    Plan::new(12, 1).unwrap().with_tail(Tail::Exact)
}

/// A run of some batches with a checkpoint after each.
fn run(dir: &Path, batch_size: u64, batches: usize, bad: Option<u64>) {
    let data = Numbered(vec![FieldSpec::stack("label", DType::I64, [])], bad);
    let options = LoaderOptions {
        batch_size,
        drop_last: true,
        num_workers: 0,
        on_bad_sample: OnBadSample::Replace,
        ledger: true,
        ..LoaderOptions::default()
    };
    let mut loader = Loader::new(Arc::new(data), plan(), options).unwrap();
    let mut ledger = LedgerFile::begin(dir, &SingleRank, &plan(), 1, None).unwrap();
    let mut done = 0;
    while done < batches {
        done += usize::from(loader.next_batch().unwrap().is_some());
        ledger.append(&SingleRank, &mut loader).unwrap();
        let progress = Progress { step: done as u64, cursor: Some(loader.state_dict()), ..Progress::default() };
        Checkpoints::new(dir.join("checkpoints")).save(&progress, &TaskState::default(), false).unwrap();
    }
    let names: String = (0..12).map(|index| format!("dogs/{index}.png\tdogs\n")).collect();
    fs::write(dir.join("samples.txt"), names).unwrap();
}

fn verify(dir: &Path, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_feedline")).arg("verify").arg(dir).args(flags).output().unwrap()
}

#[track_caller]
fn expect(output: &Output, code: i32, lines: &[&str]) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    for line in lines {
        assert!(out.lines().chain(err.lines()).any(|l| l.contains(line)), "{line:?} is not in: {out}{err}");
    }
}

#[test]
fn a_whole_run_is_proved_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), 5, 7, None);
    let lines = [
        "epochs 1..3: each of 10 samples exactly once (2 of 12 not in this epoch), on 1 rank",
        "epoch 4, so far: each of 5 samples exactly once (7 of 12 not yet), on 1 rank",
        "proved",
    ];
    expect(&verify(dir.path(), &[]), 0, &lines);
    expect(&verify(&dir.path().join("checkpoints"), &[]), 2, &["there is no ledger.jsonl"]);
}

#[test]
fn a_miss_and_a_double_are_named_and_the_exit_code_says_so() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), 1, 20, None);
    let path = dir.path().join("ledger.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    // Line 0 begins the attempt, line i is the entry of the i-th sample.
    lines[3] = lines[5];
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    let (lost, twice) = (plan().epoch(0).at(2).index, plan().epoch(0).at(4).index);
    let expected = [
        "epoch 1: NOT as planned: 12 delivered; of 12 samples 10 exactly once, 1 more often, 1 never, on 1 rank",
        &format!("  missed: sample {lost} (dogs/{lost}.png), delivered 0 times instead of 1"),
        &format!("  doubled: sample {twice} (dogs/{twice}.png), delivered 2 times instead of 1"),
        "epoch 2, so far: each of 8 samples exactly once (4 of 12 not yet)",
        "NOT proved",
    ];
    expect(&verify(dir.path(), &[]), 10, &expected);
    let output = verify(dir.path(), &["--json"]);
    assert_eq!(output.status.code(), Some(10));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["proved"], false);
    assert_eq!(json["epochs"][0]["missed"][0]["index"], lost);
    assert_eq!(json["epochs"][0]["doubled"][0]["name"], format!("dogs/{twice}.png"));
    assert_eq!(json["epochs"][1]["missed"].as_array().map(Vec::len), Some(0));
}

#[test]
fn replaced_samples_are_told_and_break_nothing() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), 4, 3, Some(7));
    let expected = ["as planned, 12 delivered; of 12 samples 10 exactly once, 1 more often, 1 never", "proved"];
    let output = verify(dir.path(), &[]);
    expect(&output, 0, &expected);
    expect(&output, 0, &["  replaced: sample 7 (dogs/7.png) at position", "which came 2 times in all"]);
}
