//! What the two sides say to each other, on one ordered stream: for one address the later frame wins because
//! it comes later.
//!
//! ```text
//! source                                   target
//!   Hello ────────────────────────────────▶
//!         ◀──────────────────────────────── Hello
//!   Clock ×8 ─────────────────────────────▶ Clock
//!   Describe ─────────────────────────────▶ checks, hashes
//!         ◀──────────────────────────────── Preflight (obstacles, or a reservation)
//!   Begin, Layout ────────────────────────▶ makes the skeleton
//!         ◀──────────────────────────────── Ready
//!   [Layout] Pages* Zero* RoundEnd ───────▶ places pages      (again and again)
//!         ◀──────────────────────────────── RoundApplied
//!   [Drop* RoundEnd] ─────────────────────▶ drops pages that come late   (before a lazy freeze)
//!         ◀──────────────────────────────── RoundApplied
//!   Layout Pages* Drop* [Verify Digests] State ▶ applies, frozen
//!         ◀──────────────────────────────── Prepared
//!   Commit ───────────────────────────────▶ journals, lets go
//!         ◀──────────────────────────────── Running
//!   [Signals] ────────────────────────────▶ queues them       (again and again)
//!         ◀──────────────────────────────── SignalsTaken
//!   Goodbye ──────────────────────────────▶ forgets
//! ```
//! At any time either side may say `Abort`/`Failed` before the commit, or fall silent. A later connection may ask
//! how a migration ended (`Settle`).

use serde::{Deserialize, Serialize};

use super::greeting::Hello;
use super::lane::{FromHolder, FromSource, LaneKind, LazyPlan, PagesHead};
use super::message::{WireMessage, numbered};
use super::page_head::{ObjectHead, PrivateHead};
use crate::image::files::{ContentHashes, FileIdentity};
use crate::image::memory::Layout;
use crate::image::process::LateSignal;
use crate::image::{FilePath, Note, ObjectId, Obstacle, PageOwner, PageRange, ProcessIndex, TreeImage};
use crate::sys::time::ClockOffsets;

/// Version of this protocol; both ends must have the same.
pub const PROTOCOL_VERSION: u32 = 5;

/// Kinds of frames that are no [messages](super::message). 0 is none.
pub mod kind {
    /// Pages of private memory: [`PrivateHead`](super::PrivateHead), content.
    pub const PAGES: u16 = 301;
    /// Pages of a memory object: [`ObjectHead`](super::ObjectHead), content.
    pub const OBJECT_PAGES: u16 = 302;
    /// Pages that were asked for on a lane: [`super::super::lane::PagesHead`], content.
    pub const LAZY_PAGES: u16 = 303;
}

/// Largest content of one page frame in bytes.
pub const PAGES_MAX: usize = 256 * 1024;
/// Largest message in bytes: an image with all its queued data.
const MESSAGE_MAX: u32 = 64 * 1024 * 1024;
/// Largest description, with a hundred thousand mappings and descriptors.
const DESCRIPTION_MAX: u32 = 32 * 1024 * 1024;
/// Largest answer: a hundred thousand obstacles.
const ANSWER_MAX: u32 = 16 * 1024 * 1024;
/// Largest message between two that have only just met.
const GREETING_MAX: u32 = 64 * 1024;
/// Largest message of a few numbers.
const WORD_MAX: u32 = 256;

/// How long a body may be (see [`super::frame`]).
pub fn cap(kind: u16) -> Option<u32> {
    let head = match kind {
        kind::PAGES => PrivateHead::LEN,
        kind::OBJECT_PAGES => ObjectHead::LEN,
        kind::LAZY_PAGES => PagesHead::LEN,
        _ => {
            let main = ToTarget::cap(kind).or_else(|| ToSource::cap(kind));
            return main.or_else(|| FromHolder::cap(kind)).or_else(|| FromSource::cap(kind));
        }
    };
    Some((PAGES_MAX + head) as u32)
}

/// What a target takes from a source that has not said hello.
pub fn greeting_cap(kind: u16) -> Option<u32> {
    ToTarget::cap(kind).map(|max| max.min(GREETING_MAX))
}

/// What a target takes before it has agreed to make a process.
pub fn description_cap(kind: u16) -> Option<u32> {
    ToTarget::cap(kind).map(|max| max.min(DESCRIPTION_MAX))
}

/// What a source takes from a target.
pub fn answer_cap(kind: u16) -> Option<u32> {
    ToSource::cap(kind).map(|max| max.min(ANSWER_MAX))
}

/// Names one migration, on both sides, for ever.
pub type MigrationId = String;

/// What is to be moved, before anything is stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The migration.
    pub id: MigrationId,
    /// The processes as they look from outside.
    pub tree: TreeImage,
    /// How the pid is to be kept.
    pub pid_mode: PidChoice,
    /// Verify every page before the commit.
    pub verify: bool,
    /// The process's clocks against those of the source's initial time namespace.
    pub clocks: ClockOffsets,
    /// It lives in a time namespace of its own, and so reads its clocks by way of that namespace's page.
    pub time_namespace: bool,
    /// Its memory may come after it: [`ToTarget::Lazy`] may be said.
    pub lazy: bool,
    /// Nothing will be moved: `ulpm check`.
    pub only_asks: bool,
}

/// `--pid-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidChoice {
    /// The same pid in the target's namespace if it is free, else a new namespace.
    Auto,
    /// The same pid in the target's namespace.
    Same,
    /// A new pid namespace.
    Namespace,
}

/// When the state was taken, on the target's boottime clock. Waits and timers ran on until then, and no further:
/// each is the latest moment possible, so that nothing ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moments {
    /// The first thread was asked to stop: the freeze.
    pub frozen_ns: i64,
    /// The last thread had stopped: waits.
    pub stopped_ns: i64,
    /// The last timer was read.
    pub captured_ns: i64,
}

/// Hash of one piece of memory, for `--verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AreaDigest {
    /// Whose memory it is.
    pub owner: PageOwner,
    /// The mapping's start; or the object's inode.
    pub start: u64,
    /// Pages that are not zero.
    pub pages: u64,
    /// xxh3 over addresses and contents.
    pub hash: u128,
}

/// From source to target.
#[derive(Clone, Debug, PartialEq)]
pub enum ToTarget {
    /// First.
    Hello(Hello),
    /// Asks for a reading of the clocks.
    Clock,
    /// What will come.
    Describe(Box<Description>),
    /// Contents that the target asked for.
    Hashes(ContentHashes),
    /// Make the skeleton. Offsets: source's clocks minus target's, in the initial time namespaces.
    Begin {
        /// The difference of the two hosts' clocks.
        difference: ClockOffsets,
    },
    /// The mappings, before the pages that need them.
    Layout {
        /// Which process.
        of: ProcessIndex,
        /// All of them.
        layout: Layout,
        /// Mapped files that were not in the description.
        new_files: Vec<(FilePath, FileIdentity)>,
    },
    /// These pages of a process are zero now.
    Zero(ProcessIndex, Vec<PageRange>),
    /// These pages of a process are gone: whatever was sent for them goes too.
    Drop(ProcessIndex, Vec<PageRange>),
    /// These parts of an object are holes now.
    ObjectHoles(ObjectId, Vec<PageRange>),
    /// All pages of a round are sent.
    RoundEnd(u32),
    /// What of their memory comes later, on [lanes](super::lane). Before `State`.
    Lazy(LazyPlan),
    /// First and last on a connection of its own: what follows on this stream are the frames of a lane.
    Lane {
        /// Whose.
        id: MigrationId,
        /// Which of the two.
        lane: LaneKind,
    },
    /// The process is about to be frozen: from now on what arrives is waited for.
    Freezing,
    /// The frozen process.
    State(Box<TreeImage>, Moments),
    /// All pages are sent, and the process is frozen: hash them, as the source does meanwhile.
    Verify,
    /// Hashes of all processes' memory.
    Digests(Vec<AreaDigest>),
    /// Let them go, each with these signals beside those of its state.
    Commit(Vec<(ProcessIndex, Vec<LateSignal>)>),
    /// They run there, and these signals have reached one's copy here. Also first on a connection of its own.
    Signals {
        /// Which migration.
        id: MigrationId,
        /// Which process.
        of: ProcessIndex,
        /// So many came before these to it: what is said twice is queued once.
        first: u32,
        /// In the order in which they came.
        signals: Vec<LateSignal>,
    },
    /// Give up.
    Abort(String),
    /// How did this migration end?
    Settle(MigrationId),
    /// The copy at the source is gone, and its entry: nobody will ask any more.
    Goodbye,
}

numbered! {
    ToTarget {
        1 Hello(hello) max GREETING_MAX;
        2 Clock max 0;
        3 Describe(description) max DESCRIPTION_MAX;
        4 Hashes(hashes) max DESCRIPTION_MAX;
        5 Begin { difference } max WORD_MAX;
        6 Layout { of, layout, new_files } max MESSAGE_MAX;
        7 Zero(of, ranges) max MESSAGE_MAX;
        8 Drop(of, ranges) max MESSAGE_MAX;
        9 ObjectHoles(id, ranges) max MESSAGE_MAX;
        10 RoundEnd(number) max WORD_MAX;
        11 Lazy(plan) max MESSAGE_MAX;
        12 Lane { id, lane } max GREETING_MAX;
        13 Freezing max 0;
        14 State(tree, moments) max MESSAGE_MAX;
        15 Verify max 0;
        16 Digests(digests) max MESSAGE_MAX;
        17 Commit(signals) max MESSAGE_MAX;
        18 Signals { id, of, first, signals } max MESSAGE_MAX;
        19 Abort(why) max MESSAGE_MAX;
        20 Settle(id) max GREETING_MAX;
        21 Goodbye max 0;
    }
}

/// From target to source.
#[derive(Clone, Debug, PartialEq)]
pub enum ToSource {
    /// First.
    Hello(Hello),
    /// Clocks of the initial time namespace now: monotonic, boottime, in nanoseconds.
    Clock(i64, i64),
    /// Files whose content the target wants to compare.
    NeedHashes(Vec<FilePath>),
    /// What preflight found at the target.
    Preflight {
        /// What stands in the way; nothing does if it is empty.
        obstacles: Vec<Obstacle>,
        /// What will differ there without standing in the way.
        notes: Vec<Note>,
    },
    /// The skeletons stand.
    Ready {
        /// Their pids as the target host sees them, in the order of the tree.
        pids: Vec<i32>,
        /// They live in a pid namespace that was made for them.
        namespace: bool,
    },
    /// All pages of that round are in place.
    RoundApplied(u32),
    /// All is applied; it only needs to be let go. Milliseconds spent.
    Prepared {
        /// From the arrival of the state.
        apply_ms: f64,
        /// What hashing all pages took (`--verify`), before that.
        verify_ms: f64,
        /// Whether every page was compared.
        verified: bool,
    },
    /// All run.
    Running {
        /// Pid of the tree's root as the target host sees it.
        pid: i32,
        /// When the last thread was let go, on the target's boottime clock.
        at_boottime_ns: i64,
        /// Milliseconds from the arrival of `Commit` to the journal being written, and to the last thread let go.
        journal_ms: f64,
        /// See `journal_ms`.
        resume_ms: f64,
    },
    /// So many of all [`ToTarget::Signals`] to that process are queued to it.
    SignalsTaken(u32),
    /// It did not work; nothing runs here.
    Failed(String),
    /// Answer to `Settle`: it runs here (pid), or it never will.
    Settled(Option<i32>),
    /// Answer to `Settle`: it runs here (pid), and still needs pages of the copy at the source.
    SettledLazy(i32),
    /// Answer to `Settle`: a session here is about to let it go, or to fail; ask again in a moment.
    SettledLater,
    /// Answer to `Settle`: it ran here (pid), or may have, and went down with this host.
    SettledDown(i32),
}

numbered! {
    ToSource {
        101 Hello(hello) max GREETING_MAX;
        102 Clock(monotonic_ns, boottime_ns) max WORD_MAX;
        103 NeedHashes(paths) max ANSWER_MAX;
        104 Preflight { obstacles, notes } max ANSWER_MAX;
        105 Ready { pids, namespace } max ANSWER_MAX;
        106 RoundApplied(number) max WORD_MAX;
        107 Prepared { apply_ms, verify_ms, verified } max WORD_MAX;
        108 Running { pid, at_boottime_ns, journal_ms, resume_ms } max WORD_MAX;
        109 SignalsTaken(count) max WORD_MAX;
        110 Failed(why) max ANSWER_MAX;
        111 Settled(pid) max WORD_MAX;
        112 SettledLazy(pid) max WORD_MAX;
        113 SettledLater max 0;
        114 SettledDown(pid) max WORD_MAX;
    }
}
