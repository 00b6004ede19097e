//! `feedline train`: from flags to a run folder.

use super::{DataArgs, demo_data, key_of};
use crate::exit::Done;
use crate::progress::Progress;
use clap::Args as ClapArgs;
use feedline::train::Task;
use feedline::train::checkpoint::MODEL;
use feedline::train::group::Group;
use feedline::train::ranks::join;
use feedline::train::run::RunFolder;
use feedline::{Error, Result};
use feedline_recipes::recipe::Trainable;
use feedline_recipes::run::{Meant, Run, locate};
use feedline_recipes::settings::{Sections, Settings, SettingsBuilder};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    pub data: DataArgs,
    /// Epochs in total
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Folder of the run, new or empty; a start in it that trained nothing is moved aside [default: runs/<time>-<name>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in DIR, on any number of ranks. The settings come from there; flags may change where the data
    /// is, the number of epochs, the batch size, workers, memory and how often checkpoints are written. `auto`: the run in --out DIR (without
    /// it, the last in runs/) if there is one that is not finished and has a checkpoint, else a new one
    #[arg(long, value_name = "DIR|auto")]
    resume: Option<PathBuf>,
    /// Go on though training samples were added or removed: the epoch under way begins anew. The classes may not change
    #[arg(long, requires = "resume")]
    allow_changed_data: bool,
    /// Norm layers use the batch over all ranks, not the share of theirs
    #[arg(long)]
    sync_bn: bool,
    /// After Ctrl-C or SIGTERM, give up on saving a checkpoint after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    grace_seconds: f64,
    /// small, mobilenetv2, resnet18 or resnet50
    #[arg(long)]
    backbone: Option<String>,
    /// Weights to begin with: in torchvision's format (.safetensors, .pth or .pt), or a checkpoint of another run, or its run
    /// folder for the best one
    #[arg(long, value_name = "FILE|RUN")]
    pretrained: Option<PathBuf>,
    /// Take pretrained weights that fit only a part of the network, or of which only a part fits
    #[arg(long)]
    partial: bool,
    /// First train with a frozen backbone for train.freeze_epochs epochs
    #[arg(long)]
    freeze_train: bool,
    /// f32, bf16 or f16
    #[arg(long)]
    precision: Option<String>,
    /// cpu, or gpu in a build with the feature wgpu
    #[arg(long)]
    device: Option<String>,
    /// Settings under a name, below --config and all flags; of images fine-tune, from-scratch, timm-a3 or torchvision-v2
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// sgd, adam, adamw or lamb
    #[arg(long)]
    optimizer: Option<String>,
    /// Learning rate for a batch of 64, fitted to the batch size, unless train.lr_scheduler is set
    #[arg(long, value_name = "LR")]
    init_lr: Option<f64>,
    /// Print the settings and their defaults, and do nothing
    #[arg(long)]
    pub print_config: bool,
}

/// Joins the other ranks, if there are any, and trains; an error of one rank ends the others, which wait for it.
pub fn on_ranks(train: &dyn Fn(&Arc<dyn Group>) -> Result<Done>) -> Result<Done> {
    let (group, ranks) = join()?;
    if ranks.world_size > 1 && ranks.rank == 0 {
        let line = format!("ranks        {}, {}\n", ranks.world_size, ranks.rule);
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    train(&group).inspect_err(|error| {
        if group.world_size() > 1 {
            // An error of all ranks is told once: rank 0 tells it and ends the others, which wait for that before they speak.
            std::thread::sleep(Duration::from_millis(100) * group.rank().min(20) as u32);
            // In one write, or the lines of ranks that fail together are mixed up.
            let line = format!("error: rank {} of {}: {error}\n", group.rank(), group.world_size());
            let _ = std::io::stderr().write_all(line.as_bytes());
            group.abort(i32::from(crate::exit::exit_code(error)));
        }
    })
}

/// Trains the recipe, from its settings or from the run that is `resumed`.
pub fn run_recipe<R: Trainable>(args: &Args, group: &Arc<dyn Group>, resumed: Option<PathBuf>) -> Result<Done> {
    let mut run: Run<R> = match resumed {
        Some(dir) => {
            let change =
                |config: R::Config| settings(args, SettingsBuilder::defaults().table(config.to_toml()?)?)?.resolve();
            Run::resume(&dir, change, args.allow_changed_data, Arc::clone(group))?
        }
        None => {
            let builder = settings(args, SettingsBuilder::<R::Config>::defaults())?;
            if !builder.names_data() {
                // One rank makes it, the others find it.
                if group.rank() == 0 {
                    demo_data::ensure::<R>(None)?;
                }
                group.barrier()?;
            }
            let config = demo_data::or_demo::<R>(builder)?.resolve()?;
            let dir = args.out.clone().unwrap_or_else(|| default_folder(config.name()));
            Run::create(config, &dir, Arc::clone(group))?
        }
    };
    if group.rank() == 0 {
        feedline::say!("run folder   {}", run.dir().display());
        feedline::say!("{}", R::describe(run.setup()).trim_end());
        if let Some(name) = &args.preset {
            feedline::say!("preset       {name}");
            let (_, words) = SettingsBuilder::<R::Config>::defaults().preset(name)?;
            words.iter().for_each(|line| feedline::say!("             {line}"));
        }
        run.notes().iter().for_each(|note| feedline::say!("note         {note}"));
    }

    // The first signal asks the loop to stop after its step; a second one ends the process at once.
    let (signal, again) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    for number in [SIGINT, SIGTERM, SIGUSR1] {
        let code = 128 + number;
        signal_hook::flag::register_conditional_shutdown(number, code, Arc::clone(&again))
            .and_then(|_| signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize))
            .and_then(|_| signal_hook::flag::register(number, Arc::clone(&again)))
            .map_err(|e| Error::config(format!("cannot watch for signal {number}: {e}"), "Please report this"))?;
    }
    let (asked, grace) = (Arc::clone(&signal), Duration::from_secs_f64(args.grace_seconds.clamp(0.0, 1e6)));
    std::thread::spawn(move || {
        while asked.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(grace);
        feedline::say!("error: no end after {grace:?} of grace; the last checkpoint is as it was");
        std::process::exit(128 + asked.load(Ordering::Relaxed) as i32);
    });
    let metric = run.task().metric_names().first().copied().unwrap_or_default();
    let progress = Progress::new(metric, run.config().loader().num_workers());
    let summary = run.train(Arc::new(progress), &|| signal.load(Ordering::Relaxed) != 0)?;
    let Some(summary) = summary else {
        let number = match signal.load(Ordering::Relaxed) as i32 {
            0 => SIGTERM, // another rank got it
            number => number,
        };
        let name = match number {
            SIGINT => "Ctrl-C",
            SIGUSR1 => "SIGUSR1",
            _ => "SIGTERM",
        };
        let progress = run.progress();
        if group.rank() > 0 {
            return Ok(Done::Interrupted(number));
        }
        feedline::say!(
            "{name} in epoch {}, after step {}: a checkpoint is saved. Go on with: feedline train --resume {}",
            progress.epoch + 1,
            progress.step,
            run.dir().display()
        );
        return Ok(Done::Interrupted(number));
    };
    if group.rank() == 0 {
        super::print(&format!("\n{}\n", R::report(&summary).trim_end()))?;
        feedline::say!("everything is in {}", run.dir().display());
    }
    Ok(Done::Ok)
}

/// The run to go on with, if that is what is asked for. Rank 0 looks, for all.
pub fn resumed(args: &Args, group: &dyn Group) -> Result<Option<PathBuf>> {
    let Some(resume) = &args.resume else { return Ok(None) };
    if resume.as_os_str() != "auto" {
        if args.out.is_some() {
            return Err(Error::config("both --resume DIR and --out are given", "Use --resume auto --out DIR"));
        }
        return Ok(Some(resume.clone()));
    }
    let mut found = Vec::new();
    if group.rank() == 0 {
        let is_run = |dir: &PathBuf| dir.join("config.toml").is_file();
        let mut runs: Vec<PathBuf> = match &args.out {
            Some(out) => vec![out.clone()],
            None => std::fs::read_dir("runs").into_iter().flatten().flatten().map(|entry| entry.path()).collect(),
        };
        runs.retain(is_run);
        if args.out.is_none() {
            runs.retain(|dir| !dir.join("summary.json").exists());
        }
        runs.sort(); // by their time, which their names begin with
        while let Some(dir) = runs.pop() {
            if !RunFolder::nothing_trained(&dir) {
                found = dir.into_os_string().into_encoded_bytes();
                break;
            }
            feedline::say!("note         passed over {}: there is no checkpoint in it to go on from", dir.display());
        }
    }
    group.broadcast(&mut found)?;
    let dir = String::from_utf8(found)
        .map_err(|_| Error::config("the name of the run folder is not valid UTF-8", "Name it: --resume DIR"))?;
    Ok((!dir.is_empty()).then(|| PathBuf::from(dir)))
}

/// The settings that the flags say, on top of `builder`.
fn settings<C: Settings>(args: &Args, mut builder: SettingsBuilder<C>) -> Result<SettingsBuilder<C>> {
    if let Some(name) = &args.preset {
        (builder, _) = builder.preset(name)?;
    }
    let mut builder = args.data.settings(builder)?;
    for (flag, text) in [
        ("--backbone", &args.backbone),
        ("--precision", &args.precision),
        ("--device", &args.device),
        ("--optimizer", &args.optimizer),
    ] {
        if let Some(text) = text {
            builder = builder.flag(flag, key_of(flag), text.as_str())?;
        }
    }
    if let Some(path) = &args.pretrained {
        let file = if path.is_dir() { weights_of(path)? } else { path.clone() };
        builder = builder.flag("--pretrained", key_of("--pretrained"), super::text_of(&file)?)?;
    }
    if args.partial {
        builder = builder.flag("--partial", key_of("--partial"), true)?;
    }
    if let Some(epochs) = args.epochs {
        builder = builder.flag("--epochs", key_of("--epochs"), i64::from(epochs))?;
    }
    if let Some(lr) = args.init_lr {
        builder = builder.flag("--init-lr", key_of("--init-lr"), lr)?;
    }
    if args.freeze_train {
        builder = builder.flag("--freeze-train", key_of("--freeze-train"), true)?;
    }
    if args.sync_bn {
        builder = builder.flag("--sync-bn", key_of("--sync-bn"), true)?;
    }
    Ok(builder)
}

/// The weights in a checkpoint, or in the best one of a run.
fn weights_of(path: &Path) -> Result<PathBuf> {
    Ok(locate(path, Meant::Best)?.0.join(MODEL))
}

fn default_folder(name: &str) -> PathBuf {
    let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
    let folder = |suffix: &str| Path::new("runs").join(format!("{time}-{name}{suffix}"));
    // Two runs begun in the same second must not share a folder.
    let free = (1..).map(|n| if n == 1 { folder("") } else { folder(&format!("-{n}")) }).find(|dir| !dir.exists());
    free.unwrap_or_else(|| folder(""))
}
