//! The binary `feedline`: flags in, library calls, words and exit codes out. No logic of its own.
//!
//! Exit codes: 0 done; 1 anything not listed; 2 wrong flags or settings; 3 the data set as a whole is unusable; 4 a
//! sample is; 5 a file or folder could not be read or written; 6 a checkpoint is damaged or does not fit; 7 not
//! supported here; 8 training failed; 9 the ranks cannot go on together; 10 `verify` found no proof; 130, 143 and 138 interrupted by Ctrl-C, SIGTERM and SIGUSR1, with a checkpoint saved.

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
    6 damaged or unfitting checkpoint, 7 not supported, 8 training failed, 9 ranks cannot go on together, 10 not proved (verify), 130/143/138 interrupted with a checkpoint saved, 1 anything else."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train an image classifier; without --data on a demo data set made on the spot
    Train(commands::train::Args),
    /// Run a command, such as train, on several ranks
    Launch(commands::launch::Args),
    /// Evaluate a checkpoint: top-1, top-5, per-class figures, confusion matrix
    Eval(commands::eval::Args),
    /// Measure the data pipeline without a model, and say what limits it
    Bench(commands::bench::Args),
    /// Write a picture of one augmented batch, without training
    Show(commands::show::Args),
    /// Show which sample goes to which rank in which epoch
    Plan(commands::plan::Args),
    /// Check a run's ledger: was every sample of every epoch delivered exactly once, over all ranks and restarts?
    Verify(commands::verify::Args),
    /// Write the demo data set
    DemoData(commands::demo_data::Args),
}

/// How a command ended well.
pub enum Done {
    Ok,
    /// By a signal, after saving a checkpoint.
    Interrupted(i32),
    /// With the exit code of another process, which has said why.
    Code(i32),
    /// `verify` did its work and found that not everything was delivered as planned.
    NotProved,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Train(args) => commands::train::run(args),
        Command::Launch(args) => commands::launch::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Show(args) => commands::show::run(args),
        Command::Plan(args) => commands::plan::run(args),
        Command::Verify(args) => commands::verify::run(args),
        Command::DemoData(args) => commands::demo_data::run(args),
    };
    match done {
        Ok(Done::Ok) => ExitCode::SUCCESS,
        Ok(Done::NotProved) => ExitCode::from(10),
        Ok(Done::Interrupted(signal)) => ExitCode::from(128 + signal as u8),
        Ok(Done::Code(code)) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The exit code that an error ends the process with.
pub fn exit_code(error: &Error) -> u8 {
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
