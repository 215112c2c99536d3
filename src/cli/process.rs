//! Which process is meant: by its number, or by its name where only one has it.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::{Exit, Failure};
use crate::image::file_path::printable;
use crate::image::shown;
use crate::sys::voice;
use crate::transport::RemoteAddr;

/// A process as it is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// By its number.
    Pid(i32),
    /// By the name that `ps` shows, or that of its program's file.
    Name(OsString),
}

/// Why a text names no process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a pid (from 1 to 2147483647) nor a name")]
pub(crate) struct NoName;

impl TryFrom<OsString> for Named {
    type Error = NoName;

    /// A name is any bytes, as the kernel takes them.
    fn try_from(typed: OsString) -> Result<Self, NoName> {
        let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        let Some(text) = typed.to_str() else { return Ok(Named::Name(typed)) };
        match text.parse() {
            Ok(pid @ 1..) => Ok(Named::Pid(pid)),
            Ok(_) => Err(NoName),
            Err(_) if text.is_empty() || digits(text.trim_start_matches('-')) => Err(NoName),
            Err(_) => Ok(Named::Name(typed)),
        }
    }
}

/// How clap reads one.
fn named() -> impl TypedValueParser<Value = Named> {
    OsStringValueParser::new().try_map(Named::try_from)
}

/// The process of `check`, `live` and `profile`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Subject {
    /// The process: its pid, or its name where only one process has it
    #[arg(value_name = "PID|NAME", value_parser = named())]
    process: Option<Named>,
    /// The same
    #[arg(long = "pid", value_name = "PID|NAME", conflicts_with = "process", value_parser = named())]
    pid: Option<Named>,
}

impl Subject {
    /// What was typed.
    pub(crate) fn named(&self) -> Option<&Named> {
        self.pid.as_ref().or(self.process.as_ref())
    }

    /// Its number, if any process was named.
    pub(crate) fn find(&self) -> Result<Option<i32>, Failure> {
        self.named().map(Named::find).transpose()
    }

    /// Its number.
    pub(crate) fn required(&self) -> Result<i32, Failure> {
        let missing = || Failure::usage(anyhow::anyhow!("which process? name its pid (see --help)"));
        self.find()?.ok_or_else(missing)
    }
}

/// Where `ulpm serve` listens.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// The host to which it goes, where `ulpm serve` listens
    #[arg(value_name = "HOST[:PORT]")]
    host: Option<RemoteAddr>,
    /// The same
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with = "host")]
    to: Option<RemoteAddr>,
}

impl Target {
    /// What was typed.
    pub(crate) fn named(&self) -> Option<&RemoteAddr> {
        self.to.as_ref().or(self.host.as_ref())
    }

    /// The same, where there must be one.
    pub(crate) fn required(&self) -> Result<&RemoteAddr, Failure> {
        let missing = || Failure::usage(anyhow::anyhow!("to which host? name it (see --help)"));
        self.named().ok_or_else(missing)
    }
}

impl Named {
    fn find(&self) -> Result<i32, Failure> {
        let name = match self {
            Named::Pid(pid) => return Ok(*pid),
            Named::Name(name) => name,
        };
        match &candidates(name)[..] {
            [] => Err(anyhow::anyhow!("no process is called {}", printable(name.as_bytes())).into()),
            [(pid, _)] => Ok(*pid),
            several => {
                let mut list = String::new();
                for (pid, line) in several {
                    let _ = write!(list, "; {pid}: {}", shown(line));
                }
                let error = anyhow::anyhow!(
                    "{} processes are called {}, name one by its pid{list}",
                    several.len(),
                    printable(name.as_bytes())
                );
                Err(Failure::new(Exit::Usage, error))
            }
        }
    }
}

/// All of that name but ourselves, by number, each with the beginning of its command line. What has ended and was not reaped is no
/// process any more.
fn candidates(name: &OsStr) -> Vec<(i32, String)> {
    let own = [std::process::id() as i32, nix::unistd::getppid().as_raw()];
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<(i32, String)> = pids
        .filter(|pid| !own.contains(pid) && is_called(*pid, name) && voice::lives(*pid))
        .map(|pid: i32| {
            let line = fs::read(format!("/proc/{}/cmdline", voice::of(pid))).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (pid, line.trim_end().chars().take(60).collect())
        })
        .collect();
    found.sort_unstable();
    found
}

fn is_called(pid: i32, name: &OsStr) -> bool {
    let program = fs::read_link(format!("/proc/{}/exe", voice::of(pid)));
    crate::sys::status::name(pid) == name.as_bytes()
        || program.is_ok_and(|path| path.file_name().is_some_and(|file| file == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_pids_and_all_else_is_a_name() {
        let read = |text: &[u8]| Named::try_from(OsStr::from_bytes(text).to_owned());
        assert_eq!(read(b"42"), Ok(Named::Pid(42)));
        for name in [&b"redis-server"[..], b"\xff\xfe name"] {
            assert_eq!(read(name), Ok(Named::Name(OsStr::from_bytes(name).to_owned())));
        }
        for text in ["", "0", "-3", "99999999999"] {
            assert_eq!(read(text.as_bytes()), Err(NoName), "{text}");
        }
    }
}
