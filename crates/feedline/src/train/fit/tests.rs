//! Tests of the training loop with a task that counts: order of events, stop and resume, validation, several ranks.

use super::super::TaskState;
use super::*;
use crate::deliver::SampleContext;
use crate::event::Event;
use crate::pipeline::Raw;
use crate::plan::Request;
use crate::sample::{Array, Batch, DType, FieldSpec, Slot};
use crate::train::group::SingleRank;
use crate::train::schedule::poly_lr;
use crate::train::threads::ThreadGroup;
use std::cell::Cell;
use std::path::Path;
use std::sync::Mutex;

/// x in -1..1 and y = 3x + 1, from the sample's own random stream.
struct Line(Vec<FieldSpec>, u64);

impl Pipeline for Line {
    fn len(&self) -> u64 {
        self.1
    }
    fn fields(&self) -> &[FieldSpec] {
        &self.0
    }
    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, _: &mut SampleContext) -> Result<()> {
        let x = request.rng("x").uniform(-1.0, 1.0) as f32;
        slot.dense::<f32>("xy").copy_from_slice(&[x, 3.0 * x + 1.0]);
        Ok(())
    }
}

/// Fits a line by gradient descent with momentum; frozen, only the offset moves. Its metric is a ratio of two sums.
#[derive(Debug, Default)]
struct LineTask {
    weights: [f64; 2],
    momentum: [f64; 2],
    frozen: bool,
    /// The momentum that the loop set before each step.
    set_momentum: Option<f64>,
}

impl LineTask {
    /// Losses and the sum of the gradients.
    fn losses(&self, batch: &Batch) -> (Tally, [f64; 2]) {
        let (mut tally, mut gradient) = (Tally { metric_sums: vec![0.0; 2], ..Tally::default() }, [0.0; 2]);
        for xy in batch.stacked("xy").unwrap().as_slice::<f32>().chunks(2).take(batch.valid) {
            let error = self.weights[0] * f64::from(xy[0]) + self.weights[1] - f64::from(xy[1]);
            tally.add(&Tally { samples: 1, loss_sum: error * error, metric_sums: vec![error.abs(), 1.0] });
            gradient[0] += 2.0 * error * f64::from(xy[0]);
            gradient[1] += 2.0 * error;
        }
        (tally, gradient)
    }
}

impl Task for LineTask {
    fn metric_names(&self) -> &'static [&'static str] {
        &["absolute error"]
    }
    fn metric_sums_len(&self) -> usize {
        2
    }
    fn metrics(&self, tally: &Tally) -> Vec<f64> {
        match tally.metric_sums[..] {
            [errors, count] => vec![errors / count],
            _ => panic!("{tally:?}"),
        }
    }
    fn set_frozen(&mut self, frozen: bool) -> Result<()> {
        self.frozen = frozen;
        Ok(())
    }
    fn set_momentum(&mut self, momentum: f64) {
        self.set_momentum = Some(momentum);
    }
    fn train_step(&mut self, batch: &Batch, lr: f64, group: &dyn Group) -> Result<Tally> {
        let (mut tally, mut gradient) = self.losses(batch);
        tally.all_reduce(group)?;
        group.all_reduce_f64(&mut gradient)?;
        let parts = self.weights.iter_mut().zip(&mut self.momentum).zip(gradient);
        for ((weight, momentum), gradient) in parts.skip(usize::from(self.frozen)) {
            *momentum = self.set_momentum.unwrap_or(0.9) * *momentum + gradient / tally.samples as f64;
            *weight -= lr * *momentum;
        }
        Ok(tally)
    }
    fn eval_step(&mut self, batch: &Batch) -> Result<Tally> {
        Ok(self.losses(batch).0)
    }
    fn state(&self) -> Result<TaskState> {
        let mut state = TaskState::default();
        state.model.insert("weights".into(), Array::from_slice([2], &self.weights));
        state.optimizer.insert("momentum".into(), Array::from_slice([2], &self.momentum));
        Ok(state)
    }
    fn load_state(&mut self, state: TaskState) -> Result<()> {
        self.weights.copy_from_slice(state.model["weights"].as_slice());
        self.momentum.copy_from_slice(state.optimizer["momentum"].as_slice());
        Ok(())
    }
}

#[derive(Default)]
struct Steps(Mutex<Vec<String>>);

impl Sink for Steps {
    fn emit(&self, event: &Event) -> Result<()> {
        match event {
            Event::Step { epoch, step, loss, lr, .. } => {
                self.0.lock().unwrap().push(format!("{epoch}/{step} {:016x} {lr}", loss.to_bits()));
            }
            Event::EpochEnd(record) => self.0.lock().unwrap().push(format!(
                "{epoch} {:?} {:?}",
                record.train_loss,
                record.val_loss,
                epoch = record.epoch
            )),
            _ => {}
        }
        Ok(())
    }
}

fn options(batch_sizes: [u64; 2]) -> FitOptions {
    let phase = |first_epoch, frozen, batch_size| Phase {
        first_epoch,
        frozen,
        batch_size,
        lr: Box::new(move |epoch, _| 0.05 / (1 + epoch) as f64),
        momentum: None,
    };
    FitOptions {
        epochs: 4,
        phases: vec![phase(0, true, batch_sizes[0]), phase(2, false, batch_sizes[1])],
        batch_split: BatchSplit::Exact,
        patience: 0,
        save_period: 2,
        checkpoint_steps: 3,
        checkpoint_seconds: 0.0,
    }
}

fn data(n: u64) -> Arc<dyn Pipeline> {
    Arc::new(Line(vec![FieldSpec::stack("xy", DType::F32, [2])], n))
}

/// Runs one rank from the last checkpoint in `dir`; its stop request comes after `stop_after` queries.
fn run_rank(
    dir: &Path,
    group: &dyn Group,
    options: &FitOptions,
    stop_after: u64,
    steps: &Arc<Steps>,
) -> Result<(Outcome, LineTask, Progress)> {
    run_rank_by(Tail::Drop, 7, dir, group, options, stop_after, steps)
}

fn run_rank_by(
    tail: Tail,
    val_samples: u64,
    dir: &Path,
    group: &dyn Group,
    options: &FitOptions,
    stop_after: u64,
    steps: &Arc<Steps>,
) -> Result<(Outcome, LineTask, Progress)> {
    let splits = FitData {
        train: data(23),
        val: data(val_samples),
        loader: LoaderOptions { num_workers: 2, ..Default::default() },
        plan: Plan::new(23, group.world_size()).unwrap().with_seed(4).with_tail(tail),
    };
    let (mut task, mut progress) = (LineTask::default(), Progress::default());
    let checkpoints = Checkpoints::new(dir);
    if let Some(newest) = checkpoints.newest().unwrap() {
        progress = newest.progress;
        task.load_state(newest.state).unwrap();
    }
    group.barrier()?; // nobody writes a checkpoint before all have read theirs
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > stop_after
    };
    let silent = Arc::new(Steps::default()) as Arc<dyn Sink>;
    let heard = steps.clone() as Arc<dyn Sink>;
    let together = FitContext {
        group,
        ledger: None,
        checkpoints: Some(&checkpoints),
        sink: if group.rank() == 0 { &heard } else { &silent },
        stop: &stop,
    };
    let outcome = fit(&mut task, &splits, options, &together, &mut progress)?;
    Ok((outcome, task, progress))
}

fn run(dir: &Path, stop_after: u64, steps: &Arc<Steps>) -> (Outcome, LineTask, Progress) {
    run_rank(dir, &SingleRank, &options([5, 4]), stop_after, steps).unwrap()
}

/// The results of all ranks of a group of `world_size`.
fn run_ranks(
    dir: &Path,
    world_size: usize,
    options: &(impl Fn(u64) -> FitOptions + Sync),
    stop_after: u64,
    steps: &Arc<Steps>,
) -> Vec<Result<(Outcome, LineTask, Progress)>> {
    std::thread::scope(|scope| {
        let ranks: Vec<_> = ThreadGroup::new(world_size)
            .into_iter()
            .map(|group| scope.spawn(move || run_rank(dir, &group, &options(group.rank()), stop_after, steps)))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn a_run_out_of_patience_ends_and_does_so_again_wherever_it_was_stopped() {
    // From the fourth epoch on the rate is too high; the two frozen epochs do not count.
    let options = |patience| {
        let phase = |first_epoch, frozen| Phase {
            first_epoch,
            frozen,
            batch_size: 5,
            lr: Box::new(|epoch, _| if epoch < 3 { 0.05 } else { 3.0 }),
            momentum: None,
        };
        FitOptions { epochs: 12, patience, phases: vec![phase(0, true), phase(2, false)], ..options([1, 1]) }
    };
    for (patience, epochs) in [(0, 12), (1, 4), (3, 6)] {
        let dir = tempfile::tempdir().unwrap();
        let heard = Arc::new(Steps::default());
        let (outcome, _, whole) = run_rank(dir.path(), &SingleRank, &options(patience), u64::MAX, &heard).unwrap();
        let losses: Vec<f64> = whole.history.iter().map(|record| record.val_loss).collect();
        assert_eq!((outcome, losses.len()), (Outcome::Finished, epochs), "{losses:?}");
        let dir = tempfile::tempdir().unwrap();
        let steps = Arc::new(Steps::default());
        let stopped = loop {
            let (outcome, _, progress) = run_rank(dir.path(), &SingleRank, &options(patience), 5, &steps).unwrap();
            if outcome == Outcome::Finished {
                break progress;
            }
        };
        assert_eq!(stopped.history.iter().map(|record| record.val_loss).collect::<Vec<_>>(), losses);
        // Once more changes nothing.
        let (outcome, _, again) = run_rank(dir.path(), &SingleRank, &options(patience), u64::MAX, &steps).unwrap();
        assert_eq!((outcome, again.history.len()), (Outcome::Finished, epochs));
    }
}

#[test]
fn a_run_stopped_at_any_moment_goes_on_bit_for_bit() {
    let whole_steps = Arc::new(Steps::default());
    let dir = tempfile::tempdir().unwrap();
    let (outcome, whole, progress) = run(dir.path(), u64::MAX, &whole_steps);
    assert_eq!(outcome, Outcome::Finished);
    assert_eq!((progress.epoch, progress.history.len()), (4, 4));
    assert!(progress.history[3].val_loss < 0.5 * progress.history[0].val_loss, "{:?}", progress.history);
    let whole_steps = whole_steps.0.lock().unwrap().clone();
    // Two epochs of 4 steps and two of 5, each with its evaluation of two batches.
    assert_eq!(whole_steps.len(), 2 * 4 + 2 * 5 + 4);

    // Each run is stopped after this many queries (an evaluation alone makes two): in the middle of epochs, at their
    // ends, in evaluation, at the phase change.
    for patience in [2, 3, 4, 5, 6, 7, 11] {
        let dir = tempfile::tempdir().unwrap();
        let steps = Arc::new(Steps::default());
        let mut runs = 0;
        let task = loop {
            let (outcome, task, progress) = run(dir.path(), patience, &steps);
            runs += 1;
            assert!(runs < 100, "no progress with patience {patience}: {progress:?}");
            if outcome == Outcome::Finished {
                break task;
            }
        };
        assert!(runs > 2);
        assert_eq!(*steps.0.lock().unwrap(), whole_steps, "patience {patience}");
        assert_eq!(task.weights.map(f64::to_bits), whole.weights.map(f64::to_bits));
    }
}

#[test]
fn the_asked_for_checkpoints_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), u64::MAX, &Arc::default());
    let kept = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with("-kept"));
    assert_eq!(kept.count(), 2, "epochs 2 and 4");
    assert!(dir.path().join("best/checkpoint.toml").is_file());
}

/// Checks that the numbers of `lines` equal those of `expect`, up to the order of sums.
fn assert_same_curve(lines: &[String], expect: &[String], what: &str) {
    assert_eq!(lines.len(), expect.len(), "{what}");
    for (line, expect) in lines.iter().zip(expect) {
        let (line, expect): (Vec<&str>, Vec<&str>) = (line.split(' ').collect(), expect.split(' ').collect());
        assert_eq!(line[0], expect[0], "{what}");
        for (found, expect) in line[1..].iter().zip(&expect[1..]) {
            let number = |text: &str| match u64::from_str_radix(text, 16) {
                Ok(bits) if text.len() == 16 => f64::from_bits(bits),
                _ => text.parse().unwrap(),
            };
            let (found, expect) = (number(found), number(expect));
            assert!((found - expect).abs() <= 1e-9 * expect.abs(), "{what}, {}: {found} {expect}", line[0]);
        }
    }
}

#[test]
fn any_number_of_ranks_gives_the_same_curve_and_any_other_may_go_on() {
    let options = |_| options([8, 4]);
    let steps = |dir: &Path, ranks: usize, patience: u64, lines: &Arc<Steps>| {
        let ends = run_ranks(dir, ranks, &options, patience, lines);
        let outcomes: Vec<Outcome> = ends.iter().map(|end| end.as_ref().unwrap().0).collect();
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
        let weights: Vec<_> = ends.iter().map(|end| end.as_ref().unwrap().1.weights.map(f64::to_bits)).collect();
        assert!(weights.iter().all(|mine| *mine == weights[0]), "ranks have different weights");
        outcomes[0]
    };
    let whole = Arc::new(Steps::default());
    steps(tempfile::tempdir().unwrap().path(), 1, u64::MAX, &whole);
    let whole = whole.0.lock().unwrap().clone();
    assert_eq!(whole.len(), 2 * 2 + 2 * 5 + 4);
    for ranks in [2, 4] {
        let lines = Arc::new(Steps::default());
        assert_eq!(steps(tempfile::tempdir().unwrap().path(), ranks, u64::MAX, &lines), Outcome::Finished);
        assert_same_curve(&lines.0.lock().unwrap(), &whole, &format!("{ranks} ranks"));
    }
    // The same number of ranks, stopped again and again, gives the same bits; changing numbers give the same curve.
    for patience in [2, 3, 5] {
        let dir = tempfile::tempdir().unwrap();
        let lines = Arc::new(Steps::default());
        let mut ranks = [2, 4, 1, 4, 2, 1].into_iter().cycle();
        while steps(dir.path(), ranks.next().unwrap(), patience, &lines) == Outcome::Interrupted {}
        assert_same_curve(&lines.0.lock().unwrap(), &whole, &format!("patience {patience}"));

        let dir = tempfile::tempdir().unwrap();
        let (lines, unbroken) = (Arc::new(Steps::default()), Arc::new(Steps::default()));
        while steps(dir.path(), 4, patience, &lines) == Outcome::Interrupted {}
        steps(tempfile::tempdir().unwrap().path(), 4, u64::MAX, &unbroken);
        assert_eq!(*lines.0.lock().unwrap(), *unbroken.0.lock().unwrap(), "patience {patience}");
    }
}

#[test]
fn ranks_that_differ_do_not_begin() {
    let dir = tempfile::tempdir().unwrap();
    let options = |rank| options([8, if rank == 1 { 8 } else { 4 }]);
    for end in run_ranks(dir.path(), 2, &options, u64::MAX, &Arc::default()) {
        let error = end.unwrap_err().to_string();
        assert!(error.contains("rank 1 differs from rank 0 in the epochs and batch sizes"), "{error}");
    }
    let odd = |_| super::tests::options([8, 5]);
    for end in run_ranks(dir.path(), 2, &odd, u64::MAX, &Arc::default()) {
        let error = end.unwrap_err().to_string();
        assert!(error.contains("batch of 5 does not divide by 2 ranks") && error.contains("4 or 6"), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was saved");
}

#[test]
fn a_plan_by_which_ranks_take_different_steps_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ends: Vec<_> = std::thread::scope(|scope| {
        let run =
            |group: ThreadGroup| run_rank_by(Tail::Exact, 7, dir.path(), &group, &options([8, 4]), 9, &Arc::default());
        let ranks: Vec<_> = ThreadGroup::new(2).into_iter().map(|group| scope.spawn(move || run(group))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    for end in ends {
        assert!(end.unwrap_err().to_string().contains("the tail `exact`"));
    }
}

/// As in TorchSSC: over all samples of the run, independent of the batch size.
fn poly_options(batch_size: u64) -> FitOptions {
    let lr = |epoch, position| poly_lr(0.05, 0.9, epoch * 23 + position, 3 * 23);
    let phase = Phase { first_epoch: 0, frozen: false, batch_size, lr: Box::new(lr), momentum: None };
    FitOptions { epochs: 3, phases: vec![phase], checkpoint_steps: 0, ..options([1, 1]) }
}

#[test]
fn a_rate_per_step_depends_on_the_samples_before_it_also_after_a_resume_with_another_batch() {
    let rates = |steps: &Steps| -> Vec<f64> {
        let lines = steps.0.lock().unwrap();
        let steps = lines.iter().filter(|line| line.contains('/'));
        steps.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect()
    };
    let expect = |places: &[(u64, u64)]| -> Vec<f64> {
        places.iter().map(|(epoch, position)| poly_lr(0.05, 0.9, epoch * 23 + position, 69)).collect()
    };
    let dir = tempfile::tempdir().unwrap();
    let steps = Arc::new(Steps::default());
    let (_, _, progress) = run_rank(dir.path(), &SingleRank, &poly_options(5), u64::MAX, &steps).unwrap();
    let whole: Vec<(u64, u64)> = (0..3).flat_map(|epoch| [0, 5, 10, 15].map(|position| (epoch, position))).collect();
    assert_eq!(rates(&steps), expect(&whole));
    let last: Vec<f64> = progress.history.iter().map(|record| record.lr).collect();
    assert_eq!(last, expect(&[(0, 15), (1, 15), (2, 15)]), "an epoch's record has the rate of its last step");

    // Stopped after the second step of an epoch, and after the next-to-last batch of validation.
    let dir = tempfile::tempdir().unwrap();
    let steps = Arc::new(Steps::default());
    run_rank(dir.path(), &SingleRank, &poly_options(5), 1, &steps).unwrap();
    let (outcome, _, progress) = run_rank(dir.path(), &SingleRank, &poly_options(4), 3, &steps).unwrap();
    assert_eq!((outcome, progress.trained), (Outcome::Interrupted, true));
    let (_, _, progress) = run_rank(dir.path(), &SingleRank, &poly_options(7), u64::MAX, &steps).unwrap();
    let places = [(0, 0), (0, 5), (0, 10), (0, 14), (0, 18), (1, 0), (1, 7), (1, 14), (2, 0), (2, 7), (2, 14)];
    assert_eq!(rates(&steps), expect(&places));
    assert_eq!(progress.history[0].lr, expect(&[(0, 18)])[0]);
}

#[test]
fn a_momentum_per_step_goes_on_with_the_rate() {
    // A schedule that differs at every step, and a constant that is the task's own.
    let falling = |epoch: u64, position: u64| 0.9 - 0.01 * (epoch * 23 + position) as f64;
    let run = |momentum: fn(u64, u64) -> f64, stops: &[u64]| {
        let dir = tempfile::tempdir().unwrap();
        let steps = Arc::new(Steps::default());
        let mut options = poly_options(5);
        options.phases[0].momentum = Some(Box::new(momentum));
        for stop in stops {
            run_rank(dir.path(), &SingleRank, &options, *stop, &steps).unwrap();
        }
        steps.0.lock().unwrap().clone()
    };
    let (whole, stopped) = (run(falling, &[u64::MAX]), run(falling, &[2, 3, u64::MAX]));
    assert_eq!(whole.iter().filter(|line| line.contains('/')).count(), 12);
    assert_eq!(whole, stopped);
    let own = {
        let (dir, steps) = (tempfile::tempdir().unwrap(), Arc::new(Steps::default()));
        run_rank(dir.path(), &SingleRank, &poly_options(5), u64::MAX, &steps).unwrap();
        steps.0.lock().unwrap().clone()
    };
    assert_eq!(run(|_, _| 0.9, &[u64::MAX]), own);
    assert_ne!(whole, own);
}

#[test]
fn a_metric_may_be_a_ratio_of_sums_also_where_a_rank_has_no_sample() {
    let metrics = |ranks: usize| -> Vec<f64> {
        let dir = tempfile::tempdir().unwrap();
        let ends: Vec<Progress> = std::thread::scope(|scope| {
            let run = |group: ThreadGroup| {
                run_rank_by(Tail::Drop, 1, dir.path(), &group, &options([8, 4]), u64::MAX, &Arc::default()).unwrap().2
            };
            let ranks: Vec<_> =
                ThreadGroup::new(ranks).into_iter().map(|group| scope.spawn(move || run(group))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        ends[0].history.iter().flat_map(|record| [record.train_metrics[0], record.val_metrics[0]]).collect()
    };
    let one = metrics(1);
    assert_eq!(one.len(), 8);
    for (found, expect) in metrics(2).iter().zip(&one) {
        assert!((found - expect).abs() <= 1e-9 * expect, "{found} {expect}");
    }
}

#[test]
fn a_task_takes_over_the_model_of_rank_0_and_keeps_its_own_optimizer() {
    let run = |group: ThreadGroup| {
        let rank = group.rank() as f64;
        let mut task = LineTask { weights: [rank, 2.0 + rank], momentum: [rank; 2], ..LineTask::default() };
        task.broadcast(&group).unwrap();
        (task.weights, task.momentum)
    };
    let states: Vec<_> = std::thread::scope(|scope| {
        let ranks: Vec<_> = ThreadGroup::new(3).into_iter().map(|group| scope.spawn(move || run(group))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert_eq!(states, [([0.0, 2.0], [0.0; 2]), ([0.0, 2.0], [1.0; 2]), ([0.0, 2.0], [2.0; 2])]);
}

/// A line without a backbone: what the loop may ask of any task has its default.
struct Plain(LineTask);

impl Task for Plain {
    fn train_step(&mut self, batch: &Batch, lr: f64, group: &dyn Group) -> Result<Tally> {
        self.0.train_step(batch, lr, group)
    }
    fn eval_step(&mut self, batch: &Batch) -> Result<Tally> {
        self.0.eval_step(batch)
    }
    fn state(&self) -> Result<TaskState> {
        self.0.state()
    }
    fn load_state(&mut self, state: TaskState) -> Result<()> {
        self.0.load_state(state)
    }
}

#[test]
fn a_later_phase_that_freezes_a_task_without_a_backbone_is_refused_before_the_first_step() {
    let mut options = options([1, 1]);
    (options.phases[0].frozen, options.phases[1].frozen) = (false, true);
    let plan = Plan::new(23, 1).unwrap();
    let splits = FitData { train: data(23), val: data(7), loader: LoaderOptions::default(), plan };
    let steps = Arc::new(Steps::default());
    let sink = steps.clone() as Arc<dyn Sink>;
    let context = FitContext { group: &SingleRank, ledger: None, checkpoints: None, sink: &sink, stop: &|| false };
    let mut task = Plain(LineTask::default());
    let error = fit(&mut task, &splits, &options, &context, &mut Progress::default()).unwrap_err().to_string();
    assert!(error.contains("freezes the backbone, and the task has none"), "{error}");
    assert_eq!((task.0.weights, steps.0.lock().unwrap().len()), ([0.0; 2], 0));
}
