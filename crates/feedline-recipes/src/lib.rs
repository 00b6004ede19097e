//! Feedline recipes: compositions of the library's stages and the models they feed. A recipe uses only the public API
//! of `feedline`, and the library knows no recipe.
#![deny(unsafe_code)]

pub mod arrays;

pub mod burn_loader;

pub mod classification;
