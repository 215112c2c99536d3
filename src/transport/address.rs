//! Where the other host is: `HOST[:PORT]` as people write it, and the addresses behind it. It is read once, where it comes in (the command
//! line, a journal), and shown everywhere in the same way: with its port, an IPv6 address in brackets.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The UDP port of `ulpm serve`.
pub const DEFAULT_PORT: u16 = 3490;

/// A host, by name or address, and a UDP port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteAddr {
    /// A name, an IPv4 address or an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl RemoteAddr {
    /// The addresses of the host, in the resolver's order. An address is taken as it is, without asking.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        let mut addresses = Vec::new();
        for address in tokio::net::lookup_host((self.host.as_str(), self.port)).await? {
            // The resolver names an address once per socket type.
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }
}

impl From<SocketAddr> for RemoteAddr {
    fn from(address: SocketAddr) -> Self {
        RemoteAddr { host: address.ip().to_string(), port: address.port() }
    }
}

impl FromStr for RemoteAddr {
    type Err = RemoteAddrError;

    fn from_str(text: &str) -> Result<Self, RemoteAddrError> {
        let bad = || RemoteAddrError { text: text.to_owned() };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
                let address = host.split_once('%').map_or(host, |(address, _zone)| address);
                address.parse::<Ipv6Addr>().map_err(|_| bad())?;
                match rest {
                    "" => (host, None),
                    rest => (host, Some(rest.strip_prefix(':').ok_or_else(bad)?)),
                }
            }
            None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?,
        };
        if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for RemoteAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The text names no host and port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not HOST[:PORT]; IPv6 addresses with a port go in brackets, as in [fd00::1]:3490")]
pub struct RemoteAddrError {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        let cases = [
            ("alpha", "alpha", 3490, "alpha:3490"),
            ("alpha.example:1", "alpha.example", 1, "alpha.example:1"),
            ("10.0.0.2", "10.0.0.2", 3490, "10.0.0.2:3490"),
            ("10.0.0.2:99", "10.0.0.2", 99, "10.0.0.2:99"),
            ("::1", "::1", 3490, "[::1]:3490"),
            ("[::1]", "::1", 3490, "[::1]:3490"),
            ("[fe80::1%eth0]:77", "fe80::1%eth0", 77, "[fe80::1%eth0]:77"),
        ];
        for (text, host, port, shown) in cases {
            let parsed: RemoteAddr = text.parse().unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port), "{text}");
            assert_eq!(parsed.to_string(), shown);
        }
        for text in
            ["", ":1", "a:", "a:0", "a:65536", "a:b", "[::1", "[a]:1", "[::1]1", "a b", "::1::2", "u/x"]
        {
            assert!(text.parse::<RemoteAddr>().is_err(), "{text}");
        }
    }
}
