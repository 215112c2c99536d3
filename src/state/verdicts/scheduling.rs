//! Scheduling of a thread.

use super::Row;

pub(super) const ROWS: &[Row] = &[];
