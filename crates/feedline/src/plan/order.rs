//! The order: maps a position of an epoch to its sample, for every kind of plan, and caches the permutations it needs.
//! The cache can be rebuilt at any time; knows nothing of ranks.

use super::feistel::Feistel;
use super::torch::TorchOrder;
use super::{Permutation, Plan, Sampling};
use crate::hash::{hash_name, hash_words};
use std::sync::{Mutex, PoisonError};

/// A sample and its pass: see [`Request::pass`](super::Request::pass).
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) index: u64,
    pub(super) pass: u64,
}

/// The cached part of a plan's order. Clones and threads share it: the first look-up of a position computes the order up
/// to there, for all.
#[derive(Default)]
pub(super) struct Order(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Orders of passes. Consecutive passes of a source alternate between two slots, so that the end of an epoch and the
    /// beginning of the next are both cached, and no more.
    passes: Vec<Option<(u64, PassOrder)>>,
    window: Option<Window>,
}

/// A window of an epoch, sorted into buckets.
struct Window {
    epoch: u64,
    number: u64,
    found: Vec<Found>,
}

enum PassOrder {
    Identity,
    Torch(Box<TorchOrder>),
    Keyed(Feistel),
}

impl PassOrder {
    fn new(permutation: Permutation, len: u64, seed: u64, pass: u64) -> PassOrder {
        match permutation {
            Permutation::None => PassOrder::Identity,
            Permutation::Torch => PassOrder::Torch(Box::new(TorchOrder::new(len as u32, seed.wrapping_add(pass)))),
            Permutation::Feistel => PassOrder::Keyed(Feistel::new(len, hash_words(&[seed, pass]))),
        }
    }

    /// Replaces places below the length by the indices that stand there.
    fn look_up(&mut self, places: &mut [u64]) {
        match self {
            PassOrder::Identity => {}
            PassOrder::Torch(order) => places.iter_mut().for_each(|place| *place = order.index(*place as usize).into()),
            PassOrder::Keyed(bijection) => bijection.look_up(places),
        }
    }
}

impl Order {
    /// The samples at these positions of an epoch; all positions must be below its length.
    pub(super) fn look_up(&self, plan: &Plan, epoch: u64, positions: Vec<u64>) -> Vec<Found> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if plan.buckets.is_none() {
            return kept.draw(plan, epoch, positions);
        }
        positions.into_iter().map(|position| kept.sorted(plan, epoch, position)).collect()
    }

    /// Drops the orders of passes that this epoch does not touch.
    pub(super) fn trim(&self, plan: &Plan, epoch: u64) {
        if let Sampling::Passes { .. } = plan.sampling {
            let touched = plan.pass_at(epoch, 0).0..=plan.pass_at(epoch, plan.epoch_len() - 1).0;
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for place in &mut kept.passes {
                *place = place.take().filter(|(pass, _)| touched.contains(pass));
            }
        }
    }

    /// The keyed bijection's inverse, where there is one; see [`super::EpochPlan::position_of`].
    pub(super) fn place_of(plan: &Plan, pass: u64, index: u64) -> Option<u64> {
        match PassOrder::new(plan.permutation, plan.len, plan.seed, pass) {
            PassOrder::Identity => Some(index),
            PassOrder::Keyed(bijection) => Some(bijection.position(index)),
            PassOrder::Torch(_) => None,
        }
    }
}

impl Kept {
    fn pass(&mut self, source: usize, pass: u64, make: impl FnOnce() -> PassOrder) -> &mut PassOrder {
        let at = 2 * source + (pass % 2) as usize;
        if self.passes.len() <= at {
            self.passes.resize_with(at + 1, || None);
        }
        let kept = &mut self.passes[at];
        if kept.as_ref().is_none_or(|kept| kept.0 != pass) {
            *kept = None; // first, or two would be in memory
        }
        &mut kept.get_or_insert_with(|| (pass, make())).1
    }

    fn sorted(&mut self, plan: &Plan, epoch: u64, position: u64) -> Found {
        let Some(buckets) = &plan.buckets else { return self.draw(plan, epoch, vec![position])[0] };
        let (number, offset) = (position / buckets.window, (position % buckets.window) as usize);
        if let Some(window) = self.window.as_ref().filter(|window| (window.epoch, window.number) == (epoch, number)) {
            return window.found[offset];
        }
        let first = number * buckets.window;
        let last = plan.epoch_len().min(first + buckets.window);
        let mut found = self.draw(plan, epoch, (first..last).collect());
        buckets.arrange(&mut found, |found| found.index, (plan.seed, epoch, number));
        let at = found[offset];
        self.window = Some(Window { epoch, number, found });
        at
    }

    /// The samples at these positions of an epoch, before any sorting into buckets.
    fn draw(&mut self, plan: &Plan, epoch: u64, mut positions: Vec<u64>) -> Vec<Found> {
        let (permutation, seed) = (plan.permutation, plan.seed);
        match &plan.sampling {
            Sampling::Passes { merged } => {
                let period = plan.len * merged;
                let mut found = Vec::with_capacity(positions.len());
                // Split into stretches of the same pass; usually there is one.
                let mut rest = &mut positions[..];
                while let Some(&position) = rest.first() {
                    let (pass, place) = plan.pass_at(epoch, position);
                    // Positions that lie in this pass; before the epoch's begin it may have begun.
                    let until = position + (period - place);
                    let from = position.saturating_sub(place);
                    let ends = rest.iter().position(|p| !(from..until).contains(p)).unwrap_or(rest.len());
                    let (run, after) = rest.split_at_mut(ends);
                    run.iter_mut().for_each(|p| *p = period - (until - *p));
                    self.pass(0, pass, || PassOrder::new(permutation, period, seed, pass)).look_up(run);
                    if *merged == 1 {
                        found.extend(run.iter().map(|&index| Found { index, pass }));
                    } else {
                        let met = |&mut at: &mut u64| Found {
                            index: at % plan.len,
                            pass: pass.wrapping_mul(*merged) + at / plan.len,
                        };
                        found.extend(run.iter_mut().map(met));
                    }
                    rest = after;
                }
                found
            }
            Sampling::Weighted(table) => positions
                .into_iter()
                .map(|position| {
                    let place = plan.place_in_run(epoch, position);
                    Found { index: table.draw(seed, place), pass: place }
                })
                .collect(),
            Sampling::Mixed(mixture) => positions
                .into_iter()
                .map(|position| {
                    const NAME: u64 = hash_name("source");
                    let draw = mixture.draw(seed, plan.place_in_run(epoch, position));
                    let make = || {
                        let seed = hash_words(&[seed, NAME, draw.source as u64]);
                        PassOrder::new(permutation, mixture.sizes()[draw.source], seed, draw.pass)
                    };
                    let mut place = [draw.place];
                    self.pass(draw.source, draw.pass, make).look_up(&mut place);
                    Found { index: mixture.start(draw.source) + place[0], pass: draw.pass }
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_keeps_the_passes_it_touches_and_two_at_most() {
        let plan = Plan::new(100, 1).unwrap().with_epoch_length(250).unwrap();
        let (order, held) = (Order::default(), |order: &Order| -> Vec<(u64, usize)> {
            let kept = order.0.lock().unwrap();
            let torch =
                |at: &(u64, PassOrder)| (at.0, if let PassOrder::Torch(order) = &at.1 { order.made() } else { 0 });
            kept.passes.iter().flatten().map(torch).collect()
        });
        order.look_up(&plan, 0, (0..250).collect());
        assert_eq!(held(&order).iter().map(|at| at.0).collect::<Vec<_>>(), [2, 1]);
        let made = held(&order)[0];
        assert!((50..100).contains(&made.1));
        order.trim(&plan, 1);
        assert_eq!(held(&order), [made], "the pass that goes on in the next epoch is not made again");
        order.look_up(&plan, 1, (0..250).collect());
        order.trim(&plan, 2);
        assert_eq!(held(&order), [], "epoch 2 begins with a new pass");
    }
}
