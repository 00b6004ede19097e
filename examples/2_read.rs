//! Stage 2, read: the list of files, in an order that is the same on every machine, and their bytes.
//!
//!     cargo run --release -p feedline-recipes --example 2_read [-- DIR]
//!
//! DIR holds {train,test}/<class>/*.{jpg,jpeg,png}; without it the demo data set is drawn.

use feedline::read::{ImageList, read_file_into};
use feedline_recipes::classification::demo::{DemoOptions, write_demo_data};
use std::path::PathBuf;
use std::time::Instant;

fn main() -> feedline::Result<()> {
    let dir = match std::env::args_os().nth(1) {
        Some(dir) => PathBuf::from(dir),
        None => {
            let dir = PathBuf::from("demo-data/classification");
            write_demo_data(&dir, &DemoOptions::default(), |_, _| {})?;
            dir
        }
    };
    let list = ImageList::train(dir.as_path())?;
    println!("{}: {} files, fingerprint {:016x}", dir.display(), list.entries.len(), list.fingerprint());

    // One buffer for all files: after the largest one nothing is allocated any more.
    let mut bytes = Vec::new();
    let mut per_class = vec![(0_u64, 0_u64); list.classes.len()];
    let began = Instant::now();
    for entry in &list.entries {
        read_file_into(&entry.path, &mut bytes).map_err(|e| feedline::Error::io("read", &entry.path, e))?;
        let (files, total_bytes) = &mut per_class[entry.class as usize];
        *files += 1;
        *total_bytes += bytes.len() as u64;
    }
    let (seconds, total_bytes) = (began.elapsed().as_secs_f64(), per_class.iter().map(|(_, bytes)| bytes).sum::<u64>());
    for (label, (name, (files, bytes))) in list.classes.iter().zip(&per_class).enumerate() {
        println!(
            "  label {label}: {name:<12} {files:>6} files, {:>8.1} KB on average",
            *bytes as f64 / 1e3 / *files as f64
        );
    }
    println!(
        "read at {:.0} MB/s (from the page cache, if the files were just written)",
        total_bytes as f64 / 1e6 / seconds
    );

    // Errors say what is wrong and how to fix it.
    if let Err(error) = ImageList::train(dir.join("train/circle").as_path()) {
        println!("\nA wrong folder: {error}");
    }
    Ok(())
}
