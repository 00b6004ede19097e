//! The binary `feedline`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(feedline_cli::run(std::env::args_os()))
}
