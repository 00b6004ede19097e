//! The scene completion recipe: RGB, HHA, distances, labels and what joins pixels and voxels, as TorchSSC's loader
//! delivers them, RGB-D segmentation lists, and a network that completes scenes. Owns the files of a data set and what they
//! become, the network, its loss and its metrics; the order of events in a run belongs to `feedline::train`.

mod augment;

#[cfg(feature = "burn")]
mod batch;

pub mod config;

pub mod data;

mod list;

#[cfg(feature = "burn")]
mod loss;

pub mod metrics;

#[cfg(feature = "burn")]
mod model;

pub mod picture;

pub mod splits;

#[cfg(feature = "burn")]
pub mod task;

#[cfg(feature = "burn")]
pub mod train;

pub use crate::device::DeviceKind;
pub use augment::SceneAugment;
pub use data::{ChannelOrder, SceneOptions, Scenes, open};
pub use feedline::train::schedule::OptimizerKind;
pub use feedline_demo::rooms as demo;
pub use list::{Layout, SceneFiles};
pub use metrics::Scores;
#[cfg(feature = "burn")]
pub use task::{SceneTask, TaskOptions};

#[cfg(test)]
mod tests;
