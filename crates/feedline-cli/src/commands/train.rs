//! `feedline train`: from flags to a run folder.

use super::{DataArgs, demo_data};
use crate::Done;
use crate::progress::Progress;
use clap::Args as ClapArgs;
use feedline::{Error, Result};
use feedline_recipes::classification::config::{Config, DEFAULT_TOML, Said};
use feedline_recipes::classification::train::{METRIC_NAMES, Run, Summary};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Epochs in total [default: 10]
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Folder of the run, new or empty [default: runs/<time>-<name>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in DIR; everything else comes from there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "epochs", "data", "train_list", "val_list", "classes",
        "config", "seed", "input_px", "augment", "batch_size", "num_workers", "decoded_cache",
        "memory_budget", "on_bad_sample", "set", "backbone",
        "pretrained", "precision", "device", "optimizer", "init_lr", "freeze_train"])]
    resume: Option<PathBuf>,
    /// small, mobilenetv2, resnet18 or resnet50 [default: small]
    #[arg(long)]
    backbone: Option<String>,
    /// Weights in torchvision's format: .safetensors, .pth or .pt
    #[arg(long, value_name = "FILE")]
    pretrained: Option<PathBuf>,
    /// First train with a frozen backbone for train.freeze_epochs epochs
    #[arg(long)]
    freeze_train: bool,
    /// f32, bf16 or f16 [default: f32]
    #[arg(long)]
    precision: Option<String>,
    /// cpu, or gpu in a build with the feature wgpu [default: cpu]
    #[arg(long)]
    device: Option<String>,
    /// sgd or adam [default: sgd]
    #[arg(long)]
    optimizer: Option<String>,
    /// Learning rate for a batch of 64; fitted to the batch size [default: 0.02]
    #[arg(long, value_name = "LR")]
    init_lr: Option<f64>,
    /// Print the settings and their defaults, and do nothing
    #[arg(long)]
    print_config: bool,
}

pub fn run(args: Args) -> Result<Done> {
    if args.print_config {
        super::print(DEFAULT_TOML)?;
        return Ok(Done::Ok);
    }
    let mut run = match &args.resume {
        Some(dir) => Run::resume(dir)?,
        None => {
            let config = resolve(&args)?;
            let dir = args.out.clone().unwrap_or_else(|| default_folder(&config.name));
            Run::create(config, &dir)?
        }
    };
    describe(&run);

    // The first signal asks the loop to stop after its step; a second one ends the process at once.
    let (signal, again) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    for number in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let code = 128 + number;
        signal_hook::flag::register_conditional_shutdown(number, code, Arc::clone(&again))
            .and_then(|_| signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize))
            .and_then(|_| signal_hook::flag::register(number, Arc::clone(&again)))
            .map_err(|e| Error::config(format!("cannot watch for signal {number}: {e}"), "Please report this"))?;
    }
    let progress = Progress::new(METRIC_NAMES[0], run.config().num_workers());
    let summary = run.train(Arc::new(progress), &|| signal.load(Ordering::Relaxed) != 0)?;
    let Some(summary) = summary else {
        let number = signal.load(Ordering::Relaxed) as i32;
        let name = if number == signal_hook::consts::SIGINT { "Ctrl-C" } else { "SIGTERM" };
        let progress = run.progress();
        eprintln!(
            "{name} in epoch {}, after step {}: a checkpoint is saved. Go on with: feedline train --resume {}",
            progress.epoch + 1,
            progress.step,
            run.dir().display()
        );
        return Ok(Done::Interrupted(number));
    };
    report(&run, &summary);
    Ok(Done::Ok)
}

fn resolve(args: &Args) -> Result<Config> {
    let mut said = args.data.said(Said::defaults())?;
    for (key, text) in [
        ("model.backbone", &args.backbone),
        ("model.precision", &args.precision),
        ("model.device", &args.device),
        ("train.optimizer", &args.optimizer),
    ] {
        if let Some(text) = text {
            said = said.set(key, text.as_str())?;
        }
    }
    if let Some(file) = &args.pretrained {
        said = said.set("model.pretrained", super::text_of(file)?)?;
    }
    if let Some(epochs) = args.epochs {
        said = said.set("train.epochs", i64::from(epochs))?;
    }
    if let Some(lr) = args.init_lr {
        said = said.set("train.init_lr", lr)?;
    }
    if args.freeze_train {
        said = said.set("train.freeze_train", true)?;
    }
    if !said.names_data() {
        let dir = demo_data::ensure(Path::new(demo_data::DEFAULT_DIR))?;
        said = said.set("data.dir", super::text_of(&dir)?)?;
    }
    said.resolve()
}

fn default_folder(name: &str) -> PathBuf {
    let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
    let folder = |suffix: &str| Path::new("runs").join(format!("{time}-{name}{suffix}"));
    // Two runs begun in the same second must not share a folder.
    let free = (1..).map(|n| if n == 1 { folder("") } else { folder(&format!("-{n}")) }).find(|dir| !dir.exists());
    free.unwrap_or_else(|| folder(""))
}

fn describe(run: &Run) {
    let (config, (classes, train, val)) = (run.config(), run.data());
    let name = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    eprintln!("run folder   {}", run.dir().display());
    eprintln!("data         {train} training and {val} validation images of {} classes", classes.len());
    eprintln!(
        "model        {} at {px}x{px} px, {} on {}, augmentation {}",
        config.model.backbone.name(),
        name(&config.model.precision),
        run.device_name(),
        name(&config.augment.preset),
        px = config.input_px()
    );
    eprintln!(
        "training     {} epochs of batch {}, {}, learning rate up to {} (init_lr {} fitted to the batch), {} data workers",
        config.train.epochs,
        config.train.batch_size,
        name(&config.train.optimizer),
        run.fitted_lr().0,
        config.train.init_lr,
        config.num_workers()
    );
    for note in run.notes() {
        eprintln!("note         {note}");
    }
}

fn report(run: &Run, summary: &Summary) {
    eprintln!();
    for class in &summary.classes {
        let share = |value: Option<f64>| value.map_or("  -  ".to_string(), |value| format!("{value:.3}"));
        let (recall, precision) = (share(class.recall), share(class.precision));
        eprintln!("  {:<20} {:>6} images   recall {recall}   precision {precision}", class.name, class.samples);
    }
    eprintln!(
        "\nvalidation accuracy {:.4} (best {:.4}) after {} epochs, {:.1} s of training at {:.0} images/s, {:.1} % of it waiting for data",
        summary.val_accuracy,
        summary.best_val_accuracy,
        summary.epochs,
        summary.train_seconds,
        summary.images_per_second,
        summary.data_wait_share * 100.0
    );
    eprintln!("everything is in {}", run.dir().display());
}
