//! The loader for Python: one engine, its cursor, and batches as tensors. Owns the waiting (it handles signals and
//! releases the interpreter) and the behaviour after a fork; order, threads and epochs are the library's.

use crate::array::{Array, capsule};
use crate::errors::raise;
use crate::plan::{Plan, parse_cursor};
use crate::source::PySource;
use crate::steps::is_inside;
use feedline::deliver::{LoaderOptions, OnBadSample};
use feedline::event::{Event, Sink};
use feedline::{Batch, BatchField, Error, Result};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest time that a wait may delay Python's signals.
const SIGNALS: Duration = Duration::from_millis(50);

/// Warnings and replaced samples go to a function of Python's, as JSON.
struct Listener(Py<PyAny>);

impl Sink for Listener {
    fn emit(&self, event: &Event) -> Result<()> {
        let (kind, text) = match event {
            Event::Warning { message } | Event::Skipped { message, .. } => ("warning", message.clone()),
            Event::Replaced(bad) => ("replaced", serde_json::to_string(bad).unwrap_or_default()),
            _ => return Ok(()),
        };
        let heard = Python::try_attach(|py| self.0.call1(py, (kind, text)).map(drop));
        match heard {
            Some(Err(error)) => Err(Error::config(error.to_string(), "Warnings were turned into errors")),
            _ => Ok(()),
        }
    }
}

/// The output type of a batch, with the function that converts to it.
enum Form {
    /// `torch.utils.dlpack.from_dlpack`.
    Torch(Py<PyAny>),
    /// `numpy.asarray`.
    Numpy(Py<PyAny>),
    Dlpack,
}

/// One engine with its threads.
#[pyclass(frozen, weakref, module = "feedline._native")]
pub struct Loader {
    /// `None` once closed.
    engine: Mutex<Option<feedline::deliver::Loader>>,
    /// The process that made it: threads do not survive a fork.
    process: u32,
    began: Instant,
    num_workers: usize,
    form: Form,
    /// Called with the fields and the facts of a batch.
    batch: Py<PyAny>,
}

#[pymethods]
impl Loader {
    #[new]
    #[pyo3(signature = (source, plan, *, rank, batch_size, drop_last, num_workers, memory_budget_bytes, on_bad_sample,
                        max_bad_samples, form, batch, listener))]
    #[expect(clippy::too_many_arguments, reason = "one keyword argument each")]
    fn new(
        py: Python<'_>,
        source: &PySource,
        plan: &Plan,
        rank: u64,
        batch_size: u64,
        drop_last: bool,
        num_workers: usize,
        memory_budget_bytes: u64,
        on_bad_sample: &str,
        max_bad_samples: u64,
        form: &str,
        batch: Py<PyAny>,
        listener: Py<PyAny>,
    ) -> PyResult<Loader> {
        let on_bad_sample = match on_bad_sample {
            "fail" => OnBadSample::Fail,
            "replace" => OnBadSample::Replace,
            _ => {
                let problem = format!("on_bad_sample is {on_bad_sample:?}");
                return Err(raise(py, Error::config(problem, "Use \"fail\" or \"replace\"")));
            }
        };
        let form = match form {
            "torch" => Form::Torch(py.import("torch.utils.dlpack")?.getattr("from_dlpack")?.unbind()),
            "numpy" => Form::Numpy(py.import("numpy")?.getattr("asarray")?.unbind()),
            "dlpack" => Form::Dlpack,
            _ => {
                let problem = format!("output is {form:?}");
                return Err(raise(py, Error::config(problem, "Use \"torch\", \"numpy\" or \"dlpack\"")));
            }
        };
        let options = LoaderOptions {
            batch_size,
            rank,
            drop_last,
            num_workers,
            memory_budget_bytes,
            on_bad_sample,
            max_bad_samples,
            sink: Arc::new(Listener(listener)),
            ..LoaderOptions::default()
        };
        let pipeline = Arc::clone(&source.pipeline);
        let plan = plan.0.clone();
        let engine = py.detach(|| feedline::deliver::Loader::new(pipeline, plan, options));
        let engine = Mutex::new(Some(engine.map_err(|e| raise(py, e))?));
        Ok(Loader { engine, process: std::process::id(), began: Instant::now(), num_workers, form, batch })
    }

    /// Begins a pass: over the rest of the epoch that was set or loaded, else over the next epoch.
    fn begin(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |engine| {
            engine.begin_pass();
            Ok(())
        })
    }

    /// The next batch; `None` at the end of the epoch.
    fn next<'py>(&self, py: Python<'py>, timeout_s: f64) -> PyResult<Option<Bound<'py, PyAny>>> {
        let asked = Instant::now();
        loop {
            match self.with(py, |engine| engine.poll_batch(Some(SIGNALS)))? {
                Poll::Ready(None) => return Ok(None),
                Poll::Ready(Some(batch)) => return self.convert(py, batch).map(Some),
                Poll::Pending => py.check_signals()?,
            }
            if timeout_s > 0.0 && asked.elapsed().as_secs_f64() > timeout_s {
                let class = py.import("feedline.errors")?.getattr("LoaderTimeoutError")?;
                let message = format!(
                    "the loader had no batch ready within timeout={timeout_s} seconds. Raise timeout, or 0 to wait for \
                     ever; slow storage and too few num_workers are the usual reasons"
                );
                return Err(PyErr::from_value(class.call1((message,))?));
            }
        }
    }

    /// (epoch, position) up to which samples were delivered.
    fn place(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        self.with(py, |engine| Ok((engine.epoch(), engine.position())))
    }

    /// Batches of a whole epoch.
    fn length(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |engine| Ok(engine.len()))
    }

    /// Batches from the cursor to the end of its epoch.
    fn left(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |engine| Ok(engine.left()))
    }

    fn set_epoch(&self, py: Python<'_>, epoch: u64) -> PyResult<()> {
        self.with(py, |engine| {
            engine.set_epoch(epoch);
            Ok(())
        })
    }

    /// The cursor as JSON.
    fn cursor(&self, py: Python<'_>) -> PyResult<String> {
        let cursor = self.with(py, |engine| Ok(engine.state_dict()))?;
        serde_json::to_string(&cursor).map_err(|e| PyRuntimeError::new_err(e.to_string()))
    }

    fn load_cursor(&self, py: Python<'_>, json: &str) -> PyResult<()> {
        let cursor = parse_cursor(py, json)?;
        self.with(py, |engine| engine.load_state_dict(&cursor))
    }

    /// The counters of the stages as JSON, and the verdict in words.
    fn stats(&self, py: Python<'_>) -> PyResult<(String, String)> {
        let stats = self.with(py, |engine| Ok(engine.stats()))?;
        let json = serde_json::to_string(&stats).map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
        Ok((json, stats.verdict(self.began.elapsed().as_secs_f64(), self.num_workers)))
    }

    /// Stops the threads. Delivered batches stay valid.
    fn close(&self, py: Python<'_>) {
        if self.process == std::process::id() {
            py.detach(|| {
                let engine = self.lock().take();
                engine.map(end)
            });
        }
    }
}

impl Loader {
    fn lock(&self) -> MutexGuard<'_, Option<feedline::deliver::Loader>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the engine without the interpreter, so that other Python threads continue.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut feedline::deliver::Loader) -> Result<T> + Send,
    ) -> PyResult<T> {
        if self.process != std::process::id() {
            return Err(PyRuntimeError::new_err(format!(
                "this DataLoader was made in process {} and is used in process {} after a fork, where its threads do \
                 not exist. Make a DataLoader in each process; multiprocessing: set_start_method(\"spawn\")",
                self.process,
                std::process::id()
            )));
        }
        let done = py.detach(|| self.lock().as_mut().map(work));
        match done {
            Some(done) => done.map_err(|e| raise(py, e)),
            None => Err(PyRuntimeError::new_err("this DataLoader was closed; make a new one")),
        }
    }

    fn convert<'py>(&self, py: Python<'py>, batch: Batch) -> PyResult<Bound<'py, PyAny>> {
        let names = PyList::empty(py);
        let mut values = Vec::with_capacity(batch.fields.len());
        for (name, field) in batch.fields {
            names.append(name)?;
            values.push(match field {
                BatchField::Stack(array) => self.array(py, array)?,
                BatchField::Pad { values, counts: with } | BatchField::Concat { values, offsets: with } => {
                    PyTuple::new(py, [self.array(py, values)?, self.array(py, with)?])?.into_any()
                }
                BatchField::List(bytes) => PyList::new(py, bytes.iter().map(|bytes| &bytes[..]))?.into_any(),
            });
        }
        let facts = Facts { epoch: batch.epoch, step: batch.step, valid: batch.valid, indices: batch.indices };
        self.batch.bind(py).call1((PyTuple::new(py, values)?, names, facts))
    }

    fn array<'py>(&self, py: Python<'py>, array: feedline::Array) -> PyResult<Bound<'py, PyAny>> {
        match &self.form {
            Form::Torch(from_dlpack) => from_dlpack.bind(py).call1((capsule(py, &Arc::new(array), false)?,)),
            Form::Numpy(asarray) => asarray.bind(py).call1((Array::new(array),)),
            Form::Dlpack => Ok(Bound::new(py, Array::new(array))?.into_any()),
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        let engine = self.engine.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if self.process != std::process::id() {
            std::mem::forget(engine); // its threads were not copied by the fork, so nothing would ever end a wait for them
        } else if engine.is_some() {
            // A worker may be waiting for the interpreter, so this thread must not hold it while it waits for the worker.
            Python::try_attach(|py| py.detach(|| engine.map(end)));
        }
    }
}

/// Longest wait for the steps of a closed loader. A thread cannot be stopped, and Python handles no Ctrl-C while
/// native code waits. `loader.py` waits equally long at the end of the program.
const PATIENCE: Duration = Duration::from_secs(5);

/// Background threads that end engines, and the process that they belong to: a fork copies no threads.
static ENDING: Mutex<(u32, Vec<JoinHandle<()>>)> = Mutex::new((0, Vec::new()));

/// Ends an engine and its threads. A step that drops an engine (a garbage collection may run at any moment) cannot wait for
/// its workers: it may be one of them, and the others may wait for the lock that it holds. Then, and if a step takes longer
/// than [`PATIENCE`], only a background thread waits.
fn end(engine: feedline::deliver::Loader) {
    let Some(ending) = begin_to_end(engine) else { return };
    if !is_inside() {
        if ends_in_time(&ending, Instant::now() + PATIENCE) {
            return drop(ending.join());
        }
        say_late("a loader was closed");
    }
    ending_now().1.push(ending);
}

/// Starts a thread that ends an engine; `None` if no thread can be started: the engine is then ended here.
fn begin_to_end(engine: feedline::deliver::Loader) -> Option<JoinHandle<()>> {
    std::thread::Builder::new().name("feedline-end".into()).spawn(|| drop(engine)).ok()
}

fn ending_now() -> MutexGuard<'static, (u32, Vec<JoinHandle<()>>)> {
    let mut ending = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
    if ending.0 != std::process::id() {
        // Threads of this process may have been given the same handles.
        std::mem::take(&mut ending.1).into_iter().for_each(std::mem::forget);
        ending.0 = std::process::id();
    }
    ending
}

/// Waits for a thread until `deadline`; true if it has ended.
fn ends_in_time(thread: &JoinHandle<()>, deadline: Instant) -> bool {
    let mut pause = Duration::from_micros(20);
    while !thread.is_finished() && Instant::now() < deadline {
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    thread.is_finished()
}

fn say_late(what: &str) {
    feedline::say!(
        "feedline: {what} {} s ago, and a step of it (a Dataset's __getitem__, a function given to .map) has not returned. \
         Nobody waits for it any longer; give what it waits for, such as a network or a lock, a time limit",
        PATIENCE.as_secs()
    );
}

/// Ends these engines, and waits for them and all dropped ones, at most `patience_s` seconds. True if all have ended; if not,
/// `with_words` prints a message.
#[pyfunction]
pub fn settle(py: Python<'_>, engines: Vec<Py<Loader>>, patience_s: f64, with_words: bool) -> bool {
    py.detach(|| {
        let engines = engines.iter().map(Py::get).filter(|engine| engine.process == std::process::id());
        let mut ending: Vec<_> = engines.filter_map(|engine| engine.lock().take()).filter_map(begin_to_end).collect();
        ending.append(&mut ending_now().1);
        let deadline = Instant::now() + Duration::from_secs_f64(patience_s);
        ending.retain(|thread| !ends_in_time(thread, deadline));
        let has_ended = ending.is_empty();
        if !has_ended && with_words {
            say_late("the program was at its end");
        }
        ending_now().1.append(&mut ending);
        has_ended
    })
}

/// True if this thread is running a user's step.
#[pyfunction]
pub fn inside() -> bool {
    is_inside()
}

/// The position of a batch, its number of real samples and their indices.
#[pyclass(frozen, get_all, module = "feedline._native")]
pub struct Facts {
    epoch: u64,
    step: u64,
    valid: usize,
    indices: Vec<u64>,
}
