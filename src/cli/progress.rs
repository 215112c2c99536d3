//! What `ulpm live` says on stderr while it works: steps, rounds, and within a round one line that is rewritten on a
//! terminal, or written anew about once a second where there is none.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::precopy::Progress;
use crate::precopy::control::{Phase, Status};
use crate::report::{Rate, Size, human_ms};

/// Where there is no terminal, a line may follow the one before after so long.
const PAUSE: Duration = Duration::from_secs(1);

/// Says what happens.
#[derive(Debug)]
pub(super) struct Display {
    /// The line that is rewritten.
    line: Option<RefCell<ProgressBar>>,
    told: Cell<Instant>,
}

impl Display {
    /// On stderr.
    pub(super) fn new() -> Self {
        let line = io::stderr().is_terminal().then(|| RefCell::new(fresh()));
        Display { line, told: Cell::new(Instant::now()) }
    }

    /// Says it.
    pub(super) fn show(&self, progress: &Progress<'_>) {
        match progress {
            Progress::Step(what) => self.say(&format!("{what} …")),
            Progress::Note(note) => self.say(&format!("note: {note}")),
            Progress::Round(n, round) => self.say(&format!(
                "round {n}: {} pages, {} in {}; {}",
                round.pages,
                Size::bytes(round.bytes_on_wire),
                human_ms(round.ms),
                round.why_next
            )),
            Progress::Now(status) => match &self.line {
                Some(line) => line.borrow().set_message(now(status)),
                None if self.told.get().elapsed() >= PAUSE => self.say(&now(status)),
                None => {}
            },
        }
    }

    fn say(&self, text: &str) {
        self.told.set(Instant::now());
        if let Some(line) = &self.line {
            // nothing is drawn while the process is frozen
            line.replace(fresh()).finish_and_clear();
        }
        let _ = writeln!(io::stderr(), "ulpm: {text}");
    }
}

fn fresh() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template("ulpm: {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}

fn now(status: &Status) -> String {
    if status.phase == Phase::Lazy {
        return following(status);
    }
    let mut parts = vec![format!(
        "round {}: {} sent, {} in all",
        status.round,
        Size::bytes(status.round_bytes),
        Size::bytes(status.sent_bytes)
    )];
    if status.bandwidth_bytes_per_s > 0 {
        parts.push(format!("link {}", Rate::bytes_per_s(status.bandwidth_bytes_per_s)));
    }
    if let Some(ms) = status.predicted_freeze_ms {
        parts.push(format!("written {}", Rate::bytes_per_s(status.dirty_pages_per_s * 4096)));
        parts.push(format!("freeze {}", human_ms(ms)));
    }
    if status.throttle_percent > 0 {
        parts.push(format!("slowed by {} %", status.throttle_percent));
    }
    if let Some(ms) = status.time_left_ms {
        parts.push(format!("{} left", human_ms(ms)));
    }
    parts.join("; ")
}

/// Of a process that runs at the target.
fn following(status: &Status) -> String {
    let size = |pages: u64| Size::bytes(pages * 4096);
    let of = match status.lazy_pages {
        // after a restart nobody here knows
        0 => String::new(),
        all => format!(" of {}", size(all)),
    };
    let mut parts =
        vec![format!("it runs there; {}{of} of its memory followed", size(status.lazy_sent_pages))];
    if status.bandwidth_bytes_per_s > 0 {
        parts.push(format!("link {}", Rate::bytes_per_s(status.bandwidth_bytes_per_s)));
    }
    if status.lazy_reconnects > 0 {
        parts.push(format!("{} reconnects", status.lazy_reconnects));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_told() {
        let mut status = Status { phase: Phase::Lazy, lazy_sent_pages: 256, ..Status::default() };
        assert_eq!(now(&status), "it runs there; 1 MiB of its memory followed");
        status.lazy_pages = 512;
        status.lazy_reconnects = 2;
        assert_eq!(now(&status), "it runs there; 1 MiB of 2 MiB of its memory followed; 2 reconnects");
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let mut status = Status { round_bytes: 3 << 20, sent_bytes: 3 << 20, ..Status::default() };
        assert_eq!(now(&status), "round 0: 3 MiB sent, 3 MiB in all");
        status.bandwidth_bytes_per_s = 10 << 20;
        status.predicted_freeze_ms = Some(7.5);
        status.dirty_pages_per_s = 256;
        status.throttle_percent = 40;
        status.time_left_ms = Some(1234.0);
        assert_eq!(
            now(&status),
            "round 0: 3 MiB sent, 3 MiB in all; link 10 MiB/s; written 1 MiB/s; freeze 7.50 ms; slowed by 40 %; 1234 ms left"
        );
    }
}
