//! Pipes, with what waits in them.
//!
//! Kernel interface: `tee(2)` copies the content from a duplicate of a read end into a pipe of ours without
//! consuming it; `F_GETPIPE_SZ` is the capacity. A pipe without any read end left has nothing to say; one
//! without a write end ends after its data. Both ends (or all that are left) must be inside the process.
//!
//! Packets (`O_DIRECT`) keep their boundaries also when the flag is gone, and in a copy made by `tee`: a read ends with each.
//! Bytes that are written behind them have none. Packets behind such bytes are joined to them while their page has
//! room, which cannot be done again here.
//!
//! Refused: packets behind other bytes, ends in other processes (`holders`), FIFOs (they have a path).

use std::collections::hash_map::Entry;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, open, tee};
use nix::sys::stat::Mode;
use nix::unistd::{pipe2, read as read_fd, write};

use crate::image::files::{FileKind, FilesImage, OpenFile, Pipe};
use crate::image::obstacle::Obstacle;
use crate::sys::fds;

use super::maker::{Maker, PipeEnds, TargetCheck, failed, set_flags};
use super::source::{Descriptor, Source};
use super::{FilesError, refuse};
use crate::state::inode;

/// Reads one end; the pipe itself is read with the first end, its data with the first read end.
pub(super) fn read(source: &mut Source<'_>, file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    let readable = file.flags as i32 & libc::O_ACCMODE != libc::O_WRONLY;
    let known = source.image.pipes.iter().position(|pipe| pipe.ino == file.ino);
    let copy = source.duplicate(file)?;
    let pipe = match known {
        Some(pipe) => pipe,
        None => {
            let capacity = fcntl(&copy, FcntlArg::F_GETPIPE_SZ)
                .map_err(|error| source.failed(file, "read the capacity", error.into()))?;
            let inode = fs::metadata(source.magic_link(file))
                .map_err(|error| source.failed(file, "stat the pipe", error))?;
            source.image.pipes.push(Pipe {
                ino: file.ino,
                capacity: capacity as u32,
                inode: inode::of(&inode),
                data: Vec::new(),
                packets: Vec::new(),
            });
            source.image.pipes.len() - 1
        }
    };
    if source.stopped && readable && source.image.pipes[pipe].data.is_empty() {
        let content = content(&copy, source.image.pipes[pipe].capacity)
            .map_err(|error| source.failed(file, "copy the content", error))?;
        let Some(packets) = content.packets else {
            let why = "packets wait in it behind other bytes (O_DIRECT)";
            source.refuse(refuse::because(file, why, "try again when the program has read them"));
            return Ok(None);
        };
        source.image.pipes[pipe].data = content.data;
        source.image.pipes[pipe].packets = packets;
    }
    Ok(Some(FileKind::Pipe { pipe }))
}

/// What waits in a pipe.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    data: Vec<u8>,
    /// Lengths of the packets with which it begins; `None`: there are some behind other bytes.
    packets: Option<Vec<u16>>,
}

/// What waits in the pipe, left in place.
fn content(reader: &OwnedFd, capacity: u32) -> io::Result<Content> {
    let waiting = fds::readable_bytes(reader)?;
    if waiting == 0 {
        return Ok(Content { data: Vec::new(), packets: Some(Vec::new()) });
    }
    let (out, marked) = copy_of(reader, capacity, waiting)?;
    let mut data = vec![0; waiting + usize::from(marked)];
    let (mut filled, mut ends) = (0, Vec::new());
    while filled < data.len() {
        match read_fd(&out, &mut data[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
        // a packet ends here, or all
        ends.push(filled);
    }
    data.truncate(waiting);
    ends.pop();
    let packets = match ends.is_empty() {
        true => Some(Vec::new()),
        false => packets(&copy_of(reader, capacity, waiting)?.0, &ends)?,
    };
    Ok(Content { data, packets })
}

/// A read of one byte takes a whole packet. `ends`: where packets end; each must be one.
fn packets(copy: &OwnedFd, ends: &[usize]) -> io::Result<Option<Vec<u16>>> {
    let mut lengths = Vec::with_capacity(ends.len());
    let mut from = 0;
    for end in ends {
        let before = fds::readable_bytes(copy)?;
        read_fd(copy, &mut [0; 1])?;
        if before - fds::readable_bytes(copy)? != end - from {
            return Ok(None);
        }
        lengths.push(u16::try_from(end - from).map_err(io::Error::other)?);
        from = *end;
    }
    Ok(Some(lengths))
}

/// A pipe of ours with the same in it; and, if it has room for that, a byte behind, which shows whether a packet ends before.
fn copy_of(reader: &OwnedFd, capacity: u32, waiting: usize) -> io::Result<(OwnedFd, bool)> {
    let (out, into) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // More buffers than the original has, so that one tee takes them all; as many, where more are not permitted.
    let size = |bytes: u32| fcntl(&into, FcntlArg::F_SETPIPE_SZ(i32::try_from(bytes).unwrap_or(i32::MAX)));
    size(capacity.saturating_add(1)).or_else(|_| size(capacity))?;
    let copied = tee(reader, &into, i32::MAX as usize, SpliceFFlags::SPLICE_F_NONBLOCK)?;
    if copied != waiting {
        return Err(io::Error::other(format!("{copied} of {waiting} bytes copied")));
    }
    // nothing is joined to what was copied
    let marked = write(&into, b"!").is_ok();
    Ok((out, marked))
}

/// Can the capacity be had?
pub(super) fn check(check: &mut TargetCheck, image: &FilesImage, pipe: usize, file: &OpenFile) {
    let Some(pipe) = image.pipes.get(pipe) else { return };
    check.obstacles.extend(inode::obstacle(&file.object(), &pipe.inode));
    if let Err(error) = new_pipe(pipe.capacity) {
        check.obstacles.push(Obstacle::new(
            file.object(),
            format!("a pipe of {} bytes cannot be made at the target: {error}", pipe.capacity),
            format!("sysctl -w fs.pipe-max-size={}", pipe.capacity),
        ));
    }
}

fn new_pipe(capacity: u32) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    if fcntl(&writer, FcntlArg::F_GETPIPE_SZ)? as u32 != capacity {
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(capacity as i32))?;
    }
    Ok((reader, writer))
}

/// Makes one end; the first end of a pipe makes the pipe and fills it.
pub(super) fn make(maker: &mut Maker<'_>, file: &OpenFile, index: usize) -> Result<OwnedFd, FilesError> {
    let missing = || FilesError::Inconsistent { object: file.object(), what: "its pipe is not in the image" };
    let image = maker.image.pipes.get(index).ok_or_else(missing)?;
    let made = match maker.pipes.entry(index) {
        Entry::Occupied(made) => made.into_mut(),
        Entry::Vacant(place) => place.insert(fill(file, image)?),
    };
    let ready = match file.flags as i32 & libc::O_ACCMODE {
        libc::O_RDONLY => made.reader.take(),
        libc::O_WRONLY => made.writer.take(),
        _ => None,
    };
    let end = match ready {
        Some(end) => end,
        // A further open file of the same end (somebody opened /proc/self/fd/N), or one for both directions.
        None => {
            let mode = OFlag::from_bits_retain(file.flags as i32 & libc::O_ACCMODE);
            open(made.path.as_str(), mode | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(failed(file, "open the pipe again"))?
        }
    };
    // Opened again later by the path of an end that is still here.
    made.path = format!("/proc/self/fd/{}", end.as_raw_fd());
    drop_unwanted_ends(maker, index);
    set_flags(file, &end)?;
    Ok(end)
}

fn fill(file: &OpenFile, image: &Pipe) -> Result<PipeEnds, FilesError> {
    let (reader, writer) = new_pipe(image.capacity).map_err(failed(file, "make the pipe"))?;
    let mut rest = image.data.as_slice();
    let mode = |packets: OFlag| fcntl(&writer, FcntlArg::F_SETFL(packets | OFlag::O_NONBLOCK));
    if !image.packets.is_empty() {
        mode(OFlag::O_DIRECT).map_err(failed(file, "switch to packet mode"))?;
        for length in &image.packets {
            let (packet, behind) = rest.split_at_checked((*length).into()).unwrap_or((rest, &[]));
            write(&writer, packet).map_err(failed(file, "fill the pipe"))?;
            rest = behind;
        }
        mode(OFlag::empty()).map_err(failed(file, "leave packet mode"))?;
    }
    while !rest.is_empty() {
        let count = write(&writer, rest).map_err(failed(file, "fill the pipe"))?;
        rest = &rest[count..];
    }
    Ok(PipeEnds { path: String::new(), reader: Some(reader), writer: Some(writer) })
}

/// Ends that no file of the image wants must go at once, or the pipe would never end (or never break).
fn drop_unwanted_ends(maker: &mut Maker<'_>, index: usize) {
    let wants = |mode: i32| {
        maker
            .image
            .files
            .iter()
            .any(|file| file.kind.pipe() == Some(index) && file.flags as i32 & libc::O_ACCMODE == mode)
    };
    let (reads, writes) = (wants(libc::O_RDONLY), wants(libc::O_WRONLY));
    if let Some(made) = maker.pipes.get_mut(&index) {
        made.reader = made.reader.take().filter(|_| reads);
        made.writer = made.writer.take().filter(|_| writes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{captured, moved, quiet, status_flags};
    use super::*;
    use nix::unistd::pipe;

    fn read_all(fd: &OwnedFd) -> Vec<u8> {
        let mut data = vec![0; 1 << 20];
        let count = read_fd(fd, &mut data).unwrap();
        data.truncate(count);
        data
    }

    #[test]
    fn data_capacity_and_flags_travel_and_the_source_keeps_its_own() {
        let _quiet = quiet();
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(8192 * 16)).unwrap();
        for piece in 0..16_u8 {
            write(&writer, &[piece; 300]).unwrap();
        }
        let (image, made) = moved(&[&reader, &writer]);
        assert_eq!(image.pipes[0].capacity, 8192 * 16);
        assert_eq!(fcntl(&made[0], FcntlArg::F_GETPIPE_SZ).unwrap(), 8192 * 16);
        let expected: Vec<u8> = (0..16_u8).flat_map(|piece| [piece; 300]).collect();
        assert_eq!(read_all(&made[0]), expected);
        assert_eq!(read_all(&reader), expected);
        assert_eq!(read_fd(&made[0], &mut [0; 1]), Err(Errno::EAGAIN));
        assert_eq!(status_flags(&made[1]) & libc::O_NONBLOCK, 0);
        write(&made[1], b"on").unwrap();
        assert_eq!(read_all(&made[0]), b"on");
    }

    #[test]
    fn packets_keep_their_boundaries() {
        let _quiet = quiet();
        let whole = [8; 4096];
        let all: [&[&[u8]]; 4] = [&[b"a"], &[b"abc", b"de", b"f"], &[&whole, b"x"], &[&whole[..]; 16]];
        for packets in all {
            for behind in [&b""[..], b"bytes"] {
                let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_DIRECT).unwrap();
                for packet in packets {
                    write(&writer, packet).unwrap();
                }
                fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
                let behind = &behind[..write(&writer, behind).unwrap_or(0)];
                let (image, made) = moved(&[&reader, &writer]);
                assert_eq!(image.pipes[0].packets.len(), packets.len());
                for reader in [&reader, &made[0]] {
                    for packet in packets {
                        assert!(read_all(reader) == *packet);
                    }
                    let mut rest = [0; 9];
                    let got = read_fd(reader, &mut rest).unwrap_or(0);
                    assert_eq!(&rest[..got], behind);
                }
            }
        }
    }

    #[test]
    fn packets_behind_bytes_are_refused() {
        let _quiet = quiet();
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        write(&writer, &[1; 4096]).unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_DIRECT)).unwrap();
        write(&writer, b"packet").unwrap();
        assert_eq!(content(&reader, 65536).unwrap().packets, None);
    }

    #[test]
    fn a_full_pipe_travels() {
        let _quiet = quiet();
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        while write(&writer, &[7; 4096]).is_ok() {}
        let (_, made) = moved(&[&reader, &writer]);
        assert_eq!(write(&made[1], b"x"), Err(Errno::EAGAIN));
        assert_eq!(read_all(&made[0]).len(), 65536);
    }

    #[test]
    fn closed_ends_stay_closed() {
        let _quiet = quiet();
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        write(&writer, b"last words").unwrap();
        drop(writer);
        let (_, made) = moved(&[&reader]);
        assert_eq!(read_all(&made[0]), b"last words");
        assert_eq!(read_fd(&made[0], &mut [0; 1]), Ok(0));

        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        drop(reader);
        let (_, made) = moved(&[&writer]);
        assert_eq!(write(&made[0], b"x"), Err(Errno::EPIPE));
    }

    #[test]
    fn an_end_opened_twice_is_two_files_and_a_dup_is_one() {
        let _quiet = quiet();
        let (reader, writer) = pipe().unwrap();
        let again = open(
            format!("/proc/self/fd/{}", reader.as_raw_fd()).as_str(),
            OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        let twin = writer.try_clone().unwrap();
        let image = captured(&[&reader, &writer, &again, &twin]);
        assert_eq!((image.slots().count(), image.files.len(), image.pipes.len()), (4, 3, 1));
        let (_, made) = moved(&[&reader, &again, &writer]);
        write(&made[2], b"ab").unwrap();
        assert_eq!(read_fd(&made[0], &mut [0; 1]), Ok(1));
        assert_eq!(read_fd(&made[1], &mut [0; 1]), Ok(1));
        assert_eq!(status_flags(&made[0]) & libc::O_NONBLOCK, 0);
        assert_ne!(status_flags(&made[1]) & libc::O_NONBLOCK, 0);
    }
}
