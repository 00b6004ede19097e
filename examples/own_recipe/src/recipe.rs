//! The recipe: first its data, then its network.

use crate::config::Config;
use crate::data::Numbered;
use crate::network::{self, RegressionTask};
use crate::{demo, picture};
use feedline::Result;
use feedline::event::Sink;
use feedline::train::{FitOptions, Phase};
use feedline_recipes::recipe::{
    BatchChoice, Best, EvalOptions, EvalReport, Finished, MetricSummary, Recipe, Setup, Sheet, Split, Trainable,
    evaluate_metrics,
};
use feedline_recipes::settings::Sections;
use std::path::Path;
use std::sync::Arc;

/// The recipe.
pub struct Regression;

impl Recipe for Regression {
    type Config = Config;
    type Data = Numbered;

    const SUMMARY: &'static str = "Pictures with a number each, in a CSV file of name,value";
    const SAMPLES: &'static str = "pictures";

    fn open(config: &Config, split: Split) -> Result<Arc<Numbered>> {
        Ok(Arc::new(match split {
            Split::Train => Numbered::open(config, "train.csv", true)?,
            Split::Val => Numbered::open(config, "test.csv", false)?,
        }))
    }

    fn draw(config: &Config, data: &Arc<Numbered>, batch: &BatchChoice) -> Result<Sheet> {
        match batch.load(data)? {
            Some(batch) => picture::draw(config, data, &batch),
            None => Ok(Sheet::square(Vec::new())),
        }
    }

    fn write_demo_data(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        demo::write(dir, progress)
    }
}

impl Trainable for Regression {
    type Task = RegressionTask;
    type Summary = MetricSummary;

    const BEST: Best = Best::Smallest;

    fn task(config: &Config, _data: &Numbered) -> Result<RegressionTask> {
        Ok(network::task(config))
    }

    fn fit_options(config: &Config, epoch_len: u64) -> Result<FitOptions> {
        let train = &config.train;
        let (lr, total) = (train.lr, train.epochs * epoch_len);
        Ok(config.fit_options(vec![Phase {
            first_epoch: 0,
            frozen: false,
            batch_size: train.batch_size,
            lr: Box::new(move |epoch, position| lr * (1.0 - (epoch * epoch_len + position) as f64 / total as f64)),
            momentum: None,
        }]))
    }

    fn sample_list(train: &Numbered) -> String {
        train.sample_list()
    }

    fn summary(setup: &mut Setup<Regression>, finished: Finished, sink: Arc<dyn Sink>) -> Result<MetricSummary> {
        MetricSummary::of(setup, finished, sink)
    }

    fn report(summary: &MetricSummary) -> String {
        summary.report("pictures")
    }

    fn evaluate(
        config: &Config,
        task: &mut RegressionTask,
        data: &Arc<Numbered>,
        options: EvalOptions<'_>,
    ) -> Result<EvalReport> {
        evaluate_metrics::<Regression>(config, task, data, options)
    }
}
