//! The classification recipe: image classifiers trained on batches of `image` f32 (B, 3, H, W) and `label` i64 (B,).
//! Owns the networks, their optimiser and the import of weights; the order of events in a run belongs to
//! `feedline::train`. Without the feature `burn` there are the settings and the data, and no network.

mod choices;

pub mod config;

pub mod data;

#[cfg(feature = "burn")]
pub mod model;

pub mod report;

#[cfg(feature = "burn")]
pub mod task;

#[cfg(feature = "burn")]
pub mod train;

#[cfg(feature = "burn")]
pub mod weights;

pub use crate::device::DeviceKind;
pub use choices::{Backbone, Precision};
pub use feedline_demo::shapes as demo;
pub use feedline::train::schedule::OptimizerKind;
#[cfg(feature = "burn")]
pub use task::{ClassificationTask, TaskOptions};
#[cfg(feature = "burn")]
pub use weights::WeightReport;

#[cfg(all(test, feature = "burn"))]
mod tests;
