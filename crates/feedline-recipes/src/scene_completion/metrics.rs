//! Metrics of completion: the counts behind the scores of semantic scene completion (SSC) and scene completion (SC),
//! as TorchSSC's evaluation defines them. Owns the counts, which add up over samples, steps and ranks, and the scores
//! computed from them; knows no network.

use feedline::Result;
use feedline::train::group::Group;

/// The voxels of one sample, N of each, in the same order.
#[derive(Debug, Clone, Copy)]
pub struct Voxels<'a> {
    /// 0..num_classes, or [`IGNORE`](super::data::IGNORE); class 0 is empty space.
    pub label: &'a [i64],
    /// Above 0: the voxel counts.
    pub label_weight: &'a [f32],
    /// The pixel that shows the voxel, or `no_pixel`.
    pub mapping: &'a [i64],
    /// Height times width of the picture: no pixel shows the voxel.
    pub no_pixel: i64,
}

/// Counts of voxels. The default figures of nothing counted are NaN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scores {
    num_classes: usize,
    /// `confusion[label * num_classes + predicted]`, over voxels of weight above 0 with a known label.
    confusion: Vec<u64>,
    /// Of those, the ones that no pixel shows: filled and predicted so, ...
    true_positive: u64,
    /// ... empty and predicted filled, ...
    false_positive: u64,
    /// ... filled and predicted empty.
    false_negative: u64,
}

impl Scores {
    /// Names of the figures of [`Scores::figures`].
    pub const NAMES: &'static [&'static str] = &["ssc_miou", "sc_iou", "sc_precision", "sc_recall"];

    /// Nothing counted yet.
    pub fn new(num_classes: usize) -> Scores {
        let confusion = vec![0; num_classes * num_classes];
        Scores { num_classes, confusion, true_positive: 0, false_positive: 0, false_negative: 0 }
    }

    /// Number of counts in [`Scores::to_sums`].
    pub fn sums_len(num_classes: usize) -> usize {
        num_classes * num_classes + 3
    }

    /// The counts as numbers that add up: the confusion matrix, then true positives, false positives and false negatives
    /// of SC. Exact up to 2^53.
    pub fn to_sums(&self) -> Vec<f64> {
        let more = [self.true_positive, self.false_positive, self.false_negative];
        self.confusion.iter().chain(&more).map(|&count| count as f64).collect()
    }

    /// The inverse of [`Scores::to_sums`]; counts that are missing are 0.
    pub fn from_sums(num_classes: usize, sums: &[f64]) -> Scores {
        let mut counts = sums.iter().map(|&sum| sum as u64).chain(std::iter::repeat(0));
        let confusion = counts.by_ref().take(num_classes * num_classes).collect();
        let mut next = || counts.next().unwrap_or(0);
        Scores { num_classes, confusion, true_positive: next(), false_positive: next(), false_negative: next() }
    }

    /// Counts one sample. `predicted` holds the class of each of its N voxels; labels outside the classes are unknown.
    pub fn count(&mut self, predicted: &[u8], voxels: Voxels<'_>) {
        let known = voxels.label.iter().zip(voxels.label_weight).zip(voxels.mapping).zip(predicted);
        for (((&label, &weight), &pixel), &predicted) in known {
            let (Ok(label), predicted) = (usize::try_from(label), usize::from(predicted)) else { continue };
            if !(weight > 0.0 && label < self.num_classes && predicted < self.num_classes) {
                continue;
            }
            self.confusion[label * self.num_classes + predicted] += 1;
            if pixel == voxels.no_pixel {
                match (label > 0, predicted > 0) {
                    (true, true) => self.true_positive += 1,
                    (false, true) => self.false_positive += 1,
                    (true, false) => self.false_negative += 1,
                    (false, false) => {}
                }
            }
        }
    }

    /// Replaces the counts by their sums over the ranks, which must have the same number of classes.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    pub fn all_reduce(&mut self, group: &dyn Group) -> Result<()> {
        if group.world_size() > 1 {
            let mut sums = self.to_sums();
            group.all_reduce_f64(&mut sums)?;
            *self = Scores::from_sums(self.num_classes, &sums);
        }
        Ok(())
    }

    /// SSC: intersection over union of each class; NaN for a class that was neither there nor predicted.
    pub fn ssc_iou(&self) -> Vec<f64> {
        let at = |label: usize, predicted: usize| self.confusion[label * self.num_classes + predicted];
        let of_class = |class: usize| {
            let labelled: u64 = (0..self.num_classes).map(|other| at(class, other)).sum();
            let predicted: u64 = (0..self.num_classes).map(|other| at(other, class)).sum();
            share(at(class, class), labelled + predicted - at(class, class))
        };
        (0..self.num_classes).map(of_class).collect()
    }

    /// SSC: mean of [`Scores::ssc_iou`] over the classes that have one, empty space left out.
    pub fn ssc_miou(&self) -> f64 {
        let defined: Vec<f64> = self.ssc_iou().into_iter().skip(1).filter(|iou| !iou.is_nan()).collect();
        defined.iter().sum::<f64>() / defined.len() as f64
    }

    /// SC: intersection over union of filled voxels, where no pixel shows them.
    pub fn sc_iou(&self) -> f64 {
        share(self.true_positive, self.true_positive + self.false_positive + self.false_negative)
    }

    /// SC: share of the voxels predicted filled that are.
    pub fn sc_precision(&self) -> f64 {
        share(self.true_positive, self.true_positive + self.false_positive)
    }

    /// SC: share of the filled voxels predicted so.
    pub fn sc_recall(&self) -> f64 {
        share(self.true_positive, self.true_positive + self.false_negative)
    }

    /// The figures [`Scores::NAMES`] names, each in 0..=1, or NaN where nothing defines it.
    pub fn figures(&self) -> [f64; 4] {
        [self.ssc_miou(), self.sc_iou(), self.sc_precision(), self.sc_recall()]
    }
}

/// NaN of nothing.
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene_completion::data::IGNORE;
    use feedline::plan::rng::SampleRng;
    use feedline::train::threads::ThreadGroup;

    const NO_PIXEL: i64 = 50;

    struct Sample {
        predicted: Vec<u8>,
        label: Vec<i64>,
        label_weight: Vec<f32>,
        mapping: Vec<i64>,
    }

    impl Sample {
        fn voxels(&self) -> Voxels<'_> {
            let Sample { label, label_weight, mapping, .. } = self;
            Voxels { label, label_weight, mapping, no_pixel: NO_PIXEL }
        }
    }

    /// Classes 0..classes-1: the last one is neither there nor predicted.
    fn sample(number: u64, classes: u64, voxels: usize) -> Sample {
        let mut rng = SampleRng::new(3, 0, number, "scores");
        let mut draw = |below: u64| (0..voxels).map(|_| rng.below(below)).collect::<Vec<_>>();
        Sample {
            predicted: draw(classes - 1).into_iter().map(|v| v as u8).collect(),
            label: draw(classes + 1).into_iter().map(|v| if v + 1 < classes { v as i64 } else { IGNORE }).collect(),
            label_weight: draw(4).into_iter().map(|v| [0.0, 1.0, 0.5, -1.0][v as usize]).collect(),
            mapping: draw(2).into_iter().map(|v| if v == 0 { NO_PIXEL } else { 7 }).collect(),
        }
    }

    fn counted(samples: &[Sample], classes: usize) -> Scores {
        let mut scores = Scores::new(classes);
        samples.iter().for_each(|sample| scores.count(&sample.predicted, sample.voxels()));
        scores
    }

    /// Predicted, label, weight, mapping.
    type Voxel = (u8, i64, f32, i64);

    /// One class at a time, straight from the definition.
    fn naive(samples: &[Sample], classes: u8) -> (Vec<f64>, [f64; 4]) {
        let all: Vec<Voxel> = samples
            .iter()
            .flat_map(|s| {
                (0..s.label.len()).map(|at| (s.predicted[at], s.label[at], s.label_weight[at], s.mapping[at]))
            })
            .filter(|&(_, label, weight, _)| weight > 0.0 && label != IGNORE)
            .collect();
        let count = |which: &dyn Fn(&Voxel) -> bool| all.iter().filter(|v| which(v)).count() as f64;
        let iou: Vec<f64> = (0..classes)
            .map(|class| {
                let both = count(&|v| v.0 == class && v.1 == i64::from(class));
                both / count(&|v| v.0 == class || v.1 == i64::from(class))
            })
            .collect();
        let (mut sum, mut defined) = (0.0, 0);
        for iou in iou[1..].iter().filter(|iou| !iou.is_nan()) {
            (sum, defined) = (sum + iou, defined + 1);
        }
        let hidden = |filled: bool, predicted: bool| {
            count(&|v| v.3 == NO_PIXEL && (v.1 > 0) == filled && (v.0 > 0) == predicted)
        };
        let (tp, fp, missed) = (hidden(true, true), hidden(false, true), hidden(true, false));
        (iou, [sum / f64::from(defined), tp / (tp + fp + missed), tp / (tp + fp), tp / (tp + missed)])
    }

    #[test]
    fn figures_are_those_of_the_definition() {
        let samples: Vec<Sample> = (0..3).map(|number| sample(number, 6, 400)).collect();
        let scores = counted(&samples, 6);
        let (iou, figures) = naive(&samples, 6);
        let found = scores.ssc_iou();
        assert!(found[5].is_nan() && iou[5].is_nan(), "a class that is nowhere has no IoU");
        assert!(found[..5].iter().zip(&iou).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} {iou:?}");
        assert!(scores.figures().iter().zip(figures).all(|(a, b)| (a - b).abs() < 1e-12), "{scores:?} {figures:?}");
    }

    #[test]
    fn nothing_counted_and_empty_space_alone_have_no_figure() {
        assert!(Scores::new(4).figures().iter().all(|figure| figure.is_nan()));
        let mut scores = Scores::new(4);
        let hidden = [NO_PIXEL; 3];
        let voxels =
            Voxels { label: &[0, 255, 0], label_weight: &[1.0, 1.0, 0.0], mapping: &hidden, no_pixel: NO_PIXEL };
        scores.count(&[0, 2, 3], voxels);
        assert!(scores.figures().iter().all(|figure| figure.is_nan()), "{scores:?}");
        assert_eq!(scores.ssc_iou()[0], 1.0);
        assert_eq!(scores.to_sums().iter().sum::<f64>(), 1.0, "255 and weight 0 count for nothing");
    }

    #[test]
    fn counts_survive_as_sums() {
        let scores = counted(&[sample(0, 5, 300)], 5);
        assert_eq!(scores.to_sums().len(), Scores::sums_len(5));
        assert_eq!(Scores::from_sums(5, &scores.to_sums()), scores);
        assert_eq!(Scores::from_sums(5, &[]), Scores::new(5));
    }

    #[test]
    fn two_ranks_together_count_what_one_does() {
        let whole = counted(&[sample(0, 5, 300), sample(1, 5, 300)], 5);
        let found: Vec<Scores> = std::thread::scope(|scope| {
            let rank = |group: ThreadGroup| {
                let mut scores = counted(&[sample(group.rank(), 5, 300)], 5);
                scores.all_reduce(&group).unwrap();
                scores
            };
            let ranks: Vec<_> = ThreadGroup::new(2).into_iter().map(|g| scope.spawn(move || rank(g))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert_eq!(found, [whole.clone(), whole]);
    }
}
