//! ptrace(2) requests, one function each. Policy (who is stopped when, and why) lives in `tracee/`.
//!
//! All functions must be called from the OS thread that seized the tracee: the kernel answers `ESRCH`
//! to any other. `ESRCH` also means that the tracee is not stopped, or dead.
#![allow(unsafe_code)]

use std::mem;

use libc::{c_long, c_void, pid_t};
use nix::errno::Errno;

/// General-purpose registers of an x86-64 thread (`struct user_regs_struct`).
pub type Regs = libc::user_regs_struct;

/// The kernel's 64-bit signal set (not libc's 1024-bit `sigset_t`); bit `n - 1` stands for signal `n`.
pub type KernelSigset = u64;

/// Raw `siginfo_t` as the kernel queues it.
pub type SiginfoBytes = [u8; 128];
const _: () = assert!(mem::size_of::<libc::siginfo_t>() == 128);

const NT_X86_XSTATE: usize = 0x202;
const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;
const PTRACE_PEEKSIGINFO: libc::c_uint = 0x4209;
const PTRACE_O_SUSPEND_SECCOMP: c_long = 1 << 21;

/// Stops that a seized tracee reports as `status >> 16`.
pub const EVENT_STOP: i32 = 128;

/// What a tracee reports, and what happens to it when its tracer dies.
#[derive(Clone, Copy, Debug)]
pub struct Options(libc::c_long);

impl Options {
    /// For a source process: it runs on when the tracer dies; new threads are attached by themselves.
    pub const SOURCE: Options = Options(
        (libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEEXEC) as c_long,
    );
    /// The same, and seccomp does not look at what it calls meanwhile (CAP_SYS_ADMIN). It does again when it is let go, or the tracer dies.
    pub const SOURCE_UNFILTERED: Options = Options(Self::SOURCE.0 | PTRACE_O_SUSPEND_SECCOMP);
    /// For a skeleton: it dies with the tracer.
    pub const SKELETON: Options = Options(
        (libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL) as c_long,
    );
    /// For a process that must not outlive us, until a last remote call lets it be.
    pub const GUARDED: Options = Options((libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL) as c_long);
    /// For a skeleton that has been handed over: it outlives the tracer.
    pub const RELEASED: Options = Options(libc::PTRACE_O_TRACESYSGOOD as c_long);
    /// For a process that is about to be killed: each thread stops once more, on its way out.
    pub const ENDING: Options = Options((libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXIT) as c_long);
}

/// The one place that issues ptrace(2).
fn request(req: libc::c_uint, tid: pid_t, addr: *mut c_void, data: *mut c_void) -> Result<c_long, Errno> {
    // SAFETY: every caller below passes pointers that are valid for the size its request reads or
    // writes; the kernel checks tid.
    Errno::result(unsafe { libc::ptrace(req, tid, addr, data) })
}

const NULL: *mut c_void = std::ptr::null_mut();

/// Attaches without stopping.
pub fn seize(tid: i32, options: Options) -> Result<(), Errno> {
    request(libc::PTRACE_SEIZE, tid, NULL, options.0 as *mut c_void).map(drop)
}

/// Asks a seized, running thread to stop; the stop is reported as `PTRACE_EVENT_STOP`.
pub fn interrupt(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_INTERRUPT, tid, NULL, NULL).map(drop)
}

/// Replaces the options of a stopped tracee.
pub fn set_options(tid: i32, options: Options) -> Result<(), Errno> {
    request(libc::PTRACE_SETOPTIONS, tid, NULL, options.0 as *mut c_void).map(drop)
}

/// Lets the thread run; `signal` is injected (0: none).
pub fn cont(tid: i32, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_CONT, tid, NULL, signal as usize as *mut c_void).map(drop)
}

/// Leaves a thread in its group stop, which `SIGCONT` ends.
pub fn listen(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_LISTEN, tid, NULL, NULL).map(drop)
}

/// Lets the thread run to the next entry or exit of a system call.
pub fn cont_to_syscall(tid: i32, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_SYSCALL, tid, NULL, signal as usize as *mut c_void).map(drop)
}

/// Lets the thread execute one instruction.
pub fn single_step(tid: i32) -> Result<(), Errno> {
    request(libc::PTRACE_SINGLESTEP, tid, NULL, NULL).map(drop)
}

/// Lets the thread go; `signal` is injected (0: none).
pub fn detach(tid: i32, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_DETACH, tid, NULL, signal as usize as *mut c_void).map(drop)
}

/// The message of the last event stop: for `PTRACE_EVENT_CLONE` the new tid, in our pid namespace.
pub fn event_message(tid: i32) -> Result<u64, Errno> {
    let mut value: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG, tid, NULL, (&raw mut value).cast())?;
    Ok(value)
}

/// Reads the general-purpose registers. Not by `PTRACE_GETREGSET`: of a thread in 32-bit code that gives 17 words of 32 bits.
/// This one gives what the *tracer* understands (`arch_ptrace` in arch/x86/kernel/ptrace.c).
pub fn regs(tid: i32) -> Result<Regs, Errno> {
    // SAFETY: user_regs_struct is plain integers; all zeroes is a value of it.
    let mut regs: Regs = unsafe { mem::zeroed() };
    request(libc::PTRACE_GETREGS, tid, NULL, (&raw mut regs).cast())?;
    Ok(regs)
}

/// Writes the general-purpose registers, `fs_base` and `gs_base` among them.
pub fn set_regs(tid: i32, regs: &Regs) -> Result<(), Errno> {
    request(libc::PTRACE_SETREGS, tid, NULL, std::ptr::from_ref(regs).cast_mut().cast()).map(drop)
}

/// Reads the extended state (x87, SSE, AVX, …) in the XSAVE layout of this CPU.
pub fn xstate(tid: i32) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0u8; 16 * 1024];
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    request(libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE as *mut c_void, (&raw mut iov).cast())?;
    buffer.truncate(iov.iov_len);
    Ok(buffer)
}

/// Writes the extended state; its length must be what [`xstate`] gives on this machine.
pub fn set_xstate(tid: i32, state: &[u8]) -> Result<(), Errno> {
    let mut iov = libc::iovec { iov_base: state.as_ptr().cast_mut().cast(), iov_len: state.len() };
    request(libc::PTRACE_SETREGSET, tid, NT_X86_XSTATE as *mut c_void, (&raw mut iov).cast()).map(drop)
}

/// The blocked signals; inside `sigsuspend` and its kin the mask that will be put back afterwards.
pub fn sigmask(tid: i32) -> Result<KernelSigset, Errno> {
    let mut set: KernelSigset = 0;
    request(PTRACE_GETSIGMASK, tid, 8 as *mut c_void, (&raw mut set).cast())?;
    Ok(set)
}

/// Sets the blocked signals (`SIGKILL` and `SIGSTOP` are taken out by the kernel).
pub fn set_sigmask(tid: i32, set: KernelSigset) -> Result<(), Errno> {
    let mut set = set;
    request(PTRACE_SETSIGMASK, tid, 8 as *mut c_void, (&raw mut set).cast()).map(drop)
}

/// The signal of a signal-delivery stop.
pub fn siginfo(tid: i32) -> Result<SiginfoBytes, Errno> {
    let mut info: SiginfoBytes = [0; 128];
    request(libc::PTRACE_GETSIGINFO, tid, NULL, (&raw mut info).cast())?;
    Ok(info)
}

/// Copies all queued signals: the thread's own, or the ones shared by its thread group.
pub fn queued_signals(tid: i32, shared: bool) -> Result<Vec<SiginfoBytes>, Errno> {
    queued_signals_from(tid, shared, 0)
}

/// The same without the first ones. To be read, each is looked for from the first one on: a thousand take milliseconds.
pub fn queued_signals_from(tid: i32, shared: bool, first: usize) -> Result<Vec<SiginfoBytes>, Errno> {
    const BATCH: usize = 32;
    let mut all: Vec<SiginfoBytes> = Vec::new();
    loop {
        let mut batch = [[0u8; 128]; BATCH];
        let mut args = libc::ptrace_peeksiginfo_args {
            off: (first + all.len()) as u64,
            flags: u32::from(shared),
            nr: BATCH as i32,
        };
        let got = request(PTRACE_PEEKSIGINFO, tid, (&raw mut args).cast(), (&raw mut batch).cast())?;
        let got = usize::try_from(got).unwrap_or(0);
        all.extend_from_slice(&batch[..got]);
        if got < BATCH {
            return Ok(all);
        }
    }
}

/// A registered restartable-sequence area (`struct ptrace_rseq_configuration`, Linux 5.13).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RseqConfiguration {
    /// Address of `struct rseq`; 0 when none is registered.
    pub address: u64,
    /// Registered size in bytes.
    pub size: u32,
    /// The signature that precedes each abort handler.
    pub signature: u32,
    /// Always 0 today.
    pub flags: u32,
    pad: u32,
}
const _: () = assert!(mem::size_of::<RseqConfiguration>() == 24);
const _: () = assert!(
    mem::offset_of!(RseqConfiguration, size) == 8
        && mem::offset_of!(RseqConfiguration, signature) == 12
        && mem::offset_of!(RseqConfiguration, flags) == 16
);

/// Reads the rseq registration of a stopped thread.
pub fn rseq(tid: i32) -> Result<RseqConfiguration, Errno> {
    let mut conf = RseqConfiguration::default();
    request(
        PTRACE_GET_RSEQ_CONFIGURATION,
        tid,
        mem::size_of::<RseqConfiguration>() as *mut c_void,
        (&raw mut conf).cast(),
    )?;
    Ok(conf)
}

/// Syscall user dispatch of a thread: calls from outside a range become `SIGSYS` as long as a byte says so (`struct ptrace_sud_config`,
/// Linux 6.4; prctl(2), `PR_SET_SYSCALL_USER_DISPATCH`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DispatchConfiguration {
    /// `PR_SYS_DISPATCH_*`; 0: off.
    pub mode: u64,
    /// Address of the byte; 0: none.
    pub selector: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Its length.
    pub len: u64,
}
const _: () = assert!(mem::size_of::<DispatchConfiguration>() == 32);
const _: () = assert!(
    mem::offset_of!(DispatchConfiguration, selector) == 8
        && mem::offset_of!(DispatchConfiguration, offset) == 16
        && mem::offset_of!(DispatchConfiguration, len) == 24
);

const PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4210;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4211;

/// Reads the dispatch of a stopped thread.
pub fn dispatch(tid: i32) -> Result<DispatchConfiguration, Errno> {
    let mut conf = DispatchConfiguration::default();
    let size = mem::size_of::<DispatchConfiguration>() as *mut c_void;
    request(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, (&raw mut conf).cast())?;
    Ok(conf)
}

/// Sets the dispatch of a stopped thread.
pub fn set_dispatch(tid: i32, conf: &DispatchConfiguration) -> Result<(), Errno> {
    let size = mem::size_of::<DispatchConfiguration>() as *mut c_void;
    let conf = std::ptr::from_ref(conf).cast_mut().cast();
    request(PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, conf).map(drop)
}

/// The fixed part of `struct ptrace_syscall_info` (Linux 5.3).
#[repr(C)]
#[derive(Default)]
struct SyscallInfo {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    instruction_pointer: u64,
    stack_pointer: u64,
}
const _: () = assert!(mem::size_of::<SyscallInfo>() == 24);
const _: () = assert!(
    mem::offset_of!(SyscallInfo, arch) == 4
        && mem::offset_of!(SyscallInfo, instruction_pointer) == 8
        && mem::offset_of!(SyscallInfo, stack_pointer) == 16
);

const PTRACE_GET_SYSCALL_INFO: libc::c_uint = 0x420e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;

/// Whether a stopped thread is in a system call of 32-bit code.
pub fn in_call_of_32_bit(tid: i32) -> Result<bool, Errno> {
    let mut info = SyscallInfo::default();
    let size = mem::size_of::<SyscallInfo>() as *mut c_void;
    request(PTRACE_GET_SYSCALL_INFO, tid, size, (&raw mut info).cast())?;
    Ok(info.arch == AUDIT_ARCH_I386)
}

/// A segment of a thread's own (`struct user_desc`): number, base, limit, flags.
pub type Segment = [u32; 4];
const _: () = assert!(mem::size_of::<Segment>() == 16);

const PTRACE_GET_THREAD_AREA: libc::c_uint = 25;
const PTRACE_SET_THREAD_AREA: libc::c_uint = 26;

/// Reads a segment of a thread (set_thread_area(2)); `number`: in the GDT, 12 to 14.
pub fn segment(tid: i32, number: u32) -> Result<Segment, Errno> {
    let mut segment: Segment = [0; 4];
    request(PTRACE_GET_THREAD_AREA, tid, number as usize as *mut c_void, (&raw mut segment).cast())?;
    Ok(segment)
}

/// Sets a segment of a thread.
pub fn set_segment(tid: i32, segment: &Segment) -> Result<(), Errno> {
    let number = segment[0] as usize as *mut c_void;
    request(PTRACE_SET_THREAD_AREA, tid, number, std::ptr::from_ref(segment).cast_mut().cast()).map(drop)
}

/// One raw wait status of a tracee, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitStatus {
    /// The thread is gone (exit code or killing signal).
    Gone,
    /// Entry or exit of a system call (`PTRACE_O_TRACESYSGOOD`).
    Syscall,
    /// An event stop: event number, and the signal beside it.
    Event(i32, i32),
    /// A signal is about to be delivered.
    Signal(i32),
}

/// Waits for a stop of `tid`. `Ok(None)` with `block == false` when there is none;
/// `Err(EINTR)` when the deadline ticker rang.
pub fn wait(tid: i32, block: bool) -> Result<Option<WaitStatus>, Errno> {
    let mut status = 0;
    let flags = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    // SAFETY: status outlives the call.
    let got = Errno::result(unsafe { libc::waitpid(tid, &raw mut status, flags) })?;
    if got == 0 {
        return Ok(None);
    }
    if !libc::WIFSTOPPED(status) {
        return Ok(Some(WaitStatus::Gone));
    }
    let signal = libc::WSTOPSIG(status);
    Ok(Some(match (status >> 16, signal) {
        (0, s) if s == libc::SIGTRAP | 0x80 => WaitStatus::Syscall,
        (0, s) => WaitStatus::Signal(s),
        (event, s) => WaitStatus::Event(event, s),
    }))
}
