//! Settings of any recipe, in two steps: a builder (the embedded defaults, a file, the command line, merged key by
//! key), and what it builds (the recipe's own structure, checked). Owns the merging and what may change when a run goes on;
//! knows no key but those that every recipe has.
#![expect(clippy::disallowed_methods, reason = "reads files of settings, and checks the paths in them")]

mod sections;

pub use sections::{LoaderSettings, Sections, at_least_0, in_range, positive};

use feedline::read::{Storage, check_url, is_url, read_text, text_in};
use feedline::train::run::CHECKPOINTS;
use feedline::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// File of a run folder with its settings, complete.
pub const CONFIG: &str = "config.toml";

/// Second and last line of that file, by which it is known to be whole. Older versions wrote none.
const BEGIN: &str = "# Complete, down to the line that says so.";
const END: &str = "# The settings are complete.";

/// The key that names the recipe, outside the sections. Older files lack it and mean [`FIRST`].
const RECIPE: &str = "recipe";

/// The section that says how data in a bucket is read.
const STORAGE: &str = "storage";
const FIRST: &str = "classification";

/// The settings of a recipe's run, complete: a struct that the macro [`settings!`](crate::settings!) declares.
pub trait Settings: Sections + Clone + Serialize + DeserializeOwned {
    /// The recipe's name, as the key `recipe` has it.
    const RECIPE: &'static str;

    /// The commented reference of the recipe's own keys, with their defaults, and of those of every recipe that have another
    /// default. See [`Settings::reference`].
    const DEFAULT_TOML: &'static str;

    /// Keys of section `data` that say where the data is; all empty is no data. They may change when a run resumes.
    const LOCATION_KEYS: &'static [&'static str];

    /// Those of [`Settings::LOCATION_KEYS`] that name other data altogether when an evaluation names one: then all that the run says
    /// of its own data is forgotten.
    const DATASET_KEYS: &'static [&'static str] = &["dir"];

    /// Keys of section `data` that say how the run's own data is split: forgotten with it.
    const SPLIT_KEYS: &'static [&'static str] = &[];

    /// More of the recipe's own keys that may change when a run resumes: they change speed only, or no training. A change of
    /// any other would make it another run. Of the keys of every recipe those may that say speed, checkpoints or each rank's
    /// share of a step, and section `storage`.
    const MUTABLE_KEYS: &'static [&'static str] = &[];

    /// Settings under a name: files that hold only what differs from the defaults. The comments at their beginning say what they
    /// are and what is left out of them.
    const PRESETS: &'static [(&'static str, &'static str)] = &[];

    /// Checks that every value of the recipe's own keys is in its range and none contradicts another.
    ///
    /// # Errors
    /// The first key that is wrong.
    fn check(&self) -> Result<()>;

    /// Every path in the recipe's own keys, so that a run can be resumed from any folder. Empty ones mean nothing.
    fn paths(&mut self) -> Vec<&mut PathBuf>;

    /// The settings with what other files say, which they name, in place: a run must not depend on those.
    ///
    /// # Errors
    /// A file that cannot be used.
    fn resolved(self) -> Result<Self> {
        Ok(self)
    }

    /// The commented reference of every key, with its default.
    fn reference() -> String {
        sections::complete(Self::DEFAULT_TOML)
    }

    /// Changes every path.
    ///
    /// # Errors
    /// The first of `change`.
    fn change_paths(&mut self, change: impl Fn(&mut PathBuf) -> Result<()>) -> Result<()> {
        self.paths().into_iter().try_for_each(&change)?;
        let Storage { cache_dir, listings_dir, .. } = self.storage_mut();
        [cache_dir, listings_dir].into_iter().try_for_each(change)
    }

    /// True if a run that resumes may have another value of this key.
    fn is_mutable(key: &str) -> bool {
        key.starts_with("storage.") || mutable_keys::<Self>().any(|mutable| mutable == key)
    }

    /// Settings from a file, as a run folder holds it.
    ///
    /// # Errors
    /// As [`SettingsBuilder::file`] and [`SettingsBuilder::resolve`].
    fn from_resolved(path: &Path) -> Result<Self> {
        SettingsBuilder::defaults().file(path)?.resolve()
    }

    /// The settings as [`CONFIG`] holds them.
    ///
    /// # Errors
    /// As [`Settings::to_toml`].
    fn to_file(&self) -> Result<String> {
        let text = self.to_toml()?;
        Ok(match text.split_once('\n') {
            Some((first, rest)) if first.parse::<Table>().is_ok() => format!("{first}\n{BEGIN}\n{rest}{END}\n"),
            _ => text, // a text of several lines comes first
        })
    }

    /// The settings of the run in `dir`.
    ///
    /// # Errors
    /// A folder that holds no run, or one of another recipe, or a `config.toml` that was spoilt.
    fn of_run(dir: &Path) -> Result<Self> {
        SettingsBuilder::of_run(dir)?.resolve()
    }

    /// The settings as the text of a file.
    ///
    /// # Errors
    /// None that is known of.
    fn to_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|e| Error::config(format!("the settings cannot be written as TOML: {e}"), "Please report this"))
    }

    /// Settings from [`Settings::to_toml`].
    ///
    /// # Errors
    /// A text that is none, or of another version.
    fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text)
            .map_err(|e| Error::config(format!("these are no settings: {e}"), "Use one version on all ranks"))
    }

    /// Every key with its value as text, in order.
    ///
    /// # Errors
    /// As [`Settings::to_toml`].
    fn keys(&self) -> Result<Vec<(String, String)>> {
        flat(&self.to_toml()?)
    }

    /// Every key whose value is not its default: the key, its value, and the default as text.
    ///
    /// # Errors
    /// As [`Settings::to_toml`].
    fn changed_keys(&self) -> Result<Vec<(String, String, String)>> {
        let defaults = flat(&Self::reference())?;
        let default = |key: &str| defaults.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        let keys = self.keys()?.into_iter().map(|(key, value)| {
            let default = default(&key).unwrap_or_default();
            (key, value, default)
        });
        Ok(keys.filter(|(key, value, default)| key != RECIPE && value != default).collect())
    }

    /// As [`Settings::keys`], but for those that may change.
    ///
    /// # Errors
    /// As [`Settings::to_toml`].
    fn facts(&self) -> Result<Vec<(String, String)>> {
        let mut keys = self.keys()?;
        keys.retain(|(key, _)| !Self::is_mutable(key));
        Ok(keys)
    }

    /// The settings that identify an evaluation: the location of the data, and all keys that may not change in a run, except
    /// the device.
    ///
    /// # Errors
    /// As [`Settings::to_toml`].
    fn evaluated(&self) -> Result<Vec<(String, String)>> {
        let mut keys = self.keys()?;
        keys.retain(|(key, _)| {
            let is_place = key.strip_prefix("data.").is_some_and(|key| Self::LOCATION_KEYS.contains(&key));
            is_place || !Self::is_mutable(key) && key != "model.device"
        });
        Ok(keys)
    }

    /// Checks that a run which was started with `self` may go on with `now`.
    ///
    /// # Errors
    /// The first key that differs and may not.
    fn check_resume(&self, now: &Self) -> Result<()> {
        let Some((key, saved, now)) = self.difference(now)? else { return Ok(()) };
        let mutable: Vec<String> = mutable_keys::<Self>().filter(|key| key != "name").collect();
        Err(Error::config(
            format!("{key} was {saved} when the run began and is now {now}"),
            format!("A run goes on with its own settings, but for storage.* and {}", mutable.join(", ")),
        ))
    }

    /// Checks that these settings of the run in `dir` are those by which its `checkpoint` was made, whose text is `made_with`.
    ///
    /// # Errors
    /// The first key that differs and may not, so [`CONFIG`] is cut or was changed. The number of epochs may, but not where
    /// the file does not say that it is whole: the default may stand in for it there.
    fn check_checkpoint(&self, dir: &Path, checkpoint: &Path, made_with: &str) -> Result<()> {
        let theirs: Self = SettingsBuilder::defaults().table(made_with.to_string())?.resolve()?;
        let (key, epochs) = ("train.epochs".to_string(), [theirs.epochs(), self.epochs()]);
        let other_length = epochs[0] != epochs[1] && !config_of_run(dir)?.trim_end().ends_with(END);
        let difference = other_length.then(|| (key, epochs[0].to_string(), epochs[1].to_string()));
        let Some((key, theirs, ours)) = difference.map_or_else(|| theirs.difference(self), |found| Ok(Some(found)))?
        else {
            return Ok(());
        };
        let checkpoint = checkpoint.display();
        Err(Error::Checkpoint {
            path: dir.join(CONFIG),
            problem: format!(
                "{key} is {ours} in it or left out, and {checkpoint} was made with {theirs}: it is cut or was changed"
            ),
            remedy: format!("Restore it: the right text stands in {checkpoint}/checkpoint.toml, under `settings`"),
        })
    }

    /// The first key that differs and may not when a run goes on, with both values.
    ///
    /// # Errors
    /// As [`Settings::facts`].
    fn difference(&self, other: &Self) -> Result<Option<(String, String, String)>> {
        let (ours, theirs) = (self.facts()?, other.facts()?);
        let value = |facts: &[(String, String)], key: &str| {
            facts.iter().find(|(name, _)| name == key).map_or("not there".to_string(), |(_, value)| value.clone())
        };
        let keys = ours.iter().chain(&theirs).map(|(key, _)| key);
        let mut values = keys.map(|key| (key.clone(), value(&ours, key), value(&theirs, key)));
        Ok(values.find(|(_, ours, theirs)| ours != theirs))
    }

    /// With what other files say in place, and every path made absolute.
    ///
    /// # Errors
    /// As [`Settings::resolved`], a URL that may not be written down, or an unknown current folder.
    fn absolute(self) -> Result<Self> {
        let mut config = self.resolved()?;
        config.change_paths(|path| {
            path.to_str().map_or(Ok(()), check_url)?;
            if !path.as_os_str().is_empty() && !is_url(path) {
                *path = std::path::absolute(&*path).map_err(|e| Error::io("find", &*path, e))?;
            }
            Ok(())
        })?;
        Ok(config)
    }
}

/// Every key of a text of settings with its value as text, in order.
fn flat(text: &str) -> Result<Vec<(String, String)>> {
    let table = text.parse::<Table>();
    let table = table.map_err(|e| Error::config(format!("the settings are no TOML: {e}"), "Please report this"))?;
    let keys = table.iter().flat_map(|(name, value)| match value {
        Value::Table(section) => {
            section.iter().map(|(key, value)| (format!("{name}.{key}"), value.to_string())).collect()
        }
        _ => vec![(name.clone(), value.to_string())],
    });
    Ok(keys.collect())
}

/// The keys outside section `storage` that may change when a run of a recipe resumes.
fn mutable_keys<C: Settings>() -> impl Iterator<Item = String> {
    let locations = C::LOCATION_KEYS.iter().map(|key| format!("data.{key}"));
    locations.chain(C::MUTABLE_KEYS.iter().chain(&sections::MUTABLE_KEYS).map(|key| key.to_string()))
}

/// The recipe that the text of a settings file names, if it names one.
pub fn recipe_named(text: &str) -> Option<String> {
    text.parse::<Table>().ok()?.get(RECIPE)?.as_str().map(str::to_owned)
}

/// The recipe of the run in `dir`.
///
/// # Errors
/// A folder that holds no run, or a file that cannot be read or is cut.
pub fn recipe_of_run(dir: &Path) -> Result<String> {
    Ok(recipe_named(&config_of_run(dir)?).unwrap_or_else(|| FIRST.into()))
}

/// The text of the settings of the run in `dir`.
fn config_of_run(dir: &Path) -> Result<String> {
    let path = dir.join(CONFIG);
    if !path.is_file() {
        let has_checkpoints = dir.join(CHECKPOINTS).is_dir();
        let missing = Error::Checkpoint {
            path: dir.to_path_buf(),
            problem: "it is not a run folder: there is no config.toml in it".into(),
            remedy: "Name the folder that `feedline train` printed as its run folder".into(),
        };
        let lost = Error::Checkpoint {
            path,
            problem: "it is not there, though there are checkpoints beside it".into(),
            remedy: "Restore it: a checkpoint.toml in checkpoints/ holds its text, under `settings`".into(),
        };
        return Err(if has_checkpoints { lost } else { missing });
    }
    let text = read_text(&path)?;
    let cut = |problem: &str| Error::Checkpoint {
        path: path.clone(),
        problem: problem.into(),
        remedy: "Restore it from a copy: a checkpoint.toml in checkpoints/ holds its text, under `settings`".into(),
    };
    if text.trim().is_empty() {
        return Err(cut("it is empty"));
    }
    if text.lines().take(2).any(|line| line == BEGIN) && text.lines().rfind(|line| !line.trim().is_empty()) != Some(END)
    {
        return Err(cut("it is cut: its last line is missing"));
    }
    Ok(text)
}

/// Settings that are not yet complete: the defaults, overlaid key by key.
#[derive(Debug, Clone)]
pub struct SettingsBuilder<C> {
    table: Table,
    means: PhantomData<fn() -> C>,
}

impl<C: Settings> SettingsBuilder<C> {
    /// The embedded defaults.
    pub fn defaults() -> SettingsBuilder<C> {
        match C::reference().parse() {
            Ok(table) => SettingsBuilder { table, means: PhantomData },
            Err(e) => unreachable!("the embedded defaults are valid TOML, a test says so: {e}"),
        }
    }

    /// The value of a key, e.g. `train.epochs`, as it would stand in a file; `None` if there is no such key.
    pub fn get(&self, key: &str) -> Option<String> {
        let mut names = key.split('.');
        let first = names.next().and_then(|name| self.table.get(name));
        names.fold(first, |value, name| value?.as_table()?.get(name)).map(Value::to_string)
    }

    /// The text that a key of section `data` has.
    pub fn data_text(&self, key: &str) -> Option<&str> {
        self.table.get("data")?.as_table()?.get(key)?.as_str()
    }

    /// Without what the settings say of the place of the data, and of how it is split.
    ///
    /// # Errors
    /// None that is known of.
    pub fn without_data(mut self) -> Result<SettingsBuilder<C>> {
        let defaults = SettingsBuilder::<C>::defaults();
        for key in C::LOCATION_KEYS.iter().chain(C::SPLIT_KEYS) {
            let default = defaults.table.get("data").and_then(|data| data.as_table()?.get(*key)).cloned();
            self = self.set(&format!("data.{key}"), default.unwrap_or_else(|| Value::String(String::new())))?;
        }
        Ok(self)
    }

    /// Overlays values; those of another recipe are refused as a whole.
    fn overlaid(mut self, above: Table) -> Result<SettingsBuilder<C>> {
        match above.get(RECIPE).map(|name| name.as_str().unwrap_or_default()) {
            Some(name) if name != C::RECIPE => Err(Error::config(
                format!("these are settings of the recipe {name:?}, and this is {}", C::RECIPE),
                format!("Say --recipe {name}, if there is such a recipe, or use other settings"),
            )),
            _ => {
                overlay(&mut self.table, above, &mut vec![])?;
                Ok(self)
            }
        }
    }

    /// Overlays the preset of this name, and gives what it says of itself, a line each.
    ///
    /// # Errors
    /// A name that is none.
    pub fn preset(self, name: &str) -> Result<(SettingsBuilder<C>, Vec<String>)> {
        let Some((_, text)) = C::PRESETS.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = C::PRESETS.iter().map(|(name, _)| *name).collect();
            return Err(Error::config(
                format!("the recipe {} has no preset {name:?}", C::RECIPE),
                if names.is_empty() {
                    "It has none: leave --preset out".into()
                } else {
                    format!("Choose one of {}", names.join(", "))
                },
            ));
        };
        let words = text.lines().map_while(|line| line.strip_prefix("# ")).map(str::to_owned).collect();
        Ok((self.table(text.to_string())?, words))
    }

    /// Overlays the text of a file.
    ///
    /// # Errors
    /// As [`SettingsBuilder::file`].
    pub fn table(self, text: String) -> Result<SettingsBuilder<C>> {
        let table = text.parse().map_err(|e: toml::de::Error| Error::config(e.to_string(), "Correct the settings"))?;
        self.overlaid(table)
    }

    /// Overlays a file.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML, or has an unknown key: with its path, place and what it may mean.
    pub fn file(self, path: &Path) -> Result<SettingsBuilder<C>> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let text = text_in(bytes)
            .map_err(|problem| Error::config(format!("{}: {problem}", path.display()), "Correct the file"))?;
        self.file_text(path, &text)
    }

    /// The settings of the run in `dir`, over the defaults.
    ///
    /// # Errors
    /// A folder that holds no run, or one of another recipe, or a [`CONFIG`] that is cut.
    pub fn of_run(dir: &Path) -> Result<SettingsBuilder<C>> {
        SettingsBuilder::defaults().file_text(&dir.join(CONFIG), &config_of_run(dir)?)
    }

    /// Overlays what a file says.
    fn file_text(self, path: &Path, text: &str) -> Result<SettingsBuilder<C>> {
        let wrong = |problem: String| Error::config(format!("{}: {problem}", path.display()), "Correct the file");
        let table: Table = text.parse().map_err(|e: toml::de::Error| wrong(e.to_string()))?;
        self.overlaid(table).map_err(|error| match error {
            Error::Config { problem, remedy } => {
                Error::Config { problem: format!("{}: {problem}", path.display()), remedy }
            }
            other => other,
        })
    }

    /// Sets one key, e.g. `train.epochs`, to a value as it would stand in a file.
    ///
    /// # Errors
    /// An unknown key.
    pub fn set(self, key: &str, value: impl Into<Value>) -> Result<SettingsBuilder<C>> {
        let mut names: Vec<&str> = key.split('.').collect();
        let last = names.pop().unwrap_or_default();
        let mut table = Table::from_iter([(last.to_string(), value.into())]);
        while let Some(name) = names.pop() {
            table = Table::from_iter([(name.to_string(), Value::Table(table))]);
        }
        self.overlaid(table)
    }

    /// As [`SettingsBuilder::set`], because a flag of the command line says so.
    ///
    /// # Errors
    /// A flag that makes no sense for the recipe.
    pub fn flag(self, flag: &str, key: &str, value: impl Into<Value>) -> Result<SettingsBuilder<C>> {
        if self.get(key).is_some() {
            return self.set(key, value);
        }
        let problem = format!("{flag} makes no sense for the recipe {}: it has no {key}", C::RECIPE);
        Err(Error::config(problem, format!("Leave it out. {}", reference::<C>())))
    }

    /// Sets one key from `KEY=VALUE`; a value that is no TOML is taken as text.
    ///
    /// # Errors
    /// No `=` in it, or an unknown key.
    pub fn assign(self, assignment: &str) -> Result<SettingsBuilder<C>> {
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(Error::config(format!("--set {assignment}: no `=` in it"), "Write --set train.epochs=20"));
        };
        let parsed = format!("v = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
        self.set(key.trim(), parsed.unwrap_or_else(|| Value::String(value.to_string())))
    }

    /// True if the settings name data.
    pub fn names_data(&self) -> bool {
        C::LOCATION_KEYS.iter().any(|key| self.data_text(key).is_some_and(|text| !text.is_empty()))
    }

    /// Gives section `storage`, checked.
    ///
    /// # Errors
    /// As [`SettingsBuilder::resolve`].
    pub fn storage(self) -> Result<Storage> {
        let section = self.table.get(STORAGE).cloned().unwrap_or_else(|| Value::Table(Table::new()));
        let storage: Storage = section
            .try_into()
            .map_err(|e: toml::de::Error| Error::config(e.to_string().trim().to_string(), reference::<C>()))?;
        storage.check()?;
        Ok(storage)
    }

    /// Gives the settings, complete and checked.
    ///
    /// # Errors
    /// A value of another type or out of range, settings that contradict each other, or no data at all.
    pub fn resolve(self) -> Result<C> {
        let mut config: C = Value::Table(self.table)
            .try_into()
            .map_err(|e: toml::de::Error| Error::config(e.to_string().trim().to_string(), reference::<C>()))?;
        config.check_sections()?;
        config.check()?;
        // Before anything of it is written into a run folder.
        config.change_paths(|path| path.to_str().map_or(Ok(()), check_url))?;
        Ok(config)
    }
}

/// Names the reference of every key.
fn reference<C: Settings>() -> String {
    let recipe = if C::RECIPE == FIRST { String::new() } else { format!(" --recipe {}", C::RECIPE) };
    format!("See the reference: feedline train{recipe} --print-config")
}

/// Replaces values of `below` by those of `above`, refusing keys that `below` does not have.
fn overlay(below: &mut Table, above: Table, path: &mut Vec<String>) -> Result<()> {
    for (key, value) in above {
        path.push(key.clone());
        match (below.get_mut(&key), value) {
            (None, _) => return Err(unknown(below, path)),
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above, path)?,
            (Some(Value::Table(_)), _) => {
                let problem = format!("{} is a section, not a value", path.join("."));
                return Err(Error::config(problem, "Set one of its keys"));
            }
            // "epochs = 20" must be good for a float too: TOML tells 30 from 30.0, people do not.
            (Some(below @ Value::Float(_)), Value::Integer(value)) => *below = Value::Float(value as f64),
            (Some(below), value) => *below = value,
        }
        path.pop();
    }
    Ok(())
}

fn unknown(known: &Table, path: &[String]) -> Error {
    let (key, section) = match path.split_last() {
        Some((key, section)) => (key.as_str(), section),
        None => ("", path),
    };
    let inside = known.iter().find(|(_, value)| value.as_table().is_some_and(|table| table.contains_key(key)));
    if let Some((section, _)) = inside {
        return Error::config(
            format!("unknown key {key} outside the sections"),
            format!("Did you mean {section}.{key}?"),
        );
    }
    let place = match section {
        [] => "outside the sections".to_string(),
        section => format!("in section [{}]", section.join(".")),
    };
    let alike = known.keys().map(|name| (distance(name, key), name)).min().filter(|(d, _)| *d <= 2 + key.len() / 4);
    let names = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let remedy = match alike {
        Some((_, name)) => format!("Did you mean {name}? Known there: {names}"),
        None => format!("Known there: {names}"),
    };
    Error::config(format!("unknown key {} {place}", path.join(".")), remedy)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let cost = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}
