//! Tests of [`super`] and of the texts of refusals.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::inotify::{InitFlags, Inotify};
use nix::unistd::mkfifo;

use super::super::maker::RestoreContext;
use super::super::target::{Signalled, check_target, restore};
use super::super::testing::{
    captured, describe_only, index, moved, only_kind, quiet, refusals, restored, status_flags,
};
use super::*;
use crate::image::files::{FileOwner, OwnerKind};
use crate::sys::fds::{self, RawOwner};

fn refused(fd: &dyn AsRawFd) -> String {
    let texts = refusals(&[fd]);
    assert_eq!(texts.len(), 1, "{texts:?}");
    texts[0].clone()
}

#[test]
fn position_flags_and_sharing_travel() {
    let _quiet = quiet();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    log.write_all(b"0123456789").unwrap();
    let twin = log.try_clone().unwrap();
    let mut reader =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOATIME).open(&path).unwrap();
    reader.seek(std::io::SeekFrom::Start(4)).unwrap();
    let image = captured(&[&log, &twin, &reader]);
    assert_eq!((image.slots().count(), image.files.len()), (3, 2));
    assert!(image.slots().all(|slot| slot.cloexec));
    assert_eq!(check_target(&image, &Default::default()).obstacles, []);
    let mut made = restored(&image).files;
    let mut reader_there = File::from(made.remove(1));
    let mut log_there = File::from(made.remove(0));
    assert_eq!(status_flags(&reader_there), status_flags(&reader));
    assert_eq!(status_flags(&log_there), status_flags(&log));
    log_there.write_all(b"AB").unwrap();
    let mut rest = String::new();
    reader_there.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "456789AB");
}

#[test]
fn directories_places_and_devices_travel() {
    let _quiet = quiet();
    let directory = File::open("/proc/sys").unwrap();
    let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/etc/passwd").unwrap();
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    let random = File::open("/dev/urandom").unwrap();
    let fds: [&dyn AsRawFd; 4] = [&directory, &place, &null, &random];
    let (image, made) = moved(&fds);
    assert_eq!(check_target(&image, &Default::default()).obstacles, []);
    for (fd, made) in fds.iter().zip(&made) {
        let link = |fd: i32| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        assert_eq!(link(made.as_raw_fd()), link(fd.as_raw_fd()));
    }
    assert_eq!(nix::unistd::write(&made[2], b"gone"), Ok(4));
}

#[test]
fn the_owner_travels() {
    let _quiet = quiet();
    let me = i32::try_from(std::process::id()).unwrap();
    let (ours, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    fds::set_owner(&ours, RawOwner { kind: 1, id: me }, libc::SIGUSR2).unwrap();
    fds::set_status_flags(&ours, libc::O_ASYNC | libc::O_NONBLOCK).unwrap();
    let (image, made) = moved(&[&ours, &_peer]);
    let ours_made = index(&image, ours.as_raw_fd());
    assert_eq!(
        image.files[ours_made].owner,
        Some(FileOwner { kind: OwnerKind::Process, id: me, signal: libc::SIGUSR2 })
    );
    assert_eq!(fds::owner(&made[0]).unwrap(), (RawOwner { kind: 1, id: me }, libc::SIGUSR2));
    // the rest in the process, by its number there
    assert_eq!(status_flags(&made[0]), status_flags(&ours) & !libc::O_ASYNC);
    let signalled = Signalled { fd: ours.as_raw_fd(), flags: libc::O_NONBLOCK };
    assert_eq!(restored(&image).signalled, [signalled]);
    fds::set_owner(&ours, RawOwner { kind: 1, id: 1 }, 0).unwrap();
    let texts = refusals(&[&ours, &_peer]);
    assert!(texts[0].contains("its signals (F_SETOWN) go to process 1"), "{texts:?}");
}

#[test]
fn what_has_no_name_any_more_is_refused() {
    let _quiet = quiet();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone");
    let file = File::create(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(refused(&file).contains("the file was deleted"));
    let path = dir.path().join("replaced");
    let file = File::create(&path).unwrap();
    fs::write(dir.path().join("new"), "new").unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    assert!(refused(&file).contains("the file was replaced"));
    let path = dir.path().join("really called so (deleted)");
    let file = File::create(&path).unwrap();
    assert_eq!(refusals(&[&file]), [""; 0]);
}

#[test]
fn locks_and_leases_are_refused() {
    let _quiet = quiet();
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("locked")).unwrap();
    file.lock().unwrap();
    let text = refused(&file);
    assert!(text.contains("an flock is held; locks do not travel"), "{text}");
    file.unlock().unwrap();
    let whole = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETLK(&whole)).unwrap();
    assert!(refused(&file).contains("a POSIX record lock is held"));
    let open = File::create(dir.path().join("open")).unwrap();
    nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    assert!(refused(&open).contains("an open-file-description lock is held"));
}

#[test]
fn every_foreign_kind_is_refused_by_name() {
    let _quiet = quiet();
    let socket = |domain, kind, protocol| fds::socket(domain, kind, protocol).unwrap();
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
    assert!(refused(&inotify.as_fd()).contains("an inotify instance (file watches) cannot be carried"));
    let pidfd = crate::sys::process::pidfd_open(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(refused(&pidfd).contains("a pidfd"));
    assert!(refused(&File::open("/proc/self/ns/net").unwrap()).contains("a namespace descriptor"));
    assert!(refused(&File::open("/proc/self/stat").unwrap()).contains("a file about a process of this host"));
    assert!(refused(&socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)).contains("a netlink socket"));
    assert!(refused(&socket(libc::AF_PACKET, libc::SOCK_RAW, 0)).contains("a packet socket"));
    assert!(refused(&socket(libc::AF_INET, libc::SOCK_RAW, 1)).contains("a raw socket"));
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let fifo = OpenOptions::new().read(true).write(true).open(fifo).unwrap();
    assert!(refused(&fifo).contains("a named pipe connects to processes of this host"));
    if let Ok(terminal) = File::open("/dev/ptmx") {
        assert!(refused(&terminal).contains("a terminal stays with this host"));
    }
    if let Ok(device) = File::open("/dev/kmsg") {
        assert!(refused(&device).contains("the character device 1:11"));
    }
    let texts = refusals(&[&inotify.as_fd(), &pidfd]);
    assert_eq!(texts.len(), 2, "all obstacles at once");
}

#[test]
fn another_file_at_the_target_is_refused_twice() {
    let _quiet = quiet();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    fs::write(&path, "one").unwrap();
    let reader = File::open(&path).unwrap();
    let mut image = captured(&[&reader]);
    // As if the image came from another host where the path is another inode.
    let FileKind::Regular { identity, .. } = &mut image.files[0].kind else { panic!() };
    identity.host = "elsewhere".into();
    identity.ino += 1;
    let check = check_target(&image, &Default::default());
    assert_eq!(check.obstacles, []);
    assert_eq!(check.needs_hash, [path.to_str().unwrap()]);
    let error = restore(&image, &mut RestoreContext::default()).unwrap_err();
    assert!(error.to_string().ends_with("is not the same file here"), "{error}");
    let hash = super::super::content_hash(&path).unwrap();
    let answered = check_target(&image, &[(path.as_path().into(), hash)].into());
    assert_eq!((answered.obstacles.len(), answered.needs_hash.len(), answered.vetted.len()), (0, 0, 1));
    let mut context = RestoreContext { vetted: answered.vetted, ..RestoreContext::default() };
    assert_eq!(restore(&image, &mut context).unwrap().files.len(), 1);
    image.files[0].flags = libc::O_RDWR as u32;
    let check = check_target(&image, &Default::default());
    assert!(check.obstacles[0].why.contains("the two would diverge"), "{:?}", check.obstacles);
    assert!(restore(&image, &mut context).is_err());
}

#[test]
fn made_up_files_need_no_content() {
    let _quiet = quiet();
    let file = File::open("/proc/meminfo").unwrap();
    let (mut image, _) = describe_only(&[&file], false);
    assert!(matches!(only_kind(&image), FileKind::Regular { .. }));
    let FileKind::Regular { identity, .. } = &mut image.files[0].kind else { panic!() };
    identity.host = "elsewhere".into();
    identity.ino += 1;
    assert_eq!(check_target(&image, &Default::default()).obstacles, []);
    assert_eq!(restored(&image).files.len(), 1);
}
