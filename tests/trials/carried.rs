//! Victims whose state is nothing special to carry but for how it is got at: watched, given up, moved lazily, into a pid namespace, there
//! and back, as root and as an ordinary user.

use std::fs;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::Victim;
use crate::lab::needs::Need;
use crate::lab::{Lab, SOON, ULPM, victims};

const VICTIMS: [&str; 2] = ["narrow", "plain"];

pub(super) fn trials() -> Vec<Trial> {
    let needs = [Need::Program("setpriv"), Need::OtherUsers];
    let root = VICTIMS
        .map(|name| trial(&format!("{name} in every way"), &[], move |lab| in_every_way(lab, name, start)));
    let user = VICTIMS.map(|name| {
        trial(&format!("{name} of an ordinary user in every way"), &needs, move |lab| {
            in_every_way(lab, name, of_a_user)
        })
    });
    root.into_iter().chain(user).collect()
}

fn start(lab: &Lab, name: &str) -> Result<Victim> {
    Victim::start(lab, name)
}

/// A victim that runs as an ordinary user. Descriptors 1 and 2 stay of use.
pub(super) fn of_a_user(lab: &Lab, name: &str) -> Result<Victim> {
    fs::set_permissions(lab.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let run = format!(
        "chmod 666 /proc/self/fd/1 /proc/self/fd/2; exec setpriv --reuid=1234 --regid=1234 --clear-groups {} \"$1\"",
        victims::program(name)?
    );
    Victim::start_command(lab, &["sh", "-c", &run, "sh"])
}

/// After everything was captured and put; before; between.
const GIVEN_UP: [&str; 3] =
    ["source.furnished=memory", "source.captured=memory", "source.journal.committed=full"];

fn in_every_way(lab: &mut Lab, name: &str, start: fn(&Lab, &str) -> Result<Victim>) -> Result<()> {
    lab.serve("b")?;
    lab.serve("a")?;
    let mut victim = start(lab, name)?;
    let pid = victim.pid.to_string();
    let watched = lab.run("a", &[ULPM, "profile", "--pid", &pid, "--seconds", "1"], 3 * SOON)?;
    ensure!(watched.exit == 0, "{watched:?}");
    victim.check_running(lab)?;
    for fault in GIVEN_UP {
        let aborted = lab.live("a", victim.pid, "b", &["--fault", fault])?;
        ensure!(aborted.exit == 4 && aborted.stderr.contains("runs on here"), "{fault}: {aborted:?}");
        victim.check_running(lab)?;
    }
    for (to, options) in [("b", &["--lazy"][..]), ("a", &[]), ("b", &["--pid-mode", "namespace"])] {
        let before = victim.outside_pid(lab)?;
        let from = victim.host.clone();
        let outcome = lab.live(&from, victim.pid, to, &[&["--verify"], options].concat())?;
        victim.moved(lab, &outcome, before, to)?;
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    victim.finish()
}
