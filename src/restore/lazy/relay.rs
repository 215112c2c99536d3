//! A lane between QUIC and the holder: bytes, unread. Whatever breaks, both ends see their stream end, and the source opens
//! the lane anew.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{directory, is_plain};
use crate::transport::lane::LaneKind;
use crate::transport::{Fingerprint, Wire};

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
        while let Some(chunk) = recv.read_chunk(1 << 20, true).await? {
            to_holder.write_all(&chunk.bytes).await?;
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
