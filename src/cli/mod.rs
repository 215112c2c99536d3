//! The command line: one file per subcommand; text, progress, exit codes.

pub mod demo;

/// How a command ended, as its documented exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed; nothing was touched.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Refused by preflight.
    Refused = 3,
    /// Aborted; the process runs on at the source.
    Aborted = 4,
    /// The outcome is open; `ulpm recover` settles it.
    Open = 5,
}
