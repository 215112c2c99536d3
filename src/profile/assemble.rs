//! From what was watched to the report.

use super::cost::Cost;
use super::report::{Dirty, Mapping, ProfileReport, Rate, Window};
use super::sampled::Sampled;
use super::watch::{End, INTERVAL, SHARE, Watched};
use super::who::Who;
use crate::dirty::{Chosen, Kind};

/// The report, without what a move would be like.
pub(crate) fn report(tracker: &Chosen, watched: &Watched) -> ProfileReport {
    let who = &watched.who;
    let sampled = &watched.sampled;
    let seconds = sampled.span.as_secs_f64();
    let [before, with, after] = &watched.used;
    let cost = Cost {
        attach_ms: rounded(watched.attach.as_secs_f64() * 1e3),
        own_cpu_percent: rounded(watched.own.as_secs_f64() / seconds.max(1e-9) * 100.0),
        ..Cost::of(before, with, after)
    };
    ProfileReport {
        pid: who.pid,
        name: who.name.clone(),
        tracker: tracker.kind.name().to_owned(),
        tracker_reason: tracker.reason.clone(),
        ended: watched.end,
        seconds: rounded(seconds),
        samples: sampled.count,
        interval_ms: rounded(seconds * 1e3 / sampled.count.max(1) as f64),
        longest_interval_ms: rounded(sampled.longest.as_secs_f64() * 1e3),
        threads: who.threads,
        resident_bytes: who.resident,
        present_pages: watched.present,
        dirty: dirty(sampled),
        working_set: working_set(sampled),
        mappings: mappings(sampled),
        cost,
        table: Vec::new(),
        recommendation: Vec::new(),
        notes: notes(who, tracker, watched),
    }
}

fn dirty(sampled: &Sampled) -> Dirty {
    let over_time: Vec<Rate> = sampled
        .steps
        .iter()
        .map(|s| Rate {
            at_ms: rounded(s.at.as_secs_f64() * 1e3),
            ms: rounded(s.span.as_secs_f64() * 1e3),
            pages_per_s: rounded(s.pages_per_s),
        })
        .collect();
    Dirty {
        mean_pages_per_s: rounded(sampled.pages as f64 / sampled.span.as_secs_f64().max(1e-9)),
        max_pages_per_s: over_time.iter().map(|r| r.pages_per_s).fold(0.0, f64::max),
        over_time,
    }
}

fn working_set(sampled: &Sampled) -> Vec<Window> {
    let window = |w: &super::windows::Windows| Window {
        window_ms: w.window.as_secs_f64() * 1e3,
        real_ms: rounded(w.real.as_secs_f64() * 1e3),
        windows: w.count,
        mean_pages: rounded(w.mean),
        max_pages: w.max,
    };
    sampled.windows.iter().map(window).collect()
}

fn mappings(sampled: &Sampled) -> Vec<Mapping> {
    let all: u64 = sampled.hot.iter().map(|h| h.pages).sum();
    let mapping = |h: &super::heat::Hot| Mapping {
        name: h.name.clone(),
        size_bytes: h.size,
        pages_per_s: rounded(h.pages as f64 / sampled.span.as_secs_f64().max(1e-9)),
        share: rounded(h.pages as f64 / all.max(1) as f64),
    };
    sampled.hot.iter().map(mapping).collect()
}

fn notes(who: &Who, tracker: &Chosen, watched: &Watched) -> Vec<String> {
    let mut notes = watched.half_done.clone();
    let sampled = &watched.sampled;
    let interval = sampled.span.as_secs_f64() * 1e3 / sampled.count.max(1) as f64;
    if sampled.count == 0 {
        notes.push("no sample was taken: nothing is known of what it writes".to_owned());
    } else if interval > INTERVAL.as_secs_f64() * 1e3 * 1.2 {
        notes.push(format!(
            "samples are {interval:.0} ms apart, not {}: one takes {:.1} ms, and watching may take {:.0}% of a core",
            INTERVAL.as_millis(),
            watched.own.as_secs_f64() * 1e3 / sampled.count as f64,
            SHARE * 100.0
        ));
    }
    if tracker.kind == Kind::SoftDirty {
        notes.push(
            "soft-dirty bits of the process were cleared; other programs that use them (CRIU) start anew"
                .to_owned(),
        );
    }
    if watched.unwatched > 0 {
        notes.push(format!(
            "{} mappings are of kinds that cannot be moved, and do not count (`ulpm check --pid {}` names them)",
            watched.unwatched, who.pid
        ));
    }
    if who.children > 0 {
        notes.push(format!("{} child processes were not watched", who.children));
    }
    if watched.end == End::OtherProgram {
        notes.push("execve gave the process a new address space, which is not tracked".to_owned());
    }
    notes
}

/// Three decimals are enough for people and programs.
pub(crate) fn rounded(n: f64) -> f64 {
    if n.is_finite() { (n * 1000.0).round() / 1000.0 } else { 0.0 }
}
