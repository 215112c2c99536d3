//! Preflight: who started the process, what that will see when it is killed here, and whether it starts a second copy.
//!
//! A process that has moved is killed at the source: its parent reads "killed by SIGKILL", which a shell shows as status
//! 137. What reaps without caring (init, a subreaper, `ulpm serve`) needs no word. The others are named in a note; one
//! that is known to start what has died again is an obstacle, unless the user says that it knows (`--parent-knows`).
//!
//! The kernel does not tell a parent from a subreaper that got the process later; names do. A unit of systemd is asked for
//! by the process's control group, and counts for its main process only.

use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::image::{Note, Obstacle};
use crate::state::program;
use crate::sys::stat::Stat;
use crate::sys::voice;

/// How long systemd may take to answer.
const ASKING: Duration = Duration::from_secs(5);

const SHELLS: [&str; 16] = [
    "sh", "bash", "dash", "zsh", "fish", "ksh", "ksh93", "mksh", "ash", "csh", "tcsh", "yash", "busybox",
    "elvish", "nu", "xonsh",
];

/// Beginnings of names, as `/proc/PID/comm` cuts them (15 bytes), and what they belong to.
const SUPERVISORS: [(&str, &str); 21] = [
    ("runsv", "runit"),
    ("s6-supervise", "s6"),
    ("supervisord", "supervisord"),
    ("supervise-daemo", "OpenRC"),
    ("supervise", "daemontools"),
    ("monit", "monit"),
    ("PM2 v", "pm2"),
    ("pm2", "pm2"),
    ("dinit", "dinit"),
    ("perpd", "perp"),
    ("circusd", "circus"),
    ("daemon", "daemon"),
    ("nodemon", "nodemon"),
    ("god", "god"),
    ("forever", "forever"),
    ("containerd-shim", "a container runtime"),
    ("docker-containe", "a container runtime"),
    ("conmon", "podman"),
    ("lxc-start", "LXC"),
    ("systemd-nspawn", "a container runtime"),
    ("crun", "a container runtime"),
];

/// What kind of a parent it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Reaps what ends, and does not care.
    Reaper,
    /// A shell.
    Shell,
    /// The manager of this unit, whose main process it is.
    Unit(Unit),
    /// What starts again what has died.
    Supervisor(&'static str),
    /// Not to be seen from here.
    Outside,
    /// Anything else.
    Other,
}

/// A unit of systemd.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unit {
    name: String,
    /// `Restart=`; `None`: it could not be asked for, for this reason.
    restart: Result<String, String>,
    /// Whether it is started again when its main process was killed.
    again: bool,
}

/// What is to be told of the session of a process that leads none.
pub(super) fn session(pid: i32) -> Option<Note> {
    let stat = Stat::of(voice::of(pid))?;
    let (session, group) = (stat.session()?, stat.group()?);
    let others = |leader: i32, what: &str| match leader {
        0 => format!("a {what} from outside of this pid namespace"),
        leader if Stat::of(leader).is_some_and(|stat| !stat.has_ended()) => {
            format!("the {what} of {leader} ({})", program::name(leader))
        }
        leader => format!("{what} {leader}"),
    };
    let mut is_in = Vec::new();
    if session != pid {
        is_in.push(others(session, "session"));
    }
    if group != pid {
        is_in.push(others(group, "process group"));
    }
    let what =
        format!("it is in {} here, and leads a session and a group of its own there", is_in.join(" and "));
    (!is_in.is_empty()).then(|| Note::new(format!("process {pid}"), what))
}

/// What is to be told of the parent of a process.
pub fn look(pid: i32, knows: bool) -> (Vec<Note>, Vec<Obstacle>) {
    let Some(parent) = parent_of(pid) else { return Default::default() };
    let name = program::name(parent);
    let kind = if parent == 0 { Kind::Outside } else { kind(pid, parent, &name) };
    let object = match &kind {
        Kind::Unit(unit) => format!("parent {parent} ({name}), unit {}", unit.name),
        Kind::Outside => "parent".to_owned(),
        _ => format!("parent {parent} ({name})"),
    };
    let sees = format!("it sees process {pid} killed by SIGKILL (status 137)");
    let (what, advice) = match &kind {
        Kind::Reaper => return Default::default(),
        Kind::Shell => (format!("a shell: {sees}; if it loops, it starts a second copy here"), None),
        Kind::Other => (format!("{sees}, as if it had failed, and acts on that"), None),
        Kind::Outside => (format!("it is outside of this pid namespace: {sees}, as if it had failed"), None),
        Kind::Supervisor(of) => (
            format!("a supervisor ({of}): {sees}, and starts a second copy here"),
            Some(stop_advice(of, parent) + "say --parent-knows when it will not"),
        ),
        Kind::Unit(Unit { restart: Err(why), .. }) => (
            format!("{sees}; whether it starts a second copy here cannot be asked: {why}"),
            Some("say --parent-knows if it does not".to_owned()),
        ),
        Kind::Unit(Unit { restart: Ok(restart), again: true, name }) => (
            format!("Restart={restart}: {sees}, and starts a second copy here"),
            Some(format!(
                "add RestartPreventExitStatus=SIGKILL to its [Service] (`systemctl edit --runtime {name}`), or say --parent-knows"
            )),
        ),
        Kind::Unit(Unit { restart: Ok(restart), .. }) => {
            (format!("Restart={restart}: {sees}, and starts no second copy; the unit has failed then"), None)
        }
    };
    match advice {
        Some(advice) if !knows => (Vec::new(), vec![Obstacle::new(object, what, advice)]),
        _ => (vec![Note::new(object, what)], Vec::new()),
    }
}

fn parent_of(pid: i32) -> Option<i32> {
    Stat::of(pid)?.parent()
}

/// What one may say to a supervisor, where there is something to say.
fn stop_advice(of: &str, parent: i32) -> String {
    let place = fs::read_link(format!("/proc/{parent}/cwd")).map(|dir| dir.display().to_string());
    match (of, place) {
        // runsv works in the directory of its service
        ("runit", Ok(dir)) => format!("tell it not to (`sv once {dir}`), and "),
        _ => "tell it not to, and ".to_owned(),
    }
}

fn kind(pid: i32, parent: i32, name: &str) -> Kind {
    if name == "systemd" {
        return unit_of(pid).map_or(Kind::Reaper, Kind::Unit);
    }
    if parent == 1 || is_ulpm(parent, name) {
        return Kind::Reaper;
    }
    // a login shell is `-bash` to some
    if SHELLS.contains(&name.trim_start_matches('-')) {
        return Kind::Shell;
    }
    supervisor(name).map_or(Kind::Other, Kind::Supervisor)
}

/// The whole name, but where it is cut or carries a version.
fn supervisor(name: &str) -> Option<&'static str> {
    let is = |known: &str| {
        name == known
            || known.len() == 15 && name.starts_with(known)
            || known == "PM2 v" && name.starts_with(known)
    };
    SUPERVISORS.iter().find(|(known, _)| is(known)).map(|(_, of)| *of)
}

/// `ulpm serve`, or the init that it gave to a process that came before.
fn is_ulpm(parent: i32, name: &str) -> bool {
    let arguments = fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
    let nursery = arguments.split(|b| *b == 0).nth(1) == Some(b"__nursery");
    name == "ulpm" || nursery
}

/// The unit of systemd whose main process this is.
fn unit_of(pid: i32) -> Option<Unit> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let (manager, name) = service(&groups)?;
    Some(match ask(manager, &name) {
        Ok(said) => {
            let field = |key: &str| {
                said.lines()
                    .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
                    .unwrap_or_default()
                    .to_owned()
            };
            // none is known: the unit lives as long as any of its processes
            let main = field("MainPID");
            if !["0", "", &pid.to_string()].contains(&main.as_str()) {
                return None;
            }
            let again = starts_again(
                &field("Restart"),
                &field("RestartPreventExitStatus"),
                &field("SuccessExitStatus"),
            );
            Unit { name, restart: Ok(field("Restart")), again }
        }
        Err(why) => Unit { name, restart: Err(why), again: true },
    })
}

/// The service of a process, by its control groups, and the user whose manager has it.
fn service(groups: &str) -> Option<(Option<u32>, String)> {
    let path = |prefix: &str| groups.lines().find_map(|l| l.split_once(':')?.1.strip_prefix(prefix));
    let path = path("name=systemd:").filter(|p| *p != "/").or_else(|| path(":"))?;
    let parts: Vec<&str> = path.split('/').collect();
    let at = parts.iter().rposition(|p| p.ends_with(".service") || p.ends_with(".scope"))?;
    if !parts[at].ends_with(".service") {
        return None;
    }
    let user = |part: &&str| part.strip_prefix("user@")?.strip_suffix(".service")?.parse().ok();
    let manager = parts[..at].iter().find_map(user);
    // the manager of a user is a service, too
    Some((manager, parts[at].to_owned()))
}

/// Whether `Restart=` (systemd.service(5)) starts a service again whose main process was killed by SIGKILL.
fn starts_again(restart: &str, prevent: &str, success: &str) -> bool {
    let lists = |list: &str| list.split_whitespace().any(|word| matches!(word, "SIGKILL" | "KILL" | "9"));
    if lists(prevent) {
        return false;
    }
    match restart {
        "no" | "on-watchdog" => false,
        "on-success" => lists(success),
        "on-failure" | "on-abnormal" | "on-abort" => !lists(success),
        _ => true,
    }
}

/// Asks the manager of the system, or of a user.
fn ask(manager: Option<u32>, unit: &str) -> Result<String, String> {
    let mut command = Command::new("systemctl");
    match manager {
        Some(uid) if nix::unistd::getuid().as_raw() == uid => command.arg("--user"),
        Some(uid) => command.args(["--user", &format!("--machine={uid}@.host")]),
        None => &mut command,
    };
    command.args([
        "show",
        "--property=MainPID,Restart,RestartPreventExitStatus,SuccessExitStatus",
        "--",
        unit,
    ]);
    let (said, complaint) = heard(command).map_err(|e| format!("systemctl: {e}"))?;
    if said.contains("Restart=") {
        return Ok(said);
    }
    Err(format!("systemctl: {}", complaint.lines().next().unwrap_or("no answer")))
}

/// What a command says on its two outputs until it ends; one that takes too long is ended.
fn heard(mut command: Command) -> io::Result<(String, String)> {
    const MOST: u64 = 64 * 1024;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut child = tokio::process::Command::from(command).spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let all = async { tokio::join!(text(out, MOST), text(err, MOST), child.wait()) };
        match tokio::time::timeout(ASKING, all).await {
            Ok((out, err, status)) => status.map(|_| (out, err)),
            Err(_) => {
                child.kill().await?;
                Err(io::Error::other(format!("no answer within {} s", ASKING.as_secs())))
            }
        }
    })
}

/// All that comes, up to so many bytes; what comes after them is not waited for.
async fn text(pipe: Option<impl AsyncRead + Unpin>, most: u64) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // what was read before an error is as good
        let _ = pipe.take(most).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leads_no_session_is_told_so() {
        let mut own = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = own.id() as i32;
        let note = session(pid).unwrap().what;
        let ours = nix::unistd::getsid(None).unwrap();
        assert!(
            note.contains("session") && (note.contains(&ours.to_string()) || note.contains("outside")),
            "{note}"
        );
        own.kill().unwrap();
        own.wait().unwrap();
        assert_eq!(session(pid), None);
        let mut leader = Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
        let pid = leader.id() as i32;
        // it leads one as soon as the program has said so
        while Stat::of(pid).and_then(|stat| stat.session()) != Some(pid) {}
        assert_eq!(session(pid), None);
        leader.kill().unwrap();
        leader.wait().unwrap();
    }

    #[test]
    fn what_systemd_starts_again() {
        for restart in ["always", "on-failure", "on-abnormal", "on-abort", "of the future"] {
            assert!(starts_again(restart, "", ""), "{restart}");
            assert!(!starts_again(restart, "1 SIGKILL", ""), "{restart}");
        }
        for restart in ["no", "on-success", "on-watchdog"] {
            assert!(!starts_again(restart, "", ""), "{restart}");
        }
        assert!(starts_again("on-success", "", "SIGKILL") && !starts_again("on-failure", "", "KILL"));
    }

    #[test]
    fn services_by_their_control_groups() {
        let system = "0::/system.slice/nginx.service\n";
        assert_eq!(service(system), Some((None, "nginx.service".to_owned())));
        let hybrid = "9:name=systemd:/system.slice/a.service\n4:memory:/x\n0::/\n";
        assert_eq!(service(hybrid), Some((None, "a.service".to_owned())));
        let user = "0::/user.slice/user-7.slice/user@7.service/app.slice/b.service/inner\n";
        assert_eq!(service(user), Some((Some(7), "b.service".to_owned())));
        for none in [
            "0::/\n",
            "0::/user.slice/user-7.slice/session-1.scope\n",
            "0::/user.slice/user@7.service/init.scope\n",
            "",
        ] {
            assert_eq!(service(none), None, "{none}");
        }
    }

    #[test]
    fn parents_by_their_names() {
        for (name, of) in [
            ("runsv", "runit"),
            ("PM2 v5.3.0: God", "pm2"),
            ("containerd-shim", "a container runtime"),
            ("supervise", "daemontools"),
        ] {
            assert_eq!(supervisor(name), Some(of));
        }
        assert_eq!(supervisor("goddess"), None);
        assert_eq!(kind(1, 1_000_000, "-bash"), Kind::Shell);
        assert_eq!(kind(1, 1_000_000, "python3"), Kind::Other);
        assert_eq!(kind(1, 1, "init"), Kind::Reaper);
        assert_eq!(kind(1, 1_000_000, "ulpm"), Kind::Reaper);
    }
}
