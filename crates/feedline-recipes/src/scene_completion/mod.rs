//! The scene completion recipe: RGB, HHA, distances, labels and what joins pixels and voxels, as TorchSSC's loader
//! delivers them, and RGB-D segmentation lists. Owns the files of a data set and what they become.

mod augment;

pub mod config;

pub mod data;

pub mod demo;

mod list;

pub mod picture;

pub mod splits;

#[cfg(feature = "burn")]
mod stub;

#[cfg(feature = "burn")]
pub mod train;

pub use augment::SceneAugment;
pub use data::{ChannelOrder, SceneOptions, Scenes, open};
pub use list::{Layout, SceneFiles};
#[cfg(feature = "burn")]
pub use stub::{SceneTask, Scores, TaskOptions};

#[cfg(test)]
mod tests;
