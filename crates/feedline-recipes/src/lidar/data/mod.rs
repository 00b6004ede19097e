//! The data of the recipe: point clouds, their boxes and their voxels, as batches of OpenPCDet's keys. Composes the stages read,
//! decode and augment; owns the fields of a sample and what its files must hold.
//!
//! Letters: N is the number of points, C of numbers a point, M of boxes, V of voxels, P of points a voxel.

pub mod camera;
mod clouds;
mod database;
mod fields;
mod files;
pub mod frame;
mod frame_plan;
pub mod infos;
pub(crate) mod kitti;
pub mod openpcdet_yaml;
pub mod options;
mod pickle;
pub mod predictions;
pub mod splits;

pub use clouds::{Clouds, open};
pub use files::LidarFiles;
