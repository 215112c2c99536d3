//! Who else holds what the process holds: one walk over `/proc/*/fd` of all other processes.
//!
//! A pipe, socket pair, eventfd or memfd that another process holds too would be torn in two by the move.
//! Pipes, sockets and memfds are recognised by inode; eventfds and their like share one inode, so `kcmp`
//! decides.

use std::collections::HashMap;
use std::fs;

use crate::image::file_path::{FilePath, printable};
use crate::image::files::FileKind;
use crate::sys::fds;

use super::source::Source;
use super::{FilesError, refuse};

const MEMORY_FILE: &str = "this memory file";

/// What a shared object means for the move.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Refuse,
    Note,
}

/// An object of ours to look for elsewhere.
struct Wanted {
    /// `fd 7: pipe:[4711]`
    object: String,
    what: &'static str,
    fd: i32,
    ino: u64,
    verdict: Verdict,
    /// The other end of a unix socket: somebody must hold it.
    peer: bool,
}

/// Adds an obstacle (or a note) for every object that another process holds too.
pub(super) fn check(source: &mut Source<'_>) -> Result<(), FilesError> {
    let mut wanted = wanted(source);
    if wanted.is_empty() {
        return Ok(());
    }
    for (pid, holder) in other_processes(source.pid) {
        if wanted.is_empty() {
            break;
        }
        search(source, &mut wanted, pid, &holder);
    }
    for peer in wanted.into_values().flatten().filter(|wanted| wanted.peer) {
        source.refuse(refuse::peer_outside(&peer.object));
    }
    Ok(())
}

/// Objects by link. After a preflight only those that it did not meet.
fn wanted(source: &Source<'_>) -> HashMap<FilePath, Vec<Wanted>> {
    let mut wanted: HashMap<FilePath, Vec<Wanted>> = HashMap::new();
    for file in &source.image.files {
        let (what, verdict) = match &file.kind {
            FileKind::Pipe { .. } => ("this pipe", Verdict::Refuse),
            FileKind::Unix(_) => ("this socket", Verdict::Refuse),
            FileKind::MemFd { .. } => (MEMORY_FILE, Verdict::Refuse),
            FileKind::EventFd { .. } => ("this eventfd", Verdict::Refuse),
            FileKind::TimerFd(_) | FileKind::SignalFd { .. } | FileKind::Epoll { .. } => {
                ("this descriptor", Verdict::Note)
            }
            FileKind::TcpListen(_) | FileKind::Udp(_) => ("this socket", Verdict::Note),
            _ => continue,
        };
        if source.is_preflight() || !source.was_met(&file.link) {
            wanted.entry(file.link.clone()).or_default().push(Wanted {
                object: file.object(),
                what,
                fd: file.fd,
                ino: file.ino,
                verdict,
                peer: false,
            });
        }
    }
    for (file, peer) in &source.outside_peers {
        wanted.entry(format!("socket:[{peer}]").into()).or_default().push(Wanted {
            object: source.image.files[*file].object(),
            what: "the other end of this socket",
            fd: source.image.files[*file].fd,
            ino: *peer,
            verdict: Verdict::Refuse,
            peer: true,
        });
    }
    wanted
}

/// Pids other than `own`, with their names for messages.
fn other_processes(own: i32) -> impl Iterator<Item = (i32, String)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(move |pid| *pid != own)
        .map(|pid| {
            let name = printable(&crate::sys::status::name(pid));
            (pid, format!("process {pid} ({name})"))
        })
}

fn search(source: &mut Source<'_>, wanted: &mut HashMap<FilePath, Vec<Wanted>>, pid: i32, holder: &str) {
    // Processes come and go; one that cannot be read any more holds nothing.
    let Ok(table) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
    for entry in table.flatten() {
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let link = FilePath::from(link);
        let Some(candidates) = wanted.get_mut(&link) else { continue };
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let mine = source.pid;
        candidates.retain(|ours| {
            // the agent reads memory files through descriptors of its own
            if ours.what == MEMORY_FILE && pid == std::process::id() as i32 {
                return true;
            }
            let same = if link.starts_with("anon_inode:") {
                fds::compare_files((mine, ours.fd), (pid, fd)).is_ok_and(std::cmp::Ordering::is_eq)
            } else if link.starts_with("/") {
                inode(pid, fd) == Some(ours.ino)
            } else {
                true
            };
            if same {
                report(source, ours, holder);
            }
            !same
        });
        if candidates.is_empty() {
            wanted.remove(&link);
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
    use super::super::source::describe;

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
