//! `feedline pack`: a folder of files as tar archives, for object storage and file systems that like large files.

use crate::Done;
use clap::Args as ClapArgs;
use feedline::Result;
use feedline::read::pack::{Packed, pack};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

#[derive(ClapArgs)]
pub struct Args {
    /// Folder of the data, e.g. with {train,test}/<class>/*.jpg
    dir: PathBuf,
    /// Folder to make, with {train,test}/000000.tar and so on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Bytes of files in one archive, at most
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    shard_bytes: u64,
    /// Archives that are written at the same time [default: one per core]
    #[arg(long, value_name = "N")]
    num_workers: Option<usize>,
}

pub fn run(args: Args) -> Result<Done> {
    let threads = args.num_workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("packing [{bar:24}] {pos}/{len} files {per_sec} eta {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    let packed = pack(&args.dir, &args.out, args.shard_bytes, threads, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let Packed { files, archives, bytes } = packed?;
    super::print(&format!(
        "{}: {files} files, {:.1} MB, in {archives} archives, each read back and compared\n",
        args.out.display(),
        bytes as f64 / 1e6
    ))?;
    Ok(Done::Ok)
}
