//! Moves real processes between two hosts of the test lab with the real binary.
//!
//! `cargo test --test moves -- FILTER` runs the trials whose name contains FILTER, `--list` names them all. What each
//! trial needs of the machine is checked when it runs; `tests/skips.txt` says which may be skipped in CI.

mod lab;
mod trials;

use std::process::ExitCode;
use std::time::Instant;

use libtest_mimic::{Arguments, Conclusion};

fn main() -> ExitCode {
    if let Some(code) = trials::rebuilt::answer_hidden_calls() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    if let Err(error) = ulpm::demo::hosts::become_able() {
        eprintln!("note: {error}");
    }
    let most = lab::seats::MOST;
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(most).min(most));
    let (list, begun) = (arguments.list, Instant::now());
    let conclusion: Conclusion = libtest_mimic::run(&arguments, trials::all(false));
    if list {
        return conclusion.exit_code();
    }
    eprint!("moves: {}", lab::times::told(begun.elapsed()));
    let left = lab::strays::left_over();
    for stray in &left {
        eprintln!("left over: {stray}");
    }
    if left.is_empty() { conclusion.exit_code() } else { ExitCode::FAILURE }
}
