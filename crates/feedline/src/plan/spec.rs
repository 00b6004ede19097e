//! A plan as a small JSON value, for a ledger; the plan can be rebuilt from it without the data set.

use super::weighted::{MOST_DESCRIBED, MOST_RUNS};
use super::{MixOrigin, Permutation, Plan, Sampling, Tail};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The parameters of a plan that has no lengths per sample.
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
    /// Weights of the samples, each with the number of samples that have it in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights: Option<Vec<(u64, f64)>>,
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
    /// A plan with a length for each sample, or with weights that change from sample to sample too often: that is data, not a
    /// description.
    pub fn describe(&self) -> Result<serde_json::Value> {
        let (merged_epochs, mixture, weights) = match &self.sampling {
            _ if self.buckets.is_some() => {
                return Err(Error::Unsupported {
                    what: "a ledger of a plan with a length for each sample".into(),
                    remedy: "Train it without a ledger".into(),
                });
            }
            Sampling::Passes { merged } => (*merged, None, None),
            Sampling::Mixed(mixture) => (1, Some((mixture.sizes().to_vec(), mixture.now().clone())), None),
            Sampling::Weighted(table) if table.runs.is_some() => (1, None, table.runs.clone()),
            Sampling::Weighted(_) => {
                return Err(Error::Unsupported {
                    what: format!(
                        "a ledger of a plan with weights for more than {MOST_DESCRIBED} samples, or whose weights change more than \
                         {MOST_RUNS} times from sample to sample"
                    ),
                    remedy: "Sort the samples so that those of one weight follow each other, by class for example"
                        .into(),
                });
            }
        };
        let &Plan { len, num_replicas, seed, permutation, tail, epoch_length, .. } = self;
        let described =
            PlanSpec { len, num_replicas, seed, permutation, tail, merged_epochs, epoch_length, mixture, weights };
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
            None => match described.weights {
                Some(runs) => {
                    // One more than there are samples is enough for `with_weights` to say so.
                    let most = described.len.min(MOST_DESCRIBED) as usize + 1;
                    let each = |(count, weight): (u64, f64)| (0..count).map(move |_| weight);
                    plan.with_weights(&runs.into_iter().flat_map(each).take(most).collect::<Vec<_>>())
                }
                None => plan.with_merged_epochs(described.merged_epochs),
            },
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
            plan(5).with_weights(&[0.1, 0.1, 1.0 / 3.0, 0.0, 0.1]).unwrap().with_epoch_length(8).unwrap(),
        ];
        for plan in plans {
            let text = plan.describe().unwrap().to_string();
            let again = Plan::from_description(&serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(again, plan);
            assert_eq!(again.fingerprint(), plan.fingerprint());
        }
        let refused = |plan: Plan| plan.describe().unwrap_err().to_string();
        let weights: Vec<f64> = (0..=MOST_RUNS).map(|at| 1.0 + (at % 2) as f64).collect();
        let error = refused(plan(weights.len() as u64).with_weights(&weights).unwrap());
        assert!(
            error.contains("weights change more than 65536 times") && error.contains("Sort the samples"),
            "{error}"
        );
        assert!(refused(plan(4).with_buckets([1, 2, 3, 4].into(), 2, 1).unwrap()).contains("a length for each sample"));
        let more = serde_json::json!({"len": 2, "num_replicas": 1, "seed": 0, "permutation": "torch", "tail": "drop",
            "merged_epochs": 1, "weights": [[9_000_000_000_000_000_u64, 1.0]]});
        assert!(Plan::from_description(&more).unwrap_err().to_string().contains("3 weights for 2 samples"));
        assert!(Plan::from_description(&serde_json::json!({"len": 3})).is_err());
    }
}
