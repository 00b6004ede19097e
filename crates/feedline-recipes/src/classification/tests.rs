//! Tests of the recipe's training side, and what they share: the formula of testdata/torchvision/make.py, batches and
//! options.

mod checkpoints;
mod delivery;
mod import;
mod optimizers;
mod torchvision;
mod training;

use super::{Backbone, DeviceKind, OptimizerKind, Precision, TaskOptions};
use feedline::plan::rng::SampleRng;
use feedline::{Array, Batch, BatchField};
use std::path::PathBuf;

/// value(name, i) of make.py for i in 0..count, each in [-1, 1).
pub(super) fn formula(name: &str, count: usize) -> Vec<f64> {
    let start = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
    (1..=count as u64)
        .map(|i| {
            let mut z = start.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (z >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

pub(super) fn formula_f32(name: &str, count: usize) -> Vec<f32> {
    formula(name, count).into_iter().map(|v| v as f32).collect()
}

pub(super) fn golden(file: &str) -> serde_json::Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/torchvision").join(file);
    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()
}

pub(super) fn numbers(value: &serde_json::Value) -> Vec<f64> {
    match value {
        serde_json::Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn options(backbone: Backbone) -> TaskOptions {
    TaskOptions {
        backbone,
        num_classes: 5,
        optimizer: OptimizerKind::Sgd,
        momentum: 0.9,
        weight_decay: 5e-4,
        precision: Precision::F32,
        device: DeviceKind::Cpu,
        seed: 11,
        sync_bn: false,
        loss: Default::default(),
        step: Default::default(),
    }
}

fn batch_of(images: &[f32], labels: &[i64], px: usize) -> Batch {
    let count = labels.len();
    Batch {
        epoch: 0,
        step: 0,
        next_position: count as u64,
        indices: (0..count as u64).collect(),
        valid: count,
        fields: vec![
            ("image".into(), BatchField::Stack(Array::from_slice(vec![count, 3, px, px], images))),
            ("label".into(), BatchField::Stack(Array::from_slice(vec![count], labels))),
        ],
        replaced: vec![],
    }
}

/// Eight noisy pictures whose brightness in one fifth of the rows tells their class.
fn toy_batch(step: u64) -> Batch {
    let px = 32;
    let mut rng = SampleRng::new(5, 0, step, "toy");
    let labels: Vec<i64> = (0..8).map(|_| rng.below(5) as i64).collect();
    let mut images = Vec::new();
    for &label in &labels {
        for at in 0..3 * px * px {
            let stripe = (at / px % px * 5 / px) as i64;
            images.push((rng.normal() * 0.5) as f32 + f32::from(u8::from(stripe == label)) * 2.0);
        }
    }
    Batch { step, indices: (step * 8..step * 8 + 8).collect(), ..batch_of(&images, &labels, px) }
}
