//! `ulpm trust`: this host's fingerprint, and the peers that are let in. Asks nothing, ever.

use clap::{Args, Subcommand};

use super::home::Home;
use super::{Exit, Failure, say};
use crate::transport::permit::{Permit, PermitError};
use crate::transport::trust::{Added, TrustError};
use crate::transport::{Fingerprint, Identity};

/// `ulpm trust …`
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print this host's fingerprint; other hosts need it to let this one in
    Show,
    /// Let a peer in, or change how far it may go; a running `ulpm serve` notices at once
    Add(Box<AddArgs>),
    /// Let a peer in no longer
    Remove {
        /// The peer's fingerprint, or its name as `ulpm trust list` prints it
        #[arg(value_name = "FINGERPRINT|NAME")]
        peer: String,
    },
    /// Let a peer in no longer, and never again by mistake: its line stays and says so
    Revoke {
        /// The peer's fingerprint, or its name as `ulpm trust list` prints it
        #[arg(value_name = "FINGERPRINT|NAME")]
        peer: String,
    },
    /// Print the peers that are let in, one `FINGERPRINT NAME LIMITS` a line
    List,
    /// Give this host a new key in two steps, so that its peers can learn of it in between
    Rotate {
        /// The second step: take the new key into use
        #[arg(long)]
        now: bool,
    },
}

/// What a peer may do. Limits that are not named stay as they are; those of a new peer are none, but that its processes
/// may not run as root.
#[derive(Debug, Args)]
struct AddArgs {
    /// What `ulpm trust show` prints on the other host
    fingerprint: Fingerprint,
    /// What to call it, one word
    #[arg(long, value_name = "HOST")]
    name: Option<String>,
    /// As whom its processes may run: names and numbers (redis,1000-1999), `ordinary` (all but root), `any`
    #[arg(long, value_name = "USERS")]
    users: Option<String>,
    /// Its processes of user FROM (a number there, 1000 or 1000-1999) run here as TO (a name or number here), with TO's groups;
    /// --users and files are about TO. May be repeated; takes the place of all that were said before
    #[arg(long = "map-user", value_name = "FROM=TO")]
    map_users: Vec<String>,
    /// How many of its processes may be here at once
    #[arg(long, value_name = "N")]
    max_processes: Option<String>,
    /// Most memory that a process may bring along (8G)
    #[arg(long, value_name = "SIZE")]
    max_memory: Option<String>,
    /// Most that a process may have mapped, then and later (RLIMIT_AS)
    #[arg(long, value_name = "SIZE")]
    max_address_space: Option<String>,
    /// Most CPU time that a process may use from its arrival on, then it is killed (90s, 10m, 2h; RLIMIT_CPU); each
    /// child that it starts may use as much
    #[arg(long, value_name = "TIME")]
    cpu_time: Option<String>,
    /// Directories in which all files of its processes must lie (/srv:/usr:/lib)
    #[arg(long, value_name = "DIRS")]
    paths: Option<String>,
    /// No new pid namespaces for its processes
    #[arg(long)]
    no_namespaces: bool,
    /// Last day of trust, UTC (2027-01-31)
    #[arg(long, value_name = "DAY")]
    expires: Option<String>,
    /// Only receive processes from it, never send it one
    #[arg(long, conflicts_with = "send_only")]
    receive_only: bool,
    /// Only send processes to it, never receive one
    #[arg(long)]
    send_only: bool,
    /// Forget all limits that it has before setting these
    #[arg(long)]
    anew: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: &TrustArgs) -> Result<Exit, Failure> {
    let home = Home::open()?;
    match &args.verb {
        Verb::Show => say(&format!("{}\n", home.identity()?.fingerprint()))?,
        Verb::Add(args) => add(&home, args)?,
        Verb::Remove { peer } => {
            for peer in home.trust().remove(peer)? {
                tracing::info!("{peer} is trusted no longer");
            }
        }
        Verb::Revoke { peer } => {
            for peer in home.trust().revoke(peer)? {
                tracing::info!("{peer}");
            }
        }
        Verb::List => {
            let lines = home.trust().list()?.iter().map(|peer| format!("{peer}\n")).collect::<String>();
            say(&lines)?;
        }
        Verb::Rotate { now } => rotate(&home, *now)?,
    }
    Ok(Exit::Done)
}

impl AddArgs {
    /// The words of the line that they stand for.
    fn words(&self) -> Vec<String> {
        let map_users = (!self.map_users.is_empty()).then(|| self.map_users.join(","));
        let valued = [
            ("users", &self.users),
            ("map-users", &map_users),
            ("processes", &self.max_processes),
            ("memory", &self.max_memory),
            ("address-space", &self.max_address_space),
            ("cpu-time", &self.cpu_time),
            ("paths", &self.paths),
            ("expires", &self.expires),
        ];
        let flags = [
            (self.no_namespaces, "namespaces=no"),
            (self.receive_only, "direction=receive"),
            (self.send_only, "direction=send"),
        ];
        let valued =
            valued.iter().filter_map(|(key, value)| value.as_ref().map(|value| format!("{key}={value}")));
        valued.chain(flags.iter().filter(|(set, _)| *set).map(|(_, word)| (*word).to_owned())).collect()
    }

    fn permit(&self, known: Option<Permit>) -> Result<Permit, PermitError> {
        let mut permit = known.filter(|_| !self.anew).unwrap_or_else(Permit::ordinary);
        for word in self.words() {
            permit.take(&word)?;
        }
        Ok(permit)
    }
}

fn add(home: &Home, args: &AddArgs) -> Result<(), Failure> {
    let fingerprint = args.fingerprint;
    let added = home
        .trust()
        .add_with(fingerprint, args.name.as_deref(), |known| args.permit(known))
        .map_err(|error| match error {
            TrustError::BadName { .. } | TrustError::Limits(_) => Failure::usage(error),
            error => Failure::from(error),
        })?;
    match added {
        Added::New => tracing::info!("{fingerprint} is trusted now"),
        Added::Renamed => tracing::info!("{fingerprint} is trusted, under its new name and limits"),
        Added::Already => tracing::info!("{fingerprint} was trusted already"),
    }
    if added == Added::New && args.users.is_none() {
        tracing::info!("its processes may not run as root here; --users any allows it");
    }
    Ok(())
}

fn rotate(home: &Home, now: bool) -> Result<(), Failure> {
    let before = home.identity()?.fingerprint();
    if !now {
        let next = Identity::prepare_next(home.path())?.fingerprint();
        tracing::info!(
            "this host is {before} until `ulpm trust rotate --now`; before that, on every peer: ulpm trust add {next}"
        );
        return Ok(say(&format!("{next}\n"))?);
    }
    let Some(next) = Identity::take_next(home.path())? else {
        return Err(Failure::usage(anyhow::anyhow!("no new key was prepared: `ulpm trust rotate` first")));
    };
    tracing::info!(
        "restart `ulpm serve` here; when all peers have been reached once, there: ulpm trust revoke {before}"
    );
    Ok(say(&format!("{}\n", next.fingerprint()))?)
}
