//! Slowing a process down while its memory goes ahead: it is stopped for a part of the time, in short pieces.
//!
//! Each stop is that of a freeze that is given up: every thread comes to rest, runs on as if nothing had been, and
//! keeps the ends of its waits. Nothing is set that would outlive us (a control group's quota would): if we end in any
//! way, the kernel lets the threads go. The stops are at most `PERIOD` long, so that what the process's users see
//! is a slower process and not a silent one.
//!
//! Only one thread may trace: whoever else wants to stop the process meanwhile holds the lock on [`Waits`].

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::PreloadError;
use super::capture::Poised;
use crate::state::waits;

/// One stop and the run that follows.
const PERIOD: Duration = Duration::from_millis(20);

/// The waits that our stops interrupted, and the right to stop the process.
#[derive(Clone, Debug)]
pub struct Waits(Arc<Mutex<waits::Memory>>);

impl Waits {
    /// From what is known of earlier stops.
    pub fn new(memory: waits::Memory) -> Self {
        Waits(Arc::new(Mutex::new(memory)))
    }

    /// Waits until nobody else has the process stopped.
    pub fn lock(&self) -> MutexGuard<'_, waits::Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that is slowed down. Dropping it ends that, and returns when the process runs freely.
#[derive(Debug)]
pub struct Throttle {
    percent: Option<Sender<u8>>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    /// Begins with a process that runs all the time.
    pub fn start(pid: i32, waits: Waits) -> Result<Self, PreloadError> {
        let (percent, orders) = channel();
        let thread = std::thread::Builder::new()
            .name("throttle".to_owned())
            .spawn(move || run(pid, &waits, &orders))
            .map_err(|source| PreloadError::Throttle { pid, source })?;
        Ok(Throttle { percent: Some(percent), thread: Some(thread) })
    }

    /// For how many percent of the time it is stopped from now on.
    pub fn set(&self, percent: u8) {
        if let Some(orders) = &self.percent {
            // an ended thread has nothing to slow down any more
            let _ = orders.send(percent.min(95));
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.percent = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(pid: i32, waits: &Waits, orders: &Receiver<u8>) {
    let mut percent = 0;
    loop {
        let begun = Instant::now();
        if percent > 0
            && let Err(e) = stop_for(pid, waits, PERIOD * u32::from(percent) / 100)
        {
            // it has ended, or another tracer came: whoever sends its memory will hear of it, too
            tracing::info!(pid, error = %e, "not slowed down");
        }
        let stopped = begun.elapsed();
        // stopping takes time of its own, of which the process has its share, too
        let rest = match percent {
            0 => PERIOD,
            _ => stopped * u32::from(100 - percent) / u32::from(percent),
        };
        match orders.recv_timeout(rest) {
            Ok(new) => percent = new,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn stop_for(pid: i32, waits: &Waits, how_long: Duration) -> Result<(), PreloadError> {
    let mut memory = waits.lock();
    let captive = Poised::prepare(pid, None)?.freeze()?;
    std::thread::sleep(how_long);
    captive.resume(&mut memory);
    Ok(())
}
