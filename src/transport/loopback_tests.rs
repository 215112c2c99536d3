//! Both ends over loopback: who is let in, who is told what, and whether the bytes arrive.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::Connection;
use tempfile::TempDir;

use super::admission::AdmissionError;
use super::endpoint::connect_with;
use super::frame::Header;
use super::message::numbered;
use super::tuning::Tuning;
use super::wire::{accept_wire, open_wire};
use super::*;
use crate::sys::chain;

const LIMIT: Duration = Duration::from_secs(20);
const MESSAGE: u16 = 1;
const PAGES: u16 = 2;

#[derive(Debug, PartialEq)]
enum Said {
    Count(String, u64),
    Total(u64),
    Pair(u8, u8),
}

numbered! {
    Said {
        3 Count(text, count) max 1024;
        4 Total(bytes) max 1024;
        5 Pair(one, other) max 1024;
    }
}

/// One host: a directory, an identity and whom it trusts.
struct Host {
    _dir: TempDir,
    identity: Identity,
    trust: TrustStore,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let trust = TrustStore::new(dir.path());
        Self { _dir: dir, identity, trust }
    }

    fn trusts(&self, other: &Host) {
        self.trust.add(other.identity.fingerprint(), None).unwrap();
    }

    fn listen(&self) -> Listener {
        Listener::bind(&self.identity, self.trust.clone(), SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
    }

    fn call<'a>(
        &'a self,
        listener: &Listener,
    ) -> impl Future<Output = Result<Connected, ConnectError>> + use<'a> {
        let address = RemoteAddr::from(listener.local_addr());
        async move { connect(&self.identity, &self.trust, &address, LIMIT).await }
    }
}

fn pair() -> (Host, Host) {
    let (source, target) = (Host::new(), Host::new());
    source.trusts(&target);
    target.trusts(&source);
    (source, target)
}

fn cap(kind: u16) -> Option<u32> {
    match kind {
        MESSAGE | 3..=5 => Some(1024),
        PAGES => Some(4 << 20),
        _ => None,
    }
}

async fn connected() -> (Connected, Accepted, Listener) {
    let (source, target) = pair();
    let mut listener = target.listen();
    let (connected, accepted) = tokio::join!(source.call(&listener), listener.accept());
    let (connected, accepted) = (connected.unwrap(), accepted.unwrap().unwrap());
    assert_eq!(connected.peer, target.identity.fingerprint());
    assert_eq!(accepted.peer, source.identity.fingerprint());
    assert_eq!(connected.remote, listener.local_addr());
    (connected, accepted, listener)
}

#[tokio::test]
async fn a_connection_comes_by_the_way_that_was_chosen() {
    let (source, target) = pair();
    let mut listener = target.listen();
    let address = RemoteAddr::from(listener.local_addr());
    for way in [Way::Ordinary, Way::Express, Way::Express, Way::Ordinary] {
        let call = connect_by(way, &source.identity, &source.trust, &address, LIMIT);
        let (connected, accepted) = tokio::join!(call, listener.accept());
        let (connected, accepted) = (connected.unwrap(), accepted.unwrap().unwrap());
        assert_eq!(accepted.way, way);
        // data goes there, too, in packets whose IDs the target chose
        let mut send = connected.connection.open_uni().await.unwrap();
        send.write_all(&pattern(1)).await.unwrap();
        send.finish().unwrap();
        let mut recv = accepted.connection.accept_uni().await.unwrap();
        assert_eq!(recv.read_to_end(4 << 20).await.unwrap(), pattern(1));
    }
}

fn pattern(index: u32) -> Bytes {
    (0..1 << 20).map(|i: u32| (i ^ (i >> 8)).wrapping_mul(index + 1) as u8).collect::<Vec<_>>().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_arrive_intact() {
    let (connected, accepted, _listener) = connected().await;
    let started = Instant::now();
    let sender = tokio::spawn(async move {
        let mut wire = open_wire(&connected.connection, cap).await.unwrap();
        wire.send_msg(&Said::Count("hello".to_owned(), 64)).await.unwrap();
        for index in 0..64_u32 {
            wire.send.send_bytes(PAGES, &index.to_le_bytes(), pattern(index)).await.unwrap();
        }
        assert_eq!(wire.recv().await.unwrap().message::<Said>().unwrap(), Said::Total(64 << 20));
        (wire.bytes(), connected)
    });
    let mut wire = accept_wire(&accepted.connection, cap).await.unwrap();
    let Said::Count(text, count) = wire.recv().await.unwrap().message().unwrap() else { panic!() };
    assert_eq!(text, "hello");
    let mut total = 0_u64;
    for index in 0..count as u32 {
        let header = wire.recv.recv_header().await.unwrap();
        assert_eq!(header, Header { kind: PAGES, len: 4 + (1 << 20) });
        let body = wire.recv.recv_body().await.unwrap();
        let (prefix, page) = body.split_at(4);
        assert_eq!(prefix, index.to_le_bytes());
        assert!(page == pattern(index), "megabyte {index} differs");
        total += page.len() as u64;
    }
    wire.send_msg(&Said::Total(total)).await.unwrap();
    let ((sent, received), connected) = sender.await.unwrap();
    assert_eq!(wire.bytes(), (received, sent));
    eprintln!("64 MiB in {:?}, {:?}", started.elapsed(), connected.connection.stats().path);
    connected.close("done").await;
}

#[test]
fn a_current_thread_runtime_on_each_side_will_do() {
    let (source, target) = pair();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let (acknowledge, acknowledged) = tokio::sync::oneshot::channel();
    let server = std::thread::spawn(move || {
        runtime().block_on(async {
            let mut listener = target.listen();
            tell.send(listener.local_addr()).unwrap();
            let accepted = listener.accept().await.unwrap().unwrap();
            let mut wire = accept_wire(&accepted.connection, cap).await.unwrap();
            let frame = wire.recv().await.unwrap();
            wire.send(MESSAGE, &frame.body).await.unwrap();
            assert!(matches!(wire.recv().await, Err(WireError::Ended)));
            wire.send.finish().await.unwrap();
            acknowledge.send(()).unwrap();
            let closed = accepted.connection.closed().await.to_string();
            assert!(closed.contains("all done"), "{closed}");
        });
    });
    let address = RemoteAddr::from(told.recv().unwrap());
    let runtime = runtime();
    // Several block_on, as the source session does it.
    let connected = runtime.block_on(connect(&source.identity, &source.trust, &address, LIMIT)).unwrap();
    let mut wire = runtime.block_on(open_wire(&connected.connection, cap)).unwrap();
    runtime.block_on(wire.send(MESSAGE, b"ping")).unwrap();
    let answer = runtime.block_on(wire.recv()).unwrap();
    assert_eq!(answer, Frame { kind: MESSAGE, body: Bytes::from_static(b"ping") });
    let (send, mut recv) = wire.split();
    runtime.block_on(send.finish()).unwrap();
    assert!(matches!(runtime.block_on(recv.recv()), Err(WireError::Ended)));
    // The target still waits for the acknowledgement of its end, which must not be overtaken by a close.
    runtime.block_on(acknowledged).unwrap();
    runtime.block_on(connected.close("all done"));
    server.join().unwrap();
}

#[tokio::test]
async fn an_unknown_client_is_told_what_to_run_on_the_target() {
    let (source, target) = (Host::new(), Host::new());
    source.trusts(&target);
    let mut listener = target.listen();
    let (refused, accepted) = tokio::join!(source.call(&listener), listener.accept());
    let error = refused.unwrap_err();
    let ours = source.identity.fingerprint();
    assert!(matches!(error, ConnectError::RefusedByPeer { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("ulpm trust add {ours} --name ")), "{error}");
    match accepted.unwrap().unwrap_err() {
        AcceptError::NotAdmitted { source: AdmissionError::UnknownPeer { presented }, .. } => {
            assert_eq!(presented, ours);
        }
        error => panic!("{error:?}"),
    }
    // The running listener believes what is added now.
    target.trusts(&source);
    let (connected, accepted) = tokio::join!(source.call(&listener), listener.accept());
    connected.unwrap();
    accepted.unwrap().unwrap();
}

#[tokio::test]
async fn an_unknown_server_is_refused_with_its_fingerprint() {
    let (source, target) = (Host::new(), Host::new());
    target.trusts(&source);
    let mut listener = target.listen();
    let (refused, accepted) = tokio::join!(source.call(&listener), listener.accept());
    let error = refused.unwrap_err();
    let theirs = target.identity.fingerprint();
    assert!(matches!(error, ConnectError::UnknownPeer { presented, .. } if presented == theirs), "{error:?}");
    assert!(error.to_string().contains(&format!("ulpm trust add {theirs} --name 127.0.0.1")), "{error}");
    let error = accepted.unwrap().unwrap_err();
    assert!(matches!(error, AcceptError::NotAdmitted { .. } | AcceptError::Handshake { .. }), "{error:?}");
}

#[tokio::test]
async fn an_unreadable_trust_file_lets_nobody_in() {
    let (source, target) = pair();
    let mut listener = target.listen();
    std::fs::write(target.trust.path(), "garbage\n").unwrap();
    let (refused, accepted) = tokio::join!(source.call(&listener), listener.accept());
    let text = chain(&refused.unwrap_err());
    assert!(text.contains("cannot read its list of trusted peers"), "{text}");
    let text = chain(&accepted.unwrap().unwrap_err());
    assert!(text.contains("trusted:1:"), "{text}");
}

#[tokio::test]
async fn another_alpn_is_a_version_mismatch() {
    let (source, target) = pair();
    let mut listener = target.listen();
    let address = RemoteAddr::from(listener.local_addr());
    let tuning = Tuning::default();
    let call = connect_with(&source.identity, &source.trust, &address, LIMIT, &tuning, b"ulpm/99");
    let (refused, accepted) = tokio::join!(call, listener.accept());
    let error = refused.unwrap_err();
    assert!(matches!(error, ConnectError::Version { .. }), "{error:?}");
    assert!(error.to_string().contains("does not speak ulpm/2"), "{error}");
    assert!(matches!(accepted.unwrap(), Err(AcceptError::Version { .. })));
}

#[tokio::test]
async fn a_silent_host_is_a_timeout_with_all_one_needs() {
    let (source, _) = pair();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let started = Instant::now();
    let limit = Duration::from_millis(700);
    let error =
        connect(&source.identity, &source.trust, &RemoteAddr::from(address), limit).await.unwrap_err();
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    let text = error.to_string();
    for part in [
        "no answer from 127.0.0.1",
        "within 0.7 s",
        "ulpm serve",
        &format!("UDP port {} open", address.port()),
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn a_closed_port_and_an_unknown_name_are_named_at_once() {
    let (source, _) = pair();
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let started = Instant::now();
    let call = |host: String| {
        let source = &source;
        async move { connect(&source.identity, &source.trust, &host.parse().unwrap(), LIMIT).await.unwrap_err() }
    };
    let error = call(format!("127.0.0.1:{port}")).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    let error = call(format!("[::1]:{port}")).await;
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(started.elapsed() < LIMIT, "it was waited for: {:?}", started.elapsed());
    let error = call("no-such-host.invalid".to_owned()).await;
    assert!(matches!(error, ConnectError::Resolve { .. } | ConnectError::ResolveTimeout { .. }), "{error:?}");
}

#[tokio::test]
async fn silent_clients_do_not_hold_up_others() {
    let (source, target) = pair();
    let mut listener = target.listen();
    let to = listener.local_addr();
    // Half-open: these speak QUIC's first packet, and then nothing more is driven.
    let mut stalled = Vec::new();
    for _ in 0..6 {
        let dead = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let tls = super::tls::client(&source.identity, super::tls::ALPN).unwrap();
        let config = quinn::ClientConfig::new(std::sync::Arc::new(tls));
        // It never says hello, so the listener waits for it.
        stalled.push((dead.connect_with(config, to, "ulpm").unwrap().await.unwrap(), dead));
    }
    let noise = UdpSocket::bind("127.0.0.1:0").unwrap();
    for len in 0..1300 {
        noise.send_to(&vec![0xc3; len], to).unwrap();
    }
    let (connected, accepted) = tokio::join!(source.call(&listener), listener.accept());
    connected.unwrap();
    accepted.unwrap().unwrap();
}

#[tokio::test]
async fn receiving_survives_cancellation_and_bad_frames_do_not() {
    let (connected, accepted, _listener) = connected().await;
    let (mut raw, _answers) = connected.connection.open_bi().await.unwrap();
    let frame = [&Header { kind: MESSAGE, len: 6 }.encode()[..], b"abcdef"].concat();
    let mut wire = None;
    for byte in frame {
        raw.write_all(&[byte]).await.unwrap();
        if wire.is_none() {
            wire = Some(accept_wire(&accepted.connection, cap).await.unwrap());
        }
        let wire = wire.as_mut().unwrap();
        if let Ok(frame) = tokio::time::timeout(Duration::from_millis(20), wire.recv()).await {
            assert_eq!(frame.unwrap().body, "abcdef");
        }
    }
    let mut wire = wire.unwrap();
    assert_eq!(wire.bytes(), (0, 14));

    // Nothing of the body is awaited, or memory taken for it.
    raw.write_all(&Header { kind: PAGES, len: u32::MAX }.encode()).await.unwrap();
    let error = wire.recv().await.unwrap_err();
    assert!(matches!(error, WireError::Frame(FrameError::TooLong { .. })), "{error:?}");
    assert!(matches!(wire.send(9, b"").await, Err(WireError::Frame(FrameError::UnknownKind { kind: 9 }))));
    let long = vec![0; 1025];
    assert!(matches!(wire.send(MESSAGE, &long).await, Err(WireError::Frame(FrameError::TooLong { .. }))));
    wire.send(MESSAGE, &long[1..]).await.unwrap();
}

#[tokio::test]
async fn parts_join_and_ends_are_told_apart() {
    let (connected, accepted, _listener) = connected().await;
    let mut out = open_wire(&connected.connection, cap).await.unwrap();
    let big = vec![7; 100_000];
    out.send.send_parts(PAGES, &[b"ab", &big, b"", b"cd", &big[..10]]).await.unwrap();
    out.send.send_parts(MESSAGE, &[]).await.unwrap();
    out.send_msg(&Said::Pair(1, 2)).await.unwrap();
    let mut wire = accept_wire(&accepted.connection, cap).await.unwrap();
    let frame = wire.recv().await.unwrap();
    assert_eq!(frame.body, [b"ab", &big[..], b"cd", &big[..10]].concat());
    let frame = wire.recv().await.unwrap();
    assert!(frame.body.is_empty());
    let frame = wire.recv().await.unwrap();
    assert!(matches!(frame.decode::<u8>(), Err(WireError::Trailing { extra: 1, .. })));
    assert!(matches!(frame.decode::<[u8; 3]>(), Err(WireError::Decode { .. })));
    assert!(matches!(wire.recv.recv_body().await, Err(WireError::NoBody)));
    assert_eq!(frame.message::<Said>().unwrap(), Said::Pair(1, 2));
    gone(out, connected.connection, wire).await;
}

/// A frame that its sender gave up, then a connection that ends.
async fn gone(mut out: Wire, connection: Connection, mut wire: Wire) {
    let huge = vec![1; 4 << 20];
    // Nobody reads, so the windows fill up and one send does not end.
    let patience = Duration::from_millis(300);
    while let Ok(sent) = tokio::time::timeout(patience, out.send(PAGES, &huge)).await {
        sent.unwrap();
    }
    assert!(matches!(out.send(MESSAGE, b"x").await, Err(WireError::Torn)));
    let reading = tokio::spawn(async move {
        loop {
            if let Err(error) = wire.recv().await {
                break error;
            }
        }
    });
    // All that was sent is read first: in a full socket buffer the word of the close is lost, and its sender forgets the
    // connection (RFC 9000, 10.2) before a reader without a CPU asks again. It is told of a reset then.
    tokio::time::sleep(patience).await;
    connection.close(quinn::VarInt::from_u32(0), b"away");
    let error = reading.await.unwrap();
    assert!(chain(&error).contains("away"), "{error:?}");
}
