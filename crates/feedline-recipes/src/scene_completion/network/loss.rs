//! The loss and its slope, by hand and in f64: softmax cross entropy over the voxels that count. Owns which voxels those
//! are and what each weighs; knows no network.
//!
//! The loss of a sample is a mean over its N voxels with label_weight != 0:
//!
//! ```text
//! 1/N sum over them of  class_weight[label] * CE(semantic logits, label)      voxels of label 255 add 0, and count in N
//!     + sketch_weight / N sum over them of CE(sketch logits, sketch_gt)        the same for sketch_gt 255
//! ```
//!
//! This is TorchSSC's mean (`torch.mean` over the selected voxels, `reduction='none'`, `ignore_index=255`), for one
//! sample at a time: there the voxels of a rank's whole batch make one mean, which depends on how samples are dealt.
//! The loss of a batch is the mean over its samples, of all ranks. A sample without such a voxel has loss 0.

use super::batch::Target;
use super::model::SKETCH_CLASSES;
use crate::scene_completion::data::IGNORE;

/// The weights of the loss.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    /// One for each class.
    pub(super) class_weights: Vec<f64>,
    pub(super) sketch_weight: f64,
}

impl Loss {
    /// The loss of one sample. Replaces its logits, semantic (voxels, classes) and sketch (voxels, 2), by the loss's
    /// derivatives.
    pub(super) fn sample_loss(&self, [semantic, sketch]: [&mut [f32]; 2], target: Target<'_>) -> f64 {
        let counted = target.voxels.label_weight.iter().filter(|weight| **weight != 0.0).count();
        let share = 1.0 / counted.max(1) as f64;
        let classes = self.class_weights.len();
        let sketch_share = [share * self.sketch_weight; SKETCH_CLASSES];
        let semantic_share: Vec<f64> = self.class_weights.iter().map(|weight| weight * share).collect();
        let weights = target.voxels.label_weight;
        masked(semantic, classes, target.voxels.label, weights, &semantic_share)
            + masked(sketch, SKETCH_CLASSES, target.sketch, weights, &sketch_share)
    }
}

/// Sum over the rows with weight != 0 and a known label of share[label] * CE(row, label).
fn masked(rows: &mut [f32], classes: usize, labels: &[i64], weights: &[f32], share: &[f64]) -> f64 {
    let mut sum = 0.0;
    for ((row, &label), &weight) in rows.chunks_exact_mut(classes).zip(labels).zip(weights) {
        if weight != 0.0 && label != IGNORE {
            let label = label as usize;
            sum += cross_entropy(row, label, share[label]);
        } else {
            // A logit that is not a number must not pass unseen only because its voxel does not count.
            sum += row.iter().fold(0.0, |sum, &logit| sum + 0.0 * f64::from(logit));
            row.fill(0.0);
        }
    }
    sum
}

/// factor * CE(row, label); replaces the row by its derivative.
fn cross_entropy(row: &mut [f32], label: usize, factor: f64) -> f64 {
    let largest = row.iter().fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
    let of_label = f64::from(row[label] - largest);
    let mut sum = 0.0;
    for logit in row.iter_mut() {
        let power = f64::from(*logit - largest).exp();
        sum += power;
        *logit = power as f32;
    }
    let scale = factor / sum;
    for (class, value) in row.iter_mut().enumerate() {
        let own = if class == label { factor } else { 0.0 };
        *value = (f64::from(*value) * scale - own) as f32;
    }
    factor * (sum.ln() - of_label)
}

/// The class of the largest logit of each voxel, the first of equal ones; at most 256 classes.
pub(super) fn predicted(logits: &[f32], classes: usize) -> Vec<u8> {
    let best = |row: &[f32]| (1..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
    logits.chunks_exact(classes).map(|row| best(row) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene_completion::metrics::Voxels;

    #[test]
    fn is_the_weighted_mean_over_the_voxels_that_count_and_its_slope() {
        let loss = Loss { class_weights: vec![0.5, 1.0, 2.0], sketch_weight: 3.0 };
        let label = [0, 2, IGNORE, 1, 1];
        let weight = [1.0, -2.0, 1.0, 0.0, 0.3];
        let sketch = [0, 1, 1, 0, IGNORE];
        let target = Target {
            voxels: Voxels { label: &label, label_weight: &weight, mapping: &[0; 5], no_pixel: 9 },
            sketch: &sketch,
        };
        let start = |at: usize| ((at * 7 % 11) as f32 - 5.0) * 0.7;
        let (semantic, edges): (Vec<f32>, Vec<f32>) = ((0..15).map(start).collect(), (20..30).map(start).collect());
        let ce = |row: &[f32], label: usize| {
            -(f64::from(row[label]).exp() / row.iter().map(|v| f64::from(*v).exp()).sum::<f64>()).ln()
        };
        let expect = |semantic: &[f32], edges: &[f32]| {
            let classes = 0.5 * ce(&semantic[..3], 0) + 2.0 * ce(&semantic[3..6], 2) + ce(&semantic[12..], 1);
            (classes + 3.0 * (ce(&edges[..2], 0) + ce(&edges[2..4], 1) + ce(&edges[4..6], 1))) / 4.0
        };
        let (mut slope, mut edge_slope) = (semantic.clone(), edges.clone());
        let found = loss.sample_loss([&mut slope, &mut edge_slope], target);
        assert!((found - expect(&semantic, &edges)).abs() < 1e-6, "{found}");
        let step = 1e-2;
        for at in 0..25 {
            let moved = |by: f32| {
                let (mut semantic, mut edges) = (semantic.clone(), edges.clone());
                if at < 15 {
                    semantic[at] += by
                } else {
                    edges[at - 15] += by
                }
                expect(&semantic, &edges)
            };
            let numeric = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            let found = f64::from(if at < 15 { slope[at] } else { edge_slope[at - 15] });
            assert!((found - numeric).abs() < 1e-4, "{at}: {found} {numeric}");
        }
    }

    #[test]
    fn a_sample_without_a_voxel_that_counts_costs_nothing() {
        let loss = Loss { class_weights: vec![1.0; 2], sketch_weight: 1.0 };
        let voxels = Voxels { label: &[0, 1], label_weight: &[0.0; 2], mapping: &[0; 2], no_pixel: 9 };
        let (mut semantic, mut sketch) = ([1.0, 2.0, 3.0, 4.0], [1.0; 4]);
        assert_eq!(loss.sample_loss([&mut semantic, &mut sketch], Target { voxels, sketch: &[0, 1] }), 0.0);
        assert_eq!((semantic, sketch), ([0.0; 4], [0.0; 4]));
    }

    #[test]
    fn the_first_of_equal_logits_is_the_answer() {
        assert_eq!(predicted(&[0.0, 1.0, 1.0, -3.0, -4.0, -3.5], 3), [1, 0]);
    }
}
