//! A command in two processes: the one that the user started, and a worker that does what must not be cut short.
//!
//! A terminal's Ctrl-C, or `kill -9`, hits the first; the worker hears of it through a pipe, leaves the process
//! that it has its hands on as it was, and ends.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

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

/// Starts this program again with the same arguments as a worker (`variable` is set in its environment), passes the
/// user's signals on to it as a wish to end, and waits for it.
pub(super) fn supervise(variable: &str, on_signal: &str) -> anyhow::Result<ExitStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async {
        Ok::<_, io::Error>((
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ))
    })?;
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).env(variable, "1").stdin(Stdio::piped());
    // a process group of its own: the terminal's Ctrl-C reaches us alone
    command.process_group(0);
    let mut worker = command.spawn().context("starting the worker")?;
    let mut control = worker.stdin.take();
    let status = std::thread::spawn(move || worker.wait());
    runtime.block_on(async {
        while !status.is_finished() {
            tokio::select! {
                _ = signals.0.recv() => {}
                _ = signals.1.recv() => {}
                _ = signals.2.recv() => {}
                () = tokio::time::sleep(Duration::from_millis(10)) => continue,
            }
            if let Some(pipe) = &mut control {
                let _ = pipe.write_all(b"end\n");
                let _ = writeln!(io::stderr(), "ulpm: {on_signal}");
            }
        }
    });
    let status = status.join().unwrap_or_else(|_| unreachable!("waiting does not panic"))?;
    Ok(status)
}
