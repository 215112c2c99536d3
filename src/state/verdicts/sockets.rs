//! Kinds of sockets and their options.

use super::Row;

pub(super) const ROWS: &[Row] = &[];
