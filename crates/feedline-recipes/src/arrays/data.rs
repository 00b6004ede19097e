//! The data of the recipe: what a path holds, and each sample's bytes straight into its place in the batch. Composes
//! the stages read and decode; owns nothing of their insides.
#![expect(clippy::disallowed_methods, reason = "asks whether an array is a folder, and its files' sizes")]

use feedline::decode::{Fault, NPY_HEADER_BYTES_MAX, NpyHeader, decode_depth_u16, dimensions};
use feedline::deliver::SampleContext;
use feedline::pipeline::{Pipeline, Raw, read_samples};
use feedline::plan::{Plan, Request};
use feedline::read::{
    FileList, Folder, ReadError, RowFile, SampleReader, Storage, open_file, read_exactly, read_sample, read_start,
    rows_fingerprint,
};
use feedline::{DType, Error, FieldSpec, Result, Slot, Stage};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most memory that a file of rows may take under [`open`]: half a GiB.
const HELD_BYTES_MAX: u64 = 512 << 20;

/// Enough of a PNG to see its size in pixels.
const PNG_START_BYTES: usize = 4096;

const REMEDY_SHAPE: &str = "Name the shape of one sample, for example --shape 120000,4";

/// Arrays of one shape and element type, as a pipeline with the one field `array`.
#[derive(Debug)]
pub struct ArrayData {
    source: ArrayStore,
    fields: Vec<FieldSpec>,
    fingerprint: u64,
}

#[derive(Debug)]
enum ArrayStore {
    /// The rows of one file.
    Rows(RowFile),
    /// The rows of one file that lies elsewhere, in memory.
    Held { path: PathBuf, bytes: Vec<u8>, offset_bytes: usize, row_bytes: usize },
    /// The rows of one file that lies elsewhere and is too large for that.
    Stored { path: PathBuf, rows: SampleReader, count: u64 },
    /// A file each: `head`, which is the same in all of them, and the elements.
    Files { list: FileList, head: Vec<u8> },
    /// A 16-bit grey PNG each.
    Depth { list: FileList, width_px: u32, height_px: u32 },
}

/// The arrays at `path`, of which a file of rows takes at most half a GiB of memory. See [`open_with`].
///
/// # Errors
/// As [`open_with`].
pub fn open(path: &Path, shape: Option<&[usize]>, storage: &Storage) -> Result<Arc<ArrayData>> {
    open_with(path, shape, storage, HELD_BYTES_MAX)
}

/// The arrays at `path`, which is one of
///
/// - a `.npy` file: its rows along the first axis, as they are (little-endian, C order);
/// - a `.npz` file with one array, or an array in one, `file.npz/x.npy`: its rows;
/// - a `.bin` file, raw little-endian f32: rows of `shape`;
/// - a folder of `.npy` files of one shape and element type, sorted by name;
/// - a folder of `.bin` files, raw little-endian f32 of `shape`;
/// - a folder of 16-bit grey `.png` pictures of one size: u16 (H, W);
/// - a `.parquet` file with one column of bytes, each of them such a file.
///
/// All of them may lie at a URL or in archives, as [`Folder::open`] has it; the samples are the same. `shape` is that of
/// one sample; it is needed for `.bin` and checked for the others. A file of rows whose rows are at most
/// `held_bytes_max` together is held in memory as it is read; one that lies elsewhere is read at once, and if it is larger,
/// a row is a request, and a checksum of the whole is not looked at.
///
/// # Errors
/// A path that is none of these; files of another size or shape than they should be, by name, as far as sizes and the
/// first file's header show it. What only a sample's own bytes can show is the error of that sample. A compressed array in
/// a `.npz` that is larger than `held_bytes_max`.
pub fn open_with(
    path: &Path,
    shape: Option<&[usize]>,
    storage: &Storage,
    held_bytes_max: u64,
) -> Result<Arc<ArrayData>> {
    let is_rows = path
        .extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| ["npy", "npz", "bin"].iter().any(|known| known.eq_ignore_ascii_case(extension)));
    // `rows.npz/x` is short for `rows.npz/x.npy`.
    let is_npz = path.parent().and_then(Path::extension).is_some_and(|end| end.eq_ignore_ascii_case("npz"));
    if (is_rows || is_npz) && !path.is_dir() {
        return match open_file(path, storage)? {
            Some((path, stored)) => open_stored(&path, &stored, shape, held_bytes_max),
            None => open_rows(path, shape, held_bytes_max),
        }
        .map(Arc::new);
    }
    let folder = Folder::open(path, storage)?;
    if folder.is_dir() {
        return open_folder(&folder, shape).map(Arc::new);
    }
    std::fs::metadata(path).map_err(|source| Error::io("look at", path, source))?;
    Err(Error::dataset(
        path,
        "it is no file of arrays",
        "Give a .npy or .npz file, a .bin file with its shape, or a folder of *.npy, *.bin or 16-bit grey *.png",
    ))
}

fn open_rows(path: &Path, shape: Option<&[usize]>, held_bytes_max: u64) -> Result<ArrayData> {
    let size_bytes = std::fs::metadata(path).map_err(|source| Error::io("look at", path, source))?.len();
    let rows = Rows::of(path, shape, size_bytes, || {
        read_start(path, NPY_HEADER_BYTES_MAX).map_err(|source| Error::io("read", path, source))
    })?;
    let file = RowFile::open(path, rows.offset_bytes, rows.row_bytes as usize, rows.count, held_bytes_max)?;
    let fingerprint = file.fingerprint();
    Ok(ArrayData::new(ArrayStore::Rows(file), rows.dtype, rows.shape, fingerprint))
}

fn open_stored(path: &Path, stored: &SampleReader, shape: Option<&[usize]>, held_bytes_max: u64) -> Result<ArrayData> {
    let size_bytes = stored.size_bytes(0);
    let is_held = size_bytes <= held_bytes_max.saturating_add(NPY_HEADER_BYTES_MAX as u64);
    if stored.is_compressed(0) && !is_held {
        return Err(Error::dataset(
            path,
            format!("it is compressed and has {size_bytes} bytes, more than the {held_bytes_max} held in memory"),
            "Save it with numpy.savez instead of numpy.savez_compressed, or each array as .npy",
        ));
    }
    let whole = if is_held { Some(stored.read_whole().map_err(ReadError::into_error)?) } else { None };
    let mut start = Vec::new();
    let rows = Rows::of(path, shape, size_bytes, || match &whole {
        Some(whole) => Ok(whole[..whole.len().min(NPY_HEADER_BYTES_MAX)].to_vec()),
        None => {
            stored.read_start(0, NPY_HEADER_BYTES_MAX, &mut start).map_err(ReadError::into_error)?;
            Ok(start)
        }
    })?;
    let Rows { dtype, shape, offset_bytes, row_bytes, count } = rows;
    let data_bytes = count.checked_mul(row_bytes);
    if count == 0 || data_bytes.and_then(|bytes| bytes.checked_add(offset_bytes)) != Some(size_bytes) {
        let problem = format!(
            "{offset_bytes} bytes of header and {count} rows of {row_bytes} bytes do not make its {size_bytes} bytes, or \
             there is no row"
        );
        return Err(Error::dataset(path, problem, "It was cut, or more was appended: write it again"));
    }
    let fingerprint = rows_fingerprint(path, offset_bytes, row_bytes, count);
    let (path, offset) = (path.to_path_buf(), offset_bytes as usize);
    let source = match whole {
        Some(bytes) => ArrayStore::Held { path, bytes, offset_bytes: offset, row_bytes: row_bytes as usize },
        None => {
            let rows = stored.rows(offset_bytes, row_bytes, count).map_err(ReadError::into_error)?;
            ArrayStore::Stored { path, rows, count }
        }
    };
    Ok(ArrayData::new(source, dtype, shape, fingerprint))
}

/// The division of a file into rows.
struct Rows {
    dtype: DType,
    shape: Vec<usize>,
    offset_bytes: u64,
    row_bytes: u64,
    count: u64,
}

impl Rows {
    fn of(
        path: &Path,
        shape: Option<&[usize]>,
        size_bytes: u64,
        start: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Rows> {
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("bin")) {
            let shape = raw_shape(path, shape)?;
            let row_bytes = array_bytes(path, DType::F32, &shape)?;
            return Ok(Rows { dtype: DType::F32, shape, offset_bytes: 0, row_bytes, count: size_bytes / row_bytes });
        }
        let NpyHeader { dtype, shape: all, data_offset_bytes } = npy_header(path, &start()?)?;
        let Some((&rows, row_shape)) = all.split_first() else {
            return Err(Error::dataset(
                path,
                "the array has no axis to take samples from",
                "Store samples along the first axis, or one file each in a folder",
            ));
        };
        check_shape(path, shape, row_shape)?;
        let row_bytes = array_bytes(path, dtype, row_shape)?;
        let offset_bytes = data_offset_bytes as u64;
        Ok(Rows { dtype, shape: row_shape.to_vec(), offset_bytes, row_bytes, count: rows as u64 })
    }
}

fn open_folder(folder: &Folder, shape: Option<&[usize]>) -> Result<ArrayData> {
    let list = FileList::of_folder(folder.clone(), &["npy", "bin", "png"])?;
    let fingerprint = list.fingerprint();
    let first = &list.entries[0].path;
    let (source, dtype, sample_shape) = match list.extension.as_str() {
        "npy" => {
            let start = list.read_start(0, NPY_HEADER_BYTES_MAX)?;
            let header = npy_header(first, &start)?;
            check_shape(first, shape, &header.shape)?;
            let data_bytes = array_bytes(first, header.dtype, &header.shape)?;
            check_sizes(&list, header.data_offset_bytes as u64 + data_bytes, |at| {
                let other = npy_header(&list.entries[at].path, &list.read_start(at, NPY_HEADER_BYTES_MAX)?)?;
                Ok(format!(
                    "its header says {:?} {:?} after {} bytes, that of the first file ({}) {:?} {:?} after {}",
                    other.dtype,
                    other.shape,
                    other.data_offset_bytes,
                    first.display(),
                    header.dtype,
                    header.shape,
                    header.data_offset_bytes
                ))
            })?;
            let head = start[..header.data_offset_bytes].to_vec();
            (ArrayStore::Files { list, head }, header.dtype, header.shape)
        }
        "bin" => {
            let shape = raw_shape(folder.path(), shape)?;
            let data_bytes = array_bytes(folder.path(), DType::F32, &shape)?;
            check_sizes(&list, data_bytes, |_| Ok(format!("f32 {shape:?} takes {data_bytes}")))?;
            (ArrayStore::Files { list, head: Vec::new() }, DType::F32, shape)
        }
        _ => {
            let (width_px, height_px) = dimensions(&list.read_start(0, PNG_START_BYTES)?)
                .map_err(|fault| Error::dataset(first, fault, "Remove the file or write it again"))?;
            let picture_shape = [height_px as usize, width_px as usize];
            check_shape(first, shape, &picture_shape)?;
            array_bytes(first, DType::U16, &picture_shape)?;
            (ArrayStore::Depth { list, width_px, height_px }, DType::U16, picture_shape.to_vec())
        }
    };
    Ok(ArrayData::new(source, dtype, sample_shape, fingerprint))
}

fn npy_header(path: &Path, start: &[u8]) -> Result<NpyHeader> {
    NpyHeader::parse(start).map_err(|problem| Error::dataset(path, problem, "Samples are arrays of plain numbers"))
}

fn check_shape(path: &Path, asked: Option<&[usize]>, found: &[usize]) -> Result<()> {
    match asked {
        Some(asked) if asked != found => Err(Error::dataset(
            path,
            format!("one sample has the shape {found:?}, not {asked:?}"),
            "Leave the shape out: the files say it themselves",
        )),
        _ => Ok(()),
    }
}

/// The shape that raw files need.
fn raw_shape(path: &Path, shape: Option<&[usize]>) -> Result<Vec<usize>> {
    let shape =
        shape.ok_or_else(|| Error::dataset(path, "raw files do not say the shape of a sample", REMEDY_SHAPE))?;
    Ok(shape.to_vec())
}

/// Bytes of one sample; at least one.
fn array_bytes(path: &Path, dtype: DType, shape: &[usize]) -> Result<u64> {
    let bytes = shape.iter().try_fold(dtype.size_bytes(), |bytes, &axis| bytes.checked_mul(axis));
    match bytes {
        Some(bytes) if (1..=isize::MAX as usize).contains(&bytes) => Ok(bytes as u64),
        _ => Err(Error::dataset(path, format!("no sample has the shape {shape:?}"), REMEDY_SHAPE)),
    }
}

/// Every file must have `expect_bytes`; `explain` says what that comes from, given the first that has not.
fn check_sizes(list: &FileList, expect_bytes: u64, explain: impl Fn(usize) -> Result<String>) -> Result<()> {
    let mut wrong = list.entries.iter().enumerate().filter(|(_, entry)| entry.size_bytes != expect_bytes);
    let Some((at, first)) = wrong.next() else { return Ok(()) };
    let others = match wrong.count() {
        0 => String::new(),
        others => format!(", and {others} more of the {} files have another size too", list.entries.len()),
    };
    Err(Error::dataset(
        &first.path,
        format!("the file has {} bytes instead of {expect_bytes}: {}{others}", first.size_bytes, explain(at)?),
        "All samples must have one shape: remove or write again those that differ",
    ))
}

impl ArrayData {
    fn new(source: ArrayStore, dtype: DType, shape: Vec<usize>, fingerprint: u64) -> ArrayData {
        ArrayData { source, fields: vec![FieldSpec::stack("array", dtype, shape)], fingerprint }
    }

    /// The reader of the samples, where they are not files of this machine.
    fn stored(&self) -> Option<&SampleReader> {
        match &self.source {
            ArrayStore::Rows(_) | ArrayStore::Held { .. } => None,
            ArrayStore::Stored { rows, .. } => Some(rows),
            ArrayStore::Files { list, .. } | ArrayStore::Depth { list, .. } => list.stored.as_ref(),
        }
    }

    fn bad(&self, stage: Stage, request: &Request, fault: Fault) -> Error {
        fault.at(stage, request.index, self.location(request.index))
    }
}

impl Pipeline for ArrayData {
    fn len(&self) -> u64 {
        match &self.source {
            ArrayStore::Rows(file) => file.rows(),
            ArrayStore::Held { bytes, offset_bytes, row_bytes, .. } => {
                ((bytes.len() - offset_bytes) / row_bytes) as u64
            }
            ArrayStore::Stored { count, .. } => *count,
            ArrayStore::Files { list, .. } | ArrayStore::Depth { list, .. } => list.entries.len() as u64,
        }
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }

    fn location(&self, index: u64) -> String {
        match &self.source {
            ArrayStore::Rows(file) => format!("row {index} of {}", file.path().display()),
            ArrayStore::Held { path, .. } | ArrayStore::Stored { path, .. } => {
                format!("row {index} of {}", path.display())
            }
            ArrayStore::Files { list, .. } | ArrayStore::Depth { list, .. } => {
                list.entries[index as usize].path.display().to_string()
            }
        }
    }

    fn warnings(&self) -> Vec<String> {
        match &self.source {
            ArrayStore::Files { list, .. } | ArrayStore::Depth { list, .. } => list.warnings.clone(),
            ArrayStore::Rows(_) | ArrayStore::Held { .. } | ArrayStore::Stored { .. } => Vec::new(),
        }
    }

    fn read_ahead(&self) -> usize {
        self.stored().map_or(0, SampleReader::requests_in_flight)
    }

    fn raw_bytes(&self, index: u64) -> u64 {
        self.stored().map_or(0, |stored| stored.size_bytes(index))
    }

    fn follow(&self, plan: &Plan) -> Result<()> {
        self.stored().map_or(Ok(()), |stored| stored.follow(plan))
    }

    /// Reads what lies elsewhere or has to be decoded. What this machine stores as it is delivered is read by `make`,
    /// straight into the batch.
    fn read(&self, request: &Request, raw: &mut Raw, clock: &mut SampleContext) -> Result<()> {
        let path = match &self.source {
            ArrayStore::Depth { list, .. } => &list.entries[request.index as usize].path,
            _ => Path::new(""),
        };
        let stored = self.stored();
        if stored.is_none() && path.as_os_str().is_empty() {
            return Ok(());
        }
        if let Some(stored) = stored {
            stored.reached(request.epoch, request.position);
        }
        raw.resize_with(1, Vec::new);
        read_sample(stored, request.index, path, clock.stop_signal(), &mut raw[0])?;
        clock.count_bytes(raw[0].len());
        Ok(())
    }

    fn is_near(&self, one: u64, next: u64) -> bool {
        self.stored().is_some_and(|stored| stored.is_near(one, next))
    }

    fn read_many(&self, requests: &[Request], raws: &mut [Raw], clock: &mut SampleContext) -> Vec<Result<()>> {
        match self.stored() {
            Some(stored) => read_samples(stored, requests, raws, clock),
            None => requests.iter().zip(raws).map(|(request, raw)| self.read(request, raw, clock)).collect(),
        }
    }

    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, clock: &mut SampleContext) -> Result<()> {
        match &self.source {
            ArrayStore::Rows(file) => {
                // The clock still stands at read, where this belongs: for small rows, looking at it costs as much as
                // the copy.
                let place = slot.dense_bytes("array");
                file.read_row(request.index, place).map_err(|e| Error::io("read", file.path(), e))?;
                clock.count_bytes(place.len());
            }
            ArrayStore::Held { bytes, offset_bytes, row_bytes, .. } => {
                let start = offset_bytes + request.index as usize * row_bytes;
                slot.dense_bytes("array").copy_from_slice(&bytes[start..start + row_bytes]);
                clock.count_bytes(*row_bytes);
            }
            ArrayStore::Stored { .. } => slot.dense_bytes("array").copy_from_slice(&raw[0]),
            ArrayStore::Files { list, head } if list.stored.is_some() => {
                let (own_head, elements) = raw[0].split_at(head.len());
                slot.dense_bytes("array").copy_from_slice(elements);
                if own_head != head.as_slice() {
                    self.check_head(own_head).map_err(|problem| self.bad(Stage::Read, request, problem.into()))?;
                }
            }
            ArrayStore::Files { list, head } => {
                let place = slot.dense_bytes("array");
                let mut own_head = [0; NPY_HEADER_BYTES_MAX];
                let own_head = &mut own_head[..head.len()];
                let path = &list.entries[request.index as usize].path;
                read_exactly(path, own_head, place).map_err(|e| Error::io("read", path, e))?;
                clock.count_bytes(place.len());
                if own_head != head.as_slice() {
                    self.check_head(own_head).map_err(|problem| self.bad(Stage::Read, request, problem.into()))?;
                }
            }
            ArrayStore::Depth { width_px, height_px, .. } => {
                clock.enter(Stage::Decode);
                let place = slot.dense::<u16>("array");
                decode_depth_u16(&raw[0], *width_px, *height_px, place)
                    .map_err(|fault| self.bad(Stage::Decode, request, fault))?;
                clock.count_bytes(size_of_val(place));
            }
        }
        Ok(())
    }
}

impl ArrayData {
    /// A header that differs from the first file's must still say the same.
    fn check_head(&self, head: &[u8]) -> std::result::Result<(), String> {
        let header = NpyHeader::parse(head)?;
        let spec = &self.fields[0];
        if (header.dtype, &header.shape, header.data_offset_bytes) != (spec.dtype, &spec.shape, head.len()) {
            return Err(format!(
                "it holds {:?} {:?}, the first file of the folder {:?} {:?}; all samples must have one shape",
                header.dtype, header.shape, spec.dtype, spec.shape
            ));
        }
        Ok(())
    }
}
