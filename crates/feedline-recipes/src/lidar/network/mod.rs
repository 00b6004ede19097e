//! The network of the recipe: what goes in, what its numbers mean, and its loss.

mod anchors;

mod batch;

mod forward;

mod loss;

mod model;

pub mod task;
