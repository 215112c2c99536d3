//! What a trial needs of this machine, and which trials may be skipped for want of it (`tests/skips.txt`).

use std::path::Path;
use std::process::{Command, Stdio};

/// Something that a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The right to make namespaces.
    Hosts,
    /// A program in the path that hosts have.
    Program(&'static str),
    /// `tc`'s token bucket.
    TokenBucket,
}

impl Need {
    /// Why this need is not met here; `None` if it is.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Need::Hosts => match ulpm::demo::hosts::Host::create("probe", &probe_options()) {
                Ok(_) => None,
                Err(error) => Some(format!("no hosts from namespaces: {error}")),
            },
            Need::Program(name) => find_program(name).is_none().then(|| format!("{name} is not installed")),
            Need::TokenBucket => {
                let help = Command::new("tc").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
                help.is_err().then(|| "tc (iproute2) is not installed".to_owned())
            }
        }
    }
}

/// Whether `tests/skips.txt` lets this trial be skipped.
pub(crate) fn may_skip(trial: &str) -> bool {
    let list = include_str!("../skips.txt");
    list.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).any(|name| name == trial)
}

/// A program of the distribution, as a host's path finds it.
pub(crate) fn find_program(name: &str) -> Option<String> {
    let places = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    places.iter().map(|place| format!("{place}/{name}")).find(|path| Path::new(path).exists())
}

fn probe_options() -> ulpm::demo::hosts::HostOptions {
    ulpm::demo::hosts::HostOptions { program: Some(super::ULPM.into()), ..Default::default() }
}
