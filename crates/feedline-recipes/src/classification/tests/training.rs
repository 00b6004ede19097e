//! Guarantees of a step: repeatable, resumable, frozen as configured, unharmed by bad input.

use super::{batch_of, options, toy_batch};
use crate::classification::config::LossKind;
use crate::classification::network::loss::LossOptions;
use crate::classification::network::task::StepOptions;
use crate::classification::{Backbone, ClassificationTask, OptimizerKind, Precision, TaskOptions};
use crate::recipe::load_weights;
use feedline::train::group::{Group, SingleRank};
use feedline::train::threads::ThreadGroup;
use feedline::train::{Task, TaskState, Tensors};
use feedline::{Array, Batch, BatchField, Error};

fn task(change: impl FnOnce(&mut TaskOptions)) -> ClassificationTask {
    let mut options = options(Backbone::Small);
    change(&mut options);
    ClassificationTask::new(options).unwrap()
}

fn train(task: &mut ClassificationTask, steps: std::ops::Range<u64>) -> Vec<f64> {
    steps.map(|step| task.train_step(&toy_batch(step), 0.02, &SingleRank).unwrap().loss_sum).collect()
}

fn same(a: &TaskState, b: &TaskState) {
    assert_eq!(a.model, b.model);
    assert_eq!(a.optimizer, b.optimizer);
    assert_eq!(a.scalars, b.scalars);
}

/// The state as it comes back from a checkpoint: scalars through JSON text.
fn saved(task: &ClassificationTask) -> TaskState {
    let state = task.state().unwrap();
    let text = serde_json::to_string(&state.scalars).unwrap();
    TaskState { scalars: serde_json::from_str(&text).unwrap(), ..state }
}

#[test]
fn the_seed_alone_decides_the_initial_weights() {
    let weights = |seed| task(|o| o.seed = seed).state().unwrap().model;
    let (first, again) = (weights(1), weights(1));
    assert_eq!(first, again);
    assert_ne!(first, weights(2));
    // He's normal distribution by fan-out: deviation sqrt(2 / (96 * 9)).
    let values = first["features.4.0.weight"].as_slice::<f32>();
    let squares: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
    let deviation = (squares / values.len() as f64).sqrt();
    assert!((deviation / (2.0_f64 / (96.0 * 9.0)).sqrt() - 1.0).abs() < 0.02, "{deviation}");
    let mut bound = first["classifier.weight"].as_slice::<f32>().to_vec();
    bound.sort_by(f32::total_cmp);
    let limit = 1.0 / 96f32.sqrt();
    assert!(bound[0] >= -limit && bound[0] < -0.9 * limit && *bound.last().unwrap() > 0.9 * limit);
}

#[test]
fn learns_a_toy_problem_with_every_optimizer_and_precision() {
    for optimizer in [OptimizerKind::Sgd, OptimizerKind::Adam] {
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            let mut task = task(|o| (o.optimizer, o.precision) = (optimizer, precision));
            let lr = if optimizer == OptimizerKind::Sgd { 0.02 } else { 0.002 };
            for step in 0..40 {
                task.train_step(&toy_batch(step), lr, &SingleRank).unwrap();
            }
            let unseen = task.eval_step(&toy_batch(1000)).unwrap();
            assert!(unseen.metric(0) == 1.0 && unseen.loss() < 0.3, "{optimizer:?} {precision:?} {unseen:?}");
        }
    }
}

/// All that a step can have beside its defaults.
fn everything() -> StepOptions {
    StepOptions { accumulate: 2, clip_grad_norm: 0.5, ema_decay: 0.7, beta2: 0.99, ..StepOptions::default() }
}

#[test]
fn goes_on_bit_for_bit_after_a_resume() {
    use OptimizerKind::{Adam, AdamW, Lamb, Sgd};
    for (optimizer, step) in
        [(Sgd, StepOptions::default()), (Adam, StepOptions::default()), (AdamW, everything()), (Lamb, everything())]
    {
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            let make = || task(|o| (o.optimizer, o.precision, o.step) = (optimizer, precision, step.clone()));
            let mut unbroken = make();
            train(&mut unbroken, 0..3);
            let state = saved(&unbroken);
            let losses = train(&mut unbroken, 3..6);

            let mut resumed = ClassificationTask::new(TaskOptions { seed: 99, ..unbroken.options().clone() }).unwrap();
            train(&mut resumed, 7..8);
            resumed.load_state(state).unwrap();
            assert_eq!(train(&mut resumed, 3..6), losses);
            same(&resumed.state().unwrap(), &unbroken.state().unwrap());
            assert_eq!(resumed.eval_step(&toy_batch(9)).unwrap(), unbroken.eval_step(&toy_batch(9)).unwrap());
        }
    }
}

/// Evaluated and saved as the model are the averages; the numbers themselves go on training as if there were none.
#[test]
fn averages_are_what_is_evaluated_and_change_no_step() {
    let decay = 0.7;
    let (mut plain, mut averaged) = (task(|_| ()), task(|o| o.step.ema_decay = decay));
    let mut expect: Vec<f32> = Vec::new();
    for step in 0..4 {
        assert_eq!(train(&mut plain, step..step + 1), train(&mut averaged, step..step + 1));
        let now = plain.state().unwrap().model["classifier.weight"].as_slice::<f32>().to_vec();
        if step == 0 {
            expect.clone_from(&now);
        }
        expect.iter_mut().zip(now).for_each(|(average, now)| *average += (1.0 - decay as f32) * (now - *average));
    }
    let (raw, state) = (plain.state().unwrap(), averaged.state().unwrap());
    for (found, expect) in state.model["classifier.weight"].as_slice::<f32>().iter().zip(&expect) {
        assert!((found - expect).abs() < 1e-6, "{found} {expect}");
    }
    assert_eq!(state.scalars["ema_steps"], 4);
    assert!(raw.model.iter().all(|(name, tensor)| state.optimizer[&format!("raw/{name}")] == *tensor));
    let mut loaded = task(|o| o.seed = 5);
    load_weights(&mut loaded, state.model.clone()).unwrap();
    assert_eq!(loaded.eval_step(&toy_batch(9)).unwrap(), averaged.eval_step(&toy_batch(9)).unwrap());
    assert_ne!(plain.eval_step(&toy_batch(9)).unwrap(), averaged.eval_step(&toy_batch(9)).unwrap());
    let mut broken = state.clone();
    broken.optimizer.remove("raw/classifier.bias");
    let error = averaged.load_state(broken).unwrap_err().to_string();
    assert!(error.contains("no tensor raw/classifier.bias"), "{error}");
    same(&averaged.state().unwrap(), &state);
}

/// Norms see a part at a time, so they are frozen here; the loss is the weighted mean over the whole batch.
#[test]
fn a_step_in_parts_is_the_step_of_the_whole_batch() {
    let run = |accumulate| {
        let class_weights = vec![0.2, 1.0, 3.0, 0.5, 2.0];
        let loss = LossOptions { class_weights, label_smoothing: 0.1, ..LossOptions::default() };
        let mut task = task(|o| (o.loss, o.step.accumulate) = (loss, accumulate));
        task.set_frozen(true).unwrap();
        (train(&mut task, 0..5), task.state().unwrap().model["classifier.weight"].as_slice::<f32>().to_vec())
    };
    let (losses, weights) = run(1);
    for parts in [2, 3, 8, 20] {
        let (found, found_weights) = run(parts);
        for (found, expect) in found.iter().zip(&losses) {
            assert!((found - expect).abs() < 1e-5 * expect, "{parts}: {found} {expect}");
        }
        assert!(found_weights.iter().zip(&weights).all(|(found, expect)| (found - expect).abs() < 1e-5), "{parts}");
    }
    // A loss that is not finite leaves everything as it was, running statistics too.
    let mut task = task(|o| o.step = everything());
    train(&mut task, 0..1);
    let before = task.state().unwrap();
    let mut batch = toy_batch(1);
    if let (_, BatchField::Stack(images)) = &mut batch.fields[0] {
        *images.as_mut_slice::<f32>().last_mut().unwrap() = f32::NAN;
    }
    let error = task.train_step(&batch, 0.01, &SingleRank).unwrap_err().to_string();
    assert!(error.contains("loss of epoch 0 step 1"), "{error}");
    same(&before, &task.state().unwrap());
}

#[test]
fn a_state_before_the_first_step_resumes_too() {
    let mut unbroken = task(|_| ());
    let state = saved(&unbroken);
    assert!(state.optimizer.is_empty());
    let losses = train(&mut unbroken, 0..2);
    let mut resumed = task(|o| o.seed = 3);
    train(&mut resumed, 0..2);
    resumed.load_state(state).unwrap();
    assert_eq!(train(&mut resumed, 0..2), losses);
}

#[test]
fn equal_runs_give_equal_bytes() {
    for backbone in [Backbone::Small, Backbone::Mobilenetv2] {
        let run = || {
            let mut task = ClassificationTask::new(options(backbone)).unwrap();
            train(&mut task, 0..4);
            task.state().unwrap()
        };
        same(&run(), &run());
    }
}

#[test]
fn dropout_belongs_to_the_sample_and_the_epoch() {
    let loss = |change: &dyn Fn(&mut Batch)| {
        let mut task = ClassificationTask::new(options(Backbone::Mobilenetv2)).unwrap();
        let mut batch = toy_batch(0);
        change(&mut batch);
        task.train_step(&batch, 0.01, &SingleRank).unwrap().loss_sum
    };
    let plain = loss(&|_| ());
    assert_eq!(plain, loss(&|batch| batch.step = 9));
    assert_ne!(plain, loss(&|batch| batch.epoch = 1));
    assert_ne!(plain, loss(&|batch| batch.indices[0] = 77));
}

#[test]
fn a_frozen_backbone_stays_as_it_is_and_its_momentum_survives() {
    for optimizer in [OptimizerKind::Sgd, OptimizerKind::Adam] {
        let mut task = task(|o| o.optimizer = optimizer);
        train(&mut task, 0..2);
        let before = task.state().unwrap();
        task.set_frozen(true).unwrap();
        train(&mut task, 2..5);
        let frozen = task.state().unwrap();
        for (old, new) in [(&before.model, &frozen.model), (&before.optimizer, &frozen.optimizer)] {
            for (name, value) in old {
                let head = name.contains("classifier");
                assert_eq!(new[name] != *value, head, "{name} of {optimizer:?}");
            }
        }
        task.set_frozen(false).unwrap();
        train(&mut task, 5..6);
        let thawed = task.state().unwrap();
        assert!(frozen.model.iter().all(|(name, value)| thawed.model[name] != *value));
        assert_eq!(thawed.scalars["optimizer_steps"], serde_json::json!([3, 6]));
    }
}

#[test]
fn weight_decay_reaches_weights_and_nothing_else() {
    // With a step so small that the gradient itself cannot matter, only the decay moves a value.
    let moved = |decay: f64| {
        let mut task = task(|o| o.weight_decay = decay);
        task.train_step(&toy_batch(0), 1e-3, &SingleRank).unwrap();
        task.state().unwrap().model
    };
    let (plain, decayed) = (moved(0.0), moved(1.0));
    for (name, value) in &plain {
        let weight = name == "classifier.weight" || name.ends_with(".0.weight");
        assert_eq!(decayed[name] != *value, weight, "{name}");
    }
    // value - lr * (1 + momentum) * decay * start, as Nesterov's first step has it.
    let start = task(|_| ()).state().unwrap().model;
    let all = |tensors: &Tensors| tensors["classifier.weight"].as_slice::<f32>().to_vec();
    for ((start, plain), decayed) in all(&start).into_iter().zip(all(&plain)).zip(all(&decayed)) {
        assert!((plain - decayed - 1e-3 * 1.9 * start).abs() < 1e-7);
    }
}

#[test]
fn padding_counts_for_nothing() {
    let real = toy_batch(0);
    let mut short = real.clone();
    let px = 32;
    let images = &real.stacked("image").unwrap().as_slice::<f32>()[..5 * 3 * px * px];
    short.fields = batch_of(images, &real.stacked("label").unwrap().as_slice::<i64>()[..5], px).fields;
    (short.valid, short.indices) = (5, real.indices[..5].to_vec());
    let mut padded = real.clone();
    padded.valid = 5;
    if let (_, BatchField::Stack(images)) = &mut padded.fields[0] {
        images.as_mut_slice::<f32>()[5 * 3 * px * px..].fill(f32::NAN);
    }
    if let (_, BatchField::Stack(labels)) = &mut padded.fields[1] {
        labels.as_mut_slice::<i64>()[5..].fill(-1);
    }
    let (mut a, mut b) = (task(|_| ()), task(|_| ()));
    let tally = a.train_step(&short, 0.01, &SingleRank).unwrap();
    assert_eq!(tally, b.train_step(&padded, 0.01, &SingleRank).unwrap());
    assert_eq!(tally.samples, 5);
    same(&a.state().unwrap(), &b.state().unwrap());
    assert_eq!(a.eval_step(&short).unwrap(), b.eval_step(&padded).unwrap());
}

#[test]
fn evaluation_changes_nothing_and_agrees_with_the_logits() {
    let mut task = task(|_| ());
    train(&mut task, 0..2);
    let before = task.state().unwrap();
    let batch = toy_batch(50);
    let tally = task.eval_step(&batch).unwrap();
    let logits = task.logits(&batch).unwrap();
    same(&before, &task.state().unwrap());
    let labels = batch.stacked("label").unwrap().as_slice::<i64>();
    let (mut loss, mut right) = (0.0, 0.0);
    for (row, &label) in logits.chunks(5).zip(labels) {
        let sum: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
        loss -= (f64::from(row[label as usize]).exp() / sum).ln();
        right += f64::from(u8::from(row.iter().all(|v| *v <= row[label as usize])));
    }
    assert!((tally.loss_sum - loss).abs() < 1e-9 && tally.metric_sums == [right]);
    // The same model in a fresh task, without optimiser state.
    let mut other = super::training::task(|o| o.seed = 4);
    load_weights(&mut other, before.model.clone()).unwrap();
    assert_eq!(other.logits(&batch).unwrap(), logits);
}

#[test]
fn a_loss_that_is_not_finite_is_an_error_and_changes_nothing() {
    for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
        let mut task = task(|o| o.precision = precision);
        train(&mut task, 0..1);
        let before = task.state().unwrap();
        let mut batch = toy_batch(1);
        if let (_, BatchField::Stack(images)) = &mut batch.fields[0] {
            images.as_mut_slice::<f32>()[0] = f32::NAN;
        }
        let error = task.train_step(&batch, 0.01, &SingleRank).unwrap_err();
        assert!(
            matches!(&error, Error::Train { .. }) && error.to_string().contains("loss of epoch 0 step 1"),
            "{error}"
        );
        same(&before, &task.state().unwrap());
    }
}

#[test]
fn f16_skips_a_step_that_overflows_and_halves_the_scale() {
    let mut task = task(|o| o.precision = Precision::F16);
    let mut state = saved(&task);
    assert_eq!(state.scalars["loss_scale"]["factor"], 65536.0);
    // So large a factor makes every gradient overflow.
    state.scalars["loss_scale"] = serde_json::json!({"factor": 2f64.powi(40), "good_steps": 5});
    task.load_state(state.clone()).unwrap();
    task.train_step(&toy_batch(0), 0.01, &SingleRank).unwrap();
    let after = task.state().unwrap();
    assert_eq!(after.scalars["loss_scale"], serde_json::json!({"factor": 2f64.powi(39), "good_steps": 0}));
    assert_eq!(after.scalars["optimizer_steps"], serde_json::json!([0, 0]));
    assert_eq!(after.model["classifier.weight"], state.model["classifier.weight"]);
}

#[test]
fn half_types_are_really_used_and_stay_close() {
    let loss = |precision| {
        let mut task = task(|o| o.precision = precision);
        train(&mut task, 0..1)[0]
    };
    let exact = loss(Precision::F32);
    for (precision, most) in [(Precision::F16, 0.01), (Precision::Bf16, 0.08)] {
        let difference = (loss(precision) - exact).abs();
        assert!(difference > 0.0 && difference < most, "{precision:?} {difference}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let mut task = task(|_| ());
    let mut check = |change: &dyn Fn(&mut Batch), expect: &str| {
        let mut batch = toy_batch(0);
        change(&mut batch);
        let error = task.train_step(&batch, 0.01, &SingleRank).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(
        &|b| b.fields[1].1 = BatchField::Stack(Array::from_slice(vec![8], &[0i64, 1, 5, 0, 0, 0, 0, 0])),
        "sample 2 has label 5",
    );
    check(
        &|b| b.fields[1].1 = BatchField::Stack(Array::from_slice(vec![8], &[0i64, -1, 0, 0, 0, 0, 0, 0])),
        "label -1",
    );
    check(&|b| b.fields[1].1 = BatchField::Stack(Array::from_slice(vec![8], &[0i32; 8])), "\"label\" is I32 [8]");
    check(&|b| b.fields[0].1 = BatchField::Stack(Array::from_slice(vec![8, 1, 2, 2], &[0f32; 32])), "[8, 1, 2, 2]");
    check(&|b| b.fields.truncate(1), "no field \"label\"");

    let state = saved(&task);
    let mut check = |change: &dyn Fn(&mut TaskState), expect: &str| {
        let mut broken = state.clone();
        change(&mut broken);
        let error = task.load_state(broken).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        same(&task.state().unwrap(), &state);
    };
    check(&|s| drop(s.model.remove("classifier.bias")), "no tensor classifier.bias");
    check(
        &|s| drop(s.model.insert("classifier.bias".into(), Array::from_slice(vec![2], &[0f32; 2]))),
        "classifier.bias is F32 [2]",
    );
    check(&|s| drop(s.model.insert("fc.bias".into(), Array::from_slice(vec![2], &[0f32; 2]))), "fc.bias");
    check(&|s| drop(s.scalars.remove("optimizer_steps")), "optimizer_steps");
    check(&|s| drop(s.scalars.insert("optimizer_steps".into(), serde_json::json!([1, 1]))), "momentum/");

    for broken in [
        TaskOptions { num_classes: 0, ..options(Backbone::Small) },
        TaskOptions { momentum: 1.0, ..options(Backbone::Small) },
        TaskOptions { weight_decay: f64::NAN, ..options(Backbone::Small) },
    ] {
        assert!(matches!(ClassificationTask::new(broken), Err(Error::Config { .. })));
    }
}

/// Rank r's share of a batch, of W ranks: every W-th sample.
fn share(batch: &Batch, rank: usize, ranks: usize) -> Batch {
    let image = batch.stacked("image").unwrap();
    let size = image.shape()[1..].iter().product();
    let images: Vec<f32> = image.as_slice::<f32>().chunks(size).skip(rank).step_by(ranks).flatten().copied().collect();
    let labels: Vec<i64> =
        batch.stacked("label").unwrap().as_slice::<i64>().iter().skip(rank).step_by(ranks).copied().collect();
    let indices = batch.indices.iter().skip(rank).step_by(ranks).copied().collect();
    Batch { step: batch.step, indices, ..batch_of(&images, &labels, image.shape()[2]) }
}

/// Losses and final state of `steps` steps on `ranks` ranks, which are checked to be equal on all.
fn together(options: &TaskOptions, ranks: usize, steps: u64) -> (Vec<f64>, TaskState) {
    let run = |group: ThreadGroup| {
        let mut task = ClassificationTask::new(options.clone()).unwrap();
        let batches = (0..steps).map(|step| share(&toy_batch(step), group.rank() as usize, ranks));
        let losses: Vec<f64> = batches.map(|batch| task.train_step(&batch, 0.02, &group).unwrap().loss()).collect();
        task.broadcast(&group).unwrap();
        (losses, task.state().unwrap())
    };
    let mut ends: Vec<_> = std::thread::scope(|scope| {
        let ranks: Vec<_> = ThreadGroup::new(ranks).into_iter().map(|group| scope.spawn(move || run(group))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    let first = ends.swap_remove(0);
    for (losses, state) in ends {
        assert_eq!(losses, first.0);
        same(&state, &first.1);
    }
    first
}

#[test]
fn with_synchronised_norms_any_number_of_ranks_takes_the_same_steps() {
    // Joined paths come with the larger one. Not in 16 bits, where each rank's sums are rounded.
    for (backbone, tolerance) in [(Backbone::Small, 1e-5), (Backbone::Resnet18, 1e-3)] {
        let options = |sync_bn| TaskOptions { sync_bn, ..options(backbone) };
        let (losses, state) = (together(&options(true), 1, 2).0, together(&options(true), 1, 1).1);
        for ranks in [2, 4] {
            let found = together(&options(true), ranks, 2).0;
            let found_state = together(&options(true), ranks, 1).1;
            for (found, expect) in found.iter().zip(&losses) {
                assert!((found - expect).abs() <= tolerance * expect, "{backbone:?} on {ranks}: {found} {expect}");
            }
            for (name, expect) in &state.model {
                let values = found_state.model[name].as_slice::<f32>().iter().zip(expect.as_slice::<f32>());
                let (off, size) = values.fold((0.0f64, 1e-3f64), |(off, size), (found, expect)| {
                    (off.max(f64::from((found - expect).abs())), size.max(f64::from(expect.abs())))
                });
                assert!(off <= 20.0 * tolerance * size, "{backbone:?} on {ranks}: {name} is {off} off, of {size}");
            }
            assert!(
                (together(&options(false), ranks, 2).0[1] - losses[1]).abs() > 2.0 * tolerance * losses[1],
                "{backbone:?}: norms of their own must show, or this test sees nothing"
            );
        }
    }
}

#[test]
fn weights_clipping_and_averages_are_those_of_the_batch_on_any_number_of_ranks() {
    for accumulate in [1, 2] {
        let class_weights = vec![0.2, 1.0, 3.0, 0.5, 2.0];
        let loss = LossOptions { loss: LossKind::Ce, class_weights, label_smoothing: 0.1, ..LossOptions::default() };
        let step = StepOptions { clip_grad_norm: 0.3, ema_decay: 0.7, ..StepOptions::default() };
        let options = TaskOptions { sync_bn: true, loss, step, ..options(Backbone::Small) };
        let (losses, state) = together(&options, 1, 4);
        // Of two parts the norms of two ranks see others than those of one: the ranks must be equal, which `together` checks.
        let of_parts = StepOptions { accumulate, ..options.step.clone() };
        let (found, found_state) = together(&TaskOptions { step: of_parts, ..options }, 2, 4);
        if accumulate == 1 {
            for (found, expect) in found.iter().zip(&losses) {
                assert!((found - expect).abs() < 1e-4 * expect, "{found} {expect}");
            }
            let pairs = found_state.model["classifier.weight"].as_slice::<f32>().iter();
            let off = pairs.zip(state.model["classifier.weight"].as_slice::<f32>()).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f32::max) < 1e-4);
        }
    }
}

#[test]
fn frozen_ranks_take_the_same_steps_without_meeting_in_the_norms() {
    let options = |sync_bn| TaskOptions { sync_bn, ..options(Backbone::Small) };
    let run = |ranks: usize, sync_bn| {
        let ends: Vec<f64> = std::thread::scope(|scope| {
            let run = |group: ThreadGroup| {
                let mut task = ClassificationTask::new(options(sync_bn)).unwrap();
                task.set_frozen(true).unwrap();
                let steps = (0..3).map(|step| share(&toy_batch(step), group.rank() as usize, ranks));
                steps.map(|batch| task.train_step(&batch, 0.05, &group).unwrap().loss()).sum()
            };
            let ranks: Vec<_> =
                ThreadGroup::new(ranks).into_iter().map(|group| scope.spawn(move || run(group))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        ends[0]
    };
    for sync_bn in [false, true] {
        let (one, two) = (run(1, sync_bn), run(2, sync_bn));
        assert!((one - two).abs() < 1e-5 * one, "{one} {two}");
    }
}
