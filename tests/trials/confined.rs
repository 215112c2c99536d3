//! What a process has done to its own threads: confined them, taken their calls away from the kernel, put them into 32-bit code,
//! ended the first of them. Our hand in it must not harm it, and what of it cannot be carried is refused by its name.

use std::fs;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::Victim;
use crate::lab::needs::Need;
use crate::lab::{Lab, SOON, victims};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("bare of an ordinary user", &[Need::Program("setpriv"), Need::OtherUsers], bare_of_a_user),
        trial("sleeps are remembered after an abort by the journal", &[], |lab| {
            remembered(lab, "source.journal.committed=full", None)
        }),
        trial("sleeps are remembered after the answer that it never runs there", &[], |lab| {
            remembered(lab, "", Some("target.journal.committed=full"))
        }),
    ]
}

/// A victim that runs as an ordinary user. Descriptors 1 and 2 stay of use.
fn of_a_user(lab: &Lab, name: &str) -> Result<Victim> {
    fs::set_permissions(lab.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let run = format!(
        "chmod 666 /proc/self/fd/1 /proc/self/fd/2; exec setpriv --reuid=1234 --regid=1234 --clear-groups {} \"$1\"",
        victims::program(name)?
    );
    Victim::start_command(lab, &["sh", "-c", &run, "sh"])
}

/// Its credentials change at the target, and with each change what the kernel resets.
fn bare_of_a_user(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    lab.serve("a")?;
    let mut victim = of_a_user(lab, "bare")?;
    for to in ["b", "a"] {
        victim.move_to(lab, to)?;
    }
    victim.finish()
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
    let victim = Victim::start(lab, "bare")?;
    let (pid, to) = (victim.pid.to_string(), lab.address("b"));
    let fault: &[&str] = if here.is_empty() { &[] } else { &["--fault", here] };
    let live = [&[crate::lab::ULPM][..], fault, &["live", "--pid", &pid, "--to", &to]].concat();
    let aborted = lab.run("a", &live, 3 * SOON)?;
    ensure!(aborted.exit == 4 && aborted.stderr.contains("runs on here"), "{aborted:?}");
    let waits = lab.run("a", &["sh", "-c", "cat $ULPM_HOME/waits/*"], SOON)?;
    // the first thread's may be known from the attaching stop
    let known: usize = SLEEPS.iter().map(|sleep| waits.stdout.matches(sleep).count()).sum();
    ensure!(known > 1, "{known} of its five sleeps are remembered: {waits:?}");
    victim.check_running(lab)?;
    victim.finish()
}
