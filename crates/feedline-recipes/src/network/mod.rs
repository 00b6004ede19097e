//! Shared by the networks of all recipes: devices, parameters, the step from gradients to new parameters, and the task of
//! a network that learns from labels. Knows no recipe.

pub mod device;

pub mod ema;

mod loss_scale;

pub mod optimizer;

pub mod parameters;

pub mod step;

pub mod supervised;
