//! Kinds of open files and what hangs on them.

use super::Row;

pub(super) const ROWS: &[Row] = &[];
