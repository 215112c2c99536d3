//! The holder's end of a lane: a greeting that says which one it is, then frames, over a socket that does not block.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use bytes::{Buf as _, Bytes, BytesMut};

use super::relay::Greeting;
use crate::transport::frame::Header;
use crate::transport::lane::{FromHolder, FromSource};
use crate::transport::message::WireMessage as _;
use crate::transport::protocol::{PAGES_MAX, cap, kind};
use crate::transport::{Frame, FrameError};

/// Read at once.
const CHUNK: usize = 2 * PAGES_MAX;

/// A connection that has not said yet which lane it is.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) stream: UnixStream,
    said: Vec<u8>,
}

impl Guest {
    /// Of a stream that does not block.
    pub(super) fn new(stream: UnixStream) -> Self {
        Guest { stream, said: Vec::new() }
    }

    /// The greeting, if it is there: its length, then itself. Nothing of what follows is read.
    pub(super) fn listen(&mut self) -> std::io::Result<Option<Greeting>> {
        loop {
            let want = match self.said.first_chunk::<4>() {
                None => 4,
                Some(len) => 4 + (u32::from_le_bytes(*len) as usize).min(1024),
            };
            if self.said.len() == want {
                return postcard::from_bytes(&self.said[4..]).map(Some).map_err(std::io::Error::other);
            }
            let mut more = vec![0; want - self.said.len()];
            match self.stream.read(&mut more) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.said.extend_from_slice(&more[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

/// One lane. An error of any call means that it is broken.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) stream: UnixStream,
    incoming: BytesMut,
    /// Where it is read into.
    chunk: Vec<u8>,
    outgoing: BytesMut,
    ended: bool,
}

impl Lane {
    /// Of a stream that does not block.
    pub(super) fn new(stream: UnixStream) -> Self {
        Lane {
            stream,
            incoming: BytesMut::new(),
            chunk: vec![0; CHUNK],
            outgoing: BytesMut::new(),
            ended: false,
        }
    }

    /// Reads what is there. False: the other end is closed, and nothing whole is left.
    pub(super) fn fill(&mut self) -> std::io::Result<()> {
        if self.incoming.len() >= CHUNK {
            return Ok(());
        }
        match self.stream.read(&mut self.chunk) {
            Ok(0) => self.ended = true,
            Ok(n) => self.incoming.extend_from_slice(&self.chunk[..n]),
            Err(e) if e.kind() != ErrorKind::WouldBlock && e.kind() != ErrorKind::Interrupted => {
                return Err(e);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the other end is closed.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether a whole frame is there.
    pub(super) fn has_frame(&self) -> bool {
        let header = Header::decode(&self.incoming, lane_cap);
        header.is_ok_and(|h| self.incoming.len() >= Header::LEN + h.len as usize)
    }

    /// The next frame that is there as a whole.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.incoming.len() < Header::LEN {
            return Ok(None);
        }
        let header = Header::decode(&self.incoming, lane_cap)?;
        let len = header.len as usize;
        if self.incoming.len() < Header::LEN + len {
            return Ok(None);
        }
        self.incoming.advance(Header::LEN);
        let body: Bytes = self.incoming.split_to(len).freeze();
        Ok(Some(Frame { kind: header.kind, body }))
    }

    /// Queues a message and sends what the socket takes.
    pub(super) fn say(&mut self, message: &FromHolder) -> std::io::Result<()> {
        let Frame { kind, body } = Frame::of(message).map_err(std::io::Error::other)?;
        let header = Header::new(kind, body.len(), FromHolder::cap).map_err(std::io::Error::other)?;
        self.outgoing.extend_from_slice(&header.encode());
        self.outgoing.extend_from_slice(&body);
        self.flush()
    }

    /// Sends what is queued, as far as the socket takes it.
    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(n) => self.outgoing.advance(n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether something waits to be sent.
    pub(super) fn is_full(&self) -> bool {
        !self.outgoing.is_empty()
    }
}

/// What a source may send on a lane.
fn lane_cap(frame: u16) -> Option<u32> {
    match frame {
        kind::LAZY_PAGES => cap(frame),
        _ => FromSource::cap(frame),
    }
}
