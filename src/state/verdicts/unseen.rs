//! State that cannot be seen from outside.

use super::Row;

pub(super) const ROWS: &[Row] = &[];
