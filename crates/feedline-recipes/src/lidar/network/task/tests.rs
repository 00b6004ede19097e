//! Guarantees of a step: the right gradient, repeatable, resumable, the same on any number of ranks, unharmed by bad input.

use super::*;
use crate::lidar::config::{AnchorConfig, BlockConfig};
use crate::network::device::DeviceKind;
use feedline::plan::rng::SampleRng;
use feedline::train::group::SingleRank;
use feedline::train::threads::ThreadGroup;
use feedline::{Array, BatchField};

const MOST: usize = 5;

fn options() -> TaskOptions {
    let anchor = |size_m, matched, unmatched| AnchorConfig { size_m, bottom_m: -1.7, matched, unmatched };
    let block = |layers, channels| BlockConfig { layers, channels, up_channels: 6 };
    TaskOptions {
        // 15 x 13 pillars: odd sides, which no halving divides.
        grid: Grid::new([0.0, -2.6, -2.0, 6.0, 2.6, 2.0], [0.4, 0.4, 4.0], MOST).unwrap(),
        num_point_features: 4,
        class_names: vec!["Car".into(), "Pedestrian".into()],
        model: ModelConfig {
            channels: 4,
            blocks: vec![block(1, 6), block(1, 8)],
            anchors: vec![anchor([2.0, 1.0, 1.5], 0.6, 0.45), anchor([0.8, 0.6, 1.7], 0.5, 0.35)],
            score_threshold: 0.1,
            nms_iou: 0.01,
            nms_most: [100, 50],
            precision: Precision::F32,
            device: DeviceKind::Cpu,
        },
        weight_decay: 0.01,
        grad_norm_clip: 10.0,
        seed: 11,
    }
}

fn task(change: impl FnOnce(&mut TaskOptions)) -> LidarTask {
    let mut options = options();
    change(&mut options);
    LidarTask::new(options).unwrap()
}

/// A frame: some pillars with points, and an object where many of them are. Frame `number` is the same in every batch.
fn batch_of(numbers: std::ops::Range<u64>) -> Batch {
    let grid = options().grid;
    let (mut voxels, mut coords, mut counts, mut offsets) = (vec![], vec![], vec![], vec![0_i64]);
    let (mut boxes, mut box_counts) = (vec![], vec![]);
    for (sample, number) in numbers.clone().enumerate() {
        let mut rng = SampleRng::new(5, 0, number, "frame");
        let class = number as usize % 2;
        let own = [rng.uniform(1.5, 4.5), rng.uniform(-1.2, 1.2), -0.9];
        let size = [[2.0, 1.0, 1.5], [0.8, 0.6, 1.7]][class];
        // The third frame has no object.
        let objects = if number == 2 { 0 } else { 1_i64 };
        box_counts.push(objects);
        let row = [own[0], own[1], own[2], size[0], size[1], size[2], 0.1, class as f64 + 1.0];
        boxes.extend(row.map(|value| if objects == 1 { value as f32 } else { 0.0 }));
        for y in 0..grid.size[1] {
            for x in 0..grid.size[0] {
                let at = [(x as f64 + 0.5) * 0.4, (y as f64 + 0.5) * 0.4 - 2.6];
                let inside = objects == 1 && (0..2).all(|axis| (at[axis] - own[axis]).abs() < size[axis] / 2.0);
                if !inside && rng.chance(0.8) {
                    continue;
                }
                let count = if inside { MOST } else { 1 + rng.below(2) as usize };
                let high = if inside { -0.2 } else { -1.6 };
                for _ in 0..count {
                    let place = at.map(|middle| middle + rng.uniform(-0.19, 0.19));
                    voxels.extend(
                        [place[0], place[1], high + rng.uniform(-0.1, 0.1), rng.uniform(0.0, 1.0)].map(|v| v as f32),
                    );
                }
                voxels.resize(voxels.len() + (MOST - count) * 4, 0.0);
                coords.extend([sample as i32, 0, y as i32, x as i32]);
                counts.push(count as i32);
            }
        }
        offsets.push(counts.len() as i64);
    }
    let (samples, pillars) = (box_counts.len(), counts.len());
    let joined = |values: Array| {
        let offsets = Array::from_slice(vec![samples + 1], &offsets);
        BatchField::Concat { values, offsets }
    };
    let objects = BatchField::Pad {
        values: Array::from_slice(vec![samples, 1, 8], &boxes),
        counts: Array::from_slice(vec![samples], &box_counts),
    };
    Batch {
        epoch: 0,
        step: 0,
        next_position: numbers.end,
        indices: numbers.collect(),
        valid: samples,
        fields: vec![
            ("voxels".into(), joined(Array::from_slice(vec![pillars, MOST, 4], &voxels))),
            ("voxel_coords".into(), joined(Array::from_slice(vec![pillars, 4], &coords))),
            ("voxel_num_points".into(), joined(Array::from_slice(vec![pillars], &counts))),
            ("gt_boxes".into(), objects),
        ],
        replaced: vec![],
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn the_gradient_is_the_difference_of_the_outputs() {
    let mut task = task(|_| ());
    // Away from the zeros that biases start with, where relu has a kink.
    let mut rng = SampleRng::new(6, 0, 0, "weights");
    task.model.store.parameters.iter_mut().for_each(|value| *value += rng.normal() as f32 * 0.1);
    let batch = batch_of(0..2);
    let numbers_of = |model: &Model, slopes: &[f32]| -> f64 {
        let inputs = inputs(&batch, 2, &task.options.grid, 4).unwrap();
        let outputs = model.forward(&task.device, inputs, false, None).outputs();
        outputs.iter().zip(slopes).map(|(output, slope)| f64::from(*output) * f64::from(*slope)).sum()
    };
    let slopes: Vec<f32> = (0..2 * outputs_per_frame(&task.anchors)).map(|_| rng.normal() as f32).collect();
    let mut gradient = vec![0.0; task.model.store.parameters.len()];
    let inputs = inputs(&batch, 2, &task.options.grid, 4).unwrap();
    task.model.forward(&task.device, inputs, true, None).backward(slopes.clone(), &mut gradient);
    for spec in &task.model.store.specs {
        let along: Vec<f64> = spec.range.clone().map(|_| rng.normal()).collect();
        let moved = |by: f64| {
            let mut model = task.model.clone();
            let values = &mut model.store.parameters[spec.range.clone()];
            values.iter_mut().zip(&along).for_each(|(value, along)| *value += (by * along) as f32);
            numbers_of(&model, &slopes)
        };
        // So short a step crosses no kink of relu or of the largest.
        let step = 1e-4;
        let difference = (moved(step) - moved(-step)) / (2.0 * step);
        let own = &gradient[spec.range.clone()];
        let slope: f64 = own.iter().zip(&along).map(|(slope, along)| f64::from(*slope) * along).sum();
        let size = own.iter().map(|slope| f64::from(*slope).powi(2)).sum::<f64>().sqrt();
        assert!(size > 1e-3, "{} has no gradient", spec.name);
        assert!((slope - difference).abs() < 0.03 * size + 0.05, "{}: {slope} {difference}", spec.name);
    }
}

#[test]
fn a_frame_has_the_same_numbers_in_any_batch() {
    let task = task(|_| ());
    let together = task.outputs(&batch_of(0..4)).unwrap();
    let together: Vec<&[f32]> = task.samples(&together).collect();
    assert_eq!(together.len(), 4);
    for number in 0..4 {
        let alone = task.outputs(&batch_of(number..number + 1)).unwrap();
        assert_eq!(bits(&alone), bits(together[number as usize]), "frame {number}");
    }
}

#[test]
fn losses_fall_and_the_objects_are_found() {
    let mut task = task(|_| ());
    let (batch, mut losses) = (batch_of(0..4), Vec::new());
    for step in 0..120 {
        task.set_momentum(0.9);
        let tally = task.train_step(&batch, if step < 90 { 1e-2 } else { 2e-3 }, &SingleRank).unwrap();
        assert_eq!(tally.samples, 4);
        losses.push(tally.loss());
    }
    assert!(losses[119] < losses[0] / 5.0, "{} {}", losses[0], losses[119]);
    let tally = task.eval_step(&batch).unwrap();
    assert!(task.metrics(&tally)[0] > 60.0, "{:?}", task.metrics(&tally));
    let found = task.predictions(&batch).unwrap();
    assert_eq!(found.len(), 4);
    let best = found[0][0];
    assert!(best.class == 0 && best.score > 0.5 && best.score <= 1.0, "{best:?}");
}

#[test]
fn two_tasks_take_the_same_steps_and_one_goes_on_from_a_saved_state() {
    let (mut one, mut other) = (task(|_| ()), task(|_| ()));
    let step = |task: &mut LidarTask, number: u64| {
        task.set_momentum(0.95 - 0.01 * number as f64);
        task.train_step(&batch_of(number..number + 2), 3e-3, &SingleRank).unwrap()
    };
    for number in 0..3 {
        assert_eq!(step(&mut one, number), step(&mut other, number));
    }
    let mut third = task(|options| options.seed = 99);
    third.load_state(one.state().unwrap()).unwrap();
    for number in 3..6 {
        assert_eq!(step(&mut one, number), step(&mut third, number));
    }
    assert_eq!(bits(&one.model.store.parameters), bits(&third.model.store.parameters));
    let mut wide = task(|options| options.model.channels = 5);
    let error = wide.load_state(one.state().unwrap()).unwrap_err().to_string();
    assert!(error.contains("pillars.weight"), "{error}");
}

#[test]
fn a_batch_over_two_or_three_ranks_is_the_batch_on_one() {
    let mut alone = task(|_| ());
    let tally = alone.train_step(&batch_of(0..4), 1e-3, &SingleRank).unwrap();
    for (ranks, shares) in [(2, vec![0..2, 2..4]), (3, vec![0..3, 3..4, 4..4])] {
        std::thread::scope(|scope| {
            for (group, share) in ThreadGroup::new(ranks).into_iter().zip(shares) {
                let (alone, tally) = (&alone, &tally);
                scope.spawn(move || {
                    let mut task = task(|_| ());
                    // The last rank of three has padding only.
                    let mut batch = batch_of(if share.is_empty() { 0..1 } else { share.clone() });
                    batch.valid = share.count();
                    let theirs = task.train_step(&batch, 1e-3, &group).unwrap();
                    assert!((theirs.loss() - tally.loss()).abs() < 1e-9 * tally.loss(), "{theirs:?} {tally:?}");
                    assert_eq!(theirs.metric_sums, tally.metric_sums);
                    for (one, other) in task.stepper.gradient().iter().zip(alone.stepper.gradient()) {
                        assert!((one - other).abs() < 1e-5, "{one} {other}");
                    }
                });
            }
        });
    }
}

#[test]
fn long_gradients_are_cut_and_the_decay_reaches_everything() {
    let batch = batch_of(0..2);
    let gradient = |clip: f64| {
        let mut task = task(|options| options.grad_norm_clip = clip);
        task.train_step(&batch, 1e-3, &SingleRank).unwrap();
        task.stepper.gradient().to_vec()
    };
    let norm = |of: &[f32]| of.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let (whole, cut) = (gradient(0.0), gradient(0.01));
    assert!(norm(&whole) > 0.1 && (norm(&cut) - 0.01).abs() < 1e-5, "{} {}", norm(&whole), norm(&cut));
    assert_eq!(bits(&whole), bits(&gradient(1e9)), "a short one is left as it is");
    // The first step of Adam is the rate for each parameter; the decay comes before it.
    let (lr, decay) = (1e-2, 0.5);
    let after = |weight_decay: f64| {
        let mut task = task(|options| options.weight_decay = weight_decay);
        task.train_step(&batch, lr, &SingleRank).unwrap();
        task.model.store.parameters
    };
    let begun = task(|_| ()).model.store.parameters;
    for ((plain, decayed), begun) in after(0.0).iter().zip(&after(decay)).zip(&begun) {
        let expect = f64::from(*plain) - f64::from(*begun) * lr * decay;
        assert!((f64::from(*decayed) - expect).abs() < 1e-6, "{decayed} {expect}");
    }
}

#[test]
fn frames_without_points_have_numbers_and_a_loss() {
    let mut task = task(|_| ());
    let mut batch = batch_of(0..2);
    for (name, row) in [("voxels", vec![MOST, 4]), ("voxel_coords", vec![4]), ("voxel_num_points", vec![])] {
        let (_, field) = batch.fields.iter_mut().find(|(known, _)| known == name).unwrap();
        let BatchField::Concat { values, offsets } = field else { panic!() };
        *values = Array::zeros(values.dtype(), [vec![0], row].concat());
        *offsets = Array::from_slice(vec![3], &[0_i64; 3]);
    }
    let tally = task.train_step(&batch, 1e-3, &SingleRank).unwrap();
    assert!(tally.loss() > 0.0 && tally.samples == 2);
    assert_eq!(task.predictions(&batch).unwrap().len(), 2);
}

#[test]
fn batches_that_do_not_fit_are_refused_and_nothing_is_changed() {
    let mut task = task(|_| ());
    let begun = task.model.store.parameters.clone();
    let mut refused = |change: &dyn Fn(&mut Batch), words: &[&str]| {
        let mut batch = batch_of(0..2);
        change(&mut batch);
        let error = task.train_step(&batch, 1e-3, &SingleRank).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert_eq!(task.model.store.parameters, begun);
    };
    fn values<'b>(batch: &'b mut Batch, name: &str) -> &'b mut Array {
        match batch.fields.iter_mut().find(|(known, _)| known == name) {
            Some((_, BatchField::Concat { values, .. } | BatchField::Pad { values, .. })) => values,
            _ => panic!("{name}"),
        }
    }
    refused(&|batch| batch.fields.retain(|(name, _)| name != "voxels"), &["no field \"voxels\""]);
    refused(&|batch| batch.fields.retain(|(name, _)| name != "gt_boxes"), &["no field \"gt_boxes\""]);
    refused(&|batch| values(batch, "voxel_coords").as_mut_slice::<i32>()[3] = 15, &["voxel 0", "15"]);
    refused(&|batch| values(batch, "voxel_num_points").as_mut_slice::<i32>()[1] = 6, &["voxel 1 with 6 points"]);
    refused(&|batch| values(batch, "gt_boxes").as_mut_slice::<f32>()[7] = 3.0, &["class 3", "2 classes"]);
    refused(&|batch| values(batch, "gt_boxes").as_mut_slice::<f32>()[3] = 0.0, &["a box is"]);
    refused(&|batch| values(batch, "voxels").as_mut_slice::<f32>()[2] = f32::NAN, &["the loss of epoch 0 step 0"]);
    let unfit = |change: &dyn Fn(&mut TaskOptions)| {
        let mut options = options();
        change(&mut options);
        LidarTask::new(options).unwrap_err().to_string()
    };
    assert!(unfit(&|options| options.class_names.push("Van".into())).contains("2 anchors for 3 classes"));
    assert!(unfit(&|options| options.grid.size[2] = 2).contains("one voxel in height"));
}
