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

pub mod assemble;
pub mod choose;
pub mod contents;
pub mod cost;
pub mod curve;
pub mod error;
pub mod heat;
pub mod outlook;
mod picture;
pub mod report;
pub mod sampled;
mod text;
pub mod timeline;
pub mod watch;
pub mod who;
pub mod windows;

pub use choose::choose;
pub use error::ProfileError;
pub use picture::draw;
pub use report::ProfileReport;
pub use text::render;
pub use watch::{Plan, Watched, watch};
