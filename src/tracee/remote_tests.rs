//! Remote calls that fail, in a real process.

use std::process::{Child, Command};
use std::time::Duration;

use super::*;
use crate::sys::ptrace::Options;
use crate::sys::spawn::quietly;
use crate::tracee::restart::Continued;

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // the whole group: its children, too
        let _ = nix::sys::signal::killpg(
            nix::unistd::Pid::from_raw(self.0.id() as i32),
            nix::sys::signal::SIGKILL,
        );
        let _ = self.0.wait();
    }
}

fn children(pid: i32) -> usize {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    list.unwrap().split_whitespace().count()
}

/// A stopped process of its own group, with a line to read.
fn stopped(script: &str) -> (Ended, Thread) {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(std::process::Stdio::piped()).process_group(0);
    let child = Ended(quietly(&mut command));
    let pid = child.0.id() as i32;
    let thread = Thread(pid);
    thread.seize(pid, Options::SOURCE).unwrap();
    thread.interrupt().unwrap();
    // it may have been in the middle of its execve, whose own stops come first
    if !matches!(thread.wait("stopping", deadline()).unwrap(), Stop::Trap { .. }) {
        thread.to_trap(deadline()).unwrap();
    }
    (child, thread)
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

#[test]
fn a_descriptor_whose_number_cannot_be_copied_is_closed_all_the_same() {
    let (_child, thread) = stopped("read x");
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", thread.0)).unwrap().count();
    let before = descriptors();
    let site = Site::of_running(thread.0).unwrap();
    let mut remote = Remote::approach(thread, &site).unwrap();
    let continued = Continued::of(remote.saved(), || false);
    remote.shelter_on_stack(&continued, None).unwrap();
    let scratch = remote.map_scratch(Place::Rather(0), 4096, 4096).unwrap();
    remote.finish().unwrap();
    let mut remote = Remote::approach(thread, &site).unwrap();
    remote.shelter_in(&scratch, &continued, None, None).unwrap();
    let call = ("eventfd", libc::SYS_eventfd2, [0; 6]);
    let seen = remote.make_and_close(call, (&scratch, thread.0), |_| descriptors()).unwrap();
    assert_eq!((seen, descriptors()), (before + 1, before));
    // nobody has this number
    let failed = remote.make_and_close(call, (&scratch, i32::MAX), |_| ());
    assert!(failed.is_err());
    assert_eq!(descriptors(), before);
    remote.finish().unwrap();
}

#[test]
fn a_remote_call_that_fails_at_its_entry_repeats_no_call_of_the_process() {
    let (child, thread) = stopped("read x; sleep 1000 & wait");
    let pid = thread.0;
    // a line to read, then on to where it has just forked
    std::io::Write::write_all(&mut child.0.stdin.as_ref().unwrap(), b"go\n").unwrap();
    while children(pid) == 0 {
        thread.resume(Go::ToSyscall, 0).unwrap();
        thread.wait("following", deadline()).unwrap();
    }
    assert!(
        [libc::SYS_clone, libc::SYS_clone3, libc::SYS_fork]
            .contains(&(thread.regs().unwrap().orig_rax as i64))
    );
    thread.to_trap(deadline()).unwrap();
    let site = Site::of_running(pid).unwrap();
    let mut remote = Remote::borrow(thread, &site).unwrap();
    remote.poise(libc::SYS_getpid, [0; 6]).unwrap();
    thread.resume(Go::ToSyscall, 0).unwrap();
    assert_eq!(thread.wait("entering", deadline()).unwrap(), Stop::Syscall);
    drop(remote);
    thread.resume(Go::ToSyscall, 0).unwrap();
    thread.wait("going on", deadline()).unwrap();
    assert_eq!(children(pid), 1);
}
