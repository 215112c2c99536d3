//! Kinds of sockets and their options. The options come from the table by which they are read and set
//! (`state::files::socket_table`).

use super::row::{Row, Verdict, carried, harmless, limited, refused};
use crate::state::files::tcp_place::NEVER_ANEW;
use crate::state::files::{SOCKET_OPTIONS, TIME_LIMIT, Treatment};

const LENGTH: usize = KINDS.len() + SOCKET_OPTIONS.len();
const ALL: [Row; LENGTH] = all();
pub(super) const ROWS: &[Row] = &ALL;

const OPTIONS: &str = "victim socket_options";
/// What shows that an option is refused.
const REFUSED: &str = "trial refuse states by their names";

/// Options that mean nothing on a stream.
const OF_GROUPS: &str = "IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_IF of a stream";

const KINDS: &[Row] = &[
    limited(
        "TCP, listening",
        "address, backlog",
        "connections that wait for accept are closed",
        "victim net",
    ),
    carried("TCP, fresh or bound", "a socket that was never connected", "victim socket_options"),
    refused("TCP, connected", "without `--tcp close`", "the TCP connection is open", "trial redis"),
    limited(
        "TCP, connected, with `--tcp close`",
        "unread bytes, then the end that the peer made or a reset",
        "the TCP connection will be closed",
        "trials wires half, half6",
    ),
    carried(
        "TCP, over",
        "unread bytes, then end of file or the error once; addresses, options",
        "victim unread",
    ),
    limited(
        "TCP, over: connect to AF_UNSPEC",
        "taking it apart, to connect the same socket once more",
        NEVER_ANEW,
        "",
    ),
    limited(
        "MPTCP, connected or over",
        "Multipath TCP",
        "it is a Multipath TCP connection: plain TCP takes its place",
        "trial wires mptcp",
    ),
    limited(
        "TCP, over: SO_ERROR",
        "ECONNRESET, or EPIPE where the peer had closed before",
        "a pending error (SO_ERROR) that cannot be told without taking it becomes ECONNRESET",
        "",
    ),
    harmless(
        OF_GROUPS,
        "what the first packet leaves in an accepted connection",
        "a stream sends to no group, and they cannot be set on one",
    ),
    carried(
        "TCP, refused",
        "an attempt to connect that was answered by a reset; ECONNREFUSED once, and it may be made again",
        "victim unread",
    ),
    limited(
        "TCP, refused: getsockname",
        "the port and address of such an attempt",
        "its addresses cannot be given at the target",
        "",
    ),
    refused(
        "TCP, over: another SO_ERROR",
        "of an attempt to connect that ran out of time or met an unreachable host, or after retransmissions",
        "a pending error (SO_ERROR) that cannot be told without taking it: not a plain reset",
        "",
    ),
    refused("TCP, over: urgent data", "MSG_OOB", "urgent data waits in it (MSG_OOB)", ""),
    limited(
        "UDP",
        "addresses, directions that are shut down",
        "unread datagrams and pending errors are dropped",
        "victim net, victim socket_options, trial wires datagrams",
    ),
    refused(
        "UDP, multicast",
        "memberships",
        "it is a member of the multicast group",
        "trial refuse states by their names",
    ),
    limited(
        "SO_RCVTIMEO, SO_SNDTIMEO: a wait under way",
        "recv, send, accept, connect, and read or write of a socket that has a time limit",
        TIME_LIMIT,
        "victim limits, trials limits …",
    ),
    harmless(
        "a transfer under way",
        "a send of more than the buffer takes, recv with MSG_WAITALL, part of which is done",
        "it ends with the count so far, as after SIGSTOP and SIGCONT",
    ),
    carried("AF_UNIX, pair", "stream, datagram, seqpacket; with what waits to be read", "victim fds"),
    limited(
        "SO_PEERCRED, SO_PEERGROUPS, SO_PEERPIDFD",
        "who connected a unix socket, or made the pair",
        "where SO_PEERCRED names another process, at the target it names the process itself",
        "victim peers",
    ),
    carried("socket: fstat", "owner and mode", "victim peers"),
    refused(
        "AF_UNIX, named or listening",
        "names in the file system and abstract ones",
        "a unix socket with a name connects to processes of this host",
        "trial refuse states by their names",
    ),
    limited(
        "AF_UNIX, closed peer",
        "getpeername and senders' names",
        "its other end, which is closed, had a name; at the target it has none",
        "",
    ),
    refused(
        "AF_UNIX, MSG_OOB",
        "urgent byte of a stream, and the mark that it leaves",
        "an urgent byte waits in its queue (MSG_OOB)",
        "trial refuse states by their names",
    ),
    limited(
        "AF_UNIX, SO_TIMESTAMP",
        "time stamps of messages that wait",
        "messages that wait in its queue get a new time stamp (SO_TIMESTAMP)",
        "",
    ),
    refused(
        "AF_UNIX, SCM_CREDENTIALS",
        "credentials of messages that wait",
        "messages with credentials wait in its queue (SO_PASSCRED)",
        "trial refuse states by their names",
    ),
    refused(
        "AF_UNIX, SCM_CREDENTIALS, not asked for",
        "the same where the receiver has not asked yet; found in the freeze",
        "a message with credentials waits in it (SCM_CREDENTIALS)",
        "trials wires hidden-credentials, hidden-messages",
    ),
    refused(
        "AF_UNIX, MSG_PEEK",
        "an empty message that was looked at before, also by a move that was aborted; found in the freeze",
        "an empty message waits in it that was looked at before (MSG_PEEK)",
        "trials wires peeked, peeked-later, packets-shut after an aborted move",
    ),
    limited(
        "AF_UNIX, MSG_PEEK, closed peer",
        "the same behind another message, where nobody knows any more how much was sent",
        "its other end is closed: an empty message behind another that was looked at before (MSG_PEEK) cannot be seen and is left out",
        "trial wires packets-closed",
    ),
    carried(
        "AF_UNIX, empty messages",
        "also where one end is shut or closed",
        "trials wires packets-shut, packets-unread, packets-closed",
    ),
    refused(
        "AF_UNIX, SCM_RIGHTS",
        "descriptors in its queue",
        "descriptors are in flight in its queue",
        "trial refuse states by their names",
    ),
    refused(
        "other families",
        "netlink, packet, vsock, raw, ping …, each by its name",
        "cannot be carried",
        "trial refuse states by their names",
    ),
];

const fn all() -> [Row; LENGTH] {
    let mut rows = [KINDS[0]; LENGTH];
    let mut i = 0;
    while i < KINDS.len() {
        rows[i] = KINDS[i];
        i += 1;
    }
    while i < LENGTH {
        let known = SOCKET_OPTIONS[i - KINDS.len()];
        let (verdict, shown) = match known.treatment {
            Treatment::Bytes | Treatment::Buffer(_) | Treatment::Interface(_) => (Verdict::Carried, OPTIONS),
            Treatment::Refused(why) | Treatment::Probed(why) => (Verdict::Refused(why), REFUSED),
            Treatment::Left(why) => (Verdict::Harmless(why), ""),
        };
        rows[i] = Row { name: known.name, what: known.what, verdict, shown };
        i += 1;
    }
    rows
}

/// The row of an option, by level and number.
pub(super) fn option(level: i32, number: i32) -> Option<&'static Row> {
    let known = SOCKET_OPTIONS.iter().find(|known| (known.level, known.number) == (level, number))?;
    ROWS.iter().find(|row| row.name == known.name)
}
