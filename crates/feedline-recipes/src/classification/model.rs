//! The networks and the storage of their numbers. Owns what a network is made of (names, shapes, initial values) and
//! keeps all of it as flat f32 vectors, so that optimiser, checkpoints and a sum over ranks need no tensor framework.
//! How one pass is computed belongs to `forward`; how numbers change in training to the task.
//!
//! A network is written once, as a function over a [`Network`]. Declared, it yields the list of its tensors; run, it
//! yields logits. Names and their order are those of torchvision's state dicts, without `num_batches_tracked`.

mod forward;
mod mobilenetv2;
mod resnet;
mod small;
mod synced;

pub(crate) use forward::{BatchStatistics, Dropout, Forward, Half, Pass};
pub(crate) use synced::Synced;

use super::Backbone;
use feedline::plan::rng::SampleRng;
use feedline::train::Tensors;
use feedline::{Array, DType, Error, Result};
use std::ops::Range;

impl Backbone {
    /// Writes the network down on `net`, from the pictures `x` to the logits.
    fn build<N: Network>(self, net: &mut N, x: N::Maps) -> N::Logits {
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
struct Conv {
    channels_in: usize,
    channels_out: usize,
    kernel_px: usize,
    stride_px: usize,
    groups: usize,
}

impl Conv {
    fn new(channels_in: usize, channels_out: usize, kernel_px: usize, stride_px: usize) -> Conv {
        Conv { channels_in, channels_out, kernel_px, stride_px, groups: 1 }
    }

    /// One kernel per channel.
    fn depthwise(channels: usize, kernel_px: usize, stride_px: usize) -> Conv {
        Conv { channels_in: channels, channels_out: channels, kernel_px, stride_px, groups: channels }
    }
}

/// The final linear layer.
#[derive(Debug, Clone, Copy)]
struct Head {
    name: &'static str,
    features: usize,
    pool: Pool,
    /// Share of features set to zero in training.
    dropout: f64,
    init: HeadInit,
}

/// What one number per channel is made of the maps.
#[derive(Debug, Clone, Copy)]
enum Pool {
    Mean,
    Max,
}

#[derive(Debug, Clone, Copy)]
enum HeadInit {
    /// torch's `nn.Linear`: weight and bias uniform within 1 / sqrt(features).
    Linear,
    /// torchvision's MobileNetV2: weight normal with deviation 0.01, bias 0.
    Normal,
}

/// What a network can be made of. Layers are visited in the order of the state dict.
trait Network {
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

/// What a tensor is for, and how it starts.
#[derive(Debug, Clone, Copy)]
enum Role {
    ConvWeight { fan_out: usize },
    NormWeight,
    NormBias,
    RunningMean,
    RunningVar,
    HeadWeight(Head),
    HeadBias(Head),
}

/// One named tensor of a network.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    role: Role,
    /// Its place in `Model::parameters`, or in `Model::buffers` if it is one.
    pub(crate) range: Range<usize>,
}

impl Spec {
    /// Whether it is a running statistic, which no gradient reaches.
    pub(crate) fn is_buffer(&self) -> bool {
        matches!(self.role, Role::RunningMean | Role::RunningVar)
    }

    /// Whether it belongs to the head, which is never frozen.
    pub(crate) fn is_head(&self) -> bool {
        matches!(self.role, Role::HeadWeight(_) | Role::HeadBias(_))
    }

    /// Whether weight decay applies: to weights of convolutions and of the head, not to norms and biases.
    pub(crate) fn decays(&self) -> bool {
        matches!(self.role, Role::ConvWeight { .. } | Role::HeadWeight(_))
    }

    /// Initial value: torchvision's distributions, drawn from a stream of this tensor's own.
    fn initialise(&self, seed: u64, values: &mut [f32]) {
        let mut rng = SampleRng::new(seed, 0, 0, &self.name);
        let mut normal = |deviation: f64| values.iter_mut().for_each(|v| *v = (rng.normal() * deviation) as f32);
        match self.role {
            Role::ConvWeight { fan_out } => normal((2.0 / fan_out as f64).sqrt()),
            Role::HeadWeight(Head { init: HeadInit::Normal, .. }) => normal(0.01),
            Role::HeadWeight(head) | Role::HeadBias(head) if matches!(head.init, HeadInit::Linear) => {
                let bound = 1.0 / (head.features as f64).sqrt();
                values.iter_mut().for_each(|v| *v = rng.uniform(-bound, bound) as f32);
            }
            Role::NormWeight | Role::RunningVar => values.fill(1.0),
            _ => values.fill(0.0),
        }
    }
}

/// Collects the tensors of a network without computing anything.
struct Declare {
    classes: usize,
    specs: Vec<Spec>,
    parameters: usize,
    buffers: usize,
}

impl Declare {
    fn tensor(&mut self, name: String, shape: Vec<usize>, role: Role) {
        let mut spec = Spec { name, shape, role, range: 0..0 };
        let filled = if spec.is_buffer() { &mut self.buffers } else { &mut self.parameters };
        spec.range = *filled..*filled + spec.shape.iter().product::<usize>();
        *filled = spec.range.end;
        self.specs.push(spec);
    }
}

impl Network for Declare {
    type Maps = ();
    type Logits = ();

    fn conv(&mut self, name: &str, _: (), conv: Conv) {
        let shape = vec![conv.channels_out, conv.channels_in / conv.groups, conv.kernel_px, conv.kernel_px];
        let fan_out = conv.channels_out * conv.kernel_px * conv.kernel_px;
        self.tensor(format!("{name}.weight"), shape, Role::ConvWeight { fan_out });
    }

    fn batch_norm(&mut self, name: &str, _: (), channels: usize) {
        for (part, role) in [
            ("weight", Role::NormWeight),
            ("bias", Role::NormBias),
            ("running_mean", Role::RunningMean),
            ("running_var", Role::RunningVar),
        ] {
            self.tensor(format!("{name}.{part}"), vec![channels], role);
        }
    }

    fn relu(&mut self, _: ()) {}
    fn relu6(&mut self, _: ()) {}
    fn add(&mut self, _: (), _: ()) {}
    fn max_pool(&mut self, _: ()) {}

    fn classify(&mut self, _: (), head: Head) {
        self.tensor(format!("{}.weight", head.name), vec![self.classes, head.features], Role::HeadWeight(head));
        self.tensor(format!("{}.bias", head.name), vec![self.classes], Role::HeadBias(head));
    }
}

/// A network and its numbers.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) backbone: Backbone,
    pub(crate) classes: usize,
    /// Every tensor, in the order of the state dict.
    pub(crate) specs: Vec<Spec>,
    /// All trainable values, one tensor after the other.
    pub(crate) parameters: Vec<f32>,
    /// All running statistics.
    pub(crate) buffers: Vec<f32>,
}

impl Model {
    /// A network with initial weights that depend on `seed` and the tensors' names alone.
    pub(crate) fn new(backbone: Backbone, classes: usize, seed: u64) -> Model {
        let mut declared = Declare { classes, specs: Vec::new(), parameters: 0, buffers: 0 };
        backbone.build(&mut declared, ());
        let mut model = Model {
            backbone,
            classes,
            specs: Vec::new(),
            parameters: vec![0.0; declared.parameters],
            buffers: vec![0.0; declared.buffers],
        };
        for spec in &declared.specs {
            spec.initialise(seed, model.values_mut(spec));
        }
        model.specs = declared.specs;
        model
    }

    /// The values of one tensor.
    pub(crate) fn values(&self, spec: &Spec) -> &[f32] {
        let store = if spec.is_buffer() { &self.buffers } else { &self.parameters };
        &store[spec.range.clone()]
    }

    /// The values of one tensor, writable.
    pub(crate) fn values_mut(&mut self, spec: &Spec) -> &mut [f32] {
        let store = if spec.is_buffer() { &mut self.buffers } else { &mut self.parameters };
        &mut store[spec.range.clone()]
    }

    /// A copy of every tensor by name.
    pub(crate) fn tensors(&self) -> Tensors {
        let array = |spec: &Spec| Array::from_slice(spec.shape.clone(), self.values(spec));
        self.specs.iter().map(|spec| (spec.name.clone(), array(spec))).collect()
    }

    /// Takes over every tensor of `saved`; on an error nothing was changed.
    pub(crate) fn load(&mut self, saved: &Tensors) -> Result<()> {
        for spec in &self.specs {
            check_tensor(saved, &spec.name, &spec.shape)?;
        }
        if let Some(unknown) = saved.keys().find(|name| self.specs.iter().all(|spec| spec.name != **name)) {
            return Err(Error::train(
                format!("the saved model has a tensor {unknown} that {} does not have", self.backbone.name()),
                "Load it with the backbone it was saved with",
            ));
        }
        for spec in self.specs.clone() {
            self.values_mut(&spec).copy_from_slice(saved[&spec.name].as_slice());
        }
        Ok(())
    }
}

/// That `saved` holds f32 values of `shape` under `name`.
pub(crate) fn check_tensor(saved: &Tensors, name: &str, shape: &[usize]) -> Result<()> {
    let remedy = "Load it with the backbone, classes and optimiser it was saved with";
    match saved.get(name) {
        None => Err(Error::train(format!("the saved state has no tensor {name}"), remedy)),
        Some(array) if array.dtype() != DType::F32 || array.shape() != shape => Err(Error::train(
            format!("the saved tensor {name} is {:?} {:?}, but F32 {shape:?} is needed", array.dtype(), array.shape()),
            remedy,
        )),
        Some(_) => Ok(()),
    }
}
