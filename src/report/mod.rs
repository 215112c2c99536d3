//! What was measured in a migration: phases, rounds, freeze parts.
//!
//! - `migration.rs`: the report itself as serde types; its JSON is the contract of `--json`.
//! - `listed.rs`: obstacles and notes as lines.
//! - `text.rs`: the same report for a person at a terminal.
//! - `units.rs`: sizes, rates and durations as people type and read them (`256M`, `1Gbit`, `1.5s`).
//!
//! Nothing here measures: the rooms that do the work fill the types in.

pub mod listed;
mod migration;
mod text;
mod units;

pub use migration::{FreezeParts, LazyStats, MigrationReport, Outcome, PidMode, Round, Schema};
pub use text::{outcome_word, render};
pub use units::{Rate, RateError, Size, SizeError, Span, SpanError, human_ms};
