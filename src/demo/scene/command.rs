//! Commands of ulpm run in a host: to their end, or until they are ready; what they say is relayed
//! line by line, and its end is kept for the error message.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::error::{SceneError, Tail, own};
use super::watcher::Watcher;
use crate::demo::hosts::{Host, HostProcess, Stdio3};

const LINES_KEPT: usize = 12;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the last lines of an ended command may take to come through its pipe.
const LAST_LINES: Duration = Duration::from_millis(500);

/// One invocation of the ulpm binary in a host.
pub(super) struct Invocation<'a> {
    /// Where.
    pub(super) host: &'a Host,
    /// The binary.
    pub(super) program: &'a Path,
    /// Its arguments.
    pub(super) args: Vec<String>,
    /// Where it runs and where its output goes.
    pub(super) dir: &'a Path,
    /// Whether what it says on stderr is relayed as it says it.
    pub(super) relayed: bool,
}

/// A command that has been started.
pub(super) struct Running {
    host: String,
    command: String,
    process: HostProcess,
    stdout: PathBuf,
    said: Arc<Mutex<VecDeque<String>>>,
    relay: thread::JoinHandle<()>,
}

/// A command that has ended.
pub(super) struct Ended {
    /// How.
    pub(super) status: ExitStatus,
    /// All of its standard output.
    pub(super) stdout: String,
    /// The end of its standard error.
    pub(super) stderr: Tail,
}

impl Invocation<'_> {
    /// Starts it.
    pub(super) fn start(&self, watcher: &Watcher) -> Result<Running, SceneError> {
        let program = self.program.to_string_lossy();
        let mut argv = vec![program.as_ref()];
        argv.extend(self.args.iter().map(String::as_str));
        let command = format!("ulpm {}", self.args.join(" "));
        let stdout = self.dir.join(format!("{}-{}.out", self.host.name(), self.args[0]));
        let (reader, stdio) = output_to(&stdout).map_err(own("make files for a command's output"))?;
        let process = self.host.spawn(&argv, self.dir, stdio)?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let relayed = self.relayed.then(|| watcher.clone());
        let relay = {
            let said = Arc::clone(&said);
            thread::Builder::new()
                .name("relay".into())
                .spawn(move || relay(reader, &said, relayed.as_ref()))
                .map_err(own("start a thread"))?
        };
        Ok(Running { host: self.host.name().into(), command, process, stdout, said, relay })
    }

    /// Runs it to its end, whatever that is.
    pub(super) fn run(&self, patience: Duration, watcher: &Watcher) -> Result<Ended, SceneError> {
        let mut running = self.start(watcher)?;
        let status = running.wait(patience, watcher)?;
        let stderr = running.tail_at_end();
        let read = |path| -> io::Result<String> {
            let mut text = String::new();
            File::open(path)?.read_to_string(&mut text)?;
            Ok(text)
        };
        let stdout = read(&running.stdout).map_err(own("read a command's output"))?;
        Ok(Ended { status, stdout, stderr })
    }

    /// Runs it to its end, which must be success; its trimmed standard output.
    pub(super) fn answer(&self, patience: Duration, watcher: &Watcher) -> Result<String, SceneError> {
        let ended = self.run(patience, watcher)?;
        if ended.status.success() {
            return Ok(ended.stdout.trim().to_owned());
        }
        let (host, command) = (self.host.name().into(), format!("ulpm {}", self.args.join(" ")));
        Err(SceneError::Command { host, command, status: ended.status, stderr: ended.stderr })
    }
}

impl Running {
    /// Waits until it says a line that `wanted` accepts.
    pub(super) fn wait_for_line(
        &mut self,
        what: &'static str,
        wanted: impl Fn(&str) -> bool,
        patience: Duration,
        watcher: &Watcher,
    ) -> Result<(), SceneError> {
        let deadline = Instant::now() + patience;
        loop {
            if self.lines().iter().any(|line| wanted(line)) {
                return Ok(());
            }
            if let Some(status) = self.ended()? {
                let stderr = self.tail_at_end();
                return Err(SceneError::Command {
                    host: self.host.clone(),
                    command: self.command.clone(),
                    status,
                    stderr,
                });
            }
            self.pause(what, deadline, patience, watcher)?;
        }
    }

    /// The end of what it has said so far.
    pub(super) fn tail(&self) -> Tail {
        Tail { whose: format!("'{}' on {}", self.command, self.host), lines: self.lines() }
    }

    fn wait(&mut self, patience: Duration, watcher: &Watcher) -> Result<ExitStatus, SceneError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            self.pause("end", deadline, patience, watcher)?;
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, SceneError> {
        self.process.wait(Duration::ZERO).map_err(own("wait for a command"))
    }

    fn pause(
        &self,
        what: &'static str,
        deadline: Instant,
        patience: Duration,
        watcher: &Watcher,
    ) -> Result<(), SceneError> {
        watcher.go_on()?;
        if Instant::now() >= deadline {
            return Err(SceneError::TooSlow {
                host: self.host.clone(),
                command: self.command.clone(),
                what,
                seconds: patience.as_secs(),
                stderr: self.tail(),
            });
        }
        thread::sleep(LOOK_EVERY);
        Ok(())
    }

    fn tail_at_end(&self) -> Tail {
        let deadline = Instant::now() + LAST_LINES;
        while !self.relay.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.tail()
    }

    fn lines(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn output_to(stdout: &Path) -> io::Result<(PipeReader, Stdio3)> {
    let (reader, stderr) = io::pipe()?;
    let stdio = Stdio3 {
        stdin: File::open("/dev/null")?.into(),
        stdout: File::create(stdout)?.into(),
        stderr: OwnedFd::from(stderr),
    };
    Ok((reader, stdio))
}

fn relay(from: PipeReader, said: &Mutex<VecDeque<String>>, to: Option<&Watcher>) {
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if let Some(watcher) = to {
            watcher.say(&format!("  {line}"));
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_back(line);
        if said.len() > LINES_KEPT {
            said.pop_front();
        }
    }
}
