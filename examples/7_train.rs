//! Stage 7, train: an image classifier from settings to a run folder, stopped in the middle and resumed, then used.
//!
//!     cargo run --release -p feedline-recipes --example 7_train [-- EPOCHS]

use feedline::Result;
use feedline::event::{Event, Sink};
use feedline::pipeline::Pipeline;
use feedline::train::group::SingleRank;
use feedline_recipes::classification::demo::{DemoOptions, write_demo_data};
use feedline_recipes::classification::export;
use feedline_recipes::classification::predict::Predictor;
use feedline_recipes::classification::train::Run;
use feedline_recipes::settings::SettingsBuilder;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Prints epochs and counts steps.
#[derive(Default)]
struct Printer(AtomicU64);

impl Sink for Printer {
    fn emit(&self, event: &Event) -> Result<()> {
        match event {
            Event::Step { .. } => drop(self.0.fetch_add(1, Ordering::Relaxed)),
            Event::EpochEnd(end) => println!(
                "epoch {}: train loss {:.3}, val loss {:.3}, val accuracy {:.1} %, {:.0} images/s, waited {:.1} % for data",
                end.epoch,
                end.train_loss,
                end.val_loss,
                100.0 * end.val_metrics[0],
                end.images_per_second,
                100.0 * end.data_wait_share
            ),
            _ => {}
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let epochs = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(4);
    let data = "demo-data/classification";
    write_demo_data(Path::new(data), &DemoOptions::default(), |_, _| {})?;
    let builder =
        SettingsBuilder::defaults().set("data.dir", data)?.set("model.input_px", 32)?.set("train.epochs", epochs)?;
    let config = builder.resolve()?;
    let dir = std::env::temp_dir().join(format!("feedline-7_train-{}", std::process::id()));

    // Stopped as by a signal, half an epoch in.
    let printer = Arc::new(Printer::default());
    let mut run = Run::create(config, &dir, Arc::new(SingleRank))?;
    run.train(printer.clone(), &|| printer.0.load(Ordering::Relaxed) >= 30)?;
    println!("stopped after {} steps; going on from the checkpoint", run.progress().step);
    drop(run); // one run at a time may hold its folder
    // The rest of the run equals an uninterrupted one, bit for bit.
    if let Some(summary) = Run::resume(&dir, Ok, false, Arc::new(SingleRank))?.train(printer, &|| false)? {
        println!("best val accuracy {:.1} %; run folder {}", 100.0 * summary.best_val_accuracy, dir.display());
    }

    // The best checkpoint at work. `export::read("NAME.safetensors")` gives facts and weights of an exported network.
    let best = export::open(&dir, "7_train")?;
    let pictures = [PathBuf::from("demo-data/classification/test/ring")];
    let config = best.settings.clone().resolve()?;
    let predictor = Predictor::new(config, &best.facts, best.weights()?, &pictures)?;
    let mut rings = 0;
    predictor.run(
        1,
        &mut |prediction| {
            let (class, _probability) = prediction.best();
            rings += u64::from(predictor.classes()[class as usize] == "ring");
            Ok(())
        },
        &mut |bad| eprintln!("{bad}"),
    )?;
    println!("{rings} of {} rings are taken for rings", predictor.data().len());
    Ok(())
}
