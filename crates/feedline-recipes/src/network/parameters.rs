//! The numbers of a network: named tensors kept as flat f32 vectors, so that optimiser, checkpoints and a sum over ranks
//! need no tensor framework. Owns their initial values and the way into and out of a saved state; knows no network.

use super::ema::Ema;
use feedline::plan::rng::SampleRng;
use feedline::train::checkpoint::RAW;
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
    /// Its learning rate as a share of the step's: 1 unless rates decay by layer.
    pub lr_scale: f64,
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
    /// Their averages over the steps, if they are kept: then these are what is evaluated.
    pub ema: Option<Ema>,
}

impl Parameters {
    /// Adds a tensor of zeros; [`Parameters::initialise`] gives it its values.
    pub fn add(&mut self, name: String, shape: Vec<usize>, role: Role, init: Init, in_backbone: bool) {
        let store = if role == Role::Statistic { &mut self.buffers } else { &mut self.parameters };
        let range = store.len()..store.len() + shape.iter().product::<usize>();
        store.resize(range.end, 0.0);
        self.specs.push(Spec { name, shape, role, init, in_backbone, lr_scale: 1.0, range });
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

    /// The averages, if any step went into them.
    fn averages(&self) -> Option<&Ema> {
        self.ema.as_ref().filter(|ema| ema.steps > 0)
    }

    /// The values of one tensor for an evaluation: the averages, if any step went into them.
    pub fn evaluated(&self, spec: &Spec) -> &[f32] {
        match self.averages() {
            None => self.values(spec),
            Some(ema) if spec.is_buffer() => &ema.buffers[spec.range.clone()],
            Some(ema) => &ema.parameters[spec.range.clone()],
        }
    }

    /// Takes the numbers after a step into the averages, if they are kept.
    pub fn average(&mut self) {
        let Parameters { parameters, buffers, ema, .. } = self;
        if let Some(ema) = ema {
            ema.update(parameters, buffers);
        }
    }

    /// A copy of every tensor by name, as it is evaluated.
    pub fn tensors(&self) -> Tensors {
        let array = |spec: &Spec| Array::from_slice(spec.shape.clone(), self.evaluated(spec));
        self.specs.iter().map(|spec| (spec.name.clone(), array(spec))).collect()
    }

    /// What a resume needs beside [`Parameters::tensors`] if averages are evaluated: the numbers that they are averages of, by
    /// `raw/` and the tensor's name, and the number of steps in the averages.
    pub fn raw_tensors(&self) -> Option<(Tensors, u64)> {
        let ema = self.averages()?;
        let array = |spec: &Spec| Array::from_slice(spec.shape.clone(), self.values(spec));
        Some((self.specs.iter().map(|spec| (format!("{RAW}{}", spec.name), array(spec))).collect(), ema.steps))
    }

    /// Takes over what [`Parameters::tensors`] and [`Parameters::raw_tensors`] gave; without averages `steps` is 0 and `beside`
    /// not looked at. `network` names this one in an error, after which nothing was changed.
    ///
    /// # Errors
    /// A tensor that is missing, unknown or does not fit, by name.
    pub fn load_averaged(&mut self, saved: &Tensors, beside: &Tensors, steps: u64, network: &str) -> Result<()> {
        let Some(decay) = self.ema.as_ref().map(Ema::decay) else { return self.load(saved, network) };
        let mut ema = Ema::new(decay);
        if steps == 0 {
            self.load(saved, network)?;
        } else {
            self.specs.iter().try_for_each(|spec| check_tensor(beside, &format!("{RAW}{}", spec.name), &spec.shape))?;
            self.load(saved, network)?;
            ema.update(&self.parameters, &self.buffers);
            ema.steps = steps;
            for spec in self.specs.clone() {
                self.values_mut(&spec).copy_from_slice(beside[&format!("{RAW}{}", spec.name)].as_slice());
            }
        }
        self.ema = Some(ema);
        Ok(())
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
        let [mut none, mut no_more] = [Vec::new(), Vec::new()];
        let Parameters { parameters, buffers, ema, .. } = self;
        let (averages, more) = match ema {
            Some(ema) => (&mut ema.parameters, &mut ema.buffers),
            None => (&mut none, &mut no_more),
        };
        let all = [parameters, buffers, averages, more];
        let len: usize = all.iter().map(|values| values.len()).sum();
        let mut bytes = Vec::new();
        if group.rank() == 0 {
            bytes.extend(all.iter().flat_map(|values| values.iter()).flat_map(|value| value.to_le_bytes()));
        }
        group.broadcast(&mut bytes)?;
        let values = bytes.chunks_exact(4).map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]]));
        if values.len() != len {
            return Err(Error::group(
                format!("rank 0 has {} numbers, rank {} {len}", values.len(), group.rank()),
                "Start every rank with the same model",
            ));
        }
        all.into_iter().flatten().zip(values).for_each(|(place, value)| *place = value);
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
