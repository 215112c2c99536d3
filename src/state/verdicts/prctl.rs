//! prctl(2) and arch_prctl(2) options that have a getter, and modes of the process that have none.

use super::Row;

pub(super) const ROWS: &[Row] = &[];
