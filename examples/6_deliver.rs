//! Stage 6, deliver: a pipeline of one's own, a pool of threads, and a run that goes on where another stopped.
//!
//!     cargo run --release -p feedline-recipes --example 6_deliver

use feedline::deliver::SampleContext;
use feedline::pipeline::{Pipeline, Raw};
use feedline::plan::Request;
use feedline::{DType, FieldSpec, Loader, Result, Slot};

/// The squares of 0..20, with noise that belongs to (seed, epoch, sample).
struct Squares([FieldSpec; 1]);

impl Pipeline for Squares {
    fn len(&self) -> u64 {
        20
    }
    fn fields(&self) -> &[FieldSpec] {
        &self.0
    }
    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, _: &mut SampleContext) -> Result<()> {
        slot.dense::<f32>("square")[0] = (request.index.pow(2) as f64 + request.rng("noise").uniform(0.0, 0.5)) as f32;
        Ok(())
    }
}

fn loader(num_workers: usize) -> Result<Loader> {
    let squares = Squares([FieldSpec::stack("square", DType::F32, [])]);
    Loader::over(squares).batch_size(4).shuffle(true).num_workers(num_workers).build()
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
