//! `feedline demo-data`: data to try everything on.

use super::recipe::Recipe;
use crate::Done;
use clap::Args as ClapArgs;
use feedline::Result;
use feedline_recipes::settings::{Said, Settings};
use feedline_recipes::{classification, lidar, scene_completion};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};

#[derive(ClapArgs)]
pub struct Args {
    /// Which recipe the data is for
    #[arg(value_enum)]
    recipe: Recipe,
    /// Folder to make [default: demo-data/<RECIPE>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<Done> {
    let dir = ensure(args.recipe, args.out.as_deref())?;
    super::print(&format!("{}\n", dir.display()))?;
    Ok(Done::Ok)
}

/// Makes the demo data set of a recipe in `dir`, or where the other commands look for it, unless it is there already.
pub fn ensure(recipe: Recipe, dir: Option<&Path>) -> Result<PathBuf> {
    let dir = dir.map_or_else(|| Path::new("demo-data").join(recipe.name()), Path::to_path_buf);
    let bar = ProgressBar::new(0);
    let things = match recipe {
        Recipe::Classification => "pictures",
        Recipe::SceneCompletion => "scenes",
        Recipe::Lidar => "frames",
    };
    let template = format!("drawing the demo data set [{{bar:24}}] {{pos}}/{{len}} {things}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    let progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    match recipe {
        Recipe::Classification => classification::demo::write_demo_data(&dir, &Default::default(), progress)?,
        Recipe::SceneCompletion => scene_completion::demo::write_demo_data(&dir, &Default::default(), progress)?,
        Recipe::Lidar => lidar::demo::write_demo_data(&dir, &Default::default(), progress)?,
    }
    bar.finish_and_clear();
    Ok(dir)
}

/// The settings, with the demo data set if they name no data.
pub fn or_demo<C: Settings>(said: Said<C>, recipe: Recipe) -> Result<Said<C>> {
    if said.names_data() {
        return Ok(said);
    }
    said.set("data.dir", super::text_of(&ensure(recipe, None)?)?)
}
