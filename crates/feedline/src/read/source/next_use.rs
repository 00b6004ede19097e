//! The order of a run, for the cache: the next use of each sample.

use crate::plan::Plan;
use crate::read::source::NextUse;
use std::sync::{Mutex, PoisonError};

/// Data sets with more samples than this store no positions, which take eight bytes per sample.
const MOST_SAMPLES: u64 = 1 << 27;

/// The order of a run, for the cache: the position of each sample in this epoch and the next.
#[derive(Debug)]
pub(in crate::read) struct Order {
    plan: Plan,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    epoch: u64,
    position: u64,
    /// The position of each sample, for this epoch and the next. Empty until first needed.
    places: [Vec<u32>; 2],
}

/// The sample is not in the epoch.
const NOWHERE: u32 = u32::MAX;

impl Order {
    pub(in crate::read) fn new(plan: Plan) -> Order {
        Order { plan, now: Mutex::default() }
    }

    pub(in crate::read) fn reached(&self, epoch: u64, position: u64) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let now = &mut *now;
        let [this, next] = &mut now.places;
        if epoch == now.epoch + 1 {
            (*this, *next) = (std::mem::take(next), Vec::new());
        } else if epoch != now.epoch {
            (*this, *next) = (Vec::new(), Vec::new());
        } else if position <= now.position {
            return;
        }
        (now.epoch, now.position) = (epoch, position);
    }

    /// The first position of each sample in an epoch.
    fn places(&self, epoch: u64) -> Vec<u32> {
        let mut places = vec![NOWHERE; self.plan.len() as usize];
        let order = self.plan.epoch(epoch);
        for position in (0..order.total_size()).rev() {
            places[order.at(position).index as usize] = position as u32;
        }
        places
    }
}

impl NextUse for Order {
    fn next_use(&self, sample: u64) -> f64 {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let (epoch, len) = (now.epoch, self.plan.epoch_len().max(1) as f64);
        if self.plan.len() > MOST_SAMPLES {
            return epoch as f64 + 1.0;
        }
        for ahead in 0..2 {
            if now.places[ahead].is_empty() {
                now.places[ahead] = self.places(epoch + ahead as u64);
            }
            let place = now.places[ahead].get(sample as usize).copied().unwrap_or(NOWHERE);
            if place != NOWHERE && (ahead == 1 || u64::from(place) > now.position) {
                return (epoch + ahead as u64) as f64 + f64::from(place) / len;
            }
        }
        epoch as f64 + 2.0
    }
}
