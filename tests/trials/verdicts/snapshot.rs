//! What can be seen of a process at one time, as `tests/lab/tools/snapshot.c` prints it; and how two of them differ.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ulpm::state::verdicts::{Area, Row, Verdict, of, of_option};

use crate::lab::victims;

/// What a fact is about: area, scope (`thread 0`, `fd 3`, `area 7f…`), name.
pub(super) type Key = (String, String, String);

/// Everything that was seen.
#[derive(Debug, Clone)]
pub(super) struct Snapshot(BTreeMap<Key, Vec<String>>);

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Each thread is stopped, and system calls are made in its name.
    Inside,
    /// From outside alone: for programs that notice a stop.
    Outside,
}

/// Memory that a process holds may differ by this: pages that it shares, or touched meanwhile.
const SLACK_KIB: u64 = 2048;

impl Snapshot {
    /// Of a process, by its pid here.
    pub(super) fn of(pid: i32, reach: Reach) -> Result<Self> {
        let mut command = Command::new(victims::tool("snapshot")?);
        command.arg(pid.to_string()).args((reach == Reach::Outside).then_some("outside"));
        let output = command.output().context("running the snapshot tool")?;
        ensure!(output.status.success(), "snapshot of {pid}: {:?}", output.status);
        let mut facts: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let [area, scope, name, value] = line.splitn(4, '\t').collect::<Vec<_>>()[..] else { continue };
            facts.entry((area.into(), scope.into(), name.into())).or_default().push(value.into());
        }
        ensure!(facts.len() > 200, "snapshot of {pid} shows {} facts only", facts.len());
        Ok(Snapshot(facts))
    }

    /// What is not the same, or is there in one of them only.
    pub(super) fn differences(&self, after: &Snapshot) -> BTreeSet<Key> {
        let keys: BTreeSet<&Key> = self.0.keys().chain(after.0.keys()).collect();
        keys.into_iter().filter(|key| !self.same(after, key)).cloned().collect()
    }

    fn same(&self, after: &Snapshot, key: &Key) -> bool {
        let (before, after) = (self.0.get(key), after.0.get(key));
        if key.2 == "smaps Pss" {
            let kib = |facts: Option<&Vec<String>>| facts?.first()?.parse::<u64>().ok();
            let (Some(before), Some(after)) = (kib(before), kib(after)) else { return false };
            return after <= before + before / 4 + SLACK_KIB;
        }
        if key.2 == "fdinfo tfd" {
            // an epoll's descriptors come in the order of addresses in the kernel
            let sorted = |facts: Option<&Vec<String>>| {
                facts.map(|facts| facts.iter().cloned().collect::<BTreeSet<_>>())
            };
            return sorted(before) == sorted(after);
        }
        before == after
    }

    /// Whether it was there at all.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.0.contains_key(key)
    }

    /// One fact, for a message.
    pub(super) fn show(&self, key: &Key) -> String {
        self.0.get(key).map_or("-".to_owned(), |values| values.join(" | "))
    }
}

/// The row of the table that a fact belongs to.
pub(super) fn row((area, _, name): &Key) -> Option<&'static Row> {
    let area = match area.as_str() {
        "Status" => Area::Status,
        "Stat" => Area::Stat,
        "ProcFiles" => Area::ProcFiles,
        "Namespaces" => Area::Namespaces,
        "Limits" => Area::Limits,
        "VmFlags" => Area::VmFlags,
        "Descriptors" => Area::Descriptors,
        "Prctl" => Area::Prctl,
        "Ptrace" => Area::Ptrace,
        "Scheduling" => Area::Scheduling,
        "Unseen" => Area::Unseen,
        "Sockets" => {
            let (level, number) = name.split_once(' ')?;
            let level = match level {
                "SOL_SOCKET" => libc::SOL_SOCKET,
                "IPPROTO_IP" => libc::IPPROTO_IP,
                "IPPROTO_IPV6" => libc::IPPROTO_IPV6,
                "IPPROTO_TCP" => libc::IPPROTO_TCP,
                _ => libc::IPPROTO_UDP,
            };
            return of_option(level, number.parse().ok()?);
        }
        _ => return None,
    };
    // "fdinfo pos" has a row, or else the file has one
    of(area, name).or_else(|| of(area, name.split(' ').next()?))
}

/// Options that mean nothing on a stream, as the table's row for them says.
const OF_GROUPS: [&str; 3] = ["IPPROTO_IP 33", "IPPROTO_IPV6 18", "IPPROTO_IPV6 17"];

/// Whether the table says that this may differ at the target.
pub(super) fn may_differ(key: &Key, before: &Snapshot) -> bool {
    let (area, scope, name) = key;
    let kind = (area.clone(), scope.clone(), format!("SOL_SOCKET {}", libc::SO_TYPE));
    let stream = before.show(&kind).starts_with("01");
    let groups = "IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_IF of a stream";
    let fixed = area == "VmFlags" && name == "sh" && !before.has(&(area.clone(), scope.clone(), "mw".into()));
    let row = match name.as_str() {
        _ if fixed => of(Area::Descriptors, "VmFlags sh without mw"),
        option if stream && OF_GROUPS.contains(&option) => of(Area::Sockets, groups),
        _ => row(key),
    };
    row.is_some_and(|row| matches!(row.verdict, Verdict::Harmless(_) | Verdict::Limited(_)))
}
