//! What `ulpm live` says on stderr while it works: steps, rounds, and within a round one line that is rewritten on a
//! terminal, or written anew about once a second where there is none.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Verbosity, tell};
use crate::precopy::Progress;
use crate::precopy::control::{Phase, Status};
use crate::report::{Rate, Size, human_ms, listed};

/// Where there is no terminal, a line may follow the one before after so long.
const PAUSE: Duration = Duration::from_secs(1);

/// Says what happens.
#[derive(Debug)]
pub(super) struct Display {
    /// The line that is rewritten.
    line: Option<RefCell<ProgressBar>>,
    told: Cell<Instant>,
    verbosity: Verbosity,
}

impl Display {
    /// On stderr.
    pub(super) fn new(verbosity: Verbosity) -> Self {
        let line = io::stderr().is_terminal().then(|| RefCell::new(fresh()));
        Display { line, told: Cell::new(Instant::now()), verbosity }
    }

    /// Says it, unless nothing but errors is to be said.
    pub(super) fn show(&self, progress: &Progress<'_>) {
        if self.verbosity.quiet {
            return;
        }
        match progress {
            Progress::Step(what) => self.say(&format!("{what} …")),
            Progress::Notes(notes) => {
                for note in listed::notes(notes, self.verbosity.in_full) {
                    self.say(&format!("note: {note}"));
                }
            }
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
        tell(text);
    }
}

fn fresh() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template("ulpm: {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}

/// What matters most comes first: a narrow terminal cuts the end.
fn now(status: &Status) -> String {
    if status.phase == Phase::Lazy {
        return following(status);
    }
    let mut parts = Vec::new();
    if let Some(left) = status.time_left_ms {
        parts.push(time_left(status.elapsed_ms / (status.elapsed_ms + left), left));
    }
    parts.push(format!("round {}", status.round));
    if let Some(ms) = status.predicted_freeze_ms {
        parts.push(format!("freeze {}", human_ms(ms)));
    }
    let all = Size::bytes(status.sent_bytes);
    parts.push(match status.round {
        0 => format!("{all} sent"),
        _ => format!("{} sent, {all} in all", Size::bytes(status.round_bytes)),
    });
    if status.bandwidth_bytes_per_s > 0 {
        parts.push(format!("link {}", Rate::bytes_per_s(status.bandwidth_bytes_per_s)));
    }
    if status.predicted_freeze_ms.is_some() {
        parts.push(format!("it writes {}", Rate::bytes_per_s(status.dirty_pages_per_s * 4096)));
    }
    if status.throttle_percent > 0 {
        parts.push(format!("slowed down by {} %", status.throttle_percent));
    }
    parts.join("; ")
}

/// Of a process that runs at the target.
fn following(status: &Status) -> String {
    let size = |pages: u64| Size::bytes(pages * 4096);
    let sent = status.lazy_sent_pages;
    let mut parts = Vec::new();
    let of = match status.lazy_pages {
        // after a restart nobody here knows
        0 => String::new(),
        all => {
            let seconds = |bytes| Rate::bytes_per_s(status.bandwidth_bytes_per_s).seconds_for(bytes);
            let done = sent as f64 / all as f64;
            parts.push(match status.bandwidth_bytes_per_s {
                0 => percent(done),
                _ => time_left(done, seconds(all.saturating_sub(sent) * 4096) * 1e3),
            });
            format!(" of {}", size(all))
        }
    };
    parts.push(format!("it runs there; {}{of} of its memory has followed", size(sent)));
    if status.bandwidth_bytes_per_s > 0 {
        parts.push(format!("link {}", Rate::bytes_per_s(status.bandwidth_bytes_per_s)));
    }
    match status.lazy_reconnects {
        0 => {}
        1 => parts.push("connected anew once".to_owned()),
        n => parts.push(format!("connected anew {n} times")),
    }
    parts.join("; ")
}

fn time_left(done: f64, ms: f64) -> String {
    format!("{}, {} left", percent(done), human_ms(ms))
}

/// 100 only when all is done.
fn percent(done: f64) -> String {
    let percent = (done * 100.0).clamp(0.0, 100.0).floor();
    format!("{percent:.0} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_told() {
        let mut status = Status { phase: Phase::Lazy, lazy_sent_pages: 256, ..Status::default() };
        assert_eq!(now(&status), "it runs there; 1 MiB of its memory has followed");
        status.lazy_pages = 512;
        status.lazy_reconnects = 2;
        let expected = "it runs there; 1 MiB of 2 MiB of its memory has followed";
        assert_eq!(now(&status), format!("50 %; {expected}; connected anew 2 times"));
        status.bandwidth_bytes_per_s = 1 << 19;
        let told = now(&status);
        assert!(
            told.starts_with("50 %, 2.00 s left; it runs there") && told.contains("link 512 KiB/s"),
            "{told}"
        );
    }

    #[test]
    fn what_is_not_known_is_not_said_and_what_matters_comes_first() {
        let mut status = Status { round_bytes: 3 << 20, sent_bytes: 3 << 20, ..Status::default() };
        assert_eq!(now(&status), "round 0; 3 MiB sent");
        status.round = 2;
        status.sent_bytes = 30 << 20;
        status.bandwidth_bytes_per_s = 10 << 20;
        status.predicted_freeze_ms = Some(7.5);
        status.dirty_pages_per_s = 256;
        status.throttle_percent = 40;
        status.elapsed_ms = 1234.0;
        status.time_left_ms = Some(1234.0);
        assert_eq!(
            now(&status),
            "50 %, 1.23 s left; round 2; freeze 7.50 ms; 3 MiB sent, 30 MiB in all; link 10 MiB/s; it writes 1 MiB/s; \
             slowed down by 40 %"
        );
    }
}
