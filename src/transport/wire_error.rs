//! What can go wrong on a [`Wire`](super::wire::Wire): the connection, a frame, a message, or its use.

use quinn::{ConnectionError, ReadError, WriteError};

use super::frame::FrameError;

/// What can go wrong on a wire.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream was not opened.
    #[error("cannot open the stream")]
    Open(#[source] ConnectionError),
    /// A header that is none, or a body that its kind does not allow.
    #[error("bad frame")]
    Frame(#[from] FrameError),
    /// Reading failed, mostly because the connection is gone.
    #[error("cannot receive")]
    Read(#[from] ReadError),
    /// Writing failed, mostly because the connection is gone.
    #[error("cannot send")]
    Write(#[from] WriteError),
    /// The other side finished between two frames.
    #[error("the other side ended the stream")]
    Ended,
    /// The other side finished inside a body.
    #[error("frame of kind {kind} was cut short, {left} bytes are missing")]
    CutShort {
        /// The frame's kind.
        kind: u16,
        /// How much did not come.
        left: usize,
    },
    /// A message has no encoding.
    #[error("cannot encode the message of kind {kind}")]
    Encode {
        /// The frame's kind.
        kind: u16,
        /// What the encoder said.
        source: postcard::Error,
    },
    /// A body is no message of the expected type.
    #[error("cannot decode the message of kind {kind}")]
    Decode {
        /// The frame's kind.
        kind: u16,
        /// What the decoder said.
        source: postcard::Error,
    },
    /// A frame is none of the messages that can come here.
    #[error("a frame of kind {kind} out of turn")]
    OutOfTurn {
        /// The frame's kind.
        kind: u16,
    },
    /// A body goes on after its message.
    #[error("{extra} bytes follow the message of kind {kind}")]
    Trailing {
        /// The frame's kind.
        kind: u16,
        /// How many.
        extra: usize,
    },
    /// A frame was given up half-way, nothing that follows can be read.
    #[error("an earlier frame was given up half-way")]
    Torn,
    /// A header was asked for while a body waits.
    #[error("{left} bytes of a frame of kind {kind} have not been taken")]
    BodyPending {
        /// The frame's kind.
        kind: u16,
        /// How many.
        left: usize,
    },
    /// A body was asked for without a header.
    #[error("no frame has begun")]
    NoBody,
}
