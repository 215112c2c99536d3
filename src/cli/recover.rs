//! `ulpm recover`: settles migrations whose outcome a crash or a cut left open, on either side.

use clap::Args;

use super::home::Home;
use super::progress::Display;
use super::{Exit, Failure, Verbosity, say};
use crate::handover::journal::Journal;
use crate::image::shown;
use crate::precopy::MigrateError;
use crate::precopy::settle::{self, recover};
use crate::restore::settle as target;
use crate::sys::chain;

/// Arguments of `ulpm recover`.
#[derive(Debug, Args)]
#[command(
    after_help = "Run it where `ulpm live` ran. The target's journal decides: the copy here is ended if the process runs there,
and goes on if it does not. If the process there still needs memory of the copy here (a lazy move), it gets that first, however
long that takes; ending `ulpm recover` meanwhile does no harm. A migration whose target cannot be reached stays open (exit code 5): try again later.
A process that waits for that stands still: do not let it go on by hand (kill -CONT). One that was to end when its checkpoint was whole, and was
let go on, is not ended without your word (exit code 5).
Where `ulpm serve` runs it says how the processes that came, or did not, stand.

--force-source and --force-target are for a host that will never answer again, or went down with the process. They take
your word: with the wrong one, two copies run, or none. They want the migration's id, in full."
)]
pub(crate) struct RecoverArgs {
    /// Settle this migration only (`ulpm live` named it)
    #[arg(long, value_name = "ID", conflicts_with_all = ["force_source", "force_target"])]
    id: Option<String>,
    /// The copy at the source is the one: it goes on, whatever the target has
    #[arg(long, value_name = "ID", conflicts_with = "force_target")]
    force_source: Option<String>,
    /// The copy at the target is the one: the copy at the source is ended
    #[arg(long, value_name = "ID")]
    force_target: Option<String>,
}

/// Asks the target of every open migration; exit code 5 if one stays open, else 6 if one is lost.
pub(crate) fn run(args: &RecoverArgs) -> Result<Exit, Failure> {
    let home = Home::open()?;
    match (&args.force_source, &args.force_target) {
        (Some(id), _) => return force(&home, id, true),
        (_, Some(id)) => return force(&home, id, false),
        _ => {}
    }
    let display = Display::new(Verbosity::default());
    let settled = recover(home.path(), args.id.as_deref(), &|progress| display.show(&progress))?;
    let own = target::own_side(&target::directory(home.path()), args.id.as_deref())?;
    if settled.is_empty() && own.is_empty() {
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
            (Err(e @ MigrateError::CopyLost(_)), _) => {
                exit = if exit == Exit::Done { Exit::Lost } else { exit };
                format!("lost: {}", chain(&e))
            }
            (Err(e), pid) => {
                exit = Exit::Open;
                let stays = pid.map(|pid| format!(", process {pid} stays as it is")).unwrap_or_default();
                format!("still open{stays}: {}", chain(&e))
            }
        };
        say(&format!("{}: {}\n", one.id, shown(&outcome)))?;
    }
    for one in own {
        exit = if one.open { Exit::Open } else { exit };
        say(&format!("{}: {}\n", one.id, shown(&one.text)))?;
    }
    Ok(exit)
}

/// Carries the user's word out, on whichever side this host is of it.
fn force(home: &Home, id: &str, source: bool) -> Result<Exit, Failure> {
    let dirs = [(home.path().join("journal"), true), (target::directory(home.path()), false)];
    let known = dirs.iter().any(|(dir, ours)| !matches!(Journal::open(dir, id, *ours), Ok(None)));
    if !known {
        return Err(unknown(id));
    }
    tracing::warn!(
        "taking your word for migration {id}: the copy at the {} is the one",
        if source { "source" } else { "target" }
    );
    let as_source = settle::force(home.path(), id, source)?;
    let said = match as_source {
        Some(said) => Some(said),
        None => target::force(&target::directory(home.path()), id, !source)?,
    };
    let said = said.ok_or_else(|| unknown(id))?;
    say(&format!("{id}: {said}\n"))?;
    Ok(Exit::Done)
}

fn unknown(id: &str) -> Failure {
    Failure::from(anyhow::anyhow!(
        "no migration {id} is open on this host (the id must be typed in full); nothing was done"
    ))
}
