//! The data of the recipe: what a path holds, and each sample's bytes straight into its place in the batch. Composes
//! the stages read and decode; owns nothing of their insides.

use feedline::decode::{NPY_HEADER_BYTES_MAX, NpyHeader, decode_depth_u16, dimensions};
use feedline::deliver::Clock;
use feedline::pipeline::{Pipeline, Raw};
use feedline::plan::Request;
use feedline::read::{FileList, RowFile, read_exactly, read_file_into, read_start};
use feedline::{DType, Error, FieldSpec, Result, Slot, Stage};
use std::path::Path;
use std::sync::Arc;

/// What a file of rows may take in memory under [`open`]: half a GiB.
const HELD_BYTES_MAX: u64 = 512 << 20;

/// Enough of a PNG to see its size in pixels.
const PNG_START_BYTES: usize = 4096;

const REMEDY_SHAPE: &str = "Name the shape of one sample, for example --shape 120000,4";

/// Arrays of one shape and element type, as a pipeline with the one field `array`.
#[derive(Debug)]
pub struct ArrayData {
    source: Source,
    fields: Vec<FieldSpec>,
    fingerprint: u64,
}

#[derive(Debug)]
enum Source {
    /// The rows of one file.
    Rows(RowFile),
    /// A file each: `head`, which is the same in all of them, and the elements.
    Files { list: FileList, head: Vec<u8> },
    /// A 16-bit grey PNG each.
    Depth { list: FileList, width_px: u32, height_px: u32 },
}

/// The arrays at `path`, of which a file of rows takes at most half a GiB of memory. See [`open_with`].
///
/// # Errors
/// As [`open_with`].
pub fn open(path: &Path, shape: Option<&[usize]>) -> Result<Arc<ArrayData>> {
    open_with(path, shape, HELD_BYTES_MAX)
}

/// The arrays at `path`, which is one of
///
/// - a `.npy` file: its rows along the first axis, as they are (little-endian, C order);
/// - a `.bin` file, raw little-endian f32: rows of `shape`;
/// - a folder of `.npy` files of one shape and element type, sorted by name;
/// - a folder of `.bin` files, raw little-endian f32 of `shape`;
/// - a folder of 16-bit grey `.png` pictures of one size: u16 (H, W).
///
/// `shape` is that of one sample; it is needed for `.bin` and checked for the others. A file of rows whose rows are at
/// most `held_bytes_max` together is held in memory as it is read.
///
/// # Errors
/// A path that is none of these; files of another size or shape than they should be, by name, as far as sizes and the
/// first file's header show it. What only a sample's own bytes can show is the error of that sample.
pub fn open_with(path: &Path, shape: Option<&[usize]>, held_bytes_max: u64) -> Result<Arc<ArrayData>> {
    if feedline::read::is_url(path) {
        return Err(Error::Unsupported {
            what: format!("reading arrays from {}", path.display()),
            remedy: "Copy the files to this machine, or mount the bucket; pictures are read from where they are".into(),
        });
    }
    let is_dir = std::fs::metadata(path).map_err(|source| Error::io("look at", path, source))?.is_dir();
    if is_dir {
        return open_folder(path, shape).map(Arc::new);
    }
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
    let (dtype, sample_shape, offset_bytes, rows) = match extension.as_str() {
        "npy" => {
            let header = npy_header(path)?;
            let Some((&rows, row_shape)) = header.shape.split_first() else {
                return Err(Error::dataset(
                    path,
                    "the array has no axis to take samples from",
                    "Store samples along the first axis, or one file each in a folder",
                ));
            };
            check_shape(path, shape, row_shape)?;
            (header.dtype, row_shape.to_vec(), header.data_offset_bytes as u64, rows as u64)
        }
        "bin" => {
            let shape = raw_shape(path, shape)?;
            let size_bytes = std::fs::metadata(path).map_err(|source| Error::io("look at", path, source))?.len();
            let rows = size_bytes / array_bytes(path, DType::F32, &shape)?;
            (DType::F32, shape, 0, rows)
        }
        _ => {
            return Err(Error::dataset(
                path,
                "it is no file of arrays",
                "Give a .npy file, a .bin file with its shape, or a folder of *.npy, *.bin or 16-bit grey *.png",
            ));
        }
    };
    let row_bytes = array_bytes(path, dtype, &sample_shape)?;
    let file = RowFile::open(path, offset_bytes, row_bytes as usize, rows, held_bytes_max)?;
    let fingerprint = file.fingerprint();
    Ok(Arc::new(ArrayData::new(Source::Rows(file), dtype, sample_shape, fingerprint)))
}

fn open_folder(folder: &Path, shape: Option<&[usize]>) -> Result<ArrayData> {
    let list = FileList::of_folder(folder, &["npy", "bin", "png"])?;
    let fingerprint = list.fingerprint();
    let first = &list.entries[0].path;
    let (source, dtype, sample_shape) = match list.extension.as_str() {
        "npy" => {
            let header = npy_header(first)?;
            check_shape(first, shape, &header.shape)?;
            let data_bytes = array_bytes(first, header.dtype, &header.shape)?;
            check_sizes(&list, header.data_offset_bytes as u64 + data_bytes, |path| {
                let other = npy_header(path)?;
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
            let head = read_start(first, header.data_offset_bytes).map_err(|e| Error::io("read", first, e))?;
            (Source::Files { list, head }, header.dtype, header.shape)
        }
        "bin" => {
            let shape = raw_shape(folder, shape)?;
            let data_bytes = array_bytes(folder, DType::F32, &shape)?;
            check_sizes(&list, data_bytes, |_| Ok(format!("f32 {shape:?} takes {data_bytes}")))?;
            (Source::Files { list, head: Vec::new() }, DType::F32, shape)
        }
        _ => {
            let start = read_start(first, PNG_START_BYTES).map_err(|e| Error::io("read", first, e))?;
            let (width_px, height_px) = dimensions(&start)
                .map_err(|problem| Error::dataset(first, problem, "Remove the file or write it again"))?;
            let picture_shape = [height_px as usize, width_px as usize];
            check_shape(first, shape, &picture_shape)?;
            array_bytes(first, DType::U16, &picture_shape)?;
            (Source::Depth { list, width_px, height_px }, DType::U16, picture_shape.to_vec())
        }
    };
    Ok(ArrayData::new(source, dtype, sample_shape, fingerprint))
}

fn npy_header(path: &Path) -> Result<NpyHeader> {
    let start = read_start(path, NPY_HEADER_BYTES_MAX).map_err(|source| Error::io("read", path, source))?;
    NpyHeader::parse(&start).map_err(|problem| Error::dataset(path, problem, "Samples are arrays of plain numbers"))
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
fn check_sizes(list: &FileList, expect_bytes: u64, explain: impl Fn(&Path) -> Result<String>) -> Result<()> {
    let mut wrong = list.entries.iter().filter(|entry| entry.size_bytes != expect_bytes);
    let Some(first) = wrong.next() else { return Ok(()) };
    let others = match wrong.count() {
        0 => String::new(),
        others => format!(", and {others} more of the {} files have another size too", list.entries.len()),
    };
    Err(Error::dataset(
        &first.path,
        format!("the file has {} bytes instead of {expect_bytes}: {}{others}", first.size_bytes, explain(&first.path)?),
        "All samples must have one shape: remove or write again those that differ",
    ))
}

impl ArrayData {
    fn new(source: Source, dtype: DType, shape: Vec<usize>, fingerprint: u64) -> ArrayData {
        ArrayData { source, fields: vec![FieldSpec::stack("array", dtype, shape)], fingerprint }
    }

    fn bad(&self, stage: Stage, request: &Request, problem: String) -> Error {
        Error::Sample { stage, index: request.index, location: self.location(request.index), problem }
    }
}

impl Pipeline for ArrayData {
    fn len(&self) -> u64 {
        match &self.source {
            Source::Rows(file) => file.rows(),
            Source::Files { list, .. } | Source::Depth { list, .. } => list.entries.len() as u64,
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
            Source::Rows(file) => format!("row {index} of {}", file.path().display()),
            Source::Files { list, .. } | Source::Depth { list, .. } => {
                list.entries[index as usize].path.display().to_string()
            }
        }
    }

    /// Reads what has to be decoded. Samples that are stored as they are delivered are read by `make`, straight into
    /// the batch.
    fn read(&self, request: &Request, raw: &mut Raw, clock: &mut Clock) -> Result<()> {
        if let Source::Depth { list, .. } = &self.source {
            raw.resize_with(1, Vec::new);
            let path = &list.entries[request.index as usize].path;
            read_file_into(path, &mut raw[0]).map_err(|e| Error::io("read", path, e))?;
            clock.count_bytes(raw[0].len());
        }
        Ok(())
    }

    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, clock: &mut Clock) -> Result<()> {
        match &self.source {
            Source::Rows(file) => {
                // The clock still stands at read, where this belongs: for small rows, looking at it costs as much as
                // the copy.
                let place = slot.dense_bytes("array");
                file.read_row(request.index, place).map_err(|e| self.bad(Stage::Read, request, e.to_string()))?;
                clock.count_bytes(place.len());
            }
            Source::Files { list, head } => {
                let place = slot.dense_bytes("array");
                let mut own_head = [0; NPY_HEADER_BYTES_MAX];
                let own_head = &mut own_head[..head.len()];
                read_exactly(&list.entries[request.index as usize].path, own_head, place)
                    .map_err(|e| self.bad(Stage::Read, request, e.to_string()))?;
                clock.count_bytes(place.len());
                if own_head != head.as_slice() {
                    self.check_head(own_head).map_err(|problem| self.bad(Stage::Read, request, problem))?;
                }
            }
            Source::Depth { width_px, height_px, .. } => {
                clock.enter(Stage::Decode);
                let place = slot.dense::<u16>("array");
                decode_depth_u16(&raw[0], *width_px, *height_px, place)
                    .map_err(|problem| self.bad(Stage::Decode, request, problem))?;
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
