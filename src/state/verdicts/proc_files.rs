//! Files of /proc/PID and /proc/PID/task/TID.

use super::Row;

pub(super) const ROWS: &[Row] = &[];
