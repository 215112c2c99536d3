//! Programs that are asked and signalled after each move: servers, a virtual machine, handlers, a supervised one.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::needs::find_program;
use crate::lab::{Lab, SOON, ULPM, wait_until};
use crate::trials::victims::{Victim, is_gone};

const HANDLERS: &str = include_str!("handlers.py");
const COUNTING: &str = include_str!("counting.py");
const STEADY: &str = include_str!("Steady.java");
const HAPROXY: &str = include_str!("haproxy.cfg");
const UVICORN_PORT: u16 = 8000;
const HAPROXY_PORT: u16 = 8081;

/// There and back twice, if `ULPM_PROGRAM_MOVES` does not say more.
const MOVES: usize = 4;

/// There and back, so many moves, with something asked after each.
fn there_and_back(
    lab: &mut Lab,
    victim: &mut Victim,
    args: &[&str],
    mut ask: impl FnMut(&Lab, &Victim) -> Result<()>,
) -> Result<()> {
    lab.serve("a")?;
    lab.serve("b")?;
    ask(lab, victim).context("before the first move")?;
    for (count, to) in super::moves(MOVES).enumerate() {
        let before = victim.outside_pid(lab)?;
        let outcome = lab.live(&victim.host, victim.pid, to, &[&["--verify"], args].concat())?;
        victim.moved(lab, &outcome, before, to).with_context(|| format!("move {}", count + 1))?;
        ask(lab, victim).with_context(|| format!("after move {}", count + 1))?;
    }
    Ok(())
}

/// Sends a signal and waits until the program has said once more what it says then.
pub(super) fn signalled(lab: &Lab, victim: &Victim, signal: Signal, answer: &str) -> Result<()> {
    let said = || format!("{}{}", victim.said(), victim.errors()).matches(answer).count();
    let before = said();
    kill(Pid::from_raw(victim.outside_pid(lab)?), signal)?;
    wait_until(&format!("{answer:?} after {signal}"), SOON, || said() > before)
}

/// One request on a connection of its own; the answer's last line.
fn request(lab: &Lab, host: &str, port: u16) -> Result<String> {
    let text = lab.host(host).in_network(|| -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: tried\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })??;
    ensure!(text.starts_with("HTTP/1.1 200"), "the server in {host} answers {text:?}");
    Ok(text.lines().last().unwrap_or_default().to_owned())
}

pub(super) fn handlers(lab: &mut Lab) -> Result<()> {
    let mut victim = super::start(lab, "python3", &["-c", HANDLERS])?;
    there_and_back(lab, &mut victim, &[], handled)?;
    victim.finish()
}

fn handled(lab: &Lab, victim: &Victim) -> Result<()> {
    [Signal::SIGUSR1, Signal::SIGHUP, Signal::SIGTERM]
        .into_iter()
        .try_for_each(|signal| signalled(lab, victim, signal, &format!("signal {signal}\n")))
}

pub(super) fn start_uvicorn(lab: &Lab) -> Result<Victim> {
    fs::write(lab.dir().join("counting.py"), COUNTING)?;
    let program = find_program("uvicorn").context("no uvicorn")?;
    let dir = lab.dir().display();
    let victim = Victim::start_command(
        lab,
        &["sh", "-c", &format!("STOP=$0 exec {program} --port {UVICORN_PORT} --app-dir {dir} counting:app")],
    )?;
    wait_until("uvicorn accepts", SOON, || victim.errors().contains("Uvicorn running"))?;
    Ok(victim)
}

/// The count goes on, and SIGTERM ends it in good order.
pub(super) fn uvicorn(lab: &mut Lab) -> Result<()> {
    let mut victim = start_uvicorn(lab)?;
    let mut count = 0;
    there_and_back(lab, &mut victim, &[], |lab, victim| {
        count += 1;
        let answer = request(lab, &victim.host, UVICORN_PORT)?;
        ensure!(answer == format!("request {count}"), "{answer:?} to request {count}");
        signalled(lab, victim, Signal::SIGHUP, "signal SIGHUP")
    })?;
    signalled(lab, &victim, Signal::SIGTERM, "Finished server process")?;
    victim.finish()
}

pub(super) fn start_haproxy(lab: &Lab) -> Result<Victim> {
    let config = lab.dir().join("haproxy.cfg");
    fs::write(&config, HAPROXY)?;
    let program = find_program("haproxy").context("no haproxy")?;
    let command = format!("echo ready; exec {program} -db -f {}", config.display());
    let victim = Victim::start_command(lab, &["sh", "-c", &command])?.ended_by(Signal::SIGUSR1);
    wait_until("haproxy accepts", SOON, || request(lab, "a", HAPROXY_PORT).is_ok())?;
    Ok(victim)
}

/// Its watchdog is a CPU-clock timer for each thread.
pub(super) fn haproxy(lab: &mut Lab) -> Result<()> {
    let mut victim = start_haproxy(lab)?;
    let timers = fs::read_to_string(format!("/proc/{}/timers", victim.outside_pid(lab)?))?;
    ensure!(timers.contains("ClockID: -"), "no CPU-clock timer: {timers}");
    let mut count = request(lab, "a", HAPROXY_PORT)?;
    there_and_back(lab, &mut victim, &[], |lab, victim| {
        let before = std::mem::replace(&mut count, request(lab, &victim.host, HAPROXY_PORT)?);
        ensure!(number(&count)? == number(&before)? + 1, "{count:?} after {before:?}");
        signalled(lab, victim, Signal::SIGHUP, "Proxy tried has no servers")
    })?;
    victim.end(lab)
}

fn number(answer: &str) -> Result<u64> {
    Ok(answer.strip_prefix("request ").context("no count")?.trim().parse()?)
}

pub(super) fn start_jvm(lab: &Lab) -> Result<Victim> {
    let dir = lab.dir().display().to_string();
    fs::write(lab.dir().join("Steady.java"), STEADY)?;
    let compiled = lab.run("a", &["javac", "-d", &dir, &format!("{dir}/Steady.java")], 3 * SOON)?;
    ensure!(compiled.exit == 0, "javac: {compiled:?}");
    // -XX:-UsePerfData is ulpm's own advice against the mapped file in /tmp
    super::start(lab, "java", &["-Xmx64m", "-XX:-UsePerfData", "-cp", &dir, "Steady"])
}

/// Its own handler of SIGHUP, and the machine's of SIGQUIT, which stops all threads at a safepoint.
pub(super) fn jvm(lab: &mut Lab) -> Result<()> {
    let mut victim = start_jvm(lab)?;
    there_and_back(lab, &mut victim, &[], |lab, victim| {
        signalled(lab, victim, Signal::SIGHUP, "signal SIGHUP")?;
        signalled(lab, victim, Signal::SIGQUIT, "Full thread dump")?;
        victim.check_running(lab)
    })?;
    victim.finish()
}

/// Under runit, which the advice keeps from starting a second copy.
pub(super) fn supervised(lab: &mut Lab) -> Result<()> {
    let service = lab.dir().join("service");
    fs::create_dir(&service)?;
    let (script, stop) = (lab.dir().join("handlers.py"), lab.dir().join("stop"));
    fs::write(&script, HANDLERS)?;
    let run = service.join("run");
    let python = find_program("python3").context("no python3")?;
    // outputs opened anew: an offset that runit shares would be in the way
    fs::write(
        &run,
        format!(
            "#!/bin/sh\nexec {python} {} {} >>/dev/stdout 2>>/dev/stderr\n",
            script.display(),
            stop.display()
        ),
    )?;
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
    let name = service.display().to_string();
    let runsv = lab.spawn("a", &["runsv", &name])?;
    wait_until("the service is ready", SOON, || runsv.output().contains("ready"))?;
    let pid = fs::read_to_string(service.join("supervise/pid"))?.trim().parse()?;
    let outside = runsv.outside_pid();
    let mut victim = Victim::of(runsv, stop, pid);

    let check = lab.run("a", &[ULPM, "check", "--pid", &pid.to_string()], SOON)?;
    let refused = check.exit == 3 && check.stdout.contains("--parent-knows");
    ensure!(refused, "a supervisor that starts a second copy is in the way: {check:?}");
    let once = lab.run("a", &["sv", "once", &name], SOON)?;
    ensure!(once.exit == 0, "sv once: {once:?}");
    there_and_back(lab, &mut victim, &["--parent-knows"], handled)?;
    ensure!(victim.said().matches("ready").count() == 1, "runit started a second copy: {}", victim.said());
    victim.finish()?;
    kill(Pid::from_raw(outside), Signal::SIGTERM)?;
    wait_until("runit ends", SOON, || is_gone(outside))
}
