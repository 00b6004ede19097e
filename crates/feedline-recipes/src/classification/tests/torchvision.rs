//! The networks give torchvision's numbers. The golden files are made by testdata/torchvision/make.py.

use super::{batch_of, formula, formula_f32, golden, numbers, options};
use crate::classification::network::weights::{Wanted, load_into};
use crate::classification::{Backbone, ClassificationTask};
use feedline::Batch;
use feedline::train::group::SingleRank;
use feedline::train::{Task, TaskState};
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

const PX: usize = 64;

/// Names and shapes of torchvision's state dict, in its order.
fn state_dict(golden: &serde_json::Value) -> Vec<(String, Vec<usize>)> {
    serde_json::from_value(golden["state_dict"].clone()).unwrap()
}

/// The weights of make.py, as a file that torchvision's users would have.
fn write_weights(path: &Path, state_dict: &[(String, Vec<usize>)]) {
    let features = state_dict.iter().rev().find(|(_, shape)| shape.len() == 2).unwrap().1[1];
    let tensors: Vec<_> = state_dict
        .iter()
        .map(|(name, shape)| {
            if shape.is_empty() {
                return (name, shape, Dtype::I64, 7i64.to_le_bytes().to_vec());
            }
            let fan_in = shape[1..].iter().product::<usize>() as f64;
            let gain = if name.starts_with("features") { 6.0 } else { 3.0 };
            let scale: Box<dyn Fn(f64) -> f64> = match shape.len() {
                4 => Box::new(move |v| v * (gain / fan_in).sqrt()),
                2 => Box::new(move |v| v * (3.0 / fan_in).sqrt()),
                _ if name == "fc.bias" || name == "classifier.1.bias" => {
                    Box::new(move |v| v * (3.0 / features as f64).sqrt())
                }
                _ if name.ends_with("running_var") => Box::new(|v| 1.0 + 0.5 * v),
                _ if name.ends_with("weight") => Box::new(|v| 1.0 + 0.25 * v),
                _ => Box::new(|v| 0.25 * v),
            };
            let values = formula(name, shape.iter().product());
            (name, shape, Dtype::F32, values.into_iter().flat_map(|v| (scale(v) as f32).to_le_bytes()).collect())
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, dtype, bytes)| (name.as_str(), TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn images() -> Batch {
    batch_of(&formula_f32("image", 2 * 3 * PX * PX), &[1, 3], PX)
}

/// A task with the weights of make.py, loaded from a safetensors file.
fn imported(backbone: Backbone, weight_decay: f64) -> (ClassificationTask, serde_json::Value) {
    let golden = golden(&format!("{}.json", backbone.name()));
    let state_dict = state_dict(&golden);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    write_weights(&path, &state_dict);
    let mut task = ClassificationTask::new(super::TaskOptions { weight_decay, ..options(backbone) }).unwrap();
    let report = load_into(&mut task, &path, Wanted { classes: &[], partial: false }).unwrap();
    assert_eq!(report.unmatched, []);
    let names: Vec<_> =
        state_dict.into_iter().map(|(name, _)| name).filter(|n| !n.ends_with("num_batches_tracked")).collect();
    assert_eq!(report.loaded, names, "the order of the state dict");
    (task, golden)
}

fn check_logits(backbone: Backbone) {
    let (mut task, golden) = imported(backbone, 0.0);
    let expect = numbers(&golden["logits"]);
    let found = task.logits(&images()).unwrap();
    assert_eq!(found.len(), expect.len());
    let worst = found.iter().zip(&expect).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
    eprintln!("{}: largest difference of a logit {worst:.1e}", backbone.name());
    assert!(worst < 1e-4, "{found:?}\n{expect:?}");

    // Statistics of a batch enter the running ones as torch does it: momentum 0.1, unbiased variance.
    task.train_step(&images(), 0.0, &SingleRank).unwrap();
    let TaskState { model, .. } = task.state().unwrap();
    for (name, expect) in golden["after_one_training_pass"].as_object().unwrap() {
        for (found, expect) in model[name].as_slice::<f32>().iter().zip(numbers(expect)) {
            assert!((f64::from(*found) - expect).abs() < 1e-5, "{name}: {found} {expect}");
        }
    }
}

#[test]
fn resnet18_gives_the_logits_of_torchvision() {
    check_logits(Backbone::Resnet18);
}

#[test]
fn resnet50_gives_the_logits_of_torchvision() {
    check_logits(Backbone::Resnet50);
}

#[test]
fn mobilenetv2_gives_the_logits_of_torchvision() {
    check_logits(Backbone::Mobilenetv2);
}

/// Forward in training mode, backward, decay and momentum together: four steps of resnet18 as torch takes them.
#[test]
fn resnet18_trains_as_in_torch() {
    let (mut task, golden) = imported(Backbone::Resnet18, 0.01);
    for (step, expect) in numbers(&golden["losses"]).into_iter().enumerate() {
        let loss = task.train_step(&images(), 0.0005, &SingleRank).unwrap().loss();
        eprintln!("step {step}: loss {loss:.6}, torch {expect:.6}");
        assert!((loss - expect).abs() < 1e-3 * expect, "step {step}: {loss} {expect}");
    }
}
