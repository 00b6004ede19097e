//! Steps in Python: acquires the interpreter, passes NumPy arrays, and takes back the results. Owns the conversion of
//! samples.

use crate::array::Array;
use crate::memory::dtype_of;
use feedline::decode::RgbImage;
use feedline::deliver::SampleContext;
use feedline::pipeline::{
    CustomTransform, Interrupted, NotOfTheSample, Pipeline, Raw, StepError, make_sample, sample_of,
};
use feedline::plan::rng::SampleRng;
use feedline::plan::{Plan, Request};
use feedline::read::{SampleReader, Skipped};
use feedline::{DType, Error, FieldSpec, Result, Slot, Stage};
use pyo3::exceptions::{
    PyBaseException, PyConnectionError, PyException, PyFileNotFoundError, PyImportError, PyIsADirectoryError,
    PyMemoryError, PyNameError, PyNotADirectoryError, PyOSError, PyRuntimeError, PyTimeoutError, PyTypeError,
    PyValueError,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

/// Prefix of the names of the engine's worker threads.
const WORKER: &str = "feedline:";

thread_local! {
    /// Number of nested calls into Python on this thread.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// True if this thread is running a step. It must then not wait for a loader's workers: they may wait for the lock that
/// the step holds.
pub fn is_inside() -> bool {
    INSIDE.get() > 0
}

/// A user's function, as `feedline.own.Own` wraps it: it also gets a number to seed generators with, or `None` in a
/// worker thread.
pub struct PyStep {
    function: Py<PyAny>,
    /// True if it takes a keyword argument `rng`.
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

/// Runs `work` with the interpreter, on a Feedline thread.
fn with_python<T>(work: impl FnOnce(Python<'_>) -> PyResult<T>) -> PyResult<T> {
    INSIDE.set(INSIDE.get() + 1);
    // Also if it panics.
    struct Outside;
    impl Drop for Outside {
        fn drop(&mut self) {
            INSIDE.set(INSIDE.get() - 1);
        }
    }
    let _outside = Outside;
    let done = Python::try_attach(work);
    done.unwrap_or_else(|| Err(PyRuntimeError::new_err("the interpreter is shutting down")))
}

/// Classifies an exception of a step. The sample is not at fault if it is no `Exception` (a KeyboardInterrupt, say), a lack
/// of memory, an error of `feedline.own` itself, or an error of a network, a disk or a bug in the code.
fn step_error(error: PyErr) -> StepError {
    if Python::try_attach(|py| stops(error.value(py))).unwrap_or(true) {
        return Interrupted(error.into()).into();
    }
    if Python::try_attach(|py| is_fault_of_the_sample(error.value(py), 0)).unwrap_or(false) {
        return error.into();
    }
    NotOfTheSample(error.into()).into()
}

/// True if an exception ends the pass whatever the policy for bad samples is.
fn stops(error: &Bound<'_, PyBaseException>) -> bool {
    !error.is_instance_of::<PyException>()
        || error.is_instance_of::<PyMemoryError>()
        || error.hasattr("feedline_stops").unwrap_or(false)
}

/// Modules whose exceptions are about a connection, a server or credentials.
const NETWORK: [&str; 17] = [
    "aiohttp",
    "azure.core",
    "boto3",
    "botocore",
    "google.api_core",
    "google.auth",
    "google.cloud",
    "grpc",
    "http.client",
    "httpcore",
    "httpx",
    "paramiko",
    "requests",
    "socket",
    "ssl",
    "urllib.error",
    "urllib3",
];

/// True if an exception means that the sample's file is missing or that its bytes cannot be used, so that another sample may
/// take its place.
#[pyfunction]
pub fn is_of_the_sample(error: &Bound<'_, PyBaseException>) -> bool {
    !stops(error) && is_fault_of_the_sample(error, 0)
}

/// `depth`: number of exceptions that were followed to this cause; causes may form a cycle.
fn is_fault_of_the_sample(error: &Bound<'_, PyBaseException>, depth: u32) -> bool {
    // These mean a missing file; so do answers of object stores.
    if error.is_instance_of::<PyFileNotFoundError>()
        || error.is_instance_of::<PyNotADirectoryError>()
        || error.is_instance_of::<PyIsADirectoryError>()
        || says_missing(error)
    {
        return true;
    }
    // An error of Feedline about another loader or source is not this sample's fault.
    let of_feedline = |name: &str| {
        let class = error.py().import("feedline.errors").and_then(|errors| errors.getattr(name));
        class.and_then(|class| error.is_instance(&class)).unwrap_or(false)
    };
    if of_feedline("FeedlineError") && !of_feedline("SampleError") {
        return false;
    }
    // torch raises these for a lack of memory, and for a failing device.
    let said = error.to_string();
    if said.contains("DefaultCPUAllocator") || said.contains("CUDA error") {
        return false;
    }
    // Libraries wrap network errors.
    if let Ok(cause) = error.getattr("__cause__").and_then(|cause| Ok(cause.cast_into::<PyBaseException>()?))
        && depth < 16
        && !is_fault_of_the_sample(&cause, depth + 1)
    {
        return false;
    }
    // A bug, or memory: torch's own error of memory is no MemoryError.
    if error.is_instance_of::<PyNameError>()
        || error.is_instance_of::<PyImportError>()
        || error.get_type().name().is_ok_and(|name| name == "OutOfMemoryError")
    {
        return false;
    }
    // Errors of the system have a number. Pillow's "image file is truncated" is an OSError without one.
    let has_number = error.getattr("errno").is_ok_and(|errno| !errno.is_none());
    if error.is_instance_of::<PyOSError>() && has_number
        || error.is_instance_of::<PyConnectionError>()
        || error.is_instance_of::<PyTimeoutError>()
    {
        return false;
    }
    let module = |class: Bound<'_, PyAny>| class.getattr("__module__")?.extract::<String>();
    let is_network = |module: String| {
        let is_in =
            |name: &&str| module.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        NETWORK.iter().any(is_in)
    };
    !error.get_type().mro().iter().any(|class| module(class).is_ok_and(is_network))
}

/// True if a store or a web server answered that there is no such object: status 404.
fn says_missing(error: &Bound<'_, PyBaseException>) -> bool {
    let of_urllib = || error.getattr("code")?.extract::<u16>();
    let of_requests = || error.getattr("response")?.getattr("status_code")?.extract::<u16>();
    let of_botocore = || {
        let answer = error.getattr("response")?.get_item("ResponseMetadata")?;
        answer.get_item("HTTPStatusCode")?.extract::<u16>()
    };
    [of_urllib(), of_requests(), of_botocore()].into_iter().any(|status: PyResult<u16>| status.is_ok_and(|s| s == 404))
}

/// A user's array as contiguous bytes of one of Feedline's element types.
pub struct Taken {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Py<PyBytes>,
}

impl Taken {
    pub fn new(value: &Bound<'_, PyAny>) -> PyResult<Taken> {
        let py = value.py();
        if value.is_instance_of::<PyTuple>() || value.is_instance_of::<PyList>() || value.is_instance_of::<PyDict>() {
            return Err(PyTypeError::new_err(format!(
                "a field is a {} of its own, and fields within fields are not delivered. Return them side by side, or make \
                 one array of it: numpy.stack(...), torch.stack(...)",
                value.get_type().name()?
            )));
        }
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

    /// The same in the library's memory.
    pub fn array(self, py: Python<'_>) -> PyResult<feedline::Array> {
        let array = feedline::Array::try_zeros(self.dtype, self.shape);
        let mut array = array.map_err(|error| crate::errors::raise(py, error))?;
        array.as_bytes_mut().copy_from_slice(self.bytes.as_bytes(py));
        Ok(array)
    }
}

impl PyStep {
    pub fn new(function: Py<PyAny>, with_rng: bool) -> PyStep {
        PyStep { function, with_rng }
    }

    /// Calls it with arrays; its draws come from `stream`.
    fn call<'py>(
        &self,
        py: Python<'py>,
        arrays: impl IntoIterator<Item = feedline::Array>,
        request: &Request,
        stream: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let asarray = numpy(py, "asarray")?;
        let is_worker = std::thread::current().name().is_some_and(|name| name.starts_with(WORKER));
        let key = if is_worker {
            py.None().into_bound(py)
        } else {
            let mut rng = request.rng(&format!("{stream}.globals"));
            (u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())).into_pyobject(py)?.into_any()
        };
        let mut arguments = vec![key];
        for array in arrays {
            arguments.push(asarray.call1((Array::new(array),))?);
        }
        let words = PyDict::new(py);
        if self.with_rng {
            words.set_item("rng", generator(py, request.rng(stream))?)?;
        }
        self.function.bind(py).call(PyTuple::new(py, arguments)?, Some(&words))
    }

    /// Calls it with one array and takes one back.
    fn change(&self, py: Python<'_>, array: feedline::Array, request: &Request, stream: &str) -> PyResult<Taken> {
        Taken::new(&self.call(py, [array], request, stream)?)
    }
}

impl CustomTransform for PyStep {
    fn picture(&self, image: &mut RgbImage, request: &Request, stream: &str) -> Result<(), StepError> {
        let shape = [image.height_px as usize, image.width_px as usize, 3];
        let array = feedline::Array::try_from_slice(shape, &image.pixels).map_err(no_memory)?;
        let done = with_python(|py| {
            let taken = self.change(py, array, request, stream)?;
            let &[height, width, 3] = &taken.shape[..] else { return Err(wrong_picture(&taken)) };
            if taken.dtype != DType::U8 || height == 0 || width == 0 {
                return Err(wrong_picture(&taken));
            }
            image.pixels.clear();
            let bytes = taken.bytes.as_bytes(py).len();
            let no_memory =
                |_| PyMemoryError::new_err(format!("a picture that a step returned needs {bytes} bytes of memory"));
            image.pixels.try_reserve(bytes).map_err(no_memory)?;
            image.pixels.extend_from_slice(taken.bytes.as_bytes(py));
            (image.height_px, image.width_px) = (height as u32, width as u32);
            Ok(())
        });
        done.map_err(step_error)
    }

    fn values(&self, values: &mut [f32], size_px: [u32; 2], request: &Request, stream: &str) -> Result<(), StepError> {
        let [height, width] = size_px.map(|px| px as usize);
        let array = feedline::Array::try_from_slice([3, height, width], values).map_err(no_memory)?;
        let done = with_python(|py| {
            let taken = self.change(py, array, request, stream)?;
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

/// The error if there is no memory for the arguments of a step.
fn no_memory(error: Error) -> StepError {
    step_error(PyMemoryError::new_err(error.to_string()))
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
    /// Calls the function on sample `first` to learn what it returns: one value, a tuple, or a dict.
    pub fn new(py: Python<'_>, inner: Arc<dyn Pipeline>, step: PyStep, name: String, first: u64) -> PyResult<Mapped> {
        let plan = Plan::unshuffled(inner.len().max(1), 1).map_err(|e| crate::errors::raise(py, e))?;
        let first = Request { index: first, ..plan.epoch(0).at(0) };
        let mut mapped = Mapped { inner, step, name, fields: Vec::new() };
        let sample = py.detach(|| make_sample(&*mapped.inner, &first, &mut SampleContext::default()));
        let sample = sample.map_err(|e| crate::errors::raise(py, e))?;
        let made = with_python(|py| mapped.call(py, sample.fields, &first))
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
        let made = self.step.call(py, fields, request, &format!("map.{}", self.name))?;
        if let Ok(fields) = made.cast::<PyDict>() {
            return fields.iter().map(|(name, value)| Ok((Some(name.extract()?), Taken::new(&value)?))).collect();
        }
        // A list is treated as a tuple, as in torch, and not converted to one array.
        if made.is_instance_of::<PyTuple>() || made.is_instance_of::<PyList>() {
            return made.try_iter()?.map(|value| Ok((None, Taken::new(&value?)?))).collect();
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

// What is read, and how, is the inner pipeline's.
#[deny(clippy::missing_trait_methods)]
impl Pipeline for Mapped {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn is_empty(&self) -> bool {
        self.inner.is_empty()
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

    fn skipped(&self) -> Vec<Skipped> {
        self.inner.skipped()
    }

    fn read(&self, request: &Request, raw: &mut Raw, context: &mut SampleContext) -> Result<()> {
        self.inner.read(request, raw, context)
    }

    fn sample_reader(&self) -> Option<&SampleReader> {
        self.inner.sample_reader()
    }

    fn read_ahead(&self) -> usize {
        self.inner.read_ahead()
    }

    fn is_near(&self, one: u64, next: u64) -> bool {
        self.inner.is_near(one, next)
    }

    fn read_many(&self, requests: &[Request], raws: &mut [Raw], context: &mut SampleContext) -> Vec<Result<()>> {
        self.inner.read_many(requests, raws, context)
    }

    fn raw_bytes(&self, index: u64) -> u64 {
        self.inner.raw_bytes(index)
    }

    fn follow(&self, plan: &Plan) -> Result<()> {
        self.inner.follow(plan)
    }

    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, context: &mut SampleContext) -> Result<()> {
        let sample = sample_of(&*self.inner, request, raw, context)?;
        context.enter(Stage::Augment);
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

/// The number that each sample of [`Numbers`] is.
#[derive(Clone, Copy)]
pub enum Number {
    /// Sample i is the number i, the argument of a Python dataset's `__getitem__`.
    Index,
    /// 64 random bits that belong to the sample in this pass, to seed generators with.
    Random,
}

/// Samples of one number each.
pub struct Numbers {
    len: u64,
    fingerprint: u64,
    number: Number,
    fields: Vec<FieldSpec>,
}

impl Numbers {
    pub fn new(len: u64, fingerprint: u64, number: Number) -> Numbers {
        Numbers { len, fingerprint, number, fields: vec![FieldSpec::stack("number", DType::I64, [])] }
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

    fn read(&self, _: &Request, _: &mut Raw, _: &mut SampleContext) -> Result<()> {
        Ok(())
    }

    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, _: &mut SampleContext) -> Result<()> {
        slot.dense::<i64>("number")[0] = match self.number {
            Number::Index => request.index as i64,
            Number::Random => request.rng("items").next_u64().cast_signed(),
        };
        Ok(())
    }
}
