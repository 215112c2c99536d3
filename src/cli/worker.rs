//! A command in two processes: the one that the user started, and a worker that does what must not be cut short.
//!
//! A terminal's Ctrl-C, or `kill -9`, hits the first; the worker hears of it through a pipe, leaves the process
//! that it has its hands on as it was, and ends.

use std::future::poll_fn;
use std::io::{self, BufRead as _, BufReader};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::sys::namespaces::own_session;

const ASKED: u8 = 1;
const ALONE: u8 = 2;

/// What the worker knows of the one that the user started.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes(Arc<AtomicU8>);

impl Wishes {
    /// Listens; to be called once, in the worker.
    pub(super) fn listen() -> Self {
        let wishes = Wishes::default();
        let told = wishes.clone();
        std::thread::spawn(move || {
            let mut line = String::new();
            let mut input = BufReader::new(io::stdin());
            while matches!(input.read_line(&mut line), Ok(1..)) {
                told.0.fetch_or(ASKED, Ordering::Relaxed);
            }
            told.0.fetch_or(ALONE, Ordering::Relaxed);
        });
        wishes
    }

    /// Whether the work is to end, for either reason.
    pub(super) fn end(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Whether the one that the user started is gone: nobody waits for a result.
    pub(super) fn alone(&self) -> bool {
        self.0.load(Ordering::Relaxed) & ALONE != 0
    }
}

/// What came of a worker.
#[derive(Debug)]
pub(super) struct Worked {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// The user wished it to end, at whatever moment.
    pub(super) to_end: bool,
}

/// A wish as the worker hears it, and as the user does.
pub(super) type Wish = (&'static str, &'static str);

/// Starts this program again with the same arguments as a worker (`variable` is set in its environment), passes the
/// user's signals on to it as wishes, and waits for it. `on_usr1`: where SIGUSR1 means something.
pub(super) fn supervise(variable: &str, to_end: Wish, on_usr1: Option<Wish>) -> anyhow::Result<Worked> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).env(variable, "1").stdin(Stdio::piped());
    // a session of its own: the terminal's Ctrl-C reaches us alone, and the scheduler takes its threads for a group
    own_session(&mut command);
    runtime.block_on(async {
        // before there is a worker: a wish that comes early must not end us alone
        let mut signals = Vec::new();
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            signals.push((signal(kind)?, to_end));
        }
        if let Some(wish) = on_usr1 {
            signals.push((signal(SignalKind::user_defined1())?, wish));
        }
        let mut worker = Command::from(command).spawn().context("starting the worker")?;
        let mut control = worker.stdin.take();
        let mut wished = false;
        let status = loop {
            tokio::select! {
                status = worker.wait() => break status?,
                (wish, say) = next(&mut signals) => {
                    super::tell(&format!("{say} …"));
                    wished |= wish == to_end.0;
                    if let Some(pipe) = &mut control {
                        // one that has ended meanwhile needs to hear nothing
                        let _ = pipe.write_all(format!("{wish}\n").as_bytes()).await;
                    }
                }
            }
        };
        // once more after its end: a signal that came meanwhile is not forgotten
        while let Ok((wish, _)) = tokio::time::timeout(Duration::from_millis(10), next(&mut signals)).await {
            wished |= wish == to_end.0;
        }
        Ok(Worked { status, to_end: wished })
    })
}

/// The wish that the next of the user's signals stands for.
async fn next(signals: &mut [(Signal, Wish)]) -> Wish {
    poll_fn(|context| {
        for (signal, wish) in signals.iter_mut() {
            if signal.poll_recv(context).is_ready() {
                return Poll::Ready(*wish);
            }
        }
        Poll::Pending
    })
    .await
}
