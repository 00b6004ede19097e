//! Converts errors of the library to exceptions of `feedline.errors`. Owns the mapping, and the attributes they carry.

use feedline::Error;
use feedline::pipeline::{Interrupted, NotOfTheSample};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The exception for an error. A failed step of the user's own keeps its exception, traceback included, as the cause.
pub fn raise(py: Python<'_>, error: Error) -> PyErr {
    build(py, error).unwrap_or_else(|failure| failure)
}

fn build(py: Python<'_>, error: Error) -> PyResult<PyErr> {
    let error = match error {
        // A KeyboardInterrupt in a user's step is raised unchanged.
        Error::Step { source, name, index, location } => {
            match source.downcast::<Interrupted>().map(|stop| stop.0.downcast()) {
                Ok(Ok(stop)) => return Ok(*stop),
                Ok(Err(source)) | Err(source) => Error::Step { source, name, index, location },
            }
        }
        error => error,
    };
    let message = error.to_string();
    let facts = PyDict::new(py);
    let mut cause = None;
    let error = match error {
        // The exception is that of the cause; its attributes name the sample.
        Error::Run { stage, index, location, source } => {
            facts.set_item("stage", stage.name())?;
            facts.set_item("index", index)?;
            facts.set_item("location", location)?;
            facts.set_item("problem", source.to_string())?;
            *source
        }
        error => error,
    };
    let class = match error {
        Error::Config { .. } | Error::SplitTooSmall { .. } => "ConfigError",
        Error::Dataset { location, .. } => {
            facts.set_item("path", location)?;
            "DatasetError"
        }
        Error::Sample { stage, index, location, problem } => {
            facts.set_item("stage", stage.name())?;
            facts.set_item("index", index)?;
            facts.set_item("location", location)?;
            facts.set_item("problem", problem)?;
            "SampleError"
        }
        Error::Step { name, index, location, source } => {
            facts.set_item("stage", "augment")?;
            facts.set_item("index", index)?;
            facts.set_item("location", location)?;
            facts.set_item("problem", source.to_string())?;
            facts.set_item("step", name)?;
            let source = source.downcast::<NotOfTheSample>().map_or_else(|source| source, |reason| reason.0);
            cause = source.downcast::<PyErr>().ok();
            "SampleError"
        }
        Error::TooManyBadSamples { found, limit, .. } => {
            facts.set_item("found", found)?;
            facts.set_item("limit", limit)?;
            "TooManyBadSamplesError"
        }
        Error::Io { path, source, .. } => {
            facts.set_item("path", path)?;
            facts.set_item("errno", source.raw_os_error())?;
            "FileError"
        }
        Error::Resume { field, saved, now } => {
            facts.set_item("field", field)?;
            facts.set_item("saved", saved)?;
            facts.set_item("now", now)?;
            "StateError"
        }
        Error::Checkpoint { path, .. } => {
            facts.set_item("path", path)?;
            "StateError"
        }
        Error::Unsupported { .. } => "UnsupportedError",
        Error::Memory { bytes, .. } => {
            facts.set_item("bytes", bytes)?;
            "OutOfMemoryError"
        }
        Error::Group { .. } => "RanksError",
        _ => "FeedlineError",
    };
    let exception = py.import("feedline.errors")?.getattr(class)?.call((message,), Some(&facts))?;
    let exception = PyErr::from_value(exception);
    exception.set_cause(py, cause.map(|cause| *cause));
    Ok(exception)
}
