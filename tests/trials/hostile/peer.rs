//! Peers that speak the real protocol with a trusted key, and lie: a source against the real `ulpm serve`, and a target
//! against the real `ulpm live`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use quinn::Connection;
use tokio::runtime::Runtime;
use ulpm::precopy::session::look;
use ulpm::state::files::FilesOptions;
use ulpm::sys::time::ClockOffsets;
use ulpm::transport::hello;
use ulpm::transport::message::WireMessage as _;
use ulpm::transport::protocol::{Description, PidChoice, ToSource, ToTarget, cap};
use ulpm::transport::{
    Connected, Frame, Identity, Listener, TrustStore, Wire, accept_wire, connect, open_wire, tls,
};

use crate::lab::{Lab, PORT};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A source in host `a`.
pub(in crate::trials) struct Source {
    runtime: Runtime,
    connected: Option<Connected>,
    wire: Option<Wire>,
}

impl Source {
    /// Connects, and says nothing.
    pub(in crate::trials) fn connect(lab: &Lab) -> Result<Self> {
        Self::connect_as(lab, &Identity::load_or_create(&lab.host("a").home().join("ulpm"))?)
    }

    pub(in crate::trials) fn connect_as(lab: &Lab, identity: &Identity) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let trust = TrustStore::new(lab.host("a").home().join("ulpm"));
        let address = lab.address("b").parse()?;
        let dial = async { connect(identity, &trust, &address, PATIENCE).await };
        let connected = lab.host("a").in_network(|| runtime.block_on(dial))??;
        Ok(Self { runtime, connected: Some(connected), wire: None })
    }

    /// Connects and says hello.
    pub(in crate::trials) fn greet(lab: &Lab) -> Result<Self> {
        let mut source = Self::connect(lab)?;
        source.say(&ToTarget::Hello(hello::ours()))?;
        match source.hear()? {
            ToSource::Hello(_) => Ok(source),
            other => bail!("no hello: {other:?}"),
        }
    }

    pub(in crate::trials) fn connection(&self) -> Result<Connection> {
        Ok(self.connected.as_ref().context("closed")?.connection.clone())
    }

    fn wire(&mut self) -> Result<&mut Wire> {
        if self.wire.is_none() {
            let connection = self.connection()?;
            self.wire = Some(self.runtime.block_on(open_wire(&connection, |_| Some(u32::MAX)))?);
        }
        self.wire.as_mut().context("no wire")
    }

    pub(in crate::trials) fn say(&mut self, message: &ToTarget) -> Result<()> {
        let Frame { kind, body } = Frame::of(message)?;
        self.frame(kind, &body)
    }

    pub(in crate::trials) fn frame(&mut self, kind: u16, body: &[u8]) -> Result<()> {
        self.wire()?;
        let Self { runtime, wire: Some(wire), .. } = self else { bail!("no wire") };
        let sent =
            runtime.block_on(async { tokio::time::timeout(PATIENCE, wire.send.send(kind, body)).await });
        Ok(sent.context("the target does not read")??)
    }

    /// Bytes on a stream of frames, whatever they are.
    pub(in crate::trials) fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        let connection = self.connection()?;
        self.runtime.block_on(async {
            let (mut send, _recv) = connection.open_bi().await?;
            send.write_all(bytes).await?;
            // not finished: there might be more
            tokio::time::sleep(Duration::from_millis(50)).await;
            std::mem::forget(send);
            Ok(())
        })
    }

    pub(in crate::trials) fn hear(&mut self) -> Result<ToSource> {
        let Self { runtime, wire: Some(wire), .. } = self else { bail!("no wire") };
        let frame = runtime.block_on(async { tokio::time::timeout(PATIENCE, wire.recv.recv()).await });
        Ok(frame.context("the target is silent")??.message()?)
    }

    /// Whether the target gives the connection up within that time.
    pub(in crate::trials) fn is_given_up(&self, patience: Duration) -> Result<bool> {
        let connection = self.connection()?;
        Ok(self.runtime.block_on(async { tokio::time::timeout(patience, connection.closed()).await }).is_ok())
    }

    /// The target's last words.
    pub(in crate::trials) fn failure(&mut self) -> Result<String> {
        loop {
            match self.hear()? {
                ToSource::Failed(why) => return Ok(why),
                ToSource::RoundApplied(_) => {}
                other => bail!("it went on: {other:?}"),
            }
        }
    }

    /// Describes a process and goes on until the skeleton stands; gives its pid in host `b`.
    pub(in crate::trials) fn begin(&mut self, description: Description) -> Result<i32> {
        match self.describe(description)? {
            ToSource::Preflight { obstacles, .. } if obstacles.is_empty() => {}
            other => bail!("preflight: {other:?}"),
        }
        self.say(&ToTarget::Begin { difference: ClockOffsets::default() })?;
        match self.hear()? {
            ToSource::Ready { pids, .. } => pids.first().copied().context("no pid"),
            other => bail!("no skeleton: {other:?}"),
        }
    }

    pub(in crate::trials) fn describe(&mut self, description: Description) -> Result<ToSource> {
        self.say(&ToTarget::Describe(Box::new(description)))?;
        self.hear()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(connected) = self.connected.take() {
            self.runtime.block_on(connected.close("done"));
        }
    }
}

/// The true description of a process of host `a`, by its pid outside.
pub(super) fn description(outside: i32) -> Result<Description> {
    let options = FilesOptions::default();
    let described =
        look(std::path::Path::new("/"), outside, &options, ulpm::dirty::Choice::Auto, Some(false))?;
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
    Ok(Description {
        id,
        tree: described.tree,
        pid_mode: PidChoice::Auto,
        verify: false,
        clocks: ClockOffsets::default(),
        time_namespace: false,
        lazy: false,
        only_asks: false,
    })
}

/// What a lying target does when it has heard a message.
pub(super) enum Act {
    Say(ToSource),
    Frame(u16, Vec<u8>),
    Hang,
}

/// A target in host `b`; ends when dropped.
pub(super) struct Target {
    _runtime: Runtime,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Target {
    /// `act` is asked for each message; `None` is the honest answer, as far as there is one.
    pub(super) fn serve(
        lab: &Lab,
        act: impl Fn(&ToTarget) -> Option<Act> + Send + Sync + 'static,
    ) -> Result<Self> {
        lab.trust("a", "b")?;
        lab.trust("b", "a")?;
        let home = lab.host("b").home().join("ulpm");
        let identity = Identity::load_or_create(&home)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let bind = async {
            Listener::bind_speaking(&identity, TrustStore::new(&home), ([0, 0, 0, 0], PORT).into(), tls::ALPN)
        };
        let mut listener = lab.host("b").in_network(|| runtime.block_on(bind))??;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = heard.clone();
        let act = Arc::new(act);
        runtime.spawn(async move {
            while let Some(peer) = listener.accept().await {
                let Ok(peer) = peer else { continue };
                let (act, notes) = (act.clone(), notes.clone());
                tokio::spawn(async move {
                    let Ok(wire) = accept_wire(&peer.connection, cap).await else { return };
                    // the source may end it at any point
                    let _ = converse(wire, &*act, &notes).await;
                    peer.connection.closed().await;
                });
            }
        });
        Ok(Self { _runtime: runtime, heard })
    }

    /// The names of the messages that it heard.
    pub(super) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn converse(
    mut wire: Wire,
    act: &(dyn Fn(&ToTarget) -> Option<Act> + Send + Sync),
    notes: &Mutex<Vec<String>>,
) -> Result<()> {
    loop {
        let frame = wire.recv.recv().await?;
        let Some(message) = ToTarget::read(&frame)? else { continue };
        let name: String = format!("{message:?}").chars().take_while(|c| c.is_alphanumeric()).collect();
        notes.lock().unwrap_or_else(PoisonError::into_inner).push(name);
        match act(&message).or_else(|| honest(&message).map(Act::Say)) {
            None => {}
            Some(Act::Say(answer)) => wire.send.send_msg(&answer).await?,
            Some(Act::Frame(kind, body)) => wire.send.send(kind, &body).await?,
            Some(Act::Hang) => std::future::pending::<()>().await,
        }
    }
}

/// What a target says that has no process to make.
fn honest(message: &ToTarget) -> Option<ToSource> {
    match message {
        ToTarget::Hello(_) => Some(ToSource::Hello(hello::ours())),
        ToTarget::Clock => Some(ToSource::Clock(1, 1)),
        ToTarget::Describe(_) => Some(ToSource::Preflight { obstacles: Vec::new(), notes: Vec::new() }),
        ToTarget::Begin { .. } => Some(ToSource::Ready { pids: vec![7], namespace: false }),
        ToTarget::RoundEnd(n) => Some(ToSource::RoundApplied(*n)),
        ToTarget::State(..) => Some(ToSource::Prepared { apply_ms: 1.0, verify_ms: 0.0, verified: false }),
        ToTarget::Settle(_) => Some(ToSource::Settled(None)),
        _ => None,
    }
}
