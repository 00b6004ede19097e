//! One pass of the network on Burn: pictures and distances in, logits out, gradients back into a flat vector. Owns every
//! call into Burn; it changes no parameter.

use super::fold::{CORNERS, PATCH_PX, patches};
use super::model::{Model, SEMANTIC_BLOCKS, SKETCH_BLOCKS, SKETCH_CLASSES};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Int, Tensor, TensorData, activation, module};
use std::ops::Range;

/// Added to the variance before its root.
const NORM_EPSILON: f64 = 1e-5;
/// Most groups of channels with a mean and variance of their own.
const MOST_GROUPS: usize = 4;

/// The input of a pass, B samples of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'b> {
    pub(crate) samples: usize,
    /// (B, 3, H, W).
    pub(crate) colours: &'b [f32],
    /// (B, 3, H, W), for a network that uses it.
    pub(crate) hha: Option<&'b [f32]>,
    /// (B, voxels).
    pub(crate) tsdf: &'b [f32],
    /// (B, voxels), each 0..=H * W.
    pub(crate) mapping: &'b [i64],
}

/// A pass and its outputs.
pub(crate) struct Forward<'m> {
    model: &'m Model,
    device: Device,
    /// Parameters that want a gradient, flat, with their place in `Parameters::parameters`.
    leaves: Vec<(Range<usize>, Tensor<1>)>,
    /// `None` if no gradients are computed; otherwise tells if those of the 2D branch are left out.
    train: Option<Frozen>,
    /// (B corners, classes, cubes), for the semantic classes and those of the sketch.
    logits: Option<[Tensor<3>; 2]>,
}

/// True while the 2D branch is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frozen(pub(crate) bool);

impl Model {
    /// Goes through the network, B above 0. `train` is none for evaluation.
    pub(crate) fn forward(&self, device: &Device, inputs: Inputs<'_>, train: Option<Frozen>) -> Forward<'_> {
        let mut pass = Forward { model: self, device: device.clone(), leaves: Vec::new(), train, logits: None };
        let seen = pass.image_branch(inputs);
        pass.logits = Some(pass.voxel_branches(inputs, seen));
        pass
    }
}

impl<'m> Forward<'m> {
    /// The semantic logits (B, voxels, classes) and those of the sketch (B, voxels, 2), row-major voxels.
    pub(crate) fn logits(&self) -> [Vec<f32>; 2] {
        let Some(logits) = &self.logits else { return [Vec::new(), Vec::new()] };
        logits.each_ref().map(|logits| self.model.fold.unfold(&read(logits.clone().inner()), logits.dims()[1]))
    }

    /// Overwrites `gradient` with the derivative of sum(logits * slopes) for every parameter that wants one, at its
    /// place in `gradient`. The slopes are laid out as [`Forward::logits`].
    pub(crate) fn backward(mut self, slopes: [&[f32]; 2], gradient: &mut [f32]) {
        let Some([semantic, sketch]) = self.logits.take() else { return };
        let weighted = |logits: Tensor<3>, slope: &[f32]| {
            let [_, classes, _] = logits.dims();
            let slope = self.data(self.model.fold.refold(slope, classes), logits.dims());
            (logits * slope).sum()
        };
        let mut gradients = (weighted(semantic, slopes[0]) + weighted(sketch, slopes[1])).backward();
        for (range, leaf) in self.leaves.drain(..) {
            match leaf.grad_remove(&mut gradients) {
                Some(value) => gradient[range].copy_from_slice(&read(value)),
                None => gradient[range].fill(0.0),
            }
        }
    }

    /// The picture's features in each voxel that a pixel shows, zeros in the others: (B corners, C, cubes).
    fn image_branch(&mut self, inputs: Inputs<'_>) -> Tensor<3> {
        let (model, samples) = (self.model, inputs.samples);
        let sizes = model.sizes;
        let [fine_px, coarse_px] = sizes.maps_px();
        let parts: Vec<&[f32]> = [Some(inputs.colours), inputs.hha].into_iter().flatten().collect();
        let channels = sizes.picture_channels() * PATCH_PX * PATCH_PX;
        let elements = |[height, width]: [usize; 2]| height * width;
        let x = self.data(patches(&parts, sizes.image_px), [samples, channels, elements(fine_px)]);

        let x = self.linear("image.stem", x);
        let [_, width, _] = x.dims();
        let x = self.norm_relu("image.stem", x.reshape([samples, width, fine_px[0], fine_px[1]]));
        let fine = self.conv2d("image.fine", x, 1, 1);
        let fine = self.norm_relu("image.fine", fine);
        let x = self.conv2d("image.down", fine.clone(), 2, 1);
        let x = self.norm_relu("image.down", x);
        let coarse = self.conv2d("image.coarse", x, 1, 2);
        let coarse = self.norm_relu("image.coarse", coarse);

        let mut seen = None;
        for (name, maps, map_px, scale_px) in
            [("image.from_fine", fine, fine_px, PATCH_PX), ("image.from_coarse", coarse, coarse_px, 2 * PATCH_PX)]
        {
            let [_, width, ..] = maps.dims();
            let maps = self.linear(name, maps.reshape([samples, width, elements(map_px)]));
            let rows = maps.swap_dims(1, 2).reshape([samples * elements(map_px), sizes.channels]);
            let rows = rows.pad([(0, 1), (0, 0)], 0.0);
            let wanted = model.fold.rows(inputs.mapping, sizes.image_px, map_px, scale_px);
            let count = wanted.len();
            let wanted = Tensor::<1, Int>::from_data(TensorData::new(wanted, [count]), &self.device);
            let found = rows.select(0, wanted);
            seen = Some(match seen {
                Some(seen) => seen + found,
                None => found,
            });
        }
        let cubes = model.fold.cubes();
        let shape = [samples * CORNERS, cubes, sizes.channels];
        seen.map_or_else(|| self.data(vec![0.0; shape.iter().product()], shape), |seen| seen.reshape(shape))
            .swap_dims(1, 2)
    }

    /// From the distances and the features of the picture to the logits.
    fn voxel_branches(&mut self, inputs: Inputs<'_>, seen: Tensor<3>) -> [Tensor<3>; 2] {
        let model = self.model;
        let (samples, fold, c) = (inputs.samples, &model.fold, model.sizes.channels);
        let ([x, y, z], cubes) = (fold.half, fold.cubes());
        let corners = samples * CORNERS;
        let distances = self.data(fold.fold(inputs.tsdf), [corners, 1, cubes]);

        let structure = self.conv3d("sketch.stem", distances.clone().reshape([samples, CORNERS, x, y, z]), 1);
        let mut structure = self.norm_relu("sketch.stem", structure);
        for (at, dilation) in SKETCH_BLOCKS.into_iter().enumerate() {
            structure = self.block(&format!("sketch.{at}"), structure, dilation);
        }
        let structure = structure.reshape([samples, c, cubes]);
        let up = self.linear("sketch.up", structure.clone()).reshape([corners, c, cubes]);
        let up = up + self.linear("sketch.skip", distances);
        let outline = activation::relu(self.bias("sketch.up", up));
        let sketch = self.linear("sketch.head", outline.clone());
        let sketch = self.bias("sketch.head", sketch);

        let fused = Tensor::cat(
            vec![
                seen.clone().reshape([samples, CORNERS * c, cubes]),
                sketch.clone().reshape([samples, CORNERS * SKETCH_CLASSES, cubes]),
                structure,
            ],
            1,
        );
        let fused = self.linear("semantic.fuse", fused).reshape([samples, c, x, y, z]);
        let mut fused = self.norm_relu("semantic.fuse", fused);
        for (at, dilation) in SEMANTIC_BLOCKS.into_iter().enumerate() {
            fused = self.block(&format!("semantic.{at}"), fused, dilation);
        }
        let up = self.linear("semantic.up", fused.reshape([samples, c, cubes])).reshape([corners, c, cubes]);
        let up = up + self.linear("semantic.skip", Tensor::cat(vec![seen, outline], 1));
        let up = activation::relu(self.bias("semantic.up", up));
        let semantic = self.linear("semantic.head", up);
        [self.bias("semantic.head", semantic), sketch]
    }

    /// Values that want no gradient.
    fn data<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        let tensor = Tensor::from_data(TensorData::new(values, shape), &self.device);
        if self.train.is_some() { tensor.autodiff() } else { tensor }
    }

    /// The parameter `layer`.`part`, which takes part in the gradient if this pass trains it.
    fn parameter<const D: usize>(&mut self, layer: &str, part: &str, shape: [usize; D]) -> Tensor<D> {
        let store = &self.model.store;
        let is_it = |name: &str| name.strip_prefix(layer).and_then(|rest| rest.strip_prefix('.')) == Some(part);
        let Some(spec) = store.specs.iter().find(|spec| is_it(&spec.name)) else {
            unreachable!("{layer}.{part} is declared in `Model::new`")
        };
        let flat = self.data(store.values(spec).to_vec(), [spec.range.len()]);
        match self.train {
            Some(Frozen(frozen)) if spec.is_trained(frozen) => {
                let leaf = flat.require_grad();
                self.leaves.push((spec.range.clone(), leaf.clone()));
                leaf.reshape(shape)
            }
            _ => flat.reshape(shape),
        }
    }

    /// The shape of the weight `layer`.weight.
    fn shape(&self, layer: &str) -> &'m [usize] {
        let specs = &self.model.store.specs;
        let is_it = |name: &str| name.strip_prefix(layer) == Some(".weight");
        specs.iter().find(|spec| is_it(&spec.name)).map_or(&[], |spec| &spec.shape)
    }

    /// (B, I, N) to (B, O, N).
    fn linear(&mut self, name: &str, x: Tensor<3>) -> Tensor<3> {
        let shape = [1, self.shape(name)[0], self.shape(name)[1]];
        self.parameter(name, "weight", shape).matmul(x)
    }

    /// Adds a number of its own to each channel of (B, C, N).
    fn bias(&mut self, name: &str, x: Tensor<3>) -> Tensor<3> {
        let [_, channels, _] = x.dims();
        x + self.parameter(name, "bias", [1, channels, 1])
    }

    /// Kernel 3, padded to keep the size at stride 1.
    fn conv2d(&mut self, name: &str, x: Tensor<4>, stride: usize, dilation: usize) -> Tensor<4> {
        let mut shape = [0; 4];
        shape.copy_from_slice(self.shape(name));
        let options = ConvOptions::new([stride; 2], [dilation; 2], [dilation; 2], 1);
        module::conv2d(x, self.parameter(name, "weight", shape), None, options)
    }

    /// Kernel 3, padded to keep the size.
    fn conv3d(&mut self, name: &str, x: Tensor<5>, dilation: usize) -> Tensor<5> {
        let mut shape = [0; 5];
        shape.copy_from_slice(self.shape(name));
        let options = ConvOptions::new([1; 3], [dilation; 3], [dilation; 3], 1);
        module::conv3d(x, self.parameter(name, "weight", shape), None, options)
    }

    fn block(&mut self, name: &str, x: Tensor<5>, dilation: usize) -> Tensor<5> {
        let (a, b) = (format!("{name}.a"), format!("{name}.b"));
        let y = self.conv3d(&a, x.clone(), dilation);
        let y = self.norm_relu(&a, y);
        let y = self.conv3d(&b, y, dilation);
        activation::relu(x + self.norm(&b, y))
    }

    fn norm_relu<const D: usize>(&mut self, name: &str, x: Tensor<D>) -> Tensor<D> {
        activation::relu(self.norm(name, x))
    }

    /// Group norm of (B, C, ...): mean 0 and variance 1 over each group of channels of a sample, then a factor and an
    /// offset for each channel.
    fn norm<const D: usize>(&mut self, name: &str, x: Tensor<D>) -> Tensor<D> {
        let dims = x.dims();
        let (samples, channels) = (dims[0], dims[1]);
        let groups = (1..=MOST_GROUPS).rev().find(|groups| channels % groups == 0).unwrap_or(1);
        let elements = dims.iter().product::<usize>() / (samples * channels);
        let x = x.reshape([samples, groups, channels / groups * elements]);
        let x = x.clone() - x.mean_dim(2);
        let variance = (x.clone() * x.clone()).mean_dim(2);
        let x = (x / (variance + NORM_EPSILON).sqrt()).reshape([samples, channels, elements]);
        let x = x * self.parameter(name, "norm.weight", [1, channels, 1])
            + self.parameter(name, "norm.bias", [1, channels, 1]);
        x.reshape(dims)
    }
}

/// The values of a tensor without autodiff.
fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    // Every tensor here was made of f32 in this file, so the conversion cannot fail.
    tensor.into_data().try_into_vec_as::<f32>().unwrap_or_default()
}
