//! The classification recipe: image classifiers trained on batches of `image` f32 (B, 3, H, W) and `label` i64 (B,).
//! Owns the networks, their optimiser and the import of weights; the order of events in a run belongs to
//! `feedline::train`. Without the feature `burn` there are the settings and the data, and no network.

pub mod config;

pub mod data;

#[cfg(feature = "burn")]
pub mod evaluate;

pub mod export;

pub mod metrics;

pub mod network;

pub mod picture;

#[cfg(feature = "burn")]
pub mod predict;

pub mod recipe;

#[cfg(feature = "burn")]
pub mod train;

pub use crate::network::device::{DeviceKind, Precision};
pub use feedline::train::schedule::OptimizerKind;
pub use feedline_demo::shapes as demo;
pub use network::backbone::Backbone;
#[cfg(feature = "burn")]
pub use network::task::{ClassificationTask, TaskOptions};
#[cfg(feature = "burn")]
pub use network::weights::WeightReport;

#[cfg(all(test, feature = "burn"))]
mod tests;
