//! The command line of Feedline: flags in, library calls, words and exit codes out. No logic of its own. The binary
//! `feedline` and `python -m feedline` are both [`run`]; without the feature `train` there are the commands that need no
//! network.
//!
//! Exit codes: 0 done; 1 anything not listed; 2 wrong flags or settings; 3 the data set as a whole is unusable; 4 a
//! sample is; 5 a file or folder could not be read or written; 6 a checkpoint is damaged or does not fit; 7 not
//! supported here; 8 training failed; 9 the ranks cannot go on together; 10 `verify` found no proof; 130, 143 and 138 interrupted by Ctrl-C, SIGTERM and SIGUSR1, with a checkpoint saved.

mod commands;
mod exit;
#[cfg(feature = "train")]
mod progress;
mod recipes;

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};
use exit::{Done, exit_code};
use recipes::Entry;
pub use recipes::Recipes;
use std::ffi::OsString;

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
    /// Train an image classifier, or a network for scenes; without --data on a demo data set made on the spot
    #[cfg(feature = "train")]
    Train(commands::train::Args),
    /// Run a command, such as train, on several ranks
    #[cfg(feature = "train")]
    Launch(commands::launch::Args),
    /// Evaluate a checkpoint: top-1, top-5, per-class figures, confusion matrix; of scenes SSC mIoU and SC IoU
    #[cfg(feature = "train")]
    Eval(commands::eval::Args),
    /// Write a trained network as one file that PyTorch, ONNX Runtime or Feedline use without the run
    #[cfg(feature = "train")]
    Export(commands::export::Args),
    /// Say what a trained network makes of pictures: files, folders, lists, URLs
    #[cfg(feature = "train")]
    Predict(commands::predict::Args),
    /// Compare runs: their figures, the settings that differ, and with --out a picture of their curves
    #[cfg(feature = "train")]
    Compare(commands::compare::Args),
    /// Write a page about a run: curves, confusion matrix, worst mistakes, a batch, the proof, settings
    #[cfg(feature = "train")]
    Report(commands::report::Args),
    /// Measure the data pipeline without a model, and say what limits it
    Bench(commands::bench::Args),
    /// Write a picture of one batch as it is trained on, without training
    Show(commands::show::Args),
    /// Show which sample goes to which rank in which epoch
    Plan(commands::plan::Args),
    /// Check a run's ledger: was every sample of every epoch delivered exactly once, over all ranks and restarts?
    Verify(commands::verify::Args),
    /// List a bucket and index the archives in it, or show what was kept of that
    Index(commands::index::Args),
    /// Pack a folder into tar archives that are read without unpacking
    Pack(commands::pack::Args),
    /// Prepare point clouds: info files, and the database of objects
    Lidar(commands::lidar::Args),
    /// Write the demo data set
    DemoData(commands::demo_data::Args),
}

/// Runs the command line `words`, of which the first is the program's own name, and returns its exit code.
pub fn run(words: impl IntoIterator<Item = OsString>) -> u8 {
    run_with(words, &Recipes::every())
}

/// Does what [`run`] does, with the recipes of another program.
pub fn run_with(words: impl IntoIterator<Item = OsString>, recipes: &Recipes) -> u8 {
    let command = match parse(words, recipes) {
        Ok(cli) => cli.command,
        Err(answer) => {
            // Help is an answer, too. Nothing is left to do where it cannot be written.
            let _ = answer.print();
            return u8::try_from(answer.exit_code()).unwrap_or(2);
        }
    };
    let done = match command {
        #[cfg(feature = "train")]
        Command::Train(args) => recipes.train(&args),
        #[cfg(feature = "train")]
        Command::Launch(args) => commands::launch::run(args),
        #[cfg(feature = "train")]
        Command::Eval(args) => recipes.eval(&args),
        #[cfg(feature = "train")]
        Command::Export(args) => commands::export::run(&args),
        #[cfg(feature = "train")]
        Command::Predict(args) => commands::predict::run(&args),
        #[cfg(feature = "train")]
        Command::Compare(args) => recipes.compare(&args),
        #[cfg(feature = "train")]
        Command::Report(args) => recipes.report(&args),
        #[cfg(feature = "train")]
        Command::Bench(args) if args.all_reduce => commands::all_reduce::run(args.seconds),
        Command::Bench(args) => recipes.of_data(&args.data).and_then(|recipe| (recipe.bench)(&args)),
        Command::Show(args) => recipes.of_data(&args.data).and_then(|recipe| (recipe.show)(&args)),
        Command::Plan(args) => commands::plan::run(args),
        Command::Verify(args) => commands::verify::run(args),
        Command::Index(args) => {
            recipes.storage(args.config.as_deref(), &args.set).and_then(|storage| commands::index::run(&args, &storage))
        }
        Command::Pack(args) => {
            recipes.storage(None, &args.set).and_then(|storage| commands::pack::run(&args, &storage))
        }
        Command::Lidar(args) => commands::lidar::run(args),
        Command::DemoData(args) => recipes.flagged(&args.recipe).and_then(|recipe| (recipe.demo_data)(&args)),
    };
    match done {
        Ok(Done::Ok) => 0,
        #[cfg(feature = "train")]
        Ok(Done::BadSamples) => 4,
        Ok(Done::NotProved) => 10,
        #[cfg(feature = "train")]
        Ok(Done::Interrupted(signal)) => 128 + signal as u8,
        #[cfg(feature = "train")]
        Ok(Done::Code(code)) => u8::try_from(code).unwrap_or(1),
        Err(error) => {
            feedline::say!("error: {error}");
            exit_code(&error)
        }
    }
}

/// Reads the command line; the values of `recipe` are the names of `recipes`. The help of a command has the flags of the
/// recipe that the line names, with its defaults.
fn parse(words: impl IntoIterator<Item = OsString>, recipes: &Recipes) -> Result<Cli, clap::Error> {
    let words: Vec<OsString> = words.into_iter().collect();
    let recipe = recipes.of_words(&words);
    let mut command = Cli::command();
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, |mut command| {
            if !command.get_arguments().any(|arg| arg.get_id() == "recipe") {
                return command;
            }
            command = command.mut_arg("recipe", |arg| arg.value_parser(recipes.values()));
            if command.get_arguments().any(|arg| arg.get_id() == "data") {
                command = command.mut_args(|arg| with_default(arg, &recipe)).after_help(format!(
                    "These are the flags of the recipe {}. Those of another: --recipe NAME --help",
                    recipe.name
                ));
            }
            command
        });
    }
    Cli::from_arg_matches(&command.try_get_matches_from(words)?)
}

/// The flag as the recipe has it: with the default in its help, or hidden.
fn with_default(arg: Arg, recipe: &Entry) -> Arg {
    let flag = arg.get_long().map(|long| format!("--{long}")).unwrap_or_default();
    let Some((_, key)) = commands::KEYS.iter().find(|(name, _)| *name == flag) else { return arg };
    let Some(default) = (recipe.default_of)(key) else { return arg.hide(true) };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let default = default.trim_matches('"');
    if help.contains("[default: ") || ["", "false"].contains(&default) {
        return arg;
    }
    arg.help(format!("{help} [default: {default}]"))
}
