//! Errors name the file, the frame and the remedy.

use super::*;
use feedline::Error;
use feedline::deliver::SampleContext;
use feedline::pipeline::make_sample;

fn told(result: Result<Clouds>, parts: &[&str]) {
    let text = result.map(|_| ()).unwrap_err().to_string();
    parts.iter().for_each(|part| assert!(text.contains(part), "{text:?} without {part:?}"));
}

/// The error of making the frame.
fn made(data: &Clouds, index: u64) -> Error {
    let plan = Plan::unshuffled(data.len(), 1).unwrap();
    make_sample(data, &plan.epoch(0).at(index), &mut SampleContext::default()).unwrap_err()
}

fn rewrite(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn broken_points_are_told_with_their_file() {
    let dir = tempfile::tempdir().unwrap();
    scenes(dir.path(), 4);
    let cloud = |number: u32| dir.path().join(format!("training/velodyne/{number:06}.bin"));
    rewrite(&cloud(0), |bytes| bytes.truncate(1001));
    rewrite(&cloud(1), |bytes| bytes[16..20].copy_from_slice(&f32::NAN.to_le_bytes()));
    std::fs::write(cloud(3), []).unwrap();
    let data = opened(dir.path(), false, &options()).unwrap();
    for (index, parts) in [(0, ["1001 bytes", "000000.bin"]), (1, ["point 1 is [NaN", "000001.bin"])] {
        let text = made(&data, index).to_string();
        parts.iter().for_each(|part| assert!(text.contains(part), "{text:?} without {part:?}"));
    }
    // No point at all is a cloud too.
    let data: Arc<dyn Pipeline> = Arc::new(data);
    let plan = Plan::unshuffled(4, 1).unwrap();
    let sample = make_sample(&*data, &plan.epoch(0).at(3), &mut SampleContext::default()).unwrap();
    assert_eq!((sample.fields[0].shape(), sample.fields[1].shape()), (&[0, 5][..], &[0, 5, 4][..]));
}

#[test]
fn what_is_not_there_is_told_when_the_data_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    scenes(dir.path(), 4);
    let open = |options: &LidarOptions| opened(dir.path(), true, options);
    let change = |change: fn(&mut LidarOptions)| {
        let mut options = options();
        change(&mut options);
        options
    };
    told(open(&change(|o| o.class_names = vec!["car".into()])), &["no frame", "\"car\"", "\"Car\"", "CLASS_NAMES"]);
    told(open(&change(|o| o.src_features.push("time".into()))), &["4 features", "src_feature_list names 5"]);
    told(open(&change(|o| o.augment.push(gt_sampling()))), &["gt_sampling stands twice"]);
    told(
        open(&change(|o| match &mut o.augment[0] {
            Augment::GtSampling { sample_groups, .. } => sample_groups[1].name = "Tram".into(),
            _ => panic!(),
        })),
        &["no object of the class \"Tram\"", "Car, Cyclist, Pedestrian", "SAMPLE_GROUPS"],
    );
    told(open(&change(|o| o.point_cloud_range = [0.0; 6])), &["range of the points"]);
    told(
        open(&change(|o| o.augment[3] = Augment::RandomWorldScaling { factor: [1.2, 0.8] })),
        &["random_world_scaling"],
    );

    std::fs::remove_file(dir.path().join("training/velodyne/000001.bin")).unwrap();
    told(open(&options()), &["frame 000001", "velodyne/000001.bin", "feedline lidar infos"]);
    std::fs::write(dir.path().join("training/velodyne/000001.bin"), []).unwrap();
    rewrite(&dir.path().join("gt_database/train.bin"), |bytes| bytes.truncate(300));
    told(open(&options()), &["gt_database/train.bin ends before", "of frame 000000", "--overwrite"]);
    std::fs::remove_file(dir.path().join("gt_database/train.bin")).unwrap();
    told(open(&options()), &["no file gt_database/train.bin", "the data base names"]);

    // The ground, where neither infos nor files tell it.
    let path = dir.path().join("kitti_infos_train.jsonl");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"road_plane\"", "\"other\"");
    std::fs::write(&path, text).unwrap();
    let ground = change(|o| match &mut o.augment[0] {
        Augment::GtSampling { use_road_plane, .. } => *use_road_plane = true,
        _ => panic!(),
    });
    told(open(&ground), &["planes/000000.txt", "USE_ROAD_PLANE"]);
}

#[test]
fn frames_whose_boxes_all_lie_outside_end_in_an_error_not_in_a_circle() {
    let dir = tempfile::tempdir().unwrap();
    scenes(dir.path(), 4);
    let range = [0.0, -40.0, 30.0, 70.4, 40.0, 31.0];
    let process = options().process[..1].to_vec();
    let options = LidarOptions { augment: vec![], process, point_cloud_range: range, ..options() };
    let data = opened(dir.path(), true, &options).unwrap();
    let text = made(&data, 0).to_string();
    for part in ["of 32 frames", "none has a box", "POINT_CLOUD_RANGE"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn custom_clouds_are_rows_of_an_array() {
    let dir = tempfile::tempdir().unwrap();
    let frame = Frame {
        point_cloud: frame::PointCloud { num_features: 4, lidar_idx: "a".into() },
        image: None,
        calib: None,
        annos: Some(Annos {
            name: vec!["Car".into()],
            gt_boxes_lidar: vec![Box3d { center: [3.0, 0.0, 0.0], size: [4.0, 2.0, 2.0], heading: 0.0 }],
            ..Annos::default()
        }),
        road_plane: None,
    };
    lines(&dir.path().join("custom_infos_train.jsonl"), &[frame]);
    std::fs::create_dir(dir.path().join("points")).unwrap();
    let save = |descr: &str, shape: &str, data: &[u8]| {
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        while (10 + header.len() + 1) % 64 > 0 {
            header.push(' ');
        }
        header.push('\n');
        let length = (header.len() as u16).to_le_bytes();
        let bytes = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat();
        std::fs::write(dir.path().join("points/a.npy"), bytes).unwrap();
    };
    let values: Vec<u8> = [1f32, 2.0, -1.0, 0.5, 3.0, 0.0, 0.0, 0.25].iter().flat_map(|v| v.to_le_bytes()).collect();
    save("<f4", "(2, 4)", &values);
    let files = LidarFiles { info_path: vec!["custom_infos_train.pkl".into()], ..files(dir.path(), true) };
    let options = LidarOptions {
        layout: options::Layout::Custom,
        augment: vec![],
        process: vec![],
        class_names: vec!["Car".into()],
        ..options()
    };
    let data = open(&files, &options, &Storage::default()).unwrap();
    let plan = Plan::unshuffled(1, 1).unwrap();
    let sample = make_sample(&data, &plan.epoch(0).at(0), &mut SampleContext::default()).unwrap();
    assert_eq!(sample.fields[0].as_slice::<f32>(), [0.0, 1.0, 2.0, -1.0, 0.5, 0.0, 3.0, 0.0, 0.0, 0.25]);
    for (descr, shape, data_bytes) in
        [("<f8", "(1, 4)", &values[..]), ("<f4", "(4, 2)", &values), ("<f4", "(2, 4)", &values[4..])]
    {
        save(descr, shape, data_bytes);
        let text = made(&data, 0).to_string();
        assert!(text.contains("a.npy") && text.contains("f32 (N, 4)"), "{text}");
    }
}
