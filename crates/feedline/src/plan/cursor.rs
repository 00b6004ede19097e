//! The cursor: the position of a run, in a few hundred bytes of JSON that are the same on every rank after equally many
//! steps. (With the tail `exact` some ranks have one step more than others; save at the end of the epoch there.)

use super::{MixOrigin, Plan};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Format of [`Cursor`]; a reader refuses a newer one.
const VERSION: u32 = 1;

/// Upper limit of the epoch, so that positions of the run cannot overflow; no run reaches it.
pub(crate) const MAX_EPOCH: u64 = 1 << 62;

/// The position of a run in its plan. It counts delivered samples, never prefetched ones. It does not depend on ranks,
/// workers or batch sizes, so any number of them can resume from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// For a mixture: its weights and the position from which they apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<MixOrigin>,
}

impl Cursor {
    /// A cursor for this data set and plan.
    pub fn new(dataset: u64, plan: &Plan, epoch: u64, position: u64, bad_samples: u64) -> Cursor {
        let hex = |word: u64| format!("{word:016x}");
        Cursor {
            version: VERSION,
            dataset: hex(dataset),
            plan: hex(plan.fingerprint()),
            epoch,
            position,
            bad_samples,
            mix: plan.mix().cloned(),
        }
    }

    /// Checks that the cursor belongs to this data set and plan.
    ///
    /// # Errors
    /// [`Error::Resume`] names what differs.
    pub fn check(&self, dataset: u64, plan: &Plan) -> Result<()> {
        self.resume(dataset, plan).map(drop)
    }

    /// The plan to resume with. It equals `plan`, except that a mixture also gets the number of draws before this position.
    /// Only the weights of a mixture may differ from those of the saved run.
    ///
    /// # Errors
    /// As [`Cursor::check`].
    pub fn resume(&self, dataset: u64, plan: &Plan) -> Result<Plan> {
        let now = Cursor::new(dataset, &self.before(plan), 0, 0, 0);
        for (field, saved, now) in [
            ("the cursor format", self.version.to_string(), now.version.to_string()),
            ("the data set (its files, labels or classes)", self.dataset.clone(), now.dataset),
            ("the plan (number of samples, seed, order or tail)", self.plan.clone(), now.plan),
        ] {
            if saved != now {
                return Err(Error::Resume { field, saved, now });
            }
        }
        if self.epoch > MAX_EPOCH {
            let (saved, now) = (self.epoch.to_string(), format!("at most {MAX_EPOCH}"));
            return Err(Error::Resume { field: "the epoch", saved, now });
        }
        self.goes_on(plan)
    }

    pub(crate) fn goes_on(&self, plan: &Plan) -> Result<Plan> {
        plan.clone().after(self.before(plan), self.epoch, self.position)
    }

    /// The plan of the run that saved this cursor, provided that it fits `plan`.
    fn before(&self, plan: &Plan) -> Plan {
        self.mix.as_ref().and_then(|mix| plan.clone().with_mix(mix).ok()).unwrap_or_else(|| plan.clone())
    }
}
