//! Dirty tracking: what was written since the last look.
