//! The classification recipe: image classifiers trained on batches of `image` f32 (B, 3, H, W) and `label` i64 (B,).
//! Owns the networks, their optimiser and the import of weights; the order of events in a run belongs to
//! `feedline::train`.

pub mod config;

pub mod data;

pub mod demo;

mod device;

mod loss_scale;

pub mod model;

pub mod optimizer;

pub mod report;

pub mod task;

pub mod train;

pub mod weights;

pub use device::DeviceKind;
pub use feedline::train::schedule::OptimizerKind;
pub use model::Backbone;
pub use task::{ClassificationTask, Precision, TaskOptions};
pub use weights::WeightReport;

#[cfg(test)]
mod tests;
