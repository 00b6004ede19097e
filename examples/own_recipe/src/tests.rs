//! The data and their picture, without a run.

use crate::config::Config;
use crate::data::Numbered;
use crate::picture;
use crate::recipe::Regression;
use feedline::deliver::{Loader, LoaderOptions};
use feedline::plot::contact_sheet;
use feedline::{Batch, Result};
use feedline_recipes::recipe::{Recipe, Split};
use feedline_recipes::settings::SettingsBuilder;
use std::path::Path;
use std::sync::Arc;

/// The settings and the training split of the demo data, which it draws into `dir`.
fn training(dir: &Path) -> (Config, Arc<Numbered>) {
    Regression::write_demo_data(dir, &mut |_, _| ()).unwrap();
    let settings = SettingsBuilder::<Config>::defaults();
    let config = settings.set("data.dir", dir.to_str().unwrap()).unwrap().resolve().unwrap();
    let data = Regression::open(&config, Split::Train).unwrap();
    (config, data)
}

/// The batches of two epochs.
fn batches(config: &Config, data: &Arc<Numbered>, num_workers: usize) -> Vec<Batch> {
    let plan = Regression::plan(config, data, 1).unwrap();
    let options = LoaderOptions { batch_size: 16, num_workers, ..LoaderOptions::default() };
    let mut loader = Loader::new(data.clone(), plan, options).unwrap();
    (0..2).flat_map(|_| loader.iter().collect::<Result<Vec<_>>>().unwrap()).collect()
}

#[test]
fn any_number_of_workers_delivers_the_batches_of_the_serial_loader() {
    let dir = tempfile::tempdir().unwrap();
    let (config, data) = training(dir.path());
    let serial = batches(&config, &data, 0);
    assert_eq!(serial.len(), 16);
    for num_workers in [1, 2, 5] {
        assert!(batches(&config, &data, num_workers) == serial, "{num_workers} workers");
    }
}

#[test]
fn a_picture_shows_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let (config, data) = training(dir.path());
    let batch = &batches(&config, &data, 0)[0];
    let pictures = picture::draw(&config, &data, batch).unwrap().pictures;
    assert_eq!(pictures.len(), 16);
    let pixels = |caption: &str, at: usize| {
        contact_sheet(&[(pictures[at].0.clone(), caption.to_string())], 1).image().pixels.clone()
    };
    for (at, value) in batch.stacked("value").unwrap().as_slice::<f32>().iter().enumerate() {
        let caption = &pictures[at].1;
        // A caption is cut where its picture ends; what is cut off does not change the sheet.
        let without = caption.replace(&value.to_string(), "?");
        assert!(pixels(caption, at) != pixels(&without, at), "{caption}");
    }
}
