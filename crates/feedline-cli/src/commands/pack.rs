//! `feedline pack`: a folder or a list of files as tar archives, for object storage and file systems that like large files.

use crate::exit::Done;
use clap::Args as ClapArgs;
use feedline::read::pack::{PackOptions, Packed, pack, pack_list};
use feedline::read::{Folder, ImageList, Storage, is_in_archive, read_classes};
use feedline::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

#[derive(ClapArgs)]
pub struct Args {
    /// Folder of the data, e.g. with {train,test}/<class>/*.jpg; or archives with labelled pictures, e.g.
    /// 'birds-{00..12}.parquet'; or with --classes a list of lines `class;path`. May be a URL
    data: PathBuf,
    /// Folder to make, with {train,test}/000000.tar and so on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The data is a list, and this the file with one class name a line: pictures and labels as WebDataset has them
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Bytes of files in one archive, at most
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    shard_bytes: u64,
    /// Archives that are written at the same time [default: one per core]
    #[arg(long, value_name = "N")]
    num_workers: Option<usize>,
    /// Any setting, e.g. --set storage.endpoint=http://127.0.0.1:9000
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

pub fn run(args: &Args, storage: &Storage) -> Result<Done> {
    let threads = args.num_workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("packing [{bar:24}] {pos}/{len} files {per_sec} eta {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    let progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let options = PackOptions { shard_bytes: args.shard_bytes, threads, progress: &progress };
    let packed = match &args.classes {
        Some(file) => {
            let classes = read_classes(file, storage)?;
            let list = ImageList::from_list(&args.data, "packed", &classes, storage)?;
            pack_list(&list, &args.out, options)
        }
        None if is_in_archive(&args.data) => {
            let folder = Folder::open(&args.data, storage)?;
            if !folder.is_labelled() {
                return Err(Error::config(
                    format!("{} is an archive, and says no labels", args.data.display()),
                    "It needs no packing: name it as the data",
                ));
            }
            pack_list(&ImageList::from_folder(folder, "packed", None)?, &args.out, options)
        }
        None if args.data.is_file() => Err(Error::config(
            format!("{} is a file, so a list", args.data.display()),
            "Give the names of its classes too: --classes FILE; or name a folder",
        )),
        None => pack(&args.data, storage, &args.out, options),
    };
    bar.finish_and_clear();
    let Packed { files, archives, bytes } = packed?;
    super::print(&format!(
        "{}: {files} files, {:.1} MB, in {archives} archives, each read back and compared\n",
        args.out.display(),
        bytes as f64 / 1e6
    ))?;
    Ok(Done::Ok)
}
