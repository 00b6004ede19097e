//! Tests of the ledger's check: whole runs are proved; what is missing, doubled or altered is named.

use super::check::check;
use super::*;
use crate::deliver::{LoaderOptions, OnBadSample, SampleContext};
use crate::pipeline::{Pipeline, Raw};
use crate::plan::rng::SampleRng;
use crate::plan::{Request, Tail};
use crate::sample::{DType, FieldSpec, Slot};
use crate::train::TaskState;
use crate::train::checkpoint::{Checkpoints, Progress};
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
    fn read(&self, request: &Request, raw: &mut Raw, _: &mut SampleContext) -> Result<()> {
        if self.bad.contains(&request.index) {
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

/// Rank 0 of a group; the bytes of the other ranks are supplied in advance.
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
    fn broadcast(&self, _: &mut Vec<u8>) -> Result<()> {
        unreachable!()
    }
    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut all = vec![bytes.to_vec()];
        all.append(&mut self.others.lock().unwrap());
        Ok(all)
    }
    fn abort(&self, _: i32) {}
}

/// A run whose ranks step in turn, and its expected deliveries.
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
        self.checkpoints().newest().unwrap().and_then(|newest| newest.progress.cursor)
    }

    /// An attempt on `world_size` ranks from the last checkpoint, with a checkpoint every `save` steps, killed after
    /// `steps`; if `late`, after the ledger was written and before the next checkpoint was.
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
        let mut ledger = LedgerFile::begin(self.dir.path(), &group, &plan, plan.len(), cursor.as_ref()).unwrap();
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
                let progress = standing(loaders[0].state_dict());
                self.checkpoints().save(&progress, &TaskState::default(), false).unwrap();
            }
        }
        if late {
            append(&mut loaders);
        }
    }

    /// Applies `change` to the lines of the file.
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

/// The progress of a run at `cursor`.
fn standing(cursor: Cursor) -> Progress {
    Progress { epoch: cursor.epoch, step: cursor.position, cursor: Some(cursor), ..Progress::default() }
}

/// The same plan for another number of ranks.
fn rescaled(plan: &Plan, world_size: u64) -> Plan {
    let mut described = plan.describe().unwrap();
    described["num_replicas"] = world_size.into();
    Plan::from_description(&described).unwrap()
}

fn plan(len: u64, tail: Tail) -> Plan {
    Plan::new(len, 1).unwrap().with_seed(3).with_tail(tail)
}

fn has_problem(proof: &Proof, part: &str) -> bool {
    !proof.proved && proof.problems.iter().any(|problem| problem.contains(part))
}

/// Raises an entry's counts of some samples and lowers those of others.
fn recount(entry: &mut serde_json::Value, more: &[u64], less: &[u64]) {
    let old: Entry = serde_json::from_value(entry.clone()).unwrap();
    let counts = old.counts(1_000).unwrap();
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
        let len = 20 + rng.below(60);
        let plain = plan(len, tail);
        let mut run = Simulation::new(match round % 5 {
            0 => plain.with_epoch_length(1 + rng.below(2 * len)).unwrap(),
            1 => plain.with_merged_epochs(1 + rng.below(3)).unwrap(),
            2 => plain.with_mixture(&[(len / 2, 1.0), (len - len / 2, 3.0)]).unwrap(),
            _ => plain,
        });
        run.drop_last = rng.chance(0.5);
        for _ in 0..1 + rng.below(5) {
            let (world_size, batch_size) = (1 + rng.below(4), 1 + rng.below(3));
            run.attempt(world_size, batch_size, 1 + rng.below(40), 1 + rng.below(7), rng.chance(0.5));
        }
        let proof = run.verify();
        assert_eq!((proof.proved, proof.problems.len()), (!proof.epochs.is_empty(), 0), "round {round}: {proof:?}");
        let end = run.cursor().map_or((0, 0), |cursor| (cursor.epoch, cursor.position));
        assert_eq!(proof.epochs.len() as u64, end.0 + u64::from(end.1 > 0));
        for epoch in proof.epochs.iter().filter(|_| round % 5 > 2) {
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
    // Rank 0 omits its first sample and repeats the first one of rank 1.
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
    // The sets changed and the digest kept, and vice versa.
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
    run.attempt(1, 5, 1, 1, false); // damage is told by the check, and keeps no run from going on
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
    assert!(has_problem(&proof, "in the middle of an entry"), "{proof:?}");
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

#[test]
fn other_data_may_begin_with_an_epoch_and_not_within_one() {
    let mut run = Simulation::new(plan(40, Tail::Exact));
    run.attempt(1, 5, 8, 8, false);
    // The last checkpoint stands at the end of epoch 0; with the cursor at the beginning of epoch 1 other data may follow.
    let before = run.cursor().unwrap();
    let save = |cursor: &Cursor| {
        run.checkpoints().save(&standing(cursor.clone()), &TaskState::default(), false).unwrap();
    };
    save(&Cursor::new(50, &plan(50, Tail::Exact), before.epoch + u64::from(before.position > 0), 0, 0));
    let names = (0..50).map(|index| format!("{index}.jpg\tcat\n")).collect::<String>();
    fs::write(run.dir.path().join("samples.txt"), names).unwrap();
    // Killed before the attempt on the new data began: the list is new, the ledger describes the old data.
    let proof = run.verify();
    assert!(proof.proved && proof.epochs.len() == 1, "{proof:?}");
    run.plan = plan(50, Tail::Exact);
    run.attempt(2, 5, 5, 5, false);
    let proof = run.verify();
    assert!(proof.proved, "{proof:?}");
    assert_eq!(proof.epochs.iter().map(|epoch| (epoch.samples, epoch.never)).collect::<Vec<_>>(), [(40, 0), (50, 0)]);
    // Differences in the old data get no names of the new data.
    run.spoil(|lines| recount(&mut lines[1], &[3], &[4]));
    let missed = &run.verify().epochs[0].missed;
    assert_eq!((missed[0].index, &missed[0].name), (4, &None));
    // Within an epoch.
    let run = Simulation::new(plan(40, Tail::Exact));
    run.attempt(1, 5, 3, 3, false);
    run.attempt(1, 5, 3, 3, false);
    run.spoil(|lines| lines[2]["dataset"] = "another".into());
    assert!(has_problem(&run.verify(), "attempt 2 went on in the middle of epoch 1 with other data"));
    run.spoil(|lines| {
        lines[2]["dataset"] = lines[0]["dataset"].clone();
        lines[2]["plan"]["seed"] = 77.into();
    });
    assert!(has_problem(&run.verify(), "with another order than attempt 1"));
}

/// torch's permutation of 4e8 samples takes ten seconds and 1.6 GB.
#[test]
fn a_ledger_that_claims_another_number_of_samples_is_not_worked_out() {
    let run = Simulation::new(plan(40, Tail::Exact));
    run.attempt(1, 5, 8, 3, false);
    run.attempt(1, 5, 8, 8, true);
    let refused = |problem: &str| {
        let proof = run.verify();
        assert!(!proof.proved && proof.epochs.is_empty(), "{proof:?}");
        assert_eq!(proof.problems, [problem]);
    };
    assert!(run.verify().proved);
    run.spoil(|lines| lines[0]["plan"]["len"] = 400_000_000.into());
    refused("attempts 1 and 2 say that the same data has 400000000 and 40 samples: the ledger is damaged");
    let names = (0..40).map(|index| format!("{index}.jpg\tcat\n")).collect::<String>();
    fs::write(run.dir.path().join("samples.txt"), names).unwrap();
    run.spoil(|lines| {
        let attempts = lines.iter_mut().filter(|line| line["attempt"].is_number());
        attempts.for_each(|line| line["plan"]["len"] = 400_000_000.into());
    });
    refused("samples.txt lists 40 samples, the data of attempt 2 has 400000000");
}

#[test]
fn weights_of_a_mixture_may_change_at_a_checkpoint() {
    let mixed = |weight| plan(60, Tail::Pad).with_mixture(&[(30, 1.0), (30, weight)]).unwrap();
    let mut run = Simulation::new(mixed(1.0));
    run.attempt(1, 4, 7, 7, false);
    run.plan = mixed(0.2);
    run.attempt(2, 4, 7, 7, false);
    run.attempt(1, 4, 9, 1, false);
    let proof = run.verify();
    assert!(proof.proved && proof.epochs.len() == 2, "{proof:?}");
}

#[test]
fn an_exchange_must_be_the_one_of_the_plan() {
    let run = Simulation::new(plan(40, Tail::Exact));
    run.attempt(1, 5, 8, 8, false);
    let at = |position| plan(40, Tail::Exact).epoch(0).at(position).index;
    run.spoil(|lines| {
        recount(&mut lines[1], &[at(9)], &[at(5)]);
        lines[1]["replaced"] = serde_json::json!([{"position": 5, "index": at(5), "replaced_by": at(9)}]);
    });
    assert!(has_problem(&run.verify(), "at position 5 of epoch 1"));
}

#[test]
fn what_an_entry_says_of_itself_is_checked() {
    let spoilt = |change: fn(&mut Vec<serde_json::Value>)| {
        let run = Simulation::new(plan(42, Tail::Pad));
        run.attempt(4, 2, 8, 2, false);
        run.spoil(change);
        run.verify()
    };
    // An attempt, then four ranks at four checkpoints.
    assert!(spoilt(|_| ()).proved);
    assert!(has_problem(&spoilt(|lines| lines[5]["batch_size"] = 8.into()), "do not agree on the batch size"));
    assert!(has_problem(&spoilt(|lines| lines[5]["rank"] = 9.into()), "there is an entry of rank 9"));
    assert!(has_problem(&spoilt(|lines| lines[6]["from"] = 20.into()), "an entry of rank 1 in attempt 1 is of"));
    assert!(has_problem(&spoilt(|lines| lines[2]["padded"] = 5.into()), "the padding is not what the plan asks for"));
    assert!(has_problem(&spoilt(|lines| lines[0]["attempt"] = 2.into()), "not numbered"));
    assert!(has_problem(&spoilt(|lines| drop(lines.drain(1..))), "the ledger ends with epoch 0"));
    let silent = spoilt(|lines| lines.retain(|line| line["rank"] != 2));
    assert!(has_problem(&silent, "rank 2 wrote nothing of epoch 1 in attempt 1"), "{silent:?}");
}

#[test]
fn a_hostile_ledger_is_refused_at_once() {
    let run = Simulation::new(plan(40, Tail::Exact));
    run.attempt(1, 5, 8, 8, false);
    let path = run.dir.path().join(LEDGER);
    let whole = fs::read_to_string(&path).unwrap();
    let spoilt = |change: &dyn Fn(&mut Vec<serde_json::Value>)| {
        fs::write(&path, &whole).unwrap();
        run.spoil(|lines| change(lines));
        verify(run.dir.path())
    };
    assert!(!spoilt(&|lines| lines[0]["plan"]["num_replicas"] = (1_u64 << 31).into()).unwrap().proved);
    let endless = spoilt(&|lines| {
        lines[0]["plan"]["len"] = (1_u64 << 62).into();
        lines[0]["plan"]["permutation"] = "feistel".into();
    });
    assert!(endless.is_err() || !endless.unwrap().proved);
    for (line, key) in [(0, "epoch"), (1, "epoch")] {
        let absurd = spoilt(&|lines| lines[line][key] = u64::MAX.into());
        assert!(absurd.unwrap_err().to_string().contains("epoch 18446744073709551615, which no run reaches"));
    }
    let foreign = spoilt(&|lines| {
        let entry: Entry = serde_json::from_value(lines[1].clone()).unwrap();
        lines[1] = serde_json::to_value(Entry::counted(&entry, &[3, 999])).unwrap();
    });
    assert!(foreign.unwrap_err().to_string().contains("it counts sample 999 of 40"));
    let miscounted = spoilt(&|lines| lines[1]["samples"] = 7.into());
    assert!(miscounted.unwrap_err().to_string().contains("its sets hold 40 samples, it says 7"));
    fs::write(&path, &whole).unwrap();
    // A checkpoint of an epoch that never existed.
    let proof = check(&read(&path).unwrap(), (1 << 60, 0)).unwrap();
    assert!(has_problem(&proof, "the ledger ends with epoch 1"), "{proof:?}");
}

#[test]
fn nothing_is_proved_of_nothing() {
    let run = Simulation::new(plan(40, Tail::Exact));
    run.attempt(1, 5, 3, 9, true); // dies before its first checkpoint
    let proof = run.verify();
    assert!(!proof.proved && proof.epochs.is_empty() && proof.problems.is_empty(), "{proof:?}");
}
