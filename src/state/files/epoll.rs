//! `epoll(7)`: interest lists.
//!
//! Kernel interface: `fdinfo` lines `tfd: N events: HEX data: HEX pos:… ino:HEX sdev:HEX`, one per entry. An
//! entry is bound to the *open file*, its number is only a name: after `dup` and `close` the number may be
//! free or mean something else. `kcmp(KCMP_EPOLL_TFD)` says which descriptor leads to the watched file now.
//!
//! The kernel keys an entry by file and number, so the entries are made inside the process
//! ([`super::EpollAdd`]); a new entry reports readiness once, also to edge-triggered users. An entry
//! disarmed by `EPOLLONESHOT` stays disarmed (but for errors and hang-ups, which `ADD` always includes).

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags};

use crate::image::files::{BusyPoll, EpollItem, FileKind, OpenFile};
use crate::image::{Note, Obstacle};
use crate::sys::fds;

use super::FilesError;
use super::maker::{EpollAdd, Maker, TargetCheck, failed, set_flags};
use super::source::{Descriptor, Source};

/// A `tfd:` line.
struct Entry {
    registered: i32,
    events: u32,
    data: u64,
    ino: u64,
}

/// `EPOLLERR | EPOLLHUP`: the kernel adds them to every watch, and takes them off one that has told its event.
const ALWAYS: u32 = 0x18;
const DISARMED: &str =
    "disarmed (EPOLLONESHOT), and cannot be made so again: an error or hang-up there is told once, unasked";

/// Reads the interest list and finds each entry's descriptor.
pub(super) fn read(source: &mut Source<'_>, file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    let mut items: Vec<EpollItem> = Vec::new();
    let mut watched: HashSet<i32> = HashSet::new();
    let mut numbers_met: HashMap<i32, u32> = HashMap::new();
    for line in file.info.lines().filter(|line| line.starts_with("tfd:")) {
        let entry = parse(line).ok_or(FilesError::Fdinfo { fd: file.fd, field: "tfd" })?;
        // Several files may be registered under one number; the kernel counts them in this order.
        let met = numbers_met.entry(entry.registered).or_default();
        let nth = std::mem::replace(met, *met + 1);
        match find_target(source, file, &entry, nth) {
            Some(fd) if !watched.insert(fd) => source.refuse(twice(file, &entry, fd)),
            Some(fd) => {
                if entry.events & ALWAYS == 0 {
                    source.note(file.object(), format!("its watch of fd {fd} is {DISARMED}"));
                }
                items.push(EpollItem {
                    fd,
                    registered: entry.registered,
                    events: entry.events,
                    data: entry.data,
                });
            }
            None if source.stopped || is_still_watched(source, file, &entry) => {
                source.refuse(orphan(file, &entry));
            }
            None => {}
        }
    }
    let busy_poll = busy_poll(&source.duplicate(file)?);
    Ok(Some(FileKind::Epoll { items, busy_poll }))
}

/// Parameters of busy polling, where any are set.
fn busy_poll(epoll: &OwnedFd) -> Option<BusyPoll> {
    let raw = fds::epoll_params(epoll).ok().filter(|raw| *raw != [0; 8])?;
    let [a, b, c, d, e, f, prefer, _] = raw;
    let (usecs, budget) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]));
    Some(BusyPoll { usecs, budget, prefer: prefer != 0 })
}

fn set_busy_poll(epoll: &OwnedFd, params: BusyPoll) -> io::Result<()> {
    let mut raw = [0; 8];
    raw[..4].copy_from_slice(&params.usecs.to_ne_bytes());
    raw[4..6].copy_from_slice(&params.budget.to_ne_bytes());
    raw[6] = params.prefer.into();
    fds::set_epoll_params(epoll, raw)
}

/// Can it have these?
pub(super) fn check(check: &mut TargetCheck, file: &OpenFile, busy_poll: Option<BusyPoll>) {
    let Some(params) = busy_poll else { return };
    let made = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from);
    if let Err(error) = made.and_then(|made| set_busy_poll(&made.0, params)) {
        let what = format!("its parameters of busy polling cannot be set at the target: {error}");
        check.notes.push(Note::new(file.object(), what));
    }
}

/// `tfd:        5 events:       19 data:                5  pos:0 ino:40e sdev:10`
fn parse(line: &str) -> Option<Entry> {
    let after = |key: &str| line.split_once(key)?.1.split_whitespace().next();
    let hex = |key: &str| u64::from_str_radix(after(key)?, 16).ok();
    Some(Entry {
        registered: after("tfd:")?.parse().ok()?,
        events: u32::try_from(hex("events:")?).ok()?,
        data: hex("data:")?,
        ino: hex("ino:")?,
    })
}

/// The descriptor that leads to the entry's file: the registered one first, then any other of that inode.
fn find_target(source: &Source<'_>, epoll: &Descriptor, entry: &Entry, nth: u32) -> Option<i32> {
    let table = &source.descriptors;
    let registered = table.binary_search_by_key(&entry.registered, |other| other.fd).ok();
    let others = table.iter().filter(|other| other.fd != entry.registered);
    let mut candidates = registered
        .map(|index| &table[index])
        .into_iter()
        .chain(others)
        .filter(|other| other.ino == entry.ino);
    let found = candidates.find(|other| {
        // A socket has one open file only: the inode is proof enough. The rest share theirs.
        other.link.starts_with("socket:[")
            || fds::is_epoll_target(source.pid, other.fd, epoll.fd, entry.registered, nth).unwrap_or(false)
    });
    found.map(|other| other.fd)
}

/// The process runs: an entry without a descriptor may simply be gone by now.
fn is_still_watched(source: &Source<'_>, epoll: &Descriptor, entry: &Entry) -> bool {
    let Ok(now) = source.read_descriptor(epoll.fd) else { return false };
    let mut entries = now.info.lines().filter(|line| line.starts_with("tfd:")).filter_map(parse);
    let listed = entries.any(|other| (other.registered, other.ino) == (entry.registered, entry.ino));
    let reopened = source.read_descriptor(entry.registered).is_ok_and(|target| target.ino == entry.ino);
    listed && !reopened
}

fn orphan(file: &Descriptor, entry: &Entry) -> Obstacle {
    Obstacle::new(
        file.object(),
        format!(
            "it still watches a file registered as fd {}, which the process has closed and somebody else holds",
            entry.registered
        ),
        "have the program remove descriptors from epoll before it closes them",
    )
}

fn twice(file: &Descriptor, entry: &Entry, fd: i32) -> Obstacle {
    Obstacle::new(
        file.object(),
        format!("it watches fd {fd} a second time under the closed number {}", entry.registered),
        "have the program remove descriptors from epoll before it closes them",
    )
}

/// Makes an empty epoll and notes the calls that fill it.
pub(super) fn make(
    maker: &mut Maker<'_>,
    index: usize,
    file: &OpenFile,
    (items, busy_poll): (&[EpollItem], Option<BusyPoll>),
) -> Result<OwnedFd, FilesError> {
    let made = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed(file, "make the epoll"))?.0;
    if let Some(Err(error)) = busy_poll.map(|params| set_busy_poll(&made, params)) {
        // preflight has said so
        tracing::debug!(object = file.object(), %error, "no busy polling");
    }
    let slot = maker.image.slots().find(|slot| slot.file == index);
    let epfd = slot.map_or(file.fd, |slot| slot.fd);
    maker.epoll.extend(items.iter().map(|item| EpollAdd {
        epfd,
        fd: item.fd,
        events: item.events,
        data: item.data,
    }));
    set_flags(file, &made)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{captured, describe_only, index, only_kind, quiet, refusals, restored};
    use super::*;
    use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
    use nix::unistd::{pipe, write};
    use std::os::fd::{AsFd, AsRawFd};

    fn epoll() -> Epoll {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap()
    }

    fn ready(epoll: &Epoll) -> Vec<(u64, EpollFlags)> {
        let mut events = [EpollEvent::empty(); 8];
        let count = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap();
        events[..count].iter().map(|event| (event.data(), event.events())).collect()
    }

    #[test]
    fn the_interest_list_travels() {
        let _quiet = quiet();
        let ours = epoll();
        let (reader, writer) = pipe().unwrap();
        let (other, _keep) = pipe().unwrap();
        let data = 0xdead_beef_0123_4567;
        ours.add(&reader, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, data)).unwrap();
        ours.add(&other, EpollEvent::new(EpollFlags::EPOLLIN, 2)).unwrap();
        let image = captured(&[&ours.0, &reader, &writer, &other, &_keep]);
        let made = restored(&image);
        let file = |fd: i32| &made.files[image.slots().find(|slot| slot.fd == fd).unwrap().file];
        for add in &made.epoll {
            assert_eq!(add.epfd, ours.0.as_raw_fd());
            let event = EpollEvent::new(EpollFlags::from_bits_retain(add.events as i32), add.data);
            Epoll(file(add.epfd).try_clone().unwrap()).add(file(add.fd), event).unwrap();
        }
        let there = Epoll(file(ours.0.as_raw_fd()).try_clone().unwrap());
        assert_eq!(ready(&there), []);
        write(file(writer.as_raw_fd()), b"x").unwrap();
        assert_eq!(ready(&there), [(data, EpollFlags::EPOLLIN)]);
        assert_eq!(ready(&there), [], "edge-triggered");
    }

    #[test]
    fn a_target_that_was_duplicated_and_closed_is_found() {
        let _quiet = quiet();
        let ours = epoll();
        let first = fds::signalfd(1, 0).unwrap();
        let decoy = fds::signalfd(2, 0).unwrap();
        ours.add(&first, EpollEvent::new(EpollFlags::EPOLLIN, 1)).unwrap();
        let registered = first.as_raw_fd();
        let twin = first.try_clone().unwrap();
        drop(first);
        let image = captured(&[&ours.0, &decoy, &twin]);
        let FileKind::Epoll { items, .. } = &image.files[index(&image, ours.0.as_raw_fd())].kind else {
            panic!("{image:?}")
        };
        assert_eq!(items.len(), 1);
        assert_eq!((items[0].fd, items[0].registered), (twin.as_raw_fd(), registered));
    }

    #[test]
    fn a_target_held_elsewhere_only_is_refused() {
        let _quiet = quiet();
        let ours = epoll();
        let hidden = fds::signalfd(1, 0).unwrap();
        ours.add(hidden.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 1)).unwrap();
        let registered = hidden.as_raw_fd();
        // The walk is told to look at the epoll alone: as if the target were in another process. The number
        // must not be open, or it counts as a race; so another descriptor keeps the file alive.
        let _elsewhere = hidden.try_clone().unwrap();
        drop(hidden);
        let texts = refusals(&[&ours.0]);
        assert_eq!(texts.len(), 1);
        assert!(texts[0].contains(&format!("registered as fd {registered}, which the process has closed")));
    }

    #[test]
    fn an_empty_epoll_and_lines_are_understood() {
        let _quiet = quiet();
        let ours = epoll();
        assert_eq!(
            *only_kind(&describe_only(&[&ours.0], false).0),
            FileKind::Epoll { items: vec![], busy_poll: None }
        );
        let line = "tfd:        5 events: 40000019 data: deadbeef01234567  pos:0 ino:40e sdev:10";
        let entry = parse(line).unwrap();
        assert_eq!((entry.registered, entry.events, entry.ino), (5, 0x4000_0019, 0x40e));
        assert_eq!(entry.data, 0xdead_beef_0123_4567);
    }
}
