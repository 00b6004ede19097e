//! The exponential moving average of a network's numbers. Owns the averages; knows neither names nor files.

/// Averages of parameters and running statistics, as torch's `AveragedModel(multi_avg_fn=get_ema_multi_avg_fn(decay),
/// use_buffers=True)`: those of the first step are copied, each later step moves them by `1 - decay` of the way.
#[derive(Debug, Clone)]
pub struct Ema {
    decay: f64,
    /// Steps that went into the averages.
    pub steps: u64,
    pub parameters: Vec<f32>,
    pub buffers: Vec<f32>,
}

impl Ema {
    /// No step yet; `decay` is above 0 and below 1.
    pub fn new(decay: f64) -> Ema {
        Ema { decay, steps: 0, parameters: Vec::new(), buffers: Vec::new() }
    }

    /// The share of the averages that each step keeps.
    pub fn decay(&self) -> f64 {
        self.decay
    }

    /// Takes the numbers after a step into the averages.
    pub fn update(&mut self, parameters: &[f32], buffers: &[f32]) {
        let share = (1.0 - self.decay) as f32;
        for (averages, now) in [(&mut self.parameters, parameters), (&mut self.buffers, buffers)] {
            if self.steps == 0 {
                averages.clear();
                averages.extend_from_slice(now);
                continue;
            }
            for (average, now) in averages.iter_mut().zip(now) {
                let way = now - *average;
                // As torch's lerp rounds it.
                *average = if share < 0.5 { *average + share * way } else { now - way * (1.0 - share) };
            }
        }
        self.steps += 1;
    }
}
