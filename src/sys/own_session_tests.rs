use std::process::{Child, Command, Stdio};

use super::*;
use crate::sys::namespaces::own_session;

#[test]
fn who_waits_for_a_cpu_most_of_the_time_starves() {
    let ago = Instant::now().checked_sub(Starving::WINDOW).unwrap();
    let times = Times::own().unwrap();
    let mut busy = Starving { looked: ago, times: Times { ran: 0, ..times } };
    assert!(!busy.look());
    // as if it had waited for all of the window just now
    let waited = times.waited.saturating_sub(1_000_000_000);
    let mut starving = Starving { looked: ago, times: Times { waited, ..times } };
    assert_eq!(starving.look(), times.waited >= 1_000_000_000);
    let mut starving = Starving { looked: Instant::now(), times: Times { waited: 0, ..times } };
    assert!(!starving.look(), "too soon");
}

#[test]
fn little_to_do_is_no_starving() {
    let window = Duration::from_millis(100);
    assert!(next_to_nothing(1_000_000, 60_000_000, window));
    assert!(!next_to_nothing(7_000_000, 60_000_000, window), "a fair share");
    assert!(!next_to_nothing(1_000_000, 20_000_000, window), "hardly ever ready to run");
}

#[test]
fn a_group_that_starves_is_less_behind_and_tries_again_later() {
    let mut courtesy = Courtesy::new(2);
    assert!(!courtesy.tick(false) && courtesy.step == 0);
    assert!(courtesy.tick(true) && courtesy.step == 1);
    assert!(courtesy.tick(true) && courtesy.step == 2);
    assert!(!courtesy.tick(true) && courtesy.step == 2);
    let mut until = |step| (1..).find(|_| courtesy.tick(false)).filter(|_| courtesy.step == step).unwrap();
    let first = until(1);
    assert!(first > Courtesy::PATIENCE, "{first}");
    until(0);
    // and the longer, the more often it was in vain
    let mut courtesy = Courtesy { patience: Courtesy::MOST / 2, ..Courtesy::new(2) };
    for _ in 0..3 {
        assert!(courtesy.tick(true));
        courtesy.step = 0;
    }
    assert_eq!(courtesy.patience, Courtesy::MOST);
}

/// Runs a test again as the leader of a session; the tests' own session is the user's. Returns whether this is that run.
fn in_own_session(test: &str) -> bool {
    const LEADER: &str = "ULPM_TEST_SESSION_LEADER";
    if std::env::var_os(LEADER).is_some() {
        return true;
    }
    let mut again = Command::new("/proc/self/exe");
    again.args(["--exact", &format!("sys::own_session::tests::{test}"), "--nocapture"]);
    let before = group_nice();
    assert!(own_session(again.env(LEADER, "1")).status().unwrap().success());
    assert_eq!(group_nice(), before);
    false
}

#[test]
fn a_session_that_is_ours_is_behind_as_a_whole_and_comes_back() {
    if !in_own_session("a_session_that_is_ours_is_behind_as_a_whole_and_comes_back") {
        return;
    }
    let Some(before) = group_nice() else { return eprintln!("no autogroups here") };
    let begun = Instant::now();
    let mut session = OwnSession::behind();
    let nice = group_nice();
    if !own_capability(CAP_SYS_ADMIN) {
        assert_eq!(nice, Some(before));
        return;
    }
    let watched = session.lookout.is_some();
    assert_eq!(watched, std::thread::spawn(real_time).join().unwrap());
    let farthest = if watched { NICEST } else { NICE };
    // unless others have kept us from looking in time
    assert!(nice == Some(farthest) || begun.elapsed() >= Lookout::EVERY, "{nice:?}");
    session.starves();
    assert_eq!(session.before.is_none(), !watched);
    drop(session);
    assert_eq!(group_nice(), Some(before));
}

/// Ends when dropped.
struct Busy(Child);

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn busy() -> Busy {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
    Busy(own_session(&mut command).spawn().unwrap())
}

#[test]
fn where_every_cpu_is_busy_the_session_is_hardly_behind_any_more() {
    if !in_own_session("where_every_cpu_is_busy_the_session_is_hardly_behind_any_more") {
        return;
    }
    if group_nice().is_none() || !own_capability(CAP_SYS_ADMIN) {
        return eprintln!("no autogroups here, or none that we may change");
    }
    let session = OwnSession::behind();
    if session.lookout.is_none() {
        return eprintln!("no real-time threads here");
    }
    let cpus = std::thread::available_parallelism().unwrap().get();
    let _others: Vec<Busy> = (0..2 * cpus).map(|_| busy()).collect();
    for _ in 0..cpus {
        // at work for as long as this process lives
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop()
            }
        });
    }
    // the main thread has a CPU as rarely as the others
    let begun = Instant::now();
    while group_nice() == Some(NICEST) {
        assert!(begun.elapsed() < Duration::from_secs(120), "starving in silence");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(session);
}
