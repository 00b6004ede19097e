//! The arrays recipe: samples that are arrays of one shape and need no decoding, or next to none, as batches of `array`
//! (B, ...). Rows of one file, or a folder with a file a sample: `.npy`, raw `.bin`, 16-bit grey `.png`. It has no
//! network and no settings but the shape.

mod data;

pub use data::{ArrayData, open, open_with};

#[cfg(test)]
mod tests;
