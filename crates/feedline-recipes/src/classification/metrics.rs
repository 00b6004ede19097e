//! Figures of an evaluation: top-1 and top-5 accuracy, precision and recall of each class, the confusion matrix as
//! CSV text and as a picture, the most confident mistakes. Pure functions of logits and labels; writes no file.

use feedline::plot::{Canvas, heat_map};
use feedline::train::group::Group;
use feedline::{Error, Result};

/// True if logit `a` ranks before the earlier `b`.
fn beats(a: f32, b: f32) -> bool {
    a > b || (b.is_nan() && !a.is_nan())
}

/// The class of the highest logit. Of equal ones the lowest class wins; NaN is below every number. 0 without logits.
pub fn predicted(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, class| if beats(logits[class], logits[best]) { class } else { best })
}

/// A sample that was taken for another class.
#[derive(Debug, Clone, PartialEq)]
pub struct Mistake {
    /// Its index in the data set.
    pub index: u64,
    /// Its class.
    pub label: usize,
    /// The class it was taken for.
    pub predicted: usize,
    /// The softmax of the logits at `predicted`, 0 to 1; 0 if they are no numbers.
    pub probability: f64,
}

impl Mistake {
    /// The mistake of these logits of sample `index`, if [`predicted`] is not `label`.
    pub fn of(index: u64, logits: &[f32], label: usize) -> Option<Mistake> {
        let predicted = predicted(logits);
        let highest = f64::from(*logits.get(predicted)?);
        let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - highest).exp()).sum();
        let probability = if sum.is_nan() { 0.0 } else { 1.0 / sum };
        (predicted != label).then_some(Mistake { index, label, predicted, probability })
    }
}

/// The `limit` mistakes of the highest probability, that first; of equal ones the lowest index first.
pub fn most_confident_mistakes(mut mistakes: Vec<Mistake>, limit: usize) -> Vec<Mistake> {
    mistakes.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.index.cmp(&b.index)));
    mistakes.truncate(limit);
    mistakes
}

/// Number of classes up to which a report has a line for each.
const LINES_MAX: usize = 20;

/// Number of classes with the lowest and with the highest recall that a report of more classes has.
const WORST: usize = 5;
const BEST: usize = 3;

/// The classes that a report for a person has a line for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// All of them; of many those with the lowest recall, the lowest first, then those with the highest.
    pub classes: Vec<usize>,
    /// Of many: what these are, the mean recall, and the file that has all classes.
    pub more: Option<String>,
}

impl Shown {
    /// The choice by the recall of each class; a class without samples is none of the few.
    pub fn of(recalls: &[Option<f64>], file: &str) -> Shown {
        if recalls.len() <= LINES_MAX {
            return Shown { classes: (0..recalls.len()).collect(), more: None };
        }
        let known = recalls.iter().enumerate().filter_map(|(at, recall)| recall.map(|recall| (recall, at)));
        let mut known: Vec<(f64, usize)> = known.collect();
        known.sort_by(|(a, _), (b, _)| a.total_cmp(b)); // stable, so equal ones stay in the order of the classes
        let mean = known.iter().map(|(recall, _)| recall).sum::<f64>() / known.len() as f64;
        let worst = known.iter().take(WORST);
        let best = known.iter().skip(known.len().saturating_sub(BEST).max(WORST));
        let more = format!(
            "the {} classes of lowest and {} of highest recall, of {}; mean recall {mean:.4}; all classes are in {file}",
            worst.len(),
            best.len(),
            recalls.len()
        );
        Shown { classes: worst.chain(best).map(|(_, at)| *at).collect(), more: Some(more) }
    }
}

/// The counts of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// `confusion[label][predicted]`: samples.
    pub confusion: Vec<Vec<u64>>,
    /// Samples whose label is among the five highest logits (all of them, where there are fewer classes).
    pub top5_hits: u64,
    /// Samples counted.
    pub samples: u64,
}

impl Evaluation {
    /// Nothing counted yet.
    pub fn new(classes: usize) -> Evaluation {
        Evaluation { confusion: vec![vec![0; classes]; classes], top5_hits: 0, samples: 0 }
    }

    /// Counts one sample. Of equal logits the lowest class wins; NaN is below every number, so that a broken model
    /// does not look like a good one.
    ///
    /// # Errors
    /// If there are not as many logits as classes, or the label is not below their number; nothing is counted then.
    pub fn add(&mut self, logits: &[f32], label: usize) -> Result<()> {
        let classes = self.confusion.len();
        if logits.len() != classes || label >= classes {
            return Err(Error::train(
                format!("an evaluation of {classes} classes got {} logits and label {label}", logits.len()),
                "Evaluate with the classes that the model was trained on",
            ));
        }
        let predicted = predicted(logits);
        let rank = (0..label).filter(|&class| !beats(logits[label], logits[class])).count()
            + (label + 1..classes).filter(|&class| beats(logits[class], logits[label])).count();
        self.confusion[label][predicted] += 1;
        self.top5_hits += u64::from(rank < 5);
        self.samples += 1;
        Ok(())
    }

    /// Replaces it by the sum over the ranks.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    pub fn all_reduce(&mut self, group: &dyn Group) -> Result<()> {
        let counts = || [self.samples, self.top5_hits].into_iter().chain(self.confusion.iter().flatten().copied());
        let mut sums: Vec<f64> = counts().map(|count| count as f64).collect();
        group.all_reduce_f64(&mut sums)?;
        let mut sums = sums.into_iter().map(|sum| sum as u64); // exact below 2^53
        let places = [&mut self.samples, &mut self.top5_hits].into_iter().chain(self.confusion.iter_mut().flatten());
        places.zip(&mut sums).for_each(|(place, sum)| *place = sum);
        Ok(())
    }

    /// Share of samples whose highest logit is their label's; NaN without samples.
    pub fn top1_accuracy(&self) -> f64 {
        let hits: u64 = (0..self.confusion.len()).map(|class| self.confusion[class][class]).sum();
        hits as f64 / self.samples as f64
    }

    /// Share of samples whose label is among the five highest logits; NaN without samples.
    pub fn top5_accuracy(&self) -> f64 {
        self.top5_hits as f64 / self.samples as f64
    }

    /// Of the samples of each class, the share that was found; None for a class without samples.
    pub fn recall(&self) -> Vec<Option<f64>> {
        self.shares(|class| self.confusion[class].iter().sum())
    }

    /// Of the samples taken for each class, the share that belongs to it; None for a class that was never predicted.
    pub fn precision(&self) -> Vec<Option<f64>> {
        self.shares(|class| self.confusion.iter().map(|row| row[class]).sum())
    }

    fn shares(&self, of: impl Fn(usize) -> u64) -> Vec<Option<f64>> {
        let share = |class: usize| match of(class) {
            0 => None,
            all => Some(self.confusion[class][class] as f64 / all as f64),
        };
        (0..self.confusion.len()).map(share).collect()
    }

    /// The confusion matrix as CSV (RFC 4180, but with plain line feeds): a row per true class, a column per predicted
    /// class, names first.
    pub fn confusion_csv(&self, classes: &[String]) -> String {
        let line = |first: &str, rest: Vec<String>| [vec![quoted(first)], rest].concat().join(",") + "\n";
        let mut text = line("true \\ predicted", classes.iter().map(|class| quoted(class)).collect());
        for (class, row) in classes.iter().zip(&self.confusion) {
            text += &line(class, row.iter().map(u64::to_string).collect());
        }
        text
    }

    /// The confusion matrix as a picture; the darker a cell, the larger its share of the true class.
    pub fn confusion_picture(&self, classes: &[String]) -> Canvas {
        let title = format!("Confusion matrix: {:.1} % of {} right", 100.0 * self.top1_accuracy(), self.samples);
        heat_map(&title, ("true class", classes), ("predicted class", classes), &self.confusion)
    }
}

/// A field of a CSV line, in quotes if it needs them.
pub(super) fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.into()).collect()
    }

    #[test]
    fn a_report_of_many_classes_has_the_worst_and_the_best_of_them() {
        let few: Vec<Option<f64>> = (0..20).map(|n| Some(f64::from(n) / 20.0)).collect();
        assert_eq!(Shown::of(&few, "f"), Shown { classes: (0..20).collect(), more: None });
        // 40, 39, ... hundredths, and a class without samples.
        let many: Vec<Option<f64>> = (0..40).map(|n| (n != 39).then(|| f64::from(40 - n) / 100.0)).collect();
        let Shown { classes, more } = Shown::of(&many, "eval.json");
        assert_eq!(classes, [38, 37, 36, 35, 34, 2, 1, 0]);
        let more = more.unwrap();
        assert!(more.contains("the 5 classes of lowest and 3 of highest recall, of 40; mean recall 0.2100"), "{more}");
        assert!(more.ends_with("all classes are in eval.json"), "{more}");
    }

    #[test]
    fn figures_of_a_small_evaluation() {
        let mut evaluation = Evaluation::new(3);
        // Labels 0, 0, 0, 1, 1; class 2 has no sample, but is predicted once.
        for (logits, label) in [
            ([2.0, 1.0, 0.0], 0),
            ([2.0, 1.0, 0.0], 0),
            ([0.0, 1.0, 0.5], 0),
            ([0.0, 1.0, 0.5], 1),
            ([0.0, 1.0, 1.5], 1),
        ] {
            evaluation.add(&logits, label).unwrap();
        }
        assert_eq!(evaluation.confusion, [[2, 1, 0], [0, 1, 1], [0, 0, 0]]);
        assert_eq!((evaluation.top1_accuracy(), evaluation.top5_accuracy(), evaluation.samples), (0.6, 1.0, 5));
        assert_eq!(evaluation.recall(), [Some(2.0 / 3.0), Some(0.5), None]);
        assert_eq!(evaluation.precision(), [Some(1.0), Some(0.5), Some(0.0)]);
        let empty = Evaluation::new(2);
        assert!(empty.top1_accuracy().is_nan() && empty.top5_accuracy().is_nan());
        assert_eq!(empty.recall(), [None, None]);
    }

    #[test]
    fn five_places_are_counted_and_ties_go_to_the_lowest_class() {
        let hits = |logits: [f32; 7]| -> Vec<bool> {
            let hit = |label| {
                let mut evaluation = Evaluation::new(7);
                evaluation.add(&logits, label).unwrap();
                evaluation.top5_hits == 1
            };
            (0..7).map(hit).collect()
        };
        let best = |logits: [f32; 7]| -> usize {
            let mut evaluation = Evaluation::new(7);
            evaluation.add(&logits, 3).unwrap();
            evaluation.confusion[3].iter().position(|&count| count == 1).unwrap()
        };
        let (y, n, nan) = (true, false, f32::NAN);
        assert_eq!(hits([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), [n, n, y, y, y, y, y]);
        assert_eq!(hits([1.0; 7]), [y, y, y, y, y, n, n]);
        assert_eq!(hits([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]), [y, y, y, y, n, y, n]);
        assert_eq!(hits([nan, nan, -1.0, nan, nan, f32::NEG_INFINITY, nan]), [y, y, y, y, n, y, n]);
        assert_eq!(best([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 6);
        assert_eq!(best([1.0; 7]), 0);
        assert_eq!(best([nan, nan, -1.0, nan, 2.0, 2.0, nan]), 4);
        assert_eq!(best([nan; 7]), 0);
    }

    #[test]
    fn the_most_confident_mistakes_come_first() {
        let rows: [(&[f32], usize); 6] = [
            (&[3.0, 0.0, 0.0], 0), // right
            (&[3.0, 0.0, 0.0], 1),
            (&[0.0, 0.0, 9.0], 0),
            (&[f32::NAN, f32::NAN, f32::NAN], 2),
            (&[0.0, 3.0, 0.0], 2),
            (&[f32::INFINITY, 0.0, 0.0], 2),
        ];
        let all: Vec<_> =
            (0..).zip(rows).filter_map(|(index, (logits, label))| Mistake::of(10 + index, logits, label)).collect();
        assert_eq!(all.len(), 5);
        let worst = most_confident_mistakes(all.clone(), 3);
        let told: Vec<_> = worst.iter().map(|found| (found.index, found.label, found.predicted)).collect();
        assert_eq!(told, [(12, 0, 2), (11, 1, 0), (14, 2, 1)]);
        // Of torch.softmax(torch.tensor([3., 0., 0.], dtype=torch.float64), 0).
        assert!((worst[1].probability - 0.909_442_998_512_742).abs() < 1e-15, "{}", worst[1].probability);
        assert_eq!(worst[1].probability, worst[2].probability);
        let rest = &most_confident_mistakes(all, 9)[3..];
        assert_eq!(
            rest.iter().map(|found| (found.index, found.probability)).collect::<Vec<_>>(),
            [(13, 0.0), (15, 0.0)]
        );
        assert_eq!(Mistake::of(0, &[], 0), None);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_not_counted() {
        let mut evaluation = Evaluation::new(3);
        for (logits, label) in [(&[0.0; 2][..], 0), (&[0.0; 4], 0), (&[0.0; 3], 3)] {
            let text = evaluation.add(logits, label).unwrap_err().to_string();
            assert!(text.contains("of 3 classes"), "{text}");
        }
        assert_eq!(evaluation, Evaluation::new(3));
    }

    #[test]
    fn the_confusion_matrix_is_written_as_csv_and_drawn() {
        let mut evaluation = Evaluation::new(2);
        evaluation.add(&[0.0, 1.0], 0).unwrap();
        evaluation.add(&[0.0, 1.0], 1).unwrap();
        let classes = names(&["cat, \"big\"", "dog"]);
        let expect = "true \\ predicted,\"cat, \"\"big\"\"\",dog\n\"cat, \"\"big\"\"\",0,1\ndog,0,1\n";
        assert_eq!(evaluation.confusion_csv(&classes), expect);
        let picture = evaluation.confusion_picture(&classes);
        assert!(picture.image().width_px > 100 && picture.image().height_px > 100);
        // The first cell is empty, the second as dark as it gets.
        let darkest = [8, 48, 107];
        let has = |picture: &Canvas| picture.image().pixels.chunks_exact(3).any(|pixel| pixel == darkest);
        assert!(has(&picture) && !has(&Evaluation::new(2).confusion_picture(&classes)));
    }
}
