//! The demo data set of the recipe: the streets that `feedline-demo` draws, with the infos that the recipe reads. Owns that they
//! are one data set, which is there whole or not at all.

use super::infos::{self, InfoOptions};
use super::options::Layout;
use feedline::Result;
use feedline_demo::streets;
use std::path::Path;

pub use feedline_demo::streets::DemoOptions;

/// Writes the files of [`streets::write_demo_data`] into `dir`, and with them the info files and the data base of objects, as
/// [`infos::build`] makes them. `dir` is left as it is if this data set is there already. `progress` is told (frames done, frames
/// in all) after each frame.
///
/// # Errors
/// The errors of [`streets::write_demo_data`] and [`infos::build`]. Nothing is left behind.
pub fn write_demo_data(dir: &Path, options: &DemoOptions, progress: impl FnMut(u64, u64)) -> Result<()> {
    streets::write_demo_data(dir, options, progress, |folder| {
        let infos = InfoOptions { layout: Layout::Kitti, num_threads: 2, overwrite: false };
        infos::build(folder, &infos, &|_, _| ()).map(|_| ())
    })
}

#[cfg(test)]
mod tests {
    use super::super::options::{Augment, LidarOptions, SampleGroup};
    use super::super::picture::pictures;
    use super::super::{LidarFiles, open};
    use super::*;
    use feedline::Batch;
    use feedline::deliver::{Loader, LoaderOptions};
    use feedline::pipeline::Pipeline;
    use feedline::plan::Plan;
    use feedline::read::Storage;
    use feedline_demo::streets::DEMO_CLASSES;
    use std::sync::Arc;

    /// The first batch of a split of four frames a batch.
    fn first_batch(root: &Path, split: &str, training: bool, options: &LidarOptions) -> Batch {
        let files = LidarFiles {
            root: root.into(),
            split_dir: if split == "test" { "testing" } else { "training" }.into(),
            info_path: vec![format!("kitti_infos_{split}.pkl")],
            training,
        };
        let data = Arc::new(open(&files, options, &Storage::default()).unwrap());
        let plan = Plan::unshuffled(data.len(), 1).unwrap();
        let options = LoaderOptions { batch_size: 4, num_workers: 0, ..LoaderOptions::default() };
        Loader::new(data, plan, options).unwrap().next_batch().unwrap().unwrap()
    }

    #[test]
    fn the_recipe_delivers_the_frames_and_draws_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a");
        let small = DemoOptions { train: 3, val: 1, test: 1, seed: 3, beams: 24, steps: 200 };
        write_demo_data(&root, &small, |_, _| ()).unwrap();
        let group = |name: &str| SampleGroup { name: name.into(), count: 8, min_points: 5 };
        let options = LidarOptions {
            augment: vec![Augment::GtSampling {
                db_info_path: vec!["kitti_dbinfos_train.pkl".into()],
                sample_groups: DEMO_CLASSES[..3].iter().map(|name| group(name)).collect(),
                removed_difficulties: vec![-1],
                use_road_plane: true,
                limit_whole_scene: true,
                remove_extra_width: [0.0; 3],
            }],
            ..LidarOptions::default()
        };
        for (split, training, frames) in [("train", true, 3), ("val", false, 1), ("test", false, 1)] {
            let batch = first_batch(&root, split, training, &options);
            assert_eq!((batch.valid, batch.field("gt_boxes").is_some()), (frames, split != "test"));
            let (pictures, _) = pictures(&batch, &options).unwrap();
            assert_eq!(pictures.len(), frames);
            for (_, caption) in pictures {
                assert_eq!(caption.contains("pasted"), training, "{caption}");
                assert_eq!(caption.contains("Car"), split != "test", "{caption}");
            }
        }
        let infos = infos::read_infos(&root, &["kitti_infos_trainval.pkl".into()], &Storage::default()).unwrap();
        assert_eq!(infos.len(), 4);
        for annos in infos.iter().map(|frame| frame.annos.as_ref().unwrap()) {
            let mut counts = annos.num_points_in_gt.iter().zip(&annos.name);
            assert!(counts.all(|(count, name)| (*count > 0) == (name != "DontCare")));
        }
    }
}
