//! The scene completion recipe: RGB, HHA, distances, labels and what joins pixels and voxels, as TorchSSC's loader
//! delivers them, RGB-D segmentation lists, and a network that completes scenes. Owns the files of a data set and what they
//! become, the network, its loss and its metrics; the order of events in a run belongs to `feedline::train`.

pub mod config;

pub mod data;

#[cfg(feature = "burn")]
pub mod evaluate;

pub mod metrics;

#[cfg(feature = "burn")]
pub mod network;

pub mod picture;

pub mod recipe;

#[cfg(feature = "burn")]
pub mod train;

pub use crate::network::device::DeviceKind;
pub use data::augment::SceneAugment;
pub use data::list::{Layout, SceneFiles};
pub use data::{ChannelOrder, SceneOptions, Scenes, open};
pub use feedline::train::schedule::OptimizerKind;
pub use feedline_demo::rooms as demo;
pub use metrics::Scores;
#[cfg(feature = "burn")]
pub use network::task::{SceneTask, TaskOptions};

#[cfg(test)]
mod tests;
