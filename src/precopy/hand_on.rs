//! The stopped copy at the source once its process runs at the target: what it is signalled goes there, what it holds is freed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MigrateError;
use super::destination::{Destination, out_of_turn};
use super::options::Options;
use crate::handover::journal::signals_file;
use crate::image::memory::Layout;
use crate::image::process::LateSignal;
use crate::image::{FIRST, Note};
use crate::preload::PreloadError;
use crate::preload::capture::Captive;
use crate::preload::late_signals::Accounts;
use crate::preload::lazy;
use crate::transport::lane::LazyRange;
use crate::transport::protocol::{ToSource, ToTarget};

/// Signals in one message.
const SOME: usize = 4096;

/// What `ulpm recover` is left of a move's signals, should we end. Written without waiting for the disk: if the host goes down, so
/// does the copy.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Left {
    /// Of the copy, which is still there.
    pub accounts: Option<Accounts>,
    taken: u32,
    waiting: Vec<LateSignal>,
}

impl Left {
    /// Of this migration; `None`: nothing is known.
    pub(crate) fn read(dir: &Path, id: &str) -> Option<Self> {
        std::fs::read(signals_file(dir, id)).ok().and_then(|text| serde_json::from_slice(&text).ok())
    }
}

/// Signals on their way to the process at the target.
#[derive(Debug)]
pub(crate) struct Signals {
    home: PathBuf,
    id: String,
    /// So many are queued there.
    taken: u32,
    /// To be sent, in order.
    waiting: Vec<LateSignal>,
}

impl Signals {
    /// Of this migration.
    pub(crate) fn of(options: &Options, id: &str) -> Self {
        Self::resume(&options.home, id, None)
    }

    /// Those that a move has left.
    pub(crate) fn resume(home: &Path, id: &str, left: Option<Left>) -> Self {
        let (taken, waiting) = left.map(|left| (left.taken, left.waiting)).unwrap_or_default();
        Signals { home: home.to_owned(), id: id.to_owned(), taken, waiting }
    }

    /// Leaves word of them. A target that has taken some of them already passes over those.
    pub(crate) fn note(&self, accounts: Option<Accounts>) {
        let left = Left { accounts, taken: self.taken, waiting: self.waiting.clone() };
        let file = signals_file(&self.home.join("journal"), &self.id);
        let written = serde_json::to_vec(&left).map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|text| std::fs::write(file, text)) {
            tracing::info!(%error, "no word is left of the signals under way");
        }
    }

    /// Sends these, after those that could not be sent before. `captive`: the copy, if it is still there.
    pub(crate) fn send(
        &mut self,
        to: Option<&mut dyn Destination>,
        signals: Vec<LateSignal>,
        captive: Option<&Captive>,
    ) {
        tracing::debug!(signals = signals.len(), waiting = self.waiting.len(), "signals to hand on");
        if !signals.is_empty() {
            self.waiting.extend(signals);
            self.note(captive.and_then(Captive::accounts));
        }
        if let Some(to) = to
            && let Err(error) = self.send_by(to)
        {
            tracing::info!(%error, waiting = self.waiting.len(), "signals wait to be handed on");
        }
    }

    fn send_by(&mut self, to: &mut dyn Destination) -> Result<(), MigrateError> {
        while !self.waiting.is_empty() {
            let some = self.waiting[..self.waiting.len().min(SOME)].to_vec();
            let (first, count) = (self.taken, some.len());
            to.say(&ToTarget::Signals { id: self.id.clone(), of: FIRST, first, signals: some })?;
            let taken = match to.hear("handing signals on")? {
                ToSource::SignalsTaken(taken) => taken.saturating_sub(first) as usize,
                other => return Err(out_of_turn(&other)),
            };
            let taken = taken.min(count);
            self.waiting.drain(..taken);
            self.taken += taken as u32;
            if taken < count {
                return Err(MigrateError::Nonsense("signals that it cannot queue".to_owned()));
            }
        }
        Ok(())
    }

    /// Sends what is left, in a conversation begun anew if need be, and says what could not be.
    pub(crate) fn finish(mut self, to: &mut dyn Destination) -> Option<Note> {
        self.send(Some(to), Vec::new(), None);
        if !self.waiting.is_empty() {
            match to.reconnect() {
                Ok(()) => self.send(Some(to), Vec::new(), None),
                Err(error) => {
                    tracing::info!(error = %crate::sys::chain(&error), "signals cannot be handed on")
                }
            }
        }
        let lost = self.waiting.len();
        (lost > 0).then(|| {
            tracing::warn!(lost, "signals to the process could not be handed on");
            Note::new(
                "signals",
                format!("{lost} that came while it moved could not be handed on to the target"),
            )
        })
    }
}

impl Signals {
    /// Signals that have not been handed on.
    pub(crate) fn waiting(&self) -> &[LateSignal] {
        &self.waiting
    }

    /// More of them.
    pub(crate) fn add(&mut self, signals: Vec<LateSignal>) {
        self.waiting.extend(signals);
    }
}

/// The stopped copy, while memory still follows from it.
#[derive(Debug)]
pub(crate) struct Copy<'c> {
    captive: &'c mut Captive,
    layout: Layout,
    /// `--release-source`: whether its memory can be freed.
    freeing: Option<Result<(), PreloadError>>,
    signals: &'c mut Signals,
}

impl<'c> Copy<'c> {
    /// `release`: what has arrived at the target is freed here.
    pub(crate) fn new(
        captive: &'c mut Captive,
        signals: &'c mut Signals,
        layout: Layout,
        release: bool,
    ) -> Self {
        // also that its plain signals can be taken out of the queue
        let retired = captive.retire();
        if let Err(error) = &retired {
            tracing::info!(error = %crate::sys::chain(error), "the stopped copy stays as it is");
        }
        let freeing = release.then_some(retired);
        Copy { captive, layout, freeing, signals }
    }
}

/// What is done with the stopped copy while its memory follows.
pub(crate) trait Tended {
    /// These pages are at the target for good.
    fn arrived(&mut self, ranges: &[LazyRange]);
    /// Several times a second; `to`: the conversation of the move, as long as it holds.
    fn meanwhile(&mut self, to: Option<&mut dyn Destination>);
}

/// A copy that nobody traces: it is left alone.
impl Tended for () {
    fn arrived(&mut self, _: &[LazyRange]) {}

    fn meanwhile(&mut self, _: Option<&mut dyn Destination>) {}
}

impl Tended for Copy<'_> {
    /// What cannot be freed stays until the end.
    fn arrived(&mut self, ranges: &[LazyRange]) {
        let Some(done) = &mut self.freeing else { return };
        if done.is_ok() {
            *done = self.captive.free(&lazy::freeing(&self.layout, ranges));
        }
        if let Err(error) = done {
            tracing::info!(error = %crate::sys::chain(error), "memory of the stopped copy is not freed");
        }
    }

    fn meanwhile(&mut self, to: Option<&mut dyn Destination>) {
        let found = self.captive.signalled_meanwhile();
        if !found.is_empty() || to.is_some() {
            self.signals.send(to, found, Some(&*self.captive));
        }
    }
}
