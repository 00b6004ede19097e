//! Points and boxes stay together, whatever is done to them.

use super::*;

/// A box that is a little larger, for what rounding does.
fn roomy(own: &Box3d) -> Box3d {
    Box3d { size: own.size.map(|side| side + 2e-3), ..*own }
}

fn batches(root: &Path, options: &LidarOptions, count: usize) -> Vec<Batch> {
    let data: Arc<dyn Pipeline> = Arc::new(opened(root, true, options).unwrap());
    epochs(&mut loader(&data, Plan::new(data.len(), 1).unwrap().with_seed(4), 0, 1, 2), count)
}

fn stored(root: &Path, batch: &Batch) -> (Vec<[f32; 4]>, Frame) {
    let frame = batch.stacked("frame_index").unwrap().as_slice::<i64>()[0];
    let bytes = std::fs::read(root.join(format!("training/velodyne/{frame:06}.bin"))).unwrap();
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let frames = std::fs::read_to_string(root.join("kitti_infos_train.jsonl")).unwrap();
    let frame = serde_json::from_str(frames.lines().nth(frame as usize).unwrap()).unwrap();
    (values.as_chunks::<4>().0.to_vec(), frame)
}

#[test]
fn points_in_a_box_stay_in_it_under_every_change() {
    let dir = tempfile::tempdir().unwrap();
    scenes(dir.path(), 6);
    let all = [
        Augment::RandomWorldFlip { along_axis: vec![Axis::X] },
        Augment::RandomWorldFlip { along_axis: vec![Axis::X, Axis::Y] },
        Augment::RandomWorldRotation { angle_rad: [-3.0, 3.0] },
        Augment::RandomWorldScaling { factor: [0.8, 1.2] },
        Augment::RandomWorldTranslation { std_m: [0.5, 1.0, 0.1] },
        Augment::RandomLocalRotation { angle_rad: [-0.5, 0.5] },
        Augment::RandomLocalScaling { factor: [0.9, 1.1] },
        Augment::RandomLocalTranslation { along_axis: vec![Axis::X, Axis::Y, Axis::Z], offset_m: [-0.2, 0.2] },
    ];
    let mut lists: Vec<Vec<Augment>> = all.iter().map(|step| vec![step.clone()]).collect();
    lists.push(all.to_vec());
    lists.push(all.iter().rev().cloned().collect());
    for augment in lists {
        // Everything is kept, so that everything can be looked for.
        let options = LidarOptions { augment, process: vec![], fov_points_only: false, ..options() };
        let mut moved = 0;
        for batch in batches(dir.path(), &options, 3) {
            let ((points, _), boxes) = (stored(dir.path(), &batch), boxes_of(&batch, 0));
            let found = points_of(&batch, 0);
            assert_eq!(found.len(), points.len());
            moved += usize::from(found != points);
            let (_, frame) = stored(dir.path(), &batch);
            let counted = frame
                .annos
                .unwrap()
                .name
                .into_iter()
                .enumerate()
                .filter(|(_, name)| NAMES[..3].contains(&name.as_str()));
            let counted: Vec<usize> = counted.map(|(at, _)| at).collect();
            assert_eq!(counted.len(), boxes.len());
            for (label, (own, ..)) in counted.into_iter().zip(&boxes) {
                let mine = found.iter().filter(|point| point[3] == label as f32 + 1.0);
                let inside = mine.filter(|point| roomy(own).bounds().contains([point[0], point[1], point[2]])).count();
                assert_eq!(inside, 30, "{:?}", options.augment);
                assert!((-std::f64::consts::PI..=std::f64::consts::PI + 1e-6).contains(&own.heading));
            }
        }
        assert!(moved > 6, "{moved} frames were changed by {:?}", options.augment);
    }
}

#[test]
fn world_changes_are_those_of_the_matrix() {
    let dir = tempfile::tempdir().unwrap();
    scenes(dir.path(), 5);
    let plain = options();
    let augment = plain.augment[1..].iter().cloned();
    let augment = augment.chain([Augment::RandomWorldTranslation { std_m: [0.5, 0.4, 0.1] }]).collect();
    let options = LidarOptions { augment, process: vec![], fov_points_only: false, ..options() };
    let (mut flips, mut all) = (0, 0);
    for batch in batches(dir.path(), &options, 4) {
        let value = |name: &str| batch.stacked(name).unwrap().as_slice::<f64>().to_vec();
        let (angle, factor, shift) = (value("noise_rot")[0], value("noise_scale")[0], value("noise_translate"));
        assert!((-0.79..0.79).contains(&angle) && (0.95..1.05).contains(&factor));
        let flip = batch.stacked("flip_x").unwrap().as_slice::<u8>()[0] == 1;
        (flips, all) = (flips + usize::from(flip), all + 1);
        let (points, frame) = stored(dir.path(), &batch);
        // Step by step, in the order of the list.
        let moved = |[x, y, z]: [f64; 3]| {
            let y = if flip { -y } else { y };
            let (sin, cos) = angle.sin_cos();
            let turned = [x * cos - y * sin, x * sin + y * cos, z];
            let place: [f64; 3] = std::array::from_fn(|axis| turned[axis] * factor + shift[axis]);
            place
        };
        let matrix = value("lidar_aug_matrix");
        for (found, [x, y, z, tag]) in points_of(&batch, 0).into_iter().zip(points) {
            let place = [f64::from(x), f64::from(y), f64::from(z)];
            let expect = moved(place);
            for axis in 0..3 {
                assert!((f64::from(found[axis]) - expect[axis]).abs() < 1e-5, "{found:?} {expect:?}");
                let row = &matrix[4 * axis..][..4];
                let by_matrix = row[0] * place[0] + row[1] * place[1] + row[2] * place[2] + row[3];
                assert!((by_matrix - expect[axis]).abs() < 1e-9);
            }
            assert_eq!(found[3], tag);
        }
        assert_eq!(matrix[12..], [0.0, 0.0, 0.0, 1.0]);
        let annos = frame.annos.unwrap();
        let counted =
            annos.gt_boxes_lidar.iter().zip(&annos.name).filter(|(_, name)| NAMES[..3].contains(&name.as_str()));
        for ((found, class, _), (stored, name)) in boxes_of(&batch, 0).iter().zip(counted) {
            let expect = moved(stored.center);
            assert!((0..3).all(|axis| (found.center[axis] - expect[axis]).abs() < 1e-5));
            assert!((0..3).all(|axis| (found.size[axis] - stored.size[axis] * factor).abs() < 1e-5));
            let heading = if flip { -stored.heading } else { stored.heading } + angle;
            assert!((found.heading - heading).sin().abs() < 1e-5 && (found.heading - heading).cos() > 0.0);
            assert_eq!(NAMES[*class as usize - 1], name);
        }
    }
    assert!((4..all - 3).contains(&flips), "{flips} of {all}");
}

#[test]
fn pasted_objects_are_whole_touch_nothing_and_come_first() {
    let dir = tempfile::tempdir().unwrap();
    scenes(dir.path(), 6);
    let objects: Vec<DbObject> = std::fs::read_to_string(dir.path().join("kitti_dbinfos_train.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for use_ground in [false, true] {
        let mut augment = gt_sampling();
        if let Augment::GtSampling { use_road_plane, .. } = &mut augment {
            *use_road_plane = use_ground;
        }
        let options = LidarOptions { augment: vec![augment], process: vec![], ..options() };
        let mut used = std::collections::BTreeMap::new();
        let mut present = 0;
        for batch in batches(dir.path(), &options, 4) {
            let (boxes, points, (_, frame)) = (boxes_of(&batch, 0), points_of(&batch, 0), stored(dir.path(), &batch));
            let annos = frame.annos.unwrap();
            for (at, (own, ..)) in boxes.iter().enumerate() {
                assert!(!boxes[..at].iter().any(|(other, ..)| own.overlaps_xy(other)));
            }
            let mut first = 0;
            for (own, class, _) in boxes.iter().filter(|(.., pasted)| *pasted) {
                let tag = points[first][3];
                let object = &objects[tag as usize - 101];
                *used.entry(tag as u32).or_insert(0) += 1;
                assert_eq!(object.name, NAMES[*class as usize - 1]);
                assert!(object.num_points_in_gt >= 5 && object.difficulty != -1);
                let count = object.num_points_in_gt as usize;
                let mine = &points[first..first + count];
                assert!(mine.iter().all(|p| p[3] == tag && roomy(own).bounds().contains([p[0], p[1], p[2]])));
                first += count;
                let others = points.iter().filter(|p| p[3] != tag);
                assert!(!others.into_iter().any(|p| own.bounds().contains([p[0], p[1], p[2]])));
                assert!((0..2).all(|axis| (own.center[axis] - object.box3d_lidar.center[axis]).abs() < 1e-5));
                let bottom = own.center[2] - own.size[2] / 2.0;
                // The ground of the frames: y = 0.02 z + 1.7 in camera coordinates.
                let ground = -(0.02 * (own.center[0] - 0.27) + 1.7) - 0.08;
                assert_eq!((bottom - ground).abs() < 1e-4, use_ground, "{bottom} {ground}");
            }
            assert!(points[first..].iter().all(|point| point[3] < 100.0), "objects come first");
            for (name, most) in [("Car", 10), ("Pedestrian", 6), ("Cyclist", 6)] {
                let there = annos.name.iter().filter(|other| *other == name).count();
                let class = NAMES.iter().position(|other| *other == name).unwrap() as f32 + 1.0;
                let pasted = boxes.iter().filter(|(_, own, pasted)| *pasted && *own == class).count();
                assert!(there + pasted <= most.max(there));
                present += pasted;
            }
        }
        assert!(present > 60 && used.len() > 10, "{present} pasted, {used:?}");
    }
}

#[test]
fn only_what_the_camera_sees_and_the_range_holds_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    scenes(dir.path(), 3);
    let process = vec![Process::MaskPointsAndBoxesOutsideRange { remove_outside_boxes: true }];
    let range = [5.0, -20.0, -3.0, 45.0, 20.0, 1.0];
    let options = LidarOptions { augment: vec![], process, point_cloud_range: range, ..options() };
    let data: Arc<dyn Pipeline> = Arc::new(opened(dir.path(), false, &options).unwrap());
    for batch in epochs(&mut loader(&data, Plan::unshuffled(3, 1).unwrap(), 0, 1, 0), 1) {
        let (points, _) = stored(dir.path(), &batch);
        let expect: Vec<[f32; 4]> = points
            .into_iter()
            .filter(|[x, y, z, _]| {
                let [x, y, z] = [x, y, z].map(|value| f64::from(*value));
                let depth = x - 0.27;
                let (u, v) =
                    ((-700.0 * y + 620.0 * depth + 45.0) / depth, (-700.0 * (z + 0.08) + 180.0 * depth - 0.3) / depth);
                let seen = depth > 0.0 && (0.0..1242.0).contains(&u) && (0.0..375.0).contains(&v);
                seen && (5.0..=45.0).contains(&x) && (-20.0..=20.0).contains(&y)
            })
            .collect();
        assert_eq!(points_of(&batch, 0), expect);
        assert!((100..1400).contains(&expect.len()), "{}", expect.len());
    }
}
