//! A sleeper in a session of its own, to which nothing here belongs: how long others are kept from running.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ulpm::sys::namespaces::own_session;

/// What it asks for each time.
const NAP: Duration = Duration::from_millis(1);

/// Silences by when they ended.
type Silences = Arc<Mutex<Vec<(Instant, Duration)>>>;

/// One that is at it, in a process of its own. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Sleeper {
    process: Child,
    listener: Option<JoinHandle<()>>,
    silences: Silences,
}

impl Sleeper {
    /// Starts this program again with the argument `--sleeper`, where it calls [`sleep`].
    pub(crate) fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--sleeper").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = own_session(&mut command).spawn().context("start a sleeper")?;
        let silences = Silences::default();
        let (output, heard) = (process.stdout.take(), silences.clone());
        let listener = std::thread::spawn(move || {
            for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()) {
                let Ok(Ok(micros)) = line.map(|line| line.parse()) else { return };
                let silence = (Instant::now(), Duration::from_micros(micros));
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(silence);
            }
        });
        Ok(Sleeper { process, listener: Some(listener), silences })
    }

    /// The longest silence between two moments, in milliseconds; one that ended within 50 ms after them is theirs.
    pub(crate) fn longest(&self, from: Instant, to: Instant) -> f64 {
        let silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner);
        let within =
            silences.iter().filter(|(end, _)| *end >= from && *end <= to + Duration::from_millis(50));
        within.map(|(_, silence)| silence.as_secs_f64() * 1e3).fold(0.0, f64::max)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// Sleeps for a millisecond over and over, and prints each silence in microseconds as soon as it has ended.
pub(crate) fn sleep() {
    let mut output = std::io::stdout().lock();
    let mut last = Instant::now();
    loop {
        std::thread::sleep(NAP);
        let now = Instant::now();
        if writeln!(output, "{}", (now - last).as_micros()).and_then(|()| output.flush()).is_err() {
            return;
        }
        last = now;
    }
}
