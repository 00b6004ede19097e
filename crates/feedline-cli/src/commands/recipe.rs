//! Which recipe a command is for. Owns how it is found: in the flag, in a run folder, in a settings file.

use clap::ValueEnum;
use feedline::read::{Storage, read_text};
use feedline::{Error, Result};
use feedline_recipes::settings::{Said, Settings, recipe_named};
use feedline_recipes::{classification, lidar, scene_completion};
use std::path::Path;

/// The recipes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Recipe {
    /// Pictures in class folders
    Classification,
    /// Rooms: RGB, HHA and distances, a class for each voxel
    #[value(name = "scene_completion", alias = "scene-completion")]
    SceneCompletion,
    /// Clouds of a lidar with the boxes of the objects in them, as KITTI's
    Lidar,
}

impl Recipe {
    /// As settings name it.
    pub fn name(self) -> &'static str {
        match self {
            Recipe::Classification => classification::config::Config::RECIPE,
            Recipe::SceneCompletion => scene_completion::config::Config::RECIPE,
            Recipe::Lidar => lidar::config::Config::RECIPE,
        }
    }

    /// The recipe of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<Recipe> {
        Recipe::value_variants().iter().copied().find(|recipe| recipe.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Recipe::value_variants().iter().map(|recipe| recipe.name()).collect();
            Error::config(format!("there is no recipe {name:?}"), format!("Use one of {}", names.join(", ")))
        })
    }

    /// Reads the recipe's name out of a settings file, if it stands there. Does not report a file that cannot be understood:
    /// reading the settings does. Does not read a pipe: it can be read once, and the settings come from it.
    fn of_file(path: Option<&Path>) -> Result<Option<Recipe>> {
        let text = path.filter(|path| path.is_file()).and_then(|path| read_text(path).ok());
        text.and_then(|text| recipe_named(&text)).map(|name| Recipe::named(&name)).transpose()
    }

    /// What a flag says, else a settings file, else the first recipe.
    ///
    /// # Errors
    /// A file of an unknown recipe.
    pub fn chosen(flag: Option<Recipe>, file: Option<&Path>) -> Result<Recipe> {
        Ok(flag.or(Recipe::of_file(file)?).unwrap_or(Recipe::Classification))
    }

    /// That of the run in `dir`, which a flag may name too.
    ///
    /// # Errors
    /// A folder that is no run, or a flag that says another recipe.
    #[cfg(feature = "train")]
    pub fn of_run(dir: &Path, flag: Option<Recipe>) -> Result<Recipe> {
        let recipe = Recipe::named(&feedline_recipes::settings::recipe_of_run(dir)?)?;
        match flag {
            Some(flag) if flag != recipe => Err(Error::config(
                format!("--recipe {}: the run in {} is of the recipe {}", flag.name(), dir.display(), recipe.name()),
                "Leave --recipe out: the run knows its own",
            )),
            _ => Ok(recipe),
        }
    }
}

/// What a settings file of any recipe and some assignments say of storage.
///
/// # Errors
/// What they have wrong.
pub fn storage(file: Option<&Path>, assignments: &[String]) -> Result<Storage> {
    fn of<C: Settings>(file: Option<&Path>, assignments: &[String]) -> Result<Storage> {
        let said = file.map_or_else(|| Ok(Said::<C>::defaults()), |file| Said::defaults().file(file))?;
        assignments.iter().try_fold(said, |said, assignment| said.assign(assignment))?.storage()
    }
    match Recipe::chosen(None, file)? {
        Recipe::Classification => of::<classification::config::Config>(file, assignments),
        Recipe::SceneCompletion => of::<scene_completion::config::Config>(file, assignments),
        Recipe::Lidar => of::<lidar::config::Config>(file, assignments),
    }
}
