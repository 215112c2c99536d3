//! Moves real processes between two virtual machines that run another kernel (`docs/vm-lab.md`).
//!
//! `cargo test --test vm -- FILTER` runs the trials whose name contains FILTER, `--list` names them all. This program is
//! also what works inside the machines: as their agent, and for the trials of `tests/trials/` that run there.

mod lab;
mod trials;
#[path = "vm/mod.rs"]
mod vm;

use std::process::ExitCode;
use std::time::Instant;

use libtest_mimic::{Arguments, Conclusion};

/// Both machines are used by one trial at a time.
const MOST_AT_ONCE: usize = 1;

fn main() -> ExitCode {
    if let Some(exit) = vm::answer_hidden_calls().or_else(trials::rebuilt::answer_hidden_calls) {
        return exit;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(MOST_AT_ONCE);
    let (list, begun) = (arguments.list, Instant::now());
    let conclusion: Conclusion = libtest_mimic::run(&arguments, vm::trials::all());
    if list {
        return conclusion.exit_code();
    }
    vm::pair::shut_down();
    eprint!("vm: {}", lab::times::told(begun.elapsed()));
    let left = lab::strays::left_over();
    for stray in &left {
        eprintln!("left over: {stray}");
    }
    if left.is_empty() { conclusion.exit_code() } else { ExitCode::FAILURE }
}
