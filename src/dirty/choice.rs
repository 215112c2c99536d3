//! Which tracker: what the user asks for, or the best that works here.

use std::fmt;

use super::inside::Inside;
use super::{Checksum, DirtyTracker, SoftDirty, TrackError, WpScan};
use crate::sys::chain;
use crate::sys::kernel::{Kernel, SoftDirtyBits};

/// A way to track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// [`WpScan`]
    WpScan,
    /// [`SoftDirty`]
    SoftDirty,
    /// [`Checksum`]
    Checksum,
}

impl Kind {
    /// All, best first.
    pub const ALL: [Kind; 3] = [Kind::WpScan, Kind::SoftDirty, Kind::Checksum];

    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::WpScan => "wp-scan",
            Kind::SoftDirty => "soft-dirty",
            Kind::Checksum => "checksum",
        }
    }

    /// Whether it works on this host, for this user.
    pub fn usable(self, kernel: &Kernel) -> Result<(), TrackError> {
        match self {
            Kind::WpScan => kernel.write_protect.map_err(TrackError::Unsupported),
            Kind::SoftDirty => match kernel.soft_dirty {
                SoftDirtyBits::Shown => Ok(()),
                SoftDirtyBits::WithoutFrames => {
                    Err(TrackError::Lacking("page frames are hidden from us: CAP_SYS_ADMIN is needed"))
                }
                SoftDirtyBits::Absent => {
                    Err(TrackError::Lacking("this kernel has no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)"))
                }
                SoftDirtyBits::Failed(e) => Err(TrackError::Untried(e)),
            },
            Kind::Checksum => Ok(()),
        }
    }

    /// Whether a thread of the process must be stopped to install it.
    pub fn needs_stop(self) -> bool {
        self == Kind::WpScan
    }

    /// Makes the tracker of a process. `inside`: by a stopped thread, where [one is needed](Kind::needs_stop).
    pub fn install(
        self,
        kernel: &Kernel,
        pid: i32,
        inside: Option<Inside<'_, '_>>,
    ) -> Result<Box<dyn DirtyTracker>, TrackError> {
        Ok(match (self, inside) {
            (Kind::WpScan, Some(inside)) => Box::new(WpScan::install(kernel, pid, inside)?),
            (Kind::WpScan, None) => return Err(TrackError::Lacking("no thread of the process is stopped")),
            (Kind::SoftDirty, _) => Box::new(SoftDirty::new(pid)?),
            (Kind::Checksum, _) => Box::new(Checksum::new(pid)?),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that works.
    #[default]
    Auto,
    /// This one.
    Forced(Kind),
}

/// A tracker that works here, and why it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Which.
    pub kind: Kind,
    /// Why.
    pub reason: String,
}

/// Why none can be taken: which was wanted, and what it lacks.
#[derive(Debug, thiserror::Error)]
#[error("tracker {kind}")]
pub struct Unavailable {
    /// The tracker that was asked for.
    pub kind: Kind,
    /// What is missing.
    pub source: TrackError,
}

impl Choice {
    /// The first that works.
    pub fn resolve(self, kernel: &Kernel) -> Result<Chosen, Unavailable> {
        match self {
            Choice::Auto => Ok(best(|kind| kind.usable(kernel))),
            Choice::Forced(kind) => match kind.usable(kernel) {
                Ok(()) => Ok(Chosen { kind, reason: "as asked for".to_owned() }),
                Err(source) => Err(Unavailable { kind, source }),
            },
        }
    }
}

impl Chosen {
    /// The best that needs no call inside the process, for one in which a call cannot be made (`why`).
    pub fn outside(self, kernel: &Kernel, choice: Choice, why: &'static str) -> Result<Self, Unavailable> {
        if !self.kind.needs_stop() {
            return Ok(self);
        }
        let other = Kind::ALL.into_iter().find(|kind| !kind.needs_stop() && kind.usable(kernel).is_ok());
        match (choice, other) {
            (Choice::Auto, Some(kind)) => Ok(Chosen { kind, reason: format!("no {}: {why}", self.kind) }),
            _ => Err(Unavailable { kind: self.kind, source: TrackError::Lacking(why) }),
        }
    }
}

fn best(usable: impl Fn(Kind) -> Result<(), TrackError>) -> Chosen {
    let mut lacking = Vec::new();
    for kind in Kind::ALL {
        match usable(kind) {
            Ok(()) if lacking.is_empty() => {
                return Chosen { kind, reason: "the best there is, and it works here".to_owned() };
            }
            Ok(()) => return Chosen { kind, reason: format!("no {}", lacking.join("; no ")) },
            Err(e) => lacking.push(format!("{kind}: {}", chain(&e))),
        }
    }
    unreachable!("checksums always work")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_that_works_is_taken_and_the_reason_names_what_better_ones_lack() {
        let only =
            |wanted: &'static [Kind]| {
                best(move |kind| {
                    if wanted.contains(&kind) {
                        Ok(())
                    } else {
                        Err(TrackError::Lacking("not in this kernel"))
                    }
                })
            };
        assert_eq!(only(&Kind::ALL).kind, Kind::WpScan);
        let soft = only(&[Kind::SoftDirty, Kind::Checksum]);
        assert_eq!(soft.kind, Kind::SoftDirty);
        assert!(soft.reason.contains("wp-scan: not in this kernel"), "{}", soft.reason);
        let sums = only(&[Kind::Checksum]);
        assert_eq!(sums.kind, Kind::Checksum);
        assert!(sums.reason.contains("soft-dirty"), "{}", sums.reason);
    }
}
