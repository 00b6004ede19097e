//! What has to be known of a trained network to use it anywhere: names of the classes, and the way from a picture to its input.
//! Owns these facts and their form in exported files; needs no tensor framework.

use crate::classification::config::Config;
use crate::classification::data::{CLASSES, eval_ops};
use crate::classification::network::backbone::Backbone;
use crate::run::{Meant, locate, settings_of};
use crate::settings::{Settings, SettingsBuilder, recipe_of_run};
use feedline::augment::ImageOp;
use feedline::pipeline::{DecodeMode, Exif};
use feedline::read::{Storage, read_classes};
use feedline::train::Tensors;
use feedline::train::checkpoint::load_model;
use feedline::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::Value;

/// Version of the form of [`Facts`]; another one is refused.
const FORMAT: u64 = 1;

/// The facts, as exported files have them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Version of this form, 1.
    pub format: u64,
    /// The program that wrote the file, and its version.
    pub producer: String,
    /// The network's name in settings.
    pub backbone: Backbone,
    /// Names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// Side of the square input in pixels.
    pub input_px: u32,
    /// Of the channels R, G, B in 0..1.
    pub mean: [f64; 3],
    /// Of the channels R, G, B in 0..1.
    pub std: [f64; 3],
    /// The part of a picture that is decoded; `fused` shrinks large JPEGs while they are decoded.
    pub decode: DecodeMode,
    /// What becomes of the orientation that a camera notes.
    pub exif: Exif,
    /// The operations between the decoded picture and normalisation.
    pub steps: Vec<ImageOp>,
    /// All of this in words, for people.
    pub preprocessing: String,
}

impl Facts {
    /// The facts of a network that was trained by `config` on these classes.
    pub fn new(config: &Config, classes: Vec<String>) -> Facts {
        let (px, [mean, std]) = (config.input_px(), [config.augment.mean, config.augment.std]);
        let turned = match config.data.exif {
            Exif::Ignore => "take it as it is stored, whatever its EXIF orientation says",
            Exif::Apply => "turn it upright by its EXIF orientation",
        };
        Facts {
            format: FORMAT,
            producer: format!("feedline {}", env!("CARGO_PKG_VERSION")),
            backbone: config.model.backbone,
            classes,
            input_px: px,
            mean,
            std,
            decode: config.data.decode,
            exif: config.data.exif,
            steps: eval_ops(config),
            preprocessing: format!(
                "Decode the picture as RGB; {turned}, and colour profiles are not applied. Resize its shorter side to {px} px, bilinear with antialiasing as Pillow's, and keep the aspect ratio. Cut {px} x {px} px from the \
                 centre. Divide by 255, subtract the mean {mean:?} and divide by the standard deviation {std:?} of R, G and \
                 B. The input `image` is float32 (B, 3, {px}, {px}); the output `logits` is float32 (B, classes), and its \
                 softmax are the probabilities."
            ),
        }
    }

    /// Reads the JSON of an exported file.
    ///
    /// # Errors
    /// A text that is none, or of another version.
    pub fn from_json(json: &str, file: &Path) -> Result<Facts> {
        let refused = |problem: String| Error::Checkpoint {
            path: file.to_path_buf(),
            problem,
            remedy: "Export the run again: feedline export RUN".into(),
        };
        let unclear = |e: serde_json::Error| refused(format!("what it says of itself cannot be understood: {e}"));
        let value: serde_json::Value = serde_json::from_str(json).map_err(unclear)?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(FORMAT) => {}
            Some(format) => {
                let what = format!("{}: format {format} of an exported network (known is {FORMAT})", file.display());
                return Err(Error::Unsupported { what, remedy: "Use the version of feedline that wrote it".into() });
            }
            None => return Err(refused("it does not say the version of its form".into())),
        }
        let facts: Facts = serde_json::from_value(value).map_err(unclear)?;
        match facts.classes.is_empty() {
            true => Err(refused("it names no class".into())),
            false => Ok(facts),
        }
    }

    /// The facts as JSON, on one line.
    ///
    /// # Errors
    /// None that is known of.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|e| Error::config(format!("the facts are no JSON: {e}"), "Please report this"))
    }

    /// Settings that feed a network of these facts; all others are the defaults.
    ///
    /// # Errors
    /// None that is known of.
    pub fn settings(&self) -> Result<SettingsBuilder<Config>> {
        let numbers = |values: [f64; 3]| Value::Array(values.map(Value::Float).to_vec());
        let unwritten = |e: toml::ser::Error| Error::config(format!("a fact is no TOML: {e}"), "Please report this");
        let (decode, exif) = (Value::try_from(self.decode), Value::try_from(self.exif));
        SettingsBuilder::defaults()
            .set("data.dir", ".")? // settings name data; this one is never opened
            .set("data.decode", decode.map_err(unwritten)?)?
            .set("data.exif", exif.map_err(unwritten)?)?
            .set("model.backbone", self.backbone.name())?
            .set("model.input_px", i64::from(self.input_px))?
            .set("augment.mean", numbers(self.mean))?
            .set("augment.std", numbers(self.std))
    }

    /// Checks that `config` feeds the network what these facts say.
    ///
    /// # Errors
    /// Settings by which the network would see other pictures, or steps that this version has not.
    pub fn check(&self, config: &Config) -> Result<()> {
        let now = Facts::new(config, self.classes.clone());
        let changed = [
            ("model.backbone", now.backbone != self.backbone),
            ("model.input_px", now.input_px != self.input_px),
            ("augment.mean", now.mean != self.mean),
            ("augment.std", now.std != self.std),
            ("data.decode", now.decode != self.decode),
            ("data.exif", now.exif != self.exif),
            ("the steps from a picture to the network", now.steps != self.steps),
        ];
        match changed.into_iter().find(|(_, is_other)| *is_other) {
            None => Ok(()),
            Some((what, _)) => Err(Error::config(
                format!("{what} is another than the network was trained with"),
                "Leave it as it is: a trained network is used with its own input",
            )),
        }
    }
}

/// A checkpoint of a run, opened for use.
#[derive(Debug)]
pub struct Opened {
    /// What is known of the network.
    pub facts: Facts,
    /// The settings of the run, to which more can be added.
    pub settings: SettingsBuilder<Config>,
    /// The folder of the checkpoint.
    pub checkpoint: PathBuf,
    /// The folder of the run.
    pub run: PathBuf,
}

impl Opened {
    /// The weights that are used: those of the checkpoint.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn weights(&self) -> Result<Tensors> {
        load_model(&self.checkpoint)
    }
}

/// Opens a checkpoint, or the best one of a run folder. `purpose` is the command that wants it.
///
/// # Errors
/// A path that is neither, a run of another recipe, settings or classes that cannot be read.
pub fn open(path: &Path, purpose: &str) -> Result<Opened> {
    let (checkpoint, run) = locate(path, Meant::Best)?;
    let recipe = recipe_of_run(&run)?;
    if recipe != Config::RECIPE {
        return Err(Error::Unsupported {
            what: format!("{purpose} for a network of the recipe {recipe}"),
            remedy: format!("{purpose} is for the recipe {}", Config::RECIPE),
        });
    }
    let settings = settings_of::<Config>(&run, &checkpoint)?;
    let classes = read_classes(&run.join(CLASSES), &Storage::default())?;
    let facts = Facts::new(&settings.clone().resolve()?, classes);
    Ok(Opened { facts, settings, checkpoint, run })
}
