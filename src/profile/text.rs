//! A profile for a person at a terminal.
//!
//! ```text
//! profile   pid 4242 (redis-server): 10.0 s with wp-scan, 998 samples 10.0 ms apart
//! memory    312 MiB would be sent first; 318 MiB resident, 5 threads
//! dirty     2012 pages/s (7.9 MiB/s) on average, 2480 pages/s at most within 100 ms
//! window        pages written in it    at most
//!      10 ms                     20         31   124 KiB
//! ```

use std::fmt::Write as _;

use super::report::{Forecast, ProfileReport};
use super::watch::End;
use crate::image::{PAGE_SIZE, shown};
use crate::report::{Size, human_ms};

/// Mappings that the text names; JSON has more.
const MAPPINGS: usize = 10;

/// The report as text, each line ended by a newline.
pub(crate) fn render(report: &ProfileReport) -> String {
    let mut out = String::new();
    head(&mut out, report);
    working_set(&mut out, report);
    mappings(&mut out, report);
    cost(&mut out, report);
    table(&mut out, report);
    for line in &report.recommendation {
        wrapped(&mut out, "advice", line);
    }
    for line in &report.notes {
        wrapped(&mut out, "note", line);
    }
    out
}

fn head(out: &mut String, r: &ProfileReport) {
    let ended = match r.ended {
        End::Time => "",
        End::Interrupted => "; ended early as asked",
        End::ProcessEnded => "; the process ended, this is what was seen until then",
        End::OtherProgram => "; it began another program, this is what was seen until then",
    };
    wrapped(
        out,
        "profile",
        &format!(
            "pid {} ({}): {:.1} s with {}, {} samples {:.1} ms apart ({:.1} at most){ended}",
            r.pid,
            shown(&r.name),
            r.seconds,
            r.tracker,
            r.samples,
            r.interval_ms,
            r.longest_interval_ms
        ),
    );
    wrapped(
        out,
        "memory",
        &format!(
            "{} would be sent first ({} pages); {} resident, {} thread{}",
            size(r.present_pages as f64),
            r.present_pages,
            Size::bytes(r.resident_bytes),
            r.threads,
            if r.threads == 1 { "" } else { "s" }
        ),
    );
    let step = r.dirty.over_time.first().map_or(0.0, |s| s.ms);
    wrapped(
        out,
        "dirty",
        &format!(
            "{:.0} pages/s ({}/s) on average, {:.0} pages/s at most within {}",
            r.dirty.mean_pages_per_s,
            size(r.dirty.mean_pages_per_s),
            r.dirty.max_pages_per_s,
            human_ms(step)
        ),
    );
}

fn working_set(out: &mut String, r: &ProfileReport) {
    if r.working_set.is_empty() {
        return;
    }
    out.push_str("working set: distinct pages written within a window\n");
    out.push_str("      window     on average        at most\n");
    for w in &r.working_set {
        let _ = writeln!(
            out,
            "    {:>8} {:>14.1} {:>14}  {}",
            window(w.window_ms),
            w.mean_pages,
            w.max_pages,
            size(w.max_pages as f64)
        );
    }
}

fn mappings(out: &mut String, r: &ProfileReport) {
    if r.mappings.is_empty() {
        return;
    }
    out.push_str("hottest mappings\n     pages/s   share        size  mapping\n");
    for m in r.mappings.iter().take(MAPPINGS) {
        let size = if m.size_bytes == 0 { "gone".to_owned() } else { Size::bytes(m.size_bytes).to_string() };
        let _ = writeln!(
            out,
            "    {:>8.1} {:>6.1}% {size:>11}  {}",
            m.pages_per_s,
            m.share * 100.0,
            shown(&m.name)
        );
    }
    if r.mappings.len() > MAPPINGS {
        let _ = writeln!(out, "    and {} more (--json has them)", r.mappings.len() - MAPPINGS);
    }
}

fn cost(out: &mut String, r: &ProfileReport) {
    let c = &r.cost;
    out.push_str("what being watched cost the process\n");
    let _ = writeln!(out, "    {} one thread stopped, to install tracking", human_ms(c.attach_ms));
    if let (Some(faults), Some([low, high])) = (c.extra_faults_per_s, c.faults_ms_per_s) {
        let _ = writeln!(
            out,
            "    {faults:+.0} page faults per second ({:.0} with tracking): {low:.1} to {high:.1} ms of each second",
            c.tracked.faults_per_s
        );
    }
    if let Some(extra) = c.extra_cpu_ms_per_s {
        let unsure = c.uncertainty_ms_per_s.map_or_else(String::new, |u| format!(" ± {u:.1}"));
        let verdict = match c.is_certain() {
            false => ": no difference that could be told from chance",
            true if extra < 0.0 => ": less, so it did less meanwhile, or got less of a CPU",
            true => "",
        };
        let _ = writeln!(
            out,
            "    {extra:+.1}{unsure} ms CPU time per second ({:.1} with tracking){verdict}",
            c.tracked.cpu_ms_per_s
        );
    }
    let _ = writeln!(out, "    ulpm itself took {:.1}% of a core", c.own_cpu_percent);
}

/// Bandwidths across, goals down.
fn table(out: &mut String, r: &ProfileReport) {
    let mut links: Vec<u64> = r.table.iter().map(|f| f.bandwidth_bits_per_s).collect();
    links.sort_unstable();
    links.dedup();
    let mut goals: Vec<Option<f64>> = r.table.iter().map(|f| f.max_freeze_ms).collect();
    goals.dedup();
    if links.is_empty() {
        return;
    }
    out.push_str("predicted freeze, rounds and total time, by --max-freeze and bandwidth (!: goal missed)\n");
    let _ = write!(out, "    {:>8}", "goal");
    links.iter().for_each(|l| {
        let _ = write!(out, "  {:>21}", bandwidth(*l));
    });
    out.push('\n');
    for goal in goals {
        let _ = write!(out, "    {:>8}", goal.map_or_else(|| "none".to_owned(), window));
        for link in &links {
            let cell = r.table.iter().find(|f| f.max_freeze_ms == goal && f.bandwidth_bits_per_s == *link);
            let _ = write!(out, "  {:>21}", cell.map_or_else(String::new, forecast));
        }
        out.push('\n');
    }
}

fn forecast(f: &Forecast) -> String {
    let missed = if f.reached { ' ' } else { '!' };
    format!("{}{missed} {:>2}r {:>7}", human_ms(f.freeze_ms), f.rounds, human_ms(f.total_ms))
}

/// Bits per second for people.
pub(super) fn bandwidth(bits_per_s: u64) -> String {
    match bits_per_s {
        b if b >= 1_000_000_000 => format!("{} Gbit/s", b as f64 / 1e9),
        b => format!("{} Mbit/s", b as f64 / 1e6),
    }
}

/// A length of time that is a round number.
fn window(ms: f64) -> String {
    if ms >= 1000.0 { format!("{} s", ms / 1000.0) } else { format!("{ms} ms") }
}

/// So many pages in bytes.
fn size(pages: f64) -> Size {
    Size::bytes((pages * PAGE_SIZE as f64) as u64)
}

/// A labelled line, broken where it is too long.
fn wrapped(out: &mut String, label: &str, text: &str) {
    const WIDTH: usize = 100;
    let _ = write!(out, "{label:<10}");
    let mut column = 10;
    for word in text.split(' ') {
        let len = word.chars().count() + 1;
        if column + len > WIDTH && column > 10 {
            let _ = write!(out, "\n{:10}", "");
            column = 10;
        }
        if column > 10 {
            out.push(' ');
        }
        out.push_str(word);
        column += len;
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::report::tests::sample;

    #[test]
    fn everything_is_said_and_columns_are_aligned() {
        let text = render(&sample());
        for word in [
            "pid 4242 (a<b&c)",
            "process ended, this is what was seen until then",
            "1500 pages/s (5.9 MiB/s) on average",
            "[heap]",
            "+1500 page faults",
            "no difference that could be told from chance",
            "3.5% of a core",
            "advice    do this",
            "note      know that",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let rows: Vec<&str> = text
            .lines()
            .skip_while(|l| !l.contains("Mbit/s"))
            .take_while(|l| l.starts_with("    "))
            .collect();
        assert_eq!(rows.len(), 4, "{text}");
        assert!(rows.iter().all(|r| r.chars().count() == rows[0].chars().count()), "{rows:#?}");
        assert!(rows[2].contains("7.50 ms!") && !rows[3].contains('!'), "{rows:#?}");
        assert!(text.lines().all(|l| l.chars().count() <= 130), "{text}");
    }

    #[test]
    fn long_lines_are_broken() {
        let mut out = String::new();
        wrapped(&mut out, "note", &"word ".repeat(60));
        assert!(out.lines().count() > 2 && out.lines().all(|l| l.len() <= 100), "{out}");
        assert!(out.lines().skip(1).all(|l| l.starts_with("          ")), "{out}");
    }
}
