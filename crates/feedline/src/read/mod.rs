//! Read: bytes of a sample, and the list of what there is to read. The only stage that does I/O on the data set; it
//! must not look inside the bytes.
#![expect(clippy::disallowed_methods, reason = "reads the files of data sets and waits for networks")]

pub mod archive;
pub(crate) mod file;
mod list;
pub(crate) mod location;
pub(crate) mod names;
mod remarks;
mod source;
mod text;

pub use crate::stop::Stop;
pub use crate::url::is_url;
pub use file::{read_exactly, read_file_into, read_start};
pub(crate) use list::fingerprint;
pub use list::pack;
pub use list::{
    FileEntry, FileList, FileSlice, FileSlices, Folder, ImageEntry, ImageList, Layout, Pictures, RowFile, SampleReader,
    open_file, read_classes, read_sample, rows_fingerprint,
};
pub use location::{check_url, holds_archives, is_in_archive, local_archives};
pub use names::looks_like_picture;
pub use remarks::{Remarks, Skipped};
#[cfg(feature = "cloud")]
pub use source::Cloud;
pub(crate) use source::TOGETHER_BYTES_MAX;
pub use source::conformance;
pub use source::{
    Cache, CacheCounts, CacheMode, Coalesce, Credentials, Limit, Listing, LocalFiles, NextUse, Object, RangeRequest,
    ReadError, ReadErrorKind, Retry, Source, SourceCache, Storage, Timeout,
};
pub use text::{read_text, text_in, text_of};
