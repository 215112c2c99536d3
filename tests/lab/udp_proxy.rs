//! A UDP proxy between two hosts of the lab: delay, loss, duplicates, a rate, and cuts at run time or after a
//! number of bytes. Stands in for `netem`, which the test machine's kernel lacks.
//!
//! ```text
//!   host a                     this process                         host b
//!   ulpm live -> 127.0.0.1:P = front socket | wire | upstream socket -> 127.0.0.1:3490 = ulpm serve
//! ```
//! The front socket lives in one host's network and the upstream sockets (one per client address) in the
//! other's, so the hosts need no other wire.

mod wire;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use ulpm::demo::hosts::Host;

use wire::{Direction, Packet, Wire};

/// How often a thread looks whether it shall stop.
const TICK: Duration = Duration::from_millis(20);
/// Room for bursts in each socket.
const SOCKET_BUFFER: usize = 4 << 20;

/// A proxy that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct UdpProxy {
    wire: Arc<Wire>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl UdpProxy {
    /// Begins to listen in `from` on a port of its own, and to forward to `port` in `to`.
    pub(crate) fn between(from: &Host, to: &Host, port: u16) -> Result<Self> {
        let front =
            from.in_network(|| open((Ipv4Addr::LOCALHOST, 0).into()))?.context("bind the front socket")?;
        let address = front.local_addr()?;
        let network = to.network().try_clone_to_owned()?;
        let wire = Arc::new(Wire::default());
        let mut proxy = Self { wire: Arc::clone(&wire), address, threads: Vec::new() };
        let deliverer = Arc::clone(&wire);
        proxy.threads.push(std::thread::spawn(move || deliverer.deliver()));
        proxy.threads.push(std::thread::spawn(move || forward(&wire, front, network, port)));
        Ok(proxy)
    }

    /// Where `ulpm live` shall go.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Each packet arrives so much later.
    pub(crate) fn delay(&self, delay: Duration) {
        self.wire.settings().delay = delay;
    }

    /// So many packets of a thousand are lost.
    pub(crate) fn lose(&self, per_mille: u64) {
        self.wire.settings().loss = per_mille;
    }

    /// So many packets of a thousand arrive twice.
    pub(crate) fn duplicate(&self, per_mille: u64) {
        self.wire.settings().duplicates = per_mille;
    }

    /// At most so many bytes a second in each direction.
    pub(crate) fn rate(&self, bytes_per_second: u64) {
        self.wire.settings().rate = Some(bytes_per_second);
    }

    /// Nothing passes any more.
    pub(crate) fn cut(&self) {
        self.wire.settings().cut = true;
    }

    /// Nothing passes any more as soon as so many bytes went from source to target.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.wire.settings().cut_after = Some(bytes);
    }

    /// Nothing passes one way any more: to the target, or back.
    pub(crate) fn lose_one_way(&self, forth: bool) {
        self.wire.settings().lost = Some(if forth { Direction::Forth } else { Direction::Back });
    }

    /// Packets pass again.
    pub(crate) fn heal(&self) {
        let mut settings = self.wire.settings();
        settings.cut = false;
        settings.lost = None;
        settings.cut_after = None;
    }

    /// Whether nothing passes, by hand or by count.
    pub(crate) fn is_cut(&self) -> bool {
        self.wire.settings().cut
    }

    /// Bytes that went from source to target.
    pub(crate) fn forwarded(&self) -> u64 {
        self.wire.bytes(Direction::Forth)
    }

    /// Bytes that came back.
    pub(crate) fn returned(&self) -> u64 {
        self.wire.bytes(Direction::Back)
    }
}

impl Drop for UdpProxy {
    fn drop(&mut self) {
        self.wire.stop();
        for thread in self.threads.drain(..) {
            // A panic there was printed already; the trial fails by itself if it matters.
            let _ = thread.join();
        }
    }
}

/// The front thread: lives in the target's network, so that upstream sockets belong to it.
fn forward(wire: &Arc<Wire>, front: UdpSocket, network: OwnedFd, port: u16) {
    setns(network, CloneFlags::CLONE_NEWNET).expect("enter the target's network");
    let front = Arc::new(front);
    let mut upstream: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut readers = Vec::new();
    let mut buffer = vec![0; 65_536];
    while !wire.is_stopped() {
        let Some((length, client)) = receive(&front, &mut buffer) else { continue };
        let socket = match upstream.get(&client) {
            Some(socket) => Arc::clone(socket),
            None => {
                let Ok(socket) = open((Ipv4Addr::LOCALHOST, 0).into()) else { continue };
                let socket = Arc::new(socket);
                upstream.insert(client, Arc::clone(&socket));
                let (wire, front, socket_back) = (Arc::clone(wire), Arc::clone(&front), Arc::clone(&socket));
                readers.push(std::thread::spawn(move || bring_back(&wire, &socket_back, &front, client)));
                socket
            }
        };
        let to = (Ipv4Addr::LOCALHOST, port).into();
        wire.put(Direction::Forth, Packet { socket, to, data: buffer[..length].to_vec() });
    }
    for reader in readers {
        // As above: its panic was printed.
        let _ = reader.join();
    }
}

fn bring_back(wire: &Wire, socket: &UdpSocket, front: &Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; 65_536];
    while !wire.is_stopped() {
        let Some((length, _)) = receive(socket, &mut buffer) else { continue };
        let packet = Packet { socket: Arc::clone(front), to: client, data: buffer[..length].to_vec() };
        wire.put(Direction::Back, packet);
    }
}

/// One packet, or nothing within a tick (a refused port counts as nothing).
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket.recv_from(buffer) {
        Ok(packet) => Some(packet),
        Err(error) => {
            if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                std::thread::sleep(Duration::from_millis(1));
            }
            None
        }
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_read_timeout(Some(TICK))?;
    // More than the limit needs rights that an ordinary user lacks; the usual size will do then.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER);
    let _ = setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER);
    Ok(socket)
}
