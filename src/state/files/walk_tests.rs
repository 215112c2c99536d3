//! Tests of [`super`], on processes of their own.

use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::target::restore;
use super::super::testing::quiet;
use super::*;

#[test]
fn another_process_is_described_and_captured() {
    let _quiet = quiet();
    let dir = tempfile::tempdir().unwrap();
    let script = "exec >log 2>&1 9<&0; printf hello; exec sleep 60";
    let mut command = Command::new("sh");
    let mut child = command.args(["-c", script]).current_dir(&dir).stdin(Stdio::null()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let log = dir.path().join("log");
    while fs::read_to_string(&log).unwrap_or_default() != "hello" {
        std::thread::sleep(Duration::from_millis(5));
    }
    let options = FilesOptions::default();
    // Whatever else this test process leaks into its children is not looked at.
    let pidfd = pidfd_of_thread(pid).unwrap();
    let ours = |fd: i32| matches!(fd, 0 | 1 | 2 | 9);
    let (before, obstacles) = Source::new(pid, pidfd.as_fd(), &options, None, false).run(ours).unwrap();
    assert_eq!(obstacles, []);
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let (image, _) = Source::new(pid, pidfd.as_fd(), &options, Some(&before), true).run(ours).unwrap();
    assert_eq!(image, before);
    let slots: Vec<(i32, usize)> = image.slots().map(|slot| (slot.fd, slot.file)).collect();
    assert_eq!(slots, [(0, 0), (1, 1), (2, 1), (9, 0)]);
    let FileKind::Regular { pos, path, .. } = &image.files[1].kind else { panic!("{image:?}") };
    assert_eq!((*pos, path.as_path()), (5, log.canonicalize().unwrap().as_path()));
    assert_eq!(restore(&image, &mut Default::default()).unwrap().files.len(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(describe(pid, &options), Err(FilesError::Gone { .. })));
    assert!(matches!(capture(pid, pidfd.as_fd(), &options, None), Err(FilesError::Gone { .. })));
}

#[test]
fn what_appears_after_preflight_fails_the_capture() {
    let _quiet = quiet();
    let script = "import os,time\nos.close(1); os.close(2)\nimport ctypes\n\
                  ctypes.CDLL(None).inotify_init1(0)\ntime.sleep(60)";
    let mut command = Command::new("python3");
    let command = command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let pidfd = pidfd_of_thread(pid).unwrap();
    let inotify = format!("/proc/{pid}/fd/1");
    while !fs::read_link(&inotify).is_ok_and(|link| link.to_string_lossy().contains("inotify")) {
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let before = FilesImage::default();
    let result = capture(pid, pidfd.as_fd(), &FilesOptions::default(), Some(&before));
    child.kill().unwrap();
    child.wait().unwrap();
    let error = result.unwrap_err();
    assert!(error.to_string().contains("an inotify instance"), "{error}");
    let FilesError::Refused(obstacles) = error else { panic!("{error}") };
    assert!(obstacles.iter().any(|found| found.object.starts_with("fd 1: ")));
}

/// `cargo test --lib many_descriptors -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn many_descriptors() {
    use std::os::fd::AsRawFd;
    let _quiet = quiet();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 20000, 20000).unwrap();
    let files: Vec<fs::File> = (0..2000).map(|_| fs::File::open("/etc/passwd").unwrap()).collect();
    let pipes: Vec<_> = (0..1000).map(|_| std::io::pipe().unwrap()).collect();
    let pairs: Vec<_> = (0..1000).map(|_| std::os::unix::net::UnixStream::pair().unwrap()).collect();
    let pid = i32::try_from(std::process::id()).unwrap();
    let pidfd = pidfd_of_thread(pid).unwrap();
    let options = FilesOptions::default();
    let low = files[0].as_raw_fd();
    let run = |previous, stopped| {
        let start = std::time::Instant::now();
        let walk = Source::new(pid, pidfd.as_fd(), &options, previous, stopped)
            .run(|fd| (low..low + 6000).contains(&fd))
            .unwrap();
        eprintln!("{} slots, stopped {stopped}: {:?}", walk.0.slots().count(), start.elapsed());
        walk.0
    };
    let before = run(None, false);
    let image = run(Some(&before), true);
    let start = std::time::Instant::now();
    restore(&image, &mut Default::default()).unwrap();
    eprintln!("restored in {:?}", start.elapsed());
    drop((pipes, pairs));
}
