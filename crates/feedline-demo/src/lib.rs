//! Feedline demo data: data sets that are drawn, to try everything on. Each module draws one, and its `write_demo_data`
//! writes it in the layout of a real data set, whole or not at all; equal options give equal bytes. The crate uses only the
//! public API of `feedline` and knows no recipe.
#![deny(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_types))]

mod folder;

pub mod rooms;

pub mod shapes;

pub mod streets;
