//! One pass of the network on Burn: pillars in, numbers of anchors out, gradients back into a flat vector. Owns every call
//! into Burn; it changes no parameter.

use super::model::Model;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData, activation, module};
use std::ops::Range;

/// Added to the variance before its root.
const NORM_EPSILON: f64 = 1e-5;
/// Most groups of channels with a mean and variance of their own.
const MOST_GROUPS: usize = 4;

/// The input of a pass: V pillars of P points in B samples.
#[derive(Debug, Clone)]
pub(in crate::lidar) struct Inputs {
    pub(in crate::lidar) samples: usize,
    pub(in crate::lidar) pillars: usize,
    /// Row-major (features, V, P), zeros where a pillar has no more points.
    pub(in crate::lidar) points: Vec<f32>,
    /// (V, P): 1 for a point, 0 for none.
    pub(in crate::lidar) mask: Vec<f32>,
    /// (B, ny, nx): the pillar there, V for none.
    pub(in crate::lidar) pillar_at: Vec<i64>,
}

/// A pass and its outputs.
pub(in crate::lidar) struct Forward<'m> {
    model: &'m Model,
    device: Device,
    /// Parameters that want a gradient, flat, with their place in `Parameters::parameters`.
    leaves: Vec<(Range<usize>, Tensor<1>)>,
    is_training: bool,
    /// The type that convolutions and linear layers are computed in, if it is another.
    half: Option<FloatDType>,
    /// (B, anchors * outputs, places).
    outputs: Option<Tensor<3>>,
}

impl Model {
    /// Goes through the network, B above 0; in `half` where it is given.
    pub(in crate::lidar) fn forward(
        &self,
        device: &Device,
        inputs: Inputs,
        is_training: bool,
        half: Option<FloatDType>,
    ) -> Forward<'_> {
        let device = device.clone();
        let mut pass = Forward { model: self, device, leaves: Vec::new(), is_training, half, outputs: None };
        let map = pass.pillars(inputs);
        pass.outputs = Some(pass.boxes(map));
        pass
    }
}

impl<'m> Forward<'m> {
    /// Row-major (B, anchors, outputs, places).
    pub(in crate::lidar) fn outputs(&self) -> Vec<f32> {
        self.outputs.as_ref().map_or_else(Vec::new, |outputs| read(outputs.clone().inner()))
    }

    /// Overwrites `gradient` with the derivative of sum(outputs * slopes) for every parameter.
    pub(in crate::lidar) fn backward(mut self, slopes: Vec<f32>, gradient: &mut [f32]) {
        gradient.fill(0.0);
        let Some(outputs) = self.outputs.take() else { return };
        let slopes = self.data(slopes, outputs.dims());
        let mut gradients = (outputs * slopes).sum().backward();
        for (range, leaf) in self.leaves.drain(..) {
            if let Some(value) = leaf.grad_remove(&mut gradients) {
                gradient[range].copy_from_slice(&read(value));
            }
        }
    }

    /// The map of pillars: (B, C, ny, nx).
    fn pillars(&mut self, inputs: Inputs) -> Tensor<4> {
        let Inputs { samples, pillars, points, mask, pillar_at } = inputs;
        let (sizes, [nx, ny]) = (&self.model.sizes, self.model.sizes.grid);
        let channels = sizes.channels;
        if pillars == 0 {
            return self.data(vec![0.0; samples * channels * ny * nx], [samples, channels, ny, nx]);
        }
        let rows = mask.len();
        let points = self.data(points, [1, sizes.features, rows]);
        let features = self.linear("pillars", points) + self.parameter("pillars.bias", [1, channels, 1]);
        // Nothing is below 0, so a point that is none is never the largest.
        let features = activation::relu(features) * self.data(mask, [1, 1, rows]);
        let features = features.reshape([channels, pillars, rows / pillars]).max_dim(2).reshape([channels, pillars]);
        let features = features.swap_dims(0, 1).pad([(0, 1), (0, 0)], 0.0);
        let count = pillar_at.len();
        let pillar_at = Tensor::<1, Int>::from_data(TensorData::new(pillar_at, [count]), &self.device);
        features
            .select(0, pillar_at)
            .reshape([samples, ny * nx, channels])
            .swap_dims(1, 2)
            .reshape([samples, channels, ny, nx])
    }

    /// From the map to the numbers of the anchors.
    fn boxes(&mut self, map: Tensor<4>) -> Tensor<3> {
        let sizes = &self.model.sizes;
        let samples = map.dims()[0];
        let [width, height] = sizes.places();
        let (mut map, mut sides) = (map, Vec::new());
        for (at, block) in sizes.blocks.iter().enumerate() {
            for layer in 0..=block.layers {
                let name = format!("blocks.{at}.{layer}");
                let stride = if layer == 0 { 2 } else { 1 };
                map = self.conv(&name, map, stride);
                map = self.norm_relu(&name, map);
            }
            // A convolution back to the size of the first block: each place becomes f x f.
            let ([_, channels, ny, nx], factor) = (map.dims(), 1 << at);
            let up = self.linear(&format!("up.{at}"), map.clone().reshape([samples, channels, ny * nx]));
            let up = up.reshape([samples, block.up_channels, factor, factor, ny, nx]).permute([0, 1, 4, 2, 5, 3]);
            let up = up.reshape([samples, block.up_channels, ny * factor, nx * factor]);
            let up = up.narrow(2, 0, height).narrow(3, 0, width);
            sides.push(self.norm_relu(&format!("up.{at}"), up));
        }
        let side_by_side = Tensor::cat(sides, 1);
        let channels = side_by_side.dims()[1];
        let outputs = self.linear("head", side_by_side.reshape([samples, channels, height * width]));
        let count = outputs.dims()[1];
        outputs + self.parameter("head.bias", [1, count, 1])
    }

    /// Values that want no gradient.
    fn data<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        let tensor = Tensor::from_data(TensorData::new(values, shape), &self.device);
        if self.is_training { tensor.autodiff() } else { tensor }
    }

    /// A parameter, which takes part in the gradient in training.
    fn parameter<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Tensor<D> {
        let store = &self.model.store;
        let Some(spec) = store.specs.iter().find(|spec| spec.name == name) else {
            unreachable!("{name} is declared in `Model::new`")
        };
        let flat = self.data(store.values(spec).to_vec(), [spec.range.len()]);
        if !self.is_training {
            return flat.reshape(shape);
        }
        let leaf = flat.require_grad();
        self.leaves.push((spec.range.clone(), leaf.clone()));
        leaf.reshape(shape)
    }

    /// The shape of the weight of a layer.
    fn shape(&self, name: &str) -> &'m [usize] {
        let specs = &self.model.store.specs;
        let is_it = |known: &str| known.strip_prefix(name) == Some(".weight");
        specs.iter().find(|spec| is_it(&spec.name)).map_or(&[], |spec| &spec.shape)
    }

    fn halve<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.half {
            Some(half) => x.cast(half),
            None => x,
        }
    }

    fn whole<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.half {
            Some(_) => x.cast(FloatDType::F32),
            None => x,
        }
    }

    /// (B, I, N) to (B, O, N).
    fn linear(&mut self, name: &str, x: Tensor<3>) -> Tensor<3> {
        let shape = [1, self.shape(name)[0], self.shape(name)[1]];
        let weight = self.parameter(&format!("{name}.weight"), shape);
        self.whole(self.halve(weight).matmul(self.halve(x)))
    }

    /// Kernel 3, padded to keep the size at stride 1.
    fn conv(&mut self, name: &str, x: Tensor<4>, stride: usize) -> Tensor<4> {
        let mut shape = [0; 4];
        shape.copy_from_slice(self.shape(name));
        let weight = self.parameter(&format!("{name}.weight"), shape);
        let options = ConvOptions::new([stride; 2], [1; 2], [1; 2], 1);
        self.whole(module::conv2d(self.halve(x), self.halve(weight), None, options))
    }

    /// Group norm of (B, C, H, W): mean 0 and variance 1 over each group of channels of a sample, then a factor and an offset
    /// for each channel; then nothing below 0.
    fn norm_relu(&mut self, name: &str, x: Tensor<4>) -> Tensor<4> {
        let dims = x.dims();
        let [samples, channels, ny, nx] = dims;
        let groups = (1..=MOST_GROUPS).rev().find(|groups| channels % groups == 0).unwrap_or(1);
        let x = x.reshape([samples, groups, channels / groups * ny * nx]);
        let x = x.clone() - x.mean_dim(2);
        let variance = (x.clone() * x.clone()).mean_dim(2);
        let x = (x / (variance + NORM_EPSILON).sqrt()).reshape([samples, channels, ny * nx]);
        let x = x * self.parameter(&format!("{name}.norm.weight"), [1, channels, 1])
            + self.parameter(&format!("{name}.norm.bias"), [1, channels, 1]);
        activation::relu(x).reshape(dims)
    }
}

/// The values of a tensor without autodiff.
fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    // Every tensor here was made of f32 in this file, so the conversion cannot fail.
    tensor.into_data().try_into_vec_as::<f32>().unwrap_or_default()
}
