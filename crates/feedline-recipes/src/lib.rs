//! Feedline recipes: compositions of the library's stages and the models they feed. A recipe uses only the public API
//! of `feedline`, and the library knows no recipe. The feature `burn`, on unless it is turned off, brings the networks.
#![deny(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod arrays;

#[cfg(feature = "burn")]
pub mod burn_loader;

pub mod classification;

pub mod every;

pub mod lidar;

pub mod network;

pub mod recipe;

pub mod run;

pub mod scene_completion;

pub mod settings;
