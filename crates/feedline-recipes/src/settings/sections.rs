//! The keys that every recipe has: their fields, defaults, help and checks, and what they set in the library. Owns these keys
//! alone; how settings are merged belongs to `settings`, a recipe's own keys to the recipe.

use feedline::deliver::{LoaderOptions, OnBadSample};
use feedline::event::Sink;
use feedline::read::Storage;
use feedline::train::{FitOptions, Phase};
use feedline::{Error, Result};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names and defaults of the keys, each with a comment.
const SECTIONS: &str = include_str!("sections.toml");

/// Those of the keys that may change when a run resumes. Section `storage` may always change.
pub(super) const MUTABLE_KEYS: [&str; 10] = [
    "name",
    "data.num_workers",
    "data.memory_budget_bytes",
    "data.max_bad_samples",
    "train.epochs",
    "train.batch_size",
    "train.batch_split",
    "train.save_period",
    "train.checkpoint_steps",
    "train.checkpoint_seconds",
];

/// The values of the keys that every recipe has. The macro [`settings!`](crate::settings!) implements it.
pub trait Sections {
    /// Part of the run folder's name.
    fn name(&self) -> &str;

    /// Seed of the run.
    fn seed(&self) -> u64;

    /// Epochs in total.
    fn epochs(&self) -> u64;

    /// Global batch size of the run's end.
    fn batch_size(&self) -> u64;

    /// The settings by which samples are loaded.
    fn loader(&self) -> LoaderSettings;

    /// Section `storage`.
    fn storage(&self) -> &Storage;

    /// Section `storage`, writable.
    fn storage_mut(&mut self) -> &mut Storage;

    /// Settings of the training loop with these phases.
    fn fit_options(&self, phases: Vec<Phase>) -> FitOptions;

    /// Checks that every value is in its range.
    ///
    /// # Errors
    /// The first key that is wrong.
    fn check_sections(&self) -> Result<()> {
        self.storage().check()?;
        in_range([
            (self.seed() < 1 << 63, "seed", "at least 0 and below 2^63"),
            ((1..=1_000_000).contains(&self.epochs()), "train.epochs", "1 to 1,000,000"),
            ((1..=1 << 20).contains(&self.batch_size()), "train.batch_size", "1 to 1,048,576"),
            (self.fit_options(Vec::new()).checkpoint_seconds >= 0.0, "train.checkpoint_seconds", "at least 0"),
            (self.loader().num_workers <= 1024, "data.num_workers", "at most 1024"),
        ])
    }
}

/// Declares the settings of a recipe: a struct with the keys of every recipe and the recipe's own, and one for each of the
/// sections `data` and `train`. Written are the recipe's own keys, as public fields, and its further sections, before or after
/// `storage`. Section `train` must have `batch_split: BatchSplit` among its own: it stands where the recipe's files have it.
#[macro_export]
macro_rules! settings {
    (
        $(#[$about:meta])*
        $Config:ident {
            data: $Data:ident { $($data_key:ident: $DataType:ty,)* }
            $([$early:ident: $Early:ty])*
            storage
            $([$late:ident: $Late:ty])*
            train: $Train:ident { $($train_key:ident: $TrainType:ty,)* }
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $Config {
            pub recipe: String,
            pub name: String,
            pub seed: u64,
            pub data: $Data,
            $(pub $early: $Early,)*
            pub storage: ::feedline::read::Storage,
            $(pub $late: $Late,)*
            pub train: $Train,
        }

        /// Section `data`.
        #[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $Data {
            $(pub $data_key: $DataType,)*
            pub num_workers: i64,
            pub memory_budget_bytes: u64,
            pub max_pixels: u64,
            pub on_bad_sample: ::feedline::deliver::OnBadSample,
            pub max_bad_samples: u64,
        }

        /// Section `train`.
        #[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $Train {
            pub epochs: u64,
            pub batch_size: u64,
            $(pub $train_key: $TrainType,)*
            pub save_period: u64,
            pub checkpoint_steps: u64,
            pub checkpoint_seconds: f64,
        }

        impl $crate::settings::Sections for $Config {
            fn name(&self) -> &str {
                &self.name
            }

            fn seed(&self) -> u64 {
                self.seed
            }

            fn epochs(&self) -> u64 {
                self.train.epochs
            }

            fn batch_size(&self) -> u64 {
                self.train.batch_size
            }

            fn loader(&self) -> $crate::settings::LoaderSettings {
                let $Data { num_workers, memory_budget_bytes, max_pixels, on_bad_sample, max_bad_samples, .. } = self.data;
                $crate::settings::LoaderSettings {
                    num_workers,
                    memory_budget_bytes,
                    max_pixels,
                    on_bad_sample,
                    max_bad_samples,
                }
            }

            fn storage(&self) -> &::feedline::read::Storage {
                &self.storage
            }

            fn storage_mut(&mut self) -> &mut ::feedline::read::Storage {
                &mut self.storage
            }

            fn fit_options(&self, phases: Vec<::feedline::train::Phase>) -> ::feedline::train::FitOptions {
                let $Train { epochs, batch_split, save_period, checkpoint_steps, checkpoint_seconds, .. } = self.train;
                ::feedline::train::FitOptions {
                    epochs,
                    phases,
                    batch_split,
                    patience: 0,
                    save_period,
                    checkpoint_steps,
                    checkpoint_seconds,
                }
            }
        }
    };
}

/// Keys of section `data` that every recipe has: how samples are loaded, not which.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoaderSettings {
    pub num_workers: i64,
    pub memory_budget_bytes: u64,
    pub max_pixels: u64,
    pub on_bad_sample: OnBadSample,
    pub max_bad_samples: u64,
}

impl LoaderSettings {
    /// Worker threads of a loader.
    pub fn num_workers(&self) -> usize {
        usize::try_from(self.num_workers)
            .unwrap_or_else(|_| std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Options of a loader that says them; all others are the defaults.
    pub fn options(&self, sink: Arc<dyn Sink>) -> LoaderOptions {
        LoaderOptions {
            num_workers: self.num_workers(),
            memory_budget_bytes: self.memory_budget_bytes,
            on_bad_sample: self.on_bad_sample,
            max_bad_samples: self.max_bad_samples,
            sink,
            ..LoaderOptions::default()
        }
    }
}

/// Checks ranges; each check is whether the value is good, its key, and the range.
///
/// # Errors
/// The first that is not.
pub fn in_range<'c>(checks: impl IntoIterator<Item = (bool, &'c str, &'c str)>) -> Result<()> {
    match checks.into_iter().find(|(good, ..)| !good) {
        None => Ok(()),
        Some((_, key, range)) => Err(Error::config(format!("{key} is out of range"), format!("It must be {range}"))),
    }
}

/// True for a number above 0.
pub fn positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

/// True for a number that is 0 or above.
pub fn at_least_0(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

/// The commented reference of every key with its default: `own`, that of a recipe, with the keys of every recipe at the end of
/// their sections. A section that `own` lacks follows the one that it follows here.
pub(super) fn complete(own: &str) -> String {
    let (own, all) = (sections(own), sections(SECTIONS));
    let has: BTreeSet<&str> = own.iter().map(|(name, _)| *name).collect();
    let mut text = String::new();
    for (name, lines) in &own {
        lines.iter().for_each(|line| text += &format!("{line}\n"));
        let Some(at) = all.iter().position(|(known, _)| known == name && !name.is_empty()) else {
            text += "\n";
            continue;
        };
        let keys: BTreeSet<&str> = lines.iter().filter_map(|line| key(line)).collect();
        let mut is_here = false; // a comment that goes on belongs to the key above it
        for line in &all[at].1[1..] {
            is_here = key(line).map_or(is_here, |key| !keys.contains(key));
            if is_here {
                text += &format!("{line}\n");
            }
        }
        text += "\n";
        for (_, lines) in all[at + 1..].iter().take_while(|(next, _)| !has.contains(next)) {
            lines.iter().for_each(|line| text += &format!("{line}\n"));
            text += "\n";
        }
    }
    text.truncate(text.trim_end().len() + 1);
    text
}

/// The sections of a text in TOML by their names, each with its lines, the head first; what stands before them has none.
fn sections(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut found = vec![("", Vec::new())];
    for line in text.lines() {
        if let Some((name, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            found.push((name, Vec::new()));
        }
        found.last_mut().into_iter().for_each(|(_, lines)| lines.push(line));
    }
    for (_, lines) in &mut found {
        lines.truncate(lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1));
    }
    found
}

/// The key that a line sets.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(" = ")?;
    key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::Table;

    const OWN: &str = "# Of a recipe.\n\nrecipe = \"x\"\n\n[data]\ndir = \"\"    # where\nraw = [\n    1,   # one\n]\n\n[model]\nsize = 3\n\n\
                       [train]\nlr = 1.0\nsave_period = 0     # never\n";

    #[test]
    fn a_reference_has_the_keys_of_every_recipe_at_the_end_of_their_sections_but_those_that_the_recipe_has() {
        let text = complete(OWN);
        let table: Table = text.parse().unwrap();
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix('[')?.split(']').next()).collect();
        assert_eq!(names, ["data", "storage", "model", "train"]);
        assert_eq!(table["train"]["save_period"].as_integer(), Some(0));
        assert_eq!(text.matches("save_period").count(), 1);
        assert_eq!(table["data"]["raw"].as_array().map(Vec::len), Some(1));
        assert!(
            text.contains("\n]\nnum_workers = -1 ") && text.contains(" ends the run\nmax_bad_samples = 100 "),
            "{text}"
        );
        assert!(text.ends_with("0 is never\n"), "{text}");
        let shared: Table = SECTIONS.parse().unwrap();
        for (section, keys) in &shared {
            let [ours, all] = [&table[section], keys].map(|keys| keys.as_table().unwrap());
            assert!(all.keys().all(|key| ours.contains_key(key)), "{section}");
        }
        assert_eq!(complete(&text), text, "a complete one is left as it is");
    }

    #[test]
    fn the_help_of_storage_has_its_keys_and_their_defaults() {
        let shared: Table = SECTIONS.parse().unwrap();
        let storage: Storage = shared["storage"].clone().try_into().unwrap();
        assert_eq!(storage, Storage::default());
        let keys = Table::try_from(storage).unwrap();
        assert_eq!(shared["storage"].as_table().unwrap().keys().collect::<Vec<_>>(), keys.keys().collect::<Vec<_>>());
    }
}
