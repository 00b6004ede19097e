//! The recipe as far as its data goes. What needs a network belongs to `train`.

use super::config::Config;
use super::data::{Clouds, splits};
use super::{demo, picture};
use crate::recipe::{BatchChoice, Recipe, Sheet, Split};
use feedline::Result;
use feedline::plan::Plan;
use std::path::Path;
use std::sync::Arc;

/// The recipe.
#[derive(Debug, Clone, Copy)]
pub struct Lidar;

impl Recipe for Lidar {
    type Config = Config;
    type Data = Clouds;

    const SUMMARY: &'static str = "Clouds of a lidar with the boxes of the objects in them, as KITTI's";
    const SAMPLES: &'static str = "frames";

    fn open(config: &Config, split: Split) -> Result<Arc<Clouds>> {
        splits::open_split(config, split)
    }

    fn plan(config: &Config, train: &Clouds, ranks: u64) -> Result<Plan> {
        splits::plan(config, train, ranks)
    }

    fn draw(_config: &Config, data: &Arc<Clouds>, batch: &BatchChoice) -> Result<Sheet> {
        let (pictures, columns) = match batch.load(data)? {
            Some(batch) => picture::pictures(&batch, data.options())?,
            None => (Vec::new(), 1),
        };
        Ok(Sheet { pictures, columns, large_px: picture::VIEW_PX })
    }

    fn write_demo_data(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        demo::write_demo_data(dir, &Default::default(), progress)
    }
}
