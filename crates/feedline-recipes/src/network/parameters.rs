//! The numbers of a network: named tensors kept as flat f32 vectors, so that optimiser, checkpoints and a sum over ranks
//! need no tensor framework. Owns their initial values and the way into and out of a saved state; knows no network.

use feedline::plan::rng::SampleRng;
use feedline::train::group::Group;
use feedline::train::{TaskState, Tensors};
use feedline::{Array, DType, Error, Result};
use serde_json::Value;
use std::ops::Range;

/// The role of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Of a convolution or a linear layer: weight decay applies.
    Weight,
    /// A bias, or the weight of a norm layer: no decay.
    Offset,
    /// A running statistic, which no gradient reaches.
    Statistic,
}

/// The initial values of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    Normal {
        deviation: f64,
    },
    /// Within `bound` of zero.
    Uniform {
        bound: f64,
    },
}

/// One named tensor of a network.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub shape: Vec<usize>,
    role: Role,
    init: Init,
    /// True if it belongs to the part that `Task::set_frozen` freezes.
    pub in_backbone: bool,
    /// Its place in `Parameters::parameters`, or in `Parameters::buffers` if it is a statistic.
    pub range: Range<usize>,
}

impl Spec {
    /// True for a running statistic, which no gradient reaches.
    pub fn is_buffer(&self) -> bool {
        self.role == Role::Statistic
    }

    /// True if a step changes it while the backbone is `frozen`, or is not.
    pub fn is_trained(&self, frozen: bool) -> bool {
        !self.is_buffer() && (!self.in_backbone || !frozen)
    }

    /// True if weight decay applies: to weights of convolutions and linear layers, not to norms and biases.
    pub fn decays(&self) -> bool {
        self.role == Role::Weight
    }
}

/// All tensors of a network.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    /// Every tensor, in the order of the state dict.
    pub specs: Vec<Spec>,
    /// All trainable values, one tensor after the other.
    pub parameters: Vec<f32>,
    /// All running statistics.
    pub buffers: Vec<f32>,
}

impl Parameters {
    /// Adds a tensor of zeros; [`Parameters::initialise`] gives it its values.
    pub fn add(&mut self, name: String, shape: Vec<usize>, role: Role, init: Init, in_backbone: bool) {
        let store = if role == Role::Statistic { &mut self.buffers } else { &mut self.parameters };
        let range = store.len()..store.len() + shape.iter().product::<usize>();
        store.resize(range.end, 0.0);
        self.specs.push(Spec { name, shape, role, init, in_backbone, range });
    }

    /// Initial values: each tensor's are drawn from a stream of its own, which `seed` and its name decide.
    pub fn initialise(&mut self, seed: u64) {
        for spec in self.specs.clone() {
            let mut rng = SampleRng::new(seed, 0, 0, &spec.name);
            let values = self.values_mut(&spec);
            match spec.init {
                Init::Zeros => values.fill(0.0),
                Init::Ones => values.fill(1.0),
                Init::Normal { deviation } => values.iter_mut().for_each(|v| *v = (rng.normal() * deviation) as f32),
                Init::Uniform { bound } => values.iter_mut().for_each(|v| *v = rng.uniform(-bound, bound) as f32),
            }
        }
    }

    /// The values of one tensor.
    pub fn values(&self, spec: &Spec) -> &[f32] {
        let store = if spec.is_buffer() { &self.buffers } else { &self.parameters };
        &store[spec.range.clone()]
    }

    /// The values of one tensor as files have them: little-endian.
    pub fn bytes(&self, spec: &Spec) -> Vec<u8> {
        self.values(spec).iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// The values of one tensor, writable.
    pub fn values_mut(&mut self, spec: &Spec) -> &mut [f32] {
        let store = if spec.is_buffer() { &mut self.buffers } else { &mut self.parameters };
        &mut store[spec.range.clone()]
    }

    /// A copy of every tensor by name.
    pub fn tensors(&self) -> Tensors {
        let array = |spec: &Spec| Array::from_slice(spec.shape.clone(), self.values(spec));
        self.specs.iter().map(|spec| (spec.name.clone(), array(spec))).collect()
    }

    /// Takes over every tensor of `saved`; `network` names this one in an error, after which nothing was changed.
    pub fn load(&mut self, saved: &Tensors, network: &str) -> Result<()> {
        for spec in &self.specs {
            check_tensor(saved, &spec.name, &spec.shape)?;
        }
        if let Some(unknown) = saved.keys().find(|name| self.specs.iter().all(|spec| spec.name != **name)) {
            return Err(Error::train(
                format!("the saved model has a tensor {unknown} that {network} does not have"),
                "Load it with the network it was saved with",
            ));
        }
        for spec in self.specs.clone() {
            self.values_mut(&spec).copy_from_slice(saved[&spec.name].as_slice());
        }
        Ok(())
    }

    /// Takes over the values of rank 0; nothing to do in a group of one.
    pub fn broadcast(&mut self, group: &dyn Group) -> Result<()> {
        if group.world_size() == 1 {
            return Ok(());
        }
        let mut bytes = Vec::new();
        if group.rank() == 0 {
            bytes.extend(self.parameters.iter().chain(&self.buffers).flat_map(|value| value.to_le_bytes()));
        }
        group.broadcast(&mut bytes)?;
        let (parameters, buffers) = (&mut self.parameters, &mut self.buffers);
        let values = bytes.chunks_exact(4).map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]]));
        if values.len() != parameters.len() + buffers.len() {
            return Err(Error::group(
                format!(
                    "rank 0 has {} numbers, rank {} {}",
                    values.len(),
                    group.rank(),
                    parameters.len() + buffers.len()
                ),
                "Start every rank with the same model",
            ));
        }
        parameters.iter_mut().chain(buffers).zip(values).for_each(|(place, value)| *place = value);
        Ok(())
    }
}

/// Checks that `saved` holds f32 values of `shape` under `name`.
pub fn check_tensor(saved: &Tensors, name: &str, shape: &[usize]) -> Result<()> {
    let remedy = "Load it with the network, classes and optimiser it was saved with";
    match saved.get(name) {
        None => Err(Error::train(format!("the saved state has no tensor {name}"), remedy)),
        Some(array) if array.dtype() != DType::F32 || array.shape() != shape => Err(Error::train(
            format!("the saved tensor {name} is {:?} {:?}, but F32 {shape:?} is needed", array.dtype(), array.shape()),
            remedy,
        )),
        Some(_) => Ok(()),
    }
}

/// A small value of a saved state.
pub fn scalar<T: serde::de::DeserializeOwned>(state: &TaskState, name: &str) -> Result<T> {
    let value = state.scalars.get(name).unwrap_or(&Value::Null);
    T::deserialize(value).map_err(|problem| {
        Error::train(
            format!("{name} in the saved state cannot be used: {problem}"),
            "Resume with the optimiser and precision it was saved with",
        )
    })
}
