//! The lidar recipe: point clouds with boxes, as OpenPCDet's `build_dataloader` delivers them, and a PointPillars network
//! that finds the boxes. Owns the files of a data set and what they become, the network, its loss and its metric; the order of
//! events in a run belongs to `feedline::train`.

pub mod camera;

pub mod data;

mod database;

pub mod demo;

mod draft;

pub mod frame;

pub mod infos;

mod kitti;

pub mod metrics;

pub mod options;

mod pickle;

pub mod pcdet;

pub mod picture;

pub mod predictions;

pub use data::{Clouds, LidarFiles, open};
pub use frame::{Annos, Calib, DbObject, Frame};
pub use options::LidarOptions;

#[cfg(test)]
mod tests;
