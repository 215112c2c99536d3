//! The two-sided commit: at every instant at most one copy can run, and one can always be brought back.
//!
//! Pure state machines: events in, the actions to carry out in that order. No I/O, no clock. The sessions,
//! `ulpm recover` and `ulpm serve` feed them through [`drive`], the one executor of what they say;
//! [`journal`] writes what must be remembered, `settle` says what follows from what is written, `drawer` is a target
//! that is a directory. `model/` checks all of it against every failure at every step.
//!
//! ```text
//! source                                     target
//!   Moving ──Prepared──▶ Committing            Building ──Applied──▶ Prepared
//!     │ Failed, Lost,      │ Running, Lost        │ Lost, Abort         │ Commit      │ Lost, Abort
//!     ▼ Cancelled          ▼                      ▼                     ▼             ▼
//!   Resumed             Done   Open             Destroyed           Committed      Destroyed
//!                                                                       │ Journalled
//!                                                                    Leaving
//!                                                                       │ Outlives
//!                                                                    Running
//! ```
//! Where memory comes after the process, `Following` lies between `Committing` (or `Open`) and `Done`: the copy at the source
//! stays until the process at the target is whole.
//!
//! The target's journal decides. Before `Committed` is written there nothing can run at the target; the source
//! goes on. From the moment before `Commit` leaves, the source copy stays stopped whatever happens to ulpm, until
//! the target's answer (or its journal, asked later by `ulpm recover`) says which copy it is. A target that is
//! asked about a migration it has not committed writes down that it never will: a late `Commit` finds that.

#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

pub(crate) mod drawer;
pub mod drive;
pub mod journal;
#[cfg(test)]
mod model;
pub(crate) mod settle;
mod source;
mod target;

pub use drive::{After, Machine};
pub(crate) use drive::{Driver, Hands, NotDone};
pub use source::{Source, SourceAction, SourceEvent};
pub use target::{Target, TargetAction, TargetEvent};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_target_after_the_commit_leaves_it_open() {
        use SourceAction as A;
        let mut source = Source::Moving;
        let commit = [A::JournalOpen, A::Tidy, A::TakeSignals, A::Hold, A::SendCommit, A::NoteSignals];
        assert_eq!(source.on(SourceEvent::Prepared), commit);
        assert_eq!(source.on(SourceEvent::Cancelled), []);
        assert_eq!(source.on(SourceEvent::Lost), [A::Ask]);
        assert_eq!(source.on(SourceEvent::Unsettled), [A::LeaveStopped]);
        assert_eq!(source, Source::Open);
        assert_eq!(source.on(SourceEvent::Never), [A::Resume, A::JournalClosed]);
    }
}
