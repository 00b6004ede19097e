use super::check::check;
use super::*;
use crate::deliver::{Clock, LoaderOptions, OnBadSample};
use crate::pipeline::{Pipeline, Raw};
use crate::plan::rng::SampleRng;
use crate::plan::{Permutation, Request, Tail};
use crate::sample::{DType, FieldSpec, Slot};
use crate::train::TaskState;
use crate::train::checkpoint::{self, Checkpoints, Progress};
use std::sync::{Arc, Mutex};

/// Numbered samples, some of which are bad.
struct Numbered {
    len: u64,
    bad: Vec<u64>,
    fields: Vec<FieldSpec>,
}

impl Pipeline for Numbered {
    fn len(&self) -> u64 {
        self.len
    }
    fn fingerprint(&self) -> u64 {
        self.len
    }
    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }
    fn location(&self, index: u64) -> String {
        format!("number {index}")
    }
    fn read(&self, request: &Request, raw: &mut Raw, _: &mut Clock) -> Result<()> {
        if self.bad.contains(&request.index) {
            return Err(Error::io("read", "x", std::io::Error::from(std::io::ErrorKind::NotFound)));
        }
        raw.clear();
        Ok(())
    }
    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, _: &mut Clock) -> Result<()> {
        slot.dense::<i64>("label")[0] = request.index as i64;
        Ok(())
    }
}

/// Rank 0 of a group whose other ranks' bytes are handed over beforehand.
struct Rank0 {
    world_size: u64,
    others: Mutex<Vec<Vec<u8>>>,
}

impl Group for Rank0 {
    fn rank(&self) -> u64 {
        0
    }
    fn world_size(&self) -> u64 {
        self.world_size
    }
    fn all_reduce_f32(&self, _: &mut [f32]) -> Result<()> {
        unreachable!()
    }
    fn all_reduce_f64(&self, _: &mut [f64]) -> Result<()> {
        unreachable!()
    }
    fn broadcast(&self, _: &mut Vec<u8>) -> Result<()> {
        unreachable!()
    }
    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut all = vec![bytes.to_vec()];
        all.append(&mut self.others.lock().unwrap());
        Ok(all)
    }
    fn barrier(&self) -> Result<()> {
        unreachable!()
    }
    fn abort(&self, _: i32) {}
}

/// A run whose ranks step in turn, and what it should have delivered.
struct Simulation {
    dir: tempfile::TempDir,
    plan: Plan,
    drop_last: bool,
    bad: Vec<u64>,
}

impl Simulation {
    fn new(plan: Plan) -> Simulation {
        Simulation { dir: tempfile::tempdir().unwrap(), plan, drop_last: false, bad: vec![] }
    }

    fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(self.dir.path().join("checkpoints"))
    }

    fn cursor(&self) -> Option<Cursor> {
        self.checkpoints().last().and_then(|last| checkpoint::load(&last).unwrap().0.cursor)
    }

    /// An attempt on `world_size` ranks from the last checkpoint, with a checkpoint every `save` steps, killed after
    /// `steps`; if `late`, when the ledger was written and the next checkpoint was not.
    fn attempt(&self, world_size: u64, batch_size: u64, steps: u64, save: u64, late: bool) {
        let plan = rescaled(&self.plan, world_size);
        let cursor = self.cursor();
        let mut loaders: Vec<Loader> = (0..world_size)
            .map(|rank| {
                let fields = vec![FieldSpec::stack("label", DType::I64, [])];
                let data = Numbered { len: plan.len(), bad: self.bad.clone(), fields };
                let options = LoaderOptions {
                    rank,
                    batch_size,
                    drop_last: self.drop_last,
                    num_workers: 0,
                    on_bad_sample: OnBadSample::Replace,
                    ledger: true,
                    ..LoaderOptions::default()
                };
                let mut loader = Loader::new(Arc::new(data), plan.clone(), options).unwrap();
                cursor.iter().for_each(|cursor| loader.load_state_dict(cursor).unwrap());
                loader
            })
            .collect();
        let group = Rank0 { world_size, others: Mutex::default() };
        let mut ledger = LedgerFile::begin(self.dir.path(), &group, &plan, cursor.as_ref()).unwrap();
        let mut append = |loaders: &mut Vec<Loader>| {
            let others = loaders[1..].iter_mut().map(|l| serde_json::to_vec(&l.take_ledger()).unwrap());
            *group.others.lock().unwrap() = others.collect();
            ledger.append(&group, &mut loaders[0]).unwrap();
        };
        let mut over = vec![false; loaders.len()];
        let mut done = 0;
        while done < steps {
            for (loader, over) in loaders.iter_mut().zip(&mut over) {
                *over = *over || loader.next_batch().unwrap().is_none();
            }
            if over.iter().all(|over| *over) {
                over.fill(false);
                continue;
            }
            done += 1;
            if done % save == 0 {
                append(&mut loaders);
                let progress = Progress { step: done, cursor: Some(loaders[0].state_dict()), ..Progress::default() };
                self.checkpoints().save(&progress, &TaskState::default(), false, false).unwrap();
            }
        }
        if late {
            append(&mut loaders);
        }
    }

    /// The file's lines changed by `change`.
    fn spoil(&self, change: impl FnOnce(&mut Vec<serde_json::Value>)) {
        let path = self.dir.path().join(LEDGER);
        let text = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<_> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        change(&mut lines);
        fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }

    fn verify(&self) -> Proof {
        verify(self.dir.path()).unwrap()
    }
}

fn rescaled(plan: &Plan, world_size: u64) -> Plan {
    let fresh = Plan::unshuffled(plan.len(), world_size).unwrap().with_seed(plan.seed()).with_tail(plan.tail());
    fresh.with_permutation(if plan.is_shuffled() { Permutation::Torch } else { Permutation::None }).unwrap()
}

fn plan(len: u64, tail: Tail) -> Plan {
    Plan::new(len, 1).unwrap().with_seed(3).with_tail(tail)
}

/// An entry's counts with some samples more and others less.
fn recount(entry: &mut serde_json::Value, more: &[u64], less: &[u64]) {
    let old: Entry = serde_json::from_value(entry.clone()).unwrap();
    let counts = old.counts().unwrap();
    let mut indices: Vec<u64> =
        (0..1_000).flat_map(|index| std::iter::repeat_n(index, counts.count(index) as usize)).collect();
    for index in less {
        let at = indices.iter().position(|i| i == index).expect("it is in there");
        indices.remove(at);
    }
    indices.extend(more);
    *entry = serde_json::to_value(Entry::counted(&old, &indices)).unwrap();
}

#[test]
fn any_chain_of_world_sizes_and_kills_is_proved() {
    let mut rng = SampleRng::new(1, 0, 0, "chains");
    for round in 0..60 {
        let tail = [Tail::Pad, Tail::Drop, Tail::Exact][round % 3];
        let mut run = Simulation::new(plan(20 + rng.below(60), tail));
        run.drop_last = rng.chance(0.5);
        for _ in 0..1 + rng.below(5) {
            let (world_size, batch_size) = (1 + rng.below(4), 1 + rng.below(3));
            run.attempt(world_size, batch_size, 1 + rng.below(40), 1 + rng.below(7), rng.chance(0.5));
        }
        let proof = run.verify();
        assert!(proof.proved, "round {round}: {proof:?}");
        let end = run.cursor().map_or((0, 0), |cursor| (cursor.epoch, cursor.position));
        assert_eq!(proof.epochs.len() as u64, end.0 + u64::from(end.1 > 0));
        for epoch in &proof.epochs {
            assert_eq!((epoch.more, epoch.wanted_twice, epoch.complete), (0, false, epoch.epoch < end.0));
            assert_eq!(epoch.once, epoch.delivered);
            assert_eq!(epoch.once + epoch.never, run.plan.len());
            let all = epoch.complete && !run.drop_last && tail != Tail::Drop;
            assert!(!all || epoch.never == 0, "round {round}: {epoch:?}");
        }
    }
}

#[test]
fn a_planted_double_and_a_planted_miss_are_found_by_name() {
    let run = Simulation::new(plan(100, Tail::Pad));
    run.attempt(2, 5, 13, 3, false);
    run.attempt(3, 5, 20, 2, true);
    assert!(run.verify().proved);
    let names: String = (0..100).map(|index| format!("cats/{index:03}.jpg\tcat\n")).collect();
    fs::write(run.dir.path().join("samples.txt"), names).unwrap();
    let in_order = plan(100, Tail::Pad).epoch(0);
    let (lost, twice) = (in_order.at(0).index, in_order.at(1).index);
    // Rank 0 leaves out its first sample and gives the first one of rank 1 a second time.
    run.spoil(|lines| recount(&mut lines[1], &[twice], &[lost]));
    let proof = run.verify();
    assert!(!proof.proved && proof.problems.is_empty());
    let name = |index| Some(format!("cats/{index:03}.jpg"));
    assert_eq!(proof.epochs[0].missed, [Difference { index: lost, name: name(lost), planned: 1, delivered: 0 }]);
    assert_eq!(proof.epochs[0].doubled, [Difference { index: twice, name: name(twice), planned: 1, delivered: 2 }]);
    assert_eq!((proof.epochs[0].once, proof.epochs[0].more, proof.epochs[0].never), (98, 1, 1));
    assert!(proof.epochs[1..].iter().all(EpochProof::as_planned));
}

#[test]
fn what_a_rank_did_not_write_is_missed_and_what_it_wrote_twice_is_doubled() {
    let run = Simulation::new(plan(60, Tail::Exact));
    run.attempt(3, 5, 4, 4, false);
    run.spoil(|lines| drop(lines.remove(2)));
    let missed: Vec<u64> = run.verify().epochs[0].missed.iter().map(|difference| difference.index).collect();
    let mut expect: Vec<u64> = rescaled(&run.plan, 3).epoch(0).rank(1).map(|request| request.index).collect();
    expect.sort_unstable();
    assert_eq!(missed, expect);
    run.spoil(|lines| lines[2] = lines[1].clone());
    let proof = run.verify();
    assert_eq!((proof.epochs[0].doubled.len(), proof.epochs[0].missed.len()), (20, 40));
}

#[test]
fn sets_and_digest_vouch_for_each_other() {
    let run = Simulation::new(plan(60, Tail::Exact));
    run.attempt(1, 5, 12, 12, false);
    let whole = fs::read_to_string(run.dir.path().join(LEDGER)).unwrap();
    // The sets changed and the digest kept, and the other way round.
    run.spoil(|lines| {
        let digest = lines[1]["digest"].clone();
        recount(&mut lines[1], &[4], &[5]);
        lines[1]["digest"] = digest;
    });
    let proof = run.verify();
    assert!(!proof.proved && proof.problems[0].contains("contradict each other"), "{proof:?}");
    fs::write(run.dir.path().join(LEDGER), whole).unwrap();
    run.spoil(|lines| lines[1]["digest"] = "00".into());
    assert!(!run.verify().proved);
}

#[test]
fn lost_work_counts_for_nothing() {
    let run = Simulation::new(plan(90, Tail::Exact));
    run.attempt(2, 5, 3, 2, true); // the third step is in the ledger and in no checkpoint
    let proof = run.verify();
    assert!(proof.proved);
    assert_eq!((proof.epochs[0].delivered, proof.attempts[0].void_entries), (20, 2));
    run.attempt(3, 5, 1, 9, true); // dies before its first checkpoint
    run.attempt(1, 5, 14, 7, false);
    let proof = run.verify();
    assert!(proof.proved, "{proof:?}");
    assert_eq!((proof.epochs[0].delivered, proof.epochs[0].never, proof.epochs[0].complete), (90, 0, false));
    assert_eq!(proof.epochs[0].attempts, [1, 3]);
    assert_eq!(proof.attempts.iter().map(|attempt| attempt.void_entries).collect::<Vec<_>>(), [2, 3, 0]);
}

#[test]
fn half_a_line_at_the_end_is_no_harm() {
    let run = Simulation::new(plan(40, Tail::Exact));
    run.attempt(2, 5, 2, 2, true);
    let path = run.dir.path().join(LEDGER);
    let mut text = fs::read(&path).unwrap();
    text.extend(b"{\"rank\":0,\"epo");
    fs::write(&path, &text).unwrap();
    assert!(run.verify().proved);
    run.attempt(1, 5, 4, 4, false); // cuts it off
    let proof = run.verify();
    assert!(proof.proved && proof.epochs[0].never == 0, "{proof:?}");
    text.extend(b"\n{}\n");
    fs::write(&path, &text).unwrap();
    let error = verify(run.dir.path()).unwrap_err().to_string();
    assert!(error.contains("ledger.jsonl") && error.contains("line 4"), "{error}");
}

#[test]
fn a_ledger_that_begins_late_or_lacks_a_stretch_proves_nothing_of_it() {
    let run = Simulation::new(plan(40, Tail::Exact));
    run.attempt(1, 5, 3, 3, false);
    run.attempt(2, 5, 4, 1, false);
    let path = run.dir.path().join(LEDGER);
    let whole = fs::read_to_string(&path).unwrap();
    assert!(run.verify().proved);
    let later: Vec<&str> = whole.lines().skip(2).collect();
    fs::write(&path, later.join("\n") + "\n").unwrap();
    let proof = run.verify();
    assert!(!proof.proved && proof.problems[0].contains("nothing is known"), "{proof:?}");
    // A resume in the middle of an entry: nobody can tell which of its samples count.
    fs::write(&path, whole).unwrap();
    let mut attempts = read(&path).unwrap();
    attempts[1].0.position = 12;
    let proof = check(&attempts, (1, 5)).unwrap();
    assert!(proof.problems[0].contains("in the middle of an entry"), "{proof:?}");
    let nowhere = tempfile::tempdir().unwrap();
    assert!(verify(nowhere.path()).unwrap_err().to_string().contains("no ledger.jsonl"));
}

#[test]
fn padding_is_no_double_and_replaced_samples_are_told() {
    let mut run = Simulation::new(plan(10, Tail::Pad));
    run.bad = vec![4, 7];
    run.attempt(4, 3, 1, 1, false);
    let proof = run.verify();
    assert!(proof.proved, "{proof:?}");
    let epoch = &proof.epochs[0];
    assert_eq!((epoch.delivered, epoch.padded), (10, 2));
    assert_eq!(epoch.replaced.iter().map(|bad| bad.index).collect::<std::collections::BTreeSet<_>>().len(), 2);
    assert_eq!(epoch.replaced.len(), 2, "a replaced padding is not told, a replaced replacement once");
    for bad in &epoch.replaced {
        assert!(run.bad.contains(&bad.index) && !run.bad.contains(&bad.replaced_by) && bad.times >= 2);
    }
    assert_eq!(epoch.never, 2);
    assert_eq!(epoch.once + epoch.more, 8);
}

#[test]
fn a_small_cost_on_the_disk() {
    let run = Simulation::new(plan(1000, Tail::Exact));
    run.attempt(2, 50, 10, 5, false);
    let bytes = fs::metadata(run.dir.path().join(LEDGER)).unwrap().len();
    assert!(bytes < 4_000, "{bytes} bytes for 1000 samples, 2 ranks, 2 checkpoints");
}
