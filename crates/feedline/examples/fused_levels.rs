//! By how many levels of 255 the pixels of `data.decode = "fused"` differ from those of `"whole"`, over the JPEGs of a folder:
//!
//! ```text
//! cargo run --release -p feedline --example fused_levels -- FOLDER [FOLDER ..]
//! ```
//!
//! Every picture is cropped as in training and as in evaluation, to several sizes, by both, and every byte of the two
//! results is compared. The table has a row for each reduction at which pictures were decoded.

use feedline::augment::{Filter, ImageOp};
use feedline::decode::{Limits, header};
use feedline::deliver::SampleContext;
use feedline::pipeline::{DecodeMode, FusedDecode};
use feedline::plan::Request;
use std::path::PathBuf;
use std::process::ExitCode;

/// How often each difference was met.
#[derive(Clone)]
struct Levels {
    pictures: u64,
    counts: [u64; 256],
}

impl Levels {
    /// The mean, the level that 99.9 % of the bytes do not exceed, and the largest.
    fn summary(&self) -> (f64, usize, usize) {
        let all: u64 = self.counts.iter().sum();
        let sum: u64 = (0..).zip(&self.counts).map(|(level, count)| level * count).sum();
        let mut seen = 0;
        let most = self.counts.iter().position(|count| {
            seen += count;
            seen as f64 >= 0.999 * all as f64
        });
        let largest = self.counts.iter().rposition(|count| *count > 0);
        (sum as f64 / all as f64, most.unwrap_or_default(), largest.unwrap_or_default())
    }
}

fn run(folders: Vec<PathBuf>) -> Result<(), String> {
    let mut files = Vec::new();
    let mut open = folders;
    while let Some(folder) = open.pop() {
        let wrong = |e: std::io::Error| format!("{}: {e}", folder.display());
        for entry in std::fs::read_dir(&folder).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            match path.extension().and_then(|end| end.to_str()) {
                _ if path.is_dir() => open.push(path),
                Some("jpg" | "jpeg" | "JPG") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    let filter = Filter::Bilinear;
    let ops = [224, 112, 64, 32].map(|side| {
        let size_px = [side; 2];
        let train = ImageOp::RandomResizedCrop { size_px, scale: [0.08, 1.0], ratio: [0.75, 4.0 / 3.0], filter };
        [train, ImageOp::ResizeCenterCrop { shorter_px: side * 8 / 7, size_px, filter }]
    });
    let mut levels = vec![Levels { pictures: 0, counts: [0; 256] }; 4];
    let mut refused = 0;
    for (index, path) in (0..).zip(&files) {
        let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let request = Request { seed: 0, epoch: 0, pass: 0, position: 0, index, padded: false };
        for op in ops.as_flattened() {
            let picture = |mode| {
                let path = FusedDecode::new(vec![op.clone()], Limits::default(), mode);
                path.run(&request, &bytes, &mut SampleContext::default(), |picture, _| picture.to_image())
            };
            let (Ok(header), Ok(fused), Ok(whole)) =
                (header(&bytes), picture(DecodeMode::Fused), picture(DecodeMode::Whole))
            else {
                refused += 1;
                continue;
            };
            let view = op.view(header.width_px, header.height_px, &mut request.rng(&op.stream(0)));
            let shrink = view.map_or(1, |view| view.shrink(header.max_shrink));
            let levels = &mut levels[shrink.ilog2() as usize];
            levels.pictures += 1;
            for (a, b) in fused.pixels.iter().zip(&whole.pixels) {
                levels.counts[usize::from(a.abs_diff(*b))] += 1;
            }
        }
    }
    println!("{} JPEGs, each in 8 views; {refused} views of damaged ones left out", files.len());
    println!("| decoded at | views | mean | 99.9 % | maximum |\n|---|---|---|---|---|");
    for (log, levels) in levels.iter().enumerate().filter(|(_, levels)| levels.pictures > 0) {
        let (mean, most, largest) = levels.summary();
        println!("| 1/{} | {} | {mean:.2} | {most} | {largest} |", 1 << log, levels.pictures);
    }
    Ok(())
}

fn main() -> ExitCode {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let result = if folders.is_empty() { Err("name a folder of JPEGs".to_owned()) } else { run(folders) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
