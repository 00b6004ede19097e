//! The recipe as far as its data goes. What needs a network belongs to `train`.

use super::config::Config;
use super::data::{self, bench};
use super::picture;
use crate::recipe::{BatchChoice, BenchRequest, BenchSetup, Recipe, Sheet, Split};
use crate::settings::SettingsBuilder;
use feedline::Result;
use feedline::pipeline::Images;
use feedline::plan::Plan;
use feedline_demo::shapes;
use std::path::Path;
use std::sync::Arc;

/// The recipe.
#[derive(Debug, Clone, Copy)]
pub struct Classification;

impl Recipe for Classification {
    type Config = Config;
    type Data = Images;

    const SUMMARY: &'static str = "Pictures in class folders";
    const SAMPLES: &'static str = "images";

    fn open(config: &Config, split: Split) -> Result<Arc<Images>> {
        data::open_split(config, split)
    }

    fn plan(config: &Config, train: &Images, ranks: u64) -> Result<Plan> {
        data::plan(config, train, ranks)
    }

    fn draw(_config: &Config, data: &Arc<Images>, batch: &BatchChoice) -> Result<Sheet> {
        picture::draw(data, batch)
    }

    fn bench(
        asked: &BenchRequest<'_>,
        settings: &dyn Fn(SettingsBuilder<Config>) -> Result<Config>,
    ) -> Result<BenchSetup<Config>> {
        bench::open(asked, settings)
    }

    fn write_demo_data(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        shapes::write_demo_data(dir, &Default::default(), progress)
    }
}
