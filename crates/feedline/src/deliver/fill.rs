//! Making one sample whatever happens: panics become errors, bad samples are replaced if the policy says so. Shared by
//! the serial loader and the pool, so that both treat a bad sample alike.

use super::OnBadSample;
use super::stats::Clock;
use crate::error::{Error, Result, Stage};
use crate::images::Interrupted;
use crate::pipeline::Pipeline;
use crate::plan::Request;
use crate::sample::Replaced;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Replacements tried at one place before giving up: with half of the data bad, one place in 65,536 needs more.
const MAX_ATTEMPTS: u64 = 16;

/// A sample that was made, and what had to be replaced to get it.
pub(crate) struct Made<T> {
    pub(crate) value: T,
    pub(crate) index: u64,
    pub(crate) replaced: Vec<Replaced>,
}

/// Calls `attempt` for the request, and under [`OnBadSample::Replace`] for its replacements until one works.
pub(crate) fn fill<T>(
    pipeline: &dyn Pipeline,
    request: &Request,
    policy: OnBadSample,
    clock: &mut Clock,
    mut attempt: impl FnMut(&Request, &mut Clock) -> Result<T>,
) -> Result<Made<T>> {
    let mut replaced = Vec::new();
    let mut now = *request;
    for tried in 0.. {
        let outcome = catch_unwind(AssertUnwindSafe(|| attempt(&now, clock)));
        let error = match outcome {
            Ok(Ok(value)) => return Ok(Made { value, index: now.index, replaced }),
            Ok(Err(error)) => located(error, pipeline, &now, clock.stage()),
            Err(panic) => {
                let problem = format!("the code panicked: {}. This is a bug, please report it", text_of(&*panic));
                Error::Sample {
                    stage: clock.stage(),
                    index: now.index,
                    location: pipeline.location(now.index),
                    problem,
                }
            }
        };
        let (stage, index, location, problem) = match &error {
            Error::Sample { stage, index, location, problem } => (*stage, *index, location, problem.clone()),
            Error::Step { name, index, location, source } if !source.is::<Interrupted>() => {
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
            location: location.clone(),
            stage,
            problem,
            replaced_by: next.index,
        });
        now = next;
    }
    unreachable!("the loop ends by returning")
}

/// Gives an error of a stage its sample and file.
fn located(error: Error, pipeline: &dyn Pipeline, request: &Request, stage: Stage) -> Error {
    match error {
        // That there is no memory says nothing of the sample.
        Error::Sample { .. } | Error::Step { .. } | Error::Memory { .. } => error,
        other => Error::Sample {
            stage,
            index: request.index,
            location: pipeline.location(request.index),
            problem: other.to_string(),
        },
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}
