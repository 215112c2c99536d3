//! The lab of virtual machines: two of them, joined by a wire, with Debian's kernel (6.1: soft-dirty bits, no
//! `PAGEMAP_SCAN`) under software emulation.
//!
//! | file | holds |
//! |---|---|
//! | `packages.rs` | kernel and busybox, out of packages that are not installed |
//! | `image.rs`, `cpio.rs`, `init.sh` | the first root of a machine and its first program |
//! | `machine.rs` | a running QEMU and what can be asked of it |
//! | `wire.rs`, `channel.rs`, `agent.rs` | how it is asked: the messages, this end, the other end |
//! | `pair.rs` | both machines, trust and `ulpm serve` in them, moves between them |
//! | `trials/` | the trials |

pub(crate) mod pair;
pub(crate) mod trials;

mod agent;
mod channel;
mod cpio;
mod image;
mod machine;
mod packages;
mod shell;
mod wire;

use std::process::ExitCode;

/// Roles in which this program is started by itself (inside a machine) or by hand; `None` for the usual one.
pub(crate) fn answer_hidden_calls() -> Option<ExitCode> {
    match std::env::args().nth(1)?.as_str() {
        "__agent" => agent::main(),
        "__inside" => Some(trials::inside::main()),
        "shell" => Some(shell::main()),
        _ => None,
    }
}
