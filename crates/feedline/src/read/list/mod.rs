//! Samples by number, local or remote: pictures and files of a folder, a bucket or archives, rows of one file, parts of
//! files. Owns their order, which depends on names and lists alone.

mod classes;
mod file_slices;
mod files;
pub(in crate::read) mod folder;
pub(in crate::read) mod images;
pub(in crate::read) mod layout;
mod open_file;
pub mod pack;
mod pictures;
mod rows;
pub(in crate::read) mod sample_reader;

pub use classes::read_classes;
pub use file_slices::FileSlices;
pub use files::{FileEntry, FileList};
pub use folder::Folder;
pub(crate) use images::fingerprint;
pub use images::{ImageEntry, ImageList};
pub use layout::Layout;
pub use open_file::open_file;
pub use pictures::Pictures;
pub use rows::{RowFile, rows_fingerprint};
pub use sample_reader::{FileSlice, SampleReader, read_sample};
