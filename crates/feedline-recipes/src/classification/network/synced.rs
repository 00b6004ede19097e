//! A training pass whose norm layers use the statistics of the batch over all ranks. Owns the meetings of the ranks in
//! a pass, and the way back through them; every other operation is `forward`'s.
//!
//! The gradient of such a layer depends on the samples of every rank, so the way back meets the other ranks at each of
//! them. Each operation is therefore a graph of its own, and the way back takes them in reverse.

use super::forward::{BatchStatistics, Forward, NORM_EPSILON, read};
use super::layers::{Conv, Head, Network};
use burn::tensor::{FloatDType, Tensor, TensorData};
use feedline::train::group::Group;
use feedline::{Error, Result};
use std::ops::Range;

/// Maps, and the number of the operation that made them.
type Maps = (usize, Tensor<4>);

/// An operation's way back: from the gradient of its output to those of its input and parameters.
type Back<'a, const D: usize> = Box<dyn FnOnce(&mut Gradients<'_>, Tensor<D>) -> Result<()> + 'a>;

/// The gradients on the way back.
struct Gradients<'g> {
    /// Of each operation's output.
    maps: Vec<Option<Tensor<4>>>,
    /// Of the parameters, at their places.
    parameters: &'g mut [f32],
}

impl Gradients<'_> {
    fn add(&mut self, operation: usize, more: Tensor<4>) {
        self.maps[operation] = Some(match self.maps[operation].take() {
            Some(known) => known + more,
            None => more,
        });
    }
}

/// A pass under way, then what can be read from it.
pub(crate) struct Synced<'a> {
    pub(crate) forward: Forward<'a>,
    group: &'a dyn Group,
    operations: Vec<Back<'a, 4>>,
    head: Option<Back<'a, 2>>,
    /// Why a meeting failed; what was computed after that is of no use.
    failed: Option<Error>,
}

impl<'a> Synced<'a> {
    /// Goes through the model of `forward` with `images` (B, 3, H, W), B above 0 on every rank.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    pub(crate) fn run(
        forward: Forward<'a>,
        group: &'a dyn Group,
        images: &[f32],
        shape: [usize; 4],
    ) -> Result<Synced<'a>> {
        let x = forward.halve(Tensor::<4>::from_data(TensorData::new(images.to_vec(), shape), &forward.device));
        let backbone = forward.model.backbone;
        let mut pass = Synced { forward, group, operations: Vec::new(), head: None, failed: None };
        let x = pass.push(x, Box::new(|_, _| Ok(()))); // the pictures, operation 0, want no gradient
        let logits = backbone.build(&mut pass, x);
        pass.forward.logits = Some(logits);
        match pass.failed.take() {
            Some(error) => Err(error),
            None => Ok(pass),
        }
    }

    /// As [`Forward::backward`], for this rank's samples: the sum over the ranks is still to be made.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    pub(crate) fn backward(self, logits_gradient: Vec<f32>, gradient: &mut [f32]) -> Result<()> {
        let (Some(logits), Some(head)) = (&self.forward.logits, self.head) else { return Ok(()) };
        let slope = Tensor::<2>::from_data(TensorData::new(logits_gradient, logits.dims()), &self.forward.device);
        let maps = self.operations.iter().map(|_| None).collect();
        let mut gradients = Gradients { maps, parameters: gradient };
        head(&mut gradients, slope)?;
        for (number, back) in self.operations.into_iter().enumerate().rev() {
            if let Some(slope) = gradients.maps[number].take() {
                back(&mut gradients, slope)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, maps: Tensor<4>, back: Back<'a, 4>) -> Maps {
        self.operations.push(back);
        (self.operations.len() - 1, maps)
    }

    /// Runs an operation of `forward` as a graph of its own.
    fn run_alone<const D: usize>(
        &mut self,
        (from, x): Maps,
        operation: impl FnOnce(&mut Forward<'a>, Tensor<4>) -> Tensor<D>,
    ) -> (Tensor<D>, Back<'a, D>) {
        let wanted = (from > 0).then(|| x.clone().autodiff().require_grad());
        let y = operation(&mut self.forward, wanted.clone().unwrap_or(x));
        let leaves = std::mem::take(&mut self.forward.leaves);
        let value = y.clone().inner();
        let back = move |gradients: &mut Gradients<'_>, slope: Tensor<D>| {
            let mut found = (y * slope.autodiff()).sum().backward();
            for (range, leaf) in leaves {
                let part = &mut gradients.parameters[range];
                match leaf.grad_remove(&mut found) {
                    Some(value) => part.copy_from_slice(&read(value)),
                    None => part.fill(0.0),
                }
            }
            if let Some(slope) = wanted.and_then(|x| x.grad_remove(&mut found)) {
                gradients.add(from, slope);
            }
            Ok(())
        };
        (value, Box::new(back))
    }

    fn run_maps(&mut self, x: Maps, operation: impl FnOnce(&mut Forward<'a>, Tensor<4>) -> Tensor<4>) -> Maps {
        let (value, back) = self.run_alone(x, operation);
        self.push(value, back)
    }

    /// The sum over the ranks. After a failure the values stay as they are.
    fn all_reduce(&mut self, values: &mut [f64]) {
        if self.failed.is_none() {
            self.failed = self.group.all_reduce_f64(values).err();
        }
    }
}

/// Sums of each channel of (B, C, H, W).
fn channel_sums(x: Tensor<4>) -> Vec<f64> {
    read(x.sum_dim(0).sum_dim(2).sum_dim(3)).into_iter().map(f64::from).collect()
}

/// One value per channel, to be used with (B, C, H, W).
fn per_channel(values: impl Iterator<Item = f64>, like: &Tensor<4>) -> Tensor<4> {
    let values: Vec<f32> = values.map(|value| value as f32).collect();
    let shape = [1, values.len(), 1, 1];
    Tensor::from_data(TensorData::new(values, shape), &like.device())
}

impl Network for Synced<'_> {
    type Maps = Maps;
    type Logits = Tensor<2>;

    fn conv(&mut self, name: &str, x: Maps, conv: Conv) -> Maps {
        self.run_maps(x, |forward, x| forward.conv(name, x, conv))
    }

    /// With m = mean and v = variance over the samples of all ranks, n values per channel: z = (x - m) / sqrt(v + e),
    /// y = w z + b; and back, with g the gradient of y: that of x is w / sqrt(v + e) (g - mean(g) - z mean(g z)), means
    /// over all ranks (Ioffe and Szegedy, "Batch normalization", 2015, section 3).
    fn batch_norm(&mut self, name: &str, x: Maps, channels: usize) -> Maps {
        let (from, x) = x;
        let [weight, bias, running_mean, running_var] =
            ["weight", "bias", "running_mean", "running_var"].map(|part| self.forward.take(name, part));
        let values = |spec| self.forward.model.store.values(spec).iter().map(|value| f64::from(*value));
        let (weights, biases): (Vec<f64>, Vec<f64>) = (values(weight).collect(), values(bias).collect());
        let kept_type = x.dtype();
        let x = x.cast(FloatDType::F32);

        let mut sums = channel_sums(x.clone());
        sums.push((x.dims().iter().product::<usize>() / channels) as f64);
        self.all_reduce(&mut sums);
        let count = sums.pop().unwrap_or(1.0);
        let mean: Vec<f64> = sums.iter().map(|sum| sum / count).collect();
        let centred = x.clone() - per_channel(mean.iter().copied(), &x);
        // From the deviations, not from the sum of squares: that would lose all digits where the mean is large.
        let mut squares = channel_sums(centred.clone() * centred.clone());
        self.all_reduce(&mut squares);
        let scale: Vec<f64> = squares.iter().map(|sum| (sum / count + NORM_EPSILON).sqrt().recip()).collect();
        // A single value has no unbiased variance; its biased one, 0, stands in.
        let unbiased = (count - 1.0).max(1.0);
        self.forward.statistics.push(BatchStatistics {
            mean_range: running_mean.range.clone(),
            var_range: running_var.range.clone(),
            mean: mean.iter().map(|mean| *mean as f32).collect(),
            var: squares.iter().map(|sum| (sum / unbiased) as f32).collect(),
        });

        let z = centred * per_channel(scale.iter().copied(), &x);
        let y = z.clone() * per_channel(weights.iter().copied(), &x) + per_channel(biases.into_iter(), &x);
        let y = self.forward.halve(y);
        let (group, ranges) = (self.group, [weight.range.clone(), bias.range.clone()]);
        let back = move |gradients: &mut Gradients<'_>, slope: Tensor<4>| {
            let slope = slope.cast(FloatDType::F32);
            let [weight, bias]: [Range<usize>; 2] = ranges;
            let mut sums = channel_sums(slope.clone() * z.clone());
            sums.extend(channel_sums(slope.clone()));
            for (range, sums) in [(weight, &sums[..channels]), (bias, &sums[channels..])] {
                for (place, sum) in gradients.parameters[range].iter_mut().zip(sums) {
                    *place = *sum as f32; // of this rank's samples, as every other gradient
                }
            }
            group.all_reduce_f64(&mut sums)?;
            let [with_z, plain] = [&sums[..channels], &sums[channels..]]
                .map(|sums| per_channel(sums.iter().map(|sum| sum / count), &slope));
            let scale = per_channel(weights.iter().zip(&scale).map(|(weight, scale)| weight * scale), &slope);
            gradients.add(from, ((slope - plain - z * with_z) * scale).cast(kept_type));
            Ok(())
        };
        self.push(y, Box::new(back))
    }

    fn relu(&mut self, x: Maps) -> Maps {
        self.run_maps(x, |forward, x| forward.relu(x))
    }

    fn relu6(&mut self, x: Maps) -> Maps {
        self.run_maps(x, |forward, x| forward.relu6(x))
    }

    fn add(&mut self, (left, x): Maps, (right, y): Maps) -> Maps {
        let back = move |gradients: &mut Gradients<'_>, slope: Tensor<4>| {
            gradients.add(left, slope.clone());
            gradients.add(right, slope);
            Ok(())
        };
        self.push(x + y, Box::new(back))
    }

    fn max_pool(&mut self, x: Maps) -> Maps {
        self.run_maps(x, |forward, x| forward.max_pool(x))
    }

    fn classify(&mut self, x: Maps, head: Head) -> Tensor<2> {
        let (logits, back) = self.run_alone(x, |forward, x| forward.classify(x, head));
        self.head = Some(back);
        logits
    }
}
