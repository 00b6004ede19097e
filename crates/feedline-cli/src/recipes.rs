//! The recipes of a program, and which of them a command is for: in the flag, in a run folder, in a settings file. Knows
//! recipes by their contract only.

use crate::commands::{DataArgs, bench, demo_data, show};
#[cfg(feature = "train")]
use crate::commands::{compare, eval, print, report, train};
use crate::exit::Done;
use clap::builder::{PossibleValue, PossibleValuesParser, ValueParser};
use feedline::read::{Storage, read_text};
#[cfg(feature = "train")]
use feedline::train::group::Group;
use feedline::{Error, Result};
use feedline_recipes::every::{Visitor, every};
use feedline_recipes::recipe::Recipe;
#[cfg(feature = "train")]
use feedline_recipes::recipe::{Best, Trainable};
use feedline_recipes::settings::{Settings, SettingsBuilder, recipe_named};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
#[cfg(feature = "train")]
use std::sync::Arc;

/// The recipes that a program has; the first one is meant where none is named.
pub struct Recipes(Vec<Entry>);

/// A recipe as the commands know it: its name and what each of them does with it.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    summary: &'static str,
    /// The default of a key as a settings file has it; `None` if the recipe has no such key.
    pub(crate) default_of: fn(&str) -> Option<String>,
    #[cfg(feature = "train")]
    reference: fn() -> String,
    storage: fn(Option<&Path>, &[String]) -> Result<Storage>,
    pub(crate) demo_data: fn(&demo_data::Args) -> Result<Done>,
    pub(crate) show: fn(&show::Args) -> Result<Done>,
    pub(crate) bench: fn(&bench::Args) -> Result<Done>,
    #[cfg(feature = "train")]
    training: Option<Training>,
}

/// Trains with these ranks, anew or from the run in a folder.
#[cfg(feature = "train")]
type TrainFn = fn(&train::Args, &Arc<dyn Group>, Option<PathBuf>) -> Result<Done>;

/// Gives the settings of the run in a folder, key by key.
#[cfg(feature = "train")]
type KeysFn = fn(&Path) -> Result<Vec<(String, String)>>;

/// The commands of a recipe with a network.
#[cfg(feature = "train")]
#[derive(Clone, Copy)]
struct Training {
    train: TrainFn,
    eval: fn(&eval::Args, &Path, &Path) -> Result<Done>,
    report: fn(&report::Args) -> Result<Done>,
    keys: KeysFn,
    best: Best,
}

impl Visitor for Recipes {
    fn data<R: Recipe>(&mut self) {
        self.0.push(Entry::of::<R>());
    }

    #[cfg(feature = "train")]
    fn trainable<R: Trainable>(&mut self) {
        let training = Training {
            train: train::run_recipe::<R>,
            eval: eval::run_recipe::<R>,
            report: report::run_recipe::<R>,
            keys: |dir| R::Config::of_run(dir)?.keys(),
            best: R::BEST,
        };
        self.0.push(Entry { training: Some(training), ..Entry::of::<R>() });
    }
}

impl Entry {
    fn of<R: Recipe>() -> Entry {
        Entry {
            name: R::Config::RECIPE,
            summary: R::SUMMARY,
            default_of: |key| SettingsBuilder::<R::Config>::defaults().get(key),
            #[cfg(feature = "train")]
            reference: R::Config::reference,
            storage: storage_of::<R::Config>,
            demo_data: demo_data::run_recipe::<R>,
            show: show::run_recipe::<R>,
            bench: bench::run_recipe::<R>,
            #[cfg(feature = "train")]
            training: None,
        }
    }

    /// The commands `train` and `eval`.
    ///
    /// # Errors
    /// A recipe of data alone.
    #[cfg(feature = "train")]
    fn training(&self) -> Result<Training> {
        self.training.ok_or_else(|| Error::Unsupported {
            what: format!("a network for the recipe {}", self.name),
            remedy: "Use show, bench or demo-data: the recipe has data only".into(),
        })
    }
}

impl Recipes {
    /// The recipes of Feedline.
    pub fn every() -> Recipes {
        let mut recipes = Recipes(Vec::new());
        every(&mut recipes);
        recipes
    }

    /// These recipes and one of data alone, for `show`, `bench` and `demo-data`.
    pub fn with_data<R: Recipe>(mut self) -> Recipes {
        self.data::<R>();
        self
    }

    /// These recipes and one with a network.
    #[cfg(feature = "train")]
    pub fn with<R: Trainable>(mut self) -> Recipes {
        self.trainable::<R>();
        self
    }

    /// The values of the flag `--recipe`.
    pub(crate) fn values(&self) -> ValueParser {
        let value = |entry: &Entry| PossibleValue::new(entry.name).help(entry.summary).aliases(dashed(entry.name));
        PossibleValuesParser::new(self.0.iter().map(value)).into()
    }

    /// The recipe of this name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn named(&self, name: &str) -> Result<Entry> {
        self.0.iter().find(|entry| entry.name == name).copied().ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|entry| entry.name).collect();
            Error::config(format!("there is no recipe {name:?}"), format!("Use one of {}", names.join(", ")))
        })
    }

    /// The recipe of this value of a flag, where dashes may stand for underscores.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn flagged(&self, name: &str) -> Result<Entry> {
        let dashed = self.0.iter().find(|entry| dashed(entry.name).as_deref() == Some(name));
        dashed.copied().map_or_else(|| self.named(name), Ok)
    }

    /// Reads the recipe's name out of a settings file, if it stands there. Does not report a file that cannot be understood:
    /// reading the settings does. Does not read a pipe: it can be read once, and the settings come from it.
    fn of_file(&self, path: Option<&Path>) -> Result<Option<Entry>> {
        let text = path.filter(|path| path.is_file()).and_then(|path| read_text(path).ok());
        text.and_then(|text| recipe_named(&text)).map(|name| self.named(&name)).transpose()
    }

    /// The recipe of a flag, else of a settings file, else the first one.
    ///
    /// # Errors
    /// A file of an unknown recipe.
    fn chosen(&self, flag: Option<&str>, file: Option<&Path>) -> Result<Entry> {
        let flag = flag.map(|name| self.flagged(name)).transpose()?;
        Ok(flag.or(self.of_file(file)?).unwrap_or(self.0[0]))
    }

    /// The recipe that a command line names, as far as it can be told before the line is understood: for its help.
    pub(crate) fn of_words(&self, words: &[OsString]) -> Entry {
        let value = |flag: &str| {
            let (at, word) = words.iter().enumerate().find(|(_, word)| word.to_string_lossy().starts_with(flag))?;
            let word = word.to_string_lossy();
            let value = word.strip_prefix(flag).and_then(|rest| rest.strip_prefix('=')).map(str::to_owned);
            value.or_else(|| Some(words.get(at + 1)?.to_string_lossy().into_owned()))
        };
        let file = value("--config").map(PathBuf::from);
        self.chosen(value("--recipe").as_deref(), file.as_deref()).unwrap_or(self.0[0])
    }

    /// The recipe that the flags of a command name.
    ///
    /// # Errors
    /// A file of an unknown recipe.
    pub(crate) fn of_data(&self, data: &DataArgs) -> Result<Entry> {
        self.chosen(data.recipe.as_deref(), data.config.as_deref())
    }

    /// `feedline train`: a new run or one that goes on, or the settings of a recipe.
    #[cfg(feature = "train")]
    pub(crate) fn train(&self, args: &train::Args) -> Result<Done> {
        if args.print_config {
            print(&(self.of_data(&args.data)?.reference)())?;
            return Ok(Done::Ok);
        }
        train::on_ranks(&|group| {
            let resumed = train::resumed(args, &**group)?;
            let recipe = match &resumed {
                Some(dir) => {
                    // Only rank 0 needs to see the folder.
                    let own = if group.rank() == 0 { self.of_run(dir, args.data.recipe.as_deref())?.name } else { "" };
                    let mut name = own.as_bytes().to_vec();
                    group.broadcast(&mut name)?;
                    self.named(&String::from_utf8_lossy(&name))?
                }
                None => self.of_data(&args.data)?,
            };
            (recipe.training()?.train)(args, group, resumed)
        })
    }

    /// `feedline eval`: the checkpoint of a run.
    #[cfg(feature = "train")]
    pub(crate) fn eval(&self, args: &eval::Args) -> Result<Done> {
        let (checkpoint, run) = eval::located(args)?;
        let recipe = self.of_run(&run, args.data.recipe.as_deref())?;
        (recipe.training()?.eval)(args, &checkpoint, &run)
    }

    /// `feedline report`: the page of a run.
    #[cfg(feature = "train")]
    pub(crate) fn report(&self, args: &report::Args) -> Result<Done> {
        (self.of_run(&args.run, None)?.training()?.report)(args)
    }

    /// `feedline compare`: runs of any recipes.
    #[cfg(feature = "train")]
    pub(crate) fn compare(&self, args: &compare::Args) -> Result<Done> {
        let read = |dir: &PathBuf| {
            let entry = self.of_run(dir, None)?;
            let Training { keys, best, .. } = entry.training()?;
            compare::ComparedRun::read(dir, entry.name, best, keys(dir)?)
        };
        compare::run(args, &args.runs.iter().map(read).collect::<Result<Vec<_>>>()?)
    }

    /// The recipe of the run in `dir`, which a flag may name too.
    ///
    /// # Errors
    /// A folder that is no run, or a flag that says another recipe.
    #[cfg(feature = "train")]
    fn of_run(&self, dir: &Path, flag: Option<&str>) -> Result<Entry> {
        let recipe = self.named(&feedline_recipes::settings::recipe_of_run(dir)?)?;
        match flag.map(|name| self.flagged(name)).transpose()? {
            Some(flag) if flag.name != recipe.name => Err(Error::config(
                format!("--recipe {}: the run in {} is of the recipe {}", flag.name, dir.display(), recipe.name),
                "Leave --recipe out: the run knows its own",
            )),
            _ => Ok(recipe),
        }
    }

    /// Gives the settings of storage that a settings file of any recipe and some assignments have.
    ///
    /// # Errors
    /// Settings that are wrong.
    pub(crate) fn storage(&self, file: Option<&Path>, assignments: &[String]) -> Result<Storage> {
        (self.chosen(None, file)?.storage)(file, assignments)
    }
}

/// The name with dashes, which is understood too where it differs.
fn dashed(name: &str) -> Option<String> {
    name.contains('_').then(|| name.replace('_', "-"))
}

fn storage_of<C: Settings>(file: Option<&Path>, assignments: &[String]) -> Result<Storage> {
    let builder =
        file.map_or_else(|| Ok(SettingsBuilder::<C>::defaults()), |file| SettingsBuilder::defaults().file(file))?;
    assignments.iter().try_fold(builder, |builder, assignment| builder.assign(assignment))?.storage()
}
