//! Rounds, time and freeze for each goal and bandwidth; what to recommend.

use std::path::Path;

use super::assemble::{self, Who};
use super::picture::Line;
use super::report::ProfileReport;
use super::watch::Watched;

/// The report, and the lines of its picture.
pub fn complete(who: &Who, watched: &Watched, _home: &Path) -> (ProfileReport, Vec<Line>) {
    (assemble::report(who, watched), Vec::new())
}
