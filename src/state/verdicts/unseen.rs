//! State that cannot be seen from outside.

use super::{Row, limited, refused};

pub(super) const ROWS: &[Row] = &[
    limited(
        "parent",
        "who started the process, and waits for it",
        "it sees process N killed by SIGKILL (status 137)",
        "parent is a shell",
    ),
    refused(
        "parent that starts it again",
        "a supervisor, or a unit of systemd whose Restart= covers SIGKILL",
        "it sees process N killed by SIGKILL (status 137), and starts a second copy here (unless --parent-knows)",
        "parent is systemd",
    ),
];
