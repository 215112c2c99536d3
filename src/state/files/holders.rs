//! Who else holds what the process holds: one walk over `/proc/*/fd` of all other processes.
//!
//! A pipe, socket pair, eventfd or memfd that another process holds too would be torn in two by the move; so would the
//! position and the flags of an open file (`{ program; echo done; } >log`: the shell holds it, too). Pipes, sockets and
//! memfds are recognised by inode; of other files only `kcmp` tells whether it is the same open file. It orders them, so one is found
//! among many by bisection.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs;

use crate::image::file_path::FilePath;
use crate::image::files::{FileKind, OpenFile};
use crate::state::shared_memory::{is_of_ulpm, named};
use crate::sys::fds;
use crate::sys::voice::{self, process_of};

use super::source::Source;
use super::{FilesError, refuse};

/// What a shared object means for the move.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It would be torn in two.
    Refuse,
    /// Each has a position, flags and an owner of its own from then on: only if the user says so.
    Split,
    /// Each keeps its own.
    Note,
}

/// How the object is recognised.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Its link has the inode.
    Link,
    Inode,
    /// It is the same open file.
    File,
}

/// An object of ours to look for elsewhere.
struct Wanted {
    /// `fd 7: pipe:[4711]`
    object: String,
    what: &'static str,
    fd: i32,
    ino: u64,
    verdict: Verdict,
    by: By,
    /// The other end of a unix socket: somebody must hold it.
    peer: bool,
}

/// Adds an obstacle (or a note) for every object that another process holds too.
pub(super) fn check(source: &mut Source<'_>) -> Result<(), FilesError> {
    let mut wanted = wanted(source);
    if wanted.is_empty() {
        return Ok(());
    }
    let own = process_of(source.pid);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids.filter(|pid| *pid != own) {
        if wanted.is_empty() {
            break;
        }
        // that of a main thread that has ended is empty
        if !search(source, &mut wanted, (pid, pid)) {
            let voice = voice::of(pid);
            search(source, &mut wanted, (pid, voice));
        }
    }
    for peer in wanted.into_values().flatten().filter(|wanted| wanted.peer) {
        source.refuse(refuse::peer_outside(&peer.object));
    }
    Ok(())
}

/// How a kind of file can be shared, and what that means.
fn kind(file: &OpenFile) -> Option<(&'static str, By, Verdict)> {
    let appends = file.flags as i32 & (libc::O_ACCMODE | libc::O_APPEND) == libc::O_WRONLY | libc::O_APPEND;
    Some(match &file.kind {
        FileKind::Pipe { .. } => ("this pipe", By::Link, Verdict::Refuse),
        FileKind::Unix(_) => ("this socket", By::Link, Verdict::Refuse),
        FileKind::MemFd { .. } => ("this memory file", By::Inode, Verdict::Refuse),
        FileKind::EventFd { .. } => ("this eventfd", By::File, Verdict::Refuse),
        // each write goes to the end, wherever the position is
        FileKind::Regular { .. } if appends => ("this open file", By::File, Verdict::Note),
        FileKind::Regular { .. } | FileKind::Directory { .. } => ("this open file", By::File, Verdict::Split),
        FileKind::TimerFd(_) => ("this timer", By::File, Verdict::Split),
        FileKind::Epoll { .. } => ("this epoll", By::File, Verdict::Split),
        FileKind::SignalFd { .. } => ("this descriptor", By::File, Verdict::Note),
        FileKind::TcpListen(_) | FileKind::Udp(_) => ("this socket", By::Link, Verdict::Note),
        // /dev/null and its like have no position
        FileKind::CharDevice { .. } | FileKind::Place { .. } | FileKind::TcpOver(_) => return None,
    })
}

/// Objects by link. After a preflight only those that it did not meet: an open file can come into another process by a child or
/// a message only.
fn wanted(source: &Source<'_>) -> HashMap<FilePath, Vec<Wanted>> {
    let mut wanted: HashMap<FilePath, Vec<Wanted>> = HashMap::new();
    for file in &source.image.files {
        let Some((what, by, verdict)) = kind(file) else { continue };
        let new = !source.was_met(&file.link) && verdict != Verdict::Split;
        if source.is_preflight() || new {
            let (object, fd, ino) = (file.object(), file.fd, file.ino);
            let one = Wanted { object, what, fd, ino, verdict, by, peer: false };
            wanted.entry(file.link.clone()).or_default().push(one);
        }
    }
    for (file, peer) in &source.outside_peers {
        wanted.entry(format!("socket:[{peer}]").into()).or_default().push(Wanted {
            object: source.image.files[*file].object(),
            what: "the other end of this socket",
            fd: source.image.files[*file].fd,
            ino: *peer,
            verdict: Verdict::Refuse,
            by: By::Link,
            peer: true,
        });
    }
    let pid = source.pid;
    wanted.values_mut().for_each(|many| {
        in_order(many, |a, b| {
            fds::compare_files((pid, a.fd), (pid, b.fd)).is_ok_and(|order| order == Ordering::Less)
        })
    });
    wanted
}

/// Each in its place. A process that runs closes and opens what is compared, so the answers may contradict each other: `sort_by`
/// panics then.
fn in_order<T>(all: &mut Vec<T>, mut is_less: impl FnMut(&T, &T) -> bool) {
    for one in std::mem::take(all) {
        let at = all.partition_point(|other| is_less(other, &one));
        all.insert(at, one);
    }
}

/// Looks through the descriptors of a process, as one of its threads has them; whether there are any.
fn search(
    source: &mut Source<'_>,
    wanted: &mut HashMap<FilePath, Vec<Wanted>>,
    (pid, tid): (i32, i32),
) -> bool {
    // Processes come and go; one that cannot be read any more holds nothing.
    let Ok(table) = fs::read_dir(format!("/proc/{tid}/fd")) else { return false };
    let (mut holder, mut any) = (None, false);
    for entry in table.flatten() {
        any = true;
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let link = FilePath::from(link);
        let Some(candidates) = wanted.get_mut(&link) else { continue };
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let same = same(source.pid, candidates, (tid, fd));
        if same.is_empty() {
            continue;
        }
        // ours read what the process has
        if holder.is_none() && is_of_ulpm(pid) {
            return any;
        }
        let holder = holder.get_or_insert_with(|| named(pid));
        for at in same.into_iter().rev() {
            let ours = candidates.remove(at);
            report(source, &ours, holder);
        }
        if candidates.is_empty() {
            wanted.remove(&link);
        }
    }
    any
}

/// Which of the candidates are what the other process has there; in order.
fn same(own: i32, candidates: &[Wanted], theirs: (i32, i32)) -> Vec<usize> {
    let by = candidates.first().map_or(By::Link, |wanted| wanted.by);
    match by {
        By::Link => (0..candidates.len()).collect(),
        By::Inode => {
            let found = inode(theirs.0, theirs.1);
            (0..candidates.len()).filter(|at| found == Some(candidates[*at].ino)).collect()
        }
        By::File => {
            // one that has been closed by now orders nothing: then each is asked
            let lost = Cell::new(false);
            let order = |wanted: &Wanted| {
                fds::compare_files((own, wanted.fd), theirs).unwrap_or_else(|_| {
                    lost.set(true);
                    Ordering::Less
                })
            };
            match candidates.binary_search_by(order) {
                Ok(at) => vec![at],
                Err(_) if !lost.get() => Vec::new(),
                Err(_) => (0..candidates.len()).filter(|at| order(&candidates[*at]).is_eq()).collect(),
            }
        }
    }
}

fn inode(pid: i32, fd: i32) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    info.lines().find_map(|line| line.strip_prefix("ino:"))?.trim().parse().ok()
}

fn report(source: &mut Source<'_>, ours: &Wanted, holder: &str) {
    match ours.verdict {
        Verdict::Refuse => source.refuse(refuse::held_elsewhere(&ours.object, ours.what, holder)),
        Verdict::Split if !source.options.shared_split => {
            source.refuse(refuse::shared_with(&ours.object, ours.what, holder));
        }
        Verdict::Split => {
            let what = format!(
                "{} is shared with {holder}, which stays here: from the move on each has a position and flags of its own",
                ours.what
            );
            source.note(&ours.object, what);
        }
        Verdict::Note => {
            let what = format!("{} is also held by {holder}, which keeps its own", ours.what);
            source.note(&ours.object, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::super::FilesOptions;
    use super::super::walk::describe;
    use super::in_order;

    #[test]
    fn whatever_the_answers_are_all_stay() {
        let mut all: Vec<u32> = (0..100).rev().collect();
        in_order(&mut all, |a, b| a < b);
        assert!(all.is_sorted());
        let mut asked = 0;
        in_order(&mut all, |_, _| {
            asked += 1;
            asked % 3 == 0
        });
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_holder_of_the_other_end_is_named() {
        let _quiet = super::super::testing::quiet();
        let script = "import sys,time; print('ready', flush=True); time.sleep(60)";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        let mut pipe = child.stdout.take().unwrap();
        pipe.read_exact(&mut ready).unwrap();
        let mut holder = Command::new("sleep").arg("60").stdin(pipe).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let (_, obstacles) = describe(pid, &FilesOptions::default()).unwrap();
        for child in [&mut child, &mut holder] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let holder = format!("process {} (", holder.id());
        let found = obstacles.iter().find(|found| found.object.starts_with("fd 1: pipe:[")).unwrap();
        assert!(found.why.starts_with("this pipe is also held by "), "{found}");
        assert!(found.why.contains(&holder), "{found}");
        assert!(found.advice.contains("/dev/null"));
    }
}
