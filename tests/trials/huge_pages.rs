//! A target without huge pages (hugetlb) enough: refused before anything is stopped if that can be known, aborted if
//! they go away under way. Both hosts draw on the one pool of this machine, so the process must take more than half.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::Victim;
use crate::lab::huge_pages::{HugePages, available};
use crate::lab::needs::Need;
use crate::lab::udp_proxy::UdpProxy;
use crate::lab::{Lab, PORT, SOON, victims, wait_until};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("refuse too few huge pages", &[Need::HugePages], |lab| too_few(lab, "reserve")),
        trial("refuse too few huge pages for those in use", &[Need::HugePages], |lab| too_few(lab, "touch")),
        trial("abort huge pages taken under way", &[Need::HugePages], taken_under_way),
    ]
}

/// `how`: whether the process was promised its pages or just uses them.
fn too_few(lab: &mut Lab, how: &str) -> Result<()> {
    lab.hold(HugePages::alone(20)?);
    lab.serve("b")?;
    let there = available()?;
    let pages = there / 2 + 5;
    let count = pages.to_string();
    let mut victim = Victim::start_command(lab, &[&victims::tool("huge_pages")?, how, &count])?;
    let left = available()?;
    ensure!(left < pages, "{left} are left: {pages} of {there} were taken");
    let (needs, has) = (format!("needs {pages}"), format!("has {left} free"));
    let said = ["huge pages of 2MB", &needs, &has, "sysctl vm.nr_hugepages="];
    lab.live("a", victim.pid, "b", &[])?.refused(3, &said)?;
    victim.check_running(lab)?;
    // what was advised is done
    lab.hold(HugePages::add_to_alone(pages - left)?);
    victim.move_to(lab, "b")?;
    victim.finish()
}

/// Somebody else takes the pages that preflight saw, between the first pages on the wire and the last.
fn taken_under_way(lab: &mut Lab) -> Result<()> {
    /// 40 MiB take three seconds, and a minute until the pages are taken.
    const RATE: u64 = 13_000_000;
    const SLOW: u64 = 600_000;
    lab.hold(HugePages::alone(42)?);
    lab.serve("b")?;
    let tool = victims::tool("huge_pages")?;
    let mut victim = Victim::start_command(lab, &[&tool, "touch", "20"])?;
    let proxy = UdpProxy::between(lab.host("a"), lab.host("b"), PORT)?;
    proxy.rate(RATE);
    let mut live = lab.start_live("a", victim.pid, &proxy.address(), &["--verify"])?;
    wait_until("pages are on their way", SOON, || {
        live.has_ended().unwrap_or(true) || proxy.forwarded() > 4_000_000
    })?;
    proxy.rate(SLOW);
    ensure!(!live.has_ended()?, "the move is over: {}", live.errors());
    let rest = available()?.to_string();
    let stop = lab.dir().join("stop-thief").display().to_string();
    let thief = lab.spawn("a", &[&tool, "rest", &rest, &stop])?;
    wait_until("the pages are taken", SOON, || thief.output().contains("ready"))?;
    proxy.rate(RATE);
    let outcome = live.outcome()?;
    outcome.refused(4, &["too few free huge pages of 2048 kb", "sysctl vm.nr_hugepages"])?;
    victim.check_running(lab)?;
    std::fs::write(&stop, "")?;
    wait_until("the pages are back", SOON, || available().is_ok_and(|n| n >= 20))?;
    std::thread::sleep(Duration::from_millis(100));
    victim.move_to(lab, "b")?;
    victim.finish()
}
