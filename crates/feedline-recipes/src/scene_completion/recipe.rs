//! The recipe as far as its data goes. What needs a network belongs to `train`.

use super::config::Config;
use super::data::{Scenes, splits};
use super::picture;
use crate::recipe::{BatchChoice, Recipe, Sheet, Split};
use feedline::Result;
use feedline::plan::Plan;
use feedline_demo::rooms;
use std::path::Path;
use std::sync::Arc;

/// The recipe.
#[derive(Debug, Clone, Copy)]
pub struct SceneCompletion;

impl Recipe for SceneCompletion {
    type Config = Config;
    type Data = Scenes;

    const SUMMARY: &'static str = "Rooms: RGB, HHA and distances, a class for each voxel";
    const SAMPLES: &'static str = "scenes";

    fn open(config: &Config, split: Split) -> Result<Arc<Scenes>> {
        splits::open_split(config, split)
    }

    fn plan(config: &Config, train: &Scenes, ranks: u64) -> Result<Plan> {
        splits::plan(config, train, ranks)
    }

    fn draw(_config: &Config, data: &Arc<Scenes>, batch: &BatchChoice) -> Result<Sheet> {
        let (pictures, columns) = match batch.load(data)? {
            Some(batch) => picture::pictures(&batch, data.options())?,
            None => (Vec::new(), 1),
        };
        Ok(Sheet::new(pictures, columns))
    }

    fn write_demo_data(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        rooms::write_demo_data(dir, &Default::default(), progress)
    }
}
