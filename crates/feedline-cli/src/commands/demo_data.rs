//! `feedline demo-data`: data to try everything on.

use crate::exit::Done;
use clap::Args as ClapArgs;
use feedline::Result;
use feedline_recipes::recipe::Recipe;
use feedline_recipes::settings::{Settings, SettingsBuilder};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};

#[derive(ClapArgs)]
pub struct Args {
    /// Recipe that the data is for
    pub recipe: String,
    /// Folder to make [default: demo-data/<RECIPE>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Makes the demo data set of a recipe, and prints where.
pub fn run_recipe<R: Recipe>(args: &Args) -> Result<Done> {
    let dir = ensure::<R>(args.out.as_deref())?;
    super::print(&format!("{}\n", dir.display()))?;
    Ok(Done::Ok)
}

/// Makes the demo data set of a recipe in `dir`, or where the other commands look for it, unless it is there already.
pub fn ensure<R: Recipe>(dir: Option<&Path>) -> Result<PathBuf> {
    let dir = dir.map_or_else(|| Path::new("demo-data").join(R::Config::RECIPE), Path::to_path_buf);
    let bar = ProgressBar::new(0);
    let template = format!("drawing the demo data set [{{bar:24}}] {{pos}}/{{len}} {}", R::SAMPLES);
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    R::write_demo_data(&dir, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(dir)
}

/// The settings, with the demo data set if they name no data.
pub fn or_demo<R: Recipe>(builder: SettingsBuilder<R::Config>) -> Result<SettingsBuilder<R::Config>> {
    if builder.names_data() {
        return Ok(builder);
    }
    builder.set("data.dir", super::text_of(&ensure::<R>(None)?)?)
}
