//! The pipeline: declares to the engine how a recipe's samples are made. Owns the contract and its simple
//! implementation (the parallel one is in deliver/); knows no recipe.

mod builder;
mod fused_decode;
mod images;
mod parts;

pub use crate::error::{Interrupted, NotOfTheSample, StepError};
pub use builder::{ImagesBuilder, IntoPipeline, Size, images};
pub use fused_decode::{Augmented, DecodeMode, Exif, FusedDecode};
pub use images::{CustomTransform, Images, ImagesOptions, PixelOutput, Step};
pub use parts::{Concat, Subset};

use crate::error::{Result, Stage};
use crate::event::{Event, Sink};
use crate::hash::{hash_name, hash_words};
use crate::meter::SampleContext;
use crate::plan::{Plan, Request};
use crate::read::{ReadError, SampleReader, Skipped};
use crate::sample::{Array, Collate, FieldSpec, Sample, Slot};
use std::collections::BTreeSet;

/// The bytes of one sample as read: one part per file or range, in an order the pipeline defines. Reused from sample
/// to sample, so that reading allocates nothing in the steady state.
pub type Raw = Vec<Vec<u8>>;

/// One family of samples: their number, their fields, and how one is made.
///
/// Three methods are enough for samples that are computed: `len`, `fields` and `make`. Samples that are read need
/// `location`, and `read` or `sample_reader`. Where each is one file of a [`SampleReader`], `sample_reader` is all that
/// reading, prefetching, coalescing and a cache ask for; a `read` of one's own then calls [`SampleReader::reached`], which
/// tells the cache the place in the order.
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

    /// Hash of what the samples are (names and labels, not settings of the augmentation), so that a cursor is not used
    /// with other data. By default that of the number of samples, the fields and every location: a pipeline with labels adds
    /// them, and one whose locations depend on the machine leaves the folder out. It is asked for when a cursor is made, so
    /// a pipeline of many samples keeps it.
    fn fingerprint(&self) -> u64 {
        let locations = (0..self.len()).map(|index| hash_name(&self.location(index)));
        let words: Vec<u64> = std::iter::once(self.len())
            .chain(
                self.fields()
                    .iter()
                    .map(|field| hash_name(&format!("{} {:?} {:?}", field.name, field.dtype, field.shape))),
            )
            .chain(locations)
            .collect();
        hash_words(&words)
    }

    /// The fields of a sample.
    fn fields(&self) -> &[FieldSpec];

    /// The file or key of a sample, for messages. Without it the default fingerprint takes other samples of the same number
    /// for the same data.
    fn location(&self, index: u64) -> String {
        format!("sample {index}")
    }

    /// Warnings for the user about the data set before it is used: what was found and left out. The code that opens it
    /// for a user reports them; see [`tell`].
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// What was found among the samples and skipped, counted by kind; [`Pipeline::warnings`] has its words, too.
    fn skipped(&self) -> Vec<Skipped> {
        Vec::new()
    }

    /// Reads the sample's bytes into `raw`, whose old content, that of another sample, may be reused as storage. By default
    /// the one file of the [`Pipeline::sample_reader`]; without one, nothing.
    ///
    /// # Errors
    /// What the storage reports.
    fn read(&self, request: &Request, raw: &mut Raw, context: &mut SampleContext) -> Result<()> {
        let Some(reader) = self.sample_reader() else {
            raw.clear();
            return Ok(());
        };
        raw.resize_with(1, Vec::new);
        reader.reached(request.epoch, request.position);
        reader.read_into(request.index, context.stop_signal(), &mut raw[0]).map_err(ReadError::into_error)?;
        context.count_bytes(raw[0].len());
        Ok(())
    }

    /// Decodes, augments and writes the sample into `slot`. Reports its stage to `context`. Randomness comes from
    /// [`Request::rng`] only.
    ///
    /// # Errors
    /// [`crate::Error::Sample`] for bytes that cannot be used.
    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, context: &mut SampleContext) -> Result<()>;

    /// The reader of the samples' files, if each sample is one file of it: the methods below are then right by default.
    fn sample_reader(&self) -> Option<&SampleReader> {
        None
    }

    /// How many calls of `read` should be under way at once, ahead of need, by threads that only read: enough to hide
    /// the time that a network takes to answer. With 0 each sample is read by the worker that makes it.
    fn read_ahead(&self) -> usize {
        self.sample_reader().map_or(0, SampleReader::requests_in_flight)
    }

    /// Whether `next` is read with `one` for next to nothing, because it lies right behind it: threads that read ahead then
    /// call `read_many`.
    fn is_near(&self, one: u64, next: u64) -> bool {
        self.sample_reader().is_some_and(|reader| reader.is_near(one, next))
    }

    /// Reads several samples, each as `read` into its own of `raws`; returns one result for each.
    fn read_many(&self, requests: &[Request], raws: &mut [Raw], context: &mut SampleContext) -> Vec<Result<()>> {
        match self.sample_reader() {
            Some(reader) => read_samples(reader, requests, raws, context),
            None => requests.iter().zip(raws).map(|(request, raw)| self.read(request, raw, context)).collect(),
        }
    }

    /// About how many bytes `read` will give, for the memory budget of reading ahead.
    fn raw_bytes(&self, index: u64) -> u64 {
        self.sample_reader().map_or(0, |reader| reader.size_bytes(index))
    }

    /// Announces the order in which samples will be read, so that a cache knows their next uses. It must not change the
    /// bytes that `read` gives.
    ///
    /// # Errors
    /// A cache that cannot do its work.
    fn follow(&self, plan: &Plan) -> Result<()> {
        self.sample_reader().map_or(Ok(()), |reader| reader.follow(plan))
    }
}

/// Reports the warnings of these data sets, each once.
///
/// # Errors
/// Any error of `sink`.
pub fn tell<'p>(data: impl IntoIterator<Item = &'p dyn Pipeline>, sink: &dyn Sink) -> Result<()> {
    let mut told = BTreeSet::new();
    for data in data {
        for Skipped { kinds, message } in data.skipped() {
            if told.insert(message.clone()) {
                let first = kinds.values().flat_map(|(_, names)| names.iter().cloned()).collect();
                let kinds = kinds.into_iter().map(|(kind, (count, _))| (kind, count)).collect();
                sink.emit(&Event::Skipped { kinds, first, message })?;
            }
        }
        for message in data.warnings() {
            if told.insert(message.clone()) {
                sink.emit(&Event::Warning { message })?;
            }
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
    let mut raw = Raw::new();
    context.enter(Stage::Read);
    pipeline.read(request, &mut raw, context)?;
    sample_of(pipeline, request, &raw, context)
}

/// Makes one sample of the bytes that [`Pipeline::read`] gave.
///
/// # Errors
/// Those of [`Pipeline::make`].
pub fn sample_of(pipeline: &dyn Pipeline, request: &Request, raw: &Raw, context: &mut SampleContext) -> Result<Sample> {
    let specs = pipeline.fields();
    let is_stacked = |spec: &&FieldSpec| spec.collate == Collate::Stack;
    let mut stacked = Vec::with_capacity(specs.len());
    for spec in specs.iter().filter(is_stacked) {
        let array = Array::try_zeros(spec.dtype, spec.shape.clone());
        stacked.push(array.map_err(|error| error.needed_for(|| format!("field {:?} of one sample", spec.name)))?);
    }
    let mut slot = Slot::new(specs, stacked.iter_mut().map(Array::as_bytes_mut));
    pipeline.make(request, raw, &mut slot, context)?;
    let mut owned = slot.into_owned().into_iter();
    let mut stacked = stacked.into_iter();
    let fields = specs
        .iter()
        .filter_map(|spec| if spec.collate == Collate::Stack { stacked.next() } else { owned.next() })
        .collect();
    Ok(Sample { fields })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::DType;

    /// Samples at named places, or at none.
    struct Least {
        places: Option<&'static [&'static str]>,
        fields: [FieldSpec; 1],
        len: u64,
    }

    impl Pipeline for Least {
        fn len(&self) -> u64 {
            self.len
        }
        fn fields(&self) -> &[FieldSpec] {
            &self.fields
        }
        fn location(&self, index: u64) -> String {
            self.places.map_or_else(|| format!("sample {index}"), |places| places[index as usize].into())
        }
        fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, _: &mut SampleContext) -> Result<()> {
            slot.dense::<i64>(&self.fields[0].name)[0] = request.index as i64;
            Ok(())
        }
    }

    #[test]
    fn the_fingerprint_by_default_tells_number_places_and_fields_apart() {
        let print = |places: Option<&'static [&'static str]>, field: &str, len| {
            Least { places, fields: [FieldSpec::stack(field, DType::I64, [])], len }.fingerprint()
        };
        let prints = [
            print(Some(&["a", "b"]), "x", 2),
            print(Some(&["b", "a"]), "x", 2),
            print(Some(&["a", "b"]), "y", 2),
            print(None, "x", 2),
            print(None, "x", 3),
        ];
        assert_eq!(std::collections::BTreeSet::from(prints).len(), prints.len());
        assert_eq!(print(Some(&["a", "b"]), "x", 2), prints[0]);
    }
}
