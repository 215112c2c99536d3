//! Blocking calls that may be half done: the kernel returns what is done so far when their thread is stopped, whoever stops it.
//!
//! A `write` of more than a pipe holds sleeps with a part of it written. Interrupted by nothing but a stop (`SIGSTOP` and `SIGCONT`, a
//! debugger, ulpm) it does not go on but returns the count so far, as write(2) permits at any time. Nothing can be done about
//! it from outside: the rest could be written for the program, but not the sum be put together. So it is said beforehand.
//!
//! Which call a thread sleeps in, and with which arguments: `/proc/TID/syscall`. Whether the open file blocks: the
//! `flags` of `/proc/PID/fdinfo/FD`, and those of the call.

use std::os::fd::AsFd as _;

use nix::sys::socket::{SockType, getsockopt, sockopt};

use crate::image::Note;
use crate::sys::process::{pidfd_getfd, pidfd_open};

/// What is said of such a call.
pub(crate) const LIMIT: &str =
    "when it is stopped for a moment, a part that is done already is returned as a short count";

/// A call that a thread sleeps in.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    name: &'static str,
    fd: i32,
}

/// One note for each thread that sleeps in such a call.
pub(crate) fn notes(pid: i32, tids: &[i32]) -> Vec<Note> {
    let asleep = tids.iter().filter_map(|tid| {
        let text = crate::sys::lossy(format!("/proc/{tid}/syscall")).ok()?;
        let call = may_be_half_done(&text)?;
        blocks(pid, call.fd).then(|| {
            let Call { name, fd } = call;
            Note::new(format!("thread {tid}"), format!("it waits in {name} on descriptor {fd}: {LIMIT}"))
        })
    });
    asleep.collect()
}

/// The call in a line of `/proc/TID/syscall`: its number, and six arguments in hexadecimal. None of one that runs.
fn may_be_half_done(line: &str) -> Option<Call> {
    let mut words = line.split_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    let hexadecimal = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
    let args: Vec<u64> = words.map_while(hexadecimal).collect();
    let (name, fd, flags) = match number {
        libc::SYS_write => ("write", 0, None),
        libc::SYS_writev => ("writev", 0, None),
        libc::SYS_sendto => ("send", 0, Some(3)),
        libc::SYS_sendmsg => ("sendmsg", 0, Some(2)),
        libc::SYS_sendmmsg => ("sendmmsg", 0, Some(3)),
        libc::SYS_sendfile => ("sendfile", 0, None),
        libc::SYS_vmsplice => ("vmsplice", 0, None),
        libc::SYS_splice => ("splice", 2, None),
        libc::SYS_recvfrom => ("recv", 0, Some(3)),
        libc::SYS_recvmsg => ("recvmsg", 0, Some(2)),
        _ => return None,
    };
    let flags = flags.and_then(|at: usize| args.get(at)).map_or(0, |flags| *flags as i32);
    let receives = matches!(number, libc::SYS_recvfrom | libc::SYS_recvmsg);
    // without MSG_WAITALL it sleeps only as long as there is nothing
    let whole = !receives || flags & libc::MSG_WAITALL != 0;
    (whole && flags & libc::MSG_DONTWAIT == 0).then_some(Call { name, fd: *args.get(fd)? as i32 })
}

/// Whether it is a pipe or a stream socket that blocks; messages of other sockets are sent whole or not at all.
fn blocks(pid: i32, fd: i32) -> bool {
    let info = crate::sys::lossy(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    let flags =
        info.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    if flags.is_none_or(|flags| flags & libc::O_NONBLOCK != 0) {
        return false;
    }
    use std::os::unix::fs::FileTypeExt as _;
    let kind = std::fs::metadata(format!("/proc/{pid}/fd/{fd}")).map(|file| file.file_type());
    match kind {
        Ok(kind) if kind.is_fifo() => true,
        Ok(kind) if kind.is_socket() => {
            let socket = pidfd_open(pid).and_then(|process| pidfd_getfd(process.as_fd(), fd));
            socket.and_then(|socket| getsockopt(&socket, sockopt::SockType)) == Ok(SockType::Stream)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_may_be_half_done() {
        let call = |line: &str| may_be_half_done(line);
        let rest = "0x7ffd00 0x401000";
        assert_eq!(
            call(&format!("1 0x4 0x5000 0x100000 0x0 0x0 0x0 {rest}")),
            Some(Call { name: "write", fd: 4 })
        );
        assert_eq!(
            call(&format!("275 0x3 0x0 0x7 0x0 0x1000 0x0 {rest}")),
            Some(Call { name: "splice", fd: 7 })
        );
        let recv = |flags: i32| call(&format!("45 0x5 0x5000 0x100 {flags:#x} 0x0 0x0 {rest}"));
        assert_eq!(recv(0), None);
        assert_eq!(recv(libc::MSG_WAITALL), Some(Call { name: "recv", fd: 5 }));
        assert_eq!(recv(libc::MSG_WAITALL | libc::MSG_DONTWAIT), None);
        assert_eq!(call("running"), None);
        assert_eq!(call("-1 0x7ffd00 0x401000"), None);
    }

    #[test]
    fn a_thread_that_writes_more_than_a_pipe_holds() {
        use std::io::{Read as _, Write as _};
        let (mut end, mut pipe) = std::io::pipe().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            pipe.write_all(&[0; 1 << 20]).unwrap();
        });
        let (pid, tid) = (std::process::id() as i32, told.recv().unwrap());
        let found = loop {
            match notes(pid, &[tid]).pop() {
                Some(note) => break note,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(found.object, format!("thread {tid}"));
        let mut all = Vec::new();
        end.read_to_end(&mut all).unwrap();
        writer.join().unwrap();
        assert_eq!(all.len(), 1 << 20);
        assert!(notes(pid, &[tid]).is_empty());
    }
}
