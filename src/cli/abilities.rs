//! What this host and this user can do, and what each ability is needed for.

use serde::Serialize;

use crate::dirty::{Kind, TrackError};
use crate::sys::chain;
use crate::sys::kernel::Kernel;

/// Capability numbers of `linux/capability.h`.
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_CHECKPOINT_RESTORE: u32 = 40;

/// What an ability is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Needed {
    /// By `ulpm live`.
    Send,
    /// By `ulpm serve`.
    Receive,
}

/// One ability of this host.
#[derive(Debug, Serialize)]
pub(super) struct Ability {
    /// What it is.
    pub(super) name: &'static str,
    /// Who needs it.
    pub(super) needed_to: Needed,
    /// Whether it is there.
    pub(super) there: bool,
    /// Why not, and what to do; empty if it is there.
    pub(super) why: String,
}

/// All abilities.
pub(super) fn here(kernel: &Kernel) -> Vec<Ability> {
    let caps = crate::state::credentials_of_self().map(|own| own.caps[2]).unwrap_or(0);
    let has = |bit: u32| caps >> bit & 1 == 1;
    let or = |there: bool, why: &str| if there { Ok(()) } else { Err(why.to_owned()) };
    let ability = |name, needed_to, result: Result<(), String>| Ability {
        name,
        needed_to,
        there: result.is_ok(),
        why: result.err().unwrap_or_default(),
    };
    vec![
        ability(
            "trace processes of every user",
            Needed::Send,
            or(
                has(CAP_SYS_PTRACE),
                "your own processes only; for others, run as root or with CAP_SYS_PTRACE",
            ),
        ),
        ability(
            "create processes with a chosen pid",
            Needed::Receive,
            or(kernel.clone3, "clone3 is missing (Linux 5.5) or filtered").and_then(|()| {
                or(
                    has(CAP_CHECKPOINT_RESTORE) || has(CAP_SYS_ADMIN),
                    "you lack CAP_CHECKPOINT_RESTORE; run `ulpm serve` as root",
                )
            }),
        ),
        ability(
            "let clocks go on without a jump",
            Needed::Receive,
            or(kernel.time_namespaces, "the kernel has no time namespaces (CONFIG_TIME_NS)"),
        ),
    ]
}

/// A tracker, and whether it works here.
#[derive(Debug, Serialize)]
pub(super) struct Tracking {
    /// Its name.
    pub(super) name: &'static str,
    /// Whether it works.
    pub(super) there: bool,
    /// Whether `--tracker auto` takes it.
    pub(super) chosen: bool,
    /// Why not, or why it is taken.
    pub(super) why: String,
}

/// All trackers, best first.
pub(super) fn trackers(kernel: &Kernel) -> Vec<Tracking> {
    let probed = Kind::ALL.map(|kind| (kind, kind.usable(kernel)));
    // what `Choice::Auto` takes
    let best = probed.iter().find(|(_, result)| result.is_ok()).map(|(kind, _)| *kind);
    let one = |(kind, result): (Kind, Result<(), TrackError>)| {
        let chosen = best == Some(kind);
        let why = match (&result, chosen) {
            (Err(e), _) => chain(e),
            (Ok(()), true) => "taken by --tracker auto".to_owned(),
            (Ok(()), false) => String::new(),
        };
        Tracking { name: kind.name(), there: result.is_ok(), chosen, why }
    };
    probed.map(one).into()
}
