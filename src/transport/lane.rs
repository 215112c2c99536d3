//! Lanes: how the memory of a process that runs already follows it.
//!
//! A lane is a stream of frames between the **holder** at the target, a small process that keeps the userfaultfds and
//! knows what is outstanding, and the **page server** at the source, which reads the stopped copy. There are two, each on a
//! QUIC connection of its own, so that no bulk data can delay a page that a thread waits for. `ulpm serve` only passes bytes
//! on between connection and holder; either ulpm may be restarted, and a lane that broke is opened anew by the source.
//!
//! ```text
//! source (page server)                     target (holder)
//!   Lane{id, Urgent|Bulk} ────────────────▶ (ulpm serve: from here on bytes are passed on)
//!          ◀──────────────────────────────── Want(ranges)
//!   LAZY_PAGES* | Zero ───────────────────▶ places them
//!          ◀──────────────────────────────── [Placed(ranges)]
//!          ◀──────────────────────────────── Whole(report) | Ended(why)
//!   Bye ──────────────────────────────────▶
//! ```
//! Every page of a `Want` is answered once, as content or as zero, in the order of the ranges. What a broken lane has not delivered
//! is asked for again.

use serde::{Deserialize, Serialize};

use super::message::numbered;
use crate::image::{ObjectId, PageOwner, PageRange, ProcessIndex};

/// Which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LaneKind {
    /// Pages that a thread waits for.
    Urgent,
    /// All others.
    Bulk,
}

/// What of the memory of frozen processes comes after them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LazyPlan {
    /// Private memory, of each process that lacks some.
    pub processes: Vec<LazyProcess>,
    /// Pages of memory objects that the target does not have, as offsets.
    pub objects: Vec<(ObjectId, Vec<PageRange>)>,
    /// Pages come with the hash of their content, which is checked before they are placed.
    pub verify: bool,
    /// How long the process may wait for a source that does not answer, in milliseconds, before it is given up and killed.
    pub patience_ms: u64,
}

/// What of one process's private memory comes after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LazyProcess {
    /// The process.
    pub of: ProcessIndex,
    /// Pages that the target does not have. What it has at these places is out of date.
    pub outstanding: Vec<PageRange>,
    /// Pages in the order in which they are likely to be needed; what is not in it comes afterwards, by address.
    pub order: Vec<PageRange>,
}

/// A piece of lazy memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LazyRange {
    /// Whose it is.
    pub owner: PageOwner,
    /// The address at the source, or the offset in the object; and its end.
    pub range: PageRange,
}

/// Largest message on a lane in bytes. Zero ranges of a `Want` never take more.
const WORDS_MAX: u32 = 1 << 20;

/// From holder to source.
#[derive(Clone, Debug, PartialEq)]
pub enum FromHolder {
    /// Send these, in this order.
    Want(Vec<LazyRange>),
    /// Nothing is outstanding any more: the copy at the source may go.
    Whole(Box<LazyReport>),
    /// The process has ended, or lives on without the memory that is outstanding: the copy at the source may go.
    Ended(String),
    /// These are in place, or given up, and will never be asked for again: the source may free them (`--release-source`).
    Placed(Vec<LazyRange>),
    /// The process was killed, since what is outstanding cannot come, and why. The answer to [`FromSource::Lost`], too.
    Killed(String),
}

numbered! {
    FromHolder {
        201 Want(ranges) max WORDS_MAX;
        202 Whole(report) max WORDS_MAX;
        203 Ended(why) max WORDS_MAX;
        204 Placed(ranges) max WORDS_MAX;
        205 Killed(why) max WORDS_MAX;
    }
}

/// From source to holder, besides [pages](PagesHead).
#[derive(Clone, Debug, PartialEq)]
pub enum FromSource {
    /// These hold zeroes, or nothing.
    Zero(Vec<LazyRange>),
    /// The copy at the source is gone, and what is outstanding with it.
    Lost(String),
    /// `Whole`, `Ended` or `Killed` has been heard.
    Bye,
}

numbered! {
    FromSource {
        221 Zero(ranges) max WORDS_MAX;
        222 Lost(why) max WORDS_MAX;
        223 Bye max 0;
    }
}

/// What comes before the content in a frame of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagesHead {
    /// Whose they are.
    pub owner: PageOwner,
    /// Address at the source, or offset in the object.
    pub start: u64,
    /// xxh3 (128 bits) of the content; 0 if it is not to be checked.
    pub digest: u128,
}

impl PagesHead {
    /// Bytes of an encoded head.
    pub const LEN: usize = 48;
    /// An owner that is a process, or an object. 0 is none.
    const OWNERS: (u32, u32) = (1, 2);

    /// As it is on the wire: what the owner is (u32), process (u32), dev, ino, start (u64 each), digest; little-endian. What does not
    /// belong to an owner of that kind is 0.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let none = ObjectId { dev: 0, ino: 0 };
        let (what, process, id) = match self.owner {
            PageOwner::Process(process) => (Self::OWNERS.0, process.0, none),
            PageOwner::Object(id) => (Self::OWNERS.1, 0, id),
        };
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&what.to_le_bytes());
        bytes[4..8].copy_from_slice(&process.to_le_bytes());
        bytes[8..16].copy_from_slice(&id.dev.to_le_bytes());
        bytes[16..24].copy_from_slice(&id.ino.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.start.to_le_bytes());
        bytes[32..].copy_from_slice(&self.digest.to_le_bytes());
        bytes
    }

    /// Splits the body of a frame; `None` if it is too short, or nobody's.
    pub fn decode(body: &[u8]) -> Option<(Self, &[u8])> {
        let (head, content) = body.split_at_checked(Self::LEN)?;
        let word = |i: usize| head[i..i + 8].iter().rev().fold(0u64, |w, b| w << 8 | u64::from(*b));
        let (what, process) = (word(0) as u32, (word(0) >> 32) as u32);
        let id = ObjectId { dev: word(8), ino: word(16) };
        let owner = if what == Self::OWNERS.0 && id == (ObjectId { dev: 0, ino: 0 }) {
            PageOwner::Process(ProcessIndex(process))
        } else if what == Self::OWNERS.1 && process == 0 {
            PageOwner::Object(id)
        } else {
            return None;
        };
        let digest = u128::from(word(40)) << 64 | u128::from(word(32));
        Some((PagesHead { owner, start: word(24), digest }, content))
    }
}

/// How the lazy phase went, as the holder saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LazyReport {
    /// Pages placed with content.
    pub pages: u64,
    /// Pages placed as zeroes that the source was asked for.
    pub zero_pages: u64,
    /// Outstanding pages that the process gave up before they came (`munmap`, `MADV_DONTNEED`, exec).
    pub dropped_pages: u64,
    /// Pages that arrived and were there already.
    pub twice: u64,
    /// Times a thread had to wait for an outstanding page.
    pub faults: u64,
    /// Faults on pages that were not outstanding: answered with zeroes on the spot.
    pub zero_faults: u64,
    /// How many of these waits took how long: upper bound in microseconds (powers of two), count.
    pub waits: Vec<(u64, u64)>,
    /// Median of the waits in microseconds.
    pub p50_us: u64,
    /// 99th percentile of the waits in microseconds.
    pub p99_us: u64,
    /// The longest wait in microseconds.
    pub max_us: u64,
    /// From the resume to the last page, in milliseconds.
    pub ms: f64,
    /// How often a lane had to be opened anew.
    pub reconnects: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_survive_the_wire() {
        let object = ObjectId { dev: 7, ino: u64::MAX };
        for owner in [PageOwner::Process(ProcessIndex(u32::MAX - 3)), PageOwner::Object(object)] {
            let head = PagesHead { owner, start: 0x7fff_1234_5000, digest: u128::MAX - 5 };
            let body = [&head.encode()[..], b"content"].concat();
            assert_eq!(PagesHead::decode(&body), Some((head, &b"content"[..])));
            for what in [0, 3, 1 + 2 - body[0]] {
                let mut nobody = body.clone();
                nobody[0] = what;
                assert_eq!(PagesHead::decode(&nobody), None, "{what}");
            }
        }
        assert_eq!(PagesHead::decode(&[1; PagesHead::LEN - 1]), None);
    }
}
