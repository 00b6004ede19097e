//! The networks of the recipe, their loss and the import of weights.

pub mod backbone;

#[cfg(feature = "burn")]
mod forward;

#[cfg(feature = "burn")]
mod layers;

#[cfg(feature = "burn")]
pub mod loss;

#[cfg(feature = "burn")]
mod mobilenetv2;

#[cfg(feature = "burn")]
pub(crate) mod model;

#[cfg(feature = "burn")]
pub(crate) mod onnx;

#[cfg(feature = "burn")]
mod resnet;

#[cfg(feature = "burn")]
mod small;

#[cfg(feature = "burn")]
mod synced;

#[cfg(feature = "burn")]
pub mod task;

#[cfg(feature = "burn")]
pub mod weights;
