//! One pass of a network on Burn: pictures in, logits out, gradients back into a flat vector. Owns every call into
//! Burn; it changes no parameter and no running statistic, it only reports the statistics of the batch.

use super::layers::{Conv, Head, Network, Pool};
use super::model::Model;
use crate::network::parameters::Spec;
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, FloatDType, Tensor, TensorData, activation, module};
use feedline::plan::rng::SampleRng;
use std::ops::Range;

/// Added to the variance before its root, as torch does by default.
pub(super) const NORM_EPSILON: f64 = 1e-5;

/// A floating-point type of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    F16,
    Bf16,
}

/// The purpose of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass<'a> {
    /// Running statistics, no dropout, no gradient.
    Evaluate,
    /// Statistics of the batch, dropout, gradients for every parameter, or for the head alone while the backbone is
    /// frozen (which then uses running statistics).
    Train { frozen: bool, half: Option<Half>, dropout: Dropout<'a> },
}

/// The key of the units that are dropped: the sample itself, not its place in the batch or its rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropout<'a> {
    pub(crate) seed: u64,
    pub(crate) epoch: u64,
    /// Index of each sample, B of them.
    pub(crate) indices: &'a [u64],
}

/// Mean and variance that one norm layer saw.
#[derive(Debug)]
pub(crate) struct BatchStatistics {
    /// Ranges of the layer's running mean and running variance in `Parameters::buffers`.
    pub(crate) mean_range: Range<usize>,
    pub(crate) var_range: Range<usize>,
    pub(crate) mean: Vec<f32>,
    /// Unbiased, as torch keeps it.
    pub(crate) var: Vec<f32>,
}

/// A pass under way, then what can be read from it.
pub(crate) struct Forward<'a> {
    pub(super) model: &'a Model,
    pass: Pass<'a>,
    pub(super) device: Device,
    /// The next tensor of the model to be used.
    next: usize,
    /// Parameters that want a gradient, flat, with their place in `Parameters::parameters`.
    pub(super) leaves: Vec<(Range<usize>, Tensor<1>)>,
    pub(super) logits: Option<Tensor<2>>,
    /// Of every norm layer that used the statistics of the batch.
    pub(crate) statistics: Vec<BatchStatistics>,
}

impl<'a> Forward<'a> {
    /// A pass of `model` on `device` that has not begun.
    pub(crate) fn new(model: &'a Model, device: &Device, pass: Pass<'a>) -> Forward<'a> {
        let device = device.clone();
        Forward { model, pass, device, next: 0, leaves: Vec::new(), logits: None, statistics: Vec::new() }
    }

    /// Goes through the model with `images` (B, 3, H, W).
    pub(crate) fn through(mut self, images: &[f32], shape: [usize; 4]) -> Forward<'a> {
        let x = self.halve(Tensor::<4>::from_data(TensorData::new(images.to_vec(), shape), &self.device));
        let logits = self.model.backbone.build(&mut self, x);
        self.logits = Some(logits);
        self
    }

    /// The logits, (B, classes) row-major.
    pub(crate) fn logits(&self) -> Vec<f32> {
        self.logits.as_ref().map(|logits| read(logits.clone().inner())).unwrap_or_default()
    }

    /// Overwrites `gradient` with the derivative of sum(logits * `logits_gradient`) for every parameter that wants one,
    /// at its place in `gradient`.
    pub(crate) fn backward(&mut self, logits_gradient: Vec<f32>, gradient: &mut [f32]) {
        let Some(logits) = self.logits.take() else { return };
        let weights = Tensor::<2>::from_data(TensorData::new(logits_gradient, logits.dims()), &self.device);
        let mut gradients = (logits * weights.autodiff()).sum().backward();
        for (range, leaf) in self.leaves.drain(..) {
            match leaf.grad_remove(&mut gradients) {
                Some(value) => gradient[range].copy_from_slice(&read(value)),
                None => gradient[range].fill(0.0),
            }
        }
    }

    fn half(&self) -> Option<FloatDType> {
        match self.pass {
            Pass::Train { half: Some(Half::F16), .. } => Some(FloatDType::F16),
            Pass::Train { half: Some(Half::Bf16), .. } => Some(FloatDType::BF16),
            _ => None,
        }
    }

    /// `x` in the type that convolutions and linear layers are computed in.
    pub(super) fn halve<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.half() {
            Some(half) => x.cast(half),
            None => x,
        }
    }

    /// The next tensor, which the network calls `layer`.`part`.
    pub(super) fn take(&mut self, layer: &str, part: &str) -> &'a Spec {
        let spec = &self.model.store.specs[self.next];
        debug_assert_eq!(spec.name, format!("{layer}.{part}"), "a network must declare and run alike");
        self.next += 1;
        spec
    }

    /// The values of `spec` as a tensor that takes part in the gradient if this pass trains it.
    fn tensor<const D: usize>(&mut self, spec: &Spec) -> Tensor<D> {
        let values = match self.pass {
            Pass::Evaluate => self.model.store.evaluated(spec),
            Pass::Train { .. } => self.model.store.values(spec),
        };
        let values = values.to_vec();
        let length = values.len();
        let flat = Tensor::<1>::from_data(TensorData::new(values, [length]), &self.device);
        let trained = match self.pass {
            Pass::Train { frozen, .. } => spec.is_trained(frozen),
            Pass::Evaluate => false,
        };
        let flat = if trained {
            let leaf = flat.autodiff().require_grad();
            self.leaves.push((spec.range.clone(), leaf.clone()));
            leaf
        } else {
            flat
        };
        let mut shape = [0; D];
        shape.copy_from_slice(&spec.shape);
        flat.reshape(shape)
    }

    /// 0 for a dropped unit, else the factor that keeps the mean: (B, features).
    fn dropout_mask(&self, dropout: Dropout, share: f64, features: usize) -> Tensor<2> {
        let kept = (1.0 / (1.0 - share)) as f32;
        let mut mask = Vec::with_capacity(dropout.indices.len() * features);
        for index in dropout.indices {
            let mut rng = SampleRng::new(dropout.seed, dropout.epoch, *index, "dropout");
            mask.extend((0..features).map(|_| if rng.chance(share) { 0.0 } else { kept }));
        }
        Tensor::from_data(TensorData::new(mask, [dropout.indices.len(), features]), &self.device)
    }
}

impl Network for Forward<'_> {
    type Maps = Tensor<4>;
    type Logits = Tensor<2>;

    fn conv(&mut self, name: &str, x: Tensor<4>, conv: Conv) -> Tensor<4> {
        let spec = self.take(name, "weight");
        let weight = self.tensor::<4>(spec);
        let (stride, pad) = (conv.stride_px, conv.kernel_px / 2);
        let options = ConvOptions::new([stride, stride], [pad, pad], [1, 1], conv.groups);
        module::conv2d(x, self.halve(weight), None, options)
    }

    /// Always computed in f32: sums over a batch do not fit 16 bits.
    fn batch_norm(&mut self, name: &str, x: Tensor<4>, channels: usize) -> Tensor<4> {
        let (weight, bias) = (self.take(name, "weight"), self.take(name, "bias"));
        let (mean, var) = (self.take(name, "running_mean"), self.take(name, "running_var"));
        let (weight, bias) = (self.tensor::<1>(weight), self.tensor::<1>(bias));
        let x = x.cast(FloatDType::F32);
        let y = if matches!(self.pass, Pass::Train { frozen: false, .. }) {
            let count = (x.dims().iter().product::<usize>() / channels) as f32;
            let result = module::batch_norm_train(x, weight, bias, NORM_EPSILON);
            // A single value has no unbiased variance; its biased one, 0, stands in.
            let unbiased = count / (count - 1.0).max(1.0);
            self.statistics.push(BatchStatistics {
                mean_range: mean.range.clone(),
                var_range: var.range.clone(),
                mean: read(result.mean.inner()),
                var: read(result.variance.inner()).into_iter().map(|v| v * unbiased).collect(),
            });
            result.output
        } else {
            let (mean, var) = (self.tensor::<1>(mean), self.tensor::<1>(var));
            module::batch_norm(x, weight, bias, mean, var, NORM_EPSILON)
        };
        self.halve(y)
    }

    fn relu(&mut self, x: Tensor<4>) -> Tensor<4> {
        activation::relu(x)
    }

    fn relu6(&mut self, x: Tensor<4>) -> Tensor<4> {
        activation::relu6(x)
    }

    fn add(&mut self, x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
        x + y
    }

    fn max_pool(&mut self, x: Tensor<4>) -> Tensor<4> {
        module::max_pool2d(x, MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]))
    }

    fn classify(&mut self, x: Tensor<4>, head: Head) -> Tensor<2> {
        let (weight, bias) = (self.take(head.name, "weight"), self.take(head.name, "bias"));
        let (weight, bias) = (self.tensor::<2>(weight), self.tensor::<1>(bias));
        let [batch, channels, height, width] = x.dims();
        let maps = x.cast(FloatDType::F32).reshape([batch, channels, height * width]);
        let pooled = match head.pool {
            Pool::Mean => maps.mean_dim(2),
            Pool::Max => maps.max_dim(2),
        };
        let mut features = pooled.reshape([batch, channels]);
        if let Pass::Train { dropout, .. } = self.pass
            && head.dropout > 0.0
        {
            features = features * self.dropout_mask(dropout, head.dropout, channels);
        }
        let product = self.halve(features).matmul(self.halve(weight).transpose());
        product.cast(FloatDType::F32) + bias.reshape([1, self.model.classes])
    }
}

/// The values of a tensor without autodiff, as f32.
pub(super) fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    // The tensors read here were made or cast to f32 in this file, so the conversion cannot fail.
    tensor.into_data().try_into_vec_as::<f32>().unwrap_or_default()
}
