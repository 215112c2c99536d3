//! The test's end of the command channel of a machine: questions from any thread, answers as they come.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::wire::{Answer, Answered, Asked, HELLO, Request, receive, send};

/// Who waits for the answer of that number; nobody can wait any more once the machine has gone.
type Waiting = Arc<Mutex<Option<BTreeMap<u32, Sender<Result<Answer, String>>>>>>;

/// A connection to an agent.
#[derive(Debug)]
pub(super) struct Channel {
    stream: Mutex<UnixStream>,
    waiting: Waiting,
    last: AtomicU32,
}

impl Channel {
    /// Speaks over this socket from now on; the second is for the agent's `HELLO`.
    pub(super) fn over(stream: UnixStream) -> Result<(Self, Hello)> {
        let (hello, heard) = channel();
        let waiting: Waiting = Arc::new(Mutex::new(Some(BTreeMap::from([(HELLO, hello)]))));
        let (mut from, theirs) = (stream.try_clone()?, Arc::clone(&waiting));
        thread::Builder::new().name("answers".to_owned()).spawn(move || hand_on(&mut from, &theirs))?;
        Ok((Self { stream: Mutex::new(stream), waiting, last: AtomicU32::new(HELLO) }, Hello(heard)))
    }

    /// Asks and waits for the answer, which takes as long as the request does.
    pub(super) fn ask(&self, request: Request) -> Result<Answer> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (answers, answer) = channel();
        match self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(waiting) => waiting.insert(number, answers),
            None => bail!("the machine has gone"),
        };
        {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            send(&mut *stream, &Asked { number, request }).context("the machine has gone")?;
        }
        let answer = answer.recv().context("the machine has gone")?;
        answer.map_err(anyhow::Error::msg)
    }
}

/// The agent's first word, yet to come.
#[derive(Debug)]
pub(super) struct Hello(Receiver<Result<Answer, String>>);

impl Hello {
    /// Waits for it; `false` if it has not come by then.
    pub(super) fn heard(&self, patience: Duration) -> Result<bool> {
        match self.0.recv_timeout(patience) {
            Ok(_) => Ok(true),
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => bail!("the machine has gone before it was ready"),
        }
    }
}

/// Gives each answer to the one who waits for it, until the machine has gone; then nobody waits any longer.
fn hand_on(from: &mut UnixStream, waiting: &Waiting) {
    let end = loop {
        let answered: io::Result<Answered> = receive(from);
        let Answered { number, answer } = match answered {
            Ok(answered) => answered,
            Err(error) => break error,
        };
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = waiting.as_mut().and_then(|waiting| waiting.remove(&number)) {
            // Whoever asked may have failed meanwhile.
            let _ = asker.send(answer);
        }
    };
    if end.kind() == io::ErrorKind::InvalidData {
        eprintln!("the channel of a machine: {end}");
    }
    *waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
}
