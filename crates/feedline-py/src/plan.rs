//! The plan for Python: arguments in, indices and cursors out.

use crate::errors::raise;
use feedline::plan::{Cursor, EpochPlan, Permutation, Tail};
use feedline::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::PyList;
use std::sync::{Arc, Mutex, PoisonError};

/// Indices per list: Python then iterates them without calls of native code.
const CHUNK: u64 = 4096;

/// Reads a cursor from the JSON of a `state_dict()`; other text is a `ConfigError`.
pub fn parse_cursor(py: Python<'_>, json: &str) -> PyResult<Cursor> {
    serde_json::from_str(json).map_err(|e| {
        let problem = format!("this is no state of a loader or sampler: {e}");
        raise(py, Error::config(problem, "Give what state_dict() returned, unchanged"))
    })
}

/// See `feedline::plan::Plan`.
#[pyclass(frozen, module = "feedline._native")]
pub struct Plan(pub feedline::plan::Plan);

#[pymethods]
impl Plan {
    #[new]
    #[pyo3(signature = (len, num_replicas, *, permutation, seed, tail, merge_epochs=None, epoch_length=None, weights=None,
                        mix=None, lengths=None))]
    #[expect(clippy::too_many_arguments, reason = "one keyword argument each")]
    fn new(
        py: Python<'_>,
        len: u64,
        num_replicas: u64,
        permutation: &str,
        seed: u64,
        tail: &str,
        merge_epochs: Option<u64>,
        epoch_length: Option<u64>,
        weights: Option<Vec<f64>>,
        mix: Option<Vec<(u64, f64)>>,
        lengths: Option<(Vec<u32>, u64, u64)>,
    ) -> PyResult<Plan> {
        let make = || -> Result<feedline::plan::Plan> {
            let mut plan = feedline::plan::Plan::unshuffled(len, num_replicas)?.with_seed(seed);
            plan = plan.with_tail(match tail {
                "pad" => Tail::Pad,
                "drop" => Tail::Drop,
                "exact" => Tail::Exact,
                _ => return Err(Error::config(format!("tail is {tail:?}"), "Use \"pad\", \"drop\" or \"exact\"")),
            });
            plan = plan.with_permutation(match permutation {
                "none" => Permutation::None,
                "torch" => Permutation::Torch,
                "feistel" => Permutation::Feistel,
                _ => {
                    let problem = format!("permutation is {permutation:?}");
                    return Err(Error::config(problem, "Use \"torch\", \"feistel\" or \"none\""));
                }
            })?;
            if let Some(epochs) = merge_epochs {
                plan = plan.with_merged_epochs(epochs)?;
            }
            if let Some(weights) = &weights {
                plan = plan.with_weights(weights)?;
            }
            if let Some(sources) = &mix {
                plan = plan.with_mixture(sources)?;
            }
            if let Some(positions) = epoch_length {
                plan = plan.with_epoch_length(positions)?;
            }
            if let Some((lengths, window, chunk)) = lengths {
                plan = plan.with_buckets(lengths.into(), window, chunk)?;
            }
            Ok(plan)
        };
        py.detach(make).map(Plan).map_err(|e| raise(py, e))
    }

    /// Samples of a rank in an epoch after its first `start` global positions.
    fn num_samples(&self, rank: u64, start: u64) -> u64 {
        self.0.epoch_from(0, start).num_samples(rank)
    }

    /// Positions that are dealt, padding included.
    fn total_size(&self) -> u64 {
        self.0.epoch(0).total_size()
    }

    /// Iterator over the indices of a rank in lists.
    fn indices(&self, epoch: u64, rank: u64, start: u64) -> Indices {
        let epoch = self.0.epoch_from(epoch, start);
        let left = Mutex::new((0, epoch.num_samples(rank)));
        Indices { epoch: Arc::new(epoch), rank, left }
    }

    /// The cursor of this plan as JSON; without a data set its fingerprint is 0.
    fn cursor(&self, epoch: u64, position: u64) -> PyResult<String> {
        let cursor = Cursor::new(0, &self.0, epoch, position, 0);
        serde_json::to_string(&cursor).map_err(|e| pyo3::exceptions::PyValueError::new_err(e.to_string()))
    }

    /// The plan to resume with from a cursor, and that cursor's epoch and position.
    fn resume(&self, py: Python<'_>, cursor: &str) -> PyResult<(Plan, u64, u64)> {
        let cursor = parse_cursor(py, cursor)?;
        let plan = cursor.resume(0, &self.0).map_err(|e| raise(py, e))?;
        Ok((Plan(plan), cursor.epoch, cursor.position))
    }
}

/// The indices of one rank, a list at a time.
#[pyclass(frozen, module = "feedline._native")]
pub struct Indices {
    epoch: Arc<EpochPlan>,
    rank: u64,
    /// Slots taken, and all of them.
    left: Mutex<(u64, u64)>,
}

#[pymethods]
impl Indices {
    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        let chunk: Vec<u64> = py.detach(|| {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            let slots = left.0..(left.0 + CHUNK).min(left.1);
            left.0 = slots.end;
            self.epoch.slots(self.rank, slots).map(|request| request.index).collect()
        });
        if chunk.is_empty() { Ok(None) } else { PyList::new(py, chunk).map(Some) }
    }
}
