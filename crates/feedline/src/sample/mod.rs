//! The types that pass through the stages: arrays, the fields of a sample, and the delivered batch. Owns their shapes
//! and element types; knows nothing of where they come from or who consumes them.
//!
//! Axis letters: B is the batch, C channels, H and W height and width in pixels, N a number that varies per sample.

pub(crate) mod buffer;

use crate::error::{Error, Result, Stage};
use crate::sample::buffer::Buffer;
use bytemuck::Pod;

/// Element type of an [`Array`]; little-endian in memory and on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    U8,
    U16,
    I32,
    I64,
    F32,
    F64,
}

impl DType {
    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::U16 => 2,
            DType::I32 | DType::F32 => 4,
            DType::I64 | DType::F64 => 8,
        }
    }
}

/// Bytes of an array, saturating at the largest number, for which no memory suffices either.
pub(crate) fn len_bytes(dtype: DType, shape: &[usize]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    shape.iter().fold(dtype.size_bytes(), |bytes, &axis| bytes.saturating_mul(axis))
}

mod sealed {
    pub trait Sealed {}
}

/// Rust types that are elements of an [`Array`].
pub trait Element: Pod + sealed::Sealed {
    /// The matching element type.
    const DTYPE: DType;
    /// `value` as this type, saturating.
    fn from_f64(value: f64) -> Self;
}

macro_rules! element {
    ($($rust:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
            fn from_f64(value: f64) -> Self { value as $rust }
        }
    )*};
}
element!(u8 => U8, u16 => U16, i32 => I32, i64 => I64, f32 => F32, f64 => F64);

/// A dense row-major array. Its storage is 64-byte aligned and goes back to its pool, if it has one, on drop.
#[derive(Debug, Clone)]
pub struct Array {
    dtype: DType,
    shape: Vec<usize>,
    data: Buffer,
}

impl Array {
    /// An array of zeros.
    ///
    /// # Panics
    /// If there is no memory for it: see [`Array::try_zeros`].
    pub fn zeros(dtype: DType, shape: impl Into<Vec<usize>>) -> Array {
        Array::try_zeros(dtype, shape).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Array::zeros`], for a size that data or settings decide.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn try_zeros(dtype: DType, shape: impl Into<Vec<usize>>) -> Result<Array> {
        let shape = shape.into();
        let data = Buffer::zeroed(len_bytes(dtype, &shape))?;
        Ok(Array { dtype, shape, data })
    }

    /// A copy; lack of memory is an error here.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn try_clone(&self) -> Result<Array> {
        let data = Buffer::joined(self.as_bytes().len(), [self.as_bytes()])?;
        Ok(Array { dtype: self.dtype, shape: self.shape.clone(), data })
    }

    /// An array with the given elements in row-major order.
    ///
    /// # Panics
    /// If `values` does not hold exactly as many elements as `shape` says, or there is no memory for them: see
    /// [`Array::try_from_slice`].
    pub fn from_slice<T: Element>(shape: impl Into<Vec<usize>>, values: &[T]) -> Array {
        Array::try_from_slice(shape, values).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Array::from_slice`], for a size that data or settings decide.
    ///
    /// # Errors
    /// [`Error::Memory`].
    ///
    /// # Panics
    /// If `values` does not hold exactly as many elements as `shape` says.
    pub fn try_from_slice<T: Element>(shape: impl Into<Vec<usize>>, values: &[T]) -> Result<Array> {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "elements of an array {shape:?}");
        let bytes = bytemuck::cast_slice(values);
        Ok(Array { dtype: T::DTYPE, shape, data: Buffer::joined(bytes.len(), [bytes])? })
    }

    /// Wraps storage that is already filled.
    pub(crate) fn from_buffer(dtype: DType, shape: Vec<usize>, data: Buffer) -> Array {
        debug_assert_eq!(shape.iter().product::<usize>() * dtype.size_bytes(), data.as_bytes().len());
        Array { dtype, shape, data }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The raw bytes, row-major, little-endian.
    pub fn as_bytes(&self) -> &[u8] {
        self.data.as_bytes()
    }

    /// The raw bytes, writable.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        self.data.as_bytes_mut()
    }

    /// The elements.
    ///
    /// # Panics
    /// If `T` is not the array's element type: that is a bug of the caller.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        assert_eq!(T::DTYPE, self.dtype, "array of {:?} viewed as {:?}", self.dtype, T::DTYPE);
        bytemuck::cast_slice(self.data.as_bytes())
    }

    /// The elements, writable.
    ///
    /// # Panics
    /// As [`Array::as_slice`].
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(T::DTYPE, self.dtype, "array of {:?} viewed as {:?}", self.dtype, T::DTYPE);
        bytemuck::cast_slice_mut(self.data.as_bytes_mut())
    }
}

impl PartialEq for Array {
    /// Same element type, shape and bytes (so NaN equals the same NaN).
    fn eq(&self, other: &Array) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.as_bytes() == other.as_bytes()
    }
}

/// The rule that makes one field of a batch from the fields of its samples. The field's declaration sets it, never its name.
#[derive(Debug, Clone, PartialEq)]
pub enum Collate {
    /// Equal shapes: a new leading axis B.
    Stack,
    /// The first axis N varies: fill up to the largest N with `value`; the true counts are kept.
    Pad { value: f64 },
    /// The first axis N varies: join along it; offsets (B + 1) say where each sample begins. If `numbered`, collate writes
    /// the number of the sample in the batch to the first column of each row, and overwrites the sample's own value.
    Concat { numbered: bool },
    /// Opaque bytes (a name, a caption): a list of B byte strings.
    List,
}

/// The declaration of one field of a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldSpec {
    pub name: String,
    pub dtype: DType,
    /// Shape of one sample's array. For `Pad` and `Concat` this is the shape of one row, without the axis N.
    pub shape: Vec<usize>,
    pub collate: Collate,
}

impl FieldSpec {
    /// A field of fixed shape, stacked.
    pub fn stack(name: &str, dtype: DType, shape: impl Into<Vec<usize>>) -> FieldSpec {
        FieldSpec { name: name.into(), dtype, shape: shape.into(), collate: Collate::Stack }
    }

    /// A field of N rows of `row_shape`, padded with `value` to the largest N of the batch.
    pub fn pad(name: &str, dtype: DType, row_shape: impl Into<Vec<usize>>, value: f64) -> FieldSpec {
        FieldSpec { name: name.into(), dtype, shape: row_shape.into(), collate: Collate::Pad { value } }
    }

    /// A field of N rows of `row_shape`, joined along N.
    pub fn concat(name: &str, dtype: DType, row_shape: impl Into<Vec<usize>>) -> FieldSpec {
        FieldSpec { name: name.into(), dtype, shape: row_shape.into(), collate: Collate::Concat { numbered: false } }
    }

    /// As [`FieldSpec::concat`], where the first of the `columns` of a row is for the number of its sample in the batch.
    ///
    /// # Panics
    /// If there is no column.
    pub fn concat_numbered(name: &str, dtype: DType, columns: usize) -> FieldSpec {
        assert!(columns > 0, "field {name:?} has no column for the number of the sample");
        FieldSpec { name: name.into(), dtype, shape: vec![columns], collate: Collate::Concat { numbered: true } }
    }

    /// A field of opaque bytes.
    pub fn bytes(name: &str) -> FieldSpec {
        FieldSpec { name: name.into(), dtype: DType::U8, shape: vec![], collate: Collate::List }
    }

    /// Bytes of one sample's share of a stacked field.
    pub fn slot_bytes(&self) -> usize {
        len_bytes(self.dtype, &self.shape)
    }
}

/// The output of a pipeline for one sample: stacked fields are written in place in the batch, others are handed over.
#[derive(Debug)]
pub struct Slot<'a> {
    specs: &'a [FieldSpec],
    fields: Vec<SlotField<'a>>,
}

#[derive(Debug)]
enum SlotField<'a> {
    InPlace(&'a mut [u8]),
    Owned(Option<Array>),
}

impl<'a> Slot<'a> {
    /// A slot over `in_place`, the places of the stacked fields in the order of `specs`.
    pub(crate) fn new(specs: &'a [FieldSpec], in_place: impl IntoIterator<Item = &'a mut [u8]>) -> Slot<'a> {
        let mut in_place = in_place.into_iter();
        let fields = specs
            .iter()
            .map(|spec| match spec.collate {
                Collate::Stack => SlotField::InPlace(in_place.next().unwrap_or_default()),
                _ => SlotField::Owned(None),
            })
            .collect();
        Slot { specs, fields }
    }

    fn position(&self, name: &str) -> usize {
        match self.specs.iter().position(|spec| spec.name == name) {
            Some(at) => at,
            None => panic!("the pipeline declares no field {name:?}"),
        }
    }

    /// The place of the stacked field `name`, to be filled completely: what it holds before is unspecified.
    ///
    /// # Panics
    /// If the field is not declared as stacked with this element type: that is a bug of the pipeline.
    pub fn dense<T: Element>(&mut self, name: &str) -> &mut [T] {
        let at = self.position(name);
        assert_eq!(self.specs[at].dtype, T::DTYPE, "field {name:?} holds another element type");
        bytemuck::cast_slice_mut(self.place(at))
    }

    /// As [`Slot::dense`], as bytes: for samples that are stored as they are delivered, whatever their elements.
    ///
    /// # Panics
    /// If the field is not declared as stacked: that is a bug of the pipeline.
    pub fn dense_bytes(&mut self, name: &str) -> &mut [u8] {
        self.place(self.position(name))
    }

    fn place(&mut self, at: usize) -> &mut [u8] {
        match &mut self.fields[at] {
            SlotField::InPlace(bytes) => bytes,
            SlotField::Owned(_) => panic!("field {:?} is not stacked; use put", self.specs[at].name),
        }
    }

    /// Hands over the array of a padded or concatenated field, or the bytes (an array of u8) of a list field.
    ///
    /// # Panics
    /// If the field is declared as stacked, or the array does not fit the declaration: a bug of the pipeline.
    pub fn put(&mut self, name: &str, array: Array) {
        let at = self.position(name);
        let spec = &self.specs[at];
        assert_eq!(spec.dtype, array.dtype(), "field {name:?} holds another element type");
        assert_eq!(spec.shape, array.shape().get(1..).unwrap_or_default(), "field {name:?} has rows of another shape");
        match &mut self.fields[at] {
            SlotField::Owned(place) => *place = Some(array),
            SlotField::InPlace(_) => panic!("field {name:?} is stacked; use dense"),
        }
    }

    /// The fields that were handed over, in the order of the declaration; a field left out is an empty array.
    pub(crate) fn into_owned(self) -> Vec<Array> {
        let specs = self.specs;
        self.fields
            .into_iter()
            .zip(specs)
            .filter_map(|(field, spec)| match field {
                SlotField::InPlace(_) => None,
                SlotField::Owned(array) => Some(array.unwrap_or_else(|| {
                    let mut shape = vec![0];
                    shape.extend(&spec.shape);
                    Array::zeros(spec.dtype, shape)
                })),
            })
            .collect()
    }
}

/// One sample on its own: a value for each declared field.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// One array per [`FieldSpec`], in its order; `Pad`, `Concat` and `List` fields have their axis N in front.
    pub fields: Vec<Array>,
}

/// One collated field of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum BatchField {
    /// (B, ...).
    Stack(Array),
    /// Values (B, max N, ...) and the true counts, i64 (B,).
    Pad { values: Array, counts: Array },
    /// Values (sum N, ...) and offsets, i64 (B + 1,).
    Concat { values: Array, offsets: Array },
    /// B byte strings.
    List(Vec<Vec<u8>>),
}

/// A sample that was replaced because it could not be used.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Replaced {
    pub epoch: u64,
    /// Global position in the epoch's order.
    pub position: u64,
    /// Index of the bad sample.
    pub index: u64,
    /// Its file or key.
    pub location: String,
    pub stage: Stage,
    pub problem: String,
    /// Index of the sample delivered in its place.
    pub replaced_by: u64,
}

/// A delivered batch: the collated fields and their position in the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub epoch: u64,
    /// Number of the batch in its epoch on this rank, from 0.
    pub step: u64,
    /// Global position after this batch: the position of a cursor taken now.
    pub next_position: u64,
    /// Index of each sample, in order; B of them.
    pub indices: Vec<u64>,
    /// Number of leading samples that are real; the rest is padding that must not count in a metric.
    pub valid: usize,
    /// Name and value of each field, in the order declared.
    pub fields: Vec<(String, BatchField)>,
    /// Samples of this batch that were replaced.
    pub replaced: Vec<Replaced>,
}

impl Batch {
    /// Number of samples B, padding included.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// True if it has no sample. The engine never delivers such a batch.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The field `name`, if the pipeline declares one.
    pub fn field(&self, name: &str) -> Option<&BatchField> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, field)| field)
    }

    /// The stacked field `name`.
    ///
    /// # Errors
    /// If there is no such field or it is not stacked.
    pub fn stacked(&self, name: &str) -> Result<&Array> {
        match self.field(name) {
            Some(BatchField::Stack(array)) => Ok(array),
            Some(_) => Err(Error::train(format!("field {name:?} of the batch is not stacked"), "Use Batch::field")),
            None => Err(Error::train(
                format!("the batch has no field {name:?}"),
                format!("It has {:?}", self.fields.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>()),
            )),
        }
    }
}
