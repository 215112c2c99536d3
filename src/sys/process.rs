//! Another process from outside: pidfds, its memory, its robust lists.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::ptrace::SiginfoBytes;

/// Opens a pidfd of a process (thread-group leader).
pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    open_pidfd(pid, 0)
}

/// `PIDFD_THREAD` (Linux 6.9)
pub(super) const PIDFD_THREAD: i32 = libc::O_EXCL;

/// Opens a pidfd of any thread (`PIDFD_THREAD`, Linux 6.9): by that of a main thread that has ended no descriptor can be duplicated.
/// Older kernels have those of main threads only.
pub fn pidfd_of_thread(tid: i32) -> Result<OwnedFd, Errno> {
    open_pidfd(tid, PIDFD_THREAD).or_else(|_| open_pidfd(tid, 0))
}

pub(super) fn open_pidfd(id: i32, flags: i32) -> Result<OwnedFd, Errno> {
    let id = rustix::process::Pid::from_raw(id).ok_or(Errno::EINVAL)?;
    let flags = PidfdFlags::from_bits_retain(flags.cast_unsigned());
    rustix::process::pidfd_open(id, flags).map_err(errno)
}

fn errno(of: rustix::io::Errno) -> Errno {
    Errno::from_raw(of.raw_os_error())
}

/// Duplicates descriptor `fd` of the process into ours (needs ptrace access). The copy is close-on-exec.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd, Errno> {
    rustix::process::pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty()).map_err(errno)
}

/// Signals the process behind a pidfd: never another one that took its number.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: no info structure is passed.
    let r = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0)
    };
    Errno::result(r).map(drop)
}

/// Queues a signal with this `siginfo_t` to the process behind a pidfd. The kernel lets nobody but a process itself queue one that
/// looks like `kill`'s or its own (`si_code` not negative, or `SI_TKILL`): `EPERM`.
pub fn pidfd_queue_signal(pidfd: BorrowedFd<'_>, info: &SiginfoBytes) -> Result<(), Errno> {
    let signal = i32::from_le_bytes([info[0], info[1], info[2], info[3]]);
    // SAFETY: the kernel reads 128 bytes of info, which is that long; that they form a siginfo_t it checks itself.
    let r =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info.as_ptr(), 0) };
    Errno::result(r).map(drop)
}

/// As [`pidfd_queue_signal`], to one thread of a process.
pub fn queue_to_thread(pid: i32, tid: i32, info: &SiginfoBytes) -> Result<(), Errno> {
    let signal = i32::from_le_bytes([info[0], info[1], info[2], info[3]]);
    // SAFETY: as above.
    let r = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, signal, info.as_ptr()) };
    Errno::result(r).map(drop)
}

/// Sends a signal to one thread of a process.
pub fn tgkill(pid: i32, tid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) }).map(drop)
}

/// Whether a process ends within that time (zero: whether it has ended): its pidfd is readable when the last of its threads has.
pub fn ends_within(pidfd: BorrowedFd<'_>, time: Duration) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    let begun = Instant::now();
    loop {
        match ppoll(&mut fds, Some(time.saturating_sub(begun.elapsed()).into()), None) {
            Ok(ready) => return ready > 0,
            // again, with what is left of the time
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Whether what has ended is reaped within that time: until then its number is taken.
pub fn reaped_within(pidfd: BorrowedFd<'_>, time: Duration) -> bool {
    let begun = Instant::now();
    while pidfd_send_signal(pidfd, 0).is_ok() {
        if begun.elapsed() >= time {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Head and length of the robust futex list of a thread.
pub fn robust_list(tid: i32) -> Result<(u64, u64), Errno> {
    let mut head = 0u64;
    let mut len = 0u64;
    // SAFETY: both pointers are valid for a word.
    let r = unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) };
    Errno::result(r)?;
    Ok((head, len))
}

/// Reads `buf.len()` bytes at `addr`. `EFAULT` when part of it cannot be read: how much was read before is lost.
pub fn read_memory(pid: i32, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
    let want = buf.len();
    let remote = [RemoteIoVec { base: addr as usize, len: want }];
    let got = process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(buf)], &remote)?;
    if got == want { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Reads several pieces, `(address, length)`, one after the other into `buf`, with one system call for up to 1,024 of them.
/// `EFAULT` when part of them cannot be read.
pub fn read_scattered(pid: i32, pieces: &[(u64, usize)], buf: &mut [u8]) -> Result<(), Errno> {
    const IOV_MAX: usize = 1024;
    let mut rest = buf;
    for some in pieces.chunks(IOV_MAX) {
        let remote: Vec<RemoteIoVec> =
            some.iter().map(|(addr, len)| RemoteIoVec { base: *addr as usize, len: *len }).collect();
        let want = some.iter().map(|(_, len)| len).sum();
        let (now, later) = rest.split_at_mut(want);
        if process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(now)], &remote)? != want {
            return Err(Errno::EFAULT);
        }
        rest = later;
    }
    Ok(())
}

/// Writes through writable mappings only.
pub fn write_memory(pid: i32, addr: u64, data: &[u8]) -> Result<(), Errno> {
    let remote = [RemoteIoVec { base: addr as usize, len: data.len() }];
    let put = process_vm_writev(Pid::from_raw(pid), &[IoSlice::new(data)], &remote)?;
    if put == data.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// `/proc/PID/mem`: reads and writes through protections (`FOLL_FORCE`) in private mappings.
#[derive(Debug)]
pub struct ProcMem(File);

impl ProcMem {
    /// Opens for reading and writing; access is checked now, not at each use.
    pub fn open(pid: i32) -> std::io::Result<Self> {
        File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).map(ProcMem)
    }

    /// The memory of a process, by a thread that lives.
    pub fn of_process(pid: i32) -> std::io::Result<Self> {
        super::voice::by(pid, Self::open)
    }

    /// Another handle of the same.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        self.0.try_clone().map(ProcMem)
    }

    /// Reads exactly `buf.len()` bytes.
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact_at(buf, addr)
    }

    /// Reads 16 bytes; `None` where nothing can be read.
    pub fn read_16(&self, addr: u64) -> Option<[u8; 16]> {
        let mut bytes = [0; 16];
        self.read(addr, &mut bytes).ok().map(|()| bytes)
    }

    /// Writes all of `data`, whatever the protection.
    pub fn write(&self, addr: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write_all_at(data, addr)
    }
}

/// Binds the calling thread to one CPU, or any thread named by tid.
pub fn set_affinity(tid: i32, mask: &[u8]) -> Result<(), Errno> {
    // SAFETY: mask is valid for its length; the kernel copies at most that much.
    let r = unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, mask.len(), mask.as_ptr()) };
    Errno::result(r).map(drop)
}

/// The CPUs a thread may run on, as the kernel's bit mask (trailing zero bytes trimmed to a multiple of 8).
pub fn affinity(tid: i32) -> Result<Vec<u8>, Errno> {
    let mut mask = vec![0u8; 1024];
    // SAFETY: mask is valid for its length.
    let n = unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, mask.len(), mask.as_mut_ptr()) };
    mask.truncate(usize::try_from(Errno::result(n)?).unwrap_or(0));
    Ok(mask)
}

/// The mask of one CPU.
pub fn only(cpu: usize) -> Vec<u8> {
    let mut mask = vec![0u8; (cpu / 64 + 1) * 8];
    mask[cpu / 8] |= 1 << (cpu % 8);
    mask
}

/// Does something on each of these CPUs in turn, by bringing the calling thread there; afterwards it may run where it
/// could before. Says whether it got to all of them.
pub fn on_each_cpu(cpus: impl IntoIterator<Item = usize>, mut visit: impl FnMut(usize)) -> bool {
    let Ok(home) = affinity(0) else { return false };
    let mut all = true;
    for cpu in cpus {
        match set_affinity(0, &only(cpu)) {
            Ok(()) => visit(cpu),
            Err(_) => all = false,
        }
    }
    let _ = set_affinity(0, &home);
    all
}

/// Scheduling policy and parameters of a thread (`struct sched_attr`, version 1 and later).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SchedAttr {
    pub(crate) size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`, reset-on-fork among them.
    pub flags: u64,
    /// Nice value of the non-real-time policies.
    pub nice: i32,
    /// Priority of the real-time policies.
    pub priority: u32,
    /// Deadline parameters in nanoseconds.
    pub runtime: u64,
    /// See `runtime`.
    pub deadline: u64,
    /// See `runtime`.
    pub period: u64,
    pub(crate) util_min: u32,
    pub(crate) util_max: u32,
}
const _: () = assert!(size_of::<SchedAttr>() == 56);
const _: () = assert!(
    std::mem::offset_of!(SchedAttr, policy) == 4
        && std::mem::offset_of!(SchedAttr, flags) == 8
        && std::mem::offset_of!(SchedAttr, nice) == 16
        && std::mem::offset_of!(SchedAttr, priority) == 20
);
const _: () = assert!(
    std::mem::offset_of!(SchedAttr, runtime) == 24
        && std::mem::offset_of!(SchedAttr, period) == 40
        && std::mem::offset_of!(SchedAttr, util_min) == 48
        && std::mem::offset_of!(SchedAttr, util_max) == 52
);

impl SchedAttr {
    /// As `sched_setattr` reads it from memory.
    pub fn bytes(&self) -> Vec<u8> {
        let words = [
            u64::from(self.size) | u64::from(self.policy) << 32,
            self.flags,
            u64::from(self.nice.cast_unsigned()) | u64::from(self.priority) << 32,
            self.runtime,
            self.deadline,
            self.period,
            u64::from(self.util_min) | u64::from(self.util_max) << 32,
        ];
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }
}

/// Reads the scheduling attributes of a thread.
pub fn sched_attr(tid: i32) -> Result<SchedAttr, Errno> {
    let mut attr = SchedAttr::default();
    // SAFETY: attr is valid for the size given.
    let r = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, size_of::<SchedAttr>(), 0) };
    Errno::result(r)?;
    attr.size = size_of::<SchedAttr>() as u32;
    Ok(attr)
}

/// Sets the scheduling attributes of a thread.
pub fn set_sched_attr(tid: i32, attr: &SchedAttr) -> Result<(), Errno> {
    // SAFETY: attr is valid for the size it states.
    let r = unsafe { libc::syscall(libc::SYS_sched_setattr, tid, std::ptr::from_ref(attr), 0) };
    Errno::result(r).map(drop)
}

/// I/O priority of a thread (`ioprio_get(2)`).
pub fn ioprio(tid: i32) -> Result<i32, Errno> {
    // SAFETY: no pointers. 1 is IOPRIO_WHO_PROCESS.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_get, 1, tid) }).map(|v| v as i32)
}

/// Sets the I/O priority of a thread.
pub fn set_ioprio(tid: i32, value: i32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, tid, value) }).map(drop)
}

/// Cookie of core scheduling of a thread; 0: none. `None`: this kernel has none, or does not say.
pub fn core_cookie(tid: i32, option: i32) -> Option<u64> {
    const GET: libc::c_ulong = 0;
    const OF_THE_THREAD: libc::c_ulong = 0;
    let mut cookie = 0u64;
    // SAFETY: the kernel writes one word to a valid place.
    let result = unsafe { libc::prctl(option, GET, tid as libc::c_ulong, OF_THE_THREAD, &raw mut cookie) };
    (result == 0).then_some(cookie)
}

/// Reads or replaces one resource limit of a process: `(soft, hard)`.
pub fn prlimit(pid: i32, resource: u32, new: Option<(u64, u64)>) -> Result<(u64, u64), Errno> {
    let new = new.map(|(c, m)| libc::rlimit64 { rlim_cur: c, rlim_max: m });
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let new_ptr = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both pointers are valid or null.
    Errno::result(unsafe { libc::prlimit64(pid, resource, new_ptr, &raw mut old) })?;
    Ok((old.rlim_cur, old.rlim_max))
}

/// `PR_GET_SECUREBITS` of the calling thread.
pub fn own_securebits() -> u32 {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_GET_SECUREBITS) }.max(0) as u32
}

/// Ends the calling thread alone, at once: nothing is unwound, nothing dropped, its tracees lose their tracer. For faults.
pub fn end_this_thread() {
    // SAFETY: exit(2) ends this thread; its stack and what it owns are leaked, which is what is wanted.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}
