//! Pages on their way in a round: counted, held back to `--bandwidth`, and reported while they go.
//!
//! The limit is a token bucket: a tenth of a second may go at once, so that small rounds show what the link carries.
//! The freeze sends past it, by the [`Destination`] itself: there every millisecond is one in which the process stands still.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::MigrateError;
use super::control::Control;
use super::destination::Destination;
use crate::image::{ObjectId, PageRange, ProcessIndex};
use crate::preload::PreloadError;
use crate::preload::push::PageSink;
use crate::report::Rate;

/// A frame's head and address.
const OVERHEAD: usize = 24;

/// How long to wait at most before looking at the limits again.
const SLICE: Duration = Duration::from_millis(50);

/// A token bucket that may go into debt: what was taken is waited for afterwards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    at: Duration,
}

impl Bucket {
    /// A full one, at an instant.
    pub(crate) fn full(rate: Rate, at: Duration) -> Self {
        Bucket { tokens: depth(rate), at }
    }

    /// Takes so many bytes out; how long to wait before the next ones.
    pub(crate) fn take(&mut self, bytes: usize, rate: Rate, now: Duration) -> Duration {
        let per_s = rate.as_bytes_per_s() as f64;
        let filled = self.tokens + (now.saturating_sub(self.at)).as_secs_f64() * per_s;
        self.tokens = filled.min(depth(rate)) - bytes as f64;
        self.at = now;
        Duration::try_from_secs_f64((-self.tokens / per_s).max(0.0)).unwrap_or(Duration::MAX)
    }
}

fn depth(rate: Rate) -> f64 {
    (rate.as_bytes_per_s() as f64 / 10.0).min(16e6)
}

/// Where the pages of the rounds go.
pub(crate) struct Paced<'a> {
    to: &'a mut dyn Destination,
    control: &'a Control,
    meter: &'a mut Meter,
    on_the_way: &'a mut dyn FnMut(&Meter) -> Result<(), MigrateError>,
}

/// What has gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    begun: Instant,
    bucket: Option<Bucket>,
    /// Bytes of this round.
    pub round_bytes: u64,
    /// Whether the limit has held this round up.
    pub paced: bool,
    /// What went before it did: pages, and how long the link was busy with them.
    pub burst: Option<(u64, Duration)>,
    sending: Option<Instant>,
}

impl Meter {
    /// Nothing has gone.
    pub(crate) fn new() -> Self {
        Meter {
            begun: Instant::now(),
            bucket: None,
            round_bytes: 0,
            paced: false,
            burst: None,
            sending: None,
        }
    }

    /// Another round begins.
    pub(crate) fn next_round(&mut self) {
        *self = Meter { round_bytes: 0, paced: false, burst: None, sending: None, ..*self };
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Paced<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paced").field("meter", &self.meter).finish_non_exhaustive()
    }
}

impl<'a> Paced<'a> {
    /// Pages go to `to`; `on_the_way` is told now and then, and may end it.
    pub(crate) fn new(
        to: &'a mut dyn Destination,
        control: &'a Control,
        meter: &'a mut Meter,
        on_the_way: &'a mut dyn FnMut(&Meter) -> Result<(), MigrateError>,
    ) -> Self {
        Paced { to, control, meter, on_the_way }
    }

    fn sent(&mut self, bytes: usize) -> Result<(), PreloadError> {
        self.account(bytes + OVERHEAD).map_err(|e| PreloadError::Sink(Box::new(e)))
    }

    fn account(&mut self, mut bytes: usize) -> Result<(), MigrateError> {
        self.meter.round_bytes += bytes as u64;
        (self.on_the_way)(self.meter)?;
        // a user who wants the freeze now wants the rest of the round at once
        while let Some(rate) = self.control.limits().bandwidth.filter(|_| !self.control.wants_freeze()) {
            let now_is = Instant::now();
            let now = now_is.duration_since(self.meter.begun);
            let bucket = self.meter.bucket.get_or_insert_with(|| Bucket::full(rate, now));
            let wait = bucket.take(std::mem::take(&mut bytes), rate, now);
            if wait.is_zero() {
                break;
            }
            if !self.meter.paced {
                self.meter.paced = true;
                // the only moment in which the link shows what it carries
                let (begun, idle) = (self.meter.sending.unwrap_or(now_is), self.to.drain()?);
                let pages = self.meter.round_bytes / crate::image::PAGE_SIZE;
                self.meter.burst = Some((pages, idle.saturating_duration_since(begun)));
                continue;
            }
            self.to.idle(wait.min(SLICE))?;
            (self.on_the_way)(self.meter)?;
        }
        Ok(())
    }
}

impl PageSink for Paced<'_> {
    fn pages(&mut self, of: ProcessIndex, addr: u64, data: Bytes) -> Result<(), PreloadError> {
        let bytes = data.len();
        self.meter.sending.get_or_insert_with(Instant::now);
        self.to.pages(of, addr, data)?;
        self.sent(bytes)
    }

    fn zero(&mut self, of: ProcessIndex, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.to.zero(of, ranges)
    }

    fn gone(&mut self, of: ProcessIndex, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.to.gone(of, ranges)
    }

    fn object_pages(&mut self, id: ObjectId, offset: u64, data: Bytes) -> Result<(), PreloadError> {
        let bytes = data.len();
        self.meter.sending.get_or_insert_with(Instant::now);
        self.to.object_pages(id, offset, data)?;
        self.sent(bytes)
    }

    fn object_holes(&mut self, id: ObjectId, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.to.object_holes(id, ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_through_what_the_rate_allows() {
        let rate = Rate::bytes_per_s(1_000_000);
        let mut now = Duration::from_secs(5);
        let mut bucket = Bucket::full(rate, now);
        // a tenth of a second at once
        assert_eq!(bucket.take(100_000, rate, now), Duration::ZERO);
        let mut sent = 0;
        while now < Duration::from_secs(15) {
            now += bucket.take(262_144, rate, now);
            sent += 262_144;
        }
        assert!((9_700_000..=10_500_000).contains(&sent), "{sent}");
        // rest does not add up beyond the tenth of a second
        now += Duration::from_secs(100);
        assert_eq!(bucket.take(100_000, rate, now), Duration::ZERO);
        assert!(bucket.take(100_000, rate, now) >= Duration::from_millis(99));
    }

    #[test]
    fn a_higher_rate_counts_at_once() {
        let slow = Rate::bytes_per_s(1_000);
        let mut bucket = Bucket::full(slow, Duration::ZERO);
        assert!(bucket.take(10_000, slow, Duration::ZERO) > Duration::from_secs(9));
        let fast = Rate::bytes_per_s(1_000_000);
        assert!(bucket.take(0, fast, Duration::from_millis(1)) < Duration::from_millis(10));
    }
}
