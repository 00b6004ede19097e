//! Samples that are rows of arrays in Python's memory (NumPy arrays, memory maps). Reads them from any thread without
//! the interpreter, and keeps the arrays alive.

use feedline::deliver::SampleContext;
use feedline::pipeline::{Pipeline, Raw};
use feedline::plan::Request;
use feedline::{DType, Error, FieldSpec, Result, Slot};
use pyo3::prelude::*;

/// One array, C-contiguous, of which row i belongs to sample i.
struct Column {
    start: *const u8,
    row_bytes: usize,
    /// Keeps the memory alive.
    _owner: Py<PyAny>,
}

// SAFETY: the pointer is only read from, and the array it points into lives as long as `_owner`. Whoever writes to the
// array meanwhile changes what is delivered, as with torch's TensorDataset.
unsafe impl Send for Column {}
// SAFETY: as above.
unsafe impl Sync for Column {}

/// Arrays of equal length, a field each.
pub struct Memory {
    columns: Vec<Column>,
    fields: Vec<FieldSpec>,
    len: u64,
    fingerprint: u64,
}

impl Memory {
    /// `arrays` are (name, NumPy array), C-contiguous, little-endian, of equal length.
    pub fn new(arrays: Vec<(String, Bound<'_, PyAny>)>, fingerprint: u64) -> PyResult<Memory> {
        let (mut columns, mut fields, mut len) = (Vec::new(), Vec::new(), None);
        for (name, array) in arrays {
            let interface = array.getattr("__array_interface__")?;
            let shape: Vec<usize> = interface.get_item("shape")?.extract()?;
            let typestr: String = interface.get_item("typestr")?.extract()?;
            let (start, _): (usize, bool) = interface.get_item("data")?.extract()?;
            let py = array.py();
            let wrong = |problem: String, remedy: &str| crate::errors::raise(py, Error::config(problem, remedy));
            let Some(dtype) = dtype_of(&typestr) else {
                return Err(wrong(
                    format!("array {name} has elements of type {typestr}"),
                    "Use u1, u2, i4, i8, f4 or f8: array.astype(...), or array.view(numpy.uint8) for bool",
                ));
            };
            if !array.getattr("flags")?.getattr("c_contiguous")?.is_truthy()? {
                let problem = format!("array {name} is not contiguous");
                return Err(wrong(problem, "Make it so: numpy.ascontiguousarray(array)"));
            }
            let Some((&rows, row)) = shape.split_first() else {
                return Err(wrong(format!("array {name} has no axis to take samples from"), "Samples are rows"));
            };
            if *len.get_or_insert(rows) != rows {
                let first = len.unwrap_or_default();
                return Err(wrong(
                    format!("array {name} has {rows} rows, the first one {first}"),
                    "Give arrays of equal length: row i of each belongs to sample i",
                ));
            }
            let field = FieldSpec::stack(&name, dtype, row);
            columns.push(Column { start: start as *const u8, row_bytes: field.slot_bytes(), _owner: array.unbind() });
            fields.push(field);
        }
        Ok(Memory { columns, fields, len: len.unwrap_or_default() as u64, fingerprint })
    }
}

pub fn dtype_of(typestr: &str) -> Option<DType> {
    [DType::U8, DType::U16, DType::I32, DType::I64, DType::F32, DType::F64]
        .into_iter()
        .find(|dtype| crate::array::type_name(*dtype) == typestr)
}

impl Pipeline for Memory {
    fn len(&self) -> u64 {
        self.len
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }

    fn location(&self, index: u64) -> String {
        format!("row {index}")
    }

    fn read(&self, _: &Request, _: &mut Raw, _: &mut SampleContext) -> Result<()> {
        Ok(())
    }

    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, clock: &mut SampleContext) -> Result<()> {
        for (column, field) in self.columns.iter().zip(&self.fields) {
            let into = slot.dense_bytes(&field.name);
            assert!(request.index < self.len && into.len() == column.row_bytes);
            // SAFETY: the array has `len` rows of `row_bytes` from `start` on (its shape says so, it is contiguous and
            // alive), and the place in the batch is no part of it.
            unsafe {
                let row = column.start.add(request.index as usize * column.row_bytes);
                std::ptr::copy_nonoverlapping(row, into.as_mut_ptr(), column.row_bytes);
            }
            clock.count_bytes(column.row_bytes);
        }
        Ok(())
    }
}
