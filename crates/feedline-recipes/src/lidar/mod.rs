//! The lidar recipe: point clouds with boxes, as OpenPCDet's `build_dataloader` delivers them, and a PointPillars network
//! that finds the boxes. Owns the files of a data set and what they become, the network, its loss and its metric; the order of
//! events in a run belongs to `feedline::train`.

#[cfg(feature = "burn")]
mod anchors;

#[cfg(feature = "burn")]
mod batch;

pub mod camera;

pub mod config;

pub mod data;

mod database;

pub mod demo;

mod draft;

pub mod frame;

pub mod infos;

mod kitti;

#[cfg(feature = "burn")]
mod loss;

pub mod metrics;

#[cfg(feature = "burn")]
mod model;

pub mod options;

mod pickle;

pub mod pcdet;

pub mod picture;

pub mod predictions;

pub mod splits;

#[cfg(feature = "burn")]
pub mod task;

#[cfg(feature = "burn")]
pub mod train;

pub use data::{Clouds, LidarFiles, open};
pub use frame::{Annos, Calib, DbObject, Frame};
pub use options::LidarOptions;
#[cfg(feature = "burn")]
pub use task::{LidarTask, TaskOptions};

#[cfg(test)]
mod tests;
