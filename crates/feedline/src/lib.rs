//! Feedline feeds distributed training: every rank gets its share of every epoch, each sample once, in an order that
//! can be verified; and a stopped run resumes with exactly the next sample.
//!
//! **A batch is a pure function of (data set, seed, epoch, position).** The number of workers, thread timing, restarts
//! and, seen globally, the number of ranks change nothing that is delivered.
//!
//! ```
//! # let testdata = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").canonicalize().unwrap();
//! # let location = testdata.join("shards/zip/all.zip");
//! # let mut samples = 0;
//! // A folder with a folder for each class, an archive of one, or the URL of either.
//! let pictures = feedline::images(location)?.random_resized_crop(224).hflip().normalize();
//! let mut loader = feedline::Loader::over(pictures).batch_size(4).shuffle(true).seed(7).build()?;
//! for _epoch in 0..2 {
//!     for batch in loader.iter() {
//!         let batch = batch?;
//!         let pixels: &[f32] = batch.stacked("image")?.as_slice(); // of shape (4, 3, 224, 224)
//!         let labels: &[i64] = batch.stacked("label")?.as_slice(); // places in the sorted names of the classes
//! #       assert_eq!(pixels.len(), labels.len() * 3 * 224 * 224);
//! #       samples += labels.len() as u64;
//!     }
//! }
//! // Where it stands, as a few hundred bytes of JSON: `load_state_dict` goes on from there.
//! let cursor = loader.state_dict();
//! # assert_eq!((cursor.epoch, samples), (2, 2 * loader.plan().len()));
//! # Ok::<(), feedline::Error>(())
//! ```
//!
//! A sample travels through seven stages, which are the modules of this crate in that order: [`plan`] says which sample
//! stands where; [`read`] gets its bytes; [`decode`] makes pixels of them; [`augment`] changes them with a random stream
//! that belongs to the sample; [`collate`] makes one batch of many samples; [`deliver`] hands batches over in order;
//! [`train`] is the loop that uses them.
//!
//! ```
//! use feedline::plan::{Plan, Tail};
//!
//! // The first epoch of torch's DistributedSampler(range(10), num_replicas=3, rank=0, seed=0).
//! let plan = Plan::new(10, 3)?;
//! let indices: Vec<u64> = plan.epoch(0).rank(0).map(|request| request.index).collect();
//! assert_eq!(indices, [4, 5, 0, 2]);
//! // The second epoch, as after `set_epoch(1)`: another order, for all ranks alike.
//! let indices: Vec<u64> = plan.epoch(1).rank(0).map(|request| request.index).collect();
//! assert_eq!(indices, [5, 2, 9, 4]);
//! // No sample twice, for evaluation.
//! let exact = Plan::unshuffled(10, 3)?.with_tail(Tail::Exact);
//! assert_eq!((0..3).map(|rank| exact.epoch(0).num_samples(rank)).collect::<Vec<_>>(), [4, 3, 3]);
//! # Ok::<(), feedline::Error>(())
//! ```
//!
//! Recipes (crate `feedline-recipes`) put the stages together for one family of work through [`pipeline::Pipeline`].
#![deny(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod plan;

pub mod read;

pub mod decode;

pub mod augment;

pub mod collate;

pub mod deliver;

pub mod train;

pub mod error;
pub mod event;
mod hash;
mod meter;
pub mod pipeline;
pub mod plot;
pub mod sample;
mod stop;
mod url;

pub use deliver::Loader;
pub use error::{Error, Result, Stage};
pub use pipeline::images;
pub use sample::{Array, Batch, BatchField, Collate, DType, Element, FieldSpec, Sample, Slot};
