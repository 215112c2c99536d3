//! The seam between a session at the source and whoever it talks to.
//!
//! Rounds, freeze and commit speak [`ToTarget`], hear [`ToSource`] and push pages; where these go they do not know.
//! `Link` takes them to another host over QUIC. Who writes the conversation down instead answers
//! for a target that agrees: the session is the same.
//!
//! Pages are pushed through a trait object: one indirect call for each piece of up to 256 KiB.

use std::time::{Duration, Instant};

use super::MigrateError;
use crate::preload::push::PageSink;
use crate::sys::time::{ClockOffsets, initial_clocks};
use crate::transport::protocol::{ToSource, ToTarget};

/// The other end of the source's conversation: what is said and pushed arrives there in this order.
pub trait Destination: PageSink {
    /// Sends a message.
    fn say(&mut self, message: &ToTarget) -> Result<(), MigrateError>;

    /// The next message from there; `step` names what is waited for, should nothing come.
    fn hear(&mut self, step: &'static str) -> Result<ToSource, MigrateError>;

    /// The next message from there; `meanwhile` is called several times a second, and may end the waiting.
    fn hear_meanwhile(
        &mut self,
        step: &'static str,
        meanwhile: &mut dyn FnMut() -> Result<(), MigrateError>,
    ) -> Result<ToSource, MigrateError>;

    /// Lets what was said begin to leave, and waits for nothing.
    fn nudge(&mut self) -> Result<(), MigrateError>;

    /// Lets what was said leave, as far as that is a matter of a moment.
    fn flush(&mut self) -> Result<(), MigrateError>;

    /// Lets so much time pass without sending anything.
    fn idle(&mut self, span: Duration) -> Result<(), MigrateError>;

    /// Waits until what was said has left; when that was, to about a millisecond.
    fn drain(&mut self) -> Result<Instant, MigrateError>;

    /// From now on the process is frozen, or about to be: nobody is waited for who gives no sign of life.
    fn watch(&mut self);

    /// From now on the user's wish to cancel ends nothing here any more.
    fn ignore_cancel(&mut self);

    /// By which `ulpm recover` finds it again: it stands in the journal.
    fn name(&self) -> String;

    /// Begins the conversation anew, where it broke after `Commit` was said: what follows is about that migration
    /// (`Settle`, `Signals`, `Goodbye`). Cancelling does not end it.
    fn reconnect(&mut self) -> Result<(), MigrateError>;

    /// Bytes sent so far, by all connections.
    fn bytes_sent(&self) -> u64;

    /// Whether the other end has this kernel, and so its clocks.
    fn same_machine(&self) -> bool;

    /// Difference of the two hosts' clocks, ours minus theirs, in their initial time namespaces: zero and exact when both
    /// are one kernel. And the round trip, half of which bounds the error.
    fn clock_difference(&mut self) -> Result<(ClockOffsets, Duration), MigrateError> {
        const SAMPLES: usize = 8;
        let mut best: Option<(ClockOffsets, Duration)> = None;
        for _ in 0..SAMPLES {
            let before = initial_clocks();
            self.say(&ToTarget::Clock)?;
            let ToSource::Clock(monotonic_ns, boottime_ns) = self.hear("reading its clock")? else {
                return Err(MigrateError::Nonsense("no clock".to_owned()));
            };
            let after = initial_clocks();
            let trip = Duration::from_nanos((after.monotonic_ns - before.monotonic_ns).max(0) as u64);
            let middle = |a: i64, b: i64| a + (b - a) / 2;
            let difference = ClockOffsets {
                monotonic_ns: middle(before.monotonic_ns, after.monotonic_ns).saturating_sub(monotonic_ns),
                boottime_ns: middle(before.boottime_ns, after.boottime_ns).saturating_sub(boottime_ns),
            };
            if best.is_none_or(|(_, shortest)| trip < shortest) {
                best = Some((difference, trip));
            }
        }
        let (difference, trip) = best.ok_or_else(|| MigrateError::Nonsense("no clock".to_owned()))?;
        Ok(if self.same_machine() { (ClockOffsets::default(), trip) } else { (difference, trip) })
    }
}

/// An answer that was not expected.
pub(crate) fn out_of_turn(message: &ToSource) -> MigrateError {
    let text = format!("{message:?}");
    MigrateError::Nonsense(text.chars().take_while(|c| c.is_alphanumeric()).collect())
}
