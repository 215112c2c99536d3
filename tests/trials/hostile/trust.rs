//! How far a trusted peer may go: each limit refuses with the peer's fingerprint and what to change, and lets pass what
//! it allows.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use ulpm::image::FIRST;
use ulpm::state::seam::State as _;
use ulpm::state::thread::scheduling::Sched;
use ulpm::transport::protocol::{Moments, ToTarget};

use super::super::trial;
use super::super::victims::{Victim, is_gone};
use super::peer::{Source, description};
use crate::lab::needs::Need;
use crate::lab::{Lab, SOON, ULPM, victims, wait_until};

pub(super) fn trials() -> Vec<Trial> {
    let users = &[Need::Program("setpriv"), Need::OtherUsers];
    vec![
        trial("trust limits users", users, limited_users),
        trial("trust limits what files a process brings", users, files),
        trial("trust limits the state, too", users, state),
        trial("trust maps users", users, mapped_users),
        trial("trust limits CPU time", &[], cpu_time),
        trial("trust limits processes, memory and paths", &[], limits),
        trial("trust ends", &[], ends),
        trial("trust rotates", &[], rotates),
    ]
}

/// The fingerprint of host `a`; `b` gives it these limits, and no others.
fn limit(lab: &Lab, words: &[&str]) -> Result<String> {
    let shown = lab.run("a", &[ULPM, "trust", "show"], SOON)?.stdout.trim().to_owned();
    let set = lab.run("b", &[&[ULPM, "trust", "add", &shown, "--anew"], words].concat(), SOON)?;
    ensure!(set.exit == 0, "{set:?}");
    Ok(shown)
}

/// A victim that runs as an ordinary user.
fn ordinary(lab: &Lab, before: &str) -> Result<Victim> {
    std::fs::set_permissions(lab.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let run = format!(
        "chmod 666 /proc/self/fd/1 /proc/self/fd/2; {before} exec setpriv --reuid=1234 --regid=1234 --clear-groups {} \"$1\"",
        victims::program("threads")?
    );
    Victim::start_command(lab, &["sh", "-c", &run, "sh"])
}

fn limited_users(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let own = limit(lab, &[])?;
    let root = Victim::start(lab, "threads")?;
    lab.live("a", root.pid, "b", &[])?.refused(3, &[&own, "root", "--users", "trust add"])?;
    let said = lab.server("b")?.errors();
    ensure!(said.contains(&own) && said.contains("root"), "the target's log does not say it: {said}");
    root.check_running(lab)?;
    root.finish()?;
    std::fs::remove_file(lab.dir().join("stop"))?;
    let mut user = ordinary(lab, "")?;
    limit(lab, &["--users", "2000-3000,nobody"])?;
    lab.live("a", user.pid, "b", &[])?.refused(3, &["1234", "--users"])?;
    limit(lab, &["--users", "1000-1999"])?;
    user.move_to(lab, "b")?;
    user.finish()
}

/// A descriptor that root opened for it is its own at the source; another file of that name at the target is not.
fn files(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    limit(lab, &[])?;
    let secret = lab.dir().join("secret");
    std::fs::write(&secret, "secret")?;
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let path = secret.display().to_string();
    let mut victim = ordinary(lab, &format!("exec 7<{path};"))?;
    lab.live("a", victim.pid, "b", &[])?.refused(3, &[&path, "ermission denied"])?;
    victim.check_running(lab)?;
    limit(lab, &["--users", "any"])?;
    victim.move_to(lab, "b")?;
    victim.finish()
}

/// What was described as harmless arrives as something else.
fn state(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    limit(lab, &[])?;
    let victim = ordinary(lab, "")?;
    type Lie = (&'static str, fn(&mut ulpm::image::ProcessImage));
    let lies: [Lie; 5] = [
        ("user root", |p| p.threads[0].creds.uids = [0; 4]),
        ("user root", |p| p.threads[0].creds.uids[3] = 0),
        ("group 0", |p| p.threads[0].creds.groups = vec![0]),
        ("capabilities", |p| p.threads[0].creds.caps[1] = 1 << 21),
        ("ahead of others", |p| {
            let states = &mut p.threads[0].states;
            let ahead = Sched { policy: 1, ..Sched::of(states).expect("the truth has it") };
            ahead.store(states).expect("a lie can be written");
        }),
    ];
    for (words, lie) in lies {
        let truth = description(victim.outside_pid(lab)?)?;
        let mut tree = truth.tree.clone();
        let image = &mut tree.processes[0];
        let mut source = Source::greet(lab)?;
        source.begin(truth)?;
        image.threads.iter_mut().for_each(|t| t.regs = vec![0; 27]);
        lie(image);
        let layout = image.memory.layout.clone();
        source.say(&ToTarget::Layout { of: FIRST, layout, new_files: Vec::new() })?;
        source
            .say(&ToTarget::State(Box::new(tree), Moments { frozen_ns: 0, stopped_ns: 0, captured_ns: 0 }))?;
        let said = source.failure()?;
        ensure!(said.contains("may not do this") && said.contains(words), "{words}: {said}");
    }
    victim.finish()
}

/// The numbers behind a word in the status of a process.
fn status(outside: i32, word: &str) -> Result<Vec<String>> {
    let status = std::fs::read_to_string(format!("/proc/{outside}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_default();
    Ok(line.split_whitespace().map(str::to_owned).collect())
}

fn mapped_users(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut user = ordinary(lab, "")?;
    let own = limit(lab, &["--map-user", "1234=no-such-user"])?;
    lab.live("a", user.pid, "b", &[])?.refused(3, &["user 1234", "no-such-user", "--map-user", &own])?;
    limit(lab, &["--map-user", "1234=root"])?;
    lab.live("a", user.pid, "b", &[])?.refused(3, &["user root", "--users"])?;
    // it is no 1234 here any more
    limit(lab, &["--map-user", "1234=nobody", "--users", "1234"])?;
    lab.live("a", user.pid, "b", &[])?.refused(3, &["user nobody", "--users"])?;
    for (wrong, said) in
        [("ci=nobody", "number"), ("1234", "FROM=TO"), ("1234=1-2", "one user"), ("1-9=a,5=b", "overlap")]
    {
        let refused = lab.run("b", &[ULPM, "trust", "add", &own, "--map-user", wrong], SOON)?;
        ensure!(refused.exit == 2 && refused.stderr.contains(said), "{wrong}: {refused:?}");
    }
    limit(lab, &["--map-user", "1234=nobody", "--map-user", "0=nobody", "--users", "nobody"])?;
    let listed = lab.run("b", &[ULPM, "trust", "list"], SOON)?;
    ensure!(listed.stdout.contains("map-users=1234=nobody,0=nobody"), "{listed:?}");
    user.move_to(lab, "b")?;
    let outside = user.outside_pid(lab)?;
    ensure!(status(outside, "Uid:")? == ["65534"; 4], "{:?}", status(outside, "Uid:"));
    let group = nix::unistd::User::from_name("nobody")?.map_or(65534, |user| user.gid.as_raw()).to_string();
    ensure!(status(outside, "Gid:")? == [group.as_str(); 4], "{:?}", status(outside, "Gid:"));
    user.finish()?;
    std::fs::remove_file(lab.dir().join("stop"))?;
    // root comes as an ordinary user, and keeps nothing of what it could do
    let run =
        format!("chmod 666 /proc/self/fd/1 /proc/self/fd/2; exec {} \"$1\"", victims::program("threads")?);
    let mut root = Victim::start_command(lab, &["sh", "-c", &run, "sh"])?;
    root.move_to(lab, "b")?;
    let outside = root.outside_pid(lab)?;
    ensure!(status(outside, "Uid:")? == ["65534"; 4], "{:?}", status(outside, "Uid:"));
    ensure!(status(outside, "CapPrm:")? == ["0000000000000000"], "{:?}", status(outside, "CapPrm:"));
    root.finish()
}

fn cpu_time(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let own = limit(lab, &["--users", "any", "--cpu-time", "2s"])?;
    let wrong = lab.run("b", &[ULPM, "trust", "add", &own, "--cpu-time", "0"], SOON)?;
    ensure!(wrong.exit == 2 && wrong.stderr.contains("2h"), "{wrong:?}");
    let busy = lab.spawn("a", &["sh", "-c", "while :; do :; done"])?;
    let pid = lab.live("a", busy.pid(), "b", &["--verify"])?.moved()?;
    let outside = lab.host("b").outside_pid(nix::unistd::Pid::from_raw(pid))?.as_raw();
    let limits = std::fs::read_to_string(format!("/proc/{outside}/limits"))?;
    let cpu = limits.lines().find(|line| line.starts_with("Max cpu time")).unwrap_or_default();
    ensure!(cpu.split_whitespace().filter(|word| *word == "2").count() == 2, "{cpu}");
    wait_until("it has used its time", std::time::Duration::from_secs(60), || is_gone(outside))
}

fn limits(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "threads")?;
    let any = ["--users", "any"];
    let cases: [(&[&str], &[&str]); 3] = [
        (&["--max-memory", "100K"], &["memory", "--max-memory"]),
        (&["--max-address-space", "1M"], &["address space", "--max-address-space"]),
        (&["--paths", "/srv:/opt"], &["outside of", "--paths"]),
    ];
    for (words, said) in cases {
        let own = limit(lab, &[&any[..], words].concat())?;
        lab.live("a", victim.pid, "b", &[])?.refused(3, &[said, &[own.as_str()]].concat())?;
    }
    let taken = format!("{}", victim.pid);
    limit(lab, &[&any[..], &["--no-namespaces"]].concat())?;
    lab.live("a", victim.pid, "b", &["--pid-mode", "namespace"])?.refused(3, &[&taken, "namespace"])?;
    victim.check_running(lab)?;
    let wide = [
        "--max-memory",
        "1G",
        "--max-address-space",
        "64G",
        "--max-processes",
        "1",
        "--no-namespaces",
        "--paths",
        "/",
    ];
    limit(lab, &[&any[..], &wide].concat())?;
    victim.move_to(lab, "b")?;
    // there is one now, also for a restarted serve
    let second = lab.spawn("a", &["sleep", "1000"])?;
    lab.live("a", second.pid(), "b", &[])?.refused(3, &["1 process of", "--max-processes"])?;
    victim.finish()
}

fn ends(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    let any = ["--users", "any"];
    for (words, said) in
        [(&["--expires", "2020-01-31"][..], "expired on 2020-01-31"), (&["--send-only"], "receive only")]
    {
        let own = limit(lab, &[&any[..], words].concat())?;
        lab.live("a", victim.pid, "b", &[])?.refused(1, &[said])?;
        let log = lab.server("b")?.errors();
        ensure!(log.contains(said) && log.contains(&own), "{log}");
    }
    // the sender knows its receivers, too
    limit(lab, &any)?;
    let there = lab.run("b", &[ULPM, "trust", "show"], SOON)?.stdout.trim().to_owned();
    let told = lab.run("a", &[ULPM, "trust", "add", &there, "--receive-only"], SOON)?;
    ensure!(told.exit == 0, "{told:?}");
    lab.live("a", victim.pid, "b", &[])?.refused(1, &["send only"])?;
    lab.run("a", &[ULPM, "trust", "add", &there, "--anew", "--users", "any"], SOON)?;
    let revoked = lab.run("b", &[ULPM, "trust", "revoke", "a"], SOON)?;
    ensure!(revoked.exit == 0, "{revoked:?}");
    lab.live("a", victim.pid, "b", &[])?.refused(1, &["revoked"])?;
    let again = lab.run("a", &[ULPM, "trust", "show"], SOON)?.stdout.trim().to_owned();
    let refused = lab.run("b", &[ULPM, "trust", "add", &again], SOON)?;
    ensure!(refused.exit != 0 && refused.stderr.contains("revoked"), "{refused:?}");
    victim.check_running(lab)?;
    victim.finish()
}

fn rotates(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "threads")?;
    let early = lab.run("a", &[ULPM, "trust", "rotate", "--now"], SOON)?;
    ensure!(early.exit == 2, "{early:?}");
    let next = lab.run("a", &[ULPM, "trust", "rotate"], SOON)?;
    let next = next.stdout.trim().to_owned();
    let added = lab.run("b", &[ULPM, "trust", "add", &next, "--users", "any"], SOON)?;
    ensure!(added.exit == 0, "{added:?}");
    let before = lab.run("a", &[ULPM, "trust", "show"], SOON)?.stdout.trim().to_owned();
    let now = lab.run("a", &[ULPM, "trust", "rotate", "--now"], SOON)?;
    ensure!(now.exit == 0 && now.stdout.trim() == next && before != next, "{now:?}");
    ensure!(lab.run("b", &[ULPM, "trust", "revoke", &before], SOON)?.exit == 0, "not revoked");
    victim.move_to(lab, "b")?;
    victim.finish()
}
