//! Signals that come while a process moves: each for which `kill` or `sigqueue` said 0 arrives, once, in the order of its sender.
//!
//! `ULPM_SIGNALS=100000 ULPM_SIGNAL_MOVES=100 cargo test --test moves -- "signals sent"` sends that many in that many moves, and says
//! how it went; 4,000 in 4 moves if they are not set. `ULPM_SIGNAL_REST_US` is what lies between two by kill (50,000).

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::{Victim, is_gone};
use crate::lab::{Lab, SOON, ULPM, victims, wait_until};

const LANES: usize = 8;
const DOUBTS: usize = 4096;
/// Words of a lane: `struct lane` of `tests/victims/signalled/board.h`.
const LANE: usize = 3 + DOUBTS + 3 + DOUBTS;
const HEAD: usize = 9;
const OVER: usize = 2;
const WHERE: usize = 4;
/// `si_code` and `si_pid` of the last one by kill, then by tgkill.
const CAME: usize = 5;
const SI_USER: u32 = 0;
const SI_TKILL: u32 = -6_i32 as u32;
/// The lanes whose signals are by kill: the last of each host.
const BY_KILL: [usize; 2] = [3, 7];

pub(super) fn trials() -> Vec<Trial> {
    let asked = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let (all, moves) = (asked("ULPM_SIGNALS").unwrap_or(4000), asked("ULPM_SIGNAL_MOVES").unwrap_or(4));
    let lazily = moves.div_ceil(2);
    vec![
        trial("signals sent during moves", &[], move |lab| during(lab, all, moves, &[])),
        trial("signals sent during lazy moves", &[], move |lab| during(lab, all / 2, lazily, &["--lazy"])),
        trial("signals sent in the freeze", &[], |lab| sent_at(lab, "source.prepared", &[], true)),
        trial("signals sent in a lazy freeze", &[], |lab| sent_at(lab, "source.prepared", &["--lazy"], true)),
        trial("signals sent in a freeze into a namespace", &[], |lab| {
            sent_at(lab, "source.prepared", &["--pid-mode", "namespace"], true)
        }),
        trial("signals sent after the last look", &[], |lab| sent_at(lab, "source.looked", &[], false)),
        trial("signals sent after the last look lazily", &[], |lab| {
            sent_at(lab, "source.looked", &["--lazy"], false)
        }),
        trial("signals handed on by recover", &[], |lab| recovered(lab, &[])),
        trial("signals to a process in the making", &[], half_built),
    ]
}

/// What the senders and the victim wrote.
struct Board {
    path: std::path::PathBuf,
    words: Vec<u32>,
}

impl Board {
    fn read(&mut self) -> Result<()> {
        let bytes = fs::read(&self.path)?;
        self.words =
            bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap_or_default())).collect();
        ensure!(self.words.len() == HEAD + LANES * LANE, "the board is {} words", self.words.len());
        Ok(())
    }

    fn write(&self, at: usize, word: u32) -> Result<()> {
        let file = fs::File::options().write(true).open(&self.path)?;
        Ok(file.write_all_at(&word.to_le_bytes(), 4 * at as u64)?)
    }

    fn lane(&self, index: usize) -> &[u32] {
        &self.words[HEAD + index * LANE..HEAD + (index + 1) * LANE]
    }

    fn sent(&mut self) -> Result<u64> {
        self.read()?;
        Ok((0..LANES).map(|i| u64::from(self.lane(i)[0])).sum())
    }

    /// Signals that were accepted, and those that did not come.
    fn lost(&mut self) -> Result<(u64, Vec<(usize, u32)>)> {
        let sent = self.sent()?;
        let mut lost = Vec::new();
        for i in 0..LANES {
            let lane = self.lane(i);
            let (sent, doubts, last, missing) =
                (lane[0], &lane[3..3 + (lane[2] as usize).min(DOUBTS)], lane[3 + DOUBTS], lane[5 + DOUBTS]);
            let missed = &lane[6 + DOUBTS..6 + DOUBTS + (missing as usize).min(DOUBTS)];
            let all = missed.iter().copied().chain(last + 1..=sent);
            lost.extend(all.filter(|n| !doubts.contains(n)).map(|n| (i, n)));
        }
        Ok((sent, lost))
    }

    fn doubts(&self) -> u32 {
        (0..LANES).map(|i| self.lane(i)[2]).sum()
    }
}

/// One by kill to the process and one by tgkill to its thread, sent while the source waits at `point` of a move. `whole`: each comes
/// as it was sent.
fn sent_at(lab: &mut Lab, point: &str, args: &[&str], whole: bool) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "signalled")?;
    let mut board = Board { path: lab.dir().join("stop.board"), words: Vec::new() };
    let fault = format!("{point}=stop");
    let args = [&["--verify", "--fault", &fault], args].concat();
    let before = victim.outside_pid(lab)?;
    let live = lab.start_live("a", victim.pid, &lab.address("b"), &args)?;
    let word = format!("fault {fault} in process ");
    let mut worker = String::new();
    wait_until("it waits there", SOON, || {
        let said = live.errors();
        worker = said.split_once(&word).and_then(|(_, rest)| rest.lines().next()).unwrap_or("").to_owned();
        !worker.is_empty() && said.ends_with('\n')
    })?;
    let tool = victims::tool("senders")?;
    let sent = lab.run("a", &[&tool, &board.path.display().to_string(), "once"], SOON)?;
    ensure!(sent.exit == 0, "{sent:?}");
    lab.go_on("a", &worker)?;
    victim.moved(lab, &live.outcome()?, before, "b")?;
    let came = wait_until("both signals have come", SOON, || {
        board.lost().is_ok_and(|(sent, lost)| sent == 2 && lost.is_empty())
    });
    came.with_context(|| format!("lost: {:?}", board.lost()))?;
    if whole {
        board.read()?;
        let sender = board.lane(BY_KILL[0])[1];
        let came: [u32; 4] = std::array::from_fn(|i| board.words[CAME + i]);
        let wanted = [SI_USER, sender, SI_TKILL, sender];
        ensure!(came == wanted, "{came:?} instead of {wanted:?} (si_code, si_pid)");
    }
    victim.finish()
}

/// The worker is killed when the process runs at the target: what the copy is sent then goes there when `ulpm recover` ends it.
fn recovered(lab: &mut Lab, args: &[&str]) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "signalled")?;
    let mut board = Board { path: lab.dir().join("stop.board"), words: Vec::new() };
    let before = victim.outside_pid(lab)?;
    let args = [&["--verify", "--fault", "source.answered=kill"], args].concat();
    let outcome = lab.start_live("a", victim.pid, &lab.address("b"), &args)?.outcome()?;
    ensure!(outcome.exit != 0 && !is_gone(before), "{outcome:?}");
    let tool = victims::tool("senders")?;
    let sent = lab.run("a", &[&tool, &board.path.display().to_string(), "many"], SOON)?;
    ensure!(sent.exit == 0, "{sent:?}");
    let said = lab.run("a", &[ULPM, "recover"], SOON)?;
    ensure!(said.exit == 0 && said.stdout.contains("was ended") && is_gone(before), "{said:?}");
    ensure!(!said.stdout.contains("lost"), "{said:?}");
    let came = wait_until("all signals have come", SOON, || {
        board.lost().is_ok_and(|(sent, lost)| sent == 5002 && lost.is_empty())
    });
    came.with_context(|| format!("lost: {:?}; {said:?}", board.lost()))?;
    victim.finish()
}

/// At the target somebody signals the pid again and again while the process is being built. Either it comes to nothing, says why,
/// and the process runs on at its source; or it moves, and has had the signal.
fn half_built(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut ends = Vec::new();
    for signal in ["CONT", "CHLD", "USR1", "TERM", "STOP", "TRAP", "KILL"] {
        let _ = fs::remove_file(lab.dir().join("stop"));
        let mut victim = Victim::start(lab, "threads")?;
        let over = lab.dir().join(format!("over-{signal}"));
        let (pid, before) = (victim.pid, victim.outside_pid(lab)?);
        let script = format!(
            "until [ -e {} ]; do kill -{signal} {pid} 2>/dev/null && n=$((n+1)); done; echo $n",
            over.display()
        );
        let mut sender = lab.spawn("b", &["sh", "-c", &script])?;
        let outcome = lab.start_live("a", pid, &lab.address("b"), &["--verify"])?.outcome()?;
        fs::write(&over, "")?;
        let sent: u32 = sender.finish(SOON)?.stdout.trim().parse().unwrap_or(0);
        let end = (signal, outcome.exit, sent);
        ends.push(end);
        ensure!(sent > 0, "{end:?}: nothing was sent");
        match (outcome.exit, signal) {
            // it could be moved, and nothing of it was changed on the way
            (0, "CONT" | "CHLD") => {
                victim.moved(lab, &outcome, before, "b")?;
                victim.finish()?;
            }
            // it has no handler
            (0, _) => ensure!(is_gone(before), "{end:?}: it is at the source, too"),
            (4, "STOP" | "TRAP" | "KILL") => {
                let why = if signal == "KILL" { "killed the process" } else { "somebody sent SIG" };
                ensure!(outcome.stderr.contains(why), "{end:?}: {}", outcome.stderr);
                ensure!(outcome.stderr.contains("runs on here"), "{end:?}: {}", outcome.stderr);
                victim.check_running(lab)?;
                victim.finish()?;
            }
            _ => bail!("{end:?}: {}", outcome.stderr),
        }
    }
    lab.note(format!("signal, exit code, times: {ends:?}"));
    if std::env::var_os("ULPM_SIGNALS").is_some() {
        eprintln!("signal, exit code, times: {ends:?}");
    }
    Ok(())
}

fn during(lab: &mut Lab, all: u64, moves: u64, args: &[&str]) -> Result<()> {
    lab.serve("a")?;
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "signalled")?;
    let mut board = Board { path: lab.dir().join("stop.board"), words: Vec::new() };
    let path = board.path.display().to_string();
    let tool = victims::tool("senders")?;
    let rest = std::env::var("ULPM_SIGNAL_REST_US").unwrap_or_else(|_| "50000".to_owned());
    let senders = [("a", "0"), ("b", "1")].map(|(host, half)| lab.spawn(host, &[&tool, &path, half, &rest]));
    for number in 0..moves {
        // each move has its part of them, before it, in it and after it
        let part = all * number / moves + all / moves / 2;
        wait_until("signals are sent", SOON, || board.sent().is_ok_and(|now| now >= part))?;
        let to = if number % 2 == 0 { "b" } else { "a" };
        let before = victim.outside_pid(lab)?;
        let args = [&["--verify"], args].concat();
        let live = lab.start_live(&victim.host, victim.pid, &lab.address(to), &args)?;
        let outcome = live.outcome()?;
        victim.moved(lab, &outcome, before, to)?;
        board.write(WHERE, u32::from(to == "b"))?;
        let notes = outcome.report["notes"].to_string();
        ensure!(!notes.contains("handed on"), "{notes}");
    }
    wait_until("all signals are sent", SOON, || board.sent().is_ok_and(|now| now >= all))?;
    board.write(OVER, 1)?;
    for mut sender in senders.into_iter().flatten() {
        ensure!(sender.finish(SOON)?.exit == 0, "a sender failed");
    }
    let came =
        wait_until("all signals have come", SOON, || board.lost().is_ok_and(|(_, lost)| lost.is_empty()));
    let (sent, lost) = board.lost()?;
    let by_kill: u32 = BY_KILL.iter().map(|i| board.lane(*i)[0]).sum();
    let said = format!(
        "{sent} signals ({by_kill} by kill) in {moves} moves{}: {} lost, {} sent to a copy that was ending",
        if args.is_empty() { "" } else { ", lazily" },
        lost.len(),
        board.doubts()
    );
    lab.note(said.clone());
    if std::env::var_os("ULPM_SIGNALS").is_some() {
        eprintln!("{said}");
    }
    came.with_context(|| format!("{said}; of lane, number: {:?}", &lost[..lost.len().min(20)]))?;
    std::thread::sleep(Duration::from_millis(20));
    victim.finish()
}
