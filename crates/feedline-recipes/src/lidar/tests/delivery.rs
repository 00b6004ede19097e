//! A delivered batch depends only on (data, seed, epoch, position).

use super::*;
use feedline::deliver::SampleContext;
use feedline::pipeline::make_sample;
use feedline::plan::Tail;

#[test]
fn batches_are_equal_for_any_workers_after_any_resume_and_made_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    scenes(dir.path(), 7);
    let data: Arc<dyn Pipeline> = Arc::new(opened(dir.path(), true, &options()).unwrap());
    let plan = || Plan::new(7, 1).unwrap().with_seed(3);
    let whole = epochs(&mut loader(&data, plan(), 0, 2, 0), 3);
    assert_eq!(whole.len(), 12);
    for workers in [1, 2, 5] {
        assert!(epochs(&mut loader(&data, plan(), 0, 2, workers), 3) == whole, "{workers} workers");
    }
    for cut in 0..4 {
        let mut first = loader(&data, plan(), 0, 2, 2);
        (0..cut).for_each(|_| drop(first.next_batch().unwrap()));
        let mut second = loader(&data, plan(), 0, 2, 3);
        second.load_state_dict(&first.state_dict()).unwrap();
        assert!(epochs(&mut second, 3) == whole[cut..], "resumed after {cut}");
    }
    for batch in &whole {
        for (at, index) in batch.indices.iter().enumerate() {
            let request = plan().epoch(batch.epoch).rank(0).nth((batch.step * 2) as usize + at).unwrap();
            assert_eq!(request.index, *index);
            let sample = make_sample(&*data, &request, &mut SampleContext::default()).unwrap();
            for ((name, field), expect) in batch.fields.iter().zip(&sample.fields) {
                match field {
                    BatchField::Stack(array) => {
                        let each = array.as_bytes().len() / batch.len();
                        assert!(array.as_bytes()[at * each..][..each] == *expect.as_bytes(), "{name}");
                    }
                    BatchField::List(ids) => assert_eq!(ids[at], expect.as_bytes()),
                    BatchField::Pad { values, counts } => {
                        let each = values.as_bytes().len() / batch.len();
                        let own = expect.as_bytes();
                        assert!(values.as_bytes()[at * each..][..own.len()] == *own, "{name}");
                        assert!(
                            values.as_bytes()[at * each + own.len()..(at + 1) * each].iter().all(|byte| *byte == 0)
                        );
                        assert_eq!(counts.as_slice::<i64>()[at] as usize, expect.shape()[0]);
                    }
                    BatchField::Concat { values, offsets } => {
                        let [first, end] = [0, 1].map(|next| offsets.as_slice::<i64>()[at + next] as usize);
                        let row = values.shape()[1..].iter().product::<usize>() * 4;
                        let found = &values.as_bytes()[first * row..end * row];
                        assert_eq!(found.len(), expect.as_bytes().len(), "{name}");
                        let is_numbered = ["points", "voxel_coords"].contains(&name.as_str());
                        for (found, expect) in found.chunks(row).zip(expect.as_bytes().chunks(row)) {
                            let from = if is_numbered { 4 } else { 0 };
                            assert!(found[from..] == expect[from..], "{name}");
                        }
                    }
                }
            }
        }
    }
    let ids = |batches: &[Batch]| -> Vec<u64> { batches.iter().flat_map(|batch| batch.indices.clone()).collect() };
    assert_ne!(ids(&whole[..4]), ids(&whole[4..8]), "epochs differ");
}

#[test]
fn the_frames_of_two_ranks_are_those_of_one() {
    let dir = tempfile::tempdir().unwrap();
    scenes(dir.path(), 8);
    let data: Arc<dyn Pipeline> = Arc::new(opened(dir.path(), true, &options()).unwrap());
    let plan = |ranks| Plan::new(8, ranks).unwrap().with_seed(1).with_tail(Tail::Drop);
    let whole = epochs(&mut loader(&data, plan(1), 0, 4, 2), 2);
    let ranks = [0, 1].map(|rank| epochs(&mut loader(&data, plan(2), rank, 2, 2), 2));
    for (step, batch) in whole.iter().enumerate() {
        for at in 0..4 {
            let other = &ranks[at % 2][step];
            assert_eq!(batch.indices[at], other.indices[at / 2]);
            assert!(points_of(batch, at) == points_of(other, at / 2));
            assert!(boxes_of(batch, at) == boxes_of(other, at / 2));
        }
    }
}

#[test]
fn a_training_frame_without_a_box_gives_its_place_to_another() {
    let dir = tempfile::tempdir().unwrap();
    scenes(dir.path(), 6);
    let mut plain = options();
    plain.augment.remove(0);
    let clouds = opened(dir.path(), true, &plain).unwrap();
    assert_eq!(clouds.frames_without_boxes(), 1);
    assert!(matches!(&clouds.warnings()[..], [one] if one.starts_with("1 of 6 training frames have no box of Car")));
    let data: Arc<dyn Pipeline> = Arc::new(clouds);
    let batches = epochs(&mut loader(&data, Plan::new(6, 1).unwrap(), 0, 3, 2), 4);
    let mut taken = std::collections::BTreeSet::new();
    for batch in &batches {
        let frames = batch.stacked("frame_index").unwrap().as_slice::<i64>();
        for (at, index) in batch.indices.iter().enumerate() {
            let Some(BatchField::List(ids)) = batch.field("frame_id") else { panic!() };
            assert_eq!(ids[at], format!("{:06}", frames[at]).into_bytes());
            assert!(!boxes_of(batch, at).is_empty());
            match *index {
                2 => assert!(frames[at] != 2 && taken.insert(frames[at]) | true),
                index => assert_eq!(frames[at] as u64, index),
            }
        }
    }
    assert!(taken.len() > 1, "not always the same one: {taken:?}");
    // For evaluation the frame is delivered unchanged.
    let data: Arc<dyn Pipeline> = Arc::new(opened(dir.path(), false, &plain).unwrap());
    let batches = epochs(&mut loader(&data, Plan::unshuffled(6, 1).unwrap(), 0, 6, 0), 1);
    assert_eq!(batches[0].stacked("frame_index").unwrap().as_slice::<i64>(), [0, 1, 2, 3, 4, 5]);
    assert!(boxes_of(&batches[0], 2).is_empty() && !points_of(&batches[0], 2).is_empty());
}

#[test]
fn late_epochs_leave_steps_out_and_change_no_other() {
    let dir = tempfile::tempdir().unwrap();
    scenes(dir.path(), 5);
    let never = options();
    let late = LidarOptions {
        late_epoch: 2,
        late_disabled: vec!["gt_sampling".into(), "random_world_scaling".into()],
        ..options()
    };
    let open = |options: &LidarOptions| -> Arc<dyn Pipeline> { Arc::new(opened(dir.path(), true, options).unwrap()) };
    let batches = |data: &Arc<dyn Pipeline>, plan: Plan| epochs(&mut loader(data, plan, 0, 1, 2), 1);
    let plan = || Plan::new(5, 1).unwrap();
    let whole = |options: &LidarOptions| epochs(&mut loader(&open(options), plan(), 0, 1, 2), 4);
    let (never, changed) = (whole(&never), whole(&late));
    assert!(never[..10] == changed[..10]);
    for (before, after) in never[10..].iter().zip(&changed[10..]) {
        let same = |name: &str| before.stacked(name).unwrap() == after.stacked(name).unwrap();
        assert!(after.stacked("noise_scale").unwrap().as_slice::<f64>() == [1.0] && !same("noise_scale"));
        assert!(boxes_of(after, 0).iter().all(|(.., pasted)| !pasted));
        // A frame without a box is another matter.
        assert!(before.indices == [2] || same("noise_rot") && same("flip_x"));
    }
    // Merged epochs are counted by the frames.
    let merged = batches(&open(&late), plan().with_merged_epochs(4).unwrap());
    let scaled: Vec<bool> =
        merged.iter().map(|batch| batch.stacked("noise_scale").unwrap().as_slice::<f64>() != [1.0]).collect();
    assert_eq!(scaled, [[true; 10], [false; 10]].concat());
}
