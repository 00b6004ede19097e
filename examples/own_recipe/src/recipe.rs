//! The recipe: first its data, then its network.

use crate::config::Config;
use crate::data::Numbered;
use crate::network::RegressionTask;
use crate::{demo, picture};
use feedline::Result;
use feedline::event::{Sink, Warnings};
use feedline::pipeline::Pipeline;
use feedline::train::group::{Group, SingleRank};
use feedline::train::{FitOptions, Phase, Tally, Task};
use feedline_recipes::recipe::{
    BatchChoice, Best, EvalOptions, EvalReport, Finished, Recipe, RunFigures, Setup, Sheet, Split, Trainable, each_once,
};
use feedline_recipes::settings::Sections;
use serde::Serialize;
use serde_json::json;
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

/// The figures of a finished run, as `summary.json` holds them.
#[derive(Serialize)]
pub struct Summary {
    /// Mean absolute error on the validation split with the final weights.
    val_mae: f64,
    best_val_mae: f64,
    #[serde(flatten)]
    run: RunFigures,
}

impl Trainable for Regression {
    type Task = RegressionTask;
    type Summary = Summary;

    const BEST: Best = Best::Smallest;

    fn task(config: &Config, _data: &Numbered) -> Result<RegressionTask> {
        Ok(RegressionTask::new(config))
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

    fn describe(setup: &Setup<Regression>) -> String {
        let Setup { config, train, val, .. } = setup;
        format!(
            "data         {} training and {} validation pictures\n\
             training     {} epochs of batch {}{}, adam, learning rate {}, {} data workers\n",
            train.len(),
            val.len(),
            config.train.epochs,
            config.train.batch_size,
            setup.over_ranks(),
            config.train.lr,
            config.loader().num_workers(),
        )
    }

    fn summary(setup: &mut Setup<Regression>, finished: Finished, sink: Arc<dyn Sink>) -> Result<Summary> {
        let Setup { config, task, val, group, .. } = setup;
        let tally = measure(config, task, val, &**group, sink, &mut |_| ())?;
        Ok(Summary { val_mae: tally.metric(0), best_val_mae: finished.best_metric, run: finished.figures })
    }

    fn report(summary: &Summary) -> String {
        let timing = summary.run.timing("pictures", 0);
        format!("validation mean absolute error {:.4} (best {:.4}) {timing}", summary.val_mae, summary.best_val_mae)
    }

    fn evaluate(
        config: &Config,
        task: &mut RegressionTask,
        data: &Arc<Numbered>,
        options: EvalOptions<'_>,
    ) -> Result<EvalReport> {
        let tally = measure(config, task, data, &SingleRank, Arc::new(Warnings), options.progress)?;
        let (mae, rmse) = (tally.metric(0), tally.loss().sqrt());
        let (samples, out) = (tally.samples, options.out.display());
        Ok(EvalReport {
            text: format!(
                "{samples} pictures\nmean absolute error {mae:.4}\nroot mean square error {rmse:.4}\neval.json is in {out}\n"
            ),
            figures: vec![("samples", json!(samples)), ("mae", json!(mae)), ("rmse", json!(rmse))],
            files: Vec::new(),
            logits: String::new(),
        })
    }
}

/// Loss and error over every sample of `data`, of all ranks.
fn measure(
    config: &Config,
    task: &mut RegressionTask,
    data: &Arc<Numbered>,
    group: &dyn Group,
    sink: Arc<dyn Sink>,
    progress: &mut dyn FnMut(u64),
) -> Result<Tally> {
    let mut tally = Tally { metric_sums: vec![0.0], ..Tally::default() };
    each_once(data, config, group, sink, |batch| {
        tally.add(&task.eval_step(batch)?);
        progress(batch.valid as u64);
        Ok(())
    })?;
    tally.all_reduce(group)?;
    Ok(tally)
}
