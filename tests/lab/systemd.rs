//! systemd as the init of namespaces inside a host of the lab (`tools/systemd.sh`), with the units that a trial gives it
//! and no others. The network is the host's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::process::{Ended, Proc};
use super::{Lab, SOON, wait_until};

const PLACES: [&str; 2] = ["/lib/systemd/systemd", "/usr/lib/systemd/systemd"];
/// Targets that units name; here nothing belongs to them.
const TARGETS: [&str; 6] = ["sysinit", "basic", "shutdown", "network-online", "multi-user", "default"];

/// Why there is none here; `None` if there is.
pub(crate) fn missing() -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if !PLACES.iter().any(|place| Path::new(place).exists()) {
        return Some("systemd is not installed".to_owned());
    }
    if !whole {
        return Some("systemd as an init needs root, not a user namespace".to_owned());
    }
    group().and_then(|group| Ok(fs::remove_dir(group)?)).err().map(|error| format!("{error:#}"))
}

/// A systemd that has booted.
#[derive(Debug)]
pub(crate) struct Systemd {
    process: Proc,
    host: String,
    group: PathBuf,
    /// Pid 1, as this test program sees it.
    init: i32,
}

impl Systemd {
    /// Boots one with these units: names and contents.
    pub(crate) fn boot(lab: &Lab, host: &str, units: &[(&str, &str)]) -> Result<Self> {
        let dir = lab.dir().join("units");
        for target in TARGETS {
            let text = format!("[Unit]\nDescription={target}\nDefaultDependencies=no\n");
            write(&dir.join(format!("{target}.target")), &text)?;
        }
        units.iter().try_for_each(|(name, text)| write(&dir.join(name), text))?;
        let group = group()?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/tools/systemd.sh");
        let process =
            lab.spawn(host, &["sh", script, &dir.display().to_string(), &group.display().to_string()])?;
        let mut booted = Self { process, host: host.to_owned(), group, init: 0 };
        let outer = booted.process.outside_pid();
        wait_until("systemd is pid 1", SOON, || {
            let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"));
            let child = children.unwrap_or_default().trim().parse::<i32>().unwrap_or(0);
            let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            booted.init = child;
            name.trim() == "systemd"
        })
        .with_context(|| booted.process.errors())?;
        wait_until("systemd answers", SOON, || {
            booted.run(lab, &["systemctl", "is-active", "default.target"]).is_ok_and(|ended| ended.exit == 0)
        })
        .with_context(|| booted.process.errors())?;
        Ok(booted)
    }

    /// Runs a command beside it.
    pub(crate) fn run(&self, lab: &Lab, argv: &[&str]) -> Result<Ended> {
        // the host has a /proc of its own, in which pid 1 of the inner namespace has another number
        let pids = pids(self.init).context("systemd is gone")?;
        let pid = pids.iter().rev().nth(1).context("systemd has no pid namespace of its own")?.to_string();
        let enter = ["nsenter", "-t", &pid, "-m", "-p", "-C", "--", "env", "ULPM_HOME=/var/lib/ulpm"];
        lab.run(&self.host, &[&enter[..], argv].concat(), SOON)
    }

    /// The same; an error if it does not end with 0.
    pub(crate) fn succeed(&self, lab: &Lab, argv: &[&str]) -> Result<String> {
        let ended = self.run(lab, argv)?;
        ensure!(ended.exit == 0, "{argv:?}: {ended:?}");
        Ok(ended.stdout.trim().to_owned())
    }

    /// The pid outside of the process that it knows as `pid`, should that have a pid namespace of its own, too.
    pub(crate) fn outside(&self, pid: i32) -> Result<i32> {
        let level = pids(self.init).context("systemd is gone")?.len() - 1;
        let name = self.group.file_name().context("a control group without a name")?.to_string_lossy();
        let is = |outside: &i32| {
            let group = fs::read_to_string(format!("/proc/{outside}/cgroup")).unwrap_or_default();
            group.contains(name.as_ref())
                && pids(*outside).and_then(|all| all.get(level).copied()) == Some(pid)
        };
        let all = fs::read_dir("/proc")?.flatten();
        let mut all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        all.find(is).with_context(|| format!("no process {pid} under systemd"))
    }

    /// The control group of a process, as systemd names it.
    pub(crate) fn group_of(&self, outside: i32) -> Result<String> {
        let text = fs::read_to_string(format!("/proc/{outside}/cgroup"))?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::")).context("no control group")?;
        let name = self.group.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(path.split_once(&name).map_or(path, |(_, inside)| inside).to_owned())
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // the kernel ends with it all that lives in its pid namespace
        let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
        let _ = self.process.wait(crate::lab::SOON);
        let empty =
            || fs::read_to_string(self.group.join("cgroup.events")).is_ok_and(|e| e.contains("populated 0"));
        let _ = wait_until("all of it has ended", crate::lab::SOON, empty);
        remove_groups(&self.group);
    }
}

/// A process's pid in each pid namespace, the outermost first.
fn pids(outside: i32) -> Option<Vec<i32>> {
    let status = fs::read_to_string(format!("/proc/{outside}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().map(|pid| pid.parse().ok()).collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("a unit without a directory")?)?;
    Ok(fs::write(path, text)?)
}

/// A new control group (version 2) below our own.
fn group() -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("ulpm-lab-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let root = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|words| words.get(2) == Some(&"cgroup2"))
        .map(|words| words[1].to_owned())
        .context("control groups of version 2 are not mounted")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).context("no control group")?;
    let group = Path::new(&root).join(own).join(name);
    fs::create_dir(&group).with_context(|| format!("making the control group {}", group.display()))?;
    Ok(group)
}

fn remove_groups(group: &Path) {
    for inside in fs::read_dir(group).into_iter().flatten().flatten() {
        if inside.path().is_dir() {
            remove_groups(&inside.path());
        }
    }
    let _ = fs::remove_dir(group);
}
