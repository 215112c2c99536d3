//! Targets of another version of ulpm: told apart by the handshake (ALPN) when the transport has changed, by the hello
//! when what is said on it has.

use anyhow::Result;
use libtest_mimic::Trial;
use tokio::runtime::Runtime;
use ulpm::transport::hello;
use ulpm::transport::protocol::{Hello, PROTOCOL_VERSION, ToSource, cap, kind};
use ulpm::transport::{Identity, Listener, TrustStore, accept_wire, tls};

use super::trial;
use super::victims::Victim;
use crate::lab::{Lab, PORT};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("refuse other protocol", &[], other_protocol),
        trial("refuse other version in the hello", &[], other_hello),
    ]
}

fn other_protocol(lab: &mut Lab) -> Result<()> {
    let _server = serve(lab, b"ulpm/2", hello::ours())?;
    let victim = Victim::start(lab, "threads")?;
    let outcome = lab.live("a", victim.pid, "b", &[])?;
    outcome.refused(1, &["does not speak ulpm/1", "same version", "not touched"])?;
    victim.check_running(lab)?;
    victim.finish()
}

fn other_hello(lab: &mut Lab) -> Result<()> {
    let newer = Hello { protocol: PROTOCOL_VERSION + 1, program: "9.9.9".to_owned(), ..hello::ours() };
    let _server = serve(lab, tls::ALPN, newer)?;
    let victim = Victim::start(lab, "threads")?;
    let outcome = lab.live("a", victim.pid, "b", &[])?;
    let version = format!("protocol version {}", PROTOCOL_VERSION + 1);
    outcome.refused(1, &[&version, "9.9.9", "same version", "not touched"])?;
    victim.check_running(lab)?;
    victim.finish()
}

/// A target in host `b`, as trusted as the real one, that answers any first message with this hello. It ends with
/// the runtime.
fn serve(lab: &Lab, alpn: &[u8], hello: Hello) -> Result<Runtime> {
    lab.trust("a", "b")?;
    lab.trust("b", "a")?;
    let home = lab.host("b").home().join("ulpm");
    let identity = Identity::load_or_create(&home)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let address = ([0, 0, 0, 0], PORT).into();
    let bind = async { Listener::bind_speaking(&identity, TrustStore::new(&home), address, alpn) };
    let mut listener = lab.host("b").in_network(|| runtime.block_on(bind))??;
    runtime.spawn(async move {
        while let Some(peer) = listener.accept().await {
            let Ok(peer) = peer else { continue };
            let Ok(mut wire) = accept_wire(&peer.connection, cap).await else { continue };
            if wire.recv.recv().await.is_ok() {
                // If the source has gone, the trial finds what it said.
                let _ = wire.send.send_msg(kind::CONTROL, &ToSource::Hello(hello.clone())).await;
            }
            peer.connection.closed().await;
        }
    });
    Ok(runtime)
}
