//! The network of the recipe and its loss, by hand: a linear layer from pixels to the number, squared error. Owns what one
//! sample costs; what a step is belongs to `Stepper`.

use crate::config::Config;
use feedline::train::group::Group;
use feedline::train::schedule::OptimizerKind;
use feedline::train::{Tally, Task, TaskState};
use feedline::{Batch, Result};
use feedline_recipes::network::optimizer::Optimizer;
use feedline_recipes::network::parameters::{Init, Parameters, Role};
use feedline_recipes::network::step::Stepper;

/// A linear layer in training.
pub struct RegressionTask {
    /// The weights of the pixels, and the bias as the last value.
    parameters: Parameters,
    stepper: Stepper,
}

impl RegressionTask {
    /// A task at its first step.
    pub fn new(config: &Config) -> RegressionTask {
        let pixels = (config.data.side_px * config.data.side_px) as usize;
        let mut parameters = Parameters::default();
        let init = Init::Normal { deviation: 0.01 };
        parameters.add("weight".into(), vec![pixels], Role::Weight, init, false);
        parameters.add("bias".into(), vec![1], Role::Offset, Init::Zeros, false);
        parameters.initialise(config.seed);
        let optimizer = Optimizer::new(OptimizerKind::Adam, 0.9, 0.0, parameters.parameters.len());
        let stepper = Stepper::new(optimizer, &parameters, "the regression", "train.lr");
        RegressionTask { parameters, stepper }
    }

    /// The network's prediction for each real sample.
    ///
    /// # Errors
    /// A batch of another recipe.
    pub fn predictions(&self, batch: &Batch) -> Result<Vec<f64>> {
        let (weights, bias) = self.parameters.parameters.split_at(self.parameters.parameters.len() - 1);
        let pixels = batch.stacked("pixels")?.as_slice::<f32>().chunks_exact(weights.len());
        let sum = |pixels: &[f32]| pixels.iter().zip(weights).map(|(x, w)| f64::from(x * w)).sum::<f64>();
        Ok(pixels.take(batch.valid).map(|pixels| sum(pixels) + f64::from(bias[0])).collect())
    }

    /// The errors of the real samples, and their sums.
    fn errors(&self, batch: &Batch) -> Result<(Vec<f64>, Tally)> {
        let values = batch.stacked("value")?.as_slice::<f32>();
        let predictions = self.predictions(batch)?;
        let errors: Vec<f64> = predictions.iter().zip(values).map(|(p, value)| p - f64::from(*value)).collect();
        let tally = Tally {
            samples: errors.len() as u64,
            loss_sum: errors.iter().map(|error| error * error).sum(),
            metric_sums: vec![errors.iter().map(|error| error.abs()).sum()],
        };
        Ok((errors, tally))
    }
}

impl Task for RegressionTask {
    fn metric_names(&self) -> &'static [&'static str] {
        &["mae"]
    }

    fn train_step(&mut self, batch: &Batch, lr: f64, group: &dyn Group) -> Result<Tally> {
        let (errors, mut tally) = self.errors(batch)?;
        let Some(share) = self.stepper.share(&mut tally, batch, group)? else { return Ok(tally) };
        let pixels = batch.stacked("pixels")?.as_slice::<f32>();
        let (weights, bias) = {
            let gradient = self.stepper.gradient_mut();
            gradient.fill(0.0);
            gradient.split_at_mut(gradient.len() - 1)
        };
        for (error, pixels) in errors.iter().zip(pixels.chunks_exact(weights.len())) {
            let slope = (2.0 * error * share) as f32;
            weights.iter_mut().zip(pixels).for_each(|(sum, x)| *sum += slope * x);
            bias[0] += slope;
        }
        self.stepper.step(&mut self.parameters, lr, batch, group)?;
        Ok(tally)
    }

    fn broadcast(&mut self, group: &dyn Group) -> Result<()> {
        self.parameters.broadcast(group)
    }

    fn eval_step(&mut self, batch: &Batch) -> Result<Tally> {
        Ok(self.errors(batch)?.1)
    }

    fn state(&self) -> Result<TaskState> {
        Ok(self.stepper.state(&self.parameters))
    }

    fn load_state(&mut self, state: TaskState) -> Result<()> {
        self.stepper.load_state(&mut self.parameters, &state)
    }
}
