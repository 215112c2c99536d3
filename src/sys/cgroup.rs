//! Control groups, read: in which ones a process lives, and how much memory and how many tasks they still allow. Both
//! versions; where both are mounted each controller is in one of them (cgroups(7)).
//!
//! | | v2 | v1 |
//! |---|---|---|
//! | memory | `memory.max`, `memory.high`, `memory.current` | `memory.limit_in_bytes`, `memory.usage_in_bytes` |
//! | killed for want of it | `memory.events`: `oom_kill` | `memory.oom_control`: `oom_kill` |
//! | tasks | `pids.max`, `pids.current` | the same |
//!
//! A limit counts for all groups below the one that has it.

use std::fs;
use std::path::{Path, PathBuf};

/// A limit of version 1 from here on is none.
const NONE: u64 = 1 << 60;

/// A control group: its directory, and that of the topmost one to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    path: PathBuf,
    top: PathBuf,
}

/// What a group, or one above it, still allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// So much more.
    pub left: u64,
    /// The limit.
    pub limit: u64,
    /// The file that sets it.
    pub file: PathBuf,
}

/// Where a hierarchy is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// Which part of it.
    root: String,
    place: PathBuf,
    /// Of version 1: its controllers, or name.
    v1: Option<String>,
}

impl Group {
    /// In which group of the hierarchy that has `controller` a process (`self`, or a number) lives.
    pub fn of(pid: &str, controller: &str) -> Option<Self> {
        let mounts = mounts(&crate::sys::lossy("/proc/self/mountinfo").ok()?);
        find(&crate::sys::lossy(format!("/proc/{pid}/cgroup")).ok()?, &mounts, controller)
            .filter(|group| group.path.is_dir())
    }

    /// The group whose directory this is.
    pub fn at(path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok()?;
        let mounts = mounts(&crate::sys::lossy("/proc/self/mountinfo").ok()?);
        let above = mounts.into_iter().filter(|mount| path.starts_with(&mount.place));
        let top = above.max_by_key(|mount| mount.place.as_os_str().len())?.place;
        path.join("cgroup.procs").exists().then_some(Self { path, top })
    }

    /// Groups of that name below the top, in each hierarchy in which there is one.
    pub fn named(name: &Path) -> Vec<Self> {
        let text = crate::sys::lossy("/proc/self/mountinfo").unwrap_or_default();
        let there = mounts(&text).into_iter().map(|m| Self { path: m.place.join(name), top: m.place });
        there.filter(|group| group.path.is_dir()).collect()
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn up(&self) -> impl Iterator<Item = &Path> {
        self.path.ancestors().take_while(|dir| dir.starts_with(&self.top))
    }

    /// How much memory may still be taken, in bytes: file pages are given up, and what can be swapped out does not count.
    /// `None`: nothing limits it.
    pub fn memory(&self) -> Option<Room> {
        let swap = swap_free();
        self.up().flat_map(|dir| memory_of(dir, swap)).min_by_key(|room| room.left)
    }

    /// How many tasks there may still be.
    pub fn tasks(&self) -> Option<Room> {
        let room = |dir: &Path| {
            let file = dir.join("pids.max");
            let limit = number(&file)?;
            Some(Room { left: limit.saturating_sub(number(&dir.join("pids.current"))?), limit, file })
        };
        self.up().filter_map(room).min_by_key(|room| room.left)
    }

    /// How many processes of it were killed for want of memory.
    pub fn killed(&self) -> u64 {
        ["memory.events", "memory.oom_control"]
            .iter()
            .find_map(|name| field(&self.path.join(name), "oom_kill"))
            .unwrap_or(0)
    }
}

/// Both limits of a group, where it has any.
fn memory_of(dir: &Path, swap: u64) -> Vec<Room> {
    let reclaimed: u64 = ["inactive_file", "active_file"]
        .iter()
        .filter_map(|kind| {
            field(&dir.join("memory.stat"), &format!("total_{kind}"))
                .or_else(|| field(&dir.join("memory.stat"), kind))
        })
        .sum();
    let less = |most: &str, used: &str| {
        let most = number(&dir.join(most)).filter(|most| *most < NONE);
        most.map_or(u64::MAX, |most| most.saturating_sub(number(&dir.join(used)).unwrap_or(0)))
    };
    let swap = swap
        .min(less("memory.swap.max", "memory.swap.current"))
        .min(less("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"));
    let names = [
        ("memory.max", "memory.current"),
        ("memory.high", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ];
    names
        .iter()
        .filter_map(|(most, used)| {
            let file = dir.join(most);
            let limit = number(&file).filter(|limit| *limit < NONE)?;
            let used = number(&dir.join(used))?.saturating_sub(reclaimed);
            Some(Room { left: limit.saturating_sub(used).saturating_add(swap), limit, file })
        })
        .collect()
}

fn find(groups: &str, mounts: &[Mount], controller: &str) -> Option<Group> {
    let lines = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let own = |list: &str| list.split(',').any(|one| one == controller);
    let (list, path) = lines
        .clone()
        .find(|(list, _)| own(list))
        .or_else(|| lines.clone().find(|(list, _)| list.is_empty()))?;
    let mount = mounts.iter().find(|mount| match &mount.v1 {
        None => list.is_empty(),
        Some(there) => own(list) && own(there),
    })?;
    let below = Path::new(path).strip_prefix(&mount.root).ok()?;
    Some(Group { path: mount.place.join(below), top: mount.place.clone() })
}

/// Of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn mounts(text: &str) -> Vec<Mount> {
    let read = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, place) = (left.next()?.to_owned(), PathBuf::from(left.next()?));
        let mut right = right.split(' ');
        let v1 = match right.next()? {
            "cgroup2" => None,
            "cgroup" => Some(right.nth(1)?.to_owned()),
            _ => return None,
        };
        Some(Mount { root, place, v1 })
    };
    text.lines().filter_map(read).collect()
}

/// `max`, and what cannot be read, are `None`.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn field(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn swap_free() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("SwapFree:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
32 30 0:28 /here /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
";

    #[test]
    fn each_controller_is_in_one_hierarchy() {
        let mounts = mounts(MOUNTS);
        assert_eq!(mounts.len(), 3);
        let groups = "4:memory:/here/a\n2:cpu,cpuacct:/b\n0::/c/d\n";
        let at = |controller: &str| find(groups, &mounts, controller).unwrap().path.display().to_string();
        assert_eq!(at("memory"), "/sys/fs/cgroup/memory/a");
        assert_eq!(at("cpuacct"), "/sys/fs/cgroup/cpu/b");
        assert_eq!(at("pids"), "/sys/fs/cgroup/unified/c/d");
        // outside of what is mounted here
        assert_eq!(find("4:memory:/there\n", &mounts, "memory"), None);
    }

    #[test]
    fn the_tightest_limit_above_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (top, mid, low) = (dir.path().to_owned(), dir.path().join("mid"), dir.path().join("mid/low"));
        fs::create_dir_all(&low).unwrap();
        let put = |dir: &Path, name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        put(&low, "memory.max", "max\n");
        put(&low, "memory.current", "100\n");
        put(&mid, "memory.max", "5000\n");
        put(&mid, "memory.high", "4000\n");
        put(&mid, "memory.current", "3000\n");
        put(&mid, "memory.stat", "anon 1\ninactive_file 500\nactive_file 700\n");
        put(&mid, "memory.swap.max", "50\n");
        put(&mid, "memory.swap.current", "50\n");
        put(&mid, "memory.events", "oom 7\noom_kill 3\n");
        put(&mid, "pids.max", "10\n");
        put(&mid, "pids.current", "4\n");
        let group = Group { path: low, top };
        let file = mid.join("memory.high");
        assert_eq!(group.memory(), Some(Room { left: 4000 - 3000 + 1200, limit: 4000, file }));
        assert_eq!(group.tasks().unwrap().left, 6);
        assert_eq!(group.killed(), 0);
        assert_eq!(Group { path: mid, ..group }.killed(), 3);
    }

    #[test]
    fn version_1_has_no_limit_near_the_largest_number() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put("memory.limit_in_bytes", "9223372036854771712\n");
        put("memory.usage_in_bytes", "10\n");
        let group = Group { path: dir.path().to_owned(), top: dir.path().to_owned() };
        assert_eq!(group.memory(), None);
        put("memory.limit_in_bytes", "8192\n");
        put("memory.memsw.limit_in_bytes", "8192\n");
        put("memory.memsw.usage_in_bytes", "8192\n");
        put("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        assert_eq!(group.memory().unwrap().left, 8182);
        assert_eq!(group.killed(), 2);
    }
}
