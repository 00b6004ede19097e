//! The binary `feedline`: flags in, library calls, words and exit codes out. No logic of its own.
//!
//! Exit codes: 0 done; 1 anything not listed; 2 wrong flags or settings; 3 the data set as a whole is unusable; 4 a
//! sample is; 5 a file or folder could not be read or written; 6 a checkpoint is damaged or does not fit; 7 not
//! supported here; 8 training failed; 9 the ranks cannot go on together; 130 and 143 interrupted by Ctrl-C and SIGTERM, with a checkpoint saved.

mod commands;
mod progress;

use clap::{Parser, Subcommand};
use feedline::Error;
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "feedline",
    version,
    about = "Feeds distributed training: plan, read, decode, augment, collate, deliver, train"
)]
#[command(
    after_help = "Exit codes: 0 done, 2 wrong flags or settings, 3 unusable data set, 4 bad sample, 5 file error, \
    6 damaged or unfitting checkpoint, 7 not supported, 8 training failed, 9 ranks cannot go on together, 130/143 interrupted with a checkpoint saved, 1 anything else."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train an image classifier; without --data on a demo data set made on the spot
    Train(commands::train::Args),
    /// Evaluate a checkpoint: top-1, top-5, per-class figures, confusion matrix
    Eval(commands::eval::Args),
    /// Measure the data pipeline without a model, and say what limits it
    Bench(commands::bench::Args),
    /// Write a picture of one augmented batch, without training
    Show(commands::show::Args),
    /// Show which sample goes to which rank in which epoch
    Plan(commands::plan::Args),
    /// Write the demo data set
    DemoData(commands::demo_data::Args),
}

/// How a command ended well.
pub enum Done {
    Ok,
    /// By a signal, after saving a checkpoint.
    Interrupted(i32),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Train(args) => commands::train::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Show(args) => commands::show::run(args),
        Command::Plan(args) => commands::plan::run(args),
        Command::DemoData(args) => commands::demo_data::run(args),
    };
    match done {
        Ok(Done::Ok) => ExitCode::SUCCESS,
        Ok(Done::Interrupted(signal)) => ExitCode::from(128 + signal as u8),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Config { .. } => 2,
        Error::Dataset { .. } | Error::SplitTooSmall { .. } => 3,
        Error::Sample { .. } | Error::TooManyBadSamples { .. } => 4,
        Error::Io { .. } => 5,
        Error::Resume { .. } | Error::Checkpoint { .. } => 6,
        Error::Unsupported { .. } => 7,
        Error::Train { .. } => 8,
        Error::Group { .. } => 9,
        _ => 1,
    }
}
