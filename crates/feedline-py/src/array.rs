//! Passes an array of a batch to Python without a copy: DLPack for torch and others, the array interface for
//! NumPy. Owns the layout of DLPack's structures and the rules of freeing; the storage goes back to its pool with the
//! last Python object that refers to it.
//!
//! DLPack: <https://dmlc.github.io/dlpack/latest/c_api.html>.

use crate::errors::raise;
use feedline::DType;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::Arc;

/// A dense row-major array in main memory.
#[pyclass(frozen, module = "feedline._native")]
pub struct Array(Arc<feedline::Array>);

const CPU: i32 = 1;

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// DLPack before 1.0, which torch still requests in some cases.
#[repr(C)]
struct Managed {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

/// DLPack 1.x.
#[repr(C)]
struct ManagedVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedVersioned)>,
    flags: u64,
    tensor: DlTensor,
}

/// The objects that a managed tensor keeps alive.
struct Context {
    array: Arc<feedline::Array>,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

impl Context {
    fn new(array: &Arc<feedline::Array>) -> Box<Context> {
        let shape: Vec<i64> = array.shape().iter().map(|&n| n as i64).collect();
        let mut strides = vec![1; shape.len()];
        for at in (1..shape.len()).rev() {
            strides[at - 1] = strides[at] * shape[at];
        }
        Box::new(Context { array: Arc::clone(array), shape, strides })
    }

    fn tensor(&mut self) -> DlTensor {
        let (code, bits) = match self.array.dtype() {
            DType::I32 => (0, 32),
            DType::I64 => (0, 64),
            DType::U8 => (1, 8),
            DType::U16 => (1, 16),
            DType::F32 => (2, 32),
            DType::F64 => (2, 64),
        };
        DlTensor {
            data: self.array.as_bytes().as_ptr().cast_mut().cast(),
            device_type: CPU,
            device_id: 0,
            ndim: self.shape.len() as i32,
            code,
            bits,
            lanes: 1,
            shape: self.shape.as_mut_ptr(),
            strides: self.strides.as_mut_ptr(),
            byte_offset: 0,
        }
    }
}

unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: `capsule` made both boxes and gave them away; the consumer calls this once.
    let managed = unsafe { Box::from_raw(managed) };
    // SAFETY: as above.
    drop(unsafe { Box::from_raw(managed.context.cast::<Context>()) });
}

unsafe extern "C" fn delete_versioned(managed: *mut ManagedVersioned) {
    // SAFETY: as in `delete`.
    let managed = unsafe { Box::from_raw(managed) };
    // SAFETY: as in `delete`.
    drop(unsafe { Box::from_raw(managed.context.cast::<Context>()) });
}

const NAME: &CStr = c"dltensor";
const NAME_VERSIONED: &CStr = c"dltensor_versioned";

/// Frees a tensor that was not consumed: a consumer renames the capsule and frees the tensor itself.
unsafe extern "C" fn destroy(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this with the capsule that is dying, made by `capsule` with one of the two names; under its
    // first name it still owns the tensor.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 1 {
            delete(ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr()).cast());
        } else if ffi::PyCapsule_IsValid(capsule, NAME_VERSIONED.as_ptr()) == 1 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, NAME_VERSIONED.as_ptr()).cast());
        }
    }
}

/// A DLPack capsule of an array.
pub fn capsule<'py>(py: Python<'py>, array: &Arc<feedline::Array>, versioned: bool) -> PyResult<Bound<'py, PyAny>> {
    let mut context = Context::new(array);
    let tensor = context.tensor();
    let context = Box::into_raw(context).cast();
    let (pointer, name): (*mut c_void, _) = if versioned {
        let deleter = Some(delete_versioned as unsafe extern "C" fn(*mut ManagedVersioned));
        let managed = ManagedVersioned { major: 1, minor: 0, context, deleter, flags: 0, tensor };
        (Box::into_raw(Box::new(managed)).cast(), NAME_VERSIONED)
    } else {
        let deleter = Some(delete as unsafe extern "C" fn(*mut Managed));
        (Box::into_raw(Box::new(Managed { tensor, context, deleter })).cast(), NAME)
    };
    // SAFETY: the pointer is not null, the name is static, and `destroy` frees what the pointer owns; the result is a
    // new reference or null with an exception set.
    unsafe {
        let capsule = ffi::PyCapsule_New(pointer, name.as_ptr(), Some(destroy));
        if capsule.is_null() {
            if versioned {
                delete_versioned(pointer.cast());
            } else {
                delete(pointer.cast());
            }
        }
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}

/// NumPy's name of an element type.
pub fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::U8 => "|u1",
        DType::U16 => "<u2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
    }
}

impl Array {
    pub fn new(array: feedline::Array) -> Array {
        Array(Arc::new(array))
    }
}

#[pymethods]
impl Array {
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if dl_device.is_some_and(|device| device != (CPU, 0)) || stream.is_some_and(|stream| !stream.is_none()) {
            return Err(PyBufferError::new_err("this array is in main memory; move it after taking it over"));
        }
        let array = match copy {
            Some(true) => &Arc::new(py.detach(|| self.0.try_clone()).map_err(|error| raise(py, error))?),
            _ => &self.0,
        };
        capsule(py, array, max_version.is_some_and(|(major, _)| major >= 1))
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        (CPU, 0)
    }

    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("typestr", type_name(self.0.dtype()))?;
        interface.set_item("shape", PyTuple::new(py, self.0.shape())?)?;
        interface.set_item("data", (ptr::from_ref(self.0.as_bytes()).cast::<u8>() as usize, false))?;
        Ok(interface)
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.shape())
    }

    /// Address of the first element.
    #[getter]
    fn data_ptr(&self) -> usize {
        self.0.as_bytes().as_ptr() as usize
    }
}
