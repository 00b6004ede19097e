use super::super::TaskState;
use super::super::checkpoint;
use super::*;
use crate::deliver::Clock;
use crate::event::Event;
use crate::pipeline::Raw;
use crate::plan::Request;
use crate::sample::{Array, Batch, DType, FieldSpec, Slot};
use std::cell::Cell;
use std::path::Path;
use std::sync::Mutex;

/// x in -1..1 and y = 3x + 1, from the sample's own random stream.
struct Line(Vec<FieldSpec>, u64);

impl Pipeline for Line {
    fn len(&self) -> u64 {
        self.1
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
    fn read(&self, _: &Request, _: &mut Raw, _: &mut Clock) -> Result<()> {
        Ok(())
    }
    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, _: &mut Clock) -> Result<()> {
        let x = request.rng("x").uniform(-1.0, 1.0) as f32;
        slot.dense::<f32>("xy").copy_from_slice(&[x, 3.0 * x + 1.0]);
        Ok(())
    }
}

/// Fits a line by gradient descent with momentum; frozen, only the offset moves.
#[derive(Default)]
struct LineTask {
    weights: [f64; 2],
    momentum: [f64; 2],
    frozen: bool,
}

impl LineTask {
    fn losses(&self, batch: &Batch) -> (Tally, [f64; 2]) {
        let (mut tally, mut gradient) = (Tally { metric_sums: vec![0.0], ..Tally::default() }, [0.0; 2]);
        for xy in batch.stacked("xy").unwrap().as_slice::<f32>().chunks(2).take(batch.valid) {
            let error = self.weights[0] * f64::from(xy[0]) + self.weights[1] - f64::from(xy[1]);
            tally.add(&Tally { samples: 1, loss_sum: error * error, metric_sums: vec![error.abs()] });
            gradient[0] += 2.0 * error * f64::from(xy[0]) / batch.valid as f64;
            gradient[1] += 2.0 * error / batch.valid as f64;
        }
        (tally, gradient)
    }
}

impl Task for LineTask {
    fn metric_names(&self) -> &'static [&'static str] {
        &["absolute error"]
    }
    fn set_frozen(&mut self, frozen: bool) {
        self.frozen = frozen;
    }
    fn train_step(&mut self, batch: &Batch, lr: f64) -> Result<Tally> {
        let (tally, gradient) = self.losses(batch);
        let parts = self.weights.iter_mut().zip(&mut self.momentum).zip(gradient);
        for ((weight, momentum), gradient) in parts.skip(usize::from(self.frozen)) {
            *momentum = 0.9 * *momentum + gradient;
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

fn options() -> FitOptions {
    let phase = |first_epoch, frozen, batch_size| Phase {
        first_epoch,
        frozen,
        batch_size,
        lr: Box::new(move |epoch| 0.05 / (1 + epoch) as f64),
    };
    FitOptions {
        epochs: 4,
        phases: vec![phase(0, true, 5), phase(2, false, 4)],
        save_period: 2,
        checkpoint_steps: 3,
        checkpoint_seconds: 0.0,
    }
}

/// Runs in `dir` from its last checkpoint, asked to stop after `stop_after` looks at the clock.
fn run(dir: &Path, stop_after: u64, steps: &Arc<Steps>) -> (Outcome, LineTask, Progress) {
    let split = |n| Arc::new(Line(vec![FieldSpec::stack("xy", DType::F32, [2])], n)) as Arc<dyn Pipeline>;
    let plan = Plan::new(23, 1).unwrap().with_seed(4);
    let splits = Splits {
        train: split(23),
        val: split(7),
        loader: LoaderOptions { num_workers: 2, ..Default::default() },
        plan,
    };
    let (mut task, mut progress) = (LineTask::default(), Progress::default());
    let checkpoints = Checkpoints::new(dir);
    if let Some(last) = checkpoints.last() {
        let (saved, state) = checkpoint::load(&last).unwrap();
        progress = saved;
        task.load_state(state).unwrap();
    }
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > stop_after
    };
    let sink = steps.clone() as Arc<dyn Sink>;
    let outcome = fit(&mut task, &splits, &options(), &checkpoints, &mut progress, &sink, &stop).unwrap();
    (outcome, task, progress)
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

    // Each run is stopped after so many looks (an evaluation alone takes two): in the middle of epochs, at their ends, in evaluation, at the phase change.
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
