//! Burn fed by Feedline: a step of Burn's own optimiser and modules over Burn's own `DataLoader`.
//!
//!     cargo run --release -p feedline-recipes --example 8_burn_loader

use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::relu};
use feedline::deliver::{Loader, LoaderOptions};
use feedline::plan::Plan;
use feedline_recipes::burn_loader::BurnLoader;
use feedline_recipes::classification::data;
use feedline_recipes::classification::demo::{DEMO_CLASSES, DemoOptions, write_demo_data};
use feedline_recipes::settings::SettingsBuilder;
use std::path::Path;
use std::sync::Arc;

#[derive(Module, Debug)]
struct Perceptron {
    hidden: Linear,
    output: Linear,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = "demo-data/classification";
    write_demo_data(Path::new(dir), &DemoOptions::default(), |_, _| {})?;
    let config = SettingsBuilder::defaults().set("data.dir", dir)?.set("model.input_px", 24)?.resolve()?;
    let (train, _) = data::open(&config)?;
    let options = LoaderOptions { batch_size: 50, ..LoaderOptions::default() };
    let loader = Loader::new(train, Plan::new(2000, 1)?, options)?;

    let device = Device::flex().autodiff();
    let batches: Arc<dyn DataLoader<(Tensor<2>, Tensor<1, Int>)>> =
        Arc::new(BurnLoader::new(loader, device.clone(), |batch, device| {
            let (images, labels) = (batch.stacked("image")?, batch.stacked("label")?);
            let images = TensorData::new(images.as_slice::<f32>().to_vec(), [batch.len(), 3 * 24 * 24]);
            Ok((Tensor::from_data(images, device), Tensor::from_data(labels.as_slice::<i64>(), device)))
        }));

    let (hidden, output) = (LinearConfig::new(3 * 24 * 24, 64), LinearConfig::new(64, DEMO_CLASSES.len()));
    let mut model = Perceptron { hidden: hidden.init(&device), output: output.init(&device) };
    let (mut adam, entropy) = (AdamConfig::new().init(), CrossEntropyLossConfig::new().init(&device));
    for epoch in 1..=5 {
        let (mut pass, mut losses) = (batches.iter(), Vec::new());
        while let Some((images, labels)) = pass.next().transpose()? {
            let logits = model.output.forward(relu(model.hidden.forward(images)));
            let loss = entropy.forward(logits, labels);
            losses.push(loss.clone().into_scalar::<f32>());
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = adam.step(1e-3, model, gradients);
        }
        let mean = losses.iter().sum::<f32>() / losses.len() as f32;
        println!("epoch {epoch}: mean loss {mean:.3} over {:?}", pass.progress());
    }
    Ok(())
}
