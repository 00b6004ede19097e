//! The pipeline: declares to the engine how a recipe's samples are made. Owns the contract and its simple
//! implementation (the parallel one is in deliver/); knows no recipe.

mod fused_decode;
mod images;

pub use crate::error::{Interrupted, NotOfTheSample, StepError};
pub use fused_decode::{Augmented, DecodeMode, FusedDecode};
pub use images::{CustomTransform, Images, ImagesOptions, PixelOutput, Step};

use crate::error::{Result, Stage};
use crate::event::{Event, Sink};
use crate::meter::SampleContext;
use crate::plan::{Plan, Request};
use crate::read::{ReadError, SampleReader};
use crate::sample::{Array, Collate, FieldSpec, Sample, Slot};
use std::collections::HashSet;

/// The bytes of one sample as read: one part per file or range, in an order the pipeline defines. Reused from sample
/// to sample, so that reading allocates nothing in the steady state.
pub type Raw = Vec<Vec<u8>>;

/// One family of samples: their number, their fields, and how one is made.
///
/// `read` is the only method that touches files; `make` is a pure function of the request and the bytes. Both are
/// called from many threads at once.
pub trait Pipeline: Send + Sync {
    /// Number of samples; must never change.
    fn len(&self) -> u64;

    /// True if there is no sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hash of the samples' identity (names and labels, not settings of the augmentation), so that a cursor is not used
    /// with other data.
    fn fingerprint(&self) -> u64;

    /// The fields of a sample.
    fn fields(&self) -> &[FieldSpec];

    /// The file or key of a sample, for messages.
    fn location(&self, index: u64) -> String;

    /// Warnings for the user about the data set before it is used: what was found and left out. The code that opens it
    /// for a user reports them; see [`tell`].
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Reads the sample's bytes into `raw`, whose old content may be reused as storage.
    ///
    /// # Errors
    /// Any error of the storage.
    fn read(&self, request: &Request, raw: &mut Raw, context: &mut SampleContext) -> Result<()>;

    /// Decodes, augments and writes the sample into `slot`. Reports its stage to `context`. Randomness comes from
    /// [`Request::rng`] only.
    ///
    /// # Errors
    /// [`crate::Error::Sample`] for bytes that cannot be used.
    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, context: &mut SampleContext) -> Result<()>;

    /// The number of concurrent calls of `read` for prefetching, by threads that only read: enough to hide network
    /// latency. With 0 the worker that makes a sample also reads it.
    fn read_ahead(&self) -> usize {
        0
    }

    /// True if reading `next` together with `one` costs next to nothing, because it lies right behind it: prefetching
    /// threads then call `read_many`.
    fn is_near(&self, _one: u64, _next: u64) -> bool {
        false
    }

    /// Reads several samples, each as `read` into its own of `raws`; returns one result for each.
    fn read_many(&self, requests: &[Request], raws: &mut [Raw], context: &mut SampleContext) -> Vec<Result<()>> {
        requests.iter().zip(raws).map(|(request, raw)| self.read(request, raw, context)).collect()
    }

    /// The approximate number of bytes that `read` gives, for the budget of prefetching.
    fn raw_bytes(&self, _index: u64) -> u64 {
        0
    }

    /// Announces the order in which samples will be read, so that a cache knows their next uses. It must not change the
    /// bytes that `read` gives.
    ///
    /// # Errors
    /// A cache that cannot do its work.
    fn follow(&self, _plan: &Plan) -> Result<()> {
        Ok(())
    }
}

/// Reports the warnings of these data sets, each once.
///
/// # Errors
/// Any error of `sink`.
pub fn tell<'p>(data: impl IntoIterator<Item = &'p dyn Pipeline>, sink: &dyn Sink) -> Result<()> {
    let mut told = HashSet::new();
    for message in data.into_iter().flat_map(Pipeline::warnings) {
        if told.insert(message.clone()) {
            sink.emit(&Event::Warning { message })?;
        }
    }
    Ok(())
}

/// [`Pipeline::read_many`] for samples that are one file of `stored` each.
pub fn read_samples(
    stored: &SampleReader,
    requests: &[Request],
    raws: &mut [Raw],
    context: &mut SampleContext,
) -> Vec<Result<()>> {
    if let Some(last) = requests.last() {
        stored.reached(last.epoch, last.position);
    }
    let samples: Vec<u64> = requests.iter().map(|request| request.index).collect();
    let take = |raw: &mut Raw| {
        raw.resize_with(1, Vec::new);
        std::mem::take(&mut raw[0])
    };
    let mut parts: Vec<Vec<u8>> = raws.iter_mut().map(take).collect();
    let results = stored.read_many(&samples, context.stop_signal(), &mut parts);
    for (raw, part) in raws.iter_mut().zip(parts) {
        context.count_bytes(part.len());
        raw[0] = part;
    }
    results.into_iter().map(|result| result.map_err(ReadError::into_error)).collect()
}

/// Makes one sample on its own, with simple code: the oracle of the engine.
///
/// # Errors
/// Any error of the pipeline.
pub fn make_sample(pipeline: &dyn Pipeline, request: &Request, context: &mut SampleContext) -> Result<Sample> {
    let specs = pipeline.fields();
    let mut raw = Raw::new();
    context.enter(Stage::Read);
    pipeline.read(request, &mut raw, context)?;
    let is_stacked = |spec: &&FieldSpec| spec.collate == Collate::Stack;
    let mut stacked = Vec::with_capacity(specs.len());
    for spec in specs.iter().filter(is_stacked) {
        let array = Array::try_zeros(spec.dtype, spec.shape.clone());
        stacked.push(array.map_err(|error| error.needed_for(|| format!("field {:?} of one sample", spec.name)))?);
    }
    let mut slot = Slot::new(specs, stacked.iter_mut().map(Array::as_bytes_mut));
    pipeline.make(request, &raw, &mut slot, context)?;
    let mut owned = slot.into_owned().into_iter();
    let mut stacked = stacked.into_iter();
    let fields = specs
        .iter()
        .filter_map(|spec| if spec.collate == Collate::Stack { stacked.next() } else { owned.next() })
        .collect();
    Ok(Sample { fields })
}
