//! A token going round through pipes between threads: each member reads it from one pipe, adds
//! one, and writes it to the next. The first paces it and checks that no hop was lost or doubled.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use super::board::Board;

const MEMBERS: u64 = 3;
const PAUSE: Duration = Duration::from_millis(1);

/// A member of the ring, to be given a thread of its own.
pub(super) struct Member {
    leads: bool,
    from: PipeReader,
    to: PipeWriter,
}

/// The ring of members, its pipes made.
pub(super) fn ring() -> io::Result<Vec<Member>> {
    let (last_reader, first_writer) = io::pipe()?;
    let mut members = vec![];
    let mut from = last_reader;
    for _ in 1..MEMBERS {
        let (next, to) = io::pipe()?;
        members.push(Member { leads: false, from, to });
        from = next;
    }
    members.push(Member { leads: true, from, to: first_writer });
    Ok(members)
}

impl Member {
    /// Passes the token on until told to stop (the leader) or until the ring is broken (the others).
    pub(super) fn keep_passing(mut self, board: &Board) {
        let end = if self.leads { self.lead(board) } else { self.follow() };
        if let Err(error) = end {
            board.fail(format!("pipe: {error}"));
        }
    }

    fn lead(&mut self, board: &Board) -> io::Result<()> {
        let mut token = 0;
        while !board.stopping() {
            thread::sleep(PAUSE);
            self.send(token + 1)?;
            let back = self.receive()?.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?;
            if back != token + MEMBERS {
                board.fail(format!("pipe: the token came back as {back} and not {}", token + MEMBERS));
            }
            token = back;
            board.hops.fetch_add(MEMBERS, Relaxed);
        }
        Ok(())
    }

    fn follow(&mut self) -> io::Result<()> {
        while let Some(token) = self.receive()? {
            match self.send(token + 1) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                sent => sent?,
            }
        }
        Ok(())
    }

    /// Not `read_exact`: it would hide an interrupted call, which a program without signal handlers
    /// must never see.
    fn receive(&mut self) -> io::Result<Option<u64>> {
        let mut bytes = [0; 8];
        match self.from.read(&mut bytes)? {
            0 => Ok(None),
            8 => Ok(Some(u64::from_ne_bytes(bytes))),
            short => Err(io::Error::other(format!("{short} of 8 bytes"))),
        }
    }

    fn send(&mut self, token: u64) -> io::Result<()> {
        match self.to.write(&token.to_ne_bytes())? {
            8 => Ok(()),
            short => Err(io::Error::other(format!("wrote {short} of 8 bytes"))),
        }
    }
}
