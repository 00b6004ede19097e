//! The yardsticks (`limit`, `bare`, `memcpy`) and the Rust rivals (`burn`, `dataloader-rs`) of the bench, and the line
//! to its S3 server (`proxy`).
//!
//! `bench-rust NAME --work A --data PATH --batch-size 64 --workers 2 --seconds 3 --epochs 50`
//! runs whole epochs and prints one JSON object, as the Python rivals do. Nothing here knows Feedline.

mod bare;
mod input;
mod loaders;
mod memcpy;
mod proxy;
mod report;

use std::error::Error;

/// The arguments from the harness.
pub struct Args {
    pub name: String,
    pub work: String,
    pub data: String,
    pub batch_size: usize,
    pub workers: usize,
    /// Warm epochs are added until they last this long.
    pub seconds: f64,
    /// At most this many epochs, the warm-up included.
    pub epochs: usize,
}

fn parse() -> Result<Args, Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let mut args = Args {
        name: words.next().ok_or("usage: bench-rust NAME --work A --data PATH")?,
        work: "A".into(),
        data: String::new(),
        batch_size: 64,
        workers: 2,
        seconds: 3.0,
        epochs: 50,
    };
    while let Some(key) = words.next() {
        let value = words.next().ok_or_else(|| format!("{key} wants a value"))?;
        match key.as_str() {
            "--work" => args.work = value,
            "--data" => args.data = value,
            "--batch-size" => args.batch_size = value.parse()?,
            "--workers" => args.workers = value.parse()?,
            "--seconds" => args.seconds = value.parse()?,
            "--epochs" => args.epochs = value.parse()?,
            _ => return Err(format!("unknown option {key}").into()),
        }
    }
    Ok(args)
}

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().nth(1).as_deref() == Some("proxy") {
        return proxy::run(std::env::args().skip(2));
    }
    let args = parse()?;
    let json = match args.name.as_str() {
        "limit-fast" => bare::limit(&args, true)?,
        "limit-accurate" => bare::limit(&args, false)?,
        "bare" => bare::bare(&args)?,
        "memcpy-map" => memcpy::run(&args, false)?,
        "memcpy-ram" => memcpy::run(&args, true)?,
        "burn" => loaders::burn(&args)?,
        "dataloader-rs" => loaders::dataloader_rs(&args)?,
        name => return Err(format!("no rival named {name}").into()),
    };
    println!("{json}");
    Ok(())
}
