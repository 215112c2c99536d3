//! A lane between QUIC and the holder: bytes, unread. Whatever breaks, both ends see their stream end, and the source opens
//! the lane anew.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;

use super::{directory, is_plain};
use crate::transport::lane::LaneKind;
use crate::transport::{Fingerprint, Wire};

/// Chunks of a QUIC stream passed on at once.
const CHUNKS: usize = 128;

/// First on the holder's socket.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Greeting {
    pub(super) lane: LaneKind,
    /// The key of the source.
    pub(super) peer: String,
}

/// Connects to a holder. The path may be longer than a socket's address allows: it is reached through its directory.
pub async fn reach(home: &Path, id: &str) -> io::Result<UnixStream> {
    if !is_plain(id) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such migration"));
    }
    let dir = std::fs::File::open(directory(home))?;
    UnixStream::connect(format!("/proc/self/fd/{}/{id}.sock", dir.as_raw_fd())).await
}

/// Passes bytes on until one of the ends closes. The frame that asked for it has been read from `wire` already.
pub async fn relay(mut holder: UnixStream, lane: LaneKind, peer: Fingerprint, wire: Wire) -> io::Result<()> {
    let greeting =
        postcard::to_stdvec(&Greeting { lane, peer: peer.to_string() }).map_err(io::Error::other)?;
    holder.write_all(&(greeting.len() as u32).to_le_bytes()).await?;
    holder.write_all(&greeting).await?;
    let (mut send, mut recv) = wire.into_streams();
    let (mut from_holder, mut to_holder) = holder.into_split();
    let inward = async {
        let mut chunks = vec![Bytes::new(); CHUNKS];
        while let Some(n) = recv.read_chunks(&mut chunks).await? {
            write_all(&mut to_holder, &chunks[..n]).await?;
        }
        Ok::<_, io::Error>(())
    };
    let outward = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from_holder.read(&mut buffer).await? {
                0 => return Ok::<_, io::Error>(()),
                n => send.write_all(&buffer[..n]).await?,
            }
        }
    };
    tokio::select! {
        done = inward => done?,
        done = outward => done?,
    }
    let _ = send.finish();
    // what the holder said last may be under way
    let _ = tokio::time::timeout(Duration::from_secs(2), send.stopped()).await;
    Ok(())
}

/// In as few calls as the socket allows: each packet that arrived is a chunk of its own.
async fn write_all(to: &mut OwnedWriteHalf, chunks: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match to.write_vectored(rest).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => IoSlice::advance_slices(&mut rest, n),
        }
    }
    Ok(())
}
