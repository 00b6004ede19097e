//! `feedline demo-data`: pictures to try everything on.

use crate::Done;
use clap::{Args as ClapArgs, ValueEnum};
use feedline::Result;
use feedline_recipes::classification::demo::{DemoOptions, write_demo_data};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};

/// Where `feedline train` looks for the demo data set, and makes it.
pub const DEFAULT_DIR: &str = "demo-data/classification";

#[derive(ClapArgs)]
pub struct Args {
    /// Which recipe the data is for
    #[arg(value_enum)]
    recipe: Recipe,
    /// Folder to make
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Recipe {
    /// Drawn shapes as JPEG files in class folders
    Classification,
}

pub fn run(args: Args) -> Result<Done> {
    let Recipe::Classification = args.recipe;
    let dir = ensure(&args.out)?;
    super::print(&format!("{}\n", dir.display()))?;
    Ok(Done::Ok)
}

/// Makes the demo data set in `dir`, unless it is there already.
pub fn ensure(dir: &Path) -> Result<PathBuf> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("drawing the demo data set [{bar:24}] {pos}/{len} pictures") {
        bar.set_style(style.progress_chars("=> "));
    }
    write_demo_data(dir, &DemoOptions::default(), |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(dir.to_path_buf())
}
