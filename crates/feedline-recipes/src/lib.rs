//! Feedline recipes: compositions of the library's stages and the models they feed. A recipe uses only the public API
//! of `feedline`, and the library knows no recipe. The feature `burn`, on unless it is turned off, brings the networks.
#![deny(unsafe_code)]

pub mod arrays;

#[cfg(feature = "burn")]
pub mod burn_loader;

pub mod classification;

mod device;

pub mod lidar;

#[cfg(feature = "burn")]
mod loss_scale;

#[cfg(feature = "burn")]
mod optimizer;

#[cfg(feature = "burn")]
mod parameters;

pub mod run;

pub mod scene_completion;

pub mod settings;
