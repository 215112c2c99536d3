//! `/proc/PID/status`, read by bytes: a name need not be text, and the kernel escapes in it what would end the line.
//!
//! ```text
//! Name:    a\\b\nc   proc_task_name (fs/proc/array.c) escapes '\n' and '\\', and nothing else
//! ```

use std::io;
use std::path::Path;

/// What a thread says of itself in its `status` file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Its name, as `PR_GET_NAME` gives it.
    pub name: Vec<u8>,
    /// The process that it belongs to.
    pub tgid: i32,
    /// The process by its ids in each pid namespace, the innermost last.
    pub nstgid: Vec<i32>,
    /// The thread likewise.
    pub nspid: Vec<i32>,
    /// Real, effective, saved and file system user.
    pub uids: [u32; 4],
    /// Likewise for groups.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding and ambient capabilities.
    pub caps: [u64; 5],
    /// `no_new_privs`; `None`: the kernel does not say.
    pub no_new_privs: Option<bool>,
    /// Mode of seccomp; 0: none.
    pub seccomp: u32,
    /// Signals that it ignores, as the mask of all 64.
    pub sigign: u64,
    /// Signals that it has handlers for.
    pub sigcgt: u64,
    /// Signals pending to the thread.
    pub sigpnd: u64,
    /// Signals pending to its process.
    pub shdpnd: u64,
    /// `umask`; `None`: a thread that is ending has none.
    pub umask: Option<u32>,
    /// Threads of the process.
    pub threads: u64,
    /// Resident set in bytes.
    pub resident: u64,
    /// `untag_mask`: which bits of an address count.
    pub untag_mask: Option<u64>,
    /// The same without file pages, and with what is swapped out.
    pub needs: u64,
    /// `x86_Thread_features`: `shstk`, `wrss`.
    pub features: Vec<String>,
}

impl Status {
    /// Of a process, or of any thread by its id.
    pub fn of(tid: i32) -> io::Result<Self> {
        Self::read(Path::new(&format!("/proc/{tid}/status")))
    }

    /// From a `status` file.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = std::fs::read(path)?;
        Self::parse(&text).ok_or_else(|| io::Error::other(format!("{} is incomplete", path.display())))
    }

    /// From the content of one.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut status = Status::default();
        let mut met = 0;
        for line in text.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (key, rest) = (&line[..colon], &line[colon + 1..]);
            if key == b"Name" {
                status.name = unescaped(rest.strip_prefix(b"\t").unwrap_or(rest));
                met += 1;
                continue;
            }
            let (Ok(key), Ok(value)) = (std::str::from_utf8(key), std::str::from_utf8(rest)) else {
                continue;
            };
            met += u32::from(status.take(key, value.trim())?);
        }
        // name, Tgid, Uid, Gid, Groups and five sets of capabilities
        (met == 10).then_some(status)
    }

    /// Takes a line; whether it is one that every kernel shows. `None`: it makes no sense.
    fn take(&mut self, key: &str, value: &str) -> Option<bool> {
        let hex = |value: &str| u64::from_str_radix(value, 16).ok();
        match key {
            "Tgid" => self.tgid = value.parse().ok()?,
            "Uid" => self.uids = numbers(value)?.try_into().ok()?,
            "Gid" => self.gids = numbers(value)?.try_into().ok()?,
            "Groups" => self.groups = numbers(value)?,
            "CapInh" => self.caps[0] = hex(value)?,
            "CapPrm" => self.caps[1] = hex(value)?,
            "CapEff" => self.caps[2] = hex(value)?,
            "CapBnd" => self.caps[3] = hex(value)?,
            "CapAmb" => self.caps[4] = hex(value)?,
            other => {
                self.take_other(other, value, hex)?;
                return Some(false);
            }
        }
        Some(true)
    }

    fn take_other(&mut self, key: &str, value: &str, hex: impl Fn(&str) -> Option<u64>) -> Option<()> {
        match key {
            "NStgid" => self.nstgid = numbers(value)?,
            "NSpid" => self.nspid = numbers(value)?,
            "NoNewPrivs" => self.no_new_privs = Some(value != "0"),
            "Seccomp" => self.seccomp = value.parse().ok()?,
            "Threads" => self.threads = value.parse().ok()?,
            "SigIgn" => self.sigign = hex(value)?,
            "SigPnd" => self.sigpnd = hex(value)?,
            "ShdPnd" => self.shdpnd = hex(value)?,
            "SigCgt" => self.sigcgt = hex(value)?,
            "Umask" => self.umask = Some(u32::from_str_radix(value, 8).ok()?),
            "untag_mask" => self.untag_mask = hex(value.trim_start_matches("0x")),
            "VmRSS" => self.resident = bytes(value)?,
            "RssAnon" | "RssShmem" | "VmSwap" => self.needs += bytes(value)?,
            "x86_Thread_features" => self.features = value.split_whitespace().map(str::to_owned).collect(),
            _ => {}
        }
        Some(())
    }
}

fn numbers<T: std::str::FromStr>(value: &str) -> Option<Vec<T>> {
    value.split_whitespace().map(|word| word.parse().ok()).collect()
}

fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut bytes = name.iter().copied();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(other) => other,
                None => byte,
            },
            other => other,
        });
    }
    out
}

/// The name of a process or thread; empty when it is gone.
pub fn name(tid: i32) -> Vec<u8> {
    let mut bytes = std::fs::read(format!("/proc/{tid}/comm")).unwrap_or_default();
    // the kernel's own line break; `comm` escapes nothing
    bytes.pop();
    bytes
}

/// `1234 kB`.
fn bytes(value: &str) -> Option<u64> {
    value.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_and_names_of_any_bytes() {
        let own = Status::of(nix::unistd::gettid().as_raw()).unwrap();
        assert_eq!(own.tgid, std::process::id() as i32);
        assert_eq!(own.uids[1], nix::unistd::geteuid().as_raw());
        assert_eq!(unescaped(br"a\\b\nc"), b"a\\b\nc");
        assert_eq!(unescaped(b"B\xfccher"), b"B\xfccher");
        assert!(Status::parse(b"Name:\tx\nTgid:\t1\n").is_none());
    }
}
