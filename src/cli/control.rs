//! `ulpm control`: asks a migration under way how it stands, and tells it to freeze, to end, or other limits.
//!
//! Both ends of the socket are here: `ulpm live --control SOCKET` listens, a line is a command, a line is the answer
//! (`ok …`, `error: …`, or JSON for `status`). Whoever may write to the socket may do all of it: it is the owner alone.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};

use super::{Exit, Failure, say};
use crate::precopy::Control;
use crate::precopy::control::Command;

/// Longest line.
const LINE: u64 = 1024;

/// How long an answer, or a command, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `ulpm control`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Commands:
  status               how it stands, as one JSON line
  freeze-now           freeze when the round under way is done, whatever is left
  abort                end the move; the process runs on where it is
  set NAME=VALUE       max-freeze=20ms, max-rounds=50, max-time=2min, bandwidth=100M, on-divergence=throttle;
                       'none' takes max-freeze, max-time and bandwidth back

Exit codes: 0 done; 1 no migration answers there, or it is too late; 2 wrong usage.")]
pub(crate) struct ControlArgs {
    /// The socket given to `ulpm live --control`
    socket: PathBuf,
    /// What it is told
    #[arg(required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: &ControlArgs) -> Result<Exit, Failure> {
    let line = args.command.join(" ");
    let _: Command = line.parse().map_err(Failure::usage)?;
    let answer = ask(&args.socket, &line)?;
    match answer.strip_prefix("error: ") {
        Some(error) => Err(anyhow!(error.to_owned()).into()),
        None => {
            say(&(answer + "\n"))?;
            Ok(Exit::Done)
        }
    }
}

/// The kernel refuses to connect to any other file with the same words.
fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

fn ask(path: &Path, line: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("no migration is under way at {} (ulpm live --control makes it)", path.display())
        }
        io::ErrorKind::ConnectionRefused if !is_socket(path) => {
            anyhow!("{} is not the socket of a migration (ulpm live --control makes it)", path.display())
        }
        io::ErrorKind::ConnectionRefused => {
            anyhow!("the migration at {} is over: nobody listens there any more", path.display())
        }
        _ => anyhow::Error::new(e).context(format!("connecting to {}", path.display())),
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    writeln!(stream, "{line}").context("asking the migration")?;
    let mut answer = String::new();
    BufReader::new(stream.take(64 * LINE))
        .read_line(&mut answer)
        .context("waiting for the migration's answer")?;
    match answer.trim_end() {
        "" => bail!("the migration ended before it answered"),
        answer => Ok(answer.to_owned()),
    }
}

/// The socket of a migration; gone when this is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Listens at `path` for commands to `control`.
    pub(super) fn listen(path: &Path, control: Control) -> anyhow::Result<Self> {
        make_room(path)?;
        let listener = bind_private(path).with_context(|| format!("cannot listen at {}", path.display()))?;
        let inode = fs::symlink_metadata(path).map(|m| m.ino()).context("looking at the control socket")?;
        std::thread::Builder::new().name("control".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let control = control.clone();
                // too many at once: this one finds its connection closed
                let _ = std::thread::Builder::new()
                    .name("control".into())
                    .spawn(move || serve(&stream, &control));
            }
        })?;
        Ok(Socket { path: path.to_owned(), inode })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // not what somebody else has put there meanwhile
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes away a socket at which nobody listens any more; anything else that is there is in the way.
fn make_room(path: &Path) -> anyhow::Result<()> {
    let Ok(there) = fs::symlink_metadata(path) else { return Ok(()) };
    if !there.file_type().is_socket() {
        bail!("{} is there already and is no socket", path.display());
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("removing the stale socket {}", path.display()))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => bail!("another migration is controlled at {}", path.display()),
        Err(e) => Err(anyhow::Error::new(e).context(format!("{} is in use", path.display()))),
    }
}

/// The mode is set before there is a name: at no moment can anybody else connect.
fn bind_private(path: &Path) -> anyhow::Result<UnixListener> {
    let address = UnixAddr::new(path)?;
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &address)?;
    listen(&fd, Backlog::new(16)?)?;
    Ok(UnixListener::from(fd))
}

/// One who asks, until it has had enough.
fn serve(stream: &UnixStream, control: &Control) {
    let timed =
        stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    let Ok(()) = timed else { return };
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        match lines.by_ref().take(LINE).read_line(&mut line) {
            Ok(n) if n > 0 && line.ends_with('\n') => {}
            // the end, silence, a line too long, no text
            _ => return,
        }
        let answer = match line.parse::<Command>() {
            Ok(command) => control.obey(&command).unwrap_or_else(|e| format!("error: {e}")),
            Err(e) => format!("error: {e}"),
        };
        let mut out = stream;
        if writeln!(out, "{answer}").is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::convergence::policy::Limits;

    #[test]
    fn a_socket_answers_is_private_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let control = Control::new(Limits::default());
        let socket = Socket::listen(&path, control.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ask(&path, "set max-rounds=3").unwrap(), "ok, max-rounds=3");
        assert_eq!(control.limits().max_rounds, 3);
        assert!(ask(&path, "dance").unwrap().starts_with("error: 'dance' is no command"));
        assert!(ask(&path, &"x".repeat(5000)).is_err());
        assert!(ask(&path, "status").unwrap().starts_with("{\"id\":"));
        let taken = Socket::listen(&path, control.clone()).unwrap_err();
        assert!(taken.to_string().contains("another migration"), "{taken}");
        drop(socket);
        assert!(!path.exists());
        assert!(ask(&path, "status").unwrap_err().to_string().contains("no migration is under way"));
    }

    #[test]
    fn a_stale_socket_makes_room_and_a_file_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(ask(&path, "status").unwrap_err().to_string().contains("nobody listens"));
        let control = Control::new(Limits::default());
        let _socket = Socket::listen(&path, control.clone()).unwrap();
        assert!(ask(&path, "abort").unwrap().starts_with("ok"));
        let file = dir.path().join("f");
        fs::write(&file, "precious").unwrap();
        assert!(Socket::listen(&file, control).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }
}
