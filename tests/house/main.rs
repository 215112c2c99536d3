//! The house test: what the project has decided about its own shape, held against its own source text.
//!
//! - *Rooms* ([`rooms`]): every path from one room of `src/` into another stands in the table of `docs/design.md`, nothing
//!   stands there that is not so, and arrows point down only.
//! - *Circles* ([`circles`]): no files that use each other in a circle.
//! - *Decisions* ([`decisions`]): who looks at a kind of descriptor decides about each.
//! - *Measures* ([`measures`]): lines of a file, lines of a function, `unsafe`, names of types, width of prose.
//!
//! What was there before the rule is listed in the `*.txt` files here, and such a list can only become shorter: what is not in it
//! fails, and so does an entry that is not needed any more.

mod allowance;
mod circles;
mod decisions;
mod measures;
mod names;
mod rooms;
mod source;
