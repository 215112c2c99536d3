//! The workload as seen from outside: its status, its commands, its silence.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::error::{SceneError, Tail, own};
use super::watcher::Watcher;
use crate::demo::hosts::{Host, Stdio3};
use crate::demo::workload::{Options, RESET_FILE, STATUS_FILE, STOP_FILE, Status};

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Beside the time that filling or checking the memory takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Memory touched for the first time may cost microseconds per page: 32 MiB/s is slower than any host.
const SLOWEST_BYTES_PER_S: u64 = 32 << 20;

/// A running workload.
#[derive(Debug)]
pub struct Subject {
    dir: PathBuf,
    patience: Duration,
    /// Its pid as its present host sees it.
    pub(super) pid: i32,
    last: Status,
}

impl Subject {
    /// Starts a workload in a host and waits until it has filled its memory and is busy.
    pub(super) fn start(
        host: &Host,
        program: &str,
        options: &Options,
        watcher: &Watcher,
    ) -> Result<Self, SceneError> {
        fs::create_dir_all(&options.dir).map_err(own("make the workload's directory"))?;
        let stdio = || -> io::Result<Stdio3> {
            let out = File::create(options.dir.join("output"))?;
            Stdio3::to_files(out.try_clone()?, out)
        };
        let args: Vec<String> =
            options.to_args().iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let mut argv = vec![program, "__workload"];
        argv.extend(args.iter().map(String::as_str));
        let stdio = stdio().map_err(own("make the workload's output file"))?;
        let process = host.spawn(&argv, &options.dir, stdio)?;
        let mut subject = Self {
            dir: options.dir.clone(),
            patience: PATIENCE + Duration::from_secs(options.mem / SLOWEST_BYTES_PER_S),
            pid: process.pid().as_raw(),
            last: Status::default(),
        };
        subject.wait_until("did not become ready", watcher, |status| status.ready)?;
        Ok(subject)
    }

    /// What it said of itself last, read anew.
    pub fn status(&mut self) -> &Status {
        let json = fs::read(self.dir.join(STATUS_FILE)).ok();
        if let Some(status) = json.and_then(|json| serde_json::from_slice(&json).ok()) {
            self.last = status;
        }
        &self.last
    }

    /// Makes it forget its gaps; returns when it has.
    pub(super) fn reset_gap(&mut self, watcher: &Watcher) -> Result<(), SceneError> {
        self.command(RESET_FILE)?;
        let reset = self.dir.join(RESET_FILE);
        self.wait_until("does not follow commands", watcher, move |_| !reset.exists())
    }

    /// Waits until it has written several statuses more: it runs. It must be the one that said
    /// `earlier` of itself, with nothing lost since.
    pub(super) fn see_it_go_on(&mut self, earlier: &Status, watcher: &Watcher) -> Result<(), SceneError> {
        let here = self.status().clone();
        let begun = Instant::now();
        let gone_on = self.wait_until("does not go on", watcher, |now| {
            now.instance != earlier.instance || standing_still(&here, now).is_empty()
        });
        gone_on.map_err(|error| match error {
            SceneError::Workload { .. } => {
                let still = standing_still(&here, &self.last).join(", ");
                let seconds = begun.elapsed().as_secs();
                let last = said(&self.last);
                self.wrong(&format!("does not go on: within {seconds} s no more {still}; it says: {last}"))
            }
            other => other,
        })?;
        let lost = lost_since(earlier, &self.last);
        lost.map_or(Ok(()), |what| Err(self.wrong(&what)))
    }

    /// Makes it check every page and end; its last words.
    pub(super) fn stop(&mut self, watcher: &Watcher) -> Result<Status, SceneError> {
        self.command(STOP_FILE)?;
        self.wait_until("did not end its last check", watcher, |status| status.passed.is_some())?;
        Ok(self.last.clone())
    }

    fn command(&self, file: &str) -> Result<(), SceneError> {
        fs::write(self.dir.join(file), "").map_err(own("give the workload a command"))
    }

    fn wait_until(
        &mut self,
        otherwise: &str,
        watcher: &Watcher,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<(), SceneError> {
        let deadline = Instant::now() + self.patience;
        while !wanted(self.status()) {
            watcher.go_on()?;
            if Instant::now() >= deadline {
                return Err(self.wrong(otherwise));
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// An error about it, with what it printed (a panic, for example).
    fn wrong(&self, what: &str) -> SceneError {
        let printed = fs::read_to_string(self.dir.join("output")).unwrap_or_default();
        let lines = printed.lines().map(str::to_owned).collect();
        SceneError::Workload {
            what: format!("(pid {}) {what}", self.pid),
            last: Box::new(self.last.clone()),
            serve: Tail { whose: "the workload".into(), lines },
            threads: Tail::default(),
        }
    }
}

/// What of a running workload has not grown since `here`.
fn standing_still(here: &Status, now: &Status) -> Vec<&'static str> {
    let counters = [
        ("statuses", now.sequence >= here.sequence + 3),
        ("hops through pipes", now.token_hops > here.token_hops),
        ("file records", now.file_records > here.file_records),
        ("timer ticks", now.timer_ticks > here.timer_ticks),
    ];
    counters.into_iter().filter(|(_, grown)| !grown).map(|(what, _)| what).collect()
}

/// A status in words.
fn said(status: &Status) -> String {
    format!(
        "status {}, {} pages written, {} hops, {} file records, {} timer ticks, {} errors{}",
        status.sequence,
        status.pages_written,
        status.token_hops,
        status.file_records,
        status.timer_ticks,
        status.errors,
        status.first_errors.iter().fold(String::new(), |all, error| format!("{all}; {error}"))
    )
}

/// What of `earlier` is not in `now`, if anything.
fn lost_since(earlier: &Status, now: &Status) -> Option<String> {
    if now.instance != earlier.instance {
        return Some("is not the one that was to be moved: it was started anew".into());
    }
    let counters = [
        ("statuses", earlier.sequence, now.sequence),
        ("pages written", earlier.pages_written, now.pages_written),
        ("pages checked", earlier.pages_checked, now.pages_checked),
        ("hops through pipes", earlier.token_hops, now.token_hops),
        ("file records", earlier.file_records, now.file_records),
        ("timer ticks", earlier.timer_ticks, now.timer_ticks),
    ];
    let (what, before, after) = counters.into_iter().find(|(_, before, after)| after < before)?;
    Some(format!("has gone back in time: {before} {what} before, {after} now"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_still_is_named() {
        let here =
            Status { sequence: 5, token_hops: 6, file_records: 7, timer_ticks: 8, ..Status::default() };
        let now = Status { sequence: 8, token_hops: 9, file_records: 8, timer_ticks: 8, ..Status::default() };
        assert_eq!(standing_still(&here, &now), ["timer ticks"]);
        assert_eq!(standing_still(&here, &Status { timer_ticks: 9, ..now }), Vec::<&str>::new());
    }

    #[test]
    fn another_or_an_older_workload_is_not_taken_for_it() {
        let status = |instance: &str, file_records| Status {
            instance: instance.into(),
            file_records,
            ..Status::default()
        };
        assert_eq!(lost_since(&status("a", 5), &status("a", 6)), None);
        assert!(lost_since(&status("a", 5), &status("b", 6)).unwrap().contains("started anew"));
        assert!(
            lost_since(&status("a", 5), &status("a", 4)).unwrap().contains("5 file records before, 4 now")
        );
    }
}
