//! The optimisers against torch's.

use super::{formula_f32, golden, numbers};
use crate::classification::Backbone;
use crate::classification::network::model::Model;
use crate::network::optimizer::Optimizer;
use crate::network::parameters::Spec;
use feedline::train::schedule::OptimizerKind;

/// Against the formulas in f64, with a momentum that changes: torch's AdamW(betas=(momentum, 0.99)).
#[test]
fn steps_of_one_cycle_are_those_of_decoupled_adam() {
    let mut specs: Vec<Spec> = Model::new(Backbone::Small, 4, 0).store.specs;
    specs.retain(|spec| ["classifier.weight", "classifier.bias"].contains(&&*spec.name));
    specs.iter_mut().enumerate().for_each(|(at, spec)| spec.range = 4 * at..4 * at + 4);
    let mut optimizer = Optimizer::adam_onecycle(0.1, 8);
    let mut parameters: Vec<f32> = specs.iter().flat_map(|spec| formula_f32(&spec.name, 4)).collect();
    let mut expect: Vec<[f64; 3]> = parameters.iter().map(|value| [f64::from(*value), 0.0, 0.0]).collect();
    for step in 1..=6 {
        let (momentum, rate) = (0.95 - 0.02 * f64::from(step), 0.01 * f64::from(step));
        let gradient = formula_f32(&format!("gradient {step}"), 8);
        optimizer.set_momentum(momentum);
        optimizer.step(&specs, &mut parameters, &gradient, rate, false);
        for ([value, first, second], gradient) in expect.iter_mut().zip(&gradient) {
            let gradient = f64::from(*gradient);
            *value *= 1.0 - rate * 0.1;
            *first = momentum * *first + (1.0 - momentum) * gradient;
            *second = 0.99 * *second + 0.01 * gradient * gradient;
            let corrected = *first / (1.0 - momentum.powi(step));
            *value -= rate * corrected / ((*second / (1.0 - 0.99_f64.powi(step))).sqrt() + 1e-8);
        }
    }
    for (found, [expect, ..]) in parameters.iter().zip(&expect) {
        assert!((f64::from(*found) - expect).abs() < 1e-6, "{found} {expect}");
    }
}

/// Three tensors of four values (testdata/torchvision/make.py), the first without a gradient in the first two
/// steps, the last without decay, a learning rate that changes.
#[test]
fn steps_are_those_of_torch() {
    let mut specs: Vec<Spec> = Model::new(Backbone::Small, 4, 0).store.specs;
    specs.retain(|spec| ["features.0.0.weight", "classifier.weight", "classifier.bias"].contains(&&*spec.name));
    specs.iter_mut().enumerate().for_each(|(at, spec)| spec.range = 4 * at..4 * at + 4);
    for kind in [OptimizerKind::Sgd, OptimizerKind::Adam] {
        let mut optimizer = Optimizer::new(kind, 0.9, 0.01, 12);
        let mut parameters: Vec<f32> = specs.iter().flat_map(|spec| formula_f32(&spec.name, 4)).collect();
        for step in 0..5 {
            let gradient: Vec<f32> =
                specs.iter().flat_map(|spec| formula_f32(&format!("{}/{step}", spec.name), 4)).collect();
            optimizer.step(&specs, &mut parameters, &gradient, 0.1 / f64::from(step + 1), step < 2);
        }
        let golden = &golden("optimisers.json")[if kind == OptimizerKind::Sgd { "sgd" } else { "adam" }];
        for (spec, found) in specs.iter().zip(parameters.chunks(4)) {
            for (found, expect) in found.iter().zip(numbers(&golden[&spec.name])) {
                assert!((f64::from(*found) - expect).abs() < 1e-6, "{kind:?} {}: {found} {expect}", spec.name);
            }
        }
    }
}
