//! Signs of life while the session's own thread is at work. The network is driven by that thread, whenever it waits for something:
//! no message waits for another thread to wake up. But what it does in between (reading 40,000 mappings on a busy host) may take
//! longer than the other side listens to nothing at all. So another thread looks four times a second, and drives the network
//! for a moment where the session's has not for long.
//!
//! The freeze knows none of it: it is over, or waiting for an answer, before [`AWAY`] has gone by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

/// How often it is looked.
const TICK: Duration = Duration::from_millis(250);
/// How long the session's thread may do something else.
const AWAY: Duration = Duration::from_millis(750);
/// How long the network is driven then: timers that are due, packets that have come.
const MOMENT: Duration = Duration::from_millis(2);
/// The session's thread drives the network itself.
const INSIDE: u64 = u64::MAX;

/// The network of one session: its thread's, and ours when that is away.
#[derive(Debug)]
pub(super) struct Pulse {
    runtime: Arc<Runtime>,
    begun: Instant,
    /// Milliseconds after `begun` when the session's thread last let go of the network, or [`INSIDE`].
    let_go: Arc<AtomicU64>,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// Watches over a runtime that the calling thread drives.
    pub(super) fn of(runtime: Runtime) -> std::io::Result<Self> {
        let (runtime, begun) = (Arc::new(runtime), Instant::now());
        let let_go = Arc::new(AtomicU64::new(0));
        let (end, ends) = channel();
        let (driven, seen) = (runtime.clone(), let_go.clone());
        let thread = std::thread::Builder::new().name("signs of life".to_owned()).spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = ends.recv_timeout(TICK) {
                let since = seen.load(Ordering::Relaxed);
                if since != INSIDE && begun.elapsed() >= Duration::from_millis(since) + AWAY {
                    driven.block_on(async { tokio::time::sleep(MOMENT).await });
                }
            }
        })?;
        Ok(Pulse { runtime, begun, let_go, end: Some(end), thread: Some(thread) })
    }

    /// Drives the network until this is done.
    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.let_go.store(INSIDE, Ordering::Relaxed);
        let done = self.runtime.block_on(work);
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(INSIDE - 1);
        self.let_go.store(now, Ordering::Relaxed);
        done
    }

    /// For what is to go on beside.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// Ends it without waiting for anything: a name lookup that hangs must not hold us.
    pub(super) fn shut_down(mut self) {
        self.rest();
        let runtime = self.runtime.clone();
        drop(self);
        if let Some(runtime) = Arc::into_inner(runtime) {
            runtime.shutdown_background();
        }
    }

    fn rest(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It fails, however long it takes, where nobody drives the network meanwhile.
    #[test]
    fn what_goes_on_beside_does_so_while_nobody_waits() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let pulse = Pulse::of(runtime).unwrap();
        let ticks = Arc::new(AtomicU64::new(0));
        let counted = ticks.clone();
        pulse.spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        pulse.block_on(async { tokio::task::yield_now().await });
        let begun = Instant::now();
        // at work, without a wait for the network
        while ticks.load(Ordering::Relaxed) < 4 {
            assert!(begun.elapsed() < Duration::from_secs(60), "nobody drives it");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(pulse.block_on(async { 7 }), 7);
        pulse.shut_down();
    }
}
