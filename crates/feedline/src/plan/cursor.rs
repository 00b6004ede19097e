//! The cursor: where a run stands, in a few hundred bytes of JSON that are the same on every rank.

use super::Plan;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Format of [`Cursor`]; a reader refuses a newer one.
const VERSION: u32 = 1;

/// Where a run stands in its plan. Counts delivered samples, never prefetched ones; says nothing of ranks, workers or
/// batch sizes, so any number of them can go on from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    pub version: u32,
    /// Fingerprint of the data set, hexadecimal.
    pub dataset: String,
    /// Fingerprint of the plan, hexadecimal.
    pub plan: String,
    pub epoch: u64,
    /// Global positions of the epoch already delivered.
    pub position: u64,
    /// Bad samples met so far.
    pub bad_samples: u64,
}

impl Cursor {
    /// A cursor for this data set and plan.
    pub(crate) fn new(dataset: u64, plan: &Plan, epoch: u64, position: u64, bad_samples: u64) -> Cursor {
        let hex = |word: u64| format!("{word:016x}");
        Cursor { version: VERSION, dataset: hex(dataset), plan: hex(plan.fingerprint()), epoch, position, bad_samples }
    }

    /// Checks that the cursor belongs to this data set and plan.
    ///
    /// # Errors
    /// [`Error::Resume`] names what differs.
    pub fn check(&self, dataset: u64, plan: &Plan) -> Result<()> {
        let now = Cursor::new(dataset, plan, 0, 0, 0);
        for (field, saved, now) in [
            ("the cursor format", self.version.to_string(), now.version.to_string()),
            ("the data set (its files, labels or classes)", self.dataset.clone(), now.dataset),
            ("the plan (number of samples, seed, permutation or tail)", self.plan.clone(), now.plan),
        ] {
            if saved != now {
                return Err(Error::Resume { field, saved, now });
            }
        }
        Ok(())
    }
}
