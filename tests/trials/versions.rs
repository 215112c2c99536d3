//! Peers of another version of ulpm: told apart by the handshake (ALPN) when the transport has changed, by the hello when what is said on
//! it has. Whichever side is the newer one, and whatever it says beside its version, nothing of it fails to be decoded.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use tokio::runtime::Runtime;
use ulpm::image::Obstacle;
use ulpm::transport::greeting::Hello;
use ulpm::transport::protocol::{PROTOCOL_VERSION, ToSource, ToTarget, cap};
use ulpm::transport::{Identity, Listener, TrustStore, accept_wire, hello, tls};

use super::hostile::peer::Source;
use super::trial;
use super::victims::Victim;
use crate::lab::{Lab, PORT};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("refuse other protocol", &[], other_protocol),
        trial("refuse other version in the hello", &[], other_target),
        trial("refuse a source of another version", &[], other_source),
        trial("versions may say more in the hello", &[], more),
    ]
}

/// Of a version that is not ours: a later one, that says what we cannot read; an earlier one.
fn others() -> [Hello; 2] {
    let about = [&[0xff; 12][..], b"what no version of today can read", &[0; 200]].concat();
    let other = |protocol, program: &str| Hello {
        protocol,
        program: program.to_owned(),
        about: about.clone(),
        ..hello::ours()
    };
    [other(PROTOCOL_VERSION + 1, "9.9.9"), other(PROTOCOL_VERSION - 1, "0.0.1")]
}

/// Of our version, in a build that knows more.
fn ours_and_more() -> Hello {
    let ours = hello::ours();
    Hello { about: [&ours.about[..], &[7; 1000]].concat(), ..ours }
}

fn other_protocol(lab: &mut Lab) -> Result<()> {
    let _server = serve(lab, b"ulpm/1", hello::ours())?;
    let victim = Victim::start(lab, "threads")?;
    let outcome = lab.live("a", victim.pid, "b", &[])?;
    outcome.refused(1, &["does not speak ulpm/2", "same version", "not touched"])?;
    victim.check_running(lab)?;
    victim.finish()
}

fn other_target(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "threads")?;
    for other in others() {
        let version = format!("protocol version {}, ours is {PROTOCOL_VERSION}", other.protocol);
        let there = format!("ulpm {} there, {} here", other.program, hello::ours().program);
        let server = serve(lab, tls::ALPN, other)?;
        let outcome = lab.live("a", victim.pid, "b", &[])?;
        outcome.refused(1, &[&version, &there, "install the same version", "not touched"])?;
        drop(server);
    }
    victim.check_running(lab)?;
    victim.finish()
}

fn other_source(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    for other in others() {
        let mut source = Source::connect(lab)?;
        source.say(&ToTarget::Hello(other.clone()))?;
        // it learns with whom it speaks before it is told that this will not do
        let ToSource::Hello(theirs) = source.hear()? else { bail!("no hello") };
        ensure!(theirs == Hello { about: theirs.about.clone(), ..hello::ours() }, "{theirs:?}");
        let why = source.failure()?;
        let version = format!("protocol version {}, ours is {PROTOCOL_VERSION}", other.protocol);
        for words in [&version, &format!("ulpm {} there", other.program), "install the same version"] {
            ensure!(why.contains(words), "{words:?} is not in {why:?}");
        }
        ensure!(source.is_given_up(Duration::from_secs(20))?, "it went on");
    }
    let mut source = Source::greet(lab)?;
    source.say(&ToTarget::Clock)?;
    ensure!(matches!(source.hear()?, ToSource::Clock(..)), "ulpm serve does not go on");
    Ok(())
}

/// Fields that the other side does not know are no reason not to talk.
fn more(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "threads")?;
    let server = serve(lab, tls::ALPN, ours_and_more())?;
    lab.live("a", victim.pid, "b", &[])?.refused(3, &["the room", "is not ready"])?;
    drop(server);
    victim.check_running(lab)?;
    victim.finish()?;
    lab.serve("b")?;
    let mut source = Source::connect(lab)?;
    source.say(&ToTarget::Hello(ours_and_more()))?;
    ensure!(matches!(source.hear()?, ToSource::Hello(_)), "no hello");
    source.say(&ToTarget::Clock)?;
    ensure!(matches!(source.hear()?, ToSource::Clock(..)), "a source that says more is not heard");
    Ok(())
}

/// A target in host `b`, as trusted as the real one, that says this hello, and has an obstacle for whoever accepts that. It ends with the
/// runtime.
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
            // If the source has gone, the trial finds what it said.
            while let Ok(frame) = wire.recv.recv().await {
                let answer = match frame.message() {
                    Ok(ToTarget::Hello(_)) => ToSource::Hello(hello.clone()),
                    Ok(ToTarget::Describe(_)) => {
                        let obstacles = vec![Obstacle::new("the room", "it is not ready", "come again")];
                        ToSource::Preflight { obstacles, notes: Vec::new() }
                    }
                    _ => break,
                };
                let _ = wire.send.send_msg(&answer).await;
            }
            peer.connection.closed().await;
        }
    });
    Ok(runtime)
}
