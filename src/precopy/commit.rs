//! The commit: the machine is told that the other end has everything, then what that answers. What is done about it: `executor.rs`.

use std::time::Instant;

use super::MigrateError;
use super::destination::{Destination, out_of_turn};
use super::freeze::{Freezer, Stopped, ms};
use crate::fault::Point;
use crate::handover::{Source, SourceEvent};
use crate::report::Outcome;
use crate::sys::time::initial_clocks;
use crate::transport::protocol::ToSource;

impl Freezer<'_, '_> {
    /// The other end has everything: the decision, and what follows from it.
    pub(super) fn commit(
        self,
        to: &mut dyn Destination,
        Stopped { captive, frozen_at, prediction, urgent }: Stopped,
    ) -> Result<(), MigrateError> {
        let begun = Instant::now();
        to.ignore_cancel();
        let executor = self.executor;
        executor.captive = Some(captive);
        if let Err(e) = MigrateError::point(Point::SourcePrepared) {
            return executor.give_up(e, to, self.report);
        }
        let sent = executor.on(SourceEvent::Prepared, None, to, self.report);
        if executor.state() != Source::Committing {
            return sent;
        }
        let answer = to.hear("waiting for it to run");
        if let Ok(ToSource::Running { pid, at_boottime_ns, journal_ms, resume_ms }) = answer {
            self.report.target_pid = Some(pid);
            self.report.outcome = Outcome::Moved;
            let ended = at_boottime_ns + self.difference.boottime_ns;
            self.report.freeze_ms = (ended - frozen_at) as f64 / 1e6;
            self.report.freeze_parts.resume = resume_ms;
            // what of the freeze lies between `Prepared` and the target letting go
            let p = &self.report.freeze_parts;
            let before = p.stop + p.capture + p.scan + p.send + p.verify + p.apply;
            let rest = self.report.freeze_ms - (before + p.resume);
            self.report.freeze_parts.commit = rest.max(journal_ms);
            self.report.bytes_on_wire = to.bytes_sent();
            tracing::debug!(journal_ms, answered_ms = ms(begun), "commit");
            MigrateError::point(Point::SourceAnswered)?;
            drop(urgent);
            self.foresight.learn(&self.options.home, &prediction, self.report);
            let lazily = executor.late.is_some();
            let event = if lazily { SourceEvent::RunsLazily } else { SourceEvent::Running };
            return executor.on(event, None, to, self.report);
        }
        let error = answer.map_or_else(|e| e, |other| out_of_turn(&other));
        let failed = matches!(error, MigrateError::Target(_));
        let event = if failed { SourceEvent::Failed } else { SourceEvent::Lost };
        executor.on(event, Some(error), to, self.report)
    }

    /// The other end has everything, and does not let it run: the process goes on here.
    pub(super) fn leave(self, to: &mut dyn Destination, stopped: Stopped) -> Result<(), MigrateError> {
        self.executor.captive = Some(stopped.captive);
        let left = self.executor.on(SourceEvent::Failed, None, to, self.report);
        self.report.freeze_ms = (initial_clocks().boottime_ns - stopped.frozen_at) as f64 / 1e6;
        left
    }
}
