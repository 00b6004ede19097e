//! The networks. Owns what a network is made of: names, shapes, initial values. How one pass is computed belongs to
//! `forward`; how numbers change in training to the task.
//!
//! A network is written once, as a function over a [`Network`]. Declared, it yields the list of its tensors; run, it
//! yields logits. Names and their order are those of torchvision's state dicts, without `num_batches_tracked`.

use super::backbone::Backbone;
use super::{mobilenetv2, resnet, small};
use crate::network::parameters::{Init, Parameters, Role};

impl Backbone {
    /// Writes the network down on `net`, from the pictures `x` to the logits.
    pub(super) fn build<N: Network>(self, net: &mut N, x: N::Maps) -> N::Logits {
        match self {
            Backbone::Small => small::build(net, x),
            Backbone::Mobilenetv2 => mobilenetv2::build(net, x),
            Backbone::Resnet18 => resnet::build(net, x, resnet::Block::Basic, [2, 2, 2, 2]),
            Backbone::Resnet50 => resnet::build(net, x, resnet::Block::Bottleneck, [3, 4, 6, 3]),
        }
    }
}

/// A convolution without bias, padded to keep the size at stride 1 (padding = kernel / 2), square kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conv {
    pub(super) channels_in: usize,
    pub(super) channels_out: usize,
    pub(super) kernel_px: usize,
    pub(super) stride_px: usize,
    pub(super) groups: usize,
}

impl Conv {
    pub(super) fn new(channels_in: usize, channels_out: usize, kernel_px: usize, stride_px: usize) -> Conv {
        Conv { channels_in, channels_out, kernel_px, stride_px, groups: 1 }
    }

    /// One kernel per channel.
    pub(super) fn depthwise(channels: usize, kernel_px: usize, stride_px: usize) -> Conv {
        Conv { channels_in: channels, channels_out: channels, kernel_px, stride_px, groups: channels }
    }
}

/// The final linear layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) name: &'static str,
    pub(super) features: usize,
    pub(super) pool: Pool,
    /// Share of features set to zero in training.
    pub(super) dropout: f64,
    pub(super) init: HeadInit,
}

/// The way from maps to one number per channel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pool {
    Mean,
    Max,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum HeadInit {
    /// torch's `nn.Linear`: weight and bias uniform within 1 / sqrt(features).
    Linear,
    /// torchvision's MobileNetV2: weight normal with deviation 0.01, bias 0.
    Normal,
}

/// The layers that a network is made of, visited in the order of the state dict.
pub(super) trait Network {
    /// Feature maps (B, C, H, W).
    type Maps: Clone;
    /// Logits (B, classes).
    type Logits;

    fn conv(&mut self, name: &str, x: Self::Maps, conv: Conv) -> Self::Maps;
    fn batch_norm(&mut self, name: &str, x: Self::Maps, channels: usize) -> Self::Maps;
    fn relu(&mut self, x: Self::Maps) -> Self::Maps;
    fn relu6(&mut self, x: Self::Maps) -> Self::Maps;
    fn add(&mut self, x: Self::Maps, y: Self::Maps) -> Self::Maps;
    /// Kernel 3, stride 2, padding 1.
    fn max_pool(&mut self, x: Self::Maps) -> Self::Maps;
    /// One number per channel, dropout, linear layer.
    fn classify(&mut self, x: Self::Maps, head: Head) -> Self::Logits;
}

/// Collects the tensors of a network without computing anything. Initial values have torchvision's distributions.
struct Declare {
    classes: usize,
    store: Parameters,
}

impl Network for Declare {
    type Maps = ();
    type Logits = ();

    fn conv(&mut self, name: &str, _: (), conv: Conv) {
        let shape = vec![conv.channels_out, conv.channels_in / conv.groups, conv.kernel_px, conv.kernel_px];
        let fan_out = conv.channels_out * conv.kernel_px * conv.kernel_px;
        let init = Init::Normal { deviation: (2.0 / fan_out as f64).sqrt() };
        self.store.add(format!("{name}.weight"), shape, Role::Weight, init, true);
    }

    fn batch_norm(&mut self, name: &str, _: (), channels: usize) {
        for (part, role, init) in [
            ("weight", Role::Offset, Init::Ones),
            ("bias", Role::Offset, Init::Zeros),
            ("running_mean", Role::Statistic, Init::Zeros),
            ("running_var", Role::Statistic, Init::Ones),
        ] {
            self.store.add(format!("{name}.{part}"), vec![channels], role, init, true);
        }
    }

    fn relu(&mut self, _: ()) {}
    fn relu6(&mut self, _: ()) {}
    fn add(&mut self, _: (), _: ()) {}
    fn max_pool(&mut self, _: ()) {}

    fn classify(&mut self, _: (), head: Head) {
        let (weight, bias) = match head.init {
            HeadInit::Normal => (Init::Normal { deviation: 0.01 }, Init::Zeros),
            HeadInit::Linear => {
                let bound = 1.0 / (head.features as f64).sqrt();
                (Init::Uniform { bound }, Init::Uniform { bound })
            }
        };
        let shape = vec![self.classes, head.features];
        self.store.add(format!("{}.weight", head.name), shape, Role::Weight, weight, false);
        self.store.add(format!("{}.bias", head.name), vec![self.classes], Role::Offset, bias, false);
    }
}

/// A network and its numbers.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) backbone: Backbone,
    pub(crate) classes: usize,
    pub(crate) store: Parameters,
}

impl Model {
    /// A network with initial weights that depend on `seed` and the tensors' names alone.
    pub(crate) fn new(backbone: Backbone, classes: usize, seed: u64) -> Model {
        let mut declared = Declare { classes, store: Parameters::default() };
        backbone.build(&mut declared, ());
        declared.store.initialise(seed);
        Model { backbone, classes, store: declared.store }
    }
}
