//! Lines of /proc/PID/status.

use super::Row;

pub(super) const ROWS: &[Row] = &[];
