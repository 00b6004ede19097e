//! What the networks of all recipes share: where they are computed, their numbers, how gradients become steps. Knows no
//! recipe.

pub mod device;

#[cfg(feature = "burn")]
pub(crate) mod loss_scale;

#[cfg(feature = "burn")]
pub(crate) mod optimizer;

#[cfg(feature = "burn")]
pub(crate) mod parameters;
