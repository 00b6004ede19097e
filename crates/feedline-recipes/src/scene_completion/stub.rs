//! TO BE REPLACED by task.rs and metrics.rs: a task that learns how often each class comes, and looks at nothing else. It
//! is here so that everything around it can be built and tested.

use crate::classification::DeviceKind;
use feedline::train::group::Group;
use feedline::train::schedule::OptimizerKind;
use feedline::train::{Tally, Task, TaskState, Tensors};
use feedline::{Array, Batch, Error, Result};
use serde::{Deserialize, Serialize};

/// What a task is made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskOptions {
    pub image_px: [u32; 2],
    pub grid: [usize; 3],
    pub num_classes: usize,
    pub channels: usize,
    pub use_hha: bool,
    pub optimizer: OptimizerKind,
    pub momentum: f64,
    pub weight_decay: f64,
    pub sketch_weight: f64,
    pub class_weights: Vec<f64>,
    pub device: DeviceKind,
    pub seed: u64,
}

/// Intersections and unions.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    counts: Vec<f64>,
}

impl Scores {
    /// From the sums of a tally.
    pub fn from_sums(_num_classes: usize, sums: &[f64]) -> Scores {
        Scores { counts: sums.to_vec() }
    }

    /// Of each class; NaN where it does not occur.
    pub fn ssc_iou(&self) -> Vec<f64> {
        self.counts[4..].as_chunks::<2>().0.iter().map(|[both, either]| both / either).collect()
    }

    /// Mean over the classes but 0 that occur.
    pub fn ssc_miou(&self) -> f64 {
        let found: Vec<f64> = self.ssc_iou().into_iter().skip(1).filter(|iou| !iou.is_nan()).collect();
        found.iter().sum::<f64>() / found.len() as f64
    }

    pub fn sc_iou(&self) -> f64 {
        self.counts[0] / (self.counts[0] + self.counts[1] + self.counts[2])
    }

    pub fn sc_precision(&self) -> f64 {
        self.counts[0] / (self.counts[0] + self.counts[1])
    }

    pub fn sc_recall(&self) -> f64 {
        self.counts[0] / (self.counts[0] + self.counts[2])
    }
}

/// One number for each class.
#[derive(Debug)]
pub struct SceneTask {
    options: TaskOptions,
    logits: Vec<f64>,
}

impl SceneTask {
    /// At its first step.
    ///
    /// # Errors
    /// A device that is not to be had.
    pub fn new(options: TaskOptions) -> Result<SceneTask> {
        if options.device == DeviceKind::Gpu {
            return Err(Error::Unsupported { what: "device gpu".into(), remedy: "Use --device cpu".into() });
        }
        Ok(SceneTask { logits: vec![0.0; options.num_classes], options })
    }

    pub fn device_name(&self) -> String {
        "cpu".into()
    }

    /// Takes over saved parameters, for evaluation.
    ///
    /// # Errors
    /// A tensor that is missing.
    pub fn load_model(&mut self, model: &Tensors) -> Result<()> {
        let Some(saved) = model.get("logits") else {
            return Err(Error::train("no tensor logits in the checkpoint", "Use a checkpoint of this network"));
        };
        self.logits.copy_from_slice(saved.as_slice());
        Ok(())
    }

    fn step(&self, batch: &Batch) -> Result<(Tally, Vec<f64>)> {
        let classes = self.logits.len();
        let best = (0..classes).fold(0, |best, at| if self.logits[at] > self.logits[best] { at } else { best });
        let all: f64 = self.logits.iter().map(|logit| logit.exp()).sum();
        let mut tally = Tally { metric_sums: vec![0.0; self.metric_sums_len()], ..Tally::default() };
        let mut slope = vec![0.0; classes];
        let labels = batch.stacked("label")?.as_slice::<i64>();
        let weights = batch.stacked("label_weight")?.as_slice::<f32>();
        let mapping = batch.stacked("depth_mapping_3d")?.as_slice::<i64>();
        let no_pixel = i64::from(self.options.image_px[0]) * i64::from(self.options.image_px[1]);
        let voxels = labels.len() / batch.len().max(1);
        for sample in 0..batch.valid {
            let range = sample * voxels..(sample + 1) * voxels;
            tally.samples += 1;
            for at in range.filter(|at| weights[*at] > 0.0 && labels[*at] != 255) {
                let label = labels[at] as usize;
                tally.loss_sum -= (self.logits[label].exp() / all).ln() / voxels as f64;
                for (class, slope) in slope.iter_mut().enumerate() {
                    *slope += (self.logits[class].exp() / all - f64::from(u8::from(class == label))) / voxels as f64;
                }
                if mapping[at] == no_pixel {
                    let case = [None, Some(1), Some(2), Some(0)][usize::from(best != 0) + 2 * usize::from(label != 0)];
                    case.into_iter().for_each(|case| tally.metric_sums[case] += 1.0);
                }
                tally.metric_sums[4 + 2 * label] += f64::from(u8::from(label == best));
                tally.metric_sums[5 + 2 * label] += 1.0;
                tally.metric_sums[5 + 2 * best] += f64::from(u8::from(label != best));
            }
        }
        Ok((tally, slope))
    }
}

impl Task for SceneTask {
    fn metric_names(&self) -> &'static [&'static str] {
        &["ssc_miou", "sc_iou", "sc_precision", "sc_recall"]
    }

    fn metric_sums_len(&self) -> usize {
        4 + 2 * self.logits.len()
    }

    fn metrics(&self, tally: &Tally) -> Vec<f64> {
        let scores = Scores::from_sums(self.logits.len(), &tally.metric_sums);
        vec![scores.ssc_miou(), scores.sc_iou(), scores.sc_precision(), scores.sc_recall()]
    }

    fn set_frozen(&mut self, _frozen: bool) {}

    fn train_step(&mut self, batch: &Batch, lr: f64, group: &dyn Group) -> Result<Tally> {
        let (mut tally, mut slope) = self.step(batch)?;
        tally.all_reduce(group)?;
        group.all_reduce_f64(&mut slope)?;
        for (logit, slope) in self.logits.iter_mut().zip(slope) {
            *logit -= lr * slope / tally.samples.max(1) as f64;
        }
        Ok(tally)
    }

    fn broadcast(&mut self, _group: &dyn Group) -> Result<()> {
        Ok(())
    }

    fn eval_step(&mut self, batch: &Batch) -> Result<Tally> {
        Ok(self.step(batch)?.0)
    }

    fn state(&self) -> Result<TaskState> {
        let model = Tensors::from([("logits".into(), Array::from_slice([self.logits.len()], &self.logits))]);
        Ok(TaskState { model, ..TaskState::default() })
    }

    fn load_state(&mut self, state: TaskState) -> Result<()> {
        self.load_model(&state.model)
    }
}
