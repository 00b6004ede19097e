//! `feedline lidar infos`: what must be known of point clouds before they are read.

use crate::exit::Done;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use feedline::Result;
use feedline_recipes::lidar::infos::{self, Built, InfoOptions};
use feedline_recipes::lidar::options::Layout;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the info files of a data set, and the database of objects that are pasted
    Infos(InfosArgs),
}

#[derive(ClapArgs)]
struct InfosArgs {
    /// Folder with ImageSets/{train,val,test}.txt and training/{velodyne,calib,image_2,label_2}; of a custom data set with
    /// ImageSets, points and labels
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Layout of its files
    #[arg(long, value_enum, default_value_t = Dataset::Kitti)]
    dataset: Dataset,
    /// Replace what is there
    #[arg(long)]
    overwrite: bool,
    /// Frames that are read at the same time [default: one per core]
    #[arg(long, visible_alias = "workers", value_name = "N")]
    num_workers: Option<usize>,
    /// Take over what OpenPCDet's pickles in the folder say, instead of reading labels and points
    #[arg(long)]
    from_pickles: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dataset {
    Kitti,
    Custom,
}

pub fn run(args: Args) -> Result<Done> {
    let Command::Infos(args) = args.command;
    let options = InfoOptions {
        layout: match args.dataset {
            Dataset::Kitti => Layout::Kitti,
            Dataset::Custom => Layout::Custom,
        },
        num_threads: args.num_workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        overwrite: args.overwrite,
    };
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("reading [{bar:24}] {pos}/{len} frames {per_sec} eta {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    let progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let built = match args.from_pickles {
        true => infos::from_pickles(&args.data, &options),
        false => infos::build(&args.data, &options, &progress),
    };
    bar.finish_and_clear();
    super::print(&words(&built?))?;
    Ok(Done::Ok)
}

fn words(built: &Built) -> String {
    let mut text = String::new();
    for (file, count) in &built.files {
        let things = if file.contains("dbinfos") { "objects" } else { "frames" };
        text += &format!("{file}: {count} {things}\n");
    }
    for split in &built.without_list {
        text += &format!("{split}: there is no ImageSets/{split}.txt, so no infos\n");
    }
    for warning in &built.warnings {
        text += &format!("{warning}\n");
    }
    if !built.objects.is_empty() {
        text += &format!("{:<16} {:>7} {:>8} {:>7} {:>7}\n", "objects", "easy", "moderate", "hard", "others");
    }
    for (class, [easy, moderate, hard, others]) in &built.objects {
        text += &format!("{class:<16} {easy:>7} {moderate:>8} {hard:>7} {others:>7}\n");
    }
    text
}
