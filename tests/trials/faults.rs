//! Faults at every named step of both sides, crossed with kinds and workloads: each run ends with exactly one process,
//! which finds its memory and clocks in order, and with nothing open on either side.
//! Some of them; all, as often as wanted, are in [`long`].

mod long;
pub(super) mod transitions;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ulpm::fault::Point;

use super::trial_in;
use super::victims::{Victim, is_gone};
use crate::lab::live::Live;
use crate::lab::recorded::{self, Records};
use crate::lab::udp_proxy::UdpProxy;
use crate::lab::{Lab, LabOptions, PORT, SOON, ULPM, wait_until};

const WORKLOADS: [&str; 5] = ["threads", "registers", "memory", "clock", "dirty"];
/// How long a hung side hangs: longer than the source waits for a sign of life.
const HANG: Duration = Duration::from_millis(2500);
const SETTLED: Duration = Duration::from_secs(90);
/// At these kinds the program only stops where it is, and then something is done from outside: its host's power is cut, the link
/// goes dead without a word, Ctrl-C, or the one that the user started is killed while its worker lives.
const FROM_OUTSIDE: [&str; 4] = ["power", "silent", "ctrl-c", "orphan"];

/// What is done where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    point: &'static str,
    kind: &'static str,
}

impl Case {
    /// The worker is killed at some moment after this point of the source.
    pub(super) const fn some_time_after(point: &'static str) -> Self {
        Case { point, kind: "late" }
    }

    fn at_source(self) -> bool {
        self.point.starts_with("source.")
    }

    fn fault(self) -> String {
        let kind = if FROM_OUTSIDE.contains(&self.kind) { "stop" } else { self.kind };
        format!("{}={kind}", self.point)
    }

    /// As the program names it when it strikes: without the count.
    fn name(self) -> String {
        self.fault().split(':').next().unwrap_or_default().to_owned()
    }

    /// Points that are passed when the source asks how it ended.
    fn asked(self) -> bool {
        matches!(self.point, "target.asked" | "target.settled")
    }
}

/// The kinds that mean something at each point.
const MATRIX: [(&str, &str); 36] = [
    ("source.ready", "kill stop cut memory"),
    ("source.round", "kill stop cut"),
    ("source.poised", "kill stop power"),
    ("source.frozen", "kill stop cut memory silent ctrl-c orphan"),
    // each has three: for tracking the scratch area is made (mmap, mprotect) and removed (munmap), and so for the freeze
    ("source.call.single", "kill kill:2 kill:3 kill:5 kill:8 kill:9 kill:11 kill:12 kill:14 kill:17 kill:18"),
    // six for the tracking descriptor; the leader's three in the freeze
    ("source.call.batch", "kill kill:2 kill:3 kill:4 kill:5 kill:6 kill:7 kill:8 kill:9"),
    ("source.furnished", "kill cut memory"),
    ("source.captured", "kill stop cut memory silent ctrl-c orphan"),
    ("source.sent", "kill stop cut"),
    ("source.prepared", "kill stop cut power silent ctrl-c orphan"),
    ("source.journal.committed", "kill stop full sync power"),
    ("source.journalled", "kill stop cut power"),
    ("source.held", "kill stop cut memory power"),
    ("source.commit.sent", "kill stop cut power silent orphan"),
    ("source.answered", "kill stop memory power"),
    ("source.looked", "kill stop power"),
    ("source.killed", "kill stop power"),
    ("source.closed", "kill stop power"),
    ("target.begun", "kill stop refuse memory power"),
    ("target.ordered", "kill stop refuse memory power"),
    ("target.born", "kill stop tracer refuse"),
    ("target.round", "kill stop cut tracer memory"),
    ("target.state", "kill stop tracer refuse memory"),
    ("target.applied", "kill stop tracer memory"),
    ("target.prepared", "kill stop cut tracer power"),
    ("target.commit", "kill stop refuse tracer power"),
    ("target.journal.committed", "kill stop full sync power"),
    ("target.journalled", "kill stop memory tracer power"),
    ("target.journal.releasing", "kill full"),
    ("target.noted", "kill stop memory tracer power"),
    ("target.outlives", "kill stop tracer power"),
    ("target.letgo", "kill stop power"),
    ("target.said", "kill stop power"),
    ("target.journal.released", "kill full sync power"),
    ("target.released", "kill stop power"),
    ("target.asked target.settled", "kill stop refuse power"),
];

const LAB: LabOptions = LabOptions { private: Vec::new(), strangers: false, disks: true, recorded: true };

/// Steps of the freeze, up to the hand-over.
const FREEZE: &str = "source.frozen source.captured source.prepared source.commit.sent";

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (points, kinds) in MATRIX {
        for point in points.split(' ') {
            all.extend(kinds.split(' ').map(|kind| Case { point, kind }));
        }
    }
    all
}

/// What is tried with every run of the tests: a name, points, kinds.
const SOME: [(&str, &str, &str); 11] = [
    ("source kill", "source.frozen source.captured source.journalled source.held source.answered", "kill"),
    (
        "target kill",
        "target.ordered target.state target.prepared target.journalled target.noted target.outlives target.said",
        "kill",
    ),
    ("disk", "source.journal.committed target.journal.committed target.journal.released", "full sync"),
    ("hang", "source.held target.commit", "stop"),
    ("power of the source", "source.held source.commit.sent source.killed", "power"),
    ("power of the target", "target.prepared target.journalled target.letgo target.released", "power"),
    (
        "in a remote call",
        "source.call.single source.call.batch",
        "kill kill:2 kill:3 kill:4 kill:5 kill:6 kill:7 kill:8 kill:9 kill:10 kill:11 kill:12 kill:14 kill:17 kill:18",
    ),
    // too late for Ctrl-C at the last: `exit_codes.rs`
    ("ctrl-c", FREEZE, "ctrl-c"),
    ("orphan", FREEZE, "orphan"),
    ("silence", FREEZE, "silent"),
    ("error", "source.captured source.held target.state target.noted target.commit", "memory refuse"),
];

impl Case {
    /// Those of a line of [`SOME`].
    fn chosen(points: &str, kinds: &str) -> Vec<Case> {
        let named =
            |c: &Case| points.split(' ').any(|p| p == c.point) && kinds.split(' ').any(|k| k == c.kind);
        cases().into_iter().filter(named).collect()
    }

    /// A program is killed, or ends otherwise before its time.
    fn cuts_short(self) -> bool {
        matches!(self.kind.split(':').next(), Some("kill" | "power" | "tracer" | "late" | "orphan"))
    }
}

pub(super) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = SOME
        .into_iter()
        .map(|(name, points, kinds)| {
            let chosen = Case::chosen(points, kinds);
            trial_in(LAB, &format!("fault {name}"), &[], move |lab| {
                ensure!(!chosen.is_empty(), "nothing is tried");
                for (i, case) in chosen.iter().enumerate() {
                    run(lab, *case, WORKLOADS[i % WORKLOADS.len()])?;
                }
                Ok(())
            })
        })
        .collect();
    trials.push(Trial::test("fault list", || complete().map_err(|e| format!("{e:#}").into())));
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<usize>().ok());
    if let Some(runs) = number("ULPM_FAULT_RUNS") {
        let from = number("ULPM_FAULT_FROM").unwrap_or(0);
        trials.push(trial_in(LAB, "fault long", &[], move |_| long::long(from..from + runs)));
    }
    trials
}

/// Every point of the program is struck, and no other is asked for; every transition of the machines has a trial.
fn complete() -> Result<()> {
    let struck: BTreeSet<&str> = cases().iter().map(|case| case.point).collect();
    // those of a checkpoint are struck in checkpoint.rs
    let of_moves =
        Point::ALL.iter().map(|point| point.name()).filter(|name| !name.starts_with("checkpoint."));
    let there: BTreeSet<&str> = of_moves.collect();
    ensure!(struck == there, "{:?}", struck.symmetric_difference(&there));
    let tried = SOME.iter().flat_map(|(_, points, kinds)| Case::chosen(points, kinds));
    let tried: Vec<String> = tried.map(|case| format!("{}={}", case.point, case.kind)).collect();
    transitions::complete(&tried)?;
    recorded::wrong_ones_are_found()
}

/// Where the one process was in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Target,
    /// With the host whose power was cut, before it was anywhere else.
    WithItsHost,
}

fn run(lab: &mut Lab, case: Case, workload: &str) -> Result<End> {
    one(lab, case, workload).with_context(|| format!("{} under {workload}", case.fault()))
}

fn one(lab: &mut Lab, case: Case, workload: &str) -> Result<End> {
    if ["boot-a", "boot-b"].iter().any(|boot| lab.dir().join(boot).exists()) {
        // the two hosts are no longer one machine with one file system
        *lab = Lab::with(&LAB)?;
    }
    let before = Records::read(lab.dir())?;
    prepare(lab, case)?;
    let _ = fs::remove_file(lab.dir().join("stop"));
    let victim = Victim::start(lab, workload)?;
    let proxy = || UdpProxy::between(lab.host("a"), lab.host("b"), PORT);
    let link = (case.kind == "silent").then(proxy).transpose()?;
    let to = link.as_ref().map_or_else(|| "b:3490".to_owned(), UdpProxy::address);
    let live = start(lab, case, victim.pid, &to)?;
    let fault = Struck::wait(lab, case, live, link)?;
    // kept as long as somebody may ask through it how it ended
    let (outcome, _link) = fault.passes(lab, case)?;
    lab.note(format!("{} under {workload}: {outcome}", case.fault()));
    settle(lab, case)?;
    let end = whereabouts(lab, case, victim.pid)?;
    finish(lab, victim, end)?;
    transitions::check(lab, &before, &format!("{}={}", case.point, case.kind), !case.cuts_short())?;
    Ok(end)
}

/// A target that waits for the fault, or one that works.
fn prepare(lab: &mut Lab, case: Case) -> Result<()> {
    serve(lab)?;
    if !case.at_source() {
        stop_serving(lab)?;
        lab.serve_with_fault("b", &case.fault())?;
    }
    Ok(())
}

/// Trust is exchanged once; it is on the disks.
pub(super) fn serve(lab: &mut Lab) -> Result<()> {
    match (lab.is_serving("b"), lab.dir().join("disk-b/trusted").exists()) {
        (true, _) => Ok(()),
        (false, true) => lab.serve_untrusted("b", &[]),
        (false, false) => lab.serve("b"),
    }
}

fn stop_serving(lab: &mut Lab) -> Result<()> {
    if lab.is_serving("b") {
        let server = lab.server("b")?;
        server.signal(Signal::SIGKILL)?;
        server.wait(SOON)?.context("a killed ulpm serve does not end")?;
    }
    Ok(())
}

fn start(lab: &Lab, case: Case, pid: i32, to: &str) -> Result<Live> {
    let fault = if case.at_source() {
        case.fault()
    } else if case.asked() {
        "source.commit.sent=cut".to_owned()
    } else {
        return lab.start_live("a", pid, to, &["--verify"]);
    };
    lab.start_live("a", pid, to, &["--verify", "--fault", &fault])
}

/// A fault that has struck: the process in which it did, and the link if it may go dead.
struct Struck {
    live: Live,
    pid: String,
    link: Option<UdpProxy>,
}

impl Struck {
    fn wait(lab: &mut Lab, case: Case, live: Live, link: Option<UdpProxy>) -> Result<Self> {
        let word = format!("fault {} in process ", case.name());
        let mut said = String::new();
        // at the target it may strike when the move has ended
        let struck = wait_until("the fault", SOON, || {
            said = if case.at_source() {
                live.errors()
            } else {
                lab.server("b").map(|s| s.errors()).unwrap_or_default()
            };
            said.split_once(&word).is_some_and(|(_, rest)| rest.contains('\n'))
        });
        struck.with_context(|| format!("the fault did not strike: {}", live.errors()))?;
        let pid = said.split_once(&word).and_then(|(_, rest)| rest.split_whitespace().next());
        let pid = pid.context("no pid")?.to_owned();
        Ok(Self { live, pid, link })
    }

    fn passes(self, lab: &mut Lab, case: Case) -> Result<(String, Option<UdpProxy>)> {
        let host = if case.at_source() { "a" } else { "b" };
        match case.kind {
            "power" => {
                lab.stopped(host, &self.pid)?;
                lab.power_cut(host)?;
            }
            "kill" if !case.at_source() => {
                lab.server("b")?.wait(SOON)?.context("a killed ulpm serve does not end")?;
            }
            "stop" => {
                let stopped = lab.stopped(host, &self.pid)?;
                std::thread::sleep(HANG);
                kill(stopped, Signal::SIGCONT)?;
            }
            "silent" => {
                let stopped = lab.stopped(host, &self.pid)?;
                self.link.as_ref().context("no link of its own")?.cut();
                kill(stopped, Signal::SIGCONT)?;
            }
            "ctrl-c" => {
                let stopped = lab.stopped(host, &self.pid)?;
                self.live.signal(Signal::SIGINT)?;
                let heard = || self.live.errors().contains("ending the migration");
                wait_until("it heard Ctrl-C", SOON, heard)?;
                kill(stopped, Signal::SIGCONT)?;
            }
            "orphan" => {
                let stopped = lab.stopped(host, &self.pid)?;
                self.live.signal(Signal::SIGKILL)?;
                // its process group being orphaned, the kernel may have done so already
                let _ = kill(stopped, Signal::SIGCONT);
            }
            _ => {}
        }
        serve(lab)?;
        if case.kind == "power" && host == "a" {
            return Ok(("the source is gone".to_owned(), self.link));
        }
        let Self { live, link, .. } = self;
        let outcome = live.outcome()?;
        if let Some(link) = &link {
            link.heal();
        }
        match (outcome.exit, outcome.outcome()) {
            (4, "aborted") if case.kind == "ctrl-c" => {
                ensure!(outcome.stderr.contains("runs on here"), "it does not say where it is: {outcome:?}");
            }
            (137, _) if case.kind == "orphan" => {}
            (0, "moved") | (1, "failed") | (3, "refused") | (4, "aborted") | (5, _) => {}
            other => bail!("{other:?}: {}", outcome.stderr),
        }
        Ok((format!("{outcome:?}"), link))
    }
}

/// `ulpm recover` until nothing is open; the user's word only where it asks for it.
pub(super) fn settle(lab: &mut Lab, case: Case) -> Result<()> {
    let deadline = Instant::now() + SETTLED;
    loop {
        serve(lab)?;
        let said = lab.run("a", &[ULPM, "recover"], SETTLED)?;
        if said.exit == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it stays open: {said:?}");
        if case.kind == "tracer" {
            // what the dead thread held, its program still holds
            stop_serving(lab)?;
            serve(lab)?;
        }
        if let Some((_, rest)) = said.stdout.split_once("--force-source ") {
            ensure!(
                case.kind == "power" || case.point == "target.noted" || case.point == "target.outlives",
                "{said:?}"
            );
            let id = rest.split('`').next().unwrap_or("");
            let forced = lab.run("a", &[ULPM, "recover", "--force-source", id], SETTLED)?;
            ensure!(forced.exit == 0, "{forced:?}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Whether it runs, held by nobody and not about to end: a skeleton is traced until it is let go, and one that is being
/// killed seems to run for a while.
fn runs_free(outside: i32) -> bool {
    const KILLED: u64 = 1 << (libc::SIGKILL - 1);
    let text = |file: &str| fs::read_to_string(format!("/proc/{outside}/{file}")).unwrap_or_default();
    let status = text("status");
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("").trim();
    let pending = ["SigPnd:", "ShdPnd:"].map(|name| u64::from_str_radix(field(name), 16).unwrap_or(KILLED));
    field("State:").starts_with(['R', 'S', 'D'])
        && field("TracerPid:") == "0"
        && pending.iter().all(|signals| signals & KILLED == 0)
        // no memory: it is ending
        && !text("statm").starts_with("0 ")
}

/// Waits until exactly one copy runs.
pub(super) fn whereabouts(lab: &Lab, case: Case, pid: i32) -> Result<End> {
    let at = |host: &str| {
        let outside = lab.host(host).outside_pid(Pid::from_raw(pid)).ok()?.as_raw();
        (!is_gone(outside)).then_some(outside)
    };
    let (mut end, mut looks) = (None, 0);
    let both = || (at("a"), at("b"));
    let waited = wait_until("exactly one copy runs", SETTLED, || {
        let seen = match both() {
            (Some(a), None) if runs_free(a) => Some(End::Source),
            (None, Some(b)) if runs_free(b) => Some(End::Target),
            (None, None) if case.kind == "power" => Some(End::WithItsHost),
            _ => None,
        };
        looks = if seen.is_some() && seen == end { looks + 1 } else { 0 };
        end = seen;
        looks > 8
    });
    waited.with_context(|| match both() {
        (Some(_), Some(_)) => "DOUBLED",
        (None, None) => "LOST",
        _ => "STOPPED",
    })?;
    // a process goes down with its host only if that host had it
    let lived_at_source = case.at_source()
        && !matches!(case.point, "source.answered" | "source.looked" | "source.killed" | "source.closed");
    if end == Some(End::WithItsHost) {
        let said_to_run = matches!(case.point, "target.said" | "target.journal.released" | "target.released");
        ensure!(lived_at_source || said_to_run, "LOST");
    }
    end.context("nowhere")
}

fn finish(lab: &mut Lab, mut victim: Victim, end: End) -> Result<()> {
    let pid = Pid::from_raw(victim.pid);
    if end != End::WithItsHost {
        victim.host = if end == End::Source { "a" } else { "b" }.to_owned();
        std::thread::sleep(Duration::from_millis(100));
        victim.check_running(lab)?;
        victim.finish()?;
    }
    wait_until("nothing of it is left", SOON, || {
        ["a", "b"].iter().all(|host| {
            lab.host(host).outside_pid(pid).is_ok_and(|p| is_gone(p.as_raw()))
                || lab.host(host).outside_pid(pid).is_err()
        })
    })?;
    let open = |host: &str| {
        let list =
            fs::read_dir(lab.dir().join(format!("disk-{host}/journal"))).into_iter().flatten().flatten();
        list.filter(|f| f.file_name().to_string_lossy().ends_with(".source.journal")).count()
    };
    ensure!(open("a") == 0, "an entry of the source is left");
    Ok(())
}
