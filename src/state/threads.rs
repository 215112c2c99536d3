//! One thread: registers and extended state, signal mask, rseq, robust list, tid address, name. Credentials and waits have files
//! of their own; scheduling, modes, alternate stack and directory are kinds of the list in `state/thread/`.
//!
//! Order at the target, and why: what needs privileges first; then what the thread says about itself (robust list, tid address,
//! rseq, queued signals: they must be said by the thread); registers last.

use nix::errno::Errno;

use super::error::StateError;
use super::overruns::Taker;
use super::seam::thread::SeenThread;
use super::{credentials, probes, signals, thread as states, waits};
use crate::image::process::{Dispatch, ThreadImage};
use crate::sys::ptrace::{self, DispatchConfiguration, Regs};
use crate::sys::regs::{from_words, words};
use crate::sys::status::Status;
use crate::sys::witness::Witness;
use crate::sys::{process, voice, xsave};
use crate::tracee::freeze::{Frozen, Member};
use crate::tracee::site::leave_vdso;
use crate::tracee::thread::Thread;
use crate::tracee::together::{Plain, UrgentTracee};
use crate::tracee::{Batch, Bell, Outcome, Remote, Scratch, Site, TraceeError, ward};

const PR_GET_TID_ADDRESS: u64 = 40;

/// What a capture needs to know besides the thread.
#[derive(Debug)]
pub struct Context<'a> {
    /// The process.
    pub frozen: &'a Frozen,
    /// For remote calls.
    pub site: &'a Site,
    /// For remote calls.
    pub scratch: &'a Scratch,
    /// All CPUs of this host.
    pub cpus: &'a [u8],
    /// Waits that we interrupted before.
    pub memory: &'a waits::Memory,
    /// Somebody for the threads to look at.
    pub witness: Option<&'a Witness>,
}

/// Captures a stopped thread. `ask` asks more, of the process, in the same round trip; `then` looks at the answers, and may have the
/// thread do more.
pub fn capture<Q>(
    member: &Member,
    context: &Context<'_>,
    ask: impl FnOnce(&mut Batch) -> Q,
    then: impl FnOnce(&Outcome, &Q, Taker<'_>) -> Result<(), StateError>,
) -> Result<(ThreadImage, Outcome, Q), StateError> {
    let thread = member.thread;
    let tid = thread.0;
    leave_vdso(thread, context.site)?;
    let mut remote = Remote::approach(thread, context.site)?;
    let taken = waits::capture(context.frozen, member, remote.saved(), context.memory)?;
    let status = status_of(tid)?;
    // before any call in its name: it may have confined itself since preflight
    ward::insist_unconfined(thread, status.seccomp != 0)?;
    let mut image = seen(thread, &remote, &taken, &status)?;
    let mut batch = Batch::new(context.scratch);
    let tid_address = batch.space(8);
    batch.attempt("prctl(GET_TID_ADDRESS)", libc::SYS_prctl, &[PR_GET_TID_ADDRESS, tid_address, 0, 0, 0]);
    let securebits = credentials::ask(&mut batch);
    let looked = SeenThread { voice: context.frozen.voice().0, tid, status: &status, cpus: context.cpus };
    let (own, awaited) = states::capture(&looked, &mut batch)?;
    image.states = own;
    let probe = probes::ask(&mut batch, image.tid, &image.creds, context.witness);
    let question = ask(&mut batch);
    let plain = Plain::of(thread);
    let process = status.nstgid.last().copied().unwrap_or(status.tgid);
    let bell = Bell::of(process, image.tid, status.sigcgt, remote.mask());
    remote.shelter_in(context.scratch, &taken.continued(tid), Some(&plain), bell)?;
    let urgent = UrgentTracee::from(plain);
    let outcome = remote.run(context.scratch, &batch)?;
    let taker = Taker {
        tid,
        pid: process,
        speaks: thread == context.frozen.voice(),
        mask: remote.mask(),
        sigpnd: status.sigpnd,
        scratch: context.scratch,
        run: &mut |batch| remote.run(context.scratch, batch),
    };
    then(&outcome, &question, taker)?;
    drop(urgent);
    // After the timers were asked: one that fires in between shows nothing left, so its signal must be seen here.
    image.queued = signals::queued(tid, false)?;
    image.queued.extend(signals::without_entry(status.sigpnd, &image.queued));
    remote.finish()?;
    image.clear_child_tid = outcome.word(tid_address);
    image.creds.securebits = credentials::answer(&outcome, securebits);
    awaited.read(&outcome, &mut image.states)?;
    let hidden = probes::obstacles(tid, &outcome, &probe);
    if let Some(first) = hidden.first() {
        return Err(StateError::Obstacles(first.to_string()));
    }
    Ok((image, outcome, question))
}

/// What is seen of a borrowed thread without asking it.
fn seen(
    thread: Thread,
    remote: &Remote<'_>,
    taken: &waits::Taken,
    status: &Status,
) -> Result<ThreadImage, StateError> {
    let tid = thread.0;
    let kernel = |step| move |source| TraceeError::Ptrace { tid, step, source };
    let rseq = match ptrace::rseq(tid) {
        Ok(rseq) => rseq,
        Err(Errno::EIO | Errno::EINVAL) => ptrace::RseqConfiguration::default(),
        Err(e) => return Err(kernel("reading the rseq registration")(e).into()),
    };
    Ok(ThreadImage {
        tid: inner_tid(status, tid),
        regs: words(&taken.regs),
        xstate: remote.xstate().to_vec(),
        sigmask: remote.mask(),
        rseq: (rseq.address, rseq.size, rseq.signature),
        robust_list: process::robust_list(tid).map_err(kernel("reading the robust list"))?,
        comm: status.name.clone(),
        creds: credentials::of_status(status),
        dispatch: remote.dispatch().map(|d| Dispatch {
            mode: d.mode,
            selector: d.selector,
            offset: d.offset,
            len: d.len,
        }),
        segments: ward::segments(thread)?,
        wait: taken.wait.clone(),
        patch: taken.patch.map(|(at, bytes)| (at, bytes.to_vec())),
        ..ThreadImage::default()
    })
}

/// A main thread that has ended while others live: what is left of it.
pub fn ended(pid: i32, cpus: &[u8]) -> Result<ThreadImage, StateError> {
    let status = status_of(pid)?;
    let seen = SeenThread { voice: pid, tid: pid, status: &status, cpus };
    Ok(ThreadImage {
        tid: inner_tid(&status, pid),
        ended: Some(voice::exit_status(pid)),
        comm: status.name.clone(),
        creds: credentials::of_status(&status),
        states: states::describe(&seen, true)?,
        ..ThreadImage::default()
    })
}

/// The id by which the process itself knows the thread.
pub fn inner_tid(status: &Status, tid: i32) -> i32 {
    status.nspid.last().copied().unwrap_or(tid)
}

/// The `status` file of a process or thread.
pub fn status_of(tid: i32) -> Result<Status, StateError> {
    Status::of(tid).map_err(StateError::io(tid, "reading the status"))
}

/// Says of the thread that executes the batch what only it can say.
pub fn put_self(batch: &mut Batch, pid: i32, image: &ThreadImage) {
    /// Bytes of `struct robust_list_head`.
    const HEAD: u64 = 24;
    batch.call("set_robust_list", libc::SYS_set_robust_list, &[image.robust_list.0, HEAD]);
    batch.call("set_tid_address", libc::SYS_set_tid_address, &[image.clear_child_tid]);
    signals::put_queued(batch, pid, image.tid, &image.queued);
}

/// Registers rseq: last of all calls, because from then on the kernel writes to that memory.
pub fn put_rseq(batch: &mut Batch, image: &ThreadImage) {
    let (address, size, signature) = image.rseq;
    if address != 0 {
        batch.call("rseq", libc::SYS_rseq, &[address, u64::from(size), 0, u64::from(signature)]);
    }
}

/// Sets name, extended state, mask and registers from outside: the thread is then what it was.
pub fn put_outside(thread: Thread, image: &ThreadImage) -> Result<(), StateError> {
    let tid = thread.0;
    let regs =
        from_words(&image.regs).ok_or(StateError::Field { pid: tid, file: "image", field: "registers" })?;
    ptrace::set_xstate(tid, &image.xstate).map_err(|source| TraceeError::Ptrace {
        tid,
        step: "writing the extended state",
        source,
    })?;
    thread.set_sigmask(image.sigmask)?;
    // before the registers, which may name them
    ward::set_segments(thread, &image.segments)?;
    thread.set_regs(&regs)?;
    if let Some(Dispatch { mode, selector, offset, len }) = image.dispatch {
        ward::set_dispatch(thread, Some(DispatchConfiguration { mode, selector, offset, len }))?;
    }
    Ok(())
}

/// Has the thread end as soon as it is let go, alone and with this status: it knows of nothing that the kernel would write to its
/// memory then (`clear_child_tid`, robust list, rseq), and takes none of its process's signals before. `syscall`: where there is
/// such an instruction.
pub fn put_end(thread: Thread, syscall: u64, status: u8) -> Result<(), StateError> {
    thread.set_sigmask(u64::MAX)?;
    let regs = Regs {
        rip: syscall,
        rax: libc::SYS_exit as u64,
        rdi: u64::from(status),
        // no call to be issued again
        orig_rax: u64::MAX,
        ..thread.regs()?
    };
    Ok(thread.set_regs(&regs)?)
}

/// What this CPU lacks of what the source's has.
pub fn cpu_obstacles(components: u64, features: &[u32]) -> Vec<crate::image::Obstacle> {
    let lacking = components & !xsave::components();
    let words = ["1.ecx", "1.edx", "7.ebx", "7.ecx", "7.edx", "80000001.ecx", "80000001.edx"];
    let mut found = Vec::new();
    let advice = "move it to a host whose CPU has at least the same features";
    if lacking != 0 {
        found.push(crate::image::Obstacle::new(
            "CPU",
            format!("no register state components {lacking:#x} here"),
            advice,
        ));
    }
    for ((name, theirs), ours) in words.iter().zip(features).zip(xsave::feature_words()) {
        if theirs & !ours != 0 {
            let why = format!("features {:#x} of CPUID {name} are missing here", theirs & !ours);
            found.push(crate::image::Obstacle::new("CPU", why, advice));
        }
    }
    found
}
