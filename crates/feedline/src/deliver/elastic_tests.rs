//! Stops anywhere and continues with any number of ranks, batch size and workers: the run's one sequence is delivered,
//! for every kind of order.

use super::batches::{BatchRequest, BatchSampler};
use super::*;
use crate::pipeline::Raw;
use crate::plan::rng::SampleRng;
use crate::plan::{Permutation, Request, Tail};
use crate::sample::{DType, FieldSpec, Slot};
use std::collections::HashMap;

const LEN: u64 = 61;
const TAILS: [Tail; 3] = [Tail::Pad, Tail::Drop, Tail::Exact];

/// Every kind of order over the same number of samples, by name.
fn orders(world: u64) -> Vec<(&'static str, Plan)> {
    let plan = |permutation| Plan::unshuffled(LEN, world).unwrap().with_seed(6).with_permutation(permutation).unwrap();
    let (torch, keyed) = (plan(Permutation::Torch), plan(Permutation::Feistel));
    let weights: Vec<f64> = (0..LEN).map(|i| (i % 7) as f64).collect();
    let lengths: Arc<[u32]> = (0..LEN as u32).map(|i| i * 37 % 50).collect();
    let mixed = |plan: &Plan| plan.clone().with_mixture(&[(40, 1.0), (1, 0.1), (20, 2.0)]).unwrap();
    let long = |plan: Plan, len| plan.with_epoch_length(len).unwrap();
    vec![
        ("in order", plan(Permutation::None)),
        ("in order, short epochs", long(plan(Permutation::None), 17)),
        ("torch", torch.clone()),
        ("torch, short epochs", long(torch.clone(), 25)),
        ("torch, long epochs", long(torch.clone(), 150)),
        ("keyed", keyed.clone()),
        ("keyed, two epochs in one", long(keyed.clone(), 2 * LEN)),
        ("torch, merged", torch.clone().with_merged_epochs(2).unwrap()),
        ("keyed, merged and cut", long(keyed.clone().with_merged_epochs(3).unwrap(), 70)),
        ("weighted", torch.clone().with_weights(&weights).unwrap()),
        ("weighted, short epochs", long(keyed.clone().with_weights(&weights).unwrap(), 23)),
        ("mixed", mixed(&torch)),
        ("mixed, long epochs", long(mixed(&keyed), 130)),
        ("buckets", torch.with_buckets(Arc::clone(&lengths), 24, 6).unwrap()),
        ("buckets of a mixture", long(mixed(&keyed), 90).with_buckets(lengths, 20, 5).unwrap()),
    ]
}

/// Runs steps of all ranks from a cursor on, up to `steps` or to the end of the epoch; returns them by position.
fn steps(plan: &Plan, batch_size: u64, from: &Cursor, steps: u64) -> (Vec<Request>, Cursor) {
    let json = serde_json::to_string(from).unwrap();
    let from: Cursor = serde_json::from_str(&json).unwrap();
    let plan = from.resume(1, plan).unwrap();
    let (mut requests, mut position, mut ended) = (Vec::new(), from.position, true);
    for rank in 0..plan.num_replicas() {
        let mut sampler = BatchSampler::new(plan.clone(), rank, batch_size, false, None);
        sampler.seek(from.epoch, from.position);
        let left = sampler.batches_in_epoch();
        let mine: Vec<BatchRequest> = sampler.take(left.min(steps) as usize).collect();
        assert!(mine.iter().all(|batch| batch.epoch == from.epoch));
        position = mine.iter().map(|batch| batch.next_position).fold(position, u64::max);
        ended &= left <= steps;
        requests.extend(mine.into_iter().flat_map(|batch| batch.requests));
    }
    requests.sort_by_key(|request| request.position);
    let (epoch, position) = if ended { (from.epoch + 1, 0) } else { (from.epoch, position) };
    (requests, Cursor::new(1, &plan, epoch, position, 0))
}

fn with_world(order: usize, world: u64, tail: Tail) -> Plan {
    orders(world).swap_remove(order).1.with_tail(tail)
}

#[test]
fn any_chain_of_topologies_delivers_the_one_sequence() {
    let mut rng = SampleRng::new(2, 0, 0, "topologies");
    for (order, (name, _)) in orders(1).into_iter().enumerate() {
        for tail in TAILS {
            for _ in 0..12 {
                let one = with_world(order, 1, tail);
                let mut cursor = Cursor::new(1, &one, 0, 0, 0);
                for epoch in 0..4 {
                    let whole: Vec<Request> = (0..one.epoch_len()).map(|p| one.epoch(epoch).at(p)).collect();
                    let (mut seen, mut world) = (Vec::new(), 1);
                    while cursor.epoch == epoch {
                        world = 1 + rng.below(9);
                        let plan = with_world(order, world, tail);
                        let more = if rng.chance(0.1) { 100 } else { rng.below(5) };
                        let (requests, next) = steps(&plan, 1 + rng.below(5), &cursor, more);
                        seen.extend(requests);
                        cursor = next;
                    }
                    let padded = seen.iter().filter(|request| request.padded).count() as u64;
                    assert!(seen[..].iter().rev().take(padded as usize).all(|request| request.padded));
                    let real = &seen[..seen.len() - padded as usize];
                    let missing = whole.len() - real.len();
                    assert_eq!(real, &whole[..real.len()], "{name}, {tail:?}, epoch {epoch}");
                    assert!(missing as u64 <= if tail == Tail::Drop { world - 1 } else { 0 }, "{name}, {tail:?}");
                    assert!(padded <= if tail == Tail::Pad { world - 1 } else { 0 }, "{name}, {tail:?}");
                    for request in seen.iter().filter(|request| request.padded) {
                        let first = whole[(request.position % one.epoch_len()) as usize];
                        assert_eq!((request.index, request.pass), (first.index, first.pass), "{name}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_cursor_is_valid_everywhere_and_changes_nothing() {
    for (name, plan) in orders(3) {
        let mut cursor = Cursor::new(1, &plan, 0, 0, 0);
        for _ in 0..80 {
            let (here, next) = steps(&plan, 2, &cursor, 1);
            let (nothing, same) = steps(&plan, 2, &cursor, 0);
            assert_eq!((nothing.len(), &same), (0, &cursor), "{name}");
            let fresh = plan.epoch_from(cursor.epoch, cursor.position);
            let expect: Vec<Request> = here.iter().map(|request| fresh.at(request.position)).collect();
            assert_eq!(here, expect, "{name}");
            cursor = next;
        }
        assert!(cursor.epoch >= 2, "{name}");
    }
}

/// For any number of weight changes, each source is consumed completely before any of it repeats, and the shares follow
/// the current weights.
#[test]
fn the_weights_of_a_mixture_may_change_at_any_cursor() {
    let sizes = [40, 1, 20];
    let mut rng = SampleRng::new(3, 0, 0, "weights");
    for _ in 0..60 {
        let plan = |weights: &[f64], world| {
            let sources: Vec<(u64, f64)> = sizes.into_iter().zip(weights.iter().copied()).collect();
            let plan = Plan::unshuffled(LEN, world).unwrap().with_permutation(Permutation::Feistel).unwrap();
            plan.with_mixture(&sources).unwrap().with_epoch_length(97).unwrap().with_tail(Tail::Exact)
        };
        let mut weights = vec![1.0; 3];
        let mut cursor = Cursor::new(1, &plan(&weights, 1), 0, 0, 0);
        let mut sources: [Vec<u64>; 3] = Default::default();
        let (mut passes, mut total) = (HashMap::new(), 0);
        while total < 900 {
            if rng.chance(0.3) {
                weights = (0..3).map(|_| rng.below(3) as f64 + 0.01).collect();
            }
            let (requests, next) = steps(&plan(&weights, 1 + rng.below(6)), 1 + rng.below(4), &cursor, rng.below(30));
            let share = requests.iter().filter(|request| request.index < 40).count() as f64;
            let expect = weights[0] / weights.iter().sum::<f64>() * requests.len() as f64;
            assert!((share - expect).abs() < 10.0, "{share} of {weights:?}, {expect} expected");
            for request in &requests {
                let source = [40, 41, 61].iter().position(|&end| request.index < end).unwrap();
                sources[source].push(request.index);
                assert_eq!(passes.insert((request.index, request.pass), ()), None, "met before");
            }
            total += requests.len();
            cursor = next;
        }
        assert_eq!(sources.iter().map(Vec::len).sum::<usize>(), total);
        for (source, size) in sources.iter().zip(sizes) {
            for pass in source.chunks(size as usize) {
                let mut pass = pass.to_vec();
                pass.sort_unstable();
                pass.dedup();
                assert!(pass.len() as u64 == size || pass.len() == source.len() % size as usize, "{pass:?}");
            }
        }
        // Nothing but the weights may change.
        let other = Plan::unshuffled(LEN, 1).unwrap().with_mixture(&[(41, 1.0), (20, 1.0)]).unwrap();
        assert!(cursor.resume(1, &other).is_err() && cursor.resume(1, &other.with_seed(1)).is_err());
        assert!(cursor.resume(1, &plan(&weights, 1).with_seed(1)).is_err());
    }
}

#[test]
fn the_weights_of_a_mixture_in_buckets_change_between_windows_only() {
    let lengths: Arc<[u32]> = (0..LEN as u32).collect();
    let plan = |weight| {
        let plan = Plan::new(LEN, 1).unwrap().with_mixture(&[(30, 1.0), (31, weight)]).unwrap();
        plan.with_buckets(Arc::clone(&lengths), 20, 5).unwrap()
    };
    for (position, allowed) in [(0, true), (20, true), (21, false), (60, true), (LEN, true)] {
        let cursor = Cursor::new(1, &plan(1.0), 3, position, 0);
        assert_eq!(cursor.resume(1, &plan(2.0)).is_ok(), allowed, "{position}");
        assert_eq!(cursor.resume(1, &plan(1.0)).unwrap(), plan(1.0));
    }
}

/// One random number per sample; some samples are bad.
struct Drawn(Vec<FieldSpec>);

impl Pipeline for Drawn {
    fn len(&self) -> u64 {
        LEN
    }
    fn fingerprint(&self) -> u64 {
        1
    }
    fn fields(&self) -> &[FieldSpec] {
        &self.0
    }
    fn location(&self, index: u64) -> String {
        index.to_string()
    }
    fn read(&self, request: &Request, _: &mut Raw, _: &mut SampleContext) -> Result<()> {
        if request.index % 11 == 4 {
            return Err(Error::io("read", request.index.to_string(), std::io::ErrorKind::NotFound.into()));
        }
        Ok(())
    }
    fn make(&self, request: &Request, _: &Raw, slot: &mut Slot<'_>, _: &mut SampleContext) -> Result<()> {
        slot.dense::<f64>("x")[0] = request.index as f64 + request.rng("x").unit();
        Ok(())
    }
}

fn loaders(order: usize, world: u64, batch_size: u64, num_workers: usize, cursor: Option<&Cursor>) -> Vec<Loader> {
    let loader = |rank| {
        let on_bad_sample = OnBadSample::Replace;
        let options =
            LoaderOptions { rank, batch_size, num_workers, on_bad_sample, max_bad_samples: 9999, ..Default::default() };
        let pipeline = Arc::new(Drawn(vec![FieldSpec::stack("x", DType::F64, [])]));
        let mut loader = Loader::new(pipeline, with_world(order, world, Tail::Exact), options).unwrap();
        if let Some(cursor) = cursor {
            loader.load_state_dict(cursor).unwrap();
        }
        loader
    };
    (0..world).map(loader).collect()
}

/// A step of all ranks, in position order, and true if the epoch is over.
fn step(loaders: &mut [Loader]) -> (Vec<f64>, bool) {
    let batches: Vec<Option<Batch>> = loaders.iter_mut().map(|loader| loader.next_batch().unwrap()).collect();
    let over = batches.iter().any(Option::is_none);
    for (loader, _) in loaders.iter_mut().zip(&batches).filter(|(_, batch)| over && batch.is_some()) {
        assert!(loader.next_batch().unwrap().is_none(), "ranks differ by one batch at most");
    }
    let values = |batch: &Option<Batch>| batch.as_ref().map(|b| b.stacked("x").unwrap().as_slice::<f64>().to_vec());
    let ranks: Vec<Vec<f64>> = batches.iter().map(|batch| values(batch).unwrap_or_default()).collect();
    let slots = 0..ranks[0].len();
    (slots.flat_map(|slot| ranks.iter().filter_map(move |rank| rank.get(slot).copied())).collect(), over)
}

#[test]
fn loaders_of_any_topology_deliver_the_same_numbers() {
    let mut rng = SampleRng::new(4, 0, 0, "loaders");
    for (order, (name, _)) in orders(1).into_iter().enumerate() {
        let mut one = loaders(order, 1, 1, 0, None);
        let mut epoch = || {
            one[0]
                .iter()
                .flat_map(|batch| batch.unwrap().stacked("x").unwrap().as_slice::<f64>().to_vec())
                .collect::<Vec<f64>>()
        };
        let expect = [epoch(), epoch(), epoch()];
        let mut distinct: Vec<u64> = expect.iter().flatten().map(|x| x.to_bits()).collect();
        let all = distinct.len();
        distinct.sort_unstable();
        distinct.dedup();
        // A replacement may also occur in its own place, with the same randomness.
        assert!(distinct.len() * 10 > all * 8, "{name}: {} different of {all}", distinct.len());
        for workers in [0, 1, 3] {
            let mut cursor = None;
            for expect in &expect {
                let (mut seen, mut over) = (Vec::new(), false);
                while !over {
                    let mut now = loaders(order, 1 + rng.below(4), 1 + rng.below(6), workers, cursor.as_ref());
                    for _ in 0..rng.below(6) {
                        let (values, last) = step(&mut now);
                        seen.extend(values);
                        over = last;
                        if over {
                            break;
                        }
                    }
                    cursor = Some(now[0].state_dict());
                    let same = |loader: &Loader| {
                        loader.state_dict() == Cursor { bad_samples: loader.bad_samples, ..now[0].state_dict() }
                    };
                    assert!(now.iter().all(same), "all ranks save the same but for the bad samples that they met");
                }
                assert_eq!(&seen, expect, "{name}, {workers} workers");
            }
        }
    }
}

#[test]
fn a_loader_takes_new_weights_where_it_is() {
    let loader = |weight| {
        let plan = Plan::new(LEN, 1).unwrap().with_mixture(&[(30, 1.0), (31, weight)]).unwrap();
        let options = LoaderOptions { batch_size: 5, on_bad_sample: OnBadSample::Replace, ..Default::default() };
        Loader::new(Arc::new(Drawn(vec![FieldSpec::stack("x", DType::F64, [])])), plan, options).unwrap()
    };
    let mut first = loader(1.0);
    for _ in 0..7 {
        first.next_batch().unwrap();
    }
    let saved = first.state_dict();
    assert_eq!(saved.mix.as_ref().unwrap().origin, 0);
    let mut second = loader(0.0);
    second.load_state_dict(&saved).unwrap();
    let mix = second.state_dict().mix.unwrap();
    assert_eq!((mix.origin, mix.counts.iter().sum::<u64>(), &mix.weights[..]), (35, 35, &[1.0, 0.0][..]));
    let expect: Vec<Batch> = (0..9).filter_map(|_| second.next_batch().unwrap()).collect();
    // A third one with the second's weights keeps the second's origin.
    let mut third = loader(0.0);
    second.load_state_dict(&saved).unwrap();
    second.next_batch().unwrap();
    third.load_state_dict(&second.state_dict()).unwrap();
    assert_eq!(third.state_dict(), second.state_dict());
    let more: Vec<Batch> = (0..8).filter_map(|_| third.next_batch().unwrap()).collect();
    assert_eq!(more[..], expect[1..][..more.len()]);
    assert!(more.len() >= 7);
}
