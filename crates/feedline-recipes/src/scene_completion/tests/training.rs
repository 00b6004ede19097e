//! Guarantees of a step: the right gradient, repeatable, resumable, the same on any number of ranks, unharmed by bad
//! input.

use crate::recipe::load_weights;
use crate::scene_completion::{DeviceKind, OptimizerKind, SceneTask, TaskOptions};
use feedline::plan::rng::SampleRng;
use feedline::train::group::{Group, SingleRank};
use feedline::train::threads::ThreadGroup;
use feedline::train::{Task, TaskState};
use feedline::{Array, Batch, BatchField, Element};

const GRID: [usize; 3] = [6, 4, 6];
const VOXELS: usize = 144;
const IMAGE_PX: [usize; 2] = [24, 32];
const NO_PIXEL: i64 = 24 * 32;

fn options() -> TaskOptions {
    TaskOptions {
        grid: GRID,
        image_px: IMAGE_PX.map(|px| px as u32),
        num_classes: 4,
        channels: 8,
        use_hha: true,
        sketch_weight: 1.0,
        class_weights: Vec::new(),
        optimizer: OptimizerKind::Sgd,
        momentum: 0.9,
        weight_decay: 5e-4,
        device: DeviceKind::Cpu,
        seed: 11,
    }
}

fn task(change: impl FnOnce(&mut TaskOptions)) -> SceneTask {
    let mut options = options();
    change(&mut options);
    SceneTask::new(options).unwrap()
}

fn stack<T: Element>(name: &str, shape: &[usize], values: &[T]) -> (String, BatchField) {
    (name.into(), BatchField::Stack(Array::from_slice(shape.to_vec(), values)))
}

/// Rooms whose classes depend on the distance and, where a pixel shows the voxel, on its colour. Sample `number` of
/// them is the same in every batch.
fn batch_of(numbers: std::ops::Range<u64>) -> Batch {
    let count = numbers.clone().count();
    let [height, width] = IMAGE_PX;
    let (mut data, mut hha, mut tsdf, mut weight) = (vec![], vec![], vec![], vec![]);
    let (mut label, mut mapping, mut sketch) = (vec![], vec![], vec![]);
    for number in numbers.clone() {
        let mut rng = SampleRng::new(5, 0, number, "room");
        let dark = (0..width).map(|_| rng.chance(0.5)).collect::<Vec<_>>();
        let colours: Vec<f32> = (0..3 * height * width)
            .map(|at| f32::from(u8::from(dark[at % width / 8 * 8])) * 2.0 - 1.0 + rng.normal() as f32 * 0.1)
            .collect();
        hha.extend((0..colours.len()).map(|_| rng.normal() as f32));
        for _ in 0..VOXELS {
            let distance = rng.uniform(-1.0, 1.0);
            let pixel = if distance > 0.0 { rng.below(NO_PIXEL as u64) as i64 } else { NO_PIXEL };
            let class = match (distance > -0.5, pixel == NO_PIXEL) {
                (false, _) => 0,
                (true, true) => 1,
                (true, false) => 2 + i64::from(dark[pixel as usize % width / 8 * 8]),
            };
            label.push(if rng.chance(0.1) { 255 } else { class });
            weight.push(if rng.chance(0.2) { 0.0 } else { 1.0f32 });
            sketch.push(i64::from(distance.abs() < 0.3));
            tsdf.push(distance as f32);
            mapping.push(pixel);
        }
        data.extend(colours);
    }
    let [x, y, z] = GRID;
    let picture = [count, 3, height, width];
    Batch {
        epoch: 0,
        step: 1,
        next_position: count as u64,
        valid: count,
        fields: vec![
            stack("data", &picture, &data),
            stack("hha_img", &picture, &hha),
            stack("label", &[count, VOXELS], &label),
            stack("label_weight", &[count, VOXELS], &weight),
            stack("depth_mapping_3d", &[count, VOXELS], &mapping),
            stack("tsdf", &[count, 1, x, y, z], &tsdf),
            stack("sketch_gt", &[count, x, y, z], &sketch),
            (
                "fn".into(),
                BatchField::List(numbers.clone().map(|number| format!("{number:04}").into_bytes()).collect()),
            ),
        ],
        indices: numbers.collect(),
        replaced: vec![],
    }
}

/// The values of a field, to be spoiled.
fn values<'b, T: Element>(batch: &'b mut Batch, name: &str) -> &'b mut [T] {
    match batch.fields.iter_mut().find(|(found, _)| found == name) {
        Some((_, BatchField::Stack(array))) => array.as_mut_slice(),
        _ => panic!("no field {name}"),
    }
}

fn train(task: &mut SceneTask, steps: std::ops::Range<u64>) -> Vec<f64> {
    steps.map(|step| task.train_step(&batch_of(2 * step..2 * step + 2), 0.05, &SingleRank).unwrap().loss_sum).collect()
}

fn same(a: &TaskState, b: &TaskState) {
    assert_eq!(a.model, b.model);
    assert_eq!(a.optimizer, b.optimizer);
    assert_eq!(a.scalars, b.scalars);
}

/// The state as it comes back from a checkpoint: scalars through JSON text.
fn saved(task: &SceneTask) -> TaskState {
    let state = task.state().unwrap();
    let text = serde_json::to_string(&state.scalars).unwrap();
    TaskState { scalars: serde_json::from_str(&text).unwrap(), ..state }
}

#[test]
fn steps_go_down_the_slope_of_the_loss() {
    let plain = |o: &mut TaskOptions| {
        (o.momentum, o.weight_decay) = (0.0, 0.0);
        (o.sketch_weight, o.class_weights) = (0.7, vec![0.3, 1.0, 2.0, 1.0]);
    };
    let mut start = task(plain);
    train(&mut start, 0..10); // away from the start, where heads are next to zero
    let (state, batch) = (saved(&start), batch_of(30..32));
    let mut moved = task(plain);
    moved.load_state(state.clone()).unwrap();
    moved.train_step(&batch, 1.0, &SingleRank).unwrap();
    let after = moved.state().unwrap().model;
    let loss = |name: &str, by: &dyn Fn(usize) -> f32| {
        let mut model = state.model.clone();
        let values = model.get_mut(name).unwrap().as_mut_slice::<f32>();
        values.iter_mut().enumerate().for_each(|(at, value)| *value += by(at));
        let mut task = task(plain);
        load_weights(&mut task, model).unwrap();
        task.eval_step(&batch).unwrap().loss()
    };
    for (name, values) in &state.model {
        // Along the gradient itself, the derivative of the loss is the gradient's norm.
        let gradient: Vec<f32> =
            values.as_slice::<f32>().iter().zip(after[name].as_slice::<f32>()).map(|(old, new)| old - new).collect();
        let norm = gradient.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 1e-5, "{name} has no gradient");
        let step = 2e-3;
        let at = |sign: f64| loss(name, &|at| (sign * step * f64::from(gradient[at]) / norm) as f32);
        let numeric = (at(1.0) - at(-1.0)) / (2.0 * step);
        assert!((numeric - norm).abs() < 0.03 * norm + 1e-4, "{name}: {numeric} by differences, {norm} by the step");
    }
}

#[test]
fn learns_a_fixed_batch() {
    for optimizer in [OptimizerKind::Sgd, OptimizerKind::Adam] {
        let mut task = task(|o| o.optimizer = optimizer);
        let batch = batch_of(0..2);
        let before = task.eval_step(&batch).unwrap();
        let lr = if optimizer == OptimizerKind::Sgd { 0.05 } else { 0.005 };
        for _ in 0..30 {
            task.train_step(&batch, lr, &SingleRank).unwrap();
        }
        let after = task.eval_step(&batch).unwrap();
        let (first, last) = (task.metrics(&before), task.metrics(&after));
        assert!(after.loss() < 0.7 * before.loss(), "{optimizer:?} {} {}", before.loss(), after.loss());
        assert!(last[0] > first[0] + 0.2, "{optimizer:?} {first:?} {last:?}");
        assert_eq!((last.len(), task.metric_names().len()), (4, 4));
    }
}

#[test]
fn goes_on_bit_for_bit_after_a_resume() {
    for optimizer in [OptimizerKind::Sgd, OptimizerKind::Adam] {
        let make = || task(|o| o.optimizer = optimizer);
        let mut unbroken = make();
        let first = train(&mut unbroken, 0..3);
        assert_eq!(train(&mut make(), 0..3), first, "equal runs");
        let state = saved(&unbroken);
        let losses = train(&mut unbroken, 3..6);
        let mut resumed = SceneTask::new(TaskOptions { seed: 99, ..unbroken.options().clone() }).unwrap();
        train(&mut resumed, 7..8);
        resumed.load_state(state).unwrap();
        assert_eq!(train(&mut resumed, 3..6), losses);
        same(&resumed.state().unwrap(), &unbroken.state().unwrap());
    }
}

/// A step of the whole batch of four, dealt to `ranks`, then the state and tally of rank 0. All ranks end alike.
fn together(ranks: u64, frozen: bool) -> (Vec<f64>, TaskState) {
    let run = |group: ThreadGroup| {
        let mut task = task(|_| ());
        task.set_frozen(frozen).unwrap();
        let share = 4 / ranks;
        let mut steps = Vec::new();
        for step in 0..3 {
            let first = 4 * step + group.rank() * share;
            let tally = task.train_step(&batch_of(first..first + share), 0.05, &group).unwrap();
            assert_eq!(tally.samples, 4);
            steps.push(tally.loss());
        }
        task.broadcast(&group).unwrap();
        (steps, task.state().unwrap())
    };
    let mut ends: Vec<_> = std::thread::scope(|scope| {
        let ranks: Vec<_> =
            ThreadGroup::new(ranks as usize).into_iter().map(|group| scope.spawn(move || run(group))).collect();
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
fn any_number_of_ranks_takes_the_same_steps() {
    for frozen in [false, true] {
        let (losses, state) = together(1, frozen);
        for ranks in [2, 4] {
            let (found, found_state) = together(ranks, frozen);
            for (found, expect) in found.iter().zip(&losses) {
                assert!((found - expect).abs() < 1e-5 * expect, "{ranks} ranks: {found} {expect}");
            }
            for (name, expect) in &state.model {
                for (found, expect) in found_state.model[name].as_slice::<f32>().iter().zip(expect.as_slice::<f32>()) {
                    assert!((found - expect).abs() < 1e-5, "{ranks} ranks, {name}: {found} {expect}");
                }
            }
        }
    }
}

#[test]
fn a_rank_without_a_sample_takes_part() {
    let ends: Vec<TaskState> = std::thread::scope(|scope| {
        let run = |group: ThreadGroup| {
            let mut task = task(|_| ());
            let mut batch = batch_of(0..2);
            batch.valid = if group.rank() == 0 { 2 } else { 0 };
            assert_eq!(task.train_step(&batch, 0.05, &group).unwrap().samples, 2);
            task.state().unwrap()
        };
        let ranks: Vec<_> = ThreadGroup::new(2).into_iter().map(|group| scope.spawn(move || run(group))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    let mut alone = task(|_| ());
    train(&mut alone, 0..1);
    ends.iter().for_each(|state| same(state, &alone.state().unwrap()));
}

#[test]
fn padding_counts_for_nothing() {
    let (short, mut padded) = (batch_of(0..2), batch_of(0..3));
    padded.valid = 2;
    values::<f32>(&mut padded, "data")[2 * 3 * 24 * 32..].fill(f32::NAN);
    values::<i64>(&mut padded, "label")[2 * VOXELS..].fill(-1);
    values::<i64>(&mut padded, "depth_mapping_3d")[2 * VOXELS..].fill(-1);
    let (mut a, mut b) = (task(|_| ()), task(|_| ()));
    let tally = a.train_step(&short, 0.05, &SingleRank).unwrap();
    assert_eq!(tally, b.train_step(&padded, 0.05, &SingleRank).unwrap());
    same(&a.state().unwrap(), &b.state().unwrap());
    assert_eq!(a.eval_step(&short).unwrap(), b.eval_step(&padded).unwrap());
    padded.valid = 0;
    let nothing = a.eval_step(&padded).unwrap();
    assert_eq!((nothing.samples, nothing.metric_sums.len()), (0, tally.metric_sums.len()));
    assert!(a.metrics(&nothing).iter().all(|figure| figure.is_nan()));
}

#[test]
fn a_frozen_2d_branch_stays_as_it_is() {
    let mut task = task(|_| ());
    train(&mut task, 0..1);
    let before = task.state().unwrap();
    task.set_frozen(true).unwrap();
    train(&mut task, 1..3);
    let frozen = task.state().unwrap();
    for (name, value) in &before.model {
        assert_eq!(frozen.model[name] != *value, !name.starts_with("image."), "{name}");
    }
    task.set_frozen(false).unwrap();
    train(&mut task, 3..4);
    let thawed = task.state().unwrap();
    assert!(frozen.model.iter().all(|(name, value)| thawed.model[name] != *value));
    assert_eq!(thawed.scalars["optimizer_steps"], serde_json::json!([2, 4]));
}

#[test]
fn a_sample_is_judged_alike_in_any_company_and_predictions_need_no_label() {
    let mut task = task(|_| ());
    train(&mut task, 0..3);
    let mut batch = batch_of(4..7);
    let all = task.predictions(&batch).unwrap();
    assert_eq!(all.len(), 3 * VOXELS);
    assert_eq!(task.predictions(&batch_of(5..6)).unwrap(), all[VOXELS..2 * VOXELS]);
    batch.fields.retain(|(name, _)| !["label", "label_weight", "sketch_gt"].contains(&&**name));
    assert_eq!(task.predictions(&batch).unwrap(), all);
    let tally = task.eval_step(&batch_of(4..7)).unwrap();
    let parts: f64 = (4..7).map(|number| task.eval_step(&batch_of(number..number + 1)).unwrap().loss_sum).sum();
    assert!((tally.loss_sum - parts).abs() < 1e-5 * parts, "{} {parts}", tally.loss_sum);
}

#[test]
fn hha_is_needed_only_where_it_is_used() {
    let plain = task(|o| o.use_hha = false);
    let mut batch = batch_of(0..1);
    batch.fields.retain(|(name, _)| name != "hha_img");
    plain.predictions(&batch).unwrap();
    let error = task(|_| ()).predictions(&batch).unwrap_err().to_string();
    assert!(error.contains("hha_img"), "{error}");
}

#[test]
fn bad_values_are_errors_that_name_the_sample() {
    let mut task = task(|_| ());
    let before = saved(&task);
    for (name, value, says) in [
        ("label", 4, "class 4, but there are 4 classes"),
        ("label", -1, "class -1"),
        ("sketch_gt", 2, "the value 2"),
        ("depth_mapping_3d", NO_PIXEL + 1, "pixel 769 of a picture of 24 x 32"),
        ("depth_mapping_3d", -1, "pixel -1"),
    ] {
        let mut batch = batch_of(10..12);
        values::<i64>(&mut batch, name)[VOXELS + 3] = value;
        let error = task.train_step(&batch, 0.05, &SingleRank).unwrap_err().to_string();
        for part in ["sample 11 (0011)", "voxel 3", name, says] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
        assert_eq!(task.eval_step(&batch).unwrap_err().to_string(), error);
    }
    let mut batch = batch_of(10..12);
    values::<f32>(&mut batch, "label_weight")[0] = f32::NAN;
    let error = task.eval_step(&batch).unwrap_err().to_string();
    assert!(error.contains("sample 10 (0010)") && error.contains("label_weight"), "{error}");
    same(&before, &task.state().unwrap());
}

#[test]
fn a_field_of_another_shape_is_an_error_that_names_it() {
    let mut task = task(|_| ());
    let good = batch_of(0..2);
    for name in ["data", "hha_img", "label", "label_weight", "depth_mapping_3d", "tsdf", "sketch_gt"] {
        let mut batch = good.clone();
        let field = batch.fields.iter_mut().find(|(found, _)| found == name).unwrap();
        field.1 = BatchField::Stack(Array::from_slice(vec![2, 5], &[0.0f32; 10]));
        let error = task.train_step(&batch, 0.05, &SingleRank).unwrap_err().to_string();
        assert!(error.contains(&format!("{name:?} is F32 [2, 5]")), "{error}");
    }
}

#[test]
fn a_loss_that_is_not_finite_is_an_error_and_changes_nothing() {
    let mut task = task(|_| ());
    train(&mut task, 0..1);
    let before = saved(&task);
    for name in ["data", "tsdf"] {
        let mut batch = batch_of(0..2);
        values::<f32>(&mut batch, name)[0] = f32::NAN;
        let error = task.train_step(&batch, 0.05, &SingleRank).unwrap_err().to_string();
        assert!(error.contains("loss of epoch 0 step 1"), "{error}");
        same(&before, &task.state().unwrap());
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let refused = |change: &dyn Fn(&mut TaskOptions)| {
        let mut options = options();
        change(&mut options);
        SceneTask::new(options).unwrap_err().to_string()
    };
    assert!(refused(&|o| o.grid = [6, 5, 6]).contains("even sides"));
    assert!(refused(&|o| o.grid = [6, 0, 6]).contains("even sides"));
    assert!(refused(&|o| o.image_px = [0, 4]).contains("image_px"));
    assert!(refused(&|o| o.channels = 0).contains("channels"));
    assert!(refused(&|o| o.num_classes = 256).contains("num_classes is 256"));
    assert!(refused(&|o| o.class_weights = vec![1.0]).contains("1 numbers for 4 classes"));
    assert!(refused(&|o| o.sketch_weight = -1.0).contains("-1"));
    assert!(refused(&|o| o.momentum = 1.0).contains("momentum"));
    assert!(refused(&|o| o.weight_decay = f64::NAN).contains("weight_decay"));
}
