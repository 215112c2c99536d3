//! What can go wrong with a host.

use std::io;

/// What can go wrong with a host.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum HostError {
    #[error("host {host}: cannot {step}")]
    Outside { host: String, step: &'static str, source: io::Error },
    #[error("host {host}: cannot {step}{}", advice(source))]
    Inside { host: String, step: String, source: io::Error },
    #[error("host {host}: its init has gone")]
    Gone { host: String },
    #[error("link {a} to {b}: cannot {step}")]
    Link { a: String, b: String, step: &'static str, source: io::Error },
    #[error(
        "a user namespace of one's own is not allowed here: cannot {step} (be root, or allow it with `sysctl \
         kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000` and, where AppArmor restricts it, \
         `sysctl kernel.apparmor_restrict_unprivileged_userns=0`)"
    )]
    NotAllowed { step: &'static str, source: io::Error },
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            " (namespaces need root, or a user namespace of one's own: `sudo`, or \
             `sysctl kernel.unprivileged_userns_clone=1`; a container needs CAP_SYS_ADMIN and an unmasked /proc)"
        }
        Some(libc::ENOSPC) => " (too many namespaces: raise `sysctl user.max_user_namespaces` and its like)",
        Some(libc::EINVAL) => " (the kernel may lack this kind of namespace)",
        _ => "",
    }
}
