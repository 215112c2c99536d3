//! What a trial needs of this machine, and which trials may be skipped for want of it (`tests/skips.txt`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::{Completion, Failed};

/// Something that a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The right to make namespaces.
    Hosts,
    /// A program in the path that hosts have.
    Program(&'static str),
    /// Kernel threads to be seen: no pid namespace around the tests.
    KernelThreads,
    /// More than one user in this user namespace.
    OtherUsers,
    /// `tc`'s token bucket.
    TokenBucket,
    /// The right to make control groups with a limit of memory.
    MemoryGroup,
    /// The right to set huge pages of 2 MiB aside.
    HugePages,
    /// The right to add swap space.
    Swap,
    /// systemd, and the right to make it the init of namespaces.
    Systemd,
    /// cargo, to build.
    Cargo,
    /// Linux of at least this version.
    Kernel(u32, u32),
}

impl Need {
    /// Why this need is not met here; `None` if it is.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Need::Hosts => no_hosts(),
            Need::Program(name) => find_program(name).is_none().then(|| format!("{name} is not installed")),
            Need::KernelThreads => {
                let second = std::fs::read_to_string("/proc/2/comm").unwrap_or_default();
                (second.trim() != "kthreadd").then(|| "no kernel thread is to be seen".to_owned())
            }
            Need::OtherUsers => {
                let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
                let users = map.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok());
                (users.unwrap_or(0) < 2000).then(|| "this user namespace has one user".to_owned())
            }
            Need::MemoryGroup => {
                memory_groups().is_none().then(|| "no control group for memory is writable".to_owned())
            }
            Need::HugePages => super::huge_pages::missing(),
            Need::Swap => super::swap::Swap::missing(),
            Need::Systemd => super::systemd::missing(),
            Need::Cargo => {
                let version = Command::new(cargo()).arg("--version").stdout(Stdio::null()).status();
                version.is_err().then(|| "cargo is not installed".to_owned())
            }
            Need::Kernel(major, minor) => {
                let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
                let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
                let ours = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                (ours < (major, minor))
                    .then(|| format!("Linux {major}.{minor} is not reached by {}", release.trim()))
            }
            Need::TokenBucket => {
                let help = Command::new("tc").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
                help.is_err().then(|| "tc (iproute2) is not installed".to_owned())
            }
        }
    }
}

/// Why there can be no hosts. Once there was one there can be others.
fn no_hosts() -> Option<String> {
    static ONE: AtomicBool = AtomicBool::new(false);
    if ONE.load(Ordering::Relaxed) {
        return None;
    }
    let made = ulpm::demo::hosts::Host::create("probe", &probe_options());
    ONE.fetch_or(made.is_ok(), Ordering::Relaxed);
    made.err().map(|error| format!("no hosts from namespaces: {error}"))
}

/// What becomes of a trial that cannot run here: skipped, or failed in CI where that is not foreseen.
pub(crate) fn skipped(trial: &str, reason: &str) -> Result<Completion, Failed> {
    let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    if in_ci && !may_skip(trial) {
        return Err(Failed::from(format!("cannot run here and is not in tests/skips.txt: {reason}")));
    }
    eprintln!("skipped {trial}: {reason}");
    Ok(Completion::ignored_with(reason))
}

/// Runs a trial; an error or a panic as a text.
pub(crate) fn caught(run: impl FnOnce() -> anyhow::Result<()>) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(panic) => Err(match panic.downcast_ref::<String>() {
            Some(text) => format!("panic: {text}"),
            None => format!("panic: {}", panic.downcast_ref::<&str>().unwrap_or(&"of another kind")),
        }),
    }
}

/// Whether `tests/skips.txt` lets this trial be skipped.
fn may_skip(trial: &str) -> bool {
    let list = include_str!("../skips.txt");
    list.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).any(|name| name == trial)
}

/// Where control groups for memory are made, if they can be.
pub(crate) fn memory_groups() -> Option<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let v2 = std::fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
    let place = if v2.contains("memory") { root.to_owned() } else { root.join("memory") };
    let probe = place.join(format!("ulpm-probe-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::create_dir(&probe).ok()?;
    std::fs::remove_dir(&probe).ok()?;
    Some(place)
}

/// The cargo that runs these tests, or the one in our path.
pub(crate) fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// A program of the distribution, as a host's path finds it.
pub(crate) fn find_program(name: &str) -> Option<String> {
    let places = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    places.iter().map(|place| format!("{place}/{name}")).find(|path| Path::new(path).exists())
}

fn probe_options() -> ulpm::demo::hosts::HostOptions {
    ulpm::demo::hosts::HostOptions { program: Some(super::ULPM.into()), ..Default::default() }
}
