//! The recipe as far as its network goes: the learning rate of a run, its files, its figures and the words about it. The
//! order of events belongs to `run`.

use super::config::Config;
use super::data::{Scenes, splits};
use super::evaluate::{self, ClassSummary, class_summaries};
use super::network::task::{SceneTask, task_options};
use super::recipe::SceneCompletion;
use crate::recipe::{EvalOptions, EvalReport, Finished, RunFigures, Setup, Split, Trainable, setting_name};
use crate::run;
use crate::settings::Sections;
use feedline::Result;
use feedline::event::Sink;
use feedline::pipeline::Pipeline;
use feedline::train::schedule::poly_lr;
use feedline::train::{FitOptions, Phase};
use serde::Serialize;
use std::fmt::Write;
use std::sync::Arc;

/// The file of a run folder with the names of its classes, in the order of their labels.
pub const CLASSES: &str = "classes.txt";

/// A run of it that is ready to train, as one rank sees it.
pub type Run = run::Run<SceneCompletion>;

/// The figures of a finished run, as `summary.json` holds them; those of scenes are of the validation split.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub best_val_ssc_miou: f64,
    /// With the final weights, as all that follow.
    pub val_ssc_miou: f64,
    pub val_sc_iou: f64,
    pub val_sc_precision: f64,
    pub val_sc_recall: f64,
    /// Those that every run has.
    #[serde(flatten)]
    pub run: RunFigures,
    pub classes: Vec<ClassSummary>,
}

impl Trainable for SceneCompletion {
    type Task = SceneTask;
    type Summary = Summary;

    fn check_data(config: &Config, data: &Scenes, split: Split) -> Result<()> {
        splits::check_voxels(config, data, split)
    }

    fn task(config: &Config, _data: &Scenes) -> Result<SceneTask> {
        SceneTask::new(task_options(config))
    }

    fn fit_options(config: &Config, epoch_len: u64) -> Result<FitOptions> {
        let train = &config.train;
        let (lr, power, total) = (train.lr, train.lr_power, train.epochs.saturating_mul(epoch_len));
        let phase = Phase {
            first_epoch: 0,
            frozen: train.freeze_2d,
            batch_size: train.batch_size,
            // By samples: TorchSSC's iterations times the batch, where that divides the epoch. A resume with another batch
            // stays on the curve.
            lr: Box::new(move |epoch, position| poly_lr(lr, power, epoch * epoch_len + position, total)),
            momentum: None,
        };
        Ok(config.fit_options(vec![phase]))
    }

    fn sample_list(train: &Scenes) -> String {
        train.sample_list()
    }

    fn files(config: &Config, _train: &Scenes) -> Vec<(&'static str, String)> {
        vec![(CLASSES, config.class_names().join("\n") + "\n")]
    }

    fn describe(setup: &Setup<SceneCompletion>) -> String {
        let Setup { config, task, train, val, .. } = setup;
        let ([height, width], [x, y, z]) = (config.data.image_px, config.data.grid);
        let length = match config.data.epoch_samples {
            0 => String::new(),
            samples => format!(" of {samples} scenes each,"),
        };
        format!(
            "data         {} training and {} validation scenes of {} classes\n\
             model        {} channels, {} at {width}x{height} px, {x}x{y}x{z} voxels, on {}\n\
             training     {} epochs,{length} batch {}{}, {}, learning rate {} falling by the power {}, {} data workers\n",
            train.len(),
            val.len(),
            config.data.num_classes,
            config.model.channels,
            if config.model.use_hha { "RGB and HHA" } else { "RGB" },
            task.device_name(),
            config.train.epochs,
            config.train.batch_size,
            setup.over_ranks(),
            setting_name(&config.train.optimizer),
            config.train.lr,
            config.train.lr_power,
            config.loader().num_workers(),
        )
    }

    fn summary(setup: &mut Setup<SceneCompletion>, finished: Finished, sink: Arc<dyn Sink>) -> Result<Summary> {
        let Setup { config, task, val, group, .. } = setup;
        let scores = evaluate::evaluate(task, val, config, &**group, sink, &mut |_| Ok(()))?;
        Ok(Summary {
            best_val_ssc_miou: finished.best_metric,
            val_ssc_miou: scores.ssc_miou(),
            val_sc_iou: scores.sc_iou(),
            val_sc_precision: scores.sc_precision(),
            val_sc_recall: scores.sc_recall(),
            run: finished.figures,
            classes: class_summaries(config, &scores),
        })
    }

    fn report(summary: &Summary) -> String {
        let mut text = String::new();
        for class in &summary.classes {
            let iou = class.iou.map_or("-".to_string(), |iou| format!("{iou:.3}"));
            let _ = writeln!(text, "  {:<20} IoU {iou}", class.name);
        }
        let _ = write!(
            text,
            "\nscene completion: IoU {:.4}, precision {:.4}, recall {:.4}\n\
             validation SSC mIoU {:.4} (best {:.4}) {}",
            summary.val_sc_iou,
            summary.val_sc_precision,
            summary.val_sc_recall,
            summary.val_ssc_miou,
            summary.best_val_ssc_miou,
            summary.run.timing("scenes", 1)
        );
        text
    }

    fn evaluate(
        config: &Config,
        task: &mut SceneTask,
        data: &Arc<Scenes>,
        options: EvalOptions<'_>,
    ) -> Result<EvalReport> {
        evaluate::report(config, task, data, options)
    }
}

#[cfg(test)]
mod tests;
