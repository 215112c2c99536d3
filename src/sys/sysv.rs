//! System V semaphores as others see them: semctl(2).
#![allow(unsafe_code)]

use nix::errno::Errno;

/// The process that operated on a semaphore last (`GETPID`); `None`: nobody, or we may not look.
pub fn last_user(set: i32, number: i32) -> Option<i32> {
    // SAFETY: GETPID takes no argument and writes nothing.
    let pid = Errno::result(unsafe { libc::semctl(set, number, libc::GETPID) }).ok()?;
    (pid > 0).then_some(pid)
}

/// A message queue with one message of ours, for tests; gone when dropped.
#[cfg(test)]
pub(crate) fn tests_queue() -> Queue {
    // SAFETY: numbers only.
    let id = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) };
    let message = [1i64, 0];
    // SAFETY: a type word and eight bytes of text.
    let sent = unsafe { libc::msgsnd(id, message.as_ptr().cast(), 8, 0) };
    assert!(id >= 0 && sent == 0, "{}", Errno::last());
    Queue(id)
}

/// See [`tests_queue`].
#[cfg(test)]
pub(crate) struct Queue(i32);

#[cfg(test)]
impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: IPC_RMID takes no argument.
        unsafe { libc::msgctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}
