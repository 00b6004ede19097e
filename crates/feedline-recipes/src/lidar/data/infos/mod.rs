//! Info files: what is known of the frames of a split, and of the objects that may be pasted.

mod build;
mod read;

pub use build::{Built, InfoOptions, Objects, build, from_pickles};
pub use read::{read_db, read_infos};

#[cfg(test)]
mod tests;
