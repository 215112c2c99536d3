//! The two-sided commit protocol as a pure state machine, and its journal.
