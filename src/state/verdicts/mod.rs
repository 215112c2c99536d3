//! The table of verdicts: every kind of state that a Linux process has, and what a move does with it. One file per area.
//!
//! | verdict | means |
//! |---|---|
//! | carried | it is at the target as it was |
//! | limited | carried or left behind with a limit, which the user reads as a note in preflight and report |
//! | refused | an obstacle, by name, before anything is stopped |
//! | harmless | it may differ, or is no state: the row says why |
//!
//! What the kernel can enumerate (flags of a mapping, lines of `/proc/PID/status`, files of `/proc/PID`, …) is enumerated by
//! the trial `verdicts`, which fails on a name without a row. A flag of a mapping without a row is an obstacle at run time.
//! `docs/SUPPORT.md` is generated from here ([`markdown`]); the test of this file holds the two against each other.
//!
//! To add a kind of state: a row in its area's file, in the words of a user, with the victim or trial that shows it.

mod descriptors;
mod kcmp;
mod limits;
mod namespaces;
mod prctl;
mod proc_files;
mod ptrace;
mod row;
mod scheduling;
mod sockets;
mod stat;
mod status;
mod unseen;
mod vm_flags;

use std::fmt::Write as _;

pub use row::{Row, Verdict};

/// A list that belongs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Area {
    /// `VmFlags:` of `/proc/PID/smaps`.
    VmFlags,
    /// Lines of `/proc/PID/status`.
    Status,
    /// Fields of `/proc/PID/stat`.
    Stat,
    /// Files of `/proc/PID` and `/proc/PID/task/TID`.
    ProcFiles,
    /// `prctl` and `arch_prctl` with a getter, and process-wide modes beside them.
    Prctl,
    /// `ptrace` requests that read state.
    Ptrace,
    /// Scheduling: `sched_getattr`, affinity, I/O priority, NUMA policy.
    Scheduling,
    /// Resource limits.
    Limits,
    /// Kinds of descriptors, `fcntl` getters, seals, locks.
    Descriptors,
    /// Kinds of sockets and their options.
    Sockets,
    /// Types of `kcmp`: what may be shared with somebody else.
    Kcmp,
    /// Namespaces.
    Namespaces,
    /// What cannot be seen from outside.
    Unseen,
}

const TABLE: &[(Area, &str, &[Row])] = &[
    (Area::VmFlags, "Flags of a mapping (`VmFlags` of `/proc/PID/smaps`)", vm_flags::ROWS),
    (Area::Status, "Lines of `/proc/PID/status`", status::ROWS),
    (Area::Stat, "Fields of `/proc/PID/stat`", stat::ROWS),
    (Area::ProcFiles, "Files of `/proc/PID` and `/proc/PID/task/TID`", proc_files::ROWS),
    (Area::Prctl, "`prctl`, `arch_prctl` and modes of the process", prctl::ROWS),
    (Area::Ptrace, "State that `ptrace` reads", ptrace::ROWS),
    (Area::Scheduling, "Scheduling", scheduling::ROWS),
    (Area::Limits, "Resource limits", limits::ROWS),
    (Area::Descriptors, "Descriptors, their flags, seals and locks", descriptors::ROWS),
    (Area::Sockets, "Sockets and their options", sockets::ROWS),
    (Area::Kcmp, "What may be shared with others (`kcmp`)", kcmp::ROWS),
    (Area::Namespaces, "Namespaces", namespaces::ROWS),
    (Area::Unseen, "What cannot be seen from outside", unseen::ROWS),
];

/// The rows of an area.
pub fn rows(area: Area) -> &'static [Row] {
    TABLE.iter().find(|(a, ..)| *a == area).map_or(&[], |(.., rows)| rows)
}

/// The row of a kind of state; `None`: nobody has thought of it.
pub fn of(area: Area, name: &str) -> Option<&'static Row> {
    rows(area).iter().find(|row| row.name == name)
}

/// The row of a socket option (`getsockopt`), by level and number.
pub fn of_option(level: i32, number: i32) -> Option<&'static Row> {
    sockets::option(level, number)
}

/// The whole table, as `docs/SUPPORT.md` holds it.
pub fn markdown() -> String {
    let mut out = String::from(
        "# What a move carries\n\n\
         Generated from `src/state/verdicts/` (`ULPM_WRITE_DOCS=1 cargo test --lib verdicts`); do not edit.\n\
         *Carried*: it is at the target as it was. *Limited*: with the limit that the row names, which `ulpm check` and\n\
         `ulpm live` say as a note. *Refused*: named as an obstacle before anything is stopped. *Harmless*: it may\n\
         differ, and why that is right. What is not listed is refused where it can be seen. The last column names the\n\
         victim (`tests/victims`) or trial that shows it.\n",
    );
    for (_, title, rows) in TABLE {
        let _ =
            write!(out, "\n## {title}\n\n| state | what it is | verdict | shown by |\n|---|---|---|---|\n");
        for row in *rows {
            let verdict = match row.verdict {
                Verdict::Carried => "carried".to_owned(),
                Verdict::Limited(note) => format!("limited: {note}"),
                Verdict::Refused(why) => format!("refused: {why}"),
                Verdict::Harmless(why) => format!("harmless: {why}"),
            };
            let cell = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                cell(row.name),
                cell(row.what),
                cell(&verdict),
                cell(row.shown)
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn support_md_is_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SUPPORT.md");
        if std::env::var_os("ULPM_WRITE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(there == markdown(), "docs/SUPPORT.md is old: ULPM_WRITE_DOCS=1 cargo test --lib verdicts");
    }

    #[test]
    fn each_kind_has_one_row() {
        for (area, _, rows) in TABLE {
            let names: HashSet<&str> = rows.iter().map(|row| row.name).collect();
            assert_eq!(names.len(), rows.len(), "{area:?} has a name twice");
        }
    }
}
