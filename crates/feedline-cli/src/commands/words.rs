//! What a person is told of a run: the words of each recipe.

use feedline::pipeline::Pipeline;
use feedline_recipes::classification::train::{Classification, fitted_lr};
use feedline_recipes::lidar::metrics::Figures;
use feedline_recipes::lidar::train::Lidar;
use feedline_recipes::run::{Recipe, Run, RunFigures};
use feedline_recipes::scene_completion::train::SceneCompletion;
use feedline_recipes::settings::Settings;
use std::fmt::Write;

/// A recipe that can be told of.
pub trait Words: Recipe {
    /// Lines that say what will be trained on what.
    fn describe(run: &Run<Self>) -> String;

    /// Lines that say how a finished run went.
    fn report(summary: &Self::Summary) -> String;
}

fn name(value: &dyn std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn ranks<R: Recipe>(run: &Run<R>) -> String {
    match run.group().world_size() {
        1 => String::new(),
        ranks => format!(" over {ranks} ranks"),
    }
}

/// How long it took and how fast it was, after what came of it.
fn took(run: &RunFigures, things: &str, decimals: usize) -> String {
    format!(
        "after {} epochs, {:.1} s of training at {:.*} {things}/s, {:.1} % of it waiting for data\n",
        run.epochs,
        run.train_seconds,
        decimals,
        run.images_per_second,
        run.data_wait_share * 100.0
    )
}

impl Words for Classification {
    fn describe(run: &Run<Classification>) -> String {
        let (config, (train, val)) = (run.config(), run.data());
        format!(
            "data         {} training and {} validation images of {} classes\n\
             model        {} at {px}x{px} px, {} on {}, augmentation {}\n\
             training     {} epochs of batch {}{}{}, {}, learning rate up to {} (init_lr {} fitted to the batch), {} data workers\n",
            train.len(),
            val.len(),
            train.classes().len(),
            config.model.backbone.name(),
            name(&config.model.precision),
            run.task().device_name(),
            name(&config.augment.preset),
            config.train.epochs,
            config.train.batch_size,
            ranks(run),
            if config.train.sync_bn && run.group().world_size() > 1 { " with synchronised norms" } else { "" },
            name(&config.train.optimizer),
            fitted_lr(config, config.train.batch_size).0,
            config.train.init_lr,
            config.num_workers(),
            px = config.input_px()
        )
    }

    fn report(summary: &Self::Summary) -> String {
        let mut text = String::new();
        for class in &summary.classes {
            let share = |value: Option<f64>| value.map_or("  -  ".to_string(), |value| format!("{value:.3}"));
            let (recall, precision) = (share(class.recall), share(class.precision));
            let _ = writeln!(
                text,
                "  {:<20} {:>6} images   recall {recall}   precision {precision}",
                class.name, class.samples
            );
        }
        let _ = write!(
            text,
            "\nvalidation accuracy {:.4} (best {:.4}) {}",
            summary.val_accuracy,
            summary.best_val_accuracy,
            took(&summary.run, "images", 0)
        );
        text
    }
}

impl Words for SceneCompletion {
    fn describe(run: &Run<SceneCompletion>) -> String {
        let (config, (train, val)) = (run.config(), run.data());
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
            run.task().device_name(),
            config.train.epochs,
            config.train.batch_size,
            ranks(run),
            name(&config.train.optimizer),
            config.train.lr,
            config.train.lr_power,
            config.loader().num_workers(),
        )
    }

    fn report(summary: &Self::Summary) -> String {
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
            took(&summary.run, "scenes", 1)
        );
        text
    }
}

impl Words for Lidar {
    fn describe(run: &Run<Lidar>) -> String {
        let (config, (train, val)) = (run.config(), run.data());
        let [nx, ny, _] = run.task().options().grid.size;
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
            run.task().parameter_count(),
            name(&config.model.precision),
            run.task().device_name(),
            config.train.epochs,
            config.train.batch_size,
            ranks(run),
            config.train.lr,
            config.loader().num_workers(),
        )
    }

    fn report(summary: &Self::Summary) -> String {
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
            took(&summary.run, "frames", 1)
        );
        text
    }
}
