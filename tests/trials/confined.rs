//! What a process has done to its own threads: confined them, taken their calls away from the kernel, put them into 32-bit code.
//! Our hand in it must not harm it, and what of it cannot be carried is refused by its name.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::Victim;
use crate::lab::needs::Need;
use crate::lab::process::Ended;
use crate::lab::{Lab, SOON, ULPM, victims, wait_until};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("sleeps are remembered after an abort by the journal", &[], |lab| {
            remembered(lab, "source.journal.committed=full", None)
        }),
        trial("sleeps are remembered after the answer that it never runs there", &[], |lab| {
            remembered(lab, "", Some("target.journal.committed=full"))
        }),
        trial("foreign is watched, given up and moved", &[], given_up),
        trial("a thread under seccomp is left alone", &[], confined_thread),
        trial("a thread that confines itself just before the freeze", &[], confined_later),
        trial("a process that traces another is refused", &[], tracer),
        trial("a process that begins another program", &[], another_program),
        trial("a 32-bit program is refused", &[], program_of_32_bit),
        trial("what ulpm serve has given up is noted", &[Need::Program("setpriv")], confined_server),
    ]
}

/// A move that is given up here after everything was captured and put.
const GIVEN_UP: &str = "source.journal.committed=full";

/// `ulpm live` with a fault of its own.
pub(super) fn given_up_at(lab: &Lab, victim: &Victim, fault: &str) -> Result<()> {
    let (pid, to) = (victim.pid.to_string(), lab.address("b"));
    let aborted = lab.run("a", &[ULPM, "--fault", fault, "live", "--pid", &pid, "--to", &to], 3 * SOON)?;
    ensure!(aborted.exit == 4 && aborted.stderr.contains("runs on here"), "{aborted:?}");
    victim.check_running(lab)
}

pub(super) fn profile(lab: &Lab, pid: i32) -> Result<Ended> {
    lab.run("a", &[ULPM, "profile", "--pid", &pid.to_string(), "--seconds", "1"], 3 * SOON)
}

/// Neither a profile nor a move that comes to nothing changes anything of it.
fn given_up(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "foreign")?;
    let outside = victim.outside_pid(lab)?;
    let caught = || status(outside, "SigCgt");
    let before = caught()?;
    let watched = profile(lab, victim.pid)?;
    ensure!(watched.exit == 0, "{watched:?}");
    victim.check_running(lab)?;
    for fault in [GIVEN_UP, "source.furnished=memory", "source.captured=memory"] {
        given_up_at(lab, &victim, fault)?;
        ensure!(caught()? == before, "{fault}: caught signals changed");
    }
    victim.move_to(lab, "b")?;
    victim.finish()
}

/// A field of `/proc/PID/status`.
pub(super) fn status(outside: i32, name: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{outside}/status"))?;
    let field = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(field.with_context(|| format!("no {name}"))?.trim().to_owned())
}

/// Its first thread is free, another one under a filter that kills: it is refused, and no call is made in that one's name.
fn confined_thread(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    for how in ["kill", "strict"] {
        let victim = Victim::start_until(lab, how, &[&victims::tool("cell")?, how])?;
        let pid = victim.pid.to_string();
        let watched = profile(lab, victim.pid)?;
        ensure!(watched.exit == 0, "{watched:?}");
        let check = lab.run("a", &[ULPM, "check", "--pid", &pid], SOON)?;
        ensure!(check.exit == 3 && check.stdout.contains("seccomp"), "{check:?}");
        let outcome = lab.live("a", victim.pid, "b", &[])?;
        outcome
            .refused(3, &["thread", &format!("of process {pid}"), "seccomp filter", "nothing was touched"])?;
        victim.check_running(lab)?;
        victim.finish()?;
    }
    Ok(())
}

/// Free while it is checked and attached to, confined before the freeze: given up before a call in that thread's name.
fn confined_later(lab: &mut Lab) -> Result<()> {
    const FAULT: &str = "source.poised=stop";
    lab.serve("b")?;
    let victim = Victim::start_command(lab, &[&victims::tool("cell")?, "later"])?;
    let live = lab.start_live("a", victim.pid, &lab.address("b"), &["--fault", FAULT])?;
    let struck = format!("fault {FAULT} in process ");
    wait_until("the last moment before the freeze", SOON, || live.errors().contains(&struck))?;
    fs::write(lab.dir().join("stop.now"), "")?;
    let outside = victim.outside_pid(lab)?;
    let confined = |tid: &i32| status(*tid, "Seccomp").is_ok_and(|mode| mode == "2");
    wait_until("a thread is confined", SOON, || {
        ulpm::tracee::freeze::tids(outside).unwrap_or_default().iter().any(confined)
    })?;
    let said = live.errors();
    let worker =
        said.split_once(&struck).and_then(|(_, rest)| rest.split_whitespace().next()).context("no pid")?;
    lab.go_on("a", worker)?;
    live.outcome()?.refused(4, &["thread", "seccomp filter", "runs on here"])?;
    victim.check_running(lab)?;
    victim.finish()
}

/// It begins another program while it is attached to, and just before the freeze: nothing of the old one is taken for the new one.
fn another_program(lab: &mut Lab) -> Result<()> {
    // no child comes and goes
    const RUN: &str = "echo ready; until [ -e $1.now ]; do :; done; exec sh -c 'until [ -e $1 ]; do :; done; echo PASS' sh $1";
    lab.serve("b")?;
    for (i, (fault, tracker)) in [
        ("source.ready=stop", "wp-scan"),
        ("source.round=stop", "wp-scan"),
        ("source.poised=stop", "checksum"),
    ]
    .into_iter()
    .enumerate()
    {
        let stop = format!("stop{i}");
        let victim = Victim::start_until(lab, &stop, &["bash", "-c", RUN, "bash"])?;
        let args = ["--fault", fault, "--tracker", tracker];
        let live = lab.start_live("a", victim.pid, &lab.address("b"), &args)?;
        let struck = format!("fault {fault} in process ");
        wait_until("the moment has come", SOON, || live.errors().contains(&struck))?;
        let outside = victim.outside_pid(lab)?;
        let program = || fs::read_to_string(format!("/proc/{outside}/comm")).unwrap_or_default();
        fs::write(lab.dir().join(format!("{stop}.now")), "")?;
        wait_until("it runs another program", SOON, || program().trim() == "sh")?;
        let said = live.errors();
        let worker = said
            .split_once(&struck)
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .context("no pid")?;
        lab.go_on("a", worker)?;
        let outcome = live.outcome()?;
        outcome.refused(4, &["has begun another program meanwhile", "runs on here"]).context(fault)?;
        ensure!(outcome.report["outcome"] == "aborted", "{outcome:?}");
        victim.check_running(lab)?;
        victim.finish()?;
    }
    Ok(())
}

fn tracer(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let tracee = lab.spawn("a", &["sleep", "1000"])?;
    let tracer = lab.spawn("a", &[&victims::tool("tracer")?, &tracee.pid().to_string()])?;
    wait_until("it traces", SOON, || tracer.output().contains("tracing"))?;
    let outcome = lab.live("a", tracer.pid(), "b", &[])?;
    outcome.refused(3, &["it traces others", &format!("{} (sleep)", tracee.pid()), "nothing was touched"])?;
    ensure!(status(tracee.outside_pid(), "TracerPid")? != "0", "it is traced no more");
    Ok(())
}

/// `pause()`, for ever, as a 32-bit program without a library.
fn small_program(path: &Path) -> Result<()> {
    const AT: u32 = 0x0804_8000;
    const CODE: [u8; 9] = [0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7];
    const HEAD: u32 = 52 + 32;
    let size = HEAD + CODE.len() as u32;
    let half = |value: u16| value.to_le_bytes().to_vec();
    let word = |value: u32| value.to_le_bytes().to_vec();
    let ident = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // ET_EXEC, EM_386; entry, program headers; one of 32 bytes
    let head = [ident, half(2), half(3), word(1), word(AT + HEAD), word(52), word(0), word(0)].concat();
    let sizes = [52, 32, 1, 0, 0, 0].map(half).concat();
    // PT_LOAD, readable and executable
    let load = [1, 0, AT, AT, size, size, 5, 0x1000].map(word).concat();
    fs::write(path, [head, sizes, load, CODE.to_vec()].concat())?;
    Ok(fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?)
}

fn program_of_32_bit(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let path = lab.dir().join("small");
    small_program(&path)?;
    let mut program = lab.spawn("a", &[&path.display().to_string()])?;
    let (pid, exe) = (program.pid(), format!("/proc/{}/exe", program.outside_pid()));
    wait_until("it has begun", SOON, || fs::read_link(&exe).is_ok_and(|exe| exe == path))?;
    let outcome = lab.live("a", pid, "b", &[])?;
    outcome.refused(3, &["32-bit program", "nothing was touched"])?;
    let watched = profile(lab, pid)?;
    ensure!(watched.exit == 3 && watched.stderr.contains("32-bit program"), "{watched:?}");
    ensure!(program.wait(std::time::Duration::ZERO)?.is_none(), "it has ended");
    Ok(())
}

/// A freeze that comes to nothing after `Prepared`: the waits that it interrupted are in the home's memory.
fn remembered(lab: &mut Lab, here: &str, there: Option<&str>) -> Result<()> {
    /// `nanosleep` and `clock_nanosleep`.
    const SLEEPS: [&str; 2] = ["\"nr\":35", "\"nr\":230"];
    lab.serve("b")?;
    if let Some(fault) = there {
        let server = lab.server("b")?;
        server.signal(nix::sys::signal::Signal::SIGKILL)?;
        server.wait(SOON)?;
        lab.serve_with_fault("b", fault)?;
    }
    let victim = Victim::start(lab, "blocking")?;
    let (pid, to) = (victim.pid.to_string(), lab.address("b"));
    let fault: &[&str] = if here.is_empty() { &[] } else { &["--fault", here] };
    let live = [&[ULPM][..], fault, &["live", "--pid", &pid, "--to", &to]].concat();
    let aborted = lab.run("a", &live, 3 * SOON)?;
    ensure!(aborted.exit == 4 && aborted.stderr.contains("runs on here"), "{aborted:?}");
    let waits = lab.run("a", &["sh", "-c", "cat $ULPM_HOME/waits/*"], SOON)?;
    // one may be known from the attaching stop; each lasts for 20 ms at least
    let known: usize = SLEEPS.iter().map(|sleep| waits.stdout.matches(sleep).count()).sum();
    ensure!(known > 1, "{known} of its five sleeps are remembered: {waits:?}");
    victim.check_running(lab)?;
    victim.finish()
}

/// A process is born of `ulpm serve`: what that may not, it cannot be given.
fn confined_server(lab: &mut Lab) -> Result<()> {
    let without = victims::tool("without")?;
    lab.serve_under("b", &["setpriv", "--no-new-privs", "--bounding-set=-sys_chroot", &without, "461"])?;
    let victim = Victim::start(lab, "bare")?;
    let (pid, to) = (victim.pid.to_string(), lab.address("b"));
    let check = lab.run("a", &[ULPM, "check", "--pid", &pid, "--to", &to], 3 * SOON)?;
    let said = format!("{}{}", check.stdout, check.stderr);
    for word in ["the seccomp filter of ulpm serve", "no_new_privs of ulpm serve", "capabilities 0x40000"] {
        ensure!(said.contains(word), "it does not say {word:?}: {check:?}");
    }
    victim.check_running(lab)?;
    victim.finish()
}
