//! What the networks of all recipes share: where they are computed, their numbers, how gradients become steps. Knows no
//! recipe.

pub mod device;

mod loss_scale;

pub mod optimizer;

pub mod parameters;

pub mod step;
