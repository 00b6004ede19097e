//! Steps in Python: takes the interpreter, hands over NumPy arrays, takes back what comes. Owns the conversion of
//! samples; what a step does is the user's.

use crate::array::Array;
use crate::memory::dtype_of;
use feedline::decode::RgbImage;
use feedline::deliver::Clock;
use feedline::images::{Interrupted, OwnStep, StepError};
use feedline::pipeline::{Pipeline, Raw, make_sample};
use feedline::plan::rng::SampleRng;
use feedline::plan::{Plan, Request};
use feedline::{DType, Error, FieldSpec, Result, Slot, Stage};
use pyo3::exceptions::{PyException, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use std::fmt;
use std::sync::Arc;

/// A function of the user's.
pub struct PyStep {
    function: Py<PyAny>,
    /// Whether it wants a keyword argument `rng`.
    with_rng: bool,
}

impl fmt::Debug for PyStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PyStep")
    }
}

fn numpy<'py>(py: Python<'py>, name: &'static str) -> PyResult<Bound<'py, PyAny>> {
    static NUMPY: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    NUMPY.get_or_try_init(py, || py.import("numpy").map(Bound::unbind))?.bind(py).getattr(name)
}

/// A NumPy generator whose draws depend on the stream alone.
fn generator<'py>(py: Python<'py>, mut rng: SampleRng) -> PyResult<Bound<'py, PyAny>> {
    let random = numpy(py, "random")?;
    let key = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
    let philox = PyDict::new(py);
    philox.set_item("key", key)?;
    random.getattr("Generator")?.call1((random.getattr("Philox")?.call((), Some(&philox))?,))
}

/// The interpreter, for a thread of ours.
fn with_python<T>(work: impl FnOnce(Python<'_>) -> PyResult<T>) -> PyResult<T> {
    Python::try_attach(work).unwrap_or_else(|| Err(PyRuntimeError::new_err("the interpreter is shutting down")))
}

/// What is no `Exception`, such as a KeyboardInterrupt, says nothing of the sample.
fn step_error(error: PyErr) -> StepError {
    let of_the_sample = Python::try_attach(|py| error.is_instance_of::<PyException>(py)).unwrap_or(false);
    if of_the_sample { error.into() } else { Interrupted(error.into()).into() }
}

/// An array of the user's as contiguous bytes of one of our element types.
struct Taken {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Py<PyBytes>,
}

impl Taken {
    fn new(value: &Bound<'_, PyAny>) -> PyResult<Taken> {
        let py = value.py();
        let array = numpy(py, "asarray")?.call1((value,))?;
        let typestr: String = array.getattr("dtype")?.getattr("str")?.extract()?;
        let dtype = dtype_of(&typestr).ok_or_else(|| {
            PyTypeError::new_err(format!(
                "values of NumPy type {typestr} cannot be batched: use uint8, uint16, int32, int64, float32 or float64"
            ))
        })?;
        let shape = array.getattr("shape")?.extract()?;
        let bytes = array.call_method0("tobytes")?.cast_into::<PyBytes>()?.unbind();
        Ok(Taken { dtype, shape, bytes })
    }
}

impl PyStep {
    pub fn new(function: Py<PyAny>, with_rng: bool) -> PyStep {
        PyStep { function, with_rng }
    }

    fn call<'py>(
        &self,
        arguments: Bound<'py, PyTuple>,
        rng: impl FnOnce() -> SampleRng,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = arguments.py();
        let words = PyDict::new(py);
        if self.with_rng {
            words.set_item("rng", generator(py, rng())?)?;
        }
        self.function.bind(py).call(arguments, Some(&words))
    }

    /// Calls it with one array and takes one back.
    fn change(&self, py: Python<'_>, array: feedline::Array, rng: impl FnOnce() -> SampleRng) -> PyResult<Taken> {
        let array = numpy(py, "asarray")?.call1((Array::new(array),))?;
        Taken::new(&self.call(PyTuple::new(py, [array])?, rng)?)
    }
}

impl OwnStep for PyStep {
    fn picture(&self, image: &mut RgbImage, request: &Request, stream: &str) -> Result<(), StepError> {
        let shape = [image.height_px as usize, image.width_px as usize, 3];
        let array = feedline::Array::from_slice(shape, &image.pixels);
        let done = with_python(|py| {
            let taken = self.change(py, array, || request.rng(stream))?;
            let &[height, width, 3] = &taken.shape[..] else { return Err(wrong_picture(&taken)) };
            if taken.dtype != DType::U8 || height == 0 || width == 0 {
                return Err(wrong_picture(&taken));
            }
            image.pixels.clear();
            image.pixels.extend_from_slice(taken.bytes.as_bytes(py));
            (image.height_px, image.width_px) = (height as u32, width as u32);
            Ok(())
        });
        done.map_err(step_error)
    }

    fn values(&self, values: &mut [f32], size_px: [u32; 2], request: &Request, stream: &str) -> Result<(), StepError> {
        let [height, width] = size_px.map(|px| px as usize);
        let array = feedline::Array::from_slice([3, height, width], values);
        let done = with_python(|py| {
            let taken = self.change(py, array, || request.rng(stream))?;
            if taken.dtype != DType::F32 || taken.shape != [3, height, width] {
                return Err(PyValueError::new_err(format!(
                    "a step after normalize() must return float32 of shape (3, {height}, {width}), not {} {:?}",
                    crate::array::type_name(taken.dtype),
                    taken.shape
                )));
            }
            copy(taken.bytes.as_bytes(py), values);
            Ok(())
        });
        done.map_err(step_error)
    }
}

fn copy(bytes: &[u8], values: &mut [f32]) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

fn wrong_picture(taken: &Taken) -> PyErr {
    PyValueError::new_err(format!(
        "a step on pictures must return uint8 of shape (height, width, 3), not {} {:?}",
        crate::array::type_name(taken.dtype),
        taken.shape
    ))
}

/// Samples of another pipeline through a function of the user's, which takes their fields and returns new ones.
pub struct Mapped {
    inner: Arc<dyn Pipeline>,
    step: PyStep,
    name: String,
    fields: Vec<FieldSpec>,
}

impl Mapped {
    /// Calls the function on the first sample to learn what it returns: one value, a tuple, or a dict.
    pub fn new(py: Python<'_>, inner: Arc<dyn Pipeline>, step: PyStep, name: String) -> PyResult<Mapped> {
        let first = Plan::unshuffled(inner.len().max(1), 1).map_err(|e| crate::errors::raise(py, e))?.epoch(0).at(0);
        let mut mapped = Mapped { inner, step, name, fields: Vec::new() };
        let sample = py.detach(|| make_sample(&*mapped.inner, &first, &mut Clock::default()));
        let sample = sample.map_err(|e| crate::errors::raise(py, e))?;
        let made = mapped
            .call(py, sample.fields, &first)
            .map_err(|error| crate::errors::raise(py, mapped.failed(&first, error)))?;
        for (at, value) in made.into_iter().enumerate() {
            let (name, taken) = (value.0.unwrap_or_else(|| at.to_string()), value.1);
            mapped.fields.push(FieldSpec::stack(&name, taken.dtype, taken.shape));
        }
        Ok(mapped)
    }

    fn call(
        &self,
        py: Python<'_>,
        fields: Vec<feedline::Array>,
        request: &Request,
    ) -> PyResult<Vec<(Option<String>, Taken)>> {
        let asarray = numpy(py, "asarray")?;
        let arrays = fields.into_iter().map(|array| asarray.call1((Array::new(array),)));
        let arrays = PyTuple::new(py, arrays.collect::<PyResult<Vec<_>>>()?)?;
        let made = self.step.call(arrays, || request.rng(&format!("map.{}", self.name)))?;
        if let Ok(fields) = made.cast::<PyDict>() {
            return fields.iter().map(|(name, value)| Ok((Some(name.extract()?), Taken::new(&value)?))).collect();
        }
        if let Ok(fields) = made.cast::<PyTuple>() {
            return fields.iter().map(|value| Ok((None, Taken::new(&value)?))).collect();
        }
        Ok(vec![(None, Taken::new(&made)?)])
    }

    fn failed(&self, request: &Request, error: PyErr) -> Error {
        Error::Step {
            name: self.name.clone(),
            index: request.index,
            location: self.inner.location(request.index),
            source: step_error(error),
        }
    }
}

impl Pipeline for Mapped {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn fingerprint(&self) -> u64 {
        self.inner.fingerprint()
    }

    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }

    fn location(&self, index: u64) -> String {
        self.inner.location(index)
    }

    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }

    fn read(&self, _: &Request, _: &mut Raw, _: &mut Clock) -> Result<()> {
        Ok(())
    }

    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, clock: &mut Clock) -> Result<()> {
        let sample = make_sample(&*self.inner, request, clock)?;
        clock.enter(Stage::Augment);
        let made = with_python(|py| {
            let made = self.call(py, sample.fields, request)?;
            if made.len() != self.fields.len() {
                let problem = format!("{} values, the first sample had {}", made.len(), self.fields.len());
                return Err(PyValueError::new_err(problem));
            }
            for (at, ((name, taken), field)) in made.into_iter().zip(&self.fields).enumerate() {
                let name = name.unwrap_or_else(|| at.to_string());
                if (&name, taken.dtype, &taken.shape) != (&field.name, field.dtype, &field.shape) {
                    return Err(PyValueError::new_err(format!(
                        "field {name} is {} {:?}, that of the first sample {} {} {:?}: a batch needs equal types and shapes",
                        crate::array::type_name(taken.dtype),
                        taken.shape,
                        field.name,
                        crate::array::type_name(field.dtype),
                        field.shape
                    )));
                }
                slot.dense_bytes(&field.name).copy_from_slice(taken.bytes.as_bytes(py));
            }
            Ok(())
        });
        made.map_err(|error| self.failed(request, error))
    }
}

/// Sample i is the number i: what a Python dataset is asked with.
pub struct Numbers {
    len: u64,
    fingerprint: u64,
    fields: Vec<FieldSpec>,
}

impl Numbers {
    pub fn new(len: u64, fingerprint: u64) -> Numbers {
        Numbers { len, fingerprint, fields: vec![FieldSpec::stack("index", DType::I64, [])] }
    }
}

impl Pipeline for Numbers {
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
        format!("item {index}")
    }

    fn read(&self, _: &Request, _: &mut Raw, _: &mut Clock) -> Result<()> {
        Ok(())
    }

    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, _: &mut Clock) -> Result<()> {
        slot.dense::<i64>("index")[0] = request.index as i64;
        Ok(())
    }
}
