//! The network of the recipe and its loss.

mod batch;

mod fold;

mod forward;

mod loss;

mod model;

pub mod task;
