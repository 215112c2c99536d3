//! `ulpm serve`: receives processes.
//!
//! Every migration has an OS thread of its own; this one lets peers in and waits for the end.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::abilities::{self, Needed};
use super::home::Home;
use super::{Exit, Failure, tell};
use crate::restore::arrivals::LOG;
use crate::restore::guests::Guests;
use crate::restore::late_signals::Taken;
use crate::restore::quarters::{self, Place};
use crate::restore::session::{self, Server};
use crate::restore::urgency;
use crate::sys::kernel::Kernel;
use crate::transport::{DEFAULT_PORT, Listener};

/// Arguments of `ulpm serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Needs root, or CAP_CHECKPOINT_RESTORE and CAP_SYS_PTRACE. Lets in the hosts of `ulpm trust list` only. Says on
stderr, and by sd_notify, when it is ready. Processes that have arrived live on when it ends."
)]
pub(crate) struct ServeArgs {
    /// Where to listen (UDP); `[::]` takes IPv4 and IPv6
    #[arg(long, value_name = "ADDR:PORT", default_value_t = SocketAddr::from(([0u16; 8], DEFAULT_PORT)))]
    listen: SocketAddr,
    /// Give each arriving process a scope of its own in this slice of systemd, apart from this service
    #[arg(long, value_name = "NAME.slice", value_parser = quarters::slice)]
    slice: Option<String>,
    /// Give each arriving process a control group of its own (PATH/ulpm-ID) below this directory, apart from this service
    #[arg(long, value_name = "PATH", conflicts_with = "slice")]
    cgroup: Option<PathBuf>,
}

impl ServeArgs {
    fn place(&self) -> Result<Place, Failure> {
        Ok(match (&self.slice, &self.cgroup) {
            (Some(slice), _) => Place::Slice(slice.clone()),
            (None, Some(path)) => {
                let path = std::path::absolute(path).context("--cgroup")?;
                quarters::usable(&path).with_context(|| format!("--cgroup {}", path.display()))?;
                Place::Below(path)
            }
            (None, None) => Place::Here,
        })
    }
}

/// Runs until SIGINT or SIGTERM.
pub(crate) fn run(args: &ServeArgs) -> Result<Exit, Failure> {
    let place = args.place()?;
    place.sweep();
    let home = Home::open()?;
    let identity = home.identity()?;
    let journal = home.subdirectory("journal")?;
    for own in crate::restore::settle::own_side(&journal, None)? {
        tell(&format!("migration {}: {}", own.id, own.text));
    }
    for ability in
        abilities::here(Kernel::here()).iter().filter(|a| a.needed_to == Needed::Receive && !a.there)
    {
        tracing::warn!("this host cannot {}: {}", ability.name, ability.why);
    }
    crate::restore::lazy::adopt::sweep(home.path());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(urgency::enlist)
        .enable_all()
        .build()?;
    let server = Server {
        handle: runtime.handle().clone(),
        home: home.path().to_owned(),
        journal,
        trust: home.trust(),
        guests: Guests::load(home.path()),
        taken: Taken::default(),
        place,
    };
    runtime.block_on(async {
        let mut listener = Listener::bind(&identity, home.trust(), args.listen)?;
        let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
        if let Some(own) = server.place.shared() {
            let what = "what arrives will live in the control group of this ulpm serve";
            tracing::info!(target: LOG, "{what} ({own}): see --slice and --cgroup");
        }
        tell(&format!("ready, listening on {}", listener.local_addr()));
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        loop {
            tokio::select! {
                peer = listener.accept() => match peer {
                    Some(Ok(accepted)) => receive(&server, accepted),
                    Some(Err(_)) => {}
                    None => break,
                },
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
            }
        }
        listener.close("ulpm serve ends").await;
        Ok::<_, Failure>(())
    })?;
    // unfinished processes die with us (PTRACE_O_EXITKILL), finished ones live on
    runtime.shutdown_background();
    Ok(Exit::Done)
}

fn receive(server: &Server, accepted: crate::transport::Accepted) {
    let server = server.clone();
    let connection = accepted.connection.clone();
    let spawned = std::thread::Builder::new().name("migration".to_owned()).spawn(move || {
        // what went wrong has been logged and told to the source
        let _ = session::run(&server, accepted);
    });
    let session = match spawned {
        Ok(session) => session,
        Err(e) => return tracing::error!(error = %e, "no thread for a migration"),
    };
    // our endpoint gives signs of life whatever becomes of a session: a source whose process is frozen must hear at
    // once that nobody is at work for it any more
    let watched = std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
        let _close = CloseOnDrop(connection);
        session.join()
    });
    if let Err(e) = watched {
        tracing::warn!(error = %e, "no thread to watch over a migration");
    }
}

/// However its thread ends.
struct CloseOnDrop(quinn::Connection);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(1u32.into(), b"the session has ended");
    }
}
