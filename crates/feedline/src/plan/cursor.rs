//! The cursor: where a run stands, in a few hundred bytes of JSON that are the same on every rank after as many steps.
//! (With the tail `exact` some ranks have a step more than others; there the end of the epoch is the place to save.)

use super::{MixOrigin, Plan};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Format of [`Cursor`]; a reader refuses a newer one.
const VERSION: u32 = 1;

/// No run gets there; beyond, numbers would overflow.
pub(crate) const MAX_EPOCH: u64 = 1 << 62;

/// Where a run stands in its plan. Counts delivered samples, never prefetched ones; says nothing of ranks, workers or
/// batch sizes, so any number of them can go on from it.
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
    /// Of a mixture: its weights and where they came into force.
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

    /// The plan as it goes on from here. That is `plan` itself, but that a mixture knows what was drawn before; of a
    /// mixture, and of nothing else, the weights may have changed.
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

    /// As the run was that saved this, if this is the plan.
    fn before(&self, plan: &Plan) -> Plan {
        self.mix.as_ref().and_then(|mix| plan.clone().with_mix(mix).ok()).unwrap_or_else(|| plan.clone())
    }
}
