//! A command in two processes: the one that the user started, and a worker that does what must not be cut short.
//!
//! A terminal's Ctrl-C, or `kill -9`, hits the first; the worker hears of it through a pipe, leaves the process
//! that it has its hands on as it was, and ends.

use std::future::poll_fn;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

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
    // before there is a worker: a wish that comes early must not end us alone
    let mut signals = runtime.block_on(async {
        let mut all = Vec::new();
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            all.push((signal(kind)?, to_end));
        }
        if let Some(wish) = on_usr1 {
            all.push((signal(SignalKind::user_defined1())?, wish));
        }
        Ok::<_, io::Error>(all)
    })?;
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).env(variable, "1").stdin(Stdio::piped());
    // a session of its own: the terminal's Ctrl-C reaches us alone, and the scheduler takes its threads for a group
    let mut worker = own_session(&mut command).spawn().context("starting the worker")?;
    let mut control = worker.stdin.take();
    let status = std::thread::spawn(move || worker.wait());
    let mut wished = false;
    runtime.block_on(async {
        loop {
            // once more after its end: a signal that came meanwhile is not forgotten
            let ended = status.is_finished();
            tokio::time::sleep(Duration::from_millis(10)).await;
            for (signal, (wish, say)) in &mut signals {
                let came = poll_fn(|context| Poll::Ready(signal.poll_recv(context).is_ready())).await;
                if let (true, Some(pipe)) = (came, &mut control) {
                    let _ = writeln!(pipe, "{wish}");
                    wished |= *wish == to_end.0;
                    if !ended {
                        super::tell(&format!("{say} …"));
                    }
                }
            }
            if ended {
                break;
            }
        }
    });
    let status = status.join().unwrap_or_else(|_| unreachable!("waiting does not panic"))?;
    Ok(Worked { status, to_end: wished })
}
