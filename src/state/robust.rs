//! Robust futex lists at the end of a copy. When a thread is killed the kernel walks its list and stamps "owner died" into each
//! mutex that it holds (kernel/futex/core.c, `exit_robust_list`): right if its process ends, wrong if only a copy of it does, and
//! the mutex lies in a file that the living one shares.
//!
//! The list hangs on a head in the thread's own memory, of which the kernel knows the address:
//! ```text
//! struct robust_list_head: | next | futex offset | pending |    empty: next points to the head, nothing is pending
//! ```
//! So the head of a copy that never runs again is made empty before it is killed, from outside; and that of a copy that does not run
//! yet is so until it is let go. The mutexes, and the links between them, are not touched. A head in shared memory is left alone.

use std::io;
use std::ops::Range;

use crate::sys::process::{ProcMem, robust_list};
use crate::sys::voice;
use crate::tracee::freeze::tids;

/// Bytes of a head.
const HEAD: usize = 24;

/// Heads that are empty for now, with what was there.
#[derive(Debug, Default)]
pub struct Emptied(Vec<(u64, [u8; HEAD])>);

impl Emptied {
    /// Makes these heads empty, those that are not.
    pub fn make(mem: &ProcMem, heads: impl IntoIterator<Item = u64>) -> io::Result<Self> {
        let mut emptied = Vec::new();
        for at in heads.into_iter().filter(|at| *at != 0) {
            let mut was = [0; HEAD];
            // a thread that registered no memory of its own has nothing that the kernel could walk
            if mem.read(at, &mut was).is_err() {
                continue;
            }
            let mut empty = was;
            empty[..8].copy_from_slice(&at.to_le_bytes());
            empty[16..].fill(0);
            if empty != was {
                mem.write(at, &empty)?;
                emptied.push((at, was));
            }
        }
        Ok(Emptied(emptied))
    }

    /// Makes them what they were.
    pub fn fill(&self, mem: &ProcMem) -> io::Result<()> {
        self.0.iter().try_for_each(|(at, was)| mem.write(*at, was))
    }
}

/// Makes the heads of a stopped process empty, which never runs again: it is about to be killed.
pub fn disarm(pid: i32) {
    let voice = voice::of(pid);
    let emptied = private(voice).and_then(|private| {
        let heads =
            tids(pid).unwrap_or_default().into_iter().filter_map(|tid| Some(robust_list(tid).ok()?.0));
        let own = heads.filter(|head| private.iter().any(|range| range.contains(head)));
        Emptied::make(&ProcMem::open(voice)?, own)
    });
    if let Err(error) = emptied {
        tracing::warn!(pid, %error, "mutexes that the copy here holds may say at its end that their owner has died");
    }
}

/// Private mappings of a process.
fn private(pid: i32) -> io::Result<Vec<Range<u64>>> {
    let maps = crate::sys::lossy(format!("/proc/{pid}/maps"))?;
    let range = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let ends = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
        (rest.as_bytes().get(3) == Some(&b'p')).then_some(ends)
    };
    Ok(maps.lines().filter_map(range).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_empty_until_it_is_filled_again() {
        let mem = ProcMem::open(std::process::id() as i32).unwrap();
        let held = [0x1000_u64, 24, 7];
        let at = held.as_ptr() as u64;
        let bytes = |words: [u64; 3]| words.map(u64::to_le_bytes).concat();
        let now = || {
            let mut now = [0; HEAD];
            mem.read(at, &mut now).unwrap();
            now.to_vec()
        };
        let emptied = Emptied::make(&mem, [0, at]).unwrap();
        assert_eq!(now(), bytes([at, 24, 0]));
        emptied.fill(&mem).unwrap();
        assert_eq!(now(), bytes(held));
        assert!(private(std::process::id() as i32).unwrap().iter().any(|range| range.contains(&at)));
    }
}
