//! Makes one sample safely: turns panics into errors, and replaces bad samples, and only those, if the policy says so.
//! Shared by the serial loader and the pool, so that both treat a bad sample alike.

use crate::error::{Error, Result, Stage};
use crate::meter::SampleContext;
use crate::pipeline::{Pipeline, make_sample};
use crate::plan::Request;
use crate::sample::{Replaced, Sample};
use crate::url::{without_query, without_secrets};
use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The policy for a sample that cannot be read or decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadSample {
    /// Stops with an error that names it.
    Fail,
    /// Delivers another sample in its place, chosen from (seed, epoch, position): every rank keeps its step count, and
    /// a repetition delivers the same.
    Replace,
}

/// Maximum replacements for one position: with half of the data bad, one position in 65,536 needs more.
const MAX_ATTEMPTS: u64 = 16;

/// A sample that was made, and the samples that it replaces.
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

/// Makes one sample on its own, with simple code, and with the errors of a loader: they name the sample and its file, and a
/// panic is one of them.
///
/// # Errors
/// As [`crate::Loader::next_batch`], of this sample.
pub fn one_sample(pipeline: &dyn Pipeline, request: &Request) -> Result<Sample> {
    let make = |request: &Request, context: &mut SampleContext| make_sample(pipeline, request, context);
    make_or_replace(pipeline, request, OnBadSample::Fail, &mut SampleContext::default(), make).map(|made| made.value)
}

/// Adds sample and file to an error of a stage; its kind then says whether the sample is to blame.
fn located(error: Error, pipeline: &dyn Pipeline, request: &Request, stage: Stage) -> Error {
    let (index, location) = match error {
        Error::Sample { .. } | Error::Step { .. } | Error::Run { .. } => return error,
        // The error already says what the memory was needed for.
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
