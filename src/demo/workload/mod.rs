//! The self-checking workload: an ordinary multi-threaded program that keeps every kind of state
//! busy, verifies itself all the time, and measures the longest silence it sees.
//!
//! It is run as `ulpm __workload --mem 256M --dirty-rate 1000 --threads 4 --dir DIR` and knows
//! nothing of being moved. It talks through files in DIR alone:
//!
//! | file | meaning |
//! |---|---|
//! | `status.json` | a [`Status`], replaced by rename every 50 ms |
//! | `reset-gap` | made by others: forget the gaps so far; removed when done |
//! | `stop` | made by others: check every page, write the last status with `passed`, exit |
//!
//! - `board.rs`: what the threads tell each other, and [`Status`].
//! - `memory.rs`: pages whose content follows from their index and version.
//! - `gap.rs`: the clock watcher.
//! - `files.rs`, `pipes.rs`, `timers.rs`: the other kinds of state kept busy.
//! - `options.rs`: its command line.

mod board;
mod files;
mod gap;
mod memory;
mod options;
mod pipes;
mod timers;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::exit;
use std::thread;
use std::time::{Duration, Instant};

pub use board::{Gap, Status};
pub use options::{Options, OptionsError};

use board::Board;
use gap::ClockCheck;

/// The file in the workload's directory that holds its [`Status`].
pub const STATUS_FILE: &str = "status.json";
/// Making this file makes the workload forget its gaps.
pub const RESET_FILE: &str = "reset-gap";
/// Making this file ends the workload.
pub const STOP_FILE: &str = "stop";

const CONTROL_EVERY: Duration = Duration::from_millis(10);
const STATUS_EVERY: Duration = Duration::from_millis(50);
/// Clocks that were carried over may be off by the error of the offset measurement, not by more.
const CLOCK_TOLERANCE_MS: f64 = 50.0;

/// Runs the workload with the arguments after `__workload` and exits: 0 if everything was right,
/// 1 if its own check failed, 2 if the arguments make no sense.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ! {
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("ulpm __workload: {error}");
            exit(2);
        }
    };
    match run(&options) {
        Ok(true) => exit(0),
        Ok(false) => exit(1),
        Err(error) => {
            eprintln!("ulpm __workload: {}: {error}", options.dir.display());
            exit(1);
        }
    }
}

/// Runs until told to stop; says whether everything was right.
fn run(options: &Options) -> io::Result<bool> {
    fs::create_dir_all(&options.dir)?;
    let mut memory = memory::Memory::map(options)?;
    let board = Board::new(options);
    let last = thread::scope(|scope| {
        let last = start(scope, &board, &mut memory, options).and_then(|()| control(&board, &options.dir));
        board.stop();
        last
    });
    finish(&board, last?, &options.dir)
}

fn start<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    board: &'scope Board,
    memory: &'scope mut memory::Memory,
    options: &'scope Options,
) -> io::Result<()> {
    for shard in memory.shards(options) {
        spawn(scope, "memory", move || shard.keep_writing(board))?;
    }
    spawn(scope, "gap", || gap::watch(board))?;
    spawn(scope, "files", || files::keep_busy(board, &options.dir))?;
    spawn(scope, "timers", || timers::keep_busy(board))?;
    for member in pipes::ring()? {
        spawn(scope, "pipes", move || member.keep_passing(board))?;
    }
    Ok(())
}

fn spawn<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    body: impl FnOnce() + Send + 'scope,
) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn_scoped(scope, body).map(drop)
}

/// Publishes the status and follows the commands until `stop`; the status as it was then.
fn control(board: &Board, dir: &Path) -> io::Result<Status> {
    let mut clocks = ClockCheck::start();
    let mut rate = RateMeter::default();
    let mut sequence = 0;
    let mut published = Instant::now();
    loop {
        thread::sleep(CONTROL_EVERY);
        let stop = dir.join(STOP_FILE).exists();
        if dir.join(RESET_FILE).exists() {
            board.reset_gaps();
            clocks = ClockCheck::start();
            fs::remove_file(dir.join(RESET_FILE))?;
        } else if published.elapsed() < STATUS_EVERY && !stop {
            continue;
        }
        published = Instant::now();
        sequence += 1;
        let mut status = board.status();
        status.sequence = sequence;
        status.dirty_pages_per_s = rate.measured(status.pages_written);
        // Adding zero makes a negative zero positive.
        status.clock_shift_ms = (clocks.shift_ms() * 1000.0).round() / 1000.0 + 0.0;
        status.monotonic_consistent =
            status.clock_backwards == 0 && status.clock_shift_ms.abs() < CLOCK_TOLERANCE_MS;
        if stop {
            return Ok(status);
        }
        publish(&status, dir)?;
    }
}

/// After all threads have ended and checked what they own: the verdict.
fn finish(board: &Board, at_stop: Status, dir: &Path) -> io::Result<bool> {
    let all = board.status();
    let passed = all.errors == 0 && at_stop.monotonic_consistent && all.pages_checked_at_end == all.pages;
    let last = Status {
        sequence: at_stop.sequence + 1,
        passed: Some(passed),
        dirty_pages_per_s: at_stop.dirty_pages_per_s,
        // The last check of all pages is no part of what was to be measured.
        longest_gap_ms: at_stop.longest_gap_ms,
        gaps: at_stop.gaps,
        clock_shift_ms: at_stop.clock_shift_ms,
        monotonic_consistent: at_stop.monotonic_consistent,
        ..all
    };
    publish(&last, dir)?;
    Ok(passed)
}

/// Readers see the old status or the new one, never half of one. Nothing is synced: a wait for
/// the disk would only disturb what is measured.
fn publish(status: &Status, dir: &Path) -> io::Result<()> {
    let fresh = dir.join(".status.json.new");
    fs::write(&fresh, serde_json::to_vec(status)?)?;
    fs::rename(fresh, dir.join(STATUS_FILE))
}

/// Pages written per second over the last second or so.
#[derive(Default)]
struct RateMeter(VecDeque<(Instant, u64)>);

impl RateMeter {
    fn measured(&mut self, written: u64) -> u64 {
        let now = Instant::now();
        self.0.push_back((now, written));
        while self.0.len() > 2 && now.duration_since(self.0[1].0) >= Duration::from_secs(1) {
            self.0.pop_front();
        }
        let Some((since, before)) = self.0.front() else { return 0 };
        let seconds = now.duration_since(*since).as_secs_f64();
        // Rounding a rate to whole pages is meant; `as` saturates.
        if seconds > 0.0 { ((written - before) as f64 / seconds).round() as u64 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(dir: &Path, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let status = fs::read(dir.join(STATUS_FILE)).ok();
            if let Some(status) = status.and_then(|json| serde_json::from_slice::<Status>(&json).ok())
                && wanted(&status)
            {
                return status;
            }
            assert!(Instant::now() < deadline, "no status with {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn runs_checks_itself_and_passes() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { mem: 4 << 20, dirty_rate: 2000, threads: 3, dir: dir.path().into() };
        thread::scope(|scope| {
            let run = scope.spawn(|| run(&options).unwrap());
            let ready = wait_for(dir.path(), "ready", |status| status.ready);
            assert_eq!(ready.pages, 1024);
            fs::write(dir.path().join(RESET_FILE), "").unwrap();
            wait_for(dir.path(), "work after the reset", |status| status.sequence > ready.sequence + 10);
            assert!(!dir.path().join(RESET_FILE).exists());
            fs::write(dir.path().join(STOP_FILE), "").unwrap();
            assert!(run.join().unwrap());
        });
        let last = wait_for(dir.path(), "a verdict", |status| status.passed.is_some());
        assert_eq!(last.passed, Some(true), "{last:?}");
        assert_eq!(last.pages_checked_at_end, 1024);
        assert!(last.pages_written > 200 && last.token_hops > 0 && last.file_records > 0, "{last:?}");
        assert!(last.timer_ticks > 0 && last.longest_gap_ms >= 0.0 && last.monotonic_consistent, "{last:?}");
    }
}
