//! `feedline index`: the listing of a bucket and the indexes of archives, which are made once and kept.

use crate::exit::Done;
use clap::Args as ClapArgs;
use feedline::read::{Folder, Object, Storage, archive, check_url, is_in_archive, is_url, local_archives};
use feedline::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(ClapArgs)]
pub struct Args {
    /// The folder of a bucket, as it is named for training: s3://BUCKET/FOLDER; or a folder of this machine with archives,
    /// or archives: then an index is written beside each
    data: PathBuf,
    /// Forget the listing that was kept, and list anew
    #[arg(long)]
    refresh: bool,
    /// Settings that differ from the defaults, as for `feedline train`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Any setting, e.g. --set storage.endpoint=http://127.0.0.1:9000
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

pub fn run(args: &Args, storage: &Storage) -> Result<Done> {
    let path = storage.resolve(&args.data);
    let Some(url) = path.to_str().filter(|_| is_url(&path)) else { return beside(&path, storage) };
    check_url(url)?;
    if is_in_archive(&path) {
        let bar = ProgressBar::new_spinner().with_message(format!("indexing {url}"));
        bar.enable_steady_tick(Duration::from_millis(100));
        let files = Folder::open(&path, storage)?.files();
        bar.finish_and_clear();
        super::print(&format!("{url}: {files} files\n"))?;
        return Ok(Done::Ok);
    }
    let source = storage.open(url)?;
    let kept = storage.listing_path(&*source);
    let (is_old, since) = (kept.exists() && !args.refresh, Instant::now());
    let bar = ProgressBar::new_spinner().with_message(format!("listing {}", source.location("")));
    bar.enable_steady_tick(Duration::from_millis(100));
    let listing = storage.listing(&*source, args.refresh)?;
    bar.finish_and_clear();
    listing.words().iter().for_each(|words| feedline::say!("feedline: {words}"));
    let objects = listing.objects;
    if objects.is_empty() {
        let problem = "there is no object";
        return Err(Error::dataset(source.location(""), problem, "Check bucket and folder; upload the data first"));
    }
    let bytes: u64 = objects.iter().map(|object| object.size_bytes).sum();
    let how = if is_old {
        "kept, not looked at again".into()
    } else {
        format!("listed in {:.1} s", since.elapsed().as_secs_f64())
    };
    let is_archive = archive::finder(&objects);
    let archives: Vec<&Object> = objects.iter().filter(|object| is_archive(&object.key)).collect();
    let bar = bar_of(archives.len());
    let indexes = archive::indexes(&*source, &archives, &objects, storage, &|done| bar.set_position(done as u64));
    bar.finish_and_clear();
    let inside: usize = indexes?.iter().map(|index| index.members.len()).sum();
    let what =
        if archives.is_empty() { String::new() } else { format!(" ({} archives with {inside} files)", archives.len()) };
    super::print(&format!(
        "{}: {} objects{what}, {:.1} MB, {how}\n{}\n",
        source.location(""),
        objects.len(),
        bytes as f64 / 1e6,
        kept.display()
    ))?;
    Ok(Done::Ok)
}

fn bar_of(archives: usize) -> ProgressBar {
    let bar = ProgressBar::new(archives as u64);
    if let Ok(style) = ProgressStyle::with_template("indexing [{bar:24}] {pos}/{len} archives eta {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Writes an index beside each archive of a folder, or beside those that are named.
fn beside(path: &Path, storage: &Storage) -> Result<Done> {
    let named = local_archives(path);
    let (folder, names) = named.as_ref().map_or((path, None), |(folder, names)| (&**folder, Some(&**names)));
    let bar = bar_of(0);
    let written = archive::index_beside(folder, names, storage, &|done, archives| {
        bar.set_length(archives as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let (archives, files, remarks) = written?;
    remarks.iter().for_each(|remark| feedline::say!("feedline: {remark}"));
    super::print(&format!("{}: {archives} archives with {files} files, an index beside each\n", path.display()))?;
    Ok(Done::Ok)
}
