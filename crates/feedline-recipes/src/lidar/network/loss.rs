//! The loss and its slope, by hand and in f64. Owns what a wrong score, box or direction costs; knows no network.
//!
//! ```text
//! loss of a sample = 1/n (sum over anchors  focal(score)  + 2 sum over objects' anchors  smooth_l1(box)
//!                         + 0.2 sum over them  CE(direction)),      n: objects' anchors, 1 if there are none
//! ```
//!
//! These are OpenPCDet's `AnchorHeadTemplate` losses with the weights of its pointpillar.yaml: focal with alpha 0.25 and
//! gamma 2 (Lin et al., 2017), smooth L1 with beta 1/9, the turn as the sine of its error. The loss of a batch is the mean
//! over its samples, of all ranks.

use super::anchors::{Aim, Anchors, decode, direction, encode, facing};
use super::model::OUTPUTS;
use crate::lidar::metrics::Detection;
use feedline::augment::boxes::Box3d;

const ALPHA: f64 = 0.25;
const BETA: f64 = 1.0 / 9.0;
const BOX_WEIGHT: f64 = 2.0;
const DIRECTION_WEIGHT: f64 = 0.2;
/// Added to scores: at first nearly every anchor is nobody's, and says so (1 in 100).
const PRIOR_LOGIT: f64 = -4.59512;

fn probability(logit: f32) -> f64 {
    1.0 / (1.0 + (-(f64::from(logit) + PRIOR_LOGIT)).exp())
}

/// Number of the network's outputs for a frame.
pub(super) fn outputs_per_frame(anchors: &Anchors) -> usize {
    anchors.per_place() * anchors.places() * OUTPUTS
}

/// The numbers of an anchor lie apart in `outputs` (anchors, outputs, places): where the first is, and the distance.
fn place(anchors: &Anchors, anchor: usize) -> (usize, usize) {
    let places = anchors.places();
    (anchor / places * OUTPUTS * places + anchor % places, places)
}

/// The loss of one sample, whose objects have classes from 0. Replaces its numbers by the loss's derivatives.
pub(super) fn sample_loss(outputs: &mut [f32], anchors: &Anchors, objects: &[(Box3d, usize)]) -> f64 {
    let aims = anchors.aims(objects);
    let hits = aims.iter().filter(|aim| matches!(aim, Aim::Object(_))).count();
    let share = 1.0 / hits.max(1) as f64;
    let mut sum = 0.0;
    for (anchor, aim) in aims.into_iter().enumerate() {
        let (first, step) = place(anchors, anchor);
        let p = probability(outputs[first]);
        let (cost, slope) = match aim {
            // A score that is not a number must not pass unseen only because it does not count.
            Aim::Either => (0.0 * p, 0.0),
            Aim::Nothing => {
                // Of 1 - p, which rounds to 0 where a score is high.
                let log_not = -(f64::from(outputs[first]) + PRIOR_LOGIT) + p.max(f64::MIN_POSITIVE).ln();
                ((1.0 - ALPHA) * p * p * -log_not, (1.0 - ALPHA) * p * p * (p - 2.0 * (1.0 - p) * log_not))
            }
            Aim::Object(_) => {
                let (not, log) = (1.0 - p, p.max(f64::MIN_POSITIVE).ln());
                (ALPHA * not * not * -log, ALPHA * not * not * (2.0 * p * log - not))
            }
        };
        sum += cost;
        outputs[first] = (slope * share) as f32;
        let Aim::Object(number) = aim else {
            (1..OUTPUTS).for_each(|at| outputs[first + at * step] = 0.0);
            continue;
        };
        let own = &objects[number].0;
        let wanted = encode(own, &anchors.get(anchor));
        for (at, wanted) in wanted.into_iter().enumerate() {
            let said = &mut outputs[first + (1 + at) * step];
            let error = f64::from(*said) - wanted;
            let (error, inner) = if at == 6 { (error.sin(), error.cos()) } else { (error, 1.0) };
            let (cost, slope) = match error.abs() < BETA {
                true => (error * error / (2.0 * BETA), error / BETA),
                false => (error.abs() - BETA / 2.0, error.signum()),
            };
            sum += BOX_WEIGHT * cost;
            *said = (BOX_WEIGHT * slope * inner * share) as f32;
        }
        let right = direction(own.heading);
        let logits = [8, 9].map(|at| f64::from(outputs[first + at * step]));
        let p = 1.0 / (1.0 + (logits[1 - right] - logits[right]).exp());
        sum -= DIRECTION_WEIGHT * p.max(f64::MIN_POSITIVE).ln();
        for (at, slope) in [(right, p - 1.0), (1 - right, 1.0 - p)] {
            outputs[first + (8 + at) * step] = (DIRECTION_WEIGHT * slope * share) as f32;
        }
    }
    sum * share
}

/// The boxes of one sample whose score is at least `threshold`, the best first, `most` of them at most.
pub(super) fn detections(outputs: &[f32], anchors: &Anchors, threshold: f64, most: usize) -> Vec<Detection> {
    let count = anchors.per_place() * anchors.places();
    let mut found: Vec<(f32, usize)> = (0..count)
        .map(|anchor| (probability(outputs[place(anchors, anchor).0]) as f32, anchor))
        .filter(|(score, _)| f64::from(*score) >= threshold)
        .collect();
    found.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    found.truncate(most);
    let detection = |(score, anchor): (f32, usize)| {
        let (first, step) = place(anchors, anchor);
        let number = |at: usize| f64::from(outputs[first + at * step]);
        let mut bounds = decode(std::array::from_fn(|at| number(1 + at)), &anchors.get(anchor));
        bounds.heading = facing(bounds.heading, usize::from(number(9) > number(8)));
        Detection { bounds, score, class: anchors.class(anchor) }
    };
    found
        .into_iter()
        .map(detection)
        .filter(|found| <[f64; 7]>::from(found.bounds).iter().all(|v| v.is_finite()))
        .collect()
}

#[cfg(test)]
mod tests;
