//! ptrace(2) requests that read state.

use super::Row;

pub(super) const ROWS: &[Row] = &[];
