//! A stopped process as an object: attach, freeze, remote system calls.
//!
//! ptrace belongs to the OS thread that attached: a migration has one dedicated thread that owns all its
//! tracees, and everything here must be called from it.
//!
//! | file | owns |
//! |---|---|
//! | [`thread`] | the choke points: one function resumes a thread, one waits for its stop |
//! | [`stop`] | where a thread stopped, decoded once |
//! | [`freeze`] | stopping every thread of a process, letting them go |
//! | [`batch`] | a table of system calls and its data |
//! | [`remote`] | making a stopped thread execute it |
//! | [`scratch`] | the area in which it does |
//! | [`lent`] | the same on the process's own stack, where nothing can be mapped |
//! | [`site`] | what that needs to know of a process |
//! | [`shelter`] | where the thread is safe to run on if we are killed meanwhile |
//! | [`ward`] | seccomp, syscall user dispatch, 32-bit code, forced signals: what our calls must not run into |
//! | `sigframe` | the signal frames of which a shelter is made |
//! | [`together`] | tracer and tracee on one CPU, ahead of others |
//! | [`restart`] | what becomes of the system call that a stop interrupted |
//! | [`ending`] | killing a traced process, with a last look at its queues |

pub mod batch;
pub mod ending;
pub mod error;
pub mod freeze;
pub mod lent;
pub mod remote;
pub mod restart;
pub mod scratch;
pub mod shelter;
mod sigframe;
pub mod site;
pub mod stop;
pub mod thread;
pub mod together;
pub mod ward;

pub use batch::{Batch, Outcome};
pub use error::TraceeError;
pub use freeze::Frozen;
pub use lent::Lent;
pub use remote::Remote;
pub use scratch::{Place, Scratch};
pub use shelter::Bell;
pub use site::Site;
