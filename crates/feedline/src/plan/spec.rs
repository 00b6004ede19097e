//! A plan as a small JSON value, for a ledger; the plan can be rebuilt from it without the data set.

use super::{MixOrigin, Permutation, Plan, Sampling, Tail};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The parameters of a plan that has no weights or lengths per sample.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanSpec {
    len: u64,
    num_replicas: u64,
    seed: u64,
    permutation: Permutation,
    tail: Tail,
    merged_epochs: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch_length: Option<u64>,
    /// Sizes of the sources, and their weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mixture: Option<(Vec<u64>, MixOrigin)>,
}

impl Plan {
    /// True if `other` gives the same order. The number of ranks may differ, and so may a mixture's weights from its origin
    /// on.
    pub(crate) fn goes_with(&self, other: &Plan) -> bool {
        let as_other = match other.mix() {
            Some(mix) => self.clone().with_mix(mix),
            None => Ok(self.clone()),
        };
        as_other.is_ok_and(|plan| plan.fingerprint() == other.fingerprint())
    }

    /// The plan as a value of JSON.
    ///
    /// # Errors
    /// A plan with a weight or a length for each sample: that is data, not a description.
    pub fn describe(&self) -> Result<serde_json::Value> {
        let (merged_epochs, mixture) = match &self.sampling {
            Sampling::Passes { merged } if self.buckets.is_none() => (*merged, None),
            Sampling::Mixed(mixture) if self.buckets.is_none() => {
                (1, Some((mixture.sizes().to_vec(), mixture.now().clone())))
            }
            _ => {
                return Err(Error::Unsupported {
                    what: "a ledger of a plan with a weight or a length for each sample".into(),
                    remedy: "Train it without a ledger".into(),
                });
            }
        };
        let &Plan { len, num_replicas, seed, permutation, tail, epoch_length, .. } = self;
        let described = PlanSpec { len, num_replicas, seed, permutation, tail, merged_epochs, epoch_length, mixture };
        serde_json::to_value(described)
            .map_err(|e| Error::config(format!("the plan is not JSON: {e}"), "Please report this"))
    }

    /// Rebuilds a plan from [`Plan::describe`]'s value.
    ///
    /// # Errors
    /// A value that does not describe a plan.
    pub(crate) fn from_description(value: &serde_json::Value) -> Result<Plan> {
        let described = PlanSpec::deserialize(value).map_err(|e| {
            Error::config(format!("no plan is described: {e}"), "Use the version of feedline that wrote it")
        })?;
        let mut plan = Plan::unshuffled(described.len, described.num_replicas)?
            .with_seed(described.seed)
            .with_tail(described.tail);
        if let Some(length) = described.epoch_length {
            plan = plan.with_epoch_length(length)?;
        }
        let plan = match described.mixture {
            Some((sizes, mix)) => {
                let sources: Vec<(u64, f64)> = sizes.into_iter().zip(mix.weights.iter().copied()).collect();
                plan.with_mixture(&sources)?.with_mix(&mix)
            }
            None => plan.with_merged_epochs(described.merged_epochs),
        }?;
        // Must come last: the limit of torch's order depends on the sizes of the sources.
        plan.with_permutation(described.permutation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_comes_back_from_its_description() {
        let plan = |n| Plan::new(n, 3).unwrap().with_seed(9).with_tail(Tail::Drop);
        let mixture = [(4, 1.0), (6, 0.25)];
        let plans = [
            plan(10),
            plan(10).with_epoch_length(7).unwrap(),
            plan(10).with_merged_epochs(3).unwrap(),
            plan(10).with_permutation(Permutation::Feistel).unwrap().with_mixture(&mixture).unwrap(),
        ];
        for plan in plans {
            let text = plan.describe().unwrap().to_string();
            let again = Plan::from_description(&serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(again, plan);
            assert_eq!(again.fingerprint(), plan.fingerprint());
        }
        let weighted = plan(2).with_weights(&[1.0, 2.0]).unwrap();
        assert!(weighted.describe().unwrap_err().to_string().contains("a weight or a length for each sample"));
        assert!(Plan::from_description(&serde_json::json!({"len": 3})).is_err());
    }
}
