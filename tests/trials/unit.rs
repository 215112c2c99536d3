//! The unit that is shipped (`contrib/ulpm-serve.service`), under a real systemd: processes arrive, in scopes of their own,
//! and live on whatever is done to the service.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::{Victim, is_gone};
use crate::lab::needs::Need;
use crate::lab::systemd::Systemd;
use crate::lab::udp_proxy::UdpProxy;
use crate::lab::{Lab, PORT, SOON, ULPM, victims, wait_until};

const UNIT: &str = include_str!("../../contrib/ulpm-serve.service");
/// Bytes per second, so that the lazy phase lasts: the `late` victim has 100 MiB.
const RATE: u64 = 25_000_000;
const SERVICE: &str = "ulpm-serve.service";

pub(super) fn trials() -> Vec<Trial> {
    let needs = &[Need::Systemd, Need::Program("systemd-run"), Need::Program("setpriv"), Need::OtherUsers];
    vec![
        trial("unit under systemd", needs, under_systemd),
        trial("unit restarted amid lazy memory", needs, amid_lazy),
    ]
}

/// Host `b` with systemd and the unit in it: as it is shipped, but for the place of the program, and where it logs.
fn boot(lab: &Lab) -> Result<Systemd> {
    ensure!(UNIT.contains("/usr/bin/ulpm serve"), "the unit does not start /usr/bin/ulpm");
    let unit = UNIT.replace("/usr/bin/ulpm", ULPM);
    let log = lab.dir().join("unit.err");
    let mark = format!("{}={}", crate::lab::strays::MARK, std::process::id());
    let drop_in =
        format!("[Service]\nStandardError=append:{}\nEnvironment={mark} ULPM_LOG=info\n", log.display());
    let systemd = Systemd::boot(lab, "b", &[(SERVICE, &unit), (&format!("{SERVICE}.d/lab.conf"), &drop_in)])?;
    let there = systemd.succeed(lab, &[ULPM, "trust", "show"])?;
    let here = lab.run("a", &[ULPM, "trust", "show"], SOON)?.stdout.trim().to_owned();
    systemd.succeed(lab, &[ULPM, "trust", "add", &here, "--name", "a"])?;
    let added = lab.run("a", &[ULPM, "trust", "add", &there, "--name", "b"], SOON)?;
    ensure!(added.exit == 0, "{added:?}");
    // returns when the service has said that it is ready (Type=notify)
    systemd.succeed(lab, &["systemctl", "start", SERVICE])?;
    Ok(systemd)
}

/// A process that has come, as it is seen from outside.
struct Arrived {
    victim: Victim,
    outside: i32,
}

impl Arrived {
    /// An ordinary user's process, moved by `args`, in a scope of its own.
    fn come(lab: &Lab, systemd: &Systemd, stop: &str, args: &[&str]) -> Result<Self> {
        let mut victim = ordinary(lab, "threads", stop)?;
        let before = victim.outside_pid(lab)?;
        let outcome = lab.live("a", victim.pid, &format!("{}:{PORT}", lab.link.b), args)?;
        victim.pid = outcome.moved()?;
        ensure!(is_gone(before), "the source's copy still exists");
        let arrived = Self { outside: systemd.outside(victim.pid)?, victim };
        let id = outcome.report["id"].as_str().context("no id in the report")?;
        let group = systemd.group_of(arrived.outside)?;
        // its pid may be taken by a thread of one that came before
        let own = ["", "-namespace"].map(|part| format!("/ulpm.slice/ulpm-{id}{part}.scope"));
        ensure!(own.contains(&group), "it lives in {group}");
        Ok(arrived)
    }

    fn runs(&self) -> Result<()> {
        let said = self.victim.said();
        ensure!(!said.contains("FAIL") && !is_gone(self.outside), "process {}: {said}", self.outside);
        Ok(())
    }
}

fn ordinary(lab: &Lab, name: &str, stop: &str) -> Result<Victim> {
    fs::set_permissions(lab.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let run = format!(
        "chmod 666 /proc/self/fd/1 /proc/self/fd/2; exec setpriv --reuid=1234 --regid=1234 --clear-groups {} \"$1\"",
        victims::program(name)?
    );
    Victim::start_until(lab, stop, &["sh", "-c", &run, "sh"])
}

fn main_pid(lab: &Lab, systemd: &Systemd) -> Result<String> {
    systemd.succeed(lab, &["systemctl", "show", "--property=MainPID", "--value", SERVICE])
}

fn under_systemd(lab: &mut Lab) -> Result<()> {
    let systemd = boot(lab)?;
    let log = || fs::read_to_string(lab.dir().join("unit.err")).unwrap_or_default();
    let server = systemd.outside(main_pid(lab, &systemd)?.parse()?)?;
    let group = systemd.group_of(server)?;
    ensure!(group == format!("/system.slice/{SERVICE}"), "ulpm serve lives in {group}");
    let first = Arrived::come(lab, &systemd, "stop-1", &["--verify"])?;

    systemd.succeed(lab, &["systemctl", "restart", SERVICE])?;
    ensure!(is_gone(server), "it was not restarted");
    first.runs()?;
    let second = Arrived::come(lab, &systemd, "stop-2", &["--verify"])?;

    // killed in the middle of a move, started again by systemd, the journal settled; the process stays at the source
    let staying = ordinary(lab, "threads", "stop-3")?;
    let pause = ["--bandwidth", "20K"];
    let under_way = lab.start_live("a", staying.pid, &lab.address("b"), &pause)?;
    wait_until("a journal entry at the target", SOON, || {
        systemd
            .run(lab, &["sh", "-c", "ls /var/lib/ulpm/journal/*.target.journal"])
            .is_ok_and(|l| l.exit == 0)
    })?;
    let before = main_pid(lab, &systemd)?;
    systemd.succeed(lab, &["systemctl", "kill", "--kill-whom=main", "--signal=KILL", SERVICE])?;
    let failed = under_way.outcome()?;
    ensure!(failed.exit != 0, "it moved: {}", failed.report);
    wait_until("systemd starts it again", SOON, || {
        main_pid(lab, &systemd).is_ok_and(|pid| pid != before && pid != "0")
            && log().contains("it never ran here, nor will")
    })
    .with_context(log)?;
    staying.check_running(lab)?;
    wait_until("it is ready again", SOON, || {
        systemd.run(lab, &["systemctl", "is-active", SERVICE]).is_ok_and(|active| active.exit == 0)
    })?;
    let third = Arrived::come(lab, &systemd, "stop-4", &["--verify"])?;

    systemd.succeed(lab, &["systemctl", "stop", SERVICE])?;
    let left = systemd.run(lab, &["systemctl", "is-active", SERVICE])?;
    ensure!(left.stdout.trim() == "inactive", "{left:?}");
    let scopes = systemd
        .succeed(lab, &["systemctl", "list-units", "--type=scope", "--plain", "--no-legend", "ulpm-*"])?;
    ensure!(scopes.lines().count() == 3, "scopes: {scopes}");
    staying.finish()?;
    for arrived in [first, second, third] {
        arrived.runs()?;
        arrived.victim.finish()?;
    }
    wait_until("the scopes go with their processes", SOON, || {
        let left = systemd
            .run(lab, &["systemctl", "list-units", "--type=scope", "--plain", "--no-legend", "ulpm-*"]);
        left.is_ok_and(|left| left.stdout.trim().is_empty())
    })
}

/// What serves the memory that is still to come lives in a scope of its own, too.
fn amid_lazy(lab: &mut Lab) -> Result<()> {
    let systemd = boot(lab)?;
    let victim = ordinary(lab, "late", "stop")?;
    let before = victim.outside_pid(lab)?;
    let proxy = UdpProxy::between(lab.host("a"), lab.host("b"), PORT)?;
    proxy.rate(RATE);
    let mut live = lab.start_live("a", victim.pid, &proxy.address(), &["--verify", "--lazy"])?;
    let mut early = false;
    wait_until("the process runs there, without its memory", SOON * 3, || {
        early = live.has_ended().unwrap_or(true);
        let begun = || systemd.run(lab, &["sh", "-c", "ls /var/lib/ulpm/lazy/*.json"]);
        early || begun().is_ok_and(|begun| begun.exit == 0)
    })?;
    ensure!(!early, "the move ended before its lazy phase: {}", live.errors());
    let scopes = systemd.succeed(lab, &["sh", "-c", "ls -d /sys/fs/cgroup/ulpm.slice/ulpm-*.scope"])?;
    ensure!(scopes.contains("-memory.scope") && scopes.lines().count() == 2, "scopes: {scopes}");
    systemd.succeed(lab, &["systemctl", "restart", SERVICE])?;
    let pid = live.outcome()?.moved()?;
    let outside = systemd.outside(pid)?;
    ensure!(is_gone(before) && !is_gone(outside), "there is not exactly one");
    let holder = || systemd.run(lab, &["sh", "-c", "ls -d /sys/fs/cgroup/ulpm.slice/ulpm-*-memory.scope"]);
    wait_until("the scope of its memory goes", SOON, || holder().is_ok_and(|left| left.exit != 0))?;
    victim.finish()
}
