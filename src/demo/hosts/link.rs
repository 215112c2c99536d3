//! Wires between hosts: a veth pair, addresses, names.
//!
//! All rtnetlink calls are made from threads inside a host's network, so that nothing, not even for
//! a moment, exists in the network of the caller (who may have no rights there).

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};

use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

use super::Host;
use super::error::HostError;
use super::network::with_netlink;

/// Two hosts joined by a wire of their own.
#[derive(Debug, Clone)]
pub struct Link {
    /// The first host's address.
    pub a: Ipv4Addr,
    /// The second host's address.
    pub b: Ipv4Addr,
    /// The wire's device in the first host.
    pub a_device: String,
    /// The wire's device in the second host.
    pub b_device: String,
}

impl Link {
    /// Joins two hosts; afterwards each reaches the other by address and by name.
    pub fn join(a: &Host, b: &Host) -> Result<Self, HostError> {
        let net = next_net();
        let link = Self {
            a: Ipv4Addr::new(10, 77, net, 1),
            b: Ipv4Addr::new(10, 77, net, 2),
            a_device: format!("to-{:.8}", b.name()),
            b_device: format!("to-{:.8}", a.name()),
        };
        let failed = |step| {
            let (a, b) = (a.name().to_owned(), b.name().to_owned());
            move |source| HostError::Link { a, b, step, source }
        };
        let far = b.network().as_raw_fd();
        with_netlink(a.network(), async |handle| make_pair(&handle, &link, far).await)
            .map_err(failed("make the veth pair"))?;
        for (host, device, address) in [(a, &link.a_device, link.a), (b, &link.b_device, link.b)] {
            with_netlink(host.network(), async |handle| raise(&handle, device, address).await)
                .map_err(failed("set the addresses"))?;
        }
        for (host, other, address) in [(a, b, link.b), (b, a, link.a)] {
            name_peer(host, other.name(), address).map_err(failed("write the names"))?;
        }
        Ok(link)
    }
}

async fn make_pair(handle: &Handle, link: &Link, far: RawFd) -> io::Result<()> {
    let mut message = LinkVeth::new(&link.a_device, &link.b_device).build();
    for attribute in &mut message.attributes {
        let LinkAttribute::LinkInfo(infos) = attribute else { continue };
        for info in infos {
            if let rtnetlink::packet_route::link::LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))) = info
            {
                peer.attributes.push(LinkAttribute::NetNsFd(far));
            }
        }
    }
    handle.link().add(message).execute().await.map_err(io::Error::other)
}

async fn raise(handle: &Handle, device: &str, address: Ipv4Addr) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex(device)?;
    handle.address().add(index, IpAddr::V4(address), 24).execute().await.map_err(io::Error::other)?;
    let up = rtnetlink::LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
    handle.link().set(up).execute().await.map_err(io::Error::other)
}

fn name_peer(host: &Host, peer: &str, address: Ipv4Addr) -> io::Result<()> {
    let mut names = OpenOptions::new().append(true).open(host.home().join("hosts"))?;
    writeln!(names, "{address} {peer}")
}

/// The third byte of the next link's addresses: begins at a place that depends on the pid, so that several
/// programs with hosts at once are told apart in what they print.
fn next_net() -> u8 {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let start = (std::process::id() % 200) as u8;
    start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
}
