//! A report for a person at a terminal: what happened, the rounds, the freeze in its parts.
//!
//! ```text
//! moved     pid 4242 to 10.0.0.2:3490, pid 4242 there; 1 process, 4 threads, 256 MiB resident
//! attach    1.23 ms held up to install tracking (wp-scan)
//! precopy   640 ms, 256.2 MiB on the wire
//!     round      pages      on wire        ms   dirty/s  then
//!         0      65536    256.1 MiB     640.1      1000  2.6 MiB left
//!     final         12
//! freeze    4.20 ms (4.40 ms predicted)
//!     stop         0.400 ms   10%  ██
//! ```

use std::fmt::Write as _;

use super::{LazyStats, MigrationReport, Outcome, PidMode, Size, human_ms, listed};
use crate::image::shown;

const BAR_WIDTH: f64 = 24.0;
/// Below this the difference between the freeze and the sum of its parts is clock noise.
const OTHER_SHOWN_FROM_MS: f64 = 0.05;

/// The report as text, each line ended by a newline.
pub fn render(report: &MigrationReport) -> String {
    let mut out = String::new();
    line(&mut out, outcome_word(report.outcome), &headline(report));
    if report.resident_bytes > 0 {
        attach_and_rounds(&mut out, report);
    }
    if report.freeze_ms > 0.0 {
        freeze(&mut out, report);
    }
    let late = &report.lazy;
    if late.pages + late.zero_pages + late.faults > 0 {
        lazy(&mut out, late);
    }
    if let Some(gap) = report.observed_gap_ms {
        line(&mut out, "gap", &format!("{} was the longest silence the process itself saw", human_ms(gap)));
    }
    if report.outcome == Outcome::Moved {
        line(&mut out, "verified", verified(report));
    }
    for note in listed::notes(&report.notes, false) {
        line(&mut out, "note", &note);
    }
    if report.obstacles.is_empty()
        && let Some(error) = &report.error
    {
        line(&mut out, "error", error);
    }
    for obstacle in listed::obstacles(&report.obstacles, false) {
        line(&mut out, "obstacle", &obstacle);
    }
    out
}

/// An outcome in one word, as reports have it.
pub fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Moved => "moved",
        Outcome::Aborted => "aborted",
        Outcome::Refused => "refused",
        Outcome::Failed => "failed",
        Outcome::Lost => "lost",
        Outcome::Usage => "usage",
        Outcome::Unknown => "unknown",
    }
}

fn headline(report: &MigrationReport) -> String {
    let mut text = format!("pid {} to {}", report.pid, report.target);
    match (report.outcome, report.target_pid) {
        (Outcome::Moved, Some(pid)) => {
            let mode =
                if report.pid_mode == PidMode::Namespace { ", in a pid namespace of its own" } else { "" };
            let _ = write!(text, ", pid {pid} there{mode}");
        }
        (Outcome::Moved, None) => {}
        (Outcome::Aborted, _) => text.push_str(": it runs on here as if nothing had been tried"),
        (Outcome::Refused | Outcome::Usage, _) => text.push_str(": nothing was touched"),
        (Outcome::Failed, _) => text.push_str(": nothing was moved"),
        (Outcome::Lost, _) => {
            text.push_str(": its memory here was gone before all of it had followed, and it was ended there")
        }
        (Outcome::Unknown, _) => text.push_str(": not settled, run 'ulpm recover'"),
    }
    if report.processes > 0 {
        let _ = write!(
            text,
            "; {}, {}, {} resident",
            counted(report.processes, "process", "processes"),
            counted(report.threads, "thread", "threads"),
            Size::bytes(report.resident_bytes)
        );
    }
    text
}

fn attach_and_rounds(out: &mut String, report: &MigrationReport) {
    let tracker = if report.tracker.is_empty() { String::new() } else { format!(" ({})", report.tracker) };
    let attach = format!("{} held up to install tracking{tracker}", human_ms(report.attach_ms));
    line(out, "attach", &attach);
    let wire = Size::bytes(report.bytes_on_wire);
    line(out, "precopy", &format!("{}; {wire} on the wire in all", human_ms(report.precopy_ms)));
    if report.rounds.is_empty() {
        return;
    }
    let _ = writeln!(out, "    round      pages      on wire        ms   dirty/s  then");
    for (number, round) in report.rounds.iter().enumerate() {
        let row = format!(
            "    {number:>5} {:>10} {:>12} {:>9.1} {:>9}  {}",
            round.pages,
            Size::bytes(round.bytes_on_wire),
            round.ms,
            round.dirty_pages_per_s,
            shown(&round.why_next)
        );
        let _ = writeln!(out, "{}", row.trim_end());
    }
    if report.freeze_ms > 0.0 {
        let _ = writeln!(out, "    final {:>10}", report.final_pages);
    }
}

fn freeze(out: &mut String, report: &MigrationReport) {
    let predicted = report.predicted_freeze_ms.map(|ms| format!(" ({} predicted)", human_ms(ms)));
    line(out, "freeze", &(human_ms(report.freeze_ms) + &predicted.unwrap_or_default()));
    for (name, ms) in report.freeze_parts.named() {
        if name == "verify" && ms <= 0.0 {
            continue;
        }
        part(out, name, ms, report.freeze_ms);
    }
    let other = report.freeze_ms - report.freeze_parts.sum();
    if other >= OTHER_SHOWN_FROM_MS {
        part(out, "other", other, report.freeze_ms);
    }
}

fn part(out: &mut String, name: &str, ms: f64, whole: f64) {
    let share = (ms / whole).clamp(0.0, 1.0);
    // `as` saturates, and the share is within 0..=1.
    let bar = "█".repeat((share * BAR_WIDTH).round() as usize);
    let row = format!("    {name:<8} {ms:>9.3} ms  {:>3.0}%  {bar}", share * 100.0);
    let _ = writeln!(out, "{}", row.trim_end());
}

fn lazy(out: &mut String, lazy: &LazyStats) {
    let waits = format!(
        "{} pages came after the resume, within {}; {} waits, p50 {} µs, p99 {} µs",
        lazy.pages,
        human_ms(lazy.ms),
        lazy.faults,
        lazy.fault_p50_us,
        lazy.fault_p99_us
    );
    line(out, "lazy", &waits);
    let all: u64 = lazy.waits.iter().map(|(_, count)| count).sum();
    for (at_most, count) in lazy.waits.iter().filter(|(_, count)| *count > 0) {
        let share = *count as f64 / all as f64;
        let bar = "█".repeat((share * BAR_WIDTH).round() as usize);
        let row = format!("    ≤ {at_most:>8} µs {count:>9}  {:>3.0}%  {bar}", share * 100.0);
        let _ = writeln!(out, "{}", row.trim_end());
    }
    let others = [
        (lazy.zero_pages, "were zero"),
        (lazy.dropped_pages, "were given up before they came"),
        (lazy.zero_faults, "were new, and zero on the spot"),
    ];
    let mut said: Vec<String> =
        others.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    said.push(format!("{} were sent twice", lazy.sent_twice));
    if lazy.reconnects > 0 {
        said.push(format!("lanes opened anew {} times", lazy.reconnects));
    }
    let _ = writeln!(out, "    pages: {}", said.join("; "));
}

fn verified(report: &MigrationReport) -> &'static str {
    if report.verified {
        "every page hashed at both ends while frozen: all equal"
    } else {
        "no (run with --verify to compare every page at both ends)"
    }
}

fn counted(number: u32, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn line(out: &mut String, name: &str, text: &str) {
    let _ = writeln!(out, "{name:<9} {}", shown(text));
}

#[cfg(test)]
mod tests {
    use super::super::{FreezeParts, Round};
    use super::*;

    fn moved() -> MigrationReport {
        let round = |pages, bytes_on_wire, ms, why_next: &str| Round {
            pages,
            bytes_on_wire,
            ms,
            dirty_pages_per_s: 1000,
            why_next: why_next.into(),
            ..Round::default()
        };
        MigrationReport {
            outcome: Outcome::Moved,
            pid: 4242,
            target: "10.0.0.2:3490".into(),
            target_pid: Some(4242),
            processes: 1,
            threads: 4,
            tracker: "wp-scan".into(),
            resident_bytes: 256 << 20,
            attach_ms: 1.23,
            precopy_ms: 652.0,
            rounds: vec![
                round(65_536, 268_500_000, 640.1, "640 pages left"),
                round(640, 2_700_000, 11.9, "freeze within goal"),
            ],
            freeze_ms: 4.0,
            predicted_freeze_ms: Some(4.4),
            freeze_parts: FreezeParts {
                stop: 0.4,
                capture: 0.5,
                scan: 1.0,
                send: 0.5,
                apply: 0.8,
                commit: 0.2,
                resume: 0.1,
                verify: 0.0,
            },
            final_pages: 12,
            bytes_on_wire: 271_300_000,
            verified: true,
            observed_gap_ms: Some(4.7),
            ..MigrationReport::default()
        }
    }

    #[test]
    fn a_move_is_told_in_full() {
        let expected = "\
moved     pid 4242 to 10.0.0.2:3490, pid 4242 there; 1 process, 4 threads, 256 MiB resident
attach    1.23 ms held up to install tracking (wp-scan)
precopy   652 ms; 258.7 MiB on the wire in all
    round      pages      on wire        ms   dirty/s  then
        0      65536    256.1 MiB     640.1      1000  640 pages left
        1        640      2.6 MiB      11.9      1000  freeze within goal
    final         12
freeze    4.00 ms (4.40 ms predicted)
    stop         0.400 ms   10%  ██
    capture      0.500 ms   12%  ███
    scan         1.000 ms   25%  ██████
    send         0.500 ms   12%  ███
    apply        0.800 ms   20%  █████
    commit       0.200 ms    5%  █
    resume       0.100 ms    2%  █
    other        0.500 ms   12%  ███
gap       4.70 ms was the longest silence the process itself saw
verified  every page hashed at both ends while frozen: all equal
";
        assert_eq!(render(&moved()), expected);
    }

    #[test]
    fn a_refusal_is_two_lines() {
        let report = MigrationReport::refused(7, "b:3490", "fd 5 is a perf event");
        let expected = "refused   pid 7 to b:3490: nothing was touched\nerror     fd 5 is a perf event\n";
        assert_eq!(render(&report), expected);
    }

    #[test]
    fn an_abort_says_where_the_process_is() {
        let report =
            MigrationReport { resident_bytes: 4096, ..MigrationReport::aborted(7, "b:3490", "link cut") };
        let text = render(&report);
        assert!(text.starts_with("aborted   pid 7 to b:3490: it runs on here"), "{text}");
        assert!(text.contains("precopy") && !text.contains("freeze") && !text.contains("verified"), "{text}");
    }

    #[test]
    fn late_pages_and_a_missing_check_are_said() {
        let lazy = LazyStats {
            pages: 10,
            faults: 3,
            fault_p50_us: 90,
            fault_p99_us: 400,
            ms: 12.0,
            waits: vec![(64, 0), (128, 2), (512, 1)],
            zero_pages: 4,
            ..LazyStats::default()
        };
        let text = render(&MigrationReport { lazy, verified: false, ..moved() });
        assert!(
            text.contains("10 pages came after the resume, within 12.0 ms; 3 waits, p50 90 µs"),
            "{text}"
        );
        assert!(text.contains("    ≤      128 µs         2   67%  ████████████████\n"), "{text}");
        assert!(
            text.contains("    pages: 4 were zero; 0 were sent twice\n") && !text.contains("64 µs"),
            "{text}"
        );
        assert!(text.contains("verified  no (run with --verify"), "{text}");
    }

    #[test]
    fn an_open_outcome_names_the_way_out() {
        assert!(render(&MigrationReport::default()).contains("run 'ulpm recover'"));
    }
}
