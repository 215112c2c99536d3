//! A scratch area where nothing can be mapped, since the process has used up a limit of its own (`RLIMIT_AS`, `RLIMIT_DATA`): on
//! the main thread's stack, far below what it uses, as a shelter there ([`super::shelter`]). What was there is put back.
//!
//! It holds data and a shelter. There is no page for our code, so a batch is executed as single calls, by the program's own
//! `syscall; ret`: some 30 µs each instead of one round trip for all.

use super::error::TraceeError;
use super::scratch::{PAGE, Scratch};
use super::shelter;
use super::sigframe::FRAME;
use super::site::Site;

/// Bytes for data: the actions of all signals, and what else is asked of a leader.
const DATA: usize = 16 * 1024;
/// So many calls; the table itself stays with us.
const TABLE: usize = 64 * 1024;

/// Memory of the process's own that is in use as a scratch area.
#[derive(Debug)]
pub struct Lent {
    at: u64,
    before: Vec<u8>,
}

impl Lent {
    /// The area to use in the place of one whose mapping failed with `e`. `rsp`: the main thread's stack pointer, while nothing of
    /// ours is on its stack. The same error, if it was not for want of room, or if there is no room there either.
    pub fn instead(site: &Site, rsp: u64, e: TraceeError) -> Result<(Scratch, Self), TraceeError> {
        let for_want_of_room =
            matches!(&e, TraceeError::RemoteCall { source: nix::errno::Errno::ENOMEM, .. });
        let shelter_len = (shelter::size() + FRAME).next_multiple_of(PAGE as usize);
        let place = || site.ground.as_ref()?.place(rsp, (DATA + shelter_len) as u64, &site.mem);
        let Some(at) = for_want_of_room.then(place).flatten() else { return Err(e) };
        let mut before = vec![0; DATA + shelter_len];
        site.mem.read(at, &mut before).map_err(|source| TraceeError::Memory {
            pid: site.pid,
            step: "reading the free end of the stack",
            addr: at,
            source,
        })?;
        tracing::debug!(pid = site.pid, at, error = %e, "no room for a scratch area: on the stack, then");
        let scratch = Scratch {
            code: 0,
            table: 0,
            table_len: TABLE,
            data: at,
            data_len: DATA,
            shelter_len,
            lent: true,
        };
        Ok((scratch, Lent { at, before }))
    }

    /// Puts back what was there, when no thread is in a shelter there any more.
    pub fn give_back(&self, site: &Site) -> Result<(), TraceeError> {
        site.mem.write(self.at, &self.before).map_err(|source| TraceeError::Memory {
            pid: site.pid,
            step: "putting the free end of the stack back",
            addr: self.at,
            source,
        })
    }
}
