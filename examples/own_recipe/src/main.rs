//! A recipe of one's own beside Feedline's: a regression on pictures, each with a number in a CSV file of `name,value`.
//! The command line is Feedline's, with one recipe more.
//!
//!     cargo run --release -p own_recipe -- train --recipe regression

mod config;
mod data;
mod demo;
mod network;
mod picture;
mod recipe;

#[cfg(test)]
mod tests;

use feedline_cli::{Recipes, run_with};
use std::process::ExitCode;

fn main() -> ExitCode {
    let recipes = Recipes::every().with::<recipe::Regression>();
    ExitCode::from(run_with(std::env::args_os(), &recipes))
}
