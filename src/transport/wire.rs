//! Frames over one bidirectional stream.
//!
//! A [`Wire`] is a [`WireSend`] and a [`WireRecv`], which may be taken apart and used from two tasks.
//! The side that opened the connection opens the stream with [`open_wire`]; QUIC tells the other side of
//! it only when something was written, so the opener speaks first and [`accept_wire`] waits for that.
//!
//! Receiving is cancel-safe: what has arrived is kept, and the next call goes on there. Sending a frame is
//! not: one that was dropped half-way leaves the wire [torn](WireError::Torn), which the next call says instead
//! of sending nonsense.

use bytes::{Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream, WriteError};

use super::frame::{FrameError, Header, KindCap};
use super::message::{Frame, WireMessage};

pub use super::wire_error::WireError;

/// Parts up to this size are gathered before they are handed to QUIC; larger ones go alone, because a
/// second copy would cost more than a second call.
const GATHER: usize = 16 * 1024;

/// Opens the stream; the caller writes first, or the other side never learns of it.
pub async fn open_wire(connection: &Connection, cap: KindCap) -> Result<Wire, WireError> {
    let (send, recv) = connection.open_bi().await.map_err(WireError::Open)?;
    Ok(Wire::new(send, recv, cap))
}

/// Waits for the stream that the other side opens.
pub async fn accept_wire(connection: &Connection, cap: KindCap) -> Result<Wire, WireError> {
    let (send, recv) = connection.accept_bi().await.map_err(WireError::Open)?;
    Ok(Wire::new(send, recv, cap))
}

/// Both directions of the stream.
#[derive(Debug)]
pub struct Wire {
    /// What goes out.
    pub send: WireSend,
    /// What comes in.
    pub recv: WireRecv,
}

impl Wire {
    /// Frames on the two halves of a stream; `cap` says how long each kind may be, in both directions.
    pub fn new(send: SendStream, recv: RecvStream, cap: KindCap) -> Self {
        Self { send: WireSend::new(send, cap), recv: WireRecv::new(recv, cap) }
    }

    /// The two halves, for two tasks.
    pub fn split(self) -> (WireSend, WireRecv) {
        (self.send, self.recv)
    }

    /// The bare streams, between two frames: what comes next is not frames to us.
    pub fn into_streams(self) -> (SendStream, RecvStream) {
        (self.send.stream, self.recv.stream)
    }

    /// See [`WireSend::send`].
    pub async fn send(&mut self, kind: u16, body: &[u8]) -> Result<(), WireError> {
        self.send.send(kind, body).await
    }

    /// See [`WireSend::send_msg`].
    pub async fn send_msg<M: WireMessage>(&mut self, message: &M) -> Result<(), WireError> {
        self.send.send_msg(message).await
    }

    /// See [`WireRecv::recv`].
    pub async fn recv(&mut self) -> Result<Frame, WireError> {
        self.recv.recv().await
    }

    /// Bytes sent and received, headers included.
    pub fn bytes(&self) -> (u64, u64) {
        (self.send.bytes(), self.recv.bytes())
    }
}

/// The half that sends.
#[derive(Debug)]
pub struct WireSend {
    stream: SendStream,
    cap: KindCap,
    bytes: u64,
    torn: bool,
}

impl WireSend {
    fn new(stream: SendStream, cap: KindCap) -> Self {
        Self { stream, cap, bytes: 0, torn: false }
    }

    /// Sends `body` as one frame.
    pub async fn send(&mut self, kind: u16, body: &[u8]) -> Result<(), WireError> {
        self.send_parts(kind, &[body]).await
    }

    /// Sends the parts, one after the other, as the body of one frame.
    pub async fn send_parts(&mut self, kind: u16, parts: &[&[u8]]) -> Result<(), WireError> {
        let len = parts.iter().map(|part| part.len()).sum();
        let header = self.begin(kind, len)?;
        let mut gathered = BytesMut::with_capacity(Header::LEN + len.min(GATHER));
        gathered.extend_from_slice(&header.encode());
        for part in parts {
            if part.len() > GATHER {
                self.stream.write_chunk(gathered.split().freeze()).await?;
                self.stream.write_all(part).await?;
            } else {
                gathered.extend_from_slice(part);
            }
        }
        if !gathered.is_empty() {
            self.stream.write_chunk(gathered.freeze()).await?;
        }
        self.done(len);
        Ok(())
    }

    /// Sends `prefix` and `data` as the body of one frame; `data` is handed to QUIC without a copy.
    pub async fn send_bytes(&mut self, kind: u16, prefix: &[u8], data: Bytes) -> Result<(), WireError> {
        let len = prefix.len() + data.len();
        let header = self.begin(kind, len)?;
        let mut head = BytesMut::with_capacity(Header::LEN + prefix.len());
        head.extend_from_slice(&header.encode());
        head.extend_from_slice(prefix);
        self.stream.write_all_chunks(&mut [head.freeze(), data]).await?;
        self.done(len);
        Ok(())
    }

    /// Sends `message` as one frame.
    pub async fn send_msg<M: WireMessage>(&mut self, message: &M) -> Result<(), WireError> {
        let kind = message.kind();
        // The header's place is kept free, so that header and body are one piece of memory.
        let mut buffer =
            message.write(vec![0; Header::LEN]).map_err(|source| WireError::Encode { kind, source })?;
        let len = buffer.len() - Header::LEN;
        buffer[..Header::LEN].copy_from_slice(&self.begin(kind, len)?.encode());
        self.stream.write_chunk(buffer.into()).await?;
        self.done(len);
        Ok(())
    }

    /// Says that nothing more comes, and waits until the other side has it all.
    pub async fn finish(mut self) -> Result<(), WireError> {
        if self.torn {
            return Err(WireError::Torn);
        }
        // It fails only on a stream that was finished or reset before; `stopped` says which.
        let _ = self.stream.finish();
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(WireError::Write(WriteError::Stopped(code))),
            Err(quinn::StoppedError::ConnectionLost(lost)) => {
                Err(WireError::Write(WriteError::ConnectionLost(lost)))
            }
            Err(quinn::StoppedError::ZeroRttRejected) => Err(WireError::Write(WriteError::ZeroRttRejected)),
        }
    }

    /// Bytes sent in whole frames, headers included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The header of the next frame; from here until [`done`](Self::done) the wire counts as torn.
    fn begin(&mut self, kind: u16, len: usize) -> Result<Header, WireError> {
        if self.torn {
            return Err(WireError::Torn);
        }
        let header = Header::new(kind, len, self.cap)?;
        self.torn = true;
        Ok(header)
    }

    fn done(&mut self, len: usize) {
        self.torn = false;
        self.bytes += (Header::LEN + len) as u64;
    }
}

/// The half that receives.
#[derive(Debug)]
pub struct WireRecv {
    stream: RecvStream,
    cap: KindCap,
    bytes: u64,
    /// What has arrived of the next header.
    head: [u8; Header::LEN],
    head_len: usize,
    /// The frame whose body is being received, and how much of it nobody has taken yet.
    open: Option<(Header, usize)>,
    /// What [`recv_body`](Self::recv_body) has gathered when it was dropped.
    body: BytesMut,
    body_len: usize,
}

impl WireRecv {
    fn new(stream: RecvStream, cap: KindCap) -> Self {
        let head = [0; Header::LEN];
        Self { stream, cap, bytes: 0, head, head_len: 0, open: None, body: BytesMut::new(), body_len: 0 }
    }

    /// The next frame, whole. [`WireError::Ended`] if the other side finished before it began.
    pub async fn recv(&mut self) -> Result<Frame, WireError> {
        let header = match self.open {
            Some((header, _)) => header,
            None => self.recv_header().await?,
        };
        Ok(Frame { kind: header.kind, body: self.recv_body().await? })
    }

    /// The next header, checked; its body must be taken before the next one.
    pub async fn recv_header(&mut self) -> Result<Header, WireError> {
        // An empty body need not be taken.
        if let Some((header, left)) = self.open.filter(|(_, left)| *left > 0) {
            return Err(WireError::BodyPending { kind: header.kind, left });
        }
        while self.head_len < Header::LEN {
            match self.stream.read(&mut self.head[self.head_len..]).await? {
                None if self.head_len == 0 => return Err(WireError::Ended),
                None => return Err(FrameError::Truncated { got: self.head_len }.into()),
                Some(n) => self.head_len += n,
            }
        }
        let header = Header::decode(&self.head, self.cap)?;
        self.head_len = 0;
        self.bytes += Header::LEN as u64;
        self.begin_body(header);
        Ok(header)
    }

    /// What is left of the current frame's body.
    pub async fn recv_body(&mut self) -> Result<Bytes, WireError> {
        let (header, left) = self.current()?;
        if self.body.is_empty() {
            self.body = BytesMut::zeroed(left);
            self.body_len = 0;
        }
        while self.body_len < self.body.len() {
            match self.stream.read(&mut self.body[self.body_len..]).await? {
                None => return Err(self.cut_short(header)),
                Some(n) => {
                    self.body_len += n;
                    self.took(n);
                }
            }
        }
        self.open = None;
        Ok(std::mem::take(&mut self.body).freeze())
    }

    /// From the next frame on these kinds and lengths are taken.
    pub fn set_cap(&mut self, cap: KindCap) {
        self.cap = cap;
    }

    /// Bytes received, headers included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn current(&self) -> Result<(Header, usize), WireError> {
        self.open.ok_or(WireError::NoBody)
    }

    fn begin_body(&mut self, header: Header) {
        self.open = Some((header, header.len as usize));
    }

    fn took(&mut self, n: usize) {
        self.bytes += n as u64;
        if let Some((_, left)) = &mut self.open {
            *left -= n;
        }
    }

    fn cut_short(&self, header: Header) -> WireError {
        let left = self.open.map_or(0, |(_, left)| left);
        WireError::CutShort { kind: header.kind, left }
    }
}
