//! Faults on demand, for the trials: named points on the way of a migration, at which this program can be made to die,
//! to hang, or to fail as disks, networks and kernels do.
//!
//! Asked for by the hidden option `--fault POINT=KIND[:N]` (the Nth time the point is passed; the first if not said), by
//! whoever started the program, and nobody else. Without it a point is one load of a static.

use std::fmt;
use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// Where a fault can happen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point { $($(#[$doc])* $point,)* }

        impl Point {
            /// All of them.
            pub const ALL: &'static [Point] = &[$(Point::$point,)*];

            /// Its name: the side, the step.
            pub fn name(self) -> &'static str {
                match self { $(Point::$point => $name,)* }
            }
        }
    };
}

points! {
    /// A checkpoint is written; it is not yet one that is restored.
    CheckpointWritten = "checkpoint.written",
    /// It is whole; it does not have its name.
    CheckpointWhole = "checkpoint.whole",
    /// It has its name, which may not be on the disk.
    CheckpointNamed = "checkpoint.named",
    /// The skeleton stands; the source process is about to be attached to.
    SourceReady = "source.ready",
    /// A round was sent.
    SourceRound = "source.round",
    /// The journal entry is on the disk; nothing is stopped yet.
    SourcePoised = "source.poised",
    /// Every thread is stopped.
    SourceFrozen = "source.frozen",
    /// In the middle of a single remote call: its registers are set; it is entered; it is done, and the registers are still ours.
    SourceCallSingle = "source.call.single",
    /// In the middle of a batch: its registers are set; it runs; it is done, and the registers are still ours.
    SourceCallBatch = "source.call.batch",
    /// The scratch area is mapped; the capture begins.
    SourceFurnished = "source.furnished",
    /// The state is captured, nothing of it sent.
    SourceCaptured = "source.captured",
    /// The state is sent.
    SourceSent = "source.sent",
    /// `Prepared` has come.
    SourcePrepared = "source.prepared",
    /// `Committed` is about to be written.
    SourceJournalCommitted = "source.journal.committed",
    /// The journal is written; the stop does not outlive us yet.
    SourceJournalled = "source.journalled",
    /// The stop outlives us; `Commit` is not sent.
    SourceHeld = "source.held",
    /// `Commit` is sent.
    SourceCommitSent = "source.commit.sent",
    /// `Running` has come; the copy here is still there.
    SourceAnswered = "source.answered",
    /// The copy here is about to be killed; its queues were looked at.
    SourceLooked = "source.looked",
    /// The copy here is dead; the journal does not know.
    SourceKilled = "source.killed",
    /// The entry is gone; the goodbye is not said.
    SourceClosed = "source.closed",
    /// The entry is on the disk; there is no skeleton.
    TargetBegun = "target.begun",
    /// The nursery is started; nothing is born yet.
    TargetOrdered = "target.ordered",
    /// The skeleton stands; the source does not know.
    TargetBorn = "target.born",
    /// A round has arrived.
    TargetRound = "target.round",
    /// The frozen state has arrived.
    TargetState = "target.state",
    /// It is applied; `Prepared` is not said.
    TargetApplied = "target.applied",
    /// `Prepared` is said.
    TargetPrepared = "target.prepared",
    /// `Commit` has come.
    TargetCommit = "target.commit",
    /// `Committed` is about to be written.
    TargetJournalCommitted = "target.journal.committed",
    /// `Committed` is on the disk.
    TargetJournalled = "target.journalled",
    /// `Releasing` is about to be noted.
    TargetJournalReleasing = "target.journal.releasing",
    /// It is noted; the skeleton still dies with us.
    TargetNoted = "target.noted",
    /// The skeleton outlives us; no thread is let go.
    TargetOutlives = "target.outlives",
    /// All threads are let go; the source does not know.
    TargetLetGo = "target.letgo",
    /// `Running` is said.
    TargetSaid = "target.said",
    /// `Released` is about to be written.
    TargetJournalReleased = "target.journal.released",
    /// It is on the disk.
    TargetReleased = "target.released",
    /// A question has come.
    TargetAsked = "target.asked",
    /// The answer is written; it is not said.
    TargetSettled = "target.settled",
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `kill -9` of ourselves.
    Kill,
    /// The same, N microseconds after the point was first passed, in whatever we are doing by then.
    Late,
    /// We stop, as if hung, until somebody lets us go on.
    Stop,
    /// The connection is gone.
    Cut,
    /// The disk is full.
    Full,
    /// What was written cannot be synced.
    Sync,
    /// No memory.
    Memory,
    /// This side will not.
    Refuse,
    /// The thread that traces ends, and nothing else.
    Tracer,
}

const KINDS: [(&str, Kind); 9] = [
    ("kill", Kind::Kill),
    ("late", Kind::Late),
    ("stop", Kind::Stop),
    ("cut", Kind::Cut),
    ("full", Kind::Full),
    ("sync", Kind::Sync),
    ("memory", Kind::Memory),
    ("refuse", Kind::Refuse),
    ("tracer", Kind::Tracer),
];

/// A fault that is asked for.
#[derive(Debug)]
pub struct Fault {
    point: Point,
    kind: Kind,
    left: AtomicU32,
}

impl Clone for Fault {
    fn clone(&self) -> Self {
        let left = AtomicU32::new(self.left.load(Ordering::Relaxed));
        Fault { point: self.point, kind: self.kind, left }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').ok_or("expected POINT=KIND[:N]")?;
        let (kind, count) = rest.split_once(':').unwrap_or((rest, "1"));
        let point = Point::ALL.iter().copied().find(|p| p.name() == name).ok_or("no such point")?;
        let kind = KINDS.iter().find(|(k, _)| *k == kind).ok_or("no such kind")?.1;
        let left = count.parse().map_err(|_| "N is a number")?;
        Ok(Fault { point, kind, left: AtomicU32::new(left) })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = KINDS.iter().find(|(_, k)| *k == self.kind).map_or("", |(name, _)| name);
        write!(f, "{}={kind}", self.point.name())
    }
}

static WANTED: OnceLock<Fault> = OnceLock::new();

/// From now on this fault is waiting.
pub fn want(fault: Fault) {
    let _ = WANTED.set(fault);
}

/// Whether a fault is waiting at this point.
pub fn waits_at(at: Point) -> bool {
    WANTED.get().is_some_and(|fault| fault.point == at)
}

/// Passes a point: nothing happens, or we do not come back, or an error does.
pub fn point(at: Point) -> io::Result<()> {
    match WANTED.get() {
        Some(fault) if fault.point == at => strike(fault),
        _ => Ok(()),
    }
}

/// Passes a point where a write is to be synced: [`Kind::Sync`] fails here, all the others do at [`point`].
pub fn written(at: Point) -> io::Result<()> {
    match WANTED.get() {
        Some(fault) if fault.point == at && fault.kind == Kind::Sync => strike(fault),
        _ => Ok(()),
    }
}

/// Passes a point where a write is about to be done.
pub fn writing(at: Point) -> io::Result<()> {
    match WANTED.get() {
        Some(fault) if fault.point == at && fault.kind != Kind::Sync => strike(fault),
        _ => Ok(()),
    }
}

fn strike(fault: &Fault) -> io::Result<()> {
    let due = fault.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| match fault.kind {
        Kind::Late => (n > 0).then_some(0),
        _ => n.checked_sub(1),
    });
    let Ok(count) = due else { return Ok(()) };
    if count != 1 && fault.kind != Kind::Late {
        return Ok(());
    }
    let own = nix::unistd::Pid::this();
    let _ = writeln!(io::stderr(), "ulpm: fault {fault} in process {own}");
    match fault.kind {
        Kind::Kill => nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGKILL)?,
        Kind::Late => {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(count.into()));
                nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGKILL)
            });
        }
        // to this thread, which takes it before it does anything else; the process's could be taken by another one later
        Kind::Stop => nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP)?,
        Kind::Tracer => crate::sys::process::end_this_thread(),
        Kind::Cut => return Err(io::ErrorKind::ConnectionReset.into()),
        Kind::Full => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        Kind::Sync => return Err(io::Error::from_raw_os_error(libc::EIO)),
        Kind::Memory => return Err(io::Error::from_raw_os_error(libc::ENOMEM)),
        Kind::Refuse => return Err(io::ErrorKind::PermissionDenied.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_written() {
        for point in Point::ALL {
            let text = format!("{}=kill", point.name());
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
        assert_eq!("source.round=cut:3".parse::<Fault>().unwrap().left.into_inner(), 3);
        for wrong in ["", "source.round", "nowhere=kill", "source.round=love", "source.round=cut:x"] {
            assert!(wrong.parse::<Fault>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_wish_nothing_happens() {
        assert!(Point::ALL.iter().all(|p| point(*p).is_ok() && writing(*p).is_ok() && written(*p).is_ok()));
    }
}
