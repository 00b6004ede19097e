//! OpenPCDet's settings.

use super::*;

/// The content of `kitti_dataset.yaml`.
const KITTI: &str = "
DATASET: 'KittiDataset'
DATA_PATH: '../data/kitti'
POINT_CLOUD_RANGE: [0, -40, -3, 70.4, 40, 1]
DATA_SPLIT: {'train': train, 'test': val}
INFO_PATH: {'train': [kitti_infos_train.pkl], 'test': [kitti_infos_val.pkl]}
GET_ITEM_LIST: [\"points\"]
FOV_POINTS_ONLY: True
DATA_AUGMENTOR:
    DISABLE_AUG_LIST: ['placeholder']
    AUG_CONFIG_LIST:
        - NAME: gt_sampling
          USE_ROAD_PLANE: True
          DB_INFO_PATH:
              - kitti_dbinfos_train.pkl
          PREPARE: {
             filter_by_min_points: ['Car:5', 'Pedestrian:5', 'Cyclist:5'],
             filter_by_difficulty: [-1],
          }
          SAMPLE_GROUPS: ['Car:20','Pedestrian:15', 'Cyclist:15']
          NUM_POINT_FEATURES: 4
          DATABASE_WITH_FAKELIDAR: False
          REMOVE_EXTRA_WIDTH: [0.0, 0.0, 0.0]
          LIMIT_WHOLE_SCENE: True
        - NAME: random_world_flip
          ALONG_AXIS_LIST: ['x']
        - NAME: random_world_rotation
          WORLD_ROT_ANGLE: [-0.78539816, 0.78539816]
        - NAME: random_world_scaling
          WORLD_SCALE_RANGE: [0.95, 1.05]
POINT_FEATURE_ENCODING: {
    encoding_type: absolute_coordinates_encoding,
    used_feature_list: ['x', 'y', 'z', 'intensity'],
    src_feature_list: ['x', 'y', 'z', 'intensity'],
}
DATA_PROCESSOR:
    - NAME: mask_points_and_boxes_outside_range
      REMOVE_OUTSIDE_BOXES: True
    - NAME: shuffle_points
      SHUFFLE_ENABLED: {
        'train': True,
        'test': False
      }
    - NAME: transform_points_to_voxels
      VOXEL_SIZE: [0.05, 0.05, 0.1]
      MAX_POINTS_PER_VOXEL: 5
      MAX_NUMBER_OF_VOXELS: {
        'train': 16000,
        'test': 40000
      }
";

fn names() -> Vec<String> {
    NAMES[..3].iter().map(|name| name.to_string()).collect()
}

/// The files of OpenPCDet's layout: settings of a model over those of the data.
fn written(root: &Path, kitti: &str) -> serde_json::Value {
    let model = "
CLASS_NAMES: ['Car', 'Pedestrian', 'Cyclist']
DATA_CONFIG:
    _BASE_CONFIG_: cfgs/dataset_configs/kitti_dataset.yaml
    POINT_CLOUD_RANGE: [0, -39.68, -3, 69.12, 39.68, 1]
    DATA_AUGMENTOR:
        DISABLE_AUG_LIST: ['random_world_scaling']
OPTIMIZATION: {LR: 0.003}
";
    for (name, text) in [("dataset_configs/kitti_dataset.yaml", kitti), ("kitti_models/pointpillar.yaml", model)] {
        let path = root.join("tools/cfgs").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    openpcdet_yaml::read_yaml(&root.join("tools/cfgs/kitti_models/pointpillar.yaml")).unwrap()
}

#[test]
fn settings_of_a_model_stand_over_those_of_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let config = written(dir.path(), KITTI);
    assert_eq!(config["OPTIMIZATION"]["LR"], 0.003);
    let read = openpcdet_yaml::options(&config["DATA_CONFIG"], &names()).unwrap();
    let mut expect = options();
    expect.augment.pop();
    expect.point_cloud_range = [0.0, -39.68, -3.0, 69.12, 39.68, 1.0];
    if let Augment::GtSampling { sample_groups, use_road_plane, .. } = &mut expect.augment[0] {
        *use_road_plane = true;
        sample_groups.iter_mut().zip([20, 15, 15]).for_each(|(group, count)| group.count = count);
    }
    expect.process[2] = Process::TransformPointsToVoxels {
        voxel_size: [0.05, 0.05, 0.1],
        max_points_per_voxel: 5,
        max_number_of_voxels: PerMode { train: 16_000, test: 40_000 },
    };
    assert_eq!(read, expect);
    let files = openpcdet_yaml::files(&config["DATA_CONFIG"], None, false).unwrap();
    assert_eq!((files.root.to_str(), files.split_dir.as_str()), (Some("../data/kitti"), "training"));
    assert_eq!(files.info_path, ["kitti_infos_val.pkl"]);
    let files = openpcdet_yaml::files(&config["DATA_CONFIG"], Some(Path::new("/k")), true).unwrap();
    assert!(files.training && files.root == Path::new("/k"));
    // The options survive a round trip through a run's settings.
    let text = toml::to_string(&read).unwrap();
    assert_eq!(toml::from_str::<LidarOptions>(&text).unwrap(), read);
}

#[test]
fn mistakes_are_named() {
    for (from, to, parts) in [
        ("'KittiDataset'", "'WaymoDataset'", &["DATASET", "WaymoDataset", "KittiDataset or CustomDataset"][..]),
        ("random_world_flip", "random_world_flop", &["NAME", "random_world_flop"]),
        (
            "ALONG_AXIS_LIST: ['x']",
            "ALONG_AXIS: ['x']",
            &["random_world_flip", "ALONG_AXIS", "Known there: ALONG_AXIS_LIST"],
        ),
        ("['x']", "['w']", &["\"w\" is no axis"]),
        ("['x']", "['z']", &["random_world_flip"]),
        ("'Car:20'", "'Car'", &["SAMPLE_GROUPS", "\"Car\"", "'Car:5'"]),
        ("LIMIT_WHOLE_SCENE: True", "LIMIT_WHOLE_SCENE: 3", &["LIMIT_WHOLE_SCENE", "True or False"]),
        ("VOXEL_SIZE: [0.05, 0.05, 0.1]", "VOXEL_SIZE: [0.05]", &["transform_points_to_voxels", "3 numbers"]),
        ("'test': 40000", "'val': 40000", &["MAX_NUMBER_OF_VOXELS", "test", "missing"]),
        ("\"points\"", "\"radar\"", &["GET_ITEM_LIST", "radar"]),
        ("DATABASE_WITH_FAKELIDAR: False", "DATABASE_WITH_FAKELIDAR: True", &["DATABASE_WITH_FAKELIDAR"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let text = KITTI.replacen(from, to, 1);
        assert_ne!(text, KITTI, "{from}");
        let config = written(dir.path(), &text);
        let error = openpcdet_yaml::options(&config["DATA_CONFIG"], &names()).unwrap_err().to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "{error:?} without {part:?}"));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    for (text, part) in [
        ("_BASE_CONFIG_: a.yaml\n", "circle"),
        ("_BASE_CONFIG_: none.yaml\n", "none.yaml, which is not there"),
        ("a: [1, 2\n", "it is no YAML"),
        ("- 1\n", "no YAML mapping"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = openpcdet_yaml::read_yaml(&path).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("a.yaml"), "{error}");
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kitti.yaml");
    std::fs::write(&file, KITTI).unwrap();
    let expect = openpcdet_yaml::read_yaml(&file).unwrap();
    std::fs::write(&file, format!("\u{feff}{}", KITTI.trim_start().replace('\n', "\r\n"))).unwrap();
    assert_eq!(openpcdet_yaml::read_yaml(&file).unwrap(), expect);
}
