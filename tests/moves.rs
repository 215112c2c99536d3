//! Moves real processes between two hosts of the test lab with the real binary.
//!
//! `cargo test --test moves -- FILTER` runs the trials whose name contains FILTER, `--list` names them all. What each
//! trial needs of the machine is checked when it runs; `tests/skips.txt` says which may be skipped in CI.

mod lab;
mod trials;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Conclusion};

/// Trials measure times on a machine with few cores.
const MOST_AT_ONCE: usize = 2;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if let Err(error) = ulpm::demo::hosts::become_able() {
        eprintln!("note: {error}");
    }
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(MOST_AT_ONCE).min(MOST_AT_ONCE));
    let list = arguments.list;
    let conclusion: Conclusion = libtest_mimic::run(&arguments, trials::all(false));
    if list {
        return conclusion.exit_code();
    }
    let left = lab::strays::left_over();
    for stray in &left {
        eprintln!("left over: {stray}");
    }
    if left.is_empty() { conclusion.exit_code() } else { ExitCode::FAILURE }
}
