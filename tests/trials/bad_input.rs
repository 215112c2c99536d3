//! What `ulpm live` must refuse: each with its exit code and a message that names the reason.
//!
//! Codes of the contract: 1 failed, nothing was touched; 2 wrong usage; 3 refused by preflight. What cannot be found or
//! reached is 1; what is found and cannot be carried is 3.

use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::victims::Victim;
use super::{trial, trial_in};
use crate::lab::needs::Need;
use crate::lab::{Lab, LabOptions, PORT, SOON, ULPM, victims, wait_until};

/// How long an unreachable target may keep the user waiting.
const SILENCE: Duration = Duration::from_secs(40);
/// clone3's number on x86-64 and on all newer architectures.
const CLONE3: &str = "435";

pub(super) fn trials() -> Vec<Trial> {
    let strangers = LabOptions { strangers: true, ..LabOptions::default() };
    let private = LabOptions { private: vec!["/srv".into()], ..LabOptions::default() };
    vec![
        trial("refuse usage", &[], usage),
        trial("refuse no such pid", &[], no_such_pid),
        trial("refuse kernel thread", &[Need::KernelThreads], kernel_thread),
        trial("refuse own pid", &[], own_pid),
        trial("refuse not permitted", &[Need::Program("setpriv"), Need::OtherUsers], not_permitted),
        trial("refuse already traced", &[], already_traced),
        trial("refuse unknown host", &[], unknown_host),
        trial("refuse absent server", &[], absent_server),
        trial("refuse silent host", &[], silent_host),
        trial_in(strangers, "refuse unknown peer", &[], unknown_peer),
        trial("refuse changed key", &[], changed_key),
        trial_in(private, "refuse missing file", &[], missing_file),
        trial("refuse target without clone3", &[], without_clone3),
        trial("refuse target without rights", &[Need::Program("setpriv")], without_rights),
    ]
}

fn usage(lab: &mut Lab) -> Result<()> {
    for args in [
        &["live"][..],
        &["live", "--pid", "", "--to", "b"],
        &["live", "--to", "b"],
        &["live", "--pid", "2000"],
        &["live", "--pid", "0", "--to", "b"],
        &["nonsense"],
    ] {
        let ended = lab.run("a", &[&[ULPM], args].concat(), SOON)?;
        ensure!(ended.exit == 2 && !ended.stderr.is_empty(), "{args:?}: {ended:?}");
    }
    Ok(())
}

fn no_such_pid(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    lab.live("a", 31_999, "b", &[])?.refused(1, &["31999", "no such process"])
}

/// Kernel threads are seen outside the lab only; the refusal needs no target.
fn kernel_thread(lab: &mut Lab) -> Result<()> {
    let stat = fs::read_to_string("/proc/2/stat").unwrap_or_default();
    ensure!(stat.starts_with("2 (kthreadd)"), "pid 2 is no kernel thread on this machine");
    let home = lab.dir().join("outside");
    let output = std::process::Command::new(ULPM)
        .args(["live", "--pid", "2", "--to", "127.0.0.1:9", "--json"])
        .env("ULPM_HOME", home)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    ensure!(output.status.code() == Some(3) && said.contains("kernel thread"), "{output:?}");
    Ok(())
}

fn own_pid(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let script = format!("exec {ULPM} live --pid $$ --to {} --json", lab.address("b"));
    let ended = lab.run("a", &["sh", "-c", &script], SOON)?;
    ensure!(ended.exit == 3 && ended.stderr.contains("itself"), "{ended:?}");
    Ok(())
}

fn not_permitted(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    let home = lab.dir().join("of-another");
    fs::create_dir(&home)?;
    nix::unistd::chown(&home, Some(1234.into()), Some(1234.into()))?;
    fs::set_permissions(lab.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let (pid, home, address) =
        (victim.pid.to_string(), format!("ULPM_HOME={}", home.display()), lab.address("b"));
    let as_another = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "env", &home];
    let ended =
        lab.run("a", &[&as_another[..], &[ULPM, "live", "--pid", &pid, "--to", &address]].concat(), SOON)?;
    ensure!(ended.exit == 3 && ended.stderr.to_lowercase().contains("permi"), "{ended:?}");
    victim.check_running(lab)?;
    victim.finish()
}

fn already_traced(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    let tracer = lab.spawn("a", &[&victims::tool("tracer")?, &victim.pid.to_string()])?;
    wait_until("the tracer traces", SOON, || tracer.output().contains("tracing"))?;
    lab.live("a", victim.pid, "b", &[])?.refused(3, &["traced", &tracer.pid().to_string()])?;
    victim.check_running(lab)?;
    victim.finish()
}

fn unknown_host(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "threads")?;
    lab.live_to("a", victim.pid, "no-such-host.invalid", &[])?.refused(1, &["no-such-host.invalid"])?;
    victim.finish()
}

fn absent_server(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "threads")?;
    let address = lab.address("b");
    lab.live("a", victim.pid, "b", &[])?.refused(1, &[&address, "ulpm serve"])?;
    victim.finish()
}

/// Something is bound there, so that no ICMP answer comes either.
fn silent_host(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "threads")?;
    let silent = lab.host("b").in_network(|| UdpSocket::bind(("0.0.0.0", PORT)))??;
    let begin = Instant::now();
    lab.live("a", victim.pid, "b", &[])?.refused(1, &[&lab.address("b")])?;
    ensure!(begin.elapsed() < SILENCE, "the user waited {:?}", begin.elapsed());
    drop(silent);
    victim.finish()
}

fn unknown_peer(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    lab.live("a", victim.pid, "b", &[])?.refused(1, &["SHA256:", "ulpm trust add"])?;
    // Trust one way is not enough either: the target must know the source.
    lab.trust("a", "b")?;
    lab.live("a", victim.pid, "b", &[])?.refused(1, &["SHA256:", "ulpm trust add"])?;
    lab.trust("b", "a")?;
    lab.live("a", victim.pid, "b", &["--verify"])?.moved()?;
    victim.finish()
}

fn changed_key(lab: &mut Lab) -> Result<()> {
    lab.trust("a", "b")?;
    lab.trust("b", "a")?;
    let home = lab.host("b").home().join("ulpm");
    fs::remove_dir_all(&home)?;
    fs::create_dir(&home)?;
    lab.trust("b", "a")?;
    lab.serve_untrusted("b", &[])?;
    let victim = Victim::start(lab, "threads")?;
    lab.live("a", victim.pid, "b", &[])?.refused(1, &["SHA256:"])?;
    victim.finish()
}

fn missing_file(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let script = "exec 5>/srv/only-here; echo ready; while [ ! -e \"$1\" ]; do read -t 1 x </dev/null; done; echo PASS";
    let victim = Victim::start_command(lab, &["bash", "-c", script, "bash"])?;
    lab.live("a", victim.pid, "b", &[])?.refused(3, &["/srv/only-here"])?;
    victim.check_running(lab)?;
    victim.finish()
}

fn without_clone3(lab: &mut Lab) -> Result<()> {
    let tool = victims::tool("without")?;
    lab.serve_under("b", &[&tool, CLONE3])?;
    let victim = Victim::start(lab, "threads")?;
    lab.live("a", victim.pid, "b", &[])?.refused(3, &["clone3"])?;
    victim.finish()
}

fn without_rights(lab: &mut Lab) -> Result<()> {
    let without = "--bounding-set=-sys_admin,-sys_ptrace,-checkpoint_restore,-sys_time";
    lab.serve_under("b", &["setpriv", without])?;
    let victim = Victim::start(lab, "threads")?;
    lab.live("a", victim.pid, "b", &[])?.refused(3, &["CAP_"])?;
    victim.finish()
}
