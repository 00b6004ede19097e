//! The networks. Owns what a network is made of: names, shapes, initial values. How one pass is computed belongs to
//! `forward`; how numbers change in training to the task.
//!
//! A network is written once, as a function over a [`Network`]. Declared, it yields the list of its tensors; run, it
//! yields logits. Names and their order are those of torchvision's state dicts, without `num_batches_tracked`.

use super::backbone::Backbone;
use super::layers::{Conv, Head, HeadInit, Network};
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
        let mut model = Model::zeros(backbone, classes);
        model.store.initialise(seed);
        model
    }

    /// A network whose tensors are all zero, for weights from elsewhere.
    pub(crate) fn zeros(backbone: Backbone, classes: usize) -> Model {
        let mut declared = Declare { classes, store: Parameters::default() };
        backbone.build(&mut declared, ());
        Model { backbone, classes, store: declared.store }
    }

    /// Rates that decay from block to block, as timm's `param_groups_layer_decay`: the head has the whole rate, each block of layers
    /// `decay` times that of the next one. A block is what torchvision's names say: `layer1.0` of a resnet, behind a stem, or
    /// `features.3`.
    pub(crate) fn decay_rates(&mut self, decay: f64) {
        let block = |name: &str| match name.split('.').collect::<Vec<_>>()[..] {
            ["conv1" | "bn1", ..] => "stem".to_string(),
            [first, at, ..] if first == "features" || first.starts_with("layer") => format!("{first}.{at}"),
            _ => "head".into(),
        };
        let mut blocks: Vec<String> = self.store.specs.iter().map(|spec| block(&spec.name)).collect();
        let of_spec = blocks.clone();
        blocks.dedup();
        for (spec, name) in self.store.specs.iter_mut().zip(of_spec) {
            let above = blocks.iter().rev().position(|block| *block == name).unwrap_or(0);
            spec.lr_scale = decay.powi(above as i32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of timm 1.0.31: `param_groups_layer_decay(timm.create_model("resnet18"), layer_decay=0.5)`.
    #[test]
    fn rates_decay_from_block_to_block_as_in_timm() {
        let mut model = Model::new(Backbone::Resnet18, 2, 0);
        let scale = |model: &Model, name: &str| {
            model.store.specs.iter().find(|spec| spec.name == name).map(|spec| spec.lr_scale)
        };
        assert!(model.store.specs.iter().all(|spec| spec.lr_scale == 1.0));
        model.decay_rates(0.5);
        for (name, expect) in [
            ("conv1.weight", 0.001953125),
            ("bn1.bias", 0.001953125),
            ("layer1.0.conv1.weight", 0.00390625),
            ("layer1.1.bn2.weight", 0.0078125),
            ("layer2.0.downsample.0.weight", 0.015625),
            ("layer4.1.conv2.weight", 0.5),
            ("fc.weight", 1.0),
            ("fc.bias", 1.0),
        ] {
            assert_eq!(scale(&model, name), Some(expect), "{name}");
        }
        let mut model = Model::new(Backbone::Small, 2, 0);
        model.decay_rates(0.5);
        assert_eq!(scale(&model, "features.0.1.weight"), Some(0.03125));
        assert_eq!(scale(&model, "classifier.weight"), Some(1.0));
    }
}
