//! Files of a data set by number, wherever they lie: what reads the samples of a list. Owns where the bytes of each are.
#![expect(clippy::disallowed_types, reason = "places are looked up by number, never listed")]

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::read::archive::encoding::Encoding;
#[cfg(feature = "parquet")]
use crate::read::archive::parquet;
#[cfg(feature = "parquet")]
use crate::read::archive::parquet_value::ParquetValue;
use crate::read::archive::zip;
use crate::read::file::read_file_into;
use crate::read::names::is_openable;
use crate::read::source::next_use::Order;
use crate::read::source::{CacheCounts, Object, RangeRequest, ReadError, ReadErrorKind, Source, coalesce, local};
use crate::stop::Stop;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSlice {
    /// The number of the file in its list.
    pub file: usize,
    /// First byte of the part.
    pub start: u64,
    pub size_bytes: u64,
}

/// The position of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::read) struct Extent {
    pub(in crate::read) object: u32,
    pub(in crate::read) start: u64,
    pub(in crate::read) stored_bytes: u64,
    pub(in crate::read) encoding: Encoding,
}

/// Files by the number of their sample, or rows of one file, and their source.
#[derive(Debug, Clone)]
pub struct SampleReader {
    source: Arc<dyn Source>,
    objects: Arc<[Object]>,
    extents: Extents,
    requests_in_flight: usize,
    outlook: Arc<Mutex<Option<Arc<Order>>>>,
}

/// The position of each sample's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Extents {
    Listed(Arc<[Extent]>),
    /// Rows of equal size one after the other, the first at `first`.
    Rows {
        first: Extent,
        rows: u64,
    },
}

impl Extents {
    fn len(&self) -> u64 {
        match self {
            Extents::Listed(extents) => extents.len() as u64,
            Extents::Rows { rows, .. } => *rows,
        }
    }

    fn get(&self, sample: u64) -> Extent {
        match self {
            Extents::Listed(extents) => extents[sample as usize],
            Extents::Rows { first, .. } => Extent { start: first.start + sample * first.stored_bytes, ..*first },
        }
    }
}

impl PartialEq for SampleReader {
    fn eq(&self, other: &SampleReader) -> bool {
        (&self.objects, &self.extents) == (&other.objects, &other.extents)
            && self.source.location("") == other.source.location("")
    }
}

impl Eq for SampleReader {}

impl SampleReader {
    /// Maximum number of concurrent requests.
    pub fn requests_in_flight(&self) -> usize {
        self.requests_in_flight
    }

    /// Size of a sample's file.
    pub fn size_bytes(&self, sample: u64) -> u64 {
        let Extent { stored_bytes, encoding, .. } = self.extents.get(sample);
        encoding.size_bytes(stored_bytes)
    }

    /// The archive that holds a sample's file, if one does.
    pub fn archive(&self, sample: u64) -> Option<String> {
        let object = &self.objects[self.extents.get(sample).object as usize];
        is_openable(&object.key).then(|| self.source.location(&object.key))
    }

    /// Reads the file of a sample.
    ///
    /// # Errors
    /// As [`Source::get`].
    pub fn read_into(&self, sample: u64, stop: &Stop, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
        let (Object { key, version, .. }, range) = self.place(sample);
        #[cfg(feature = "parquet")]
        if let Some(packed) = self.in_page(sample) {
            let location = self.source.location(key);
            let wanted = parquet::Wanted { location: &location, version, start: range.start };
            let read = |page: &mut Vec<u8>| {
                self.source.get(&RangeRequest { key, range: range.clone(), version, until: None, stop }, page)
            };
            let picked = parquet::read_value(packed, &wanted, bytes, read)?;
            return picked.map_err(|problem| ReadError::new(ReadErrorKind::Damaged, location, problem));
        }
        self.source.get(&RangeRequest { key, range, version, until: None, stop }, bytes)?;
        self.unpack(sample, key, bytes)
    }

    /// The position of a sample in its compressed page, if it shares one with others.
    #[cfg(feature = "parquet")]
    fn in_page(&self, sample: u64) -> Option<ParquetValue> {
        match self.extents.get(sample).encoding {
            encoding if encoding.is_class_names() => None,
            Encoding::Parquet(packed) => Some(packed),
            _ => None,
        }
    }

    /// True if two samples' files lie so close together that [`SampleReader::read_many`] reads both in one request.
    pub fn is_near(&self, one: u64, next: u64) -> bool {
        let ((one, one_range), (next, next_range)) = (self.place(one), self.place(next));
        std::ptr::eq(one, next) && coalesce::is_near(&one_range, &next_range)
    }

    /// Reads the files of several samples, each into its own buffer of `into`; returns one result for each.
    pub fn read_many(&self, samples: &[u64], stop: &Stop, into: &mut [Vec<u8>]) -> Vec<Result<(), ReadError>> {
        // Consecutive samples of one page read it once.
        #[cfg(feature = "parquet")]
        if samples.iter().any(|sample| self.in_page(*sample).is_some()) {
            // After a failure that was retried long enough, the rest is not tried.
            let mut failed: Option<ReadError> = None;
            let read = |(sample, into): (&u64, &mut Vec<u8>)| {
                let result = failed.clone().map_or_else(|| self.read_into(*sample, stop, into), Err);
                failed = result.as_ref().err().filter(|error| error.kind.is_passing()).cloned();
                result
            };
            return samples.iter().zip(into).map(read).collect();
        }
        let want = |sample: &u64| {
            let (Object { key, version, .. }, range) = self.place(*sample);
            RangeRequest { key, range, version, until: None, stop }
        };
        let wants: Vec<RangeRequest<'_>> = samples.iter().map(want).collect();
        let mut results = self.source.get_many(&wants, into);
        for (((result, bytes), want), sample) in results.iter_mut().zip(into).zip(&wants).zip(samples) {
            if result.is_ok() {
                *result = self.unpack(*sample, want.key, bytes);
            }
        }
        results
    }

    fn unpack(&self, sample: u64, key: &str, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
        let unpacked = self.extents.get(sample).encoding.unpack(bytes);
        unpacked.map_err(|problem| ReadError::new(ReadErrorKind::Damaged, self.source.location(key), problem))
    }

    /// The first bytes of a sample's file, at most `most_bytes`: for headers that say how to read the rest.
    ///
    /// # Errors
    /// As [`Source::get`].
    pub fn read_start(&self, sample: u64, most_bytes: usize, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
        let stop = Stop::default();
        let Some(Extent { start, stored_bytes, .. }) = self.in_place(sample)? else {
            self.read_into(sample, &stop, bytes)?;
            bytes.truncate(most_bytes);
            return Ok(());
        };
        let (Object { key, version, .. }, _) = self.place(sample);
        let range = start..start + stored_bytes.min(most_bytes as u64);
        self.source.get(&RangeRequest { key, range, version, until: None, stop: &stop }, bytes)
    }

    /// The reader of some of its samples, which has them by the places of their numbers in `samples`.
    pub(in crate::read) fn select(&self, samples: &[u64]) -> SampleReader {
        let extents = samples.iter().map(|sample| self.extents.get(*sample)).collect();
        let (source, objects) = (Arc::clone(&self.source), Arc::clone(&self.objects));
        SampleReader::new(source, objects, extents, self.requests_in_flight)
    }

    /// Files by their positions in `objects`.
    pub(in crate::read) fn new(
        source: Arc<dyn Source>,
        objects: Arc<[Object]>,
        extents: Vec<Extent>,
        requests_in_flight: usize,
    ) -> SampleReader {
        let extents = Extents::Listed(extents.into());
        SampleReader { source, objects, extents, requests_in_flight, outlook: Arc::default() }
    }

    /// True if a sample's file is compressed, so that no part of it can be read alone.
    pub fn is_compressed(&self, sample: u64) -> bool {
        match self.extents.get(sample).encoding {
            Encoding::Plain => false,
            Encoding::Zip(packed) => packed.is_deflated,
            #[cfg(feature = "parquet")]
            Encoding::Parquet(_) => true,
        }
    }

    /// The rows of the first file, which fill it after `offset_bytes` of header. It must not be compressed. A checksum
    /// of the whole file is not checked for them.
    ///
    /// # Errors
    /// As [`Source::get`].
    pub fn rows(&self, offset_bytes: u64, row_bytes: u64, rows: u64) -> Result<SampleReader, ReadError> {
        let Some(file) = self.in_place(0)? else {
            return Err(self.compressed(0));
        };
        let first = Extent { start: file.start + offset_bytes, stored_bytes: row_bytes, ..file };
        Ok(SampleReader { extents: Extents::Rows { first, rows }, outlook: Arc::default(), ..self.clone() })
    }

    /// Parts of the files; each is a sample.
    ///
    /// # Errors
    /// As [`SampleReader::rows`].
    pub(in crate::read) fn pieces(&self, pieces: &[FileSlice]) -> Result<SampleReader, ReadError> {
        let mut places: HashMap<usize, Extent> = HashMap::new();
        let mut extents = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let file = match places.entry(piece.file) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    let place = self.in_place(piece.file as u64)?;
                    *new.insert(place.ok_or_else(|| self.compressed(piece.file as u64))?)
                }
            };
            extents.push(Extent { start: file.start + piece.start, stored_bytes: piece.size_bytes, ..file });
        }
        Ok(SampleReader { extents: Extents::Listed(extents.into()), outlook: Arc::default(), ..self.clone() })
    }

    fn compressed(&self, file: u64) -> ReadError {
        let location = self.source.location(&self.place(file).0.key);
        ReadError::new(ReadErrorKind::Other, location, "it is compressed, so no part of it can be read alone")
    }

    /// Reads the whole first file, large ones in concurrent pieces.
    ///
    /// # Errors
    /// As [`Source::get`].
    pub fn read_whole(&self) -> Result<Vec<u8>, ReadError> {
        let (stop, mut whole) = (Stop::default(), Vec::new());
        let Some(file) = self.in_place(0)?.filter(|file| file.stored_bytes > PIECE_BYTES) else {
            return self.read_into(0, &stop, &mut whole).map(|()| whole);
        };
        whole.resize(file.stored_bytes as usize, 0);
        let Object { key, version, .. } = &self.objects[file.object as usize];
        let pieces =
            Mutex::new((file.start..).step_by(PIECE_BYTES as usize).zip(whole.chunks_mut(PIECE_BYTES as usize)));
        let read = || -> Result<(), ReadError> {
            let mut bytes = Vec::new();
            loop {
                let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((start, piece)) = next else { return Ok(()) };
                let range = start..start + piece.len() as u64;
                self.source.get(&RangeRequest { key, range, version, until: None, stop: &stop }, &mut bytes)?;
                piece.copy_from_slice(&bytes);
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.requests_in_flight.min(PIECES_AT_ONCE)).map(|_| scope.spawn(read)).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<(), ReadError>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().try_for_each(join)
        })?;
        if let Encoding::Zip(packed) = self.extents.get(0).encoding {
            let checked = zip::check_sum(packed, &whole);
            checked.map_err(|problem| ReadError::new(ReadErrorKind::Damaged, self.source.location(key), problem))?;
        }
        Ok(whole)
    }

    /// The position of the file itself, without its header in the archive; `None` if it is compressed.
    fn in_place(&self, sample: u64) -> Result<Option<Extent>, ReadError> {
        let extent = self.extents.get(sample);
        let packed = match extent.encoding {
            Encoding::Plain => return Ok(Some(extent)),
            Encoding::Zip(packed) => packed,
            #[cfg(feature = "parquet")]
            Encoding::Parquet(_) => return Ok(None),
        };
        if packed.is_deflated {
            return Ok(None);
        }
        let (Object { key, version, .. }, range) = self.place(sample);
        let (stop, mut header) = (Stop::default(), Vec::new());
        let range = range.start..range.end.min(range.start + zip::HEADER_BYTES);
        self.source.get(&RangeRequest { key, range, version, until: None, stop: &stop }, &mut header)?;
        let start = zip::data_start(&header)
            .filter(|start| {
                (*start as u64).checked_add(packed.packed_bytes).is_some_and(|end| end <= extent.stored_bytes)
            })
            .ok_or_else(|| {
                let problem = "the header of a member of the zip archive is damaged";
                ReadError::new(ReadErrorKind::Damaged, self.source.location(key), problem)
            })?;
        let (start, stored_bytes) = (extent.start + start as u64, packed.packed_bytes);
        Ok(Some(Extent { start, stored_bytes, encoding: Encoding::Plain, ..extent }))
    }

    fn place(&self, sample: u64) -> (&Object, Range<u64>) {
        let Extent { object, start, stored_bytes, .. } = self.extents.get(sample);
        (&self.objects[object as usize], start..start + stored_bytes)
    }

    /// Tells the cache, if there is one, the order in which samples will be read.
    ///
    /// # Errors
    /// A cache that is too small for one sample.
    pub fn follow(&self, plan: &Plan) -> Result<()> {
        self.follow_parts(plan, 1)
    }

    /// As [`SampleReader::follow`], for a plan whose samples are `parts` consecutive files each.
    ///
    /// # Errors
    /// As [`SampleReader::follow`].
    pub fn follow_parts(&self, plan: &Plan, parts: u64) -> Result<()> {
        let Some(cache) = self.source.cache().filter(|_| self.extents.len() <= MOST_FOLLOWED) else { return Ok(()) };
        let order = Arc::new(Order::new(plan.clone()));
        let weak = Arc::downgrade(&order);
        let mut samples = (0..self.extents.len()).map(|file| (file / parts.max(1), self.place(file)));
        cache.follow(&mut samples, weak)?;
        *self.outlook.lock().unwrap_or_else(PoisonError::into_inner) = Some(order);
        Ok(())
    }

    /// Records how far reading has come.
    pub fn reached(&self, epoch: u64, position: u64) {
        if self.source.cache().is_some()
            && let Some(order) = &*self.outlook.lock().unwrap_or_else(PoisonError::into_inner)
        {
            order.reached(epoch, position);
        }
    }

    /// A warning for the user about the cache, if there is one: for example, that it is read-only.
    pub fn remark(&self) -> Option<String> {
        self.source.cache()?.remark().map(str::to_owned)
    }

    /// The counts of the cache, if there is one.
    pub fn cache_counts(&self) -> Option<CacheCounts> {
        Some(self.source.cache()?.counts())
    }
}

/// Above this number of samples the cache is not told the order: it would take some 100 bytes of memory for each.
const MOST_FOLLOWED: u64 = 1 << 26;

/// A large file is read in pieces of this size, the largest that gets a single `timeout_s`.
const PIECE_BYTES: u64 = 16 << 20;

/// Number of concurrent pieces.
const PIECES_AT_ONCE: usize = 8;

/// Reads a local file, or the object of a sample.
///
/// # Errors
/// [`Error::Io`] with the file's name or URL.
pub fn read_sample(
    stored: Option<&SampleReader>,
    sample: u64,
    path: &Path,
    stop: &Stop,
    bytes: &mut Vec<u8>,
) -> Result<()> {
    match stored {
        None => local::tried(stop, || read_file_into(path, bytes)).map_err(|e| Error::io("read", path, e)),
        Some(stored) => stored.read_into(sample, stop, bytes).map_err(ReadError::into_error),
    }
}
