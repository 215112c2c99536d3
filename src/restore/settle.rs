//! How migrations ended here: asked by their sources, and settled by `ulpm serve` when it starts.
//!
//! What follows from what is decided in `handover::settle`; here it is read and written.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::RestoreError;
use crate::handover::journal::{Entry, Journal, Life, Phase};
use crate::handover::settle::{Answer, OnStart, answer, on_start};
use crate::sys::process::{pidfd_open, pidfd_send_signal};
use crate::tracee::thread::tracer_of;
use crate::transport::Fingerprint;

/// How long a session that is at work may take to come to its end before the source is told to ask again.
const SESSION: Duration = Duration::from_secs(3);
/// A process that was killed with its tracer may look alive for a moment.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Entries of one peer that say no more than that something never ran here, and never will. Nobody needs them once no session
/// is at work on the migration: without an entry the answer is the same, and is written anew.
const MOST_REFUSED: usize = 64;

/// The answer to a source that asks, written down before it is given; the pid that the entry names.
pub fn settle(dir: &Path, id: &str, key: &Fingerprint) -> Result<(Answer, i32), RestoreError> {
    let deadline = Instant::now() + SESSION;
    loop {
        match look(dir, id, key).map_err(RestoreError::io("reading the journal"))? {
            (Answer::Later, _) if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
            answer => return Ok(answer),
        }
    }
}

fn look(dir: &Path, id: &str, key: &Fingerprint) -> io::Result<(Answer, i32)> {
    let Some(mut journal) = Journal::open(dir, id, false)? else {
        let (answer, write) = answer(None, false);
        make_room(dir, key)?;
        let entry = Entry::new(id, false, 0, "").wanted_by(&key.to_string());
        let mut journal = Journal::begin(dir, entry)?;
        write.map_or(Ok(()), |phase| journal.set(phase))?;
        return Ok((answer, 0));
    };
    let at_work = !journal.keep() || tracer_of(journal.entry().pid) != 0;
    let entry = journal.entry();
    let (phase, pid, life) = (entry.phase, entry.pid, settled_life(entry));
    let (answer, write) = answer(Some((phase, life)), at_work);
    if let Some(phase) = write {
        journal.set(phase)?;
    }
    Ok((answer, pid))
}

/// Room for one more entry of this peer: of those that say "never", and have no session at work, the oldest go.
pub fn make_room(dir: &Path, key: &Fingerprint) -> io::Result<()> {
    let key = key.to_string();
    let mut refused: Vec<(SystemTime, Journal)> = Journal::list(dir)?
        .into_iter()
        .flatten()
        .filter(|journal| is_refused(journal.entry()) && journal.entry().key == key)
        .filter_map(|mut journal| journal.keep().then(|| Some((journal.written().ok()?, journal)))?)
        .collect();
    refused.sort_by_key(|(written, _)| *written);
    let surplus = (refused.len() + 1).saturating_sub(MOST_REFUSED);
    for (_, journal) in refused.into_iter().take(surplus) {
        // kept now: what is written cannot be overruled any more
        if Journal::open(dir, &journal.entry().id, false)?.is_some_and(|now| is_refused(now.entry())) {
            journal.remove()?;
        }
    }
    Ok(())
}

fn is_refused(entry: &Entry) -> bool {
    !entry.source && entry.phase == Phase::Refused
}

fn settled_life(entry: &Entry) -> Life {
    if entry.life() == Life::Lives && entry.phase != Phase::Released {
        std::thread::sleep(LOOK_AGAIN);
    }
    entry.life()
}

/// An entry of this host as a target.
#[derive(Debug)]
pub struct Own {
    /// The migration; the file's name where it cannot be read.
    pub id: String,
    /// What is known, and what to do, in words.
    pub text: String,
    /// Whether there is something to do.
    pub open: bool,
}

/// Settles what nobody is at work on, and says of each entry how it stands.
pub fn own_side(dir: &Path, only: Option<&str>) -> io::Result<Vec<Own>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let all = Journal::list(dir)?.into_iter().filter_map(|found| match found {
        Ok(journal) if journal.entry().source => None,
        Ok(journal) if only.is_some_and(|id| id != journal.entry().id) => None,
        Ok(journal) => Some(one(journal)),
        Err((path, error)) => damaged(&path, only, &error),
    });
    Ok(all.collect())
}

fn damaged(path: &Path, only: Option<&str>, error: &io::Error) -> Option<Own> {
    let id = path.file_name()?.to_str()?.strip_suffix(".target.journal")?.to_owned();
    let wanted = only.is_none_or(|only| only == id);
    let text = format!(
        "its record cannot be read ({error}); see whether the process runs here, then remove {}",
        path.display()
    );
    wanted.then_some(Own { id, text, open: true })
}

fn one(mut journal: Journal) -> Own {
    let entry = journal.entry().clone();
    let own = |text: String, open| Own { id: entry.id.clone(), text, open };
    if !journal.keep() || tracer_of(entry.pid) != 0 {
        return own(format!("`ulpm serve` is at work on it for {}", entry.peer), false);
    }
    let life = settled_life(&entry);
    let done = match on_start(entry.phase, life) {
        OnStart::Keep => Ok(()),
        OnStart::Write(phase) => journal.set(phase),
        OnStart::Remove => journal.remove(),
    };
    if let Err(e) = done {
        return own(format!("its record cannot be written: {e}"), true);
    }
    let (pid, peer, id) = (entry.pid, &entry.peer, &entry.id);
    let text = match (entry.phase, life) {
        (Phase::Begun | Phase::Refused, _) => {
            format!("it never ran here, nor will; the process is at {peer}")
        }
        (Phase::Committed, Life::Ended | Life::Rebooted) => {
            format!(
                "it ended with `ulpm serve` before it ran here: the copy at {peer} goes on when that host asks"
            )
        }
        (_, Life::Lives) => {
            format!(
                "process {pid} runs here; {peer} has not said yet that its copy is gone: nothing to do here"
            )
        }
        (Phase::Released, Life::Ended) => {
            format!("process {pid} ran here, and has ended; {peer} may still ask: nothing to do here")
        }
        (Phase::Releasing | Phase::Released, Life::Ended | Life::Rebooted) => format!(
            "process {pid} ran here and is no more{}: if {peer} still has its copy, `ulpm recover` there says so, and \
             `ulpm recover --force-source {id}` lets that go on",
            if life == Life::Rebooted { " since this host was booted" } else { "" }
        ),
    };
    own(text, false)
}

/// The user's word about an entry of this host as a target: the copy here is ended, or is the one.
pub fn force(dir: &Path, id: &str, here: bool) -> io::Result<Option<String>> {
    let Some(mut journal) = Journal::open(dir, id, false)? else { return Ok(None) };
    let entry = journal.entry().clone();
    if !journal.keep() || tracer_of(entry.pid) != 0 {
        return Err(io::Error::other("`ulpm serve` is at work on it"));
    }
    if here {
        if entry.phase == Phase::Begun || !entry.process_lives() {
            return Err(io::Error::other("there is no process of it on this host"));
        }
        journal.overrule(Phase::Released)?;
        return Ok(Some(format!(
            "process {} is the one; the copy at {} ends when that host asks",
            entry.pid, entry.peer
        )));
    }
    if entry.process_lives()
        && let Ok(pidfd) = pidfd_open(entry.pid)
        && entry.process_lives()
    {
        pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while entry.process_lives() && Instant::now() < deadline {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
    journal.overrule(Phase::Refused)?;
    Ok(Some(format!(
        "process {} was ended here; the copy at {} goes on when that host asks",
        entry.pid, entry.peer
    )))
}

/// Where the entries of a host are.
pub fn directory(home: &Path) -> PathBuf {
    home.join("journal")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(dir: &Path, key: &Fingerprint) -> Vec<String> {
        let all = Journal::list(dir).unwrap().into_iter().flatten();
        all.filter(|j| j.entry().key == key.to_string()).map(|j| j.entry().id.clone()).collect()
    }

    #[test]
    fn how_a_process_ended_that_ran_here_is_not_claimed() {
        // a lock of ours would outlast us in a child that is just being made
        let _quiet = crate::sys::spawn::quiet();
        let home = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let mut journal = Journal::begin(home.path(), Entry::new("m-1", false, pid, "peer")).unwrap();
        for phase in [Phase::Committed, Phase::Releasing, Phase::Released] {
            journal.set(phase).unwrap();
        }
        drop(journal);
        child.kill().unwrap();
        child.wait().unwrap();
        let own = own_side(home.path(), None).unwrap();
        let begins = format!("process {pid} ran here, and has ended; peer may still ask");
        assert!(matches!(&own[..], [one] if one.text.starts_with(&begins) && !one.open), "{own:?}");
    }

    #[test]
    fn questions_leave_a_bounded_number_of_entries() {
        let home = tempfile::tempdir().unwrap();
        let (dir, many, few) = (home.path(), Fingerprint([1; 32]), Fingerprint([2; 32]));
        settle(dir, "other", &few).unwrap();
        for n in 0..MOST_REFUSED + 20 {
            assert_eq!(settle(dir, &format!("m-{n}"), &many).unwrap(), (Answer::Never, 0));
        }
        let left = entries(dir, &many);
        assert_eq!(left.len(), MOST_REFUSED);
        assert!(left.contains(&format!("m-{}", MOST_REFUSED + 19)), "the newest stays");
        assert_eq!(entries(dir, &few), ["other"], "one peer does not take from another");
        // what went has the same answer, and is written again
        assert_eq!(settle(dir, "m-0", &many).unwrap(), (Answer::Never, 0));
        assert!(entries(dir, &many).contains(&"m-0".to_owned()));
    }

    #[test]
    fn entries_that_matter_are_no_surplus() {
        // a lock of ours would outlast us in a child that is just being made
        let _quiet = crate::sys::spawn::quiet();
        let home = tempfile::tempdir().unwrap();
        let (dir, key) = (home.path(), Fingerprint([1; 32]));
        let begin = |id: &str| {
            let me = std::process::id() as i32;
            Journal::begin(dir, Entry::new(id, false, me, "peer").wanted_by(&key.to_string())).unwrap()
        };
        // a session is at work, and somebody has been told "never" meanwhile: its late commit must find that
        let mut at_work = begin("at-work");
        at_work.set(Phase::Refused).unwrap();
        let mut moved = begin("moved");
        moved.set(Phase::Committed).unwrap();
        moved.set(Phase::Released).unwrap();
        drop(moved);
        let begun = begin("begun");
        for n in 0..3 * MOST_REFUSED {
            settle(dir, &format!("m-{n}"), &key).unwrap();
        }
        let left = entries(dir, &key);
        for id in ["at-work", "moved", "begun"] {
            assert!(left.contains(&id.to_owned()), "{id}");
        }
        assert_eq!(left.len(), MOST_REFUSED + 3);
        assert!(at_work.set(Phase::Committed).is_err());
        drop(begun);
        // the session has ended: now it is one of the others, the oldest of them
        drop(at_work);
        settle(dir, "last", &key).unwrap();
        assert!(!entries(dir, &key).contains(&"at-work".to_owned()));
    }
}
