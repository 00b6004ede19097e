//! Real JPEG files through all stages: the delivered bytes depend on nothing but (data, seed, epoch, position).

use crate::classification::config::Config;
use crate::classification::data;
use crate::classification::demo::{DemoOptions, write_demo_data};
use crate::settings::SettingsBuilder;
use feedline::augment::Augmentation;
use feedline::deliver::{Loader, LoaderOptions};
use feedline::pipeline::Pipeline;
use feedline::plan::Plan;
use feedline::read::Storage;
use feedline::read::pack::{PackOptions, pack};
use feedline::{Batch, Result};
use std::fs;
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

fn config(settings: &[(&str, String)]) -> Result<Config> {
    let mut builder = SettingsBuilder::defaults();
    for (key, value) in settings {
        builder = builder.assign(&format!("{key}={value}"))?;
    }
    builder.resolve()
}

#[test]
fn a_share_of_each_class_is_held_out_of_folders_archives_and_lists_alike() {
    let dir = tempfile::tempdir().unwrap();
    let (data, packed) = (dir.path().join("d"), dir.path().join("packed"));
    write_demo_data(&data, &DemoOptions { train: 26, test: 6, seed: 2 }, |_, _| ()).unwrap();
    let (whole, place) = (data.display().to_string(), data.join("train").display().to_string());
    let opened = |place: &str, fraction: f64, seed: u64| {
        let settings = [("data.dir", place.to_string()), ("data.val_fraction", format!("{fraction:?}"))];
        data::open(&config(&[&settings[..], &[("data.split_seed", seed.to_string())]].concat())?)
    };
    let (train, val) = opened(&place, 0.25, 0).unwrap();
    assert_eq!((train.len(), val.len()), (20, 6), "26 of 6 classes, one of each four held out");
    let names = [train.sample_list(), val.sample_list()];
    assert!(val.place().contains("the share 0.25 of each class, split seed 0"), "{}", val.place());
    assert_ne!(opened(&place, 0.25, 1).unwrap().1.sample_list(), names[1]);
    // The only split of a folder, archives of the pictures, and a list.
    let alone = dir.path().join("alone");
    fs::create_dir(&alone).unwrap();
    std::os::unix::fs::symlink(data.join("train"), alone.join("Train")).unwrap();
    let options = PackOptions { shard_bytes: 1 << 14, threads: 1, progress: &|_, _| () };
    pack(&data.join("train"), &Storage::default(), &packed, options).unwrap();
    for place in [&alone, &packed] {
        let (train, val) = opened(place.to_str().unwrap(), 0.25, 0).unwrap();
        assert_eq!([train.sample_list(), val.sample_list()], names, "{}", place.display());
    }
    let class_of = |line: &str| train.classes().iter().position(|class| line.ends_with(class)).unwrap();
    let mut lines: Vec<String> = names.concat().lines().map(String::from).collect();
    lines.sort();
    let listed = lines.iter().map(|line| format!("{};{}\n", class_of(line), line.split('\t').next().unwrap()));
    let (list, classes) = (data.join("train/list.txt"), data.join("train/classes.txt"));
    fs::write(&list, listed.collect::<String>()).unwrap();
    fs::write(&classes, train.classes().join("\n")).unwrap();
    let lists = [("data.train_list", list.display().to_string()), ("data.classes", classes.display().to_string())];
    let share = ("data.val_fraction", "0.25".to_string());
    let (train, val) = data::open(&config(&[&lists[..], std::slice::from_ref(&share)].concat()).unwrap()).unwrap();
    assert_eq!([train.sample_list(), val.sample_list()], names);

    // A network is evaluated on the same share, whose classes must be its own.
    let settings = config(&[("data.dir", place.clone()), share.clone()]).unwrap();
    assert_eq!(data::open_val(&settings, val.classes()).unwrap().sample_list(), names[1]);
    let refused = |result: Result<(Arc<_>, Arc<_>)>, parts: &[&str]| {
        let error = result.map(|_| ()).unwrap_err().to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "{part:?} is not in {error}"));
    };
    let others: Vec<String> = (0..30).map(|n| format!("class{n}")).collect();
    let error = data::open_val(&settings, &others).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("circle, cross") && error.contains("class4, ... (30 in all)"), "{error}");
    refused(opened(&place, 0.0, 0), &["there is no validation split", "--val-fraction 0.2"]);
    refused(opened(&whole, 0.25, 0), &["there is a validation split", "d/test", "Leave out --val-fraction", "d/train"]);
    refused(config(&lists).map(|_| unreachable!()), &["lists are given only in part", "--val-fraction 0.2"]);
    let all = [&lists[..], &[("data.val_list", list.display().to_string()), share]].concat();
    refused(config(&all).map(|_| unreachable!()), &["both a validation list and a share"]);
    refused(
        config(&[("data.dir", place), ("data.val_fraction", "1".into())]).map(|_| unreachable!()),
        &["data.val_fraction"],
    );
}

#[test]
fn classes_that_validation_lacks_and_classes_of_very_different_size_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write_demo_data(&dir.path().join("d"), &DemoOptions { train: 26, test: 6, seed: 2 }, |_, _| ()).unwrap();
    let train = dir.path().join("d/train");
    let ring: Vec<_> = fs::read_dir(train.join("ring")).unwrap().map(|entry| entry.unwrap().path()).collect();
    ring[1..].iter().for_each(|path| fs::remove_file(path).unwrap());
    let cross = fs::read_dir(train.join("cross")).unwrap().next().unwrap().unwrap().path();
    for n in 0..10 {
        fs::copy(&cross, train.join(format!("cross/more{n}.jpg"))).unwrap();
    }
    let settings = [("data.dir", train.display().to_string()), ("data.val_fraction", "0.2".into())];
    let (train, val) = data::open(&config(&settings).unwrap()).unwrap();
    let [advice] = &train.warnings()[..] else { panic!("{:?}", train.warnings()) };
    assert!(advice.contains("class `cross` has 12 pictures and `ring` 1"), "{advice}");
    assert!(advice.contains("--set train.class_weights=balanced"), "{advice}");
    let [lack] = &val.warnings()[..] else { panic!("{:?}", val.warnings()) };
    assert!(lack.ends_with("no validation picture of 1 of the 6 classes: ring"), "{lack}");
}
