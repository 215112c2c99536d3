//! Remote calls that fail, in a real process.

use std::process::{Child, Command};
use std::time::Duration;

use super::*;
use crate::sys::ptrace::Options;
use crate::sys::spawn::quietly;

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

#[test]
fn a_remote_call_that_fails_at_its_entry_repeats_no_call_of_the_process() {
    use std::os::unix::process::CommandExt as _;
    let deadline = || Deadline::after(Duration::from_secs(10));
    let mut command = Command::new("sh");
    command.args(["-c", "read x; sleep 1000 & wait"]).stdin(std::process::Stdio::piped()).process_group(0);
    let child = Ended(quietly(&mut command));
    let pid = child.0.id() as i32;
    let thread = Thread(pid);
    thread.seize(pid, Options::SOURCE).unwrap();
    thread.interrupt().unwrap();
    thread.wait("stopping", deadline()).unwrap();
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
