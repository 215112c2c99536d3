//! What can go wrong at the target. In every case the skeleton dies and the source goes on.

use crate::state::StateError;
use crate::state::files::FilesError;
use crate::state::signals::told;
use crate::tracee::TraceeError;
use crate::tracee::stop::Stop;
use crate::transport::WireError;

/// What became of a process in the making that is not there any more.
const KILLED: &str = "somebody or the kernel killed the process";

/// Building or activating the skeleton failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Driving the skeleton.
    #[error("building the process")]
    Tracee(#[from] TraceeError),
    /// Putting state back.
    #[error("putting its state back")]
    State(#[from] StateError),
    /// Opening descriptors.
    #[error("opening its descriptors")]
    Files(#[from] FilesError),
    /// The connection.
    #[error("the connection to the source broke")]
    Wire(#[from] WireError),
    /// It was given up for silence.
    #[error("nothing was heard from the source for {0} s")]
    Unheard(u64),
    /// The pid is taken here.
    #[error("pid {0} is taken on this host")]
    PidTaken(i32),
    /// A system call on our side.
    #[error("{step}")]
    Io {
        /// What was being done.
        step: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// There was no huge page to be had.
    #[error("{step}: the target has too few free huge pages of {} kB (`sysctl vm.nr_hugepages`), or its control group allows no more", page_size / 1024)]
    NoHugePage {
        /// What was being done.
        step: &'static str,
        /// Bytes of such a page.
        page_size: u64,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel ended it for want of memory.
    #[error("the process was killed there by the out-of-memory killer: {limit}")]
    OutOfMemory {
        /// Which limit.
        limit: String,
        /// How that was noticed.
        source: Box<RestoreError>,
    },
    /// Somebody here has signalled a process that is not whole yet.
    #[error("{what} while it was being built there")]
    Signalled {
        /// Who did what to it.
        what: String,
        /// How that was noticed.
        source: Box<RestoreError>,
    },
    /// The two do not speak the same language.
    #[error("the source cannot be talked to: {0}; install the same version of ulpm on both hosts")]
    Version(String),
    /// The source sent something that makes no sense; nothing was done with it.
    #[error("the source sent {0}")]
    Nonsense(String),
    /// The source may not do this here.
    #[error("{0}")]
    NotPermitted(String),
    /// Memory differs between the two sides.
    #[error("verification failed: {0}")]
    Differs(String),
    /// The source gave up.
    #[error("the source gave up: {0}")]
    Aborted(String),
    /// The address space has no room for our scratch area.
    #[error("no room for a scratch area of {0} bytes in the address space")]
    NoRoom(u64),
}

impl RestoreError {
    /// A point at which a fault may be asked for.
    pub fn point(at: crate::fault::Point) -> Result<(), RestoreError> {
        crate::fault::point(at).map_err(RestoreError::io("a fault was asked for"))
    }

    /// For a step on our side.
    pub fn io<E: Into<std::io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> RestoreError {
        let step = step.into();
        move |e| RestoreError::Io { step, source: e.into() }
    }

    /// Whether the kernel knows no such process (`ESRCH`).
    fn is_of_nobody(&self) -> bool {
        std::iter::successors(Some(self as &(dyn std::error::Error + 'static)), |e| e.source()).any(|e| {
            let of_io = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            of_io == Some(libc::ESRCH) || e.downcast_ref() == Some(&nix::errno::Errno::ESRCH)
        })
    }

    /// The same error, of a process in the making; if that was signalled, it says so. All but three signals wait until it
    /// is whole: `SIGSTOP` cannot be blocked, `SIGTRAP` ends our batches, `SIGKILL` ends it.
    pub(super) fn of_half_built(self) -> Self {
        let what = match &self {
            RestoreError::Tracee(e) | RestoreError::State(StateError::Tracee(e)) => match e {
                TraceeError::Died { .. } => Some(KILLED.to_owned()),
                TraceeError::UnexpectedStop { stop, .. } => [libc::SIGSTOP, libc::SIGTRAP]
                    .into_iter()
                    .find(|signal| *stop == Stop::Signal(*signal))
                    .map(|signal| format!("somebody sent {} to the process", told(signal))),
                _ => None,
            },
            _ => None,
        };
        // between two looks at it: what is asked of the kernel then is of nobody
        let killed = || self.is_of_nobody().then(|| KILLED.to_owned());
        match what.or_else(killed) {
            Some(what) => RestoreError::Signalled { what, source: Box::new(self) },
            None => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_nobody_was_killed() {
        let gone = |errno: i32| std::io::Error::from_raw_os_error(errno);
        let told = |e: RestoreError| e.of_half_built().to_string();
        assert!(told(RestoreError::io("looking")(gone(libc::ESRCH))).contains(KILLED));
        let state = StateError::io(7, "opening the page map")(gone(libc::ESRCH));
        assert!(told(RestoreError::State(state)).contains(KILLED));
        assert!(!told(RestoreError::io("looking")(gone(libc::EPERM))).contains(KILLED));
    }
}
