//! What the tests and the agent in a machine say to each other, and how it is framed.
//!
//! ```text
//!   4 bytes, little endian     so many bytes
//!   length of the body         postcard of `Asked` (to the machine) or `Answered` (from it)
//! ```
//! A question carries a number and its answer the same one: a long command keeps no other one waiting. The agent
//! says `HELLO` once on its own when the machine is ready.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The number of the agent's first word, which answers no question.
pub(super) const HELLO: u32 = 0;
/// No file that is read or written through the channel is larger.
const LONGEST: usize = 64 << 20;
/// Where a machine's agent hears what processes say whose output is a socket.
pub(super) const EAR: u16 = 514;

/// A question and its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) number: u32,
    pub(super) request: Request,
}

/// The answer to the question of that number; the error is a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) number: u32,
    pub(super) answer: Result<Answer, String>,
}

/// What a machine can be asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Run a command to its end; kill its process group when the time is up.
    Run { command: Line, patience: Duration },
    /// Start a command in the background; answered by `Started`.
    Start { command: Line, output: Sink },
    /// Wait until a command that was started ends; `Ended` without outputs, or an error when the time is up.
    Wait { pid: i32, patience: Duration },
    /// Wait until one of the words was said or the process has ended; `Said` with all that was said.
    Until { place: Place, words: Vec<String>, pid: Option<i32>, patience: Duration },
    /// What a file holds from there on; nothing if it does not exist. `Bytes`.
    Read { path: String, from: u64 },
    /// Make a file.
    Write { path: String, content: Vec<u8> },
    /// Whether the pid is a process that has not ended.
    Alive { pid: i32 },
    /// End all processes but the agent, and forget what was said.
    Reset,
}

/// A command with what it adds to the environment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) argv: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
}

/// Where a background command's standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Sink {
    /// Into a file; so does its standard error.
    File,
    /// To the ear of whatever machine it is in, over a UDP socket: moved along with the process, which a file open
    /// for writing is not between machines that share no file system. Its standard error is `/dev/null`.
    Ear,
}

/// Where something is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// In files: standard output and standard error of a command, say.
    Files(Vec<String>),
    /// At the ear, from that port.
    Ear(u16),
}

/// What a machine answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Done; nothing to say.
    Done,
    Ended {
        /// The exit code; 128 + the signal if one killed it.
        exit: i32,
        stdout: Vec<u8>,
        stderr: Vec<u8>,
    },
    Started {
        pid: i32,
        place: Place,
    },
    Said(String),
    Bytes(Vec<u8>),
    Alive(bool),
}

/// Sends a message.
pub(super) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend(body);
    to.write_all(&frame)?;
    to.flush()
}

/// Receives a message; `UnexpectedEof` when the other side has gone.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
