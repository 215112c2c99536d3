//! A row of the table: one kind of state and what a move does with it.

/// What a move does with a kind of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is at the target as it was.
    Carried,
    /// Carried or left behind with this limit; the text of the note.
    Limited(&'static str),
    /// Not carried; the reason that the obstacle gives.
    Refused(&'static str),
    /// It may differ, or is no state of the process; why.
    Harmless(&'static str),
}

/// One kind of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name by which the kernel knows it: `sd`, `SigPnd`, `PR_GET_TSC`, `anon_inode:[eventfd]`.
    pub name: &'static str,
    /// What it is, in the words of a user.
    pub what: &'static str,
    /// What a move does with it.
    pub verdict: Verdict,
    /// The victim or trial that shows it; empty where nothing is to be shown.
    pub shown: &'static str,
}

pub(super) const fn carried(name: &'static str, what: &'static str, shown: &'static str) -> Row {
    Row { name, what, verdict: Verdict::Carried, shown }
}

pub(super) const fn limited(
    name: &'static str,
    what: &'static str,
    note: &'static str,
    shown: &'static str,
) -> Row {
    Row { name, what, verdict: Verdict::Limited(note), shown }
}

pub(super) const fn refused(
    name: &'static str,
    what: &'static str,
    why: &'static str,
    shown: &'static str,
) -> Row {
    Row { name, what, verdict: Verdict::Refused(why), shown }
}

pub(super) const fn harmless(name: &'static str, what: &'static str, why: &'static str) -> Row {
    Row { name, what, verdict: Verdict::Harmless(why), shown: "" }
}
