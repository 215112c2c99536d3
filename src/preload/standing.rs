//! Who the process is, rather than what it has: asked before anything else of it is read.
//!
//! Some answers are final, and reading on would only fail in a less telling way: a thread of the kernel has no
//! memory, another user's process shows nothing, ulpm cannot carry itself. Those come as [`PreloadError::Unfit`]
//! with their one obstacle. The others (a tracer, child processes, a stop) are collected with the rest of
//! preflight.
//!
//! Opening `/proc/PID/mem` is the question "may I trace it?" in the kernel's own words: it makes the very check of
//! `PTRACE_ATTACH` (owner, capabilities, dumpable, Yama and other security modules) and touches nothing.

use std::fs;
use std::io::{self, Read as _};

use super::PreloadError;
use crate::image::Obstacle;
use crate::state::{StateError, program};
use crate::sys::stat::Stat;
use crate::sys::voice;
use crate::tracee::freeze::tids;
use crate::tracee::thread::tracer_of;

/// What stands in the way because of what the process is.
pub fn obstacles(pid: i32) -> Result<Vec<Obstacle>, PreloadError> {
    // as a thread tells it that lives: a main thread that has ended is neither stopped nor traced
    let voice = voice::of(pid);
    let text = fs::read(format!("/proc/{voice}/status")).map_err(|_| PreloadError::NoSuchProcess(pid))?;
    // what is asked here stands in lines of plain text; a name need not be
    let text = String::from_utf8_lossy(&text);
    let status = Status(&text);
    let leader = status.number("Tgid").unwrap_or(pid);
    if leader != pid {
        return Err(PreloadError::NotAProcess(pid, leader));
    }
    let object = format!("process {pid}");
    if let Some((why, advice)) = unfit(pid, &status) {
        return Err(PreloadError::Unfit(Obstacle::new(object, why, advice)));
    }
    let mut found = Vec::new();
    let mut add = |why: String, advice: &str| found.push(Obstacle::new(&*object, why, advice));
    if status.state() == 'T' {
        add("it is stopped by job control".to_owned(), "let it go on with `kill -CONT`");
    }
    let tracer = status.number("TracerPid").unwrap_or(0);
    if tracer != 0 {
        let name = program::name(tracer);
        add(
            format!("it is traced by process {tracer} ({name})"),
            "end the debugger or strace that traces it",
        );
    }
    let children = children(pid);
    if !children.is_empty() {
        let list: Vec<String> =
            children.iter().map(|child| format!("{child} ({})", program::name(*child))).collect();
        add(
            format!(
                "it has child processes, and trees of processes are not carried yet: {}",
                list.join(", ")
            ),
            "wait until they have ended, or end them",
        );
    }
    let tracees = tracees(pid);
    if !tracees.is_empty() {
        let list: Vec<String> =
            tracees.iter().map(|tid| format!("{tid} ({})", program::name(*tid))).collect();
        add(format!("{TRACES}: {}", list.join(", ")), "have it let go of what it traces");
    }
    if fs::read_to_string(format!("/proc/{voice}/wchan")).is_ok_and(|wchan| wchan.contains("vfork")) {
        add("it waits in vfork".to_owned(), "try again when the child has started");
    }
    Ok(found)
}

/// What makes looking any further pointless.
fn unfit(pid: i32, status: &Status<'_>) -> Option<(String, String)> {
    let say = |why: &str, advice: &str| Some((why.to_owned(), advice.to_owned()));
    if is_ulpm_itself(pid) {
        return say("it is ulpm itself", "name another process");
    }
    if let Some(command) = ulpm_at_work(pid) {
        return say(
            &format!("it is a running `ulpm {command}`, which is at work for this host"),
            "name another process; at the target start an `ulpm` of its own",
        );
    }
    if is_kernel_thread(pid) {
        return say("it is a kernel thread", "name a process that runs a program");
    }
    if pid == 1 {
        return say(
            "it is the init process, which is neither moved nor stopped for a look: if it ended, so would every process of this host \
             or container",
            "name the process behind it that does the work",
        );
    }
    if !voice::lives(pid) {
        return say("it has ended and waits for its parent to notice", "there is nothing to move");
    }
    match fs::File::open(format!("/proc/{}/mem", voice::of(pid))) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Some(not_permitted(status)),
        _ if is_32_bit(pid) => {
            say("it is a 32-bit program, and these are not carried", "run a 64-bit build of it")
        }
        _ => None,
    }
}

/// Its addresses are of 32 bits (`ELFCLASS32`; x32, too).
fn is_32_bit(pid: i32) -> bool {
    let mut head = [0; 5];
    let read =
        fs::File::open(format!("/proc/{}/exe", voice::of(pid))).and_then(|mut exe| exe.read_exact(&mut head));
    read.is_ok() && head == *b"\x7fELF\x01"
}

/// The one that works, or the one that the user started, whose child it is.
fn is_ulpm_itself(pid: i32) -> bool {
    pid == std::process::id() as i32 || pid == nix::unistd::getppid().as_raw() && is_our_program(pid)
}

/// Whether a process runs the file that we run.
fn is_our_program(pid: i32) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let program = |who: &str| fs::metadata(format!("/proc/{who}/exe")).map(|exe| (exe.dev(), exe.ino()));
    program("self").is_ok_and(|own| program(&voice::of(pid).to_string()).is_ok_and(|theirs| theirs == own))
}

/// The command of another ulpm that moves, receives or watches processes: the same program, by its file.
fn ulpm_at_work(pid: i32) -> Option<&'static str> {
    if !is_our_program(pid) {
        return None;
    }
    at_work(&fs::read(format!("/proc/{}/cmdline", voice::of(pid))).unwrap_or_default())
}

/// The command in a command line of ours, if it is one that is at work for this host: the first word that is no option, nor the value
/// of one. What follows are names and paths of the user's.
fn at_work(line: &[u8]) -> Option<&'static str> {
    const AT_WORK: [&str; 5] = ["serve", "live", "profile", "check", "recover"];
    const WITH_VALUE: [&[u8]; 1] = [b"--fault"];
    let mut words = line.split(|byte| *byte == 0).skip(1);
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word) {
            words.next();
        } else if !word.starts_with(b"-") {
            return AT_WORK.into_iter().find(|command| command.as_bytes() == word);
        }
    }
    None
}

fn is_kernel_thread(pid: i32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.is_of_kernel())
}

/// Why we may not trace it, as far as that can be seen.
fn not_permitted(status: &Status<'_>) -> (String, String) {
    let (we, it) = (nix::unistd::geteuid().as_raw() as i32, status.number("Uid").unwrap_or(-1));
    let root = "run ulpm as root, or give it CAP_SYS_PTRACE";
    if we != it {
        let why =
            format!("you are not permitted to trace it: it belongs to {}, you are {}", user(it), user(we));
        let alternative = if it == 0 { String::new() } else { format!(", or as {}", user(it)) };
        return (why, format!("run ulpm as root{alternative}"));
    }
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let yama = yama.trim().parse::<u32>().unwrap_or(0);
    match yama {
        1.. => (
            format!(
                "you are not permitted to trace it: this host's setting kernel.yama.ptrace_scope is {yama}"
            ),
            match yama {
                3 => "set kernel.yama.ptrace_scope to 0 at the next boot".to_owned(),
                _ => format!("{root}, or set kernel.yama.ptrace_scope to 0"),
            },
        ),
        0 => (
            "you are not permitted to trace it: it has more rights than you, or has made itself not dumpable"
                .to_owned(),
            root.to_owned(),
        ),
    }
}

fn user(uid: i32) -> String {
    let known =
        u32::try_from(uid).ok().and_then(|uid| nix::unistd::User::from_uid(uid.into()).ok().flatten());
    known.map_or_else(|| format!("user {uid}"), |user| user.name)
}

/// Why a tracer is not moved.
pub const TRACES: &str = "it traces others, which would run free when it goes";

/// Threads that are traced by one of a process. The kernel has no list of them: every thread is asked.
pub fn tracees(pid: i32) -> Vec<i32> {
    let tracers = tids(pid).unwrap_or_default();
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse::<i32>().ok();
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(number);
    let traced = |tid: &i32| tracers.contains(&tracer_of(*tid));
    processes.flat_map(|process| tids(process).unwrap_or_default()).filter(traced).collect()
}

/// A process may have begun to trace another one since preflight: asked before the freeze.
pub fn undivided(pid: i32) -> Result<(), PreloadError> {
    match tracees(pid) {
        none if none.is_empty() => Ok(()),
        some => Err(StateError::Obstacles(format!("{TRACES}: {some:?}")).into()),
    }
}

/// The child processes of all its threads.
pub fn children(pid: i32) -> Vec<i32> {
    let of = |tid: i32| fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).unwrap_or_default();
    let lists: Vec<String> = tids(pid).unwrap_or_default().into_iter().map(of).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|child| child.parse().ok()).collect()
}

/// `/proc/PID/status`, which everybody may read.
struct Status<'a>(&'a str);

impl Status<'_> {
    fn field(&self, name: &str) -> Option<&str> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()
    }

    fn number(&self, name: &str) -> Option<i32> {
        self.field(name)?.parse().ok()
    }

    fn state(&self) -> char {
        self.field("State").and_then(|state| state.chars().next()).unwrap_or('?')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::spawn::quietly;

    #[test]
    fn we_ourselves_and_init_are_unfit_and_a_free_number_is_nobody() {
        let own = std::process::id() as i32;
        for (pid, word) in [(own, "itself"), (1, "init")] {
            let error = obstacles(pid).unwrap_err();
            assert!(matches!(&error, PreloadError::Unfit(o) if o.why.contains(word)), "{pid}: {error}");
        }
        assert!(matches!(obstacles(i32::MAX), Err(PreloadError::NoSuchProcess(_))));
    }

    #[test]
    fn a_command_is_where_commands_are() {
        let of = |line: &str| at_work(line.replace(' ', "\0").as_bytes());
        assert_eq!(of("ulpm -v --fault source.sent=kill live 42 --to b"), Some("live"));
        assert_eq!(of("/usr/bin/ulpm --quiet serve"), Some("serve"));
        for line in
            ["ulpm trust add SHA256:x --name live", "ulpm demo -- check", "ulpm", "ulpm --fault live", ""]
        {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn a_thread_is_told_from_its_process() {
        let own = std::process::id() as i32;
        let tid = nix::unistd::gettid().as_raw();
        assert!(matches!(obstacles(tid), Err(PreloadError::NotAProcess(t, p)) if t == tid && p == own));
    }

    #[test]
    fn children_are_named() {
        let mut shell = std::process::Command::new("sh");
        let mut shell =
            quietly(shell.args(["-c", "sleep 60 & echo; wait"]).stdout(std::process::Stdio::piped()));
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.take().unwrap()), &mut line)
            .unwrap();
        let pid = shell.id() as i32;
        let found = obstacles(pid).unwrap();
        let sleeper = children(pid);
        for child in &sleeper {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(*child), nix::sys::signal::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
        assert_eq!(sleeper.len(), 1);
        assert!(found.iter().any(|o| o.why.contains(&sleeper[0].to_string())), "{found:?}");
    }
}
