//! The oracle: a victim that writes its memory in every way there is and knows every byte of it, moved to and fro under
//! each tracker, and with its memory later (`oracle lazy`, `oracle hybrid`). Not one page may be wrong: neither may the two
//! sides differ in the freeze or as a late page lands (`--verify`), nor may the victim find anything at any time, nor may a
//! late page be sent twice.
//!
//! | variable | |
//! |---|---|
//! | `ULPM_ORACLE_MOVES` | how many moves (of those that are carried out); progress goes to stderr |
//! | `ULPM_ORACLE_SEED` | repeats pauses and the victim's choices (not the interleaving of its threads) |
//! | `ULPM_ORACLE_ARGS` | more arguments for the victim, see `tests/victims/oracle.c` |

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::Victim;
use crate::lab::huge_pages::HugePages;
use crate::lab::live::LiveOutcome;
use crate::lab::needs::Need;
use crate::lab::swap::Swap;
use crate::lab::{Lab, victims};

/// The victim's name.
pub(super) const VICTIM: &str = "oracle";
/// Trackers that this machine may have; the last of the issue's, soft-dirty, is tried in the virtual machines.
const TRACKERS: [&str; 2] = ["wp-scan", "checksum"];
/// The process first, its memory later: from the start, and after rounds.
const LATE: [How; 2] = [
    How { name: "lazy", args: &["--verify", "--lazy"] },
    How { name: "hybrid", args: &["--verify", "--lazy-after", "1"] },
];
/// What no process may do while its memory is outstanding, see the limits in `docs/lazy.md`.
const NOT_LATE: [&str; 2] = ["--without", "hole,/proc/self/mem"];
/// Moves in the test command.
const FEW: usize = 6;
/// Longest pause between two moves, in milliseconds.
const PAUSE: u64 = 400;
/// Huge pages (hugetlb) of the victim's.
const HUGE_PAGES: u64 = 3;
/// So many wrong moves are enough.
const ENOUGH: usize = 10;

/// What the victim has for a moment only, in the words of a refusal: a child, what that one shares with it, and its own
/// memory as a file. Nothing else is excused.
const PASSING: [&str; 3] = ["child processes", "is also held by process", "/mem: a file about a process"];

/// Whether each obstacle is of that kind.
fn passing(said: &str) -> bool {
    let mut obstacles = said.lines().filter(|line| line.starts_with("  - ")).peekable();
    let known = |line: &str| PASSING.iter().any(|word| line.contains(word));
    match obstacles.peek() {
        Some(_) => obstacles.all(known),
        None => known(said),
    }
}

/// How it is moved each time.
#[derive(Clone, Copy)]
struct How {
    name: &'static str,
    /// Of `ulpm live`.
    args: &'static [&'static str],
}

/// By rounds, with a tracker.
fn by(tracker: &'static str) -> How {
    let args: &[&str] = match tracker {
        "wp-scan" => &["--verify", "--tracker", "wp-scan"],
        "checksum" => &["--verify", "--tracker", "checksum"],
        "soft-dirty" => &["--verify", "--tracker", "soft-dirty"],
        _ => &["--verify"],
    };
    How { name: tracker, args }
}

pub(super) fn trials() -> Vec<Trial> {
    let swapping = TRACKERS.map(|tracker| {
        trial(&format!("oracle swapping {tracker}"), &[Need::Swap], move |lab| {
            let swap = Swap::add(lab.dir(), 128)?;
            let victim = run(lab, by(tracker), &[])?;
            ensure!(swap.swapped_out() > 0, "nothing was swapped out");
            victim.finish()
        })
    });
    let huge = TRACKERS.map(|tracker| {
        trial(&format!("oracle hugetlb {tracker}"), &[Need::HugePages], move |lab| {
            // on both sides of a move, and the copies of a child
            lab.hold(HugePages::add(3 * HUGE_PAGES)?);
            run(lab, by(tracker), &["--hugetlb"])?.finish()
        })
    });
    let late = LATE.map(|how| {
        trial(&format!("oracle {}", how.name), &[], move |lab| run(lab, how, &NOT_LATE)?.finish())
    });
    let direct = trial("oracle direct", &[], direct);
    TRACKERS.map(under).into_iter().chain(swapping).chain(huge).chain(late).chain([direct]).collect()
}

/// The trial with one tracker.
pub(crate) fn under(tracker: &'static str) -> Trial {
    trial(&format!("oracle {tracker}"), &[], move |lab| run(lab, by(tracker), &[])?.finish())
}

/// Reads past the page tables are seen by checksums alone.
fn direct(lab: &mut Lab) -> Result<()> {
    let victim = run(lab, by("auto"), &["--direct"])?;
    let to = lab.address(if victim.host == "a" { "b" } else { "a" });
    let forced = lab.live_to(&victim.host, victim.pid, &to, &["--tracker", "wp-scan"])?;
    forced.refused(3, &["O_DIRECT", "--tracker checksum"])?;
    victim.finish()
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What became of the moves.
#[derive(Debug, Default)]
struct Count {
    moved: usize,
    refused: usize,
    aborted: usize,
    rounds: usize,
    final_pages: u64,
    freezes: Vec<f64>,
    late_pages: u64,
    faults: u64,
    sent_twice: u64,
    wrong: Vec<String>,
}

impl Count {
    fn attempts(&self) -> usize {
        self.moved + self.refused + self.aborted + self.wrong.len()
    }

    fn take(&mut self, outcome: &LiveOutcome) {
        let passing = passing(&outcome.stderr);
        match (outcome.exit, outcome.outcome()) {
            (0, "moved")
                if outcome.report["verified"] == true && outcome.report["lazy"]["sent_twice"] == 0 =>
            {
                self.moved += 1;
                let late = |what: &str| outcome.report["lazy"][what].as_u64().unwrap_or(0);
                self.late_pages += late("pages") + late("zero_pages");
                self.faults += late("faults");
                self.rounds += outcome.report["rounds"].as_array().map_or(0, Vec::len);
                self.final_pages += outcome.report["final_pages"].as_u64().unwrap_or(0);
                self.freezes.push(outcome.report["freeze_ms"].as_f64().unwrap_or(f64::NAN));
            }
            (3, "refused") if passing => self.refused += 1,
            (4, "aborted") if passing => self.aborted += 1,
            _ => {
                let twice = outcome.report["lazy"]["sent_twice"].as_u64().unwrap_or(0);
                self.sent_twice += twice;
                self.wrong.push(format!(
                    "attempt {}: exit {}, {:?}, {twice} pages sent twice: {}",
                    self.attempts(),
                    outcome.exit,
                    outcome.outcome(),
                    outcome.stderr
                ));
            }
        }
    }

    fn summary(&self) -> String {
        let mut sorted = self.freezes.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        let moves = self.moved.max(1);
        let late = match self.late_pages {
            0 => String::new(),
            pages => format!(
                "; {} pages came late and {} times a thread waited on average, {} pages sent twice",
                pages / moves as u64,
                self.faults / moves as u64,
                self.sent_twice
            ),
        };
        format!(
            "{} moved, {} refused and {} aborted for a child, {} wrong; freeze median {:.1} ms, p90 {:.1} ms; {:.1} rounds \
             and {} pages in the freeze on average{late}",
            self.moved,
            self.refused,
            self.aborted,
            self.wrong.len(),
            at(0.5),
            at(0.9),
            self.rounds as f64 / moves as f64,
            self.final_pages / moves as u64,
        )
    }
}

/// Gives the victim back, which is still at work.
fn run(lab: &mut Lab, how: How, arguments: &[&str]) -> Result<Victim> {
    let moves = variable("ULPM_ORACLE_MOVES").map_or(FEW, |n| n as usize);
    let of_now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| t.as_nanos() as u64 >> 10);
    let seed = variable("ULPM_ORACLE_SEED").unwrap_or_else(of_now);
    let title = format!("oracle {}: ULPM_ORACLE_SEED={seed}", how.name);
    eprintln!("{title}, {moves} moves");
    lab.serve("a")?;
    lab.serve("b")?;
    let more = std::env::var("ULPM_ORACLE_ARGS").unwrap_or_default();
    let (program, number) = (victims::program(VICTIM)?, seed.to_string());
    let mut argv = vec![program.as_str(), "--seed", &number];
    argv.extend(arguments);
    argv.extend(more.split_whitespace());
    let mut victim = Victim::start_command(lab, &argv)?;
    let mut count = Count::default();
    let mut dice = Dice(seed);
    let begun = Instant::now();
    let done = many(lab, &mut victim, how, moves, &mut count, &mut dice);
    let summary = format!("{title}: {} in {:.0} s", count.summary(), begun.elapsed().as_secs_f64());
    eprintln!("{summary}");
    let list = count.wrong.iter().fold(String::new(), |mut list, one| {
        let _ = writeln!(list, "{one}");
        list
    });
    if let Err(e) = done {
        bail!("{e:#}\n{summary}\n{list}");
    }
    ensure!(count.wrong.is_empty(), "{summary}\n{list}");
    Ok(victim)
}

fn many(
    lab: &Lab,
    victim: &mut Victim,
    how: How,
    moves: usize,
    count: &mut Count,
    dice: &mut Dice,
) -> Result<()> {
    let mut told = 0;
    while count.moved < moves && count.wrong.len() < ENOUGH {
        // a victim that is refused for ever would pass without having moved
        ensure!(count.attempts() < 4 * moves + 20, "too few attempts end in a move: {}", count.summary());
        std::thread::sleep(Duration::from_millis(dice.below(PAUSE)));
        victim.check_running(lab)?;
        let to = if victim.host == "a" { "b" } else { "a" };
        let before = victim.outside_pid(lab)?;
        let live = lab.start_live(&victim.host, victim.pid, &lab.address(to), how.args)?;
        let outcome = live.outcome_of_many()?;
        let wrong = count.wrong.len();
        count.take(&outcome);
        if outcome.exit == 0 {
            victim.moved(lab, &outcome, before, to)?;
        } else if count.wrong.len() > wrong {
            eprintln!("{}", count.wrong[wrong]);
        }
        victim.check_running(lab)?;
        if moves > FEW && count.moved / 10 > told {
            told = count.moved / 10;
            eprintln!("oracle {}: of {moves}: {}", how.name, count.summary());
        }
    }
    Ok(())
}

/// Pauses that can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        // SplitMix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) % sides
    }
}
