//! Shared by the networks of all recipes: devices, parameters, and the step from gradients to new parameters. Knows no
//! recipe.

pub mod device;

mod loss_scale;

pub mod optimizer;

pub mod parameters;

pub mod step;
