//! Preflight at the target: whether there is room for the process: memory and tasks, of this host and of the control groups
//! in which it will live; the disk, for the journal. What changes later aborts the move: a process that the kernel's
//! out-of-memory killer has ended is told apart from others ([`Watch`]).

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::RestoreError;
use super::quarters::Place;
use crate::handover::journal;
use crate::image::Obstacle;
use crate::image::process::ProcessImage;
use crate::sys::cgroup::{Group, Room};
use crate::tracee::thread::state_of;

/// What is too little here.
pub fn obstacles(process: &ProcessImage, place: &Place, home: &Path) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let needs = process.memory.needs;
    if let Some(available) = available().filter(|available| needs > *available) {
        found.push(Obstacle::new(
            "memory",
            format!("the process needs {}, the target has {} available", mib(needs), mib(available)),
            "free memory at the target",
        ));
    }
    let groups = place.groups();
    if let Some(room) = tightest(&groups, Group::memory).filter(|room| needs > room.left) {
        found.push(Obstacle::new(
            "memory",
            format!(
                "the process needs {}, and the control group in which it would live allows {} more ({} is {})",
                mib(needs),
                mib(room.left),
                room.file.display(),
                mib(room.limit)
            ),
            "raise that limit at the target, or start ulpm serve with another --slice or --cgroup",
        ));
    }
    let tasks = process.threads.len() as u64;
    if let Some(room) = tightest(&groups, Group::tasks).filter(|room| tasks > room.left) {
        found.push(Obstacle::new(
            "threads",
            format!(
                "the process has {tasks}, and the control group in which it would live allows {} more ({} is {})",
                room.left,
                room.file.display(),
                room.limit
            ),
            "raise that limit at the target, or start ulpm serve with another --slice or --cgroup",
        ));
    }
    found.extend(place.obstacle());
    found.extend(disk(home, "at the target"));
    found
}

/// Whether the journal can be written: asked by writing. `whose`: of which side, for the user.
pub fn disk(home: &Path, whose: &str) -> Option<Obstacle> {
    let dir = super::settle::directory(home);
    let error = journal::try_writing(&dir).err()?;
    Some(Obstacle::new(
        format!("journal {} {whose}", dir.display()),
        format!("it cannot be written: {error}"),
        "make room there, or let ULPM_HOME be a directory on a disk that can be written",
    ))
}

fn tightest(groups: &[Group], room: fn(&Group) -> Option<Room>) -> Option<Room> {
    groups.iter().filter_map(room).min_by_key(|room| room.left)
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// How often the out-of-memory killer had struck when the process was begun.
#[derive(Clone, Debug)]
pub struct Watch {
    group: Option<(Group, u64)>,
    host: u64,
}

impl Watch {
    /// Of a process that has just been made.
    pub fn begin(pid: i32) -> Self {
        let group = Group::of(&pid.to_string(), "memory");
        Watch { group: group.map(|group| (group.clone(), group.killed())), host: killed_here() }
    }

    /// The same error, if it came of the process being killed for want of memory.
    pub fn tell(&self, pid: i32, error: RestoreError) -> RestoreError {
        if !is_dead(pid) {
            return error;
        }
        let room = match &self.group {
            Some((group, before)) if group.killed() > *before => group.memory(),
            _ if killed_here() > self.host => None,
            _ => return error,
        };
        let limit = room.map_or_else(
            || "this host has no more memory".to_owned(),
            |room| format!("its control group allows {} ({})", mib(room.limit), room.file.display()),
        );
        RestoreError::OutOfMemory { limit, source: Box::new(error) }
    }
}

/// Its pidfd does not tell: that waits for the other threads, which wait for us, their tracer.
fn is_dead(pid: i32) -> bool {
    (0..20).any(|_| {
        let dead = matches!(state_of(pid), '?' | 'Z' | 'X');
        if !dead {
            std::thread::sleep(Duration::from_millis(2));
        }
        dead
    })
}

/// Counts every kill, of control groups too.
fn killed_here() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}
