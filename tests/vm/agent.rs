//! The agent: the first process of a machine, which does what the test outside asks for over a virtio serial port,
//! buries what has ended, and powers the machine off when nobody listens any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::wire::{Answer, Answered, Asked, EAR, HELLO, Line, Place, Request, Sink, receive, send};

/// The only port of the machine's only serial device.
const PORT: &str = "/dev/vport0p1";
/// Outputs of commands.
const OUTPUTS: &str = "/run/outputs";
/// How often a condition is looked at that nobody announces.
const GLANCE: Duration = Duration::from_millis(5);

/// What the threads of the agent share.
#[derive(Default)]
struct Agent {
    children: Mutex<Children>,
    ended: Condvar,
    /// What was said from which port.
    heard: Mutex<BTreeMap<u16, String>>,
}

#[derive(Default)]
struct Children {
    started: BTreeSet<i32>,
    exits: BTreeMap<i32, i32>,
    count: u32,
}

/// Serves until the test has gone, then powers off.
pub(super) fn main() -> ! {
    if let Err(error) = serve() {
        eprintln!("agent: {error:#}");
    }
    let _ = Command::new("/bin/poweroff").arg("-f").status();
    std::process::exit(1);
}

fn serve() -> Result<()> {
    let _ = nix::unistd::setsid();
    fs::create_dir_all(OUTPUTS)?;
    let agent = Arc::new(Agent::default());
    let ear = UdpSocket::bind((Ipv4Addr::LOCALHOST, EAR)).context("bind the ear")?;
    let (listening, burying) = (Arc::clone(&agent), Arc::clone(&agent));
    thread::spawn(move || listening.listen(&ear));
    thread::spawn(move || burying.bury());
    let mut port = OpenOptions::new().read(true).write(true).open(PORT).context(PORT)?;
    let answers = Arc::new(Mutex::new(port.try_clone()?));
    say(&answers, &Answered { number: HELLO, answer: Ok(Answer::Done) })?;
    loop {
        let Asked { number, request } = receive(&mut port)?;
        let (agent, answers) = (Arc::clone(&agent), Arc::clone(&answers));
        thread::spawn(move || {
            let answer = agent.answer(request).map_err(|error| format!("{error:#}"));
            if let Err(error) = say(&answers, &Answered { number, answer }) {
                eprintln!("agent: cannot answer: {error}");
            }
        });
    }
}

fn say(answers: &Mutex<File>, answer: &Answered) -> io::Result<()> {
    send(&mut *lock(answers), answer)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    fn answer(&self, request: Request) -> Result<Answer> {
        match request {
            Request::Run { command, patience } => self.run(&command, patience),
            Request::Start { command, output } => {
                let (pid, place) = self.start(&command, output)?;
                Ok(Answer::Started { pid, place })
            }
            Request::Wait { pid, patience } => match self.wait(pid, patience) {
                Some(exit) => Ok(Answer::Ended { exit, stdout: Vec::new(), stderr: Vec::new() }),
                None => bail!("process {pid} has not ended after {patience:?}"),
            },
            Request::Until { place, words, pid, patience } => self.until(&place, &words, pid, patience),
            Request::Read { path, from } => read_from(&path, from).map(Answer::Bytes),
            Request::Write { path, content } => {
                fs::write(&path, content).with_context(|| format!("write {path}"))?;
                Ok(Answer::Done)
            }
            Request::Alive { pid } => Ok(Answer::Alive(is_alive(pid))),
            Request::Reset => self.reset(),
        }
    }

    fn run(&self, command: &Line, patience: Duration) -> Result<Answer> {
        let (pid, place) = self.start(command, Sink::File)?;
        let mut exit = self.wait(pid, patience);
        if exit.is_none() {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            exit = self.wait(pid, patience);
        }
        let Place::Files(files) = place else { bail!("no files") };
        let said: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap_or_default()).collect();
        for path in &files {
            let _ = fs::remove_file(path);
        }
        let [stdout, stderr] = said.try_into().map_err(|_| anyhow::anyhow!("not two files"))?;
        Ok(Answer::Ended { exit: exit.context("a killed process does not end")?, stdout, stderr })
    }

    /// Starts a command as the leader of a process group of its own, input from `/dev/null`.
    fn start(&self, line: &Line, output: Sink) -> Result<(i32, Place)> {
        let (name, args) = line.argv.split_first().context("no command")?;
        let mut command = Command::new(name);
        command.args(args).envs(&line.env).process_group(0).stdin(Stdio::null()).current_dir("/");
        // While this is held, nobody buries a child of whose start `Command` has yet to hear.
        let mut children = lock(&self.children);
        children.count += 1;
        let place = match output {
            Sink::File => {
                let files = ["out", "err"].map(|kind| format!("{OUTPUTS}/{:04}.{kind}", children.count));
                command.stdout(File::create(&files[0])?).stderr(File::create(&files[1])?);
                Place::Files(files.into())
            }
            Sink::Ear => {
                let mouth = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                mouth.connect((Ipv4Addr::LOCALHOST, EAR))?;
                let port = mouth.local_addr()?.port();
                lock(&self.heard).remove(&port);
                command.stdout(OwnedFd::from(mouth)).stderr(Stdio::null());
                Place::Ear(port)
            }
        };
        let child = command.spawn().with_context(|| format!("start {:?}", line.argv))?;
        let pid = i32::try_from(child.id())?;
        children.started.insert(pid);
        children.exits.remove(&pid);
        Ok((pid, place))
    }

    /// The exit code of a command that was started; `None` if it still runs then.
    fn wait(&self, pid: i32, patience: Duration) -> Option<i32> {
        let children = lock(&self.children);
        let waiting = self.ended.wait_timeout_while(children, patience, |it| !it.exits.contains_key(&pid));
        let (children, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        children.exits.get(&pid).copied()
    }

    fn until(&self, place: &Place, words: &[String], pid: Option<i32>, patience: Duration) -> Result<Answer> {
        let deadline = Instant::now() + patience;
        loop {
            // In this order: what it said before it ended is heard.
            let has_ended = pid.is_some_and(|pid| !is_alive(pid));
            if has_ended && matches!(place, Place::Ear(_)) {
                self.hear_all()?;
            }
            let said = self.said(place);
            if has_ended || words.iter().any(|word| said.contains(word)) {
                return Ok(Answer::Said(said));
            }
            ensure!(Instant::now() < deadline, "waited {patience:?} in vain for {words:?}: {said}");
            thread::sleep(GLANCE);
        }
    }

    fn said(&self, place: &Place) -> String {
        match place {
            Place::Ear(port) => lock(&self.heard).get(port).cloned().unwrap_or_default(),
            Place::Files(files) => {
                let read = |path: &String| fs::read(path).unwrap_or_default();
                String::from_utf8_lossy(&files.iter().flat_map(read).collect::<Vec<u8>>()).into_owned()
            }
        }
    }

    /// Waits until the ear has heard a word of ours: then it has heard all that was said before.
    fn hear_all(&self) -> Result<()> {
        let mouth = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        mouth.send_to(b"heard?", (Ipv4Addr::LOCALHOST, EAR))?;
        let port = mouth.local_addr()?.port();
        while lock(&self.heard).remove(&port).is_none() {
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn listen(&self, ear: &UdpSocket) {
        let mut said = vec![0; 1 << 16];
        loop {
            match ear.recv_from(&mut said) {
                Ok((length, from)) => {
                    let text = String::from_utf8_lossy(&said[..length]);
                    lock(&self.heard).entry(from.port()).or_default().push_str(&text);
                }
                Err(error) => eprintln!("agent: the ear: {error}"),
            }
        }
    }

    /// Reaps every child, also those that were adopted.
    fn bury(&self) {
        loop {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            let Some(pid) = waitid(Id::All, flags).ok().and_then(|status| status.pid()) else {
                thread::sleep(GLANCE);
                continue;
            };
            let mut children = lock(&self.children);
            let exit = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => code,
                Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
                _ => continue,
            };
            if children.started.remove(&pid.as_raw()) {
                children.exits.insert(pid.as_raw(), exit);
                self.ended.notify_all();
            }
        }
    }

    /// Ends all that runs, in other pid namespaces too.
    fn reset(&self) -> Result<Answer> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left: Vec<i32> = processes();
            if left.is_empty() {
                break;
            }
            for pid in &left {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            ensure!(Instant::now() < deadline, "these processes do not end: {left:?}");
            thread::sleep(GLANCE);
        }
        *lock(&self.heard) = BTreeMap::new();
        for output in fs::read_dir(OUTPUTS)?.flatten() {
            fs::remove_file(output.path())?;
        }
        Ok(Answer::Done)
    }
}

fn read_from(path: &str, from: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    if let Ok(mut file) = File::open(path) {
        file.seek(SeekFrom::Start(from))?;
        file.read_to_end(&mut content)?;
    }
    Ok(content)
}

/// The state letter of a process; `None` if there is none.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// All processes with a memory of their own (kernel threads have none) but this one.
fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let kernel = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_err();
    pids.filter(|pid| *pid != 1 && is_alive(*pid) && !kernel(pid)).collect()
}
