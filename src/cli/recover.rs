//! `ulpm recover`: settles migrations whose outcome a crash or a cut left open.

use clap::Args;

use super::home::Home;
use super::progress::Display;
use super::{Exit, Failure, say};
use crate::precopy::settle::recover;
use crate::sys::chain;

/// Arguments of `ulpm recover`.
#[derive(Debug, Args)]
#[command(
    after_help = "Run it where `ulpm live` ran. The target's journal decides: the copy here is ended if the process runs there,
and goes on if it does not. If the process there still needs memory of the copy here (a lazy move), it gets that first, however
long that takes; ending `ulpm recover` meanwhile does no harm. A migration whose target cannot be reached stays open (exit code 5): try again later."
)]
pub struct RecoverArgs {
    /// Settle this migration only (`ulpm live` named it)
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

/// Asks the target of every open migration; exit code 5 if one stays open.
pub fn run(args: &RecoverArgs) -> Result<Exit, Failure> {
    let home = Home::open()?;
    let display = Display::new();
    let settled = recover(home.path(), args.id.as_deref(), &|progress| display.show(&progress))?;
    if settled.is_empty() {
        if let Some(id) = &args.id {
            return Err(Failure::from(anyhow::anyhow!(
                "no migration {id} is open on this host; nothing was done"
            )));
        }
        say("nothing is open\n")?;
    }
    let mut exit = Exit::Done;
    for one in settled {
        let outcome = match (one.outcome, one.pid) {
            (Ok(text), _) => text,
            (Err(e), pid) => {
                exit = Exit::Open;
                let stays = pid.map(|pid| format!(", process {pid} stays as it is")).unwrap_or_default();
                format!("still open{stays}: {}", chain(&e))
            }
        };
        say(&format!("{}: {outcome}\n", one.id))?;
    }
    Ok(exit)
}
