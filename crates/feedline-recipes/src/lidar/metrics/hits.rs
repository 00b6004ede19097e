//! Average precision in the making: counts that add up over batches and ranks, so that training can tell of it as it goes.

use super::iou::iou_3d;
use super::kitti_ap::min_overlaps;
use feedline::augment::boxes::Box3d;

/// Steps of the score, which detections are counted by.
const SCORES: usize = 100;
/// Numbers of a class: its objects, and for each step of the score the hits and the misses.
const OF_CLASS: usize = 1 + 2 * SCORES;
/// Steps of recall.
const RECALLS: usize = 40;

/// An object that was found.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Detection {
    pub bounds: Box3d,
    /// 0 to 1.
    pub score: f32,
    /// From 0.
    pub class: usize,
}

/// Counts of objects, hits and misses. A detection, the best first, hits the object of its class that it overlaps most, if
/// that is KITTI's strict overlap in space at least and nothing has hit it before.
#[derive(Debug, Clone)]
pub(in crate::lidar) struct Hits {
    min_overlaps: Vec<f64>,
    sums: Vec<f64>,
}

impl Hits {
    pub(in crate::lidar) fn new(class_names: &[String]) -> Hits {
        let min_overlaps = class_names.iter().map(|class| min_overlaps(class)[0][2]).collect();
        Hits { min_overlaps, sums: vec![0.0; Hits::sums_len(class_names.len())] }
    }

    pub(in crate::lidar) fn sums_len(classes: usize) -> usize {
        classes * OF_CLASS
    }

    /// Counts a frame: what was found, the best first, and what there is, with classes from 0.
    pub(in crate::lidar) fn count(&mut self, found: &[Detection], objects: &[(Box3d, usize)]) {
        objects.iter().for_each(|(_, class)| self.sums[class * OF_CLASS] += 1.0);
        let mut is_hit = vec![false; objects.len()];
        for one in found {
            let overlaps = objects
                .iter()
                .enumerate()
                .filter(|(at, (_, class))| *class == one.class && !is_hit[*at])
                .map(|(at, (own, _))| (iou_3d(&one.bounds, own), at));
            let best =
                overlaps.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|best| best.0 >= self.min_overlaps[one.class]);
            let step = ((f64::from(one.score) * SCORES as f64) as usize).min(SCORES - 1);
            let place = one.class * OF_CLASS + 1 + step;
            match best {
                Some((_, at)) => {
                    is_hit[at] = true;
                    self.sums[place] += 1.0;
                }
                None => self.sums[place + SCORES] += 1.0,
            }
        }
    }

    pub(in crate::lidar) fn into_sums(self) -> Vec<f64> {
        self.sums
    }

    /// The mean over the classes that there are of the average precision over 40 steps of recall, in percent; NaN without an
    /// object. Unlike KITTI's it knows no difficulty: every object of the batches counts.
    pub(in crate::lidar) fn mean_ap(sums: &[f64]) -> f64 {
        let classes = sums.chunks_exact(OF_CLASS).filter(|class| class[0] > 0.0);
        let (sum, count) =
            classes.map(average_precision).fold((0.0, 0.0), |(sum, count), own| (sum + own, count + 1.0));
        sum / count
    }
}

/// 100 times the mean over recalls r = 1/40, 2/40 .. 1 of the best precision at a recall of r or more.
fn average_precision(class: &[f64]) -> f64 {
    let (objects, [hits, misses]) = (class[0], [&class[1..=SCORES], &class[1 + SCORES..]]);
    let mut best = [0.0_f64; RECALLS];
    let (mut right, mut wrong) = (0.0, 0.0);
    for step in (0..SCORES).rev() {
        right += hits[step];
        wrong += misses[step];
        // Whole numbers, so that 1 of 40 is not missed by rounding.
        let reached = (right * RECALLS as f64 / objects) as usize;
        if right > 0.0 {
            best[..reached.min(RECALLS)].iter_mut().for_each(|best| *best = best.max(right / (right + wrong)));
        }
    }
    100.0 * best.iter().sum::<f64>() / RECALLS as f64
}
