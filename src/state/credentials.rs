//! Credentials of a thread: uids, gids, groups, capabilities, securebits, no_new_privs (credentials(7)).
//!
//! Linux keeps them per thread. They are set by the thread itself, at the end: what comes before may need the
//! privileges. `SECBIT_NO_SETUID_FIXUP` keeps the capabilities while the uids change.

use crate::image::Note;
use crate::image::process::{Credentials, ProcessImage};
use crate::sys::status::Status;
use crate::tracee::{Batch, Outcome};

const NO_SETUID_FIXUP: u64 = 1 << 2;
/// Of the five sets.
const BOUNDING: usize = 3;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// What `/proc/PID/task/TID/status` tells; securebits come from [`answer`].
pub fn of_status(status: &Status) -> Credentials {
    Credentials {
        uids: status.uids,
        gids: status.gids,
        groups: status.groups.clone(),
        caps: status.caps,
        securebits: 0,
        no_new_privs: status.no_new_privs.unwrap_or(false),
    }
}

/// Why a process is more confined than it was: what `ulpm serve` has given up, its children cannot have.
pub const UNDER_OUR_FILTER: &str = "it runs under the seccomp filter of ulpm serve there, and had none";
/// Likewise.
pub const NO_NEW_PRIVILEGES: &str = "no program that it starts can gain privileges there (no_new_privs of ulpm serve): set-user-ID has no effect";

/// What a process cannot have here because `ulpm serve` has it not, without being in the way.
pub fn notes_here(process: &ProcessImage) -> Vec<Note> {
    let Ok(own) = Status::of(std::process::id() as i32) else { return Vec::new() };
    let creds = || process.threads.iter().map(|thread| &thread.creds);
    let note = |what: String| Note::new(format!("process {}", process.pid), what);
    let mut notes = Vec::new();
    if own.seccomp != 0 {
        notes.push(note(UNDER_OUR_FILTER.to_owned()));
    }
    if own.no_new_privs == Some(true) && creds().any(|c| !c.no_new_privs) {
        notes.push(note(NO_NEW_PRIVILEGES.to_owned()));
    }
    let beyond = creds().fold(0, |all, c| all | c.caps[BOUNDING]) & !own.caps[BOUNDING];
    if beyond != 0 {
        notes.push(note(format!(
            "no program that it starts can gain the capabilities {beyond:#x} there, which ulpm serve lacks"
        )));
    }
    notes
}

/// Asks for the securebits; the answer is the result of that call.
pub fn ask(batch: &mut Batch) -> usize {
    batch.call("prctl(GET_SECUREBITS)", libc::SYS_prctl, &[libc::PR_GET_SECUREBITS as u64, 0, 0, 0, 0])
}

/// Reads the answer.
pub fn answer(outcome: &Outcome, index: usize) -> u32 {
    outcome.results[index] as u32
}

/// Makes the thread that executes the batch have `want`, when it has `have`.
pub fn put(batch: &mut Batch, have: &Credentials, want: &Credentials) {
    if have == want {
        return;
    }
    let prctl = |batch: &mut Batch, name, args: &[u64]| {
        let mut all = [0; 5];
        all[..args.len()].copy_from_slice(args);
        batch.call(name, libc::SYS_prctl, &all);
    };
    prctl(
        batch,
        "prctl(SET_SECUREBITS)",
        &[libc::PR_SET_SECUREBITS as u64, u64::from(have.securebits) | NO_SETUID_FIXUP],
    );
    if have.groups != want.groups {
        let groups: Vec<u8> = want.groups.iter().flat_map(|g| g.to_le_bytes()).collect();
        let at = batch.bytes(&groups);
        batch.call("setgroups", libc::SYS_setgroups, &[want.groups.len() as u64, at]);
    }
    for bit in (0..64).filter(|b| (have.caps[3] & !want.caps[3]) >> b & 1 == 1) {
        prctl(batch, "prctl(CAPBSET_DROP)", &[libc::PR_CAPBSET_DROP as u64, bit]);
    }
    let [r, e, s, f] = want.gids.map(u64::from);
    batch.call("setresgid", libc::SYS_setresgid, &[r, e, s]);
    batch.attempt("setfsgid", libc::SYS_setfsgid, &[f]);
    let [r, e, s, f] = want.uids.map(u64::from);
    batch.call("setresuid", libc::SYS_setresuid, &[r, e, s]);
    batch.attempt("setfsuid", libc::SYS_setfsuid, &[f]);
    prctl(batch, "prctl(SET_SECUREBITS)", &[libc::PR_SET_SECUREBITS as u64, u64::from(want.securebits)]);
    capset(batch, want);
    prctl(
        batch,
        "prctl(CAP_AMBIENT clear)",
        &[libc::PR_CAP_AMBIENT as u64, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64],
    );
    for bit in (0..64).filter(|b| want.caps[4] >> b & 1 == 1) {
        prctl(
            batch,
            "prctl(CAP_AMBIENT raise)",
            &[libc::PR_CAP_AMBIENT as u64, libc::PR_CAP_AMBIENT_RAISE as u64, bit],
        );
    }
    if want.no_new_privs && !have.no_new_privs {
        prctl(batch, "prctl(SET_NO_NEW_PRIVS)", &[libc::PR_SET_NO_NEW_PRIVS as u64, 1]);
    }
}

fn capset(batch: &mut Batch, want: &Credentials) {
    let [inheritable, permitted, effective, ..] = want.caps;
    let header: Vec<u8> = [CAPABILITY_VERSION_3.to_le_bytes(), 0u32.to_le_bytes()].concat();
    let half = |shift: u32| {
        [effective, permitted, inheritable].map(|c| ((c >> shift) as u32).to_le_bytes()).concat()
    };
    let header = batch.bytes(&header);
    let data = batch.bytes(&[half(0), half(32)].concat());
    batch.call("capset", libc::SYS_capset, &[header, data]);
}
