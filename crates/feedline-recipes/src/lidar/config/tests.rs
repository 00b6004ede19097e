//! Tests of the settings: defaults are complete, mistakes are named, a run goes on under what it may change.

use super::super::data::options::Augment;
use super::*;
use crate::settings::SettingsBuilder;

fn resolved(assignments: &[&str]) -> Result<Config> {
    assignments
        .iter()
        .try_fold(SettingsBuilder::defaults(), |builder, assignment| builder.assign(assignment))?
        .resolve()
}

#[test]
fn the_defaults_are_complete_and_mean_the_same_once_written_down() {
    let config = resolved(&["data.dir=/d", "train.lr=1"]).unwrap();
    assert_eq!((config.train.batch_size, config.train.lr, config.model.blocks.len()), (4, 1.0, 2));
    assert_eq!(config.clouds.grid().unwrap().unwrap().size, [160, 160, 1]);
    assert!(matches!(&config.clouds.augment[0], Augment::GtSampling { sample_groups, .. } if sample_groups.len() == 3));
    let text = config.to_toml().unwrap();
    assert_eq!(Config::from_toml(&text).unwrap(), config);
    assert_eq!(SettingsBuilder::<Config>::defaults().table(text).unwrap().resolve().unwrap(), config);
}

#[test]
fn mistakes_are_named() {
    for (assignments, parts) in [
        (&["seed=1"][..], &["no data is named", "--data DIR"][..]),
        (&["data.dir=/d", "clouds.class_names=['Car']"], &["3 anchors for 1 classes", "clouds.class_names"]),
        (&["data.dir=/d", "clouds.point_cloud_range=[0, 0, -5, 8, 8, 3]"], &["4 m high", "pillars"]),
        (&["data.dir=/d", "clouds.process=[]"], &["no step of clouds.process makes voxels"]),
        (&["data.dir=/d", "clouds.process=[{name='shuffle'}]"], &["shuffle"]),
        (&["data.dir=/d", "model.blocks=[]"], &["model.blocks is out of range"]),
        (&["data.dir=/d", "train.moms=[0.9, 1]"], &["train.moms is out of range"]),
        (&["data.dir=/d", "data.num_worker=3"], &["unknown key data.num_worker", "Did you mean num_workers?"]),
        (&["recipe=classification"], &["settings of the recipe \"classification\""]),
    ] {
        let error = resolved(assignments).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{assignments:?} gives {error:?}, without {part:?}");
        }
    }
}

#[test]
fn a_run_goes_on_with_another_batch_and_place_but_not_other_clouds() {
    let run = resolved(&["data.dir=/d"]).unwrap();
    let changed = resolved(&["data.dir=/e", "train.batch_size=2", "model.score_threshold=0.3"]).unwrap();
    run.check_resume(&changed).unwrap();
    let other = resolved(&["data.dir=/d", "clouds.fov_points_only=false"]).unwrap();
    let error = run.check_resume(&other).unwrap_err().to_string();
    assert!(error.contains("clouds.fov_points_only was true when the run began and is now false"), "{error}");
}

const YAML: &str = "
CLASS_NAMES: ['Car']
DATA_CONFIG:
    DATASET: KittiDataset
    DATA_PATH: /kitti
    POINT_CLOUD_RANGE: [0, -39.68, -3, 69.12, 39.68, 1]
    DATA_SPLIT: { train: train, test: val }
    INFO_PATH: { train: [a.pkl], test: [b.pkl] }
    POINT_FEATURE_ENCODING:
        encoding_type: absolute_coordinates_encoding
        used_feature_list: ['x', 'y', 'z', 'intensity']
        src_feature_list: ['x', 'y', 'z', 'intensity']
    DATA_PROCESSOR:
        - NAME: transform_points_to_voxels
          VOXEL_SIZE: [0.16, 0.16, 4]
          MAX_POINTS_PER_VOXEL: 32
          MAX_NUMBER_OF_VOXELS: { train: 16000, test: 40000 }
";

#[test]
fn a_yaml_takes_the_place_of_the_clouds_and_is_named_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pointpillar.yaml");
    std::fs::write(&path, YAML).unwrap();
    let named = format!("data.dataset_cfg={}", path.display());
    let anchor = "model.anchors=[{size_m=[3.9, 1.6, 1.56], bottom_m=-1.78, matched=0.6, unmatched=0.45}]";
    let config = resolved(&[&named, anchor]).unwrap().absolute().unwrap();
    assert_eq!(config.data.dir, PathBuf::from("/kitti"));
    assert_eq!((config.data.train_infos[0].as_str(), config.data.val_infos[0].as_str()), ("a.pkl", "b.pkl"));
    assert_eq!((config.clouds.grid().unwrap().unwrap().size, config.clouds.augment.len()), ([432, 496, 1], 0));
    assert_eq!(config.data.dataset_cfg, PathBuf::new());
    assert_eq!(Config::from_toml(&config.to_toml().unwrap()).unwrap(), config);
    let elsewhere = resolved(&[&named, anchor, "data.dir=/mine"]).unwrap().absolute().unwrap();
    assert_eq!(elsewhere.data.dir, PathBuf::from("/mine"));
    let error = resolved(&[&named]).unwrap().absolute().unwrap_err().to_string();
    assert!(error.contains("3 anchors for 1 classes"), "{error}");
    std::fs::write(&path, YAML.replace("test: val", "test: test")).unwrap();
    let error = resolved(&[&named, anchor]).unwrap().absolute().unwrap_err().to_string();
    assert!(error.contains("frames of testing, which have no labels"), "{error}");
}
