//! The lidar recipe: point clouds with boxes, as OpenPCDet's `build_dataloader` delivers them, and a PointPillars network
//! that finds the boxes. Owns the files of a data set and what they become, the network, its loss and its metric; the order of
//! events in a run belongs to `feedline::train`.

pub mod config;

pub mod data;

pub mod demo;

#[cfg(feature = "burn")]
pub mod evaluate;

pub mod metrics;

#[cfg(feature = "burn")]
pub mod network;

pub mod picture;

pub mod recipe;

#[cfg(feature = "burn")]
pub mod train;

pub use data::frame::{Annos, Calib, DbObject, Frame};
pub use data::options::LidarOptions;
pub use data::{Clouds, LidarFiles, camera, frame, infos, open, openpcdet_yaml, options, predictions};
#[cfg(feature = "burn")]
pub use network::task::{LidarTask, TaskOptions};

#[cfg(test)]
mod tests;
