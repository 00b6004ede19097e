//! Making one sample whatever happens: panics become errors, bad samples are replaced if the policy says so, and nothing
//! else is. Shared by the serial loader and the pool, so that both treat a bad sample alike.

use crate::error::{Error, Result, Stage};
use crate::meter::SampleContext;
use crate::pipeline::Pipeline;
use crate::plan::Request;
use crate::sample::Replaced;
use crate::url::{without_query, without_secrets};
use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What to do with a sample that cannot be read or decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadSample {
    /// Stop with an error that names it.
    Fail,
    /// Deliver another sample in its place, chosen from (seed, epoch, position): every rank keeps its step count and a
    /// replay gives the same.
    Replace,
}

/// Replacements tried at one place before giving up: with half of the data bad, one place in 65,536 needs more.
const MAX_ATTEMPTS: u64 = 16;

/// A sample that was made, and what had to be replaced to get it.
pub(crate) struct Made<T> {
    pub(crate) value: T,
    pub(crate) index: u64,
    pub(crate) replaced: Vec<Replaced>,
}

/// Calls `attempt` for the request, and under [`OnBadSample::Replace`] for its replacements until one works.
pub(crate) fn make_or_replace<T>(
    pipeline: &dyn Pipeline,
    request: &Request,
    policy: OnBadSample,
    context: &mut SampleContext,
    mut attempt: impl FnMut(&Request, &mut SampleContext) -> Result<T>,
) -> Result<Made<T>> {
    let mut replaced = Vec::new();
    let mut now = *request;
    for tried in 0.. {
        let outcome = catch_unwind(AssertUnwindSafe(|| attempt(&now, context)));
        let error = match outcome {
            Ok(Ok(value)) => return Ok(Made { value, index: now.index, replaced }),
            Ok(Err(error)) => located(error, pipeline, &now, context.stage()),
            Err(panic) => located(Error::Bug { problem: text_of(&*panic).to_owned() }, pipeline, &now, context.stage()),
        };
        let (stage, index, location, problem) = match &error {
            _ if !error.is_of_the_sample() => return Err(error),
            Error::Sample { stage, index, location, problem } => (*stage, *index, location, problem.clone()),
            Error::Step { name, index, location, source } => {
                (Stage::Augment, *index, location, format!("step {name}: {source}"))
            }
            _ => return Err(error),
        };
        if policy == OnBadSample::Fail || tried == MAX_ATTEMPTS {
            return Err(error);
        }
        let next = request.replacement(tried, pipeline.len());
        replaced.push(Replaced {
            epoch: request.epoch,
            position: request.position,
            index,
            location: without_query(location),
            stage,
            problem: without_secrets(&problem),
            replaced_by: next.index,
        });
        now = next;
    }
    unreachable!("the loop ends by returning")
}

/// Gives an error of a stage its sample and file, and says by its kind whether the sample is to blame.
fn located(error: Error, pipeline: &dyn Pipeline, request: &Request, stage: Stage) -> Error {
    let (index, location) = match error {
        Error::Sample { .. } | Error::Step { .. } | Error::Run { .. } => return error,
        // It says itself what it was needed for.
        Error::Memory { .. } => return error,
        _ => (request.index, without_query(&pipeline.location(request.index))),
    };
    match error.is_of_the_sample() {
        true => Error::Sample { stage, index, location, problem: error.to_string() },
        false => Error::Run { stage, index, location, source: Box::new(error) },
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}
