//! Real JPEG files through all stages: the delivered bytes depend on nothing but (data, seed, epoch, position).

use crate::classification::data;
use crate::classification::demo::{DemoOptions, write_demo_data};
use crate::settings::SettingsBuilder;
use feedline::augment::Augmentation;
use feedline::deliver::{Loader, LoaderOptions};
use feedline::pipeline::Pipeline;
use feedline::plan::Plan;
use feedline::{Batch, Result};
use std::path::Path;
use std::sync::Arc;

fn train_data(dir: &Path, augment: &str) -> Arc<dyn Pipeline> {
    let options = DemoOptions { train: 26, test: 6, seed: 2 };
    write_demo_data(dir, &options, |_, _| ()).unwrap();
    let builder = SettingsBuilder::defaults().set("data.dir", dir.to_str().unwrap()).unwrap();
    let builder = builder.set("augment.preset", augment).and_then(|builder| builder.set("model.input_px", 48)).unwrap();
    data::open(&builder.resolve().unwrap()).unwrap().0
}

fn loader(pipeline: &Arc<dyn Pipeline>, num_workers: usize) -> Loader {
    let plan = Plan::new(pipeline.len(), 1).unwrap().with_seed(11);
    let options = LoaderOptions { batch_size: 4, num_workers, ..LoaderOptions::default() };
    Loader::new(pipeline.clone(), plan, options).unwrap()
}

fn epochs(loader: &mut Loader, count: usize) -> Vec<Batch> {
    (0..count).flat_map(|_| loader.iter().collect::<Result<Vec<_>>>().unwrap()).collect()
}

#[test]
fn batches_are_equal_for_any_workers_after_any_resume_and_on_every_run() {
    let dir = tempfile::tempdir().unwrap();
    for augment in ["light", "upstream"] {
        let pipeline = train_data(&dir.path().join("d"), augment);
        let whole = epochs(&mut loader(&pipeline, 0), 2);
        assert_eq!(whole.len(), 14);
        let image = whole[0].stacked("image").unwrap();
        assert_eq!((image.shape(), whole[6].len()), (&[4, 3, 48, 48][..], 2));
        assert!(image.as_slice::<f32>().iter().all(|value| (-2.2..2.7).contains(value)));
        for workers in [1, 2, 7] {
            assert!(epochs(&mut loader(&pipeline, workers), 2) == whole, "{augment} with {workers} workers");
        }
        for cut in 0..7 {
            let mut first = loader(&pipeline, 2);
            for _ in 0..cut {
                first.next_batch().unwrap();
            }
            let mut second = loader(&pipeline, 7);
            second.load_state_dict(&first.state_dict()).unwrap();
            assert!(epochs(&mut second, 2) == whole[cut..], "{augment} resumed after {cut}");
        }
    }
}

#[test]
fn a_list_of_operations_delivers_what_the_preset_with_these_operations_delivers() {
    let dir = tempfile::tempdir().unwrap();
    let preset = train_data(&dir.path().join("d"), "light");
    let builder = SettingsBuilder::defaults().set("data.dir", dir.path().join("d").to_str().unwrap()).unwrap();
    let ops = toml::Value::try_from(Augmentation::Light.train_ops(48)).unwrap();
    let builder =
        builder.assign(&format!("augment.ops={ops}")).and_then(|builder| builder.set("model.input_px", 48)).unwrap();
    let listed: Arc<dyn Pipeline> = data::open(&builder.resolve().unwrap()).unwrap().0;
    assert!(epochs(&mut loader(&listed, 2), 2) == epochs(&mut loader(&preset, 0), 2));
}

#[test]
fn a_sample_looks_different_in_every_epoch_and_the_same_at_every_place() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = train_data(&dir.path().join("d"), "light");
    let picture = |batches: &[Batch], index: u64| -> Vec<f32> {
        let (batch, at) = batches.iter().find_map(|b| Some((b, b.indices.iter().position(|&i| i == index)?))).unwrap();
        let values = batch.stacked("image").unwrap().as_slice::<f32>();
        values[at * 3 * 48 * 48..][..3 * 48 * 48].to_vec()
    };
    let batches = epochs(&mut loader(&pipeline, 2), 2);
    let (first, second) = batches.split_at(7);
    // Another batch size puts the sample elsewhere; it looks the same there.
    let plan = Plan::new(pipeline.len(), 1).unwrap().with_seed(11);
    let options = LoaderOptions { batch_size: 9, num_workers: 1, ..LoaderOptions::default() };
    let other = epochs(&mut Loader::new(pipeline.clone(), plan, options).unwrap(), 1);
    for index in 0..26 {
        assert_ne!(picture(first, index), picture(second, index));
        assert_eq!(picture(first, index), picture(&other, index));
    }
}
