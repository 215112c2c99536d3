//! What a holder holds: the process, and how it is let be.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::adopt::Adoption;
use super::guard::{Guard, close_in_family, close_inside, while_reading};
use super::pager::Pager;
use super::places::Places;
use super::plan::Plan;
use super::space::{Area, Feeder, Private, Shared};
use crate::image::{PAGE_SIZE, PageOwner, PageRange};
use crate::sys::process::{ends_within, pidfd_send_signal};
use crate::sys::{handoff, uffd, voice};
use crate::transport::lane::LazyRange;

/// The process and its memory.
pub(super) struct Held {
    pub(super) pid: i32,
    pidfd: OwnedFd,
    pub(super) pager: Pager,
    pub(super) guard: Guard,
    inside: Vec<i32>,
    /// How long it waits for a source that is not there.
    pub(super) patience: Duration,
}

impl Held {
    /// Takes over what comes in one or more messages, the first of which brought `fds`.
    pub(super) fn take(control: BorrowedFd<'_>, mut fds: Vec<OwnedFd>) -> io::Result<Self> {
        let torn = || io::Error::other("an adoption without its descriptors");
        if fds.len() < 4 {
            return Err(torn());
        }
        let mut blob = File::from(fds.remove(0));
        let mut bytes = Vec::new();
        io::Seek::rewind(&mut blob)?;
        blob.read_to_end(&mut bytes)?;
        let adoption: Adoption = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
        while fds.len() < 3 + adoption.objects.len() {
            let (_, more) = handoff::receive(control)?;
            if more.is_empty() {
                return Err(torn());
            }
            fds.extend(more);
        }
        let pidfd = fds.remove(0);
        let (private, shared) = (fds.remove(0), fds.remove(0));
        let pager = pager(&adoption, private, shared, &fds)?;
        Ok(Held {
            pid: adoption.pid,
            pidfd,
            pager,
            guard: Guard::default(),
            inside: adoption.inside,
            patience: Duration::from_millis(adoption.patience_ms),
        })
    }

    /// Whether the process ends within that time.
    pub(super) fn dies_within(&self, time: Duration) -> bool {
        ends_within(self.pidfd.as_fd(), time)
    }

    /// Ends the process and its children: they would wait for ever.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        for pid in self.guard.pids() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
    }

    /// Whether no change of the mappings waits for its event to be read.
    fn is_settled(&self) -> bool {
        self.pager.descriptors().into_iter().all(|(_, fd)| uffd::is_settled(fd))
    }

    /// No area of the process or of a child is registered any more.
    fn unregister(&self) {
        for pid in [self.pid].into_iter().chain(self.guard.pids()) {
            let maps = crate::sys::maps::maps(voice::of(pid));
            for area in maps.into_iter().flatten() {
                let (start, end) = area.address;
                for (_, fd) in self.pager.descriptors() {
                    let _ = uffd::unregister(fd, start, end - start);
                }
            }
        }
    }

    /// The process is whole: nothing of ours stays in it. Its threads may be in the middle of an event that only we can end: so no area
    /// is registered any more before one of them is stopped.
    pub(super) fn let_be(&mut self, home: &Path) {
        loop {
            let now = Instant::now();
            let spaces: Vec<usize> = self.pager.descriptors().into_iter().map(|(i, _)| i).collect();
            let born: usize = spaces.into_iter().map(|space| self.pager.hear(space, now)).sum();
            if born > 0 {
                self.guard.add_children(self.pid);
            }
            // an area that moves meanwhile would be missed: a move is not over before its event is read
            if self.is_settled() {
                self.unregister();
                if self.is_settled() {
                    break;
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let Held { pager, guard, inside, pid, .. } = self;
        let uffds: Vec<BorrowedFd<'_>> = pager.descriptors().into_iter().map(|(_, fd)| fd).collect();
        while_reading(&uffds, || {
            if let Err(error) = close_inside(*pid, inside, home)
                && !error.died()
            {
                tracing::warn!(pid, %error, "two descriptors of ours stay in the process");
            }
            guard.release(inside, home);
            // parents first: whoever is born from now on has no descriptor of ours
            close_in_family(*pid, inside, home);
        });
    }
}

fn pager(adoption: &Adoption, private: OwnedFd, shared: OwnedFd, objects: &[OwnedFd]) -> io::Result<Pager> {
    let mut feeders = BTreeMap::new();
    let own = |range: &PageRange| LazyRange { owner: PageOwner::Process(adoption.of), range: *range };
    let mut owed: Vec<LazyRange> = adoption.private.iter().map(own).collect();
    let mut huge: Vec<(LazyRange, u64)> =
        adoption.huge.iter().map(|(range, size)| (own(range), *size)).collect();
    for ((id, size, page_size, outstanding), fd) in adoption.objects.iter().zip(objects) {
        feeders.insert(*id, Feeder::new(fd, *size, *page_size)?);
        let owner = PageOwner::Object(*id);
        owed.extend(outstanding.iter().map(|range| LazyRange { owner, range: *range }));
        if *page_size > PAGE_SIZE {
            let range = PageRange::new(0, size.next_multiple_of(*page_size));
            huge.push((LazyRange { owner, range }, *page_size));
        }
    }
    let places = Places::new(&adoption.private, adoption.huge.clone());
    let area = |(range, object, offset): &(_, _, _)| Area { range: *range, object: *object, offset: *offset };
    let mappings = Shared { uffd: shared, areas: adoption.areas.iter().map(area).collect() };
    let plan = Plan::new(owed, adoption.order.iter().map(own).collect(), huge);
    let private = (!places.is_empty()).then_some(Private { of: adoption.of, uffd: private, places });
    let mappings = (!mappings.areas.is_empty()).then_some(mappings);
    Ok(Pager::new(private, mappings, feeders, plan, adoption.verify))
}
