//! `ulpm recover`: settles migrations whose outcome a crash or a cut left open.

use clap::Args;

use super::home::Home;
use super::{Exit, Failure, say};
use crate::precopy::settle::recover;
use crate::restore::session::chain;

/// Arguments of `ulpm recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Settle this migration only
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

/// Asks the target of every open migration; exit code 5 if one stays open.
pub fn run(args: &RecoverArgs) -> Result<Exit, Failure> {
    let home = Home::open()?;
    let settled = recover(home.path(), args.id.as_deref())?;
    if settled.is_empty() {
        say("nothing is open\n")?;
    }
    let mut exit = Exit::Done;
    for one in settled {
        match one.outcome {
            Ok(text) => say(&format!("{}: {text}\n", one.id))?,
            Err(e) => {
                exit = Exit::Open;
                say(&format!("{}: still open, process {} stays as it is: {}\n", one.id, one.pid, chain(&e)))?;
            }
        }
    }
    Ok(exit)
}
