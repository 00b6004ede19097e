//! Trained networks as files for use elsewhere: safetensors, torch and ONNX, each one file that carries all that is needed.
//! Without the feature `burn` there are the facts of a network, and no file.

pub mod facts;
#[cfg(feature = "burn")]
mod file;
#[cfg(feature = "burn")]
mod torch;

pub use facts::{Facts, Opened, open};
#[cfg(feature = "burn")]
pub use file::{ExportFormat, export, facts_in, read};
