//! Watching a process without moving it: how fast it writes its memory, where, and what a move of it would be like.
//!
//! | file | owns |
//! |---|---|
//! | [`mod@watch`] | attaching, taking samples, leaving without a trace |
//! | [`mod@choose`] | which tracker |
//! | [`who`] | who the process is |
//! | [`contents`] | which pages have changed, for trackers that report too much |
//! | [`sampled`] | all samples together; pure, like all below |
//! | [`windows`] | the working set for windows of 10 ms to 10 s |
//! | [`timeline`] | the dirty rate over time |
//! | [`heat`] | the hottest mappings |
//! | [`cost`] | what tracking costs the process |
//! | [`curve`] | pages written within any length of time |
//! | [`assemble`] | from all that to the report |
//! | [`outlook`] | rounds, time and freeze for each goal and bandwidth; what to recommend |
//! | [`report`] | the whole as data; its JSON is a contract |
//! | `text`, `picture` | the same for people |

pub(crate) mod assemble;
pub(crate) mod choose;
pub(crate) mod contents;
pub(crate) mod cost;
pub(crate) mod curve;
pub(crate) mod error;
pub(crate) mod heat;
pub(crate) mod outlook;
mod picture;
pub(crate) mod report;
pub(crate) mod sampled;
mod text;
pub(crate) mod timeline;
pub(crate) mod watch;
pub(crate) mod who;
pub(crate) mod windows;

pub(crate) use choose::choose;
pub(crate) use error::ProfileError;
pub(crate) use picture::draw;
pub(crate) use report::ProfileReport;
pub(crate) use text::render;
pub(crate) use watch::{Plan, watch};
