//! `ulpm trust`: this host's fingerprint, and the peers that are let in. Asks nothing, ever.

use clap::{Args, Subcommand};

use super::home::Home;
use super::{Exit, Failure, say};
use crate::transport::Fingerprint;
use crate::transport::trust::{Added, TrustError, TrustedPeer};

/// `ulpm trust …`
#[derive(Debug, Args)]
pub struct TrustArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print this host's fingerprint; other hosts need it to let this one in
    Show,
    /// Let a peer in; a running `ulpm serve` notices at once
    Add {
        /// What `ulpm trust show` prints on the other host
        fingerprint: Fingerprint,
        /// What to call it, one word
        #[arg(long, value_name = "HOST")]
        name: Option<String>,
    },
    /// Let a peer in no longer
    Remove {
        /// The peer's fingerprint, or its name as `ulpm trust list` prints it
        #[arg(value_name = "FINGERPRINT|NAME")]
        peer: String,
    },
    /// Print the peers that are let in, one `FINGERPRINT NAME` a line
    List,
}

/// Runs the subcommand.
pub fn run(args: &TrustArgs) -> Result<Exit, Failure> {
    let home = Home::open()?;
    match &args.verb {
        Verb::Show => say(&format!("{}\n", home.identity()?.fingerprint()))?,
        Verb::Add { fingerprint, name } => add(&home, *fingerprint, name.as_deref())?,
        Verb::Remove { peer } => {
            for peer in home.trust().remove(peer)? {
                tracing::info!("{} is trusted no longer", describe(&peer));
            }
        }
        Verb::List => {
            let lines = home.trust().list()?.iter().map(|peer| describe(peer) + "\n").collect::<String>();
            say(&lines)?;
        }
    }
    Ok(Exit::Done)
}

fn add(home: &Home, fingerprint: Fingerprint, name: Option<&str>) -> Result<(), Failure> {
    let added = home.trust().add(fingerprint, name).map_err(|error| match error {
        TrustError::BadName { .. } => Failure::usage(error),
        error => Failure::from(error),
    })?;
    match added {
        Added::New => tracing::info!("{fingerprint} is trusted now"),
        Added::Renamed => tracing::info!("{fingerprint} is trusted, under its new name"),
        Added::Already => tracing::info!("{fingerprint} was trusted already"),
    }
    Ok(())
}

/// A peer as the file has it.
fn describe(peer: &TrustedPeer) -> String {
    match &peer.name {
        Some(name) => format!("{} {name}", peer.fingerprint),
        None => peer.fingerprint.to_string(),
    }
}
