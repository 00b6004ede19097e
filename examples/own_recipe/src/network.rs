//! The network of the recipe and its loss, by hand: a linear layer from pixels to the number, squared error. What a step is
//! belongs to `Supervised`.

use crate::config::Config;
use feedline::train::group::Group;
use feedline::train::schedule::OptimizerKind;
use feedline::{Batch, Result};
use feedline_recipes::network::optimizer::Optimizer;
use feedline_recipes::network::parameters::{Init, Parameters, Role};
use feedline_recipes::network::step::Stepper;
use feedline_recipes::network::supervised::{SampleLoss, Supervised, SupervisedNetwork, TrainPass};

/// The network in training.
pub type RegressionTask = Supervised<Linear, SquaredError>;

/// The weights of the pixels, and the bias as the last value.
pub struct Linear(Parameters);

/// A task at its first step.
pub fn task(config: &Config) -> RegressionTask {
    let pixels = (config.data.side_px * config.data.side_px) as usize;
    let mut parameters = Parameters::default();
    let init = Init::Normal { deviation: 0.01 };
    parameters.add("weight".into(), vec![pixels], Role::Weight, init, false);
    parameters.add("bias".into(), vec![1], Role::Offset, Init::Zeros, false);
    parameters.initialise(config.seed);
    let optimizer = Optimizer::new(OptimizerKind::Adam, 0.9, 0.0, parameters.parameters.len());
    let stepper = Stepper::new(optimizer, &parameters, "the regression", "train.lr");
    Supervised::from_parts(Linear(parameters), SquaredError, stepper)
}

impl SupervisedNetwork for Linear {
    fn parameters(&self) -> &Parameters {
        &self.0
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.0
    }

    fn outputs(&self, batch: &Batch, samples: usize) -> Result<Vec<f32>> {
        let (weights, bias) = self.0.parameters.split_at(self.0.parameters.len() - 1);
        let pixels = batch.stacked("pixels")?.as_slice::<f32>().chunks_exact(weights.len());
        let sum = |pixels: &[f32]| pixels.iter().zip(weights).map(|(x, w)| f64::from(x * w)).sum::<f64>();
        Ok(pixels.take(samples).map(|pixels| (sum(pixels) + f64::from(bias[0])) as f32).collect())
    }

    fn train_pass<'p>(
        &'p self,
        batch: &'p Batch,
        samples: usize,
        _frozen: bool,
        _group: &'p dyn Group,
    ) -> Result<TrainPass<'p>> {
        let pixels = batch.stacked("pixels")?.as_slice::<f32>();
        let backward = move |slope: &[f32], gradient: &mut [f32]| {
            gradient.fill(0.0);
            let (weights, bias) = gradient.split_at_mut(gradient.len() - 1);
            for (slope, pixels) in slope.iter().zip(pixels.chunks_exact(weights.len())) {
                weights.iter_mut().zip(pixels).for_each(|(sum, x)| *sum += slope * x);
                bias[0] += slope;
            }
            Ok(Vec::new())
        };
        Ok(TrainPass { outputs: self.outputs(batch, samples)?, backward: Box::new(backward) })
    }
}

/// The squared error, with the mean absolute error.
pub struct SquaredError;

impl SampleLoss for SquaredError {
    type Label = f32;

    const FIELD: &'static str = "value";
    const METRICS: &'static [&'static str] = &["mae"];

    fn of_sample(&self, outputs: &[f32], value: f32, metrics: &mut [f64], slope: &mut Vec<f64>) -> f64 {
        let error = f64::from(outputs[0]) - f64::from(value);
        metrics[0] += error.abs();
        slope.push(2.0 * error);
        error * error
    }
}
