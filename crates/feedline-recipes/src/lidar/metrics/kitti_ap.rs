//! KITTI's average precision as OpenPCDet counts it: which labels count at a difficulty, which detections find them, and the
//! curve of precision over recall. Owns the counting; overlaps belong to `iou`, words to `report`.
//!
//! Source: the KITTI object benchmark (Geiger, Lenz, Urtasun, CVPR 2012) and its development kit's rules, with 41 steps of
//! recall; R40 after Simonelli et al., ICCV 2019.

use super::iou::{common_area, share};
use crate::lidar::data::frame::Annos;
use serde::{Deserialize, Serialize};

/// 0 easy, 1 moderate, 2 hard.
pub(super) type Level = usize;

/// Average precision in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Over 11 steps of recall, as until 2019.
    pub r11: f64,
    /// Over 40, without that of recall 0: KITTI's since then.
    pub r40: f64,
}

/// Strict and loose least overlaps: in the picture, from above, in space.
pub(super) fn min_overlaps(class: &str) -> [[f64; 3]; 2] {
    match class.to_ascii_lowercase().as_str() {
        "car" | "van" => [[0.7; 3], [0.7, 0.5, 0.5]],
        "truck" => [[0.7; 3], [0.5; 3]],
        _ => [[0.5; 3], [0.5, 0.25, 0.25]],
    }
}

/// Steps of recall.
const STEPS: usize = 41;
/// Pixels of height from which on an object counts: easy, moderate, hard.
const MIN_HEIGHT_PX: [f64; 3] = [40.0, 25.0, 25.0];
const MAX_OCCLUSION: [f64; 3] = [0.0, 1.0, 2.0];
const MAX_TRUNCATION: [f64; 3] = [0.15, 0.3, 0.5];

/// The overlap by which boxes are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Image,
    Bev,
    Volume,
}

/// Overlaps of the detections of a frame with its labels, row by row.
struct Overlaps {
    of_labels: Vec<f64>,
    /// Shares of detections that lie in regions nobody labelled.
    of_dont_care: Vec<f64>,
}

/// A frame as its overlaps are compared at one kind.
pub(super) struct Scene<'a> {
    truth: &'a Annos,
    found: &'a Annos,
    overlaps: Overlaps,
}

impl<'a> Scene<'a> {
    pub(super) fn new(truth: &'a Annos, found: &'a Annos, kind: Kind) -> Self {
        let mut of_labels = Vec::with_capacity(truth.name.len() * found.name.len());
        match kind {
            Kind::Image => {
                for own in &found.bbox {
                    of_labels.extend(truth.bbox.iter().map(|other| {
                        let common = common_px(own, other);
                        share(common, area_px(own), area_px(other))
                    }));
                }
            }
            Kind::Bev | Kind::Volume => {
                let [found, truth] =
                    [found, truth].map(|annos| (0..annos.name.len()).map(|at| Upright::new(annos, at)));
                let truth: Vec<Upright> = truth.collect();
                for own in found {
                    of_labels.extend(truth.iter().map(|other| own.overlap(other, kind)));
                }
            }
        }
        let mut of_dont_care = Vec::new();
        if kind == Kind::Image {
            let regions = truth.name.iter().zip(&truth.bbox).filter(|(name, _)| *name == "DontCare");
            let regions: Vec<&[f64; 4]> = regions.map(|(_, bbox)| bbox).collect();
            for own in &found.bbox {
                let area = area_px(own);
                let share = |region: &&[f64; 4]| if area > 0.0 { common_px(own, region) / area } else { 0.0 };
                of_dont_care.push(regions.iter().map(share).fold(0.0, f64::max));
            }
        }
        Scene { truth, found, overlaps: Overlaps { of_labels, of_dont_care } }
    }
}

fn area_px([left, top, right, bottom]: &[f64; 4]) -> f64 {
    (right - left).max(0.0) * (bottom - top).max(0.0)
}

fn common_px(one: &[f64; 4], other: &[f64; 4]) -> f64 {
    area_px(&[one[0].max(other[0]), one[1].max(other[1]), one[2].min(other[2]), one[3].min(other[3])])
}

/// A box in camera coordinates: x to the right, y down, z ahead.
struct Upright {
    corners_xz: [[f64; 2]; 4],
    middle: [f64; 2],
    reach: f64,
    /// Top and bottom; y grows downwards.
    ends: [f64; 2],
    area: f64,
}

impl Upright {
    fn new(annos: &Annos, at: usize) -> Self {
        let ([x, bottom, z], [length, height, width]) = (annos.location[at], annos.dimensions[at]);
        let (sin, cos) = annos.rotation_y[at].sin_cos();
        let [along, across] = [length / 2.0, width / 2.0];
        let corner = |[a, b]: [f64; 2]| [x + a * cos + b * sin, z - a * sin + b * cos];
        Self {
            corners_xz: [[along, across], [-along, across], [-along, -across], [along, -across]].map(corner),
            middle: [x, z],
            reach: along.hypot(across),
            ends: [bottom - height, bottom],
            area: length * width,
        }
    }

    fn overlap(&self, other: &Self, kind: Kind) -> f64 {
        let away = (self.middle[0] - other.middle[0]).hypot(self.middle[1] - other.middle[1]);
        if away >= self.reach + other.reach {
            return 0.0;
        }
        let area = common_area(&self.corners_xz, &other.corners_xz);
        if kind == Kind::Bev {
            return share(area, self.area, other.area);
        }
        let height = (self.ends[1].min(other.ends[1]) - self.ends[0].max(other.ends[0])).max(0.0);
        let volume = |of: &Self| of.area * (of.ends[1] - of.ends[0]);
        share(area * height, volume(self), volume(other))
    }
}

/// The boxes of a frame that count for one class, difficulty and least overlap.
struct Case<'a> {
    scene: &'a Scene<'a>,
    /// Labels that count or may be found without harm, and whether they count.
    labels: Vec<(usize, bool)>,
    /// Detections likewise.
    found: Vec<(usize, bool)>,
    /// For each label the detections that overlap it enough: places in `found`, and how much.
    near: Vec<Vec<(usize, f64)>>,
}

impl<'a> Case<'a> {
    fn new(scene: &'a Scene<'a>, class: &str, level: Level, min_overlap: f64) -> Self {
        let (truth, found) = (scene.truth, scene.found);
        let least_px = MIN_HEIGHT_PX[level];
        let mut labels = Vec::new();
        for at in 0..truth.name.len() {
            let name = &truth.name[at];
            let is_own = name.eq_ignore_ascii_case(class);
            let counts = truth.occluded[at] <= MAX_OCCLUSION[level]
                && truth.truncated[at] <= MAX_TRUNCATION[level]
                && truth.bbox[at][3] - truth.bbox[at][1] > least_px;
            if is_own || is_neighbour(class, name) {
                labels.push((at, is_own && counts));
            }
        }
        let mut kept = Vec::new();
        for at in 0..found.name.len() {
            // The development kit asks for the height first: a low detection of any class harms nothing, and finds nothing
            // that counts.
            let is_low = (found.bbox[at][3] - found.bbox[at][1]).abs() < least_px;
            if is_low || found.name[at].eq_ignore_ascii_case(class) {
                kept.push((at, !is_low));
            }
        }
        let overlap = |detection: usize, label: usize| scene.overlaps.of_labels[detection * truth.name.len() + label];
        let near = labels.iter().map(|(label, _)| {
            let own = kept.iter().enumerate().map(|(place, (detection, _))| (place, overlap(*detection, *label)));
            own.filter(|(_, overlap)| *overlap > min_overlap).collect()
        });
        Case { near: near.collect(), scene, labels, found: kept }
    }

    fn score(&self, place: usize) -> f64 {
        self.scene.found.score[self.found[place].0]
    }

    /// Scores of the detections that find a label that counts, each the best of those that could.
    fn scores(&self, scores: &mut Vec<f64>) {
        let mut taken = vec![false; self.found.len()];
        for ((_, counts), near) in self.labels.iter().zip(&self.near) {
            let mut best: Option<usize> = None;
            for (place, _) in near.iter().filter(|(place, _)| !taken[*place]) {
                if best.is_none_or(|best| self.score(*place) > self.score(best)) {
                    best = Some(*place);
                }
            }
            if let Some(best) = best {
                taken[best] = true;
                if *counts && self.found[best].1 {
                    scores.push(self.score(best));
                }
            }
        }
    }

    /// Adds what is found, wrong and missed if only detections of that score or more are taken.
    fn count(&self, threshold: f64, min_overlap: f64, taken: &mut Vec<bool>, counts: &mut Counts) {
        taken.clear();
        taken.resize(self.found.len(), false);
        for ((label, counts_here), near) in self.labels.iter().zip(&self.near) {
            // The one that overlaps most, if it counts; else the first that does not.
            let mut best: Option<(usize, f64, bool)> = None;
            for (place, overlap) in near {
                if taken[*place] || self.score(*place) < threshold {
                    continue;
                }
                let counts = self.found[*place].1;
                let is_better = match best {
                    None => true,
                    Some((_, most, best_counts)) => counts && (!best_counts || *overlap > most),
                };
                if is_better {
                    best = Some((*place, *overlap, counts));
                }
            }
            match best {
                None => counts.missed += usize::from(*counts_here),
                Some((place, _, counts_too)) => {
                    taken[place] = true;
                    if *counts_here && counts_too {
                        counts.found += 1;
                        let turn = self.scene.truth.alpha[*label] - self.alpha(place);
                        counts.similarity += (1.0 + turn.cos()) / 2.0;
                    }
                }
            }
        }
        for (place, (at, is_high)) in self.found.iter().enumerate() {
            let is_wrong = *is_high && !taken[place] && self.score(place) >= threshold;
            let is_in_dont_care = self.scene.overlaps.of_dont_care.get(*at).is_some_and(|share| *share > min_overlap);
            counts.wrong += usize::from(is_wrong && !is_in_dont_care);
        }
    }

    fn alpha(&self, place: usize) -> f64 {
        self.scene.found.alpha.get(self.found[place].0).copied().unwrap_or(f64::NAN)
    }
}

/// Labels of these classes are neither found nor missed.
fn is_neighbour(class: &str, name: &str) -> bool {
    let is = |one: &str, two: &str| class.eq_ignore_ascii_case(one) && name.eq_ignore_ascii_case(two);
    is("Car", "Van") || is("Pedestrian", "Person_sitting")
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    found: usize,
    wrong: usize,
    missed: usize,
    similarity: f64,
}

/// The figures of a class at a difficulty, in percent; the second are those of orientation.
pub(super) fn average_precision(scenes: &[Scene], class: &str, level: Level, min_overlap: f64) -> [Figures; 2] {
    let cases: Vec<Case> = scenes.iter().map(|scene| Case::new(scene, class, level, min_overlap)).collect();
    let valid = cases.iter().flat_map(|case| &case.labels).filter(|(_, counts)| *counts).count();
    let mut scores = Vec::new();
    cases.iter().for_each(|case| case.scores(&mut scores));
    let thresholds = thresholds(scores, valid);
    let mut curves = [[0.0; STEPS]; 2];
    let mut taken = Vec::new();
    for (step, threshold) in thresholds.iter().take(STEPS).enumerate() {
        let mut counts = Counts::default();
        cases.iter().for_each(|case| case.count(*threshold, min_overlap, &mut taken, &mut counts));
        let all = (counts.found + counts.wrong) as f64;
        if all > 0.0 {
            curves[0][step] = counts.found as f64 / all;
            curves[1][step] = counts.similarity / all;
        }
    }
    curves.map(|mut curve| {
        // The best at this recall or a higher one.
        for step in (0..STEPS - 1).rev() {
            curve[step] = curve[step].max(curve[step + 1]);
        }
        Figures {
            r11: curve.iter().step_by(4).sum::<f64>() / 11.0 * 100.0,
            r40: curve[1..].iter().sum::<f64>() / 40.0 * 100.0,
        }
    })
}

/// The scores at which recall comes nearest to each step.
fn thresholds(mut scores: Vec<f64>, valid: usize) -> Vec<f64> {
    scores.sort_by(|one, other| other.total_cmp(one));
    let mut thresholds = Vec::new();
    let mut recall = 0.0;
    for (at, score) in scores.iter().enumerate() {
        let is_last = at + 1 == scores.len();
        let left = (at + 1) as f64 / valid as f64;
        let right = if is_last { left } else { (at + 2) as f64 / valid as f64 };
        if right - recall < recall - left && !is_last {
            continue;
        }
        thresholds.push(*score);
        recall += 1.0 / (STEPS as f64 - 1.0);
    }
    thresholds
}
