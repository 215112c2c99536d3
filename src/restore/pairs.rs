//! Pairs of unix sockets, made by the skeleton itself: `SO_PEERCRED` and `SO_PEERGROUPS` name who called `socketpair`, with the
//! effective ids of that moment, and nothing changes them afterwards.
//!
//! Most are made before the freeze, for the pairs that preflight saw; those that came later are made in it. The skeleton takes
//! the ids for the call only (its saved uid stays, so its capabilities come back), and the ends come here by `pidfd_getfd`:
//! whatever waits in them is sent from here.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};

use super::RestoreError;
use super::skeleton::Skeleton;
use crate::image::files::{FilesImage, PeerCredentials};
use crate::state::files::{UnixPair, wanted_pairs};
use crate::sys::process::pidfd_getfd;
use crate::tracee::Batch;

/// So many in one batch.
const PART: usize = 32;
const KEEP: u64 = u32::MAX as u64;

/// Makes what `image` takes and is not among `pairs` yet.
pub(super) fn make(
    skeleton: &Skeleton,
    image: &FilesImage,
    pairs: &mut Vec<UnixPair>,
) -> Result<(), RestoreError> {
    let mut missing: HashMap<&PeerCredentials, Vec<i32>> = HashMap::new();
    let mut there: Vec<bool> = vec![false; pairs.len()];
    for (socket_type, credentials) in wanted_pairs(image) {
        let is_it = |pair: &UnixPair| pair.socket_type == socket_type && pair.credentials == *credentials;
        match (0..pairs.len()).find(|at| !there[*at] && is_it(&pairs[*at])) {
            Some(at) => there[at] = true,
            None => missing.entry(credentials).or_default().push(socket_type),
        }
    }
    for (credentials, types) in missing {
        for part in types.chunks(PART) {
            pairs.extend(make_as(skeleton, credentials, part)?);
        }
    }
    Ok(())
}

fn make_as(
    skeleton: &Skeleton,
    credentials: &PeerCredentials,
    types: &[i32],
) -> Result<Vec<UnixPair>, RestoreError> {
    let own = crate::state::credentials_of_self()?;
    let own = PeerCredentials { uid: own.uids[1], gid: own.gids[1], groups: own.groups };
    let mut batch = skeleton.batch();
    if own != *credentials {
        put_groups(&mut batch, &own, credentials);
        batch.call("setresgid for a socket pair", libc::SYS_setresgid, &[KEEP, credentials.gid.into(), KEEP]);
        batch.call("setresuid for a socket pair", libc::SYS_setresuid, &[KEEP, credentials.uid.into(), KEEP]);
    }
    let mut places = Vec::with_capacity(types.len());
    for socket_type in types {
        let at = batch.space(8);
        let kind = (*socket_type | libc::SOCK_CLOEXEC) as u64;
        batch.call("socketpair", libc::SYS_socketpair, &[libc::AF_UNIX as u64, kind, 0, at]);
        places.push(at);
    }
    if own != *credentials {
        batch.call("setresuid for a socket pair", libc::SYS_setresuid, &[KEEP, own.uid.into(), KEEP]);
        batch.call("setresgid for a socket pair", libc::SYS_setresgid, &[KEEP, own.gid.into(), KEEP]);
        put_groups(&mut batch, credentials, &own);
    }
    let outcome = skeleton.run(&batch)?;
    let mut close = skeleton.batch();
    let mut take = |at: u64| -> Result<OwnedFd, RestoreError> {
        let number = outcome.half(at);
        close.call("close of a socket", libc::SYS_close, &[number.into()]);
        pidfd_getfd(skeleton.pidfd.as_fd(), number as i32)
            .map_err(|errno| RestoreError::io("taking an end of a socket pair")(errno))
    };
    let mut made = Vec::with_capacity(types.len());
    for (socket_type, at) in types.iter().zip(places) {
        let ends = (take(at)?, take(at + 4)?);
        made.push(UnixPair { socket_type: *socket_type, credentials: credentials.clone(), ends });
    }
    skeleton.run(&close)?;
    Ok(made)
}

fn put_groups(batch: &mut Batch, have: &PeerCredentials, want: &PeerCredentials) {
    if have.groups != want.groups {
        let list = batch.bytes(&want.groups.iter().flat_map(|g| g.to_le_bytes()).collect::<Vec<u8>>());
        batch.call("setgroups for a socket pair", libc::SYS_setgroups, &[want.groups.len() as u64, list]);
    }
}
