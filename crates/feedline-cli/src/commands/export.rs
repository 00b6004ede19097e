//! `feedline export`: a trained network as one file for use elsewhere.

use crate::exit::Done;
use clap::Args as ClapArgs;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use feedline::{Error, Result};
use feedline_recipes::classification::export::{ExportFormat, Opened, export, open};
use std::path::{Path, PathBuf};

#[derive(ClapArgs)]
pub struct Args {
    /// A run folder for its best checkpoint, or a checkpoint, e.g. runs/NAME/checkpoints/last
    checkpoint: PathBuf,
    /// safetensors, torch or onnx [default: what the name of --out says, or safetensors]
    #[arg(long, value_parser = formats())]
    format: Option<ExportFormat>,
    /// The file to write [default: export/RUN-CHECKPOINT.{safetensors,pt,onnx} in the run folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file if it is there with other content
    #[arg(long)]
    overwrite: bool,
}

/// The values of the flag `--format`.
fn formats() -> impl TypedValueParser<Value = ExportFormat> {
    PossibleValuesParser::new(ExportFormat::ALL.map(|(_, name, _)| name)).try_map(|asked| {
        let found = ExportFormat::ALL.into_iter().find(|(_, name, _)| *name == asked);
        found.map(|(format, ..)| format).ok_or("there is no such format")
    })
}

pub fn run(args: &Args) -> Result<Done> {
    let said = args.out.as_deref().and_then(ExportFormat::of_file);
    let format = args.format.or(said).unwrap_or(ExportFormat::Safetensors);
    let extensions = format.extensions();
    if let Some(out) = args.out.as_deref().filter(|_| said != Some(format)) {
        return Err(Error::config(
            format!("--out {}: the name of such a file ends in .{}", out.display(), extensions.join(" or .")),
            "Name it so, or say another --format: files are told apart by the ends of their names",
        ));
    }
    let opened = open(&args.checkpoint, "export")?;
    tell_best(&args.checkpoint, &opened);
    let out = args.out.clone().unwrap_or_else(|| {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = format!("{}-{}.{}", name(&opened.run), name(&opened.checkpoint), extensions[0]);
        opened.run.join("export").join(name)
    });
    let bytes = export(&opened.facts, &opened.weights()?, format)?;
    let is_other = || std::fs::read(&out).map_or(true, |found| found != bytes);
    if out.exists() && !args.overwrite && is_other() {
        return Err(Error::config(
            format!("{} is there already, with other content", out.display()),
            "Add --overwrite to replace it, or name another file with --out",
        ));
    }
    super::write(&out, &bytes)?;
    let (backbone, px) = (opened.facts.backbone.name(), opened.facts.input_px);
    feedline::say!(
        "{backbone}, {} classes, input {px}x{px} px, {:.1} MB",
        opened.facts.classes.len(),
        bytes.len() as f64 / 1e6
    );
    super::print(&format!("{}\n", out.display()))?;
    Ok(Done::Ok)
}

/// Says which checkpoint is taken where a run folder is named.
pub fn tell_best(named: &Path, opened: &Opened) {
    if named.canonicalize().is_ok_and(|named| named == opened.run) {
        let name = opened.checkpoint.file_name().unwrap_or_default();
        feedline::say!("note         of the run the best checkpoint is taken, {}", name.display());
    }
}
