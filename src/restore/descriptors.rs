//! The descriptors of a skeleton: opened here, handed over, brought to their numbers.
//!
//! What is handed over takes the lowest free numbers. From there each goes to its own by one `dup3`, in an order in which
//! nothing is overwritten that is needed still (`plan`): so no more numbers are in use than the process has, and one.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd};

use super::RestoreError;
use super::nursery::SOCKET;
use super::objects::Objects;
use super::pairs;
use super::skeleton::Skeleton;
use crate::image::files::{FdSlot, FilesImage};
use crate::state::files::tcp_place::Place;
use crate::state::files::{EpollAdd, RestoreContext, restore};
use crate::tracee::TraceeError;

/// The numbers of the two descriptors of ours that a process may have, of which it knows nothing: well above its own.
pub fn ours(table: &[FdSlot]) -> [i32; 2] {
    let highest = table.iter().map(|s| s.fd).max().unwrap_or(0);
    [highest + 64, highest + 65]
}

/// Makes room for as many descriptors as the process is going to need. While there is one thread only: once several share a table,
/// the kernel waits for all CPUs when it grows (`expand_fdtable`: `synchronize_rcu`), which is ten milliseconds and more of a
/// freeze.
pub fn make_room(skeleton: &Skeleton, files: &FilesImage, table: usize) -> Result<(), RestoreError> {
    let ours = ours(files.table(table));
    let need = needed(ours, files.files.len() + ours.len());
    raise_file_limit(skeleton, need)?;
    let mut batch = skeleton.batch();
    batch.call("dup3 of a descriptor", libc::SYS_dup3, &[SOCKET as u64, need - 1, libc::O_CLOEXEC as u64]);
    batch.call("close", libc::SYS_close, &[need - 1]);
    match skeleton.run(&batch) {
        // fewer are permitted: what it cannot have is found when its descriptors are put in place
        Err(RestoreError::Tracee(error @ TraceeError::RemoteCall { .. })) => {
            tracing::debug!(%error, need, "no room for descriptors beforehand");
            Ok(())
        }
        done => done.map(drop),
    }
}

/// How far the numbers reach while that many files are brought to `numbers`.
fn needed(numbers: impl IntoIterator<Item = i32>, files: usize) -> u64 {
    let above = numbers.into_iter().map(|fd| fd + 1).max().unwrap_or(0).max(SOCKET + 1) as u64;
    // the socket, and one to spare
    above.max(files as u64 + 1) + 1
}

/// Opens all files here, hands them over, and brings them to their numbers in one of the tables.
pub fn put(
    skeleton: &Skeleton,
    objects: &Objects,
    (files, table): (&FilesImage, usize),
    mut context: RestoreContext,
    keep: &[(i32, BorrowedFd<'_>)],
) -> Result<Vec<EpollAdd>, RestoreError> {
    context.ids = skeleton.threads.iter().map(|(tid, t)| (*tid, t.0)).collect();
    for (id, _) in objects.iter() {
        context.memfds.insert(id.ino, objects.fd(id)?);
    }
    context.group = skeleton.pid;
    pairs::make(skeleton, files, &mut context.pairs)?;
    context.place = Place::wanted(files);
    let opened = match &skeleton.rights {
        None => restore(files, &mut context)?,
        Some(rights) => rights
            .with(|| restore(files, &mut context))
            .map_err(RestoreError::io("taking the rights of its user"))??,
    };
    let ours = keep.iter().enumerate().map(|(i, (fd, _))| (opened.files.len() + i, *fd, true));
    let slots: Vec<Slot> = files.table(table).iter().map(|s| (s.file, s.fd, s.cloexec)).chain(ours).collect();
    raise_file_limit(skeleton, needed(slots.iter().map(|(_, fd, _)| *fd), opened.files.len() + keep.len()))?;
    let borrowed: Vec<_> =
        opened.files.iter().map(AsFd::as_fd).chain(keep.iter().map(|(_, fd)| *fd)).collect();
    let received = skeleton.receive(&borrowed)?;
    let plan = plan(&received, &slots);
    skeleton.run_all(&plan.steps, 0, |batch, step| {
        let flag = |set: bool, flag: i32| if set { flag as u64 } else { 0 };
        match *step {
            Step::Copy { from, to, cloexec } => {
                let args = [from as u64, to as u64, flag(cloexec, libc::O_CLOEXEC)];
                batch.call("dup3 of a descriptor", libc::SYS_dup3, &args);
            }
            Step::Mark { fd, cloexec } => {
                let args = [fd as u64, libc::F_SETFD as u64, flag(cloexec, libc::FD_CLOEXEC)];
                batch.call("fcntl of a descriptor", libc::SYS_fcntl, &args);
            }
        }
    })?;
    skeleton.run_all(&plan.unwanted, 0, |batch, (first, last)| {
        batch.call("close_range", libc::SYS_close_range, &[u64::from(*first), u64::from(*last), 0]);
    })?;
    // Off first: what was opened with it has the flag, and no signals; the kernel acts on a change alone (`setfl`).
    skeleton.run_all(&opened.signalled, 0, |batch, file| {
        for flags in [file.flags, file.flags | libc::O_ASYNC] {
            let args = [file.fd as u64, libc::F_SETFL as u64, flags as u64];
            batch.call("fcntl of a descriptor", libc::SYS_fcntl, &args);
        }
    })?;
    Ok(opened.epoll)
}

/// A file (its place in the list), the number it shall have, and whether exec closes that.
type Slot = (usize, i32, bool);

/// One call on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// `dup3`
    Copy { from: i32, to: i32, cloexec: bool },
    /// It is there already.
    Mark { fd: i32, cloexec: bool },
}

/// How files come from the numbers that they have to those that they shall have.
#[derive(Debug)]
struct Plan {
    steps: Vec<Step>,
    /// Numbers to be closed then: first and last.
    unwanted: Vec<(u32, u32)>,
}

/// `received`: where each file is. Each number is overwritten when what was there has been copied away; a ring of numbers
/// is opened by way of a spare one above all.
fn plan(received: &[i32], slots: &[Slot]) -> Plan {
    let numbers = received.iter().copied().chain(slots.iter().map(|(_, fd, _)| *fd));
    let spare = numbers.max().unwrap_or(0).max(SOCKET) + 1;
    let first: HashMap<i32, usize> = received.iter().enumerate().map(|(file, fd)| (*fd, file)).collect();
    let mut at = received.to_vec();
    let mut waiting: BTreeMap<i32, (usize, bool)> = BTreeMap::new();
    let mut left = vec![0u32; received.len()];
    let mut steps = Vec::with_capacity(slots.len() + 1);
    for &(file, fd, cloexec) in slots {
        match received.get(file) {
            Some(there) if *there == fd => steps.push(Step::Mark { fd, cloexec }),
            Some(_) => {
                waiting.insert(fd, (file, cloexec));
                left[file] += 1;
            }
            None => {}
        }
    }
    let is_needed = |fd: i32, at: &[i32], left: &[u32]| {
        first.get(&fd).is_some_and(|file| at[*file] == fd && left[*file] > 0)
    };
    let mut free: Vec<i32> = waiting.keys().copied().filter(|fd| !is_needed(*fd, &at, &left)).collect();
    loop {
        while let Some(to) = free.pop() {
            let Some((file, cloexec)) = waiting.remove(&to) else { continue };
            let from = std::mem::replace(&mut at[file], to);
            steps.push(Step::Copy { from, to, cloexec });
            left[file] -= 1;
            free.push(from);
        }
        // what is left are rings
        let Some((&fd, _)) = waiting.first_key_value() else { break };
        if let Some(file) = first.get(&fd) {
            steps.push(Step::Copy { from: fd, to: spare, cloexec: true });
            at[*file] = spare;
        }
        free.push(fd);
    }
    Plan { steps, unwanted: unwanted(slots, spare) }
}

/// All numbers without those of `slots`.
fn unwanted(slots: &[Slot], spare: i32) -> Vec<(u32, u32)> {
    let mut wanted: Vec<u32> = slots.iter().map(|(_, fd, _)| *fd as u32).collect();
    wanted.sort_unstable();
    let mut next = 0;
    let mut gaps = Vec::new();
    for fd in wanted.into_iter().filter(|fd| *fd < spare as u32) {
        if fd > next {
            gaps.push((next, fd - 1));
        }
        next = fd + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

/// Room for every descriptor; the right limit is set at the end.
fn raise_file_limit(skeleton: &Skeleton, need: u64) -> Result<(), RestoreError> {
    const NOFILE: u32 = 7;
    let limit = |new| crate::sys::process::prlimit(skeleton.pid, NOFILE, new);
    let step = "raising the limit of open files in the skeleton";
    let (soft, hard) = limit(None).map_err(RestoreError::io(step))?;
    if soft >= need {
        return Ok(());
    }
    match limit(Some((need, hard.max(need)))) {
        // only with CAP_SYS_RESOURCE
        Err(nix::errno::Errno::EPERM) => limit(Some((hard, hard))).map(drop).map_err(RestoreError::io(step)),
        done => done.map(drop).map_err(RestoreError::io(step)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes through a plan as the kernel would, with numbers up to `limit`, and says what is open then.
    fn carried_out(received: &[i32], slots: &[Slot], limit: i32) -> BTreeMap<i32, (usize, bool)> {
        let mut open: BTreeMap<i32, (usize, bool)> =
            received.iter().enumerate().map(|(file, fd)| (*fd, (file, false))).collect();
        open.insert(SOCKET, (usize::MAX, true));
        let plan = plan(received, slots);
        for step in plan.steps {
            match step {
                Step::Copy { from, to, cloexec } => {
                    assert!(from != to && to < limit, "{from} to {to}");
                    let file = open[&from].0;
                    open.insert(to, (file, cloexec));
                }
                Step::Mark { fd, cloexec } => open.get_mut(&fd).unwrap().1 = cloexec,
            }
        }
        for (first, last) in plan.unwanted {
            open.retain(|fd, _| (*fd as u32) < first || (*fd as u32) > last);
        }
        open
    }

    #[test]
    fn each_file_comes_to_its_numbers_whatever_is_in_the_way() {
        let mut state = 7u64;
        let mut dice = |sides: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        };
        for _ in 0..2000 {
            let files = 1 + dice(12) as usize;
            let received: Vec<i32> = (0..=files as i32).filter(|fd| *fd != SOCKET).take(files).collect();
            let received = if received.len() < files { (4..4 + files as i32).collect() } else { received };
            let mut numbers: Vec<i32> = (0..20).collect();
            let mut slots: Vec<Slot> = Vec::new();
            for file in 0..files {
                for _ in 0..=(if file == 0 { 3 } else { dice(2) }).min(numbers.len() as u64 - 1) {
                    let fd = numbers.swap_remove(dice(numbers.len() as u64) as usize);
                    slots.push((file, fd, dice(2) == 0));
                    if numbers.len() < files {
                        break;
                    }
                }
            }
            let need = needed(slots.iter().map(|(_, fd, _)| *fd), files).max(6 + files as u64);
            let open = carried_out(&received, &slots, need as i32);
            let wanted: BTreeMap<i32, (usize, bool)> = slots.iter().map(|s| (s.1, (s.0, s.2))).collect();
            assert_eq!(open, wanted, "{received:?} {slots:?}");
        }
    }

    #[test]
    fn a_ring_is_opened_by_way_of_one_number() {
        let slots = [(0, 1, false), (1, 2, false), (2, 0, true)];
        let open = carried_out(&[0, 1, 2], &slots, 5);
        assert_eq!(open, slots.iter().map(|s| (s.1, (s.0, s.2))).collect());
        assert_eq!(plan(&[0, 1, 2], &slots).steps.len(), 4);
    }
}
