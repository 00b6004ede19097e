//! The scene completion recipe: which class fills each voxel of a room, from one RGB-D picture. Owns the network, its
//! loss and its metrics; the order of events in a run belongs to `feedline::train`.

#[cfg(feature = "burn")]
mod batch;

#[cfg(feature = "burn")]
mod loss;

pub mod metrics;

#[cfg(feature = "burn")]
mod model;

#[cfg(feature = "burn")]
pub mod task;

pub use crate::device::DeviceKind;
pub use feedline::train::schedule::OptimizerKind;
#[cfg(feature = "burn")]
pub use task::{SceneTask, TaskOptions};

#[cfg(all(test, feature = "burn"))]
mod tests;
