//! The task of a network that learns from labels: one step and one evaluation of any [`SupervisedNetwork`] with any
//! [`SampleLoss`]. Owns what they share and [`CrossEntropy`]; knows no recipe, no layer and no tensor framework.

use super::parameters::Parameters;
use super::step::Stepper;
use feedline::train::group::Group;
use feedline::train::{Tally, Task, TaskState};
use feedline::{Array, Batch, BatchField, Element, Error, Result};
use std::ops::Range;

/// A network with one row of outputs for each sample.
pub trait SupervisedNetwork {
    /// Its numbers.
    fn parameters(&self) -> &Parameters;

    /// Its numbers, writable.
    fn parameters_mut(&mut self) -> &mut Parameters;

    /// The outputs of the `samples` leading samples of a batch, row-major, in evaluation mode. There may be no sample.
    ///
    /// # Errors
    /// A batch that does not fit the network.
    fn outputs(&self, batch: &Batch, samples: usize) -> Result<Vec<f32>>;

    /// A training pass of the `samples` leading samples of this rank's share of a batch. There may be no sample. While the
    /// backbone is `frozen`, its parameters need no gradient and its running statistics stay as they are.
    ///
    /// # Errors
    /// A batch that does not fit the network, or a rank that cannot be reached.
    fn train_pass<'p>(
        &'p self,
        batch: &'p Batch,
        samples: usize,
        frozen: bool,
        group: &'p dyn Group,
    ) -> Result<TrainPass<'p>>;
}

/// A training pass on its way: forward is done, backward is not.
pub struct TrainPass<'p> {
    /// The outputs, row-major.
    pub outputs: Vec<f32>,
    /// The backward pass.
    pub backward: Backward<'p>,
}

/// Takes the derivative of the loss by each output, overwrites the gradient with that by each parameter, and gives the new values
/// of running statistics, each with its place in [`Parameters::buffers`].
pub type Backward<'p> = Box<dyn FnOnce(&[f32], &mut [f32]) -> Result<Vec<(Range<usize>, Vec<f32>)>> + 'p>;

/// A loss that depends on one sample's outputs and label, with metrics that are means over the samples.
pub trait SampleLoss {
    /// A label.
    type Label: Element;

    /// The field of the batch that has the labels, (B,).
    const FIELD: &'static str;

    /// Names of the metrics.
    const METRICS: &'static [&'static str];

    /// Checks the label of a sample; the problem is told as what is wrong with it.
    ///
    /// # Errors
    /// A label that no network of this loss can learn.
    fn check(&self, _label: Self::Label) -> Result<(), String> {
        Ok(())
    }

    /// The loss of a sample. Adds its metrics to `metrics`, and appends the derivative of the loss by each output to `slope`.
    fn of_sample(&self, outputs: &[f32], label: Self::Label, metrics: &mut [f64], slope: &mut Vec<f64>) -> f64;

    /// The same for a sample that is learned from, times [`SampleLoss::weight`]; by default the loss by which is evaluated.
    fn of_train_sample(&self, outputs: &[f32], label: Self::Label, metrics: &mut [f64], slope: &mut Vec<f64>) -> f64 {
        self.of_sample(outputs, label, metrics, slope)
    }

    /// True if samples have weights in training: the loss of a step is then the mean by weight.
    fn is_weighted(&self) -> bool {
        false
    }

    /// The weight of a sample with this label in training, above 0.
    fn weight(&self, _label: Self::Label) -> f64 {
        1.0
    }
}

/// A network in training by a loss.
#[derive(Debug)]
pub struct Supervised<N, L> {
    network: N,
    loss: L,
    stepper: Stepper,
    /// A step's share of this rank is computed in so many parts.
    accumulate: usize,
}

impl<N: SupervisedNetwork, L: SampleLoss> Supervised<N, L> {
    /// A task at its first step; `stepper` is for the network's parameters.
    pub fn from_parts(network: N, loss: L, stepper: Stepper) -> Supervised<N, L> {
        Supervised { network, loss, stepper, accumulate: 1 }
    }

    /// With this rank's share of each step computed in `parts` parts one after the other, whose gradients are added: the step is
    /// that of the whole batch, but for rounding, and for norm layers, which see a part at a time. Less memory is needed.
    pub fn with_accumulation(self, parts: usize) -> Supervised<N, L> {
        Supervised { accumulate: parts.max(1), ..self }
    }

    /// The network.
    pub fn network(&self) -> &N {
        &self.network
    }

    /// The network, writable.
    pub fn network_mut(&mut self) -> &mut N {
        &mut self.network
    }

    /// Number of trainable values, those of a frozen backbone included.
    pub fn parameter_count(&self) -> usize {
        self.network.parameters().parameters.len()
    }

    /// The labels of the real samples, checked.
    fn labels<'b>(&self, batch: &'b Batch) -> Result<&'b [L::Label]> {
        let (array, len) = (batch.stacked(L::FIELD)?, batch.len());
        if array.dtype() != L::Label::DTYPE || array.shape() != [len] {
            let (name, wanted) = (L::FIELD, L::Label::DTYPE);
            return Err(Error::train(
                format!("field {name:?} is {:?} {:?}, not {wanted:?} [{len}]", array.dtype(), array.shape()),
                "Use the pipeline of the network's own recipe",
            ));
        }
        let labels = &array.as_slice::<L::Label>()[..batch.valid.min(len)];
        for (index, label) in batch.indices.iter().zip(labels) {
            self.loss.check(*label).map_err(|problem| {
                Error::train(format!("sample {index} has {problem}"), "Check the labels against the data")
            })?;
        }
        Ok(labels)
    }

    /// The sums over the samples, and the derivative of each sample's loss by its outputs, row-major.
    fn tally(&self, outputs: &[f32], labels: &[L::Label], of: OfSample<L>) -> (Tally, Vec<f64>) {
        let metric_sums = vec![0.0; L::METRICS.len()];
        let mut tally = Tally { samples: labels.len() as u64, loss_sum: 0.0, metric_sums };
        let mut slope = Vec::with_capacity(outputs.len());
        // Without a sample there is no row.
        let row = (outputs.len() / labels.len().max(1)).max(1);
        for (outputs, label) in outputs.chunks_exact(row).zip(labels) {
            tally.loss_sum += of(&self.loss, outputs, *label, &mut tally.metric_sums, &mut slope);
        }
        (tally, slope)
    }

    /// The sum of the samples' weights, if they have any.
    fn weight(&self, labels: &[L::Label]) -> Option<f64> {
        self.loss.is_weighted().then(|| labels.iter().map(|label| self.loss.weight(*label)).sum())
    }

    /// A step in several parts. How the samples of all ranks weigh is known before the first pass, so that each part's gradient
    /// has its share.
    fn accumulated_step(&mut self, batch: &Batch, lr: f64, group: &dyn Group) -> Result<Tally> {
        let labels = self.labels(batch)?;
        let count = labels.len();
        let mut tally = Tally { metric_sums: vec![0.0; L::METRICS.len()], ..Tally::default() };
        let mut weights = [count as f64, self.weight(labels).unwrap_or(count as f64)];
        group.all_reduce_f64(&mut weights)?;
        let [samples, weight] = weights;
        if samples == 0.0 {
            return Ok(tally);
        }
        let share = self.stepper.share_of(weight);
        let mut sum = vec![0.0; self.stepper.gradient().len()];
        for part in 0..self.accumulate {
            let range = part * count / self.accumulate..(part + 1) * count / self.accumulate;
            if range.is_empty() && (count > 0 || part > 0) {
                continue;
            }
            let (samples, labels) = (part_of(batch, range.clone())?, &labels[range]);
            let TrainPass { outputs, backward } =
                self.network.train_pass(&samples, labels.len(), self.stepper.is_frozen(), group)?;
            let (more, slope) = self.tally(&outputs, labels, L::of_train_sample);
            let slope: Vec<f32> = slope.into_iter().map(|value| (value * share) as f32).collect();
            let statistics = backward(&slope, self.stepper.gradient_mut())?;
            sum.iter_mut().zip(self.stepper.gradient()).for_each(|(sum, value)| *sum += value);
            for (range, values) in statistics {
                self.network.parameters_mut().buffers[range].copy_from_slice(&values);
            }
            tally.add(&more);
        }
        self.stepper.gradient_mut().copy_from_slice(&sum);
        tally.all_reduce(group)?;
        tally.loss_sum *= samples / weight;
        self.stepper.check_loss(&tally, batch)?;
        self.stepper.step(self.network.parameters_mut(), lr, batch, group)?;
        Ok(tally)
    }
}

/// [`SampleLoss::of_sample`] or [`SampleLoss::of_train_sample`].
type OfSample<L> = fn(&L, &[f32], <L as SampleLoss>::Label, &mut [f64], &mut Vec<f64>) -> f64;

/// Some of a batch's samples.
fn part_of(batch: &Batch, range: Range<usize>) -> Result<Batch> {
    let part = |(name, field): &(String, BatchField)| {
        let BatchField::Stack(array) = field else {
            return Err(Error::train(
                format!("field {name:?} of the batch is not stacked, so no part of the batch can be taken"),
                "Train without accumulation",
            ));
        };
        let row = array.as_bytes().len() / batch.len().max(1);
        let mut shape = array.shape().to_vec();
        shape.iter_mut().take(1).for_each(|len| *len = range.len());
        let mut rows = Array::try_zeros(array.dtype(), shape)?;
        rows.as_bytes_mut().copy_from_slice(&array.as_bytes()[range.start * row..range.end * row]);
        Ok((name.clone(), BatchField::Stack(rows)))
    };
    Ok(Batch {
        indices: batch.indices[range.clone()].to_vec(),
        valid: range.len(),
        fields: batch.fields.iter().map(part).collect::<Result<_>>()?,
        replaced: Vec::new(),
        ..*batch
    })
}

impl<N: SupervisedNetwork, L: SampleLoss> Task for Supervised<N, L> {
    fn metric_names(&self) -> &'static [&'static str] {
        L::METRICS
    }

    fn set_frozen(&mut self, frozen: bool) -> Result<()> {
        self.stepper.set_frozen(self.network.parameters(), frozen)
    }

    fn set_momentum(&mut self, momentum: f64) {
        self.stepper.set_momentum(momentum);
    }

    fn train_step(&mut self, batch: &Batch, lr: f64, group: &dyn Group) -> Result<Tally> {
        if self.accumulate > 1 {
            let before = self.network.parameters().buffers.clone();
            let tally = self.accumulated_step(batch, lr, group);
            let parameters = self.network.parameters_mut();
            match &tally {
                Ok(tally) if tally.samples > 0 => parameters.average(),
                Ok(_) => {}
                Err(_) => parameters.buffers = before,
            }
            return tally;
        }
        let labels = self.labels(batch)?;
        let TrainPass { outputs, backward } =
            self.network.train_pass(batch, labels.len(), self.stepper.is_frozen(), group)?;
        let (mut tally, slope) = self.tally(&outputs, labels, L::of_train_sample);
        let weight = self.weight(labels);
        let Some(share) = self.stepper.weighted_share(&mut tally, weight, batch, group)? else { return Ok(tally) };
        let slope: Vec<f32> = slope.into_iter().map(|value| (value * share) as f32).collect();
        let statistics = backward(&slope, self.stepper.gradient_mut())?;
        let parameters = self.network.parameters_mut();
        self.stepper.step(parameters, lr, batch, group)?;
        for (range, values) in statistics {
            parameters.buffers[range].copy_from_slice(&values);
        }
        parameters.average();
        Ok(tally)
    }

    fn broadcast(&mut self, group: &dyn Group) -> Result<()> {
        self.network.parameters_mut().broadcast(group)
    }

    fn eval_step(&mut self, batch: &Batch) -> Result<Tally> {
        let labels = self.labels(batch)?;
        Ok(self.tally(&self.network.outputs(batch, labels.len())?, labels, L::of_sample).0)
    }

    fn state(&self) -> Result<TaskState> {
        Ok(self.stepper.state(self.network.parameters()))
    }

    fn load_state(&mut self, state: TaskState) -> Result<()> {
        self.stepper.load_state(self.network.parameters_mut(), &state)
    }
}

/// Softmax cross entropy, in f64, with the accuracy. Outputs are logits, one for each class. The first of equal largest logits
/// counts as the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossEntropy {
    /// Number of classes: labels are 0..classes.
    pub classes: usize,
}

impl SampleLoss for CrossEntropy {
    type Label = i64;

    const FIELD: &'static str = "label";
    const METRICS: &'static [&'static str] = &["accuracy"];

    fn check(&self, label: i64) -> Result<(), String> {
        match (0..self.classes as i64).contains(&label) {
            true => Ok(()),
            false => Err(format!("label {label}, but there are {} classes", self.classes)),
        }
    }

    fn of_sample(&self, logits: &[f32], label: i64, metrics: &mut [f64], slope: &mut Vec<f64>) -> f64 {
        let label = label as usize;
        let answer = (0..logits.len()).fold(0, |best, class| if logits[class] > logits[best] { class } else { best });
        let largest = f64::from(logits[answer]);
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        metrics[0] += f64::from(u8::from(answer == label));
        slope.extend(
            logits
                .iter()
                .enumerate()
                .map(|(class, &logit)| (f64::from(logit) - largest).exp() / sum - f64::from(u8::from(class == label))),
        );
        sum.ln() + largest - f64::from(logits[label])
    }
}
