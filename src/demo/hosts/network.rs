//! Work inside a host's network: in a thread that enters it, or by a netlink socket made there.

use std::io;
use std::os::fd::BorrowedFd;

use nix::sched::{CloneFlags, setns};
use rtnetlink::{Handle, LinkUnspec};

use super::error::HostError;

/// The loopback device is always the first.
const LOOPBACK_INDEX: u32 = 1;

/// Runs `work` in a thread that lives in this network: sockets made there belong to it.
pub(super) fn within<T: Send>(network: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(network, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Sets the loopback device of a new host up.
pub(super) fn raise_loopback(name: &str, network: BorrowedFd<'_>) -> Result<(), HostError> {
    with_netlink(network, async |handle| {
        let up = rtnetlink::LinkMessageBuilder::<LinkUnspec>::new().index(LOOPBACK_INDEX).up().build();
        handle.link().set(up).execute().await.map_err(io::Error::other)
    })
    .map_err(|source| HostError::Outside { host: name.to_owned(), step: "raise its loopback", source })
}

/// Runs `work` with a netlink socket of a host's network.
pub(super) fn with_netlink<T: Send>(
    network: BorrowedFd<'_>,
    work: impl AsyncFnOnce(Handle) -> io::Result<T> + Send,
) -> io::Result<T> {
    within(network, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            let connection = tokio::spawn(connection);
            let result = work(handle).await;
            connection.abort();
            result
        })
    })?
}
