//! Which tracker for this process. One without a free descriptor cannot have a userfaultfd made inside it; and files that
//! it reads past the page cache (`O_DIRECT`) are a matter of their own.
//!
//! There the device writes into the process's pages itself. The kernel pins them when the read begins, which counts as the
//! write for every tracker; what arrives later is seen by none: a round that looked meanwhile has sent the old content and
//! takes the page for clean. Only contents tell, so the tracker must be `checksum`. In the freeze nothing is under way any
//! more: a thread stops when its read is complete. (Asynchronous reads, by io_uring or `libaio`, are refused.)

use super::MigrateError;
use crate::dirty::choice::Unavailable;
use crate::dirty::{Choice, Chosen, Kind};
use crate::image::Obstacle;
use crate::image::files::FilesImage;
use crate::preload::PreloadError;
use crate::sys::kernel::Kernel;
use crate::sys::limits;

/// Resolves the choice of a tracker for a process with these files.
pub(crate) fn tracker(choice: Choice, pid: i32, files: &FilesImage) -> Result<Chosen, Obstacle> {
    let kernel = Kernel::here();
    let chosen = choice.resolve(kernel).and_then(|chosen| match limits::no_descriptor(pid) {
        Some(why) => chosen.outside(kernel, choice, why),
        None => Ok(chosen),
    });
    let chosen = chosen.map_err(|e| unavailable(kernel, &e))?;
    match (choice, unseen(chosen.kind, files)) {
        (_, None) => Ok(chosen),
        (Choice::Auto, Some(file)) => Ok(Chosen {
            kind: Kind::Checksum,
            reason: format!("{file}, whose device writes into memory unseen by {}", chosen.kind),
        }),
        (Choice::Forced(_), Some(file)) => Err(obstacle(chosen.kind, &file)),
    }
}

/// What the process has opened since then must not be of that kind, nor have been.
pub(crate) fn check(tracker: &str, files: &FilesImage) -> Result<(), MigrateError> {
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == tracker) else { return Ok(()) };
    match unseen(kind, files) {
        None => Ok(()),
        Some(file) => Err(MigrateError::Source(PreloadError::Unfit(obstacle(kind, &file)))),
    }
}

fn unseen(kind: Kind, files: &FilesImage) -> Option<String> {
    let direct = libc::O_DIRECT as u32;
    let read = |flags: u32| flags & libc::O_ACCMODE as u32 != libc::O_WRONLY as u32;
    let file =
        files.files.iter().find(|f| f.flags & direct != 0 && f.link.starts_with("/") && read(f.flags))?;
    (kind != Kind::Checksum).then(|| format!("fd {} ({}) is open with O_DIRECT", file.fd, file.link))
}

fn obstacle(kind: Kind, file: &str) -> Obstacle {
    Obstacle::new(
        format!("tracker {kind}"),
        format!("{file}: what a device writes into memory is not seen by it"),
        "take --tracker checksum, or auto",
    )
}

/// The tracker that was asked for does not work here.
fn unavailable(kernel: &Kernel, e: &Unavailable) -> Obstacle {
    let others: Vec<&str> = Kind::ALL.iter().filter(|k| k.usable(kernel).is_ok()).map(|k| k.name()).collect();
    Obstacle::new(
        format!("tracker {}", e.kind),
        crate::sys::chain(&e.source),
        format!("--tracker auto takes the best that works; here work: {}", others.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::files::{FileKind, OpenFile};

    fn files(flags: i32) -> FilesImage {
        let kind = FileKind::EventFd { count: 0, semaphore: false };
        let (fd, link, ino) = (7, "/data".into(), 1);
        let file = OpenFile { fd, link, ino, flags: flags as u32, owner: None, node: None, kind };
        FilesImage { files: vec![file], ..FilesImage::default() }
    }

    #[test]
    fn reads_by_the_device_want_checksums() {
        let direct = files(libc::O_RDWR | libc::O_DIRECT);
        assert_eq!(tracker(Choice::Auto, std::process::id() as i32, &direct).unwrap().kind, Kind::Checksum);
        assert!(check("wp-scan", &direct).unwrap_err().to_string().contains("fd 7 (/data)"));
        assert!(check("checksum", &direct).is_ok());
        for harmless in [libc::O_RDWR, libc::O_WRONLY | libc::O_DIRECT] {
            assert!(check("soft-dirty", &files(harmless)).is_ok());
        }
    }
}
