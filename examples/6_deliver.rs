//! Stage 6, deliver: a pipeline of one's own, a pool of threads, and a run that goes on where another stopped.
//!
//!     cargo run --release -p feedline-recipes --example 6_deliver

use feedline::deliver::{Loader, LoaderOptions, SampleContext};
use feedline::pipeline::{Pipeline, Raw};
use feedline::plan::{Plan, Request};
use feedline::{DType, FieldSpec, Result, Slot};
use std::sync::Arc;

/// The squares of 0..20, with noise that belongs to (seed, epoch, sample).
struct Squares([FieldSpec; 1]);

impl Pipeline for Squares {
    fn len(&self) -> u64 {
        20
    }
    fn fingerprint(&self) -> u64 {
        20
    }
    fn fields(&self) -> &[FieldSpec] {
        &self.0
    }
    fn location(&self, index: u64) -> String {
        format!("number {index}")
    }
    fn read(&self, _: &Request, _: &mut Raw, _: &mut SampleContext) -> Result<()> {
        Ok(()) // nothing to read: the numbers are made up
    }
    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, _: &mut SampleContext) -> Result<()> {
        slot.dense::<f32>("square")[0] = (request.index.pow(2) as f64 + request.rng("noise").uniform(0.0, 0.5)) as f32;
        Ok(())
    }
}

fn loader(num_workers: usize) -> Result<Loader> {
    let options = LoaderOptions { batch_size: 4, num_workers, ..LoaderOptions::default() };
    Loader::new(Arc::new(Squares([FieldSpec::stack("square", DType::F32, [])])), Plan::new(20, 1)?, options)
}

fn main() -> Result<()> {
    let mut first = loader(3)?;
    for _ in 0..3 {
        let Some(batch) = first.next_batch()? else { break };
        println!("epoch {} step {}: {:?}", batch.epoch, batch.step, batch.stacked("square")?.as_slice::<f32>());
    }
    let cursor = first.state_dict();
    println!("stopped; the cursor: {cursor:?}\ngone on with, without a pool:");
    let mut second = loader(0)?;
    second.load_state_dict(&cursor)?;
    while let (Some(batch), Some(same)) = (second.next_batch()?, first.next_batch()?) {
        println!("epoch {} step {}: {:?}", batch.epoch, batch.step, batch.stacked("square")?.as_slice::<f32>());
        assert_eq!(batch, same, "three threads or none deliver the same bytes");
    }
    Ok(())
}
