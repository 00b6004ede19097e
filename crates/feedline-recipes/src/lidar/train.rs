//! The recipe as far as its network goes: learning rate and momentum of a run, its figures and the words about it. The order
//! of events belongs to `run`.

use super::config::Config;
use super::data::Clouds;
use super::evaluate::{self, check_labelled};
use super::metrics::{ClassFigures, Figures};
use super::network::task::{LidarTask, task_options};
use super::recipe::Lidar;
use crate::recipe::{EvalOptions, EvalReport, Finished, RunFigures, Setup, Split, Trainable, setting_name};
use crate::run;
use crate::settings::Sections;
use feedline::Result;
use feedline::event::Sink;
use feedline::pipeline::Pipeline;
use feedline::train::schedule::OneCycle;
use feedline::train::{FitOptions, Phase};
use serde::Serialize;
use std::fmt::Write;
use std::sync::Arc;

/// A run of it that is ready to train, as one rank sees it.
pub type Run = run::Run<Lidar>;

/// The figures of a finished run, as `summary.json` holds them. Average precision is KITTI's, in percent, of the validation
/// split with the final weights; means are over the classes, in space, moderate, over 40 steps of recall.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub val_mean_ap_3d: f64,
    /// Of the training loop's own figure, `map_3d`, which knows no difficulty.
    pub best_val_map_3d: f64,
    pub val_map_3d: f64,
    /// Those that every run has.
    #[serde(flatten)]
    pub run: RunFigures,
    /// With the strict overlaps.
    pub classes: Vec<ClassFigures>,
}

impl Trainable for Lidar {
    type Task = LidarTask;
    type Summary = Summary;

    fn check_data(_config: &Config, data: &Clouds, split: Split) -> Result<()> {
        match split {
            Split::Train => Ok(()),
            Split::Val => check_labelled(data),
        }
    }

    fn task(config: &Config, data: &Clouds) -> Result<LidarTask> {
        LidarTask::new(task_options(config, data)?)
    }

    fn fit_options(config: &Config, epoch_len: u64) -> Result<FitOptions> {
        let train = &config.train;
        // By samples, not steps: a resume with another batch or other ranks stays on the curve.
        let cycle = OneCycle {
            lr_max: train.lr,
            div_factor: train.div_factor,
            pct_start: train.pct_start,
            moms: (train.moms[0], train.moms[1]),
            total_steps: train.epochs.saturating_mul(epoch_len),
        };
        let at = move |epoch: u64, position: u64| cycle.at(epoch * epoch_len + position);
        let phase = Phase {
            first_epoch: 0,
            frozen: false,
            batch_size: train.batch_size,
            lr: Box::new(move |epoch, position| at(epoch, position).0),
            momentum: Some(Box::new(move |epoch, position| at(epoch, position).1)),
        };
        Ok(config.fit_options(vec![phase]))
    }

    fn sample_list(train: &Clouds) -> String {
        train.sample_list()
    }

    fn describe(setup: &Setup<Lidar>) -> String {
        let Setup { config, task, train, val, .. } = setup;
        let [nx, ny, _] = task.options().grid.size;
        let cut = match config.train.grad_norm_clip {
            clip if clip > 0.0 => format!(", gradients cut to {clip}"),
            _ => String::new(),
        };
        format!(
            "data         {} training and {} validation frames; classes {}\n\
             model        {} parameters, {nx}x{ny} pillars, {} on {}\n\
             training     {} epochs of batch {}{}, adam with one cycle, learning rate up to {}{cut}, {} data workers\n",
            train.len(),
            val.len(),
            config.clouds.class_names.join(", "),
            task.parameter_count(),
            setting_name(&config.model.precision),
            task.device_name(),
            config.train.epochs,
            config.train.batch_size,
            setup.over_ranks(),
            config.train.lr,
            config.loader().num_workers(),
        )
    }

    fn summary(setup: &mut Setup<Lidar>, finished: Finished, sink: Arc<dyn Sink>) -> Result<Summary> {
        let Setup { config, task, val, group, .. } = setup;
        let report = evaluate::evaluate(task, val, config, &**group, sink, &mut |_| {})?.report;
        Ok(Summary {
            val_mean_ap_3d: report.mean_3d(),
            best_val_map_3d: finished.best_metric,
            val_map_3d: finished.last_metric,
            run: finished.figures,
            classes: report.strict().cloned().collect(),
        })
    }

    fn report(summary: &Summary) -> String {
        let mut text = String::from("average precision in percent (KITTI, 40 steps of recall): easy, moderate, hard\n");
        for class in &summary.classes {
            let levels = |figures: &[Figures; 3]| {
                figures.iter().map(|figures| format!("{:6.2}", figures.r40)).collect::<Vec<_>>().join(" ")
            };
            let (bev, volume) = (levels(&class.bev), levels(&class.volume));
            let _ = writeln!(text, "  {:<20} from above {bev}   in space {volume}", class.class);
        }
        let _ = write!(
            text,
            "\nvalidation mean AP in space, moderate, {:.2} (map_3d {:.2}, best {:.2}) {}",
            summary.val_mean_ap_3d,
            summary.val_map_3d,
            summary.best_val_map_3d,
            summary.run.timing("frames", 1)
        );
        text
    }

    fn evaluate(
        config: &Config,
        task: &mut LidarTask,
        data: &Arc<Clouds>,
        options: EvalOptions<'_>,
    ) -> Result<EvalReport> {
        evaluate::report(config, task, data, options)
    }
}

#[cfg(test)]
mod tests;
