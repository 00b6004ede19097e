//! The scene completion recipe: the class of every voxel of a room, from one picture with depth.

pub mod demo;
