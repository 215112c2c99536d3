//! The two seams of the engine without any network: a session at the source that talks to somebody who writes down, and the builder of
//! the target that is told what was written down. The process that comes out of it is the victim.
//!
//! Both happen in a process of their own (this program again, by a hidden argument): a session owns its thread's tracees and changes
//! its scheduling.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use libtest_mimic::Trial;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use ulpm::convergence::policy::Limits;
use ulpm::dirty::Choice;
use ulpm::image::{FIRST, ObjectId, PageRange, ProcessIndex};
use ulpm::precopy::destination::Destination;
use ulpm::precopy::{Control, MigrateError, Migration, Options};
use ulpm::preload::PreloadError;
use ulpm::preload::push::PageSink;
use ulpm::report::{Outcome, PidMode};
use ulpm::restore::builder::{Blueprint, Builder, StoppedTree};
use ulpm::restore::incoming::place;
use ulpm::restore::quarters::{Place, Quarters};
use ulpm::restore::{nursery, reservation};
use ulpm::sys::time::{ClockOffsets, Ticker};
use ulpm::transport::Frame;
use ulpm::transport::page_head::{ObjectHead, PrivateHead};
use ulpm::transport::protocol::{Description, PidChoice, ToSource, ToTarget, kind};

use super::trial;
use crate::lab::{Lab, SOON, victims, wait_until};

/// The hidden argument: this program moves a victim into its own memory, and out of it.
const ARGUMENT: &str = "__rebuild";
/// With threads, files and pipes, timers and a shared memory object.
const VICTIMS: [&str; 6] = ["plain", "threads", "fds", "memory", "timers", "signals"];

pub(super) fn trials() -> Vec<Trial> {
    let each = VICTIMS.into_iter();
    each.map(|name| trial(&format!("rebuilt {name}"), &[], move |lab| rebuilt(lab, name))).collect()
}

fn rebuilt(lab: &mut Lab, victim: &str) -> Result<()> {
    let program = victims::program(victim)?;
    let own = std::env::current_exe()?.display().to_string();
    let dir = lab.dir().display().to_string();
    let ended = lab.run("a", &[&own, ARGUMENT, &program, &dir], SOON)?;
    ensure!(ended.exit == 0, "{}{}", ended.stdout, ended.stderr);
    Ok(())
}

/// Roles in which this program starts itself, before any thread exists.
pub(crate) fn answer_hidden_calls() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    let first = args.next()?;
    let mut next = || args.next().unwrap_or_default();
    match &*first {
        nursery::ARGUMENT => nursery::main(&next()),
        ARGUMENT => Some(match there_and_back(&next(), Path::new(&next())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:?}");
                ExitCode::FAILURE
            }
        }),
        _ => None,
    }
}

fn there_and_back(program: &str, dir: &Path) -> Result<()> {
    // what is built is a child of init, or of whoever asks for that
    nix::sys::prctl::set_child_subreaper(true)?;
    let (stop, home, words) = (dir.join("stop"), dir.join("home-of-none"), dir.join("said"));
    fs::create_dir_all(&home)?;
    let said = || fs::read_to_string(&words).unwrap_or_default();
    let mut victim = Command::new(program)
        .arg(&stop)
        .stdin(Stdio::null())
        .stdout(File::create(&words)?)
        .stderr(File::create(dir.join("complained"))?)
        .spawn()?;
    wait_until("the victim is ready", SOON, || said().contains("ready"))?;
    let pid = victim.id() as i32;
    let mut drawer = Drawer::default();
    let (outcome, error) = write_down(pid, &home, &mut drawer);
    ensure!(error.is_none() && outcome == Outcome::Moved, "{outcome:?}: {error:?}");
    // its tracer has reaped it, which is its parent, too
    let _ = victim.wait();
    ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "the copy at the source was not ended");
    let _ticker = Ticker::start(Duration::from_millis(100))?;
    cut_short(&drawer)?;
    let mut builder = begun(&drawer)?;
    ensure!(builder.pid(FIRST)? == pid, "another pid");
    read_out(&drawer.frames, &mut builder)?;
    std::thread::sleep(Duration::from_millis(700));
    fs::write(&stop, "")?;
    let ended = waitpid(Pid::from_raw(pid), None)?;
    ensure!(matches!(ended, WaitStatus::Exited(_, 0)), "{ended:?}: {}", said());
    ensure!(said().contains("PASS") && !said().contains("FAIL"), "{}", said());
    Ok(())
}

fn write_down(pid: i32, home: &Path, drawer: &mut Drawer) -> (Outcome, Option<MigrateError>) {
    let options = Options {
        pid,
        to: None,
        pid_mode: PidChoice::Same,
        verify: true,
        files: Default::default(),
        home: home.to_owned(),
        connect_limit: SOON,
        tracker: Choice::Auto,
        lazy: Default::default(),
        wait: false,
        parent_knows: true,
        leave_running: false,
    };
    let control = Control::new(Limits::default());
    let (report, error) = Migration::new(&options, &control, &|_| {}).run_to(drawer);
    if error.is_none() {
        assert_eq!((report.target_pid, report.pid_mode), (Some(pid), PidMode::Same));
        assert!(!report.rounds.is_empty() && report.freeze_ms > 0.0, "{report:?}");
    }
    (report.outcome, error)
}

/// A process of the tree that was written down, without memory.
fn begun(drawer: &Drawer) -> Result<Builder> {
    let description = drawer.description.as_ref().context("nothing was described")?;
    let quarters = Quarters { place: &Place::Here, id: &description.id, what: "a victim".to_owned() };
    Ok(Builder::begin(Blueprint {
        tree: &description.tree,
        quarters: &quarters,
        clocks: reservation::clocks(description, ClockOffsets::default()),
        namespace: false,
        or_namespace: false,
        rights: None,
        vetted: Vec::new(),
        verify: description.verify,
    })?)
}

/// What was written down becomes calls of the builder.
fn read_out(frames: &[Frame], builder: &mut Builder) -> Result<()> {
    for frame in frames {
        match place(builder, frame, &|_| Ok(()))? {
            None | Some(ToTarget::RoundEnd(_) | ToTarget::Freezing | ToTarget::Begin { .. }) => {}
            Some(ToTarget::Verify) => builder.hash()?,
            Some(ToTarget::State(tree, moments)) => builder.state(&StoppedTree::check(*tree)?, &moments)?,
            Some(ToTarget::Commit(signals)) => {
                signals.iter().try_for_each(|(of, signals)| builder.queue(*of, signals))?;
                builder.outlive()?;
                builder.let_go();
            }
            Some(other) => bail!("{other:?} was written down"),
        }
    }
    Ok(())
}

/// Of a conversation that ends early nothing comes to life; a page that is not the source's is found; of other processes nothing is
/// taken.
fn cut_short(drawer: &Drawer) -> Result<()> {
    let is_state = |frame: &&Frame| matches!(frame.message(), Ok(ToTarget::State(..)));
    let whole = drawer.frames.iter().position(|frame| is_state(&frame)).context("no state")?;
    let mut builder = begun(drawer)?;
    read_out(&drawer.frames[..whole], &mut builder)?;
    let early = builder.outlive().err().context("it may live without its state")?;
    ensure!(early.to_string().contains("no state"), "{early}");
    let other = builder.zero(ProcessIndex(1), &[]).err().context("a second process")?;
    ensure!(other.to_string().contains("process 2 of a tree of one"), "{other}");
    let pid = builder.pid(FIRST)?;
    drop(builder);
    ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "something is left of it");

    let changed = drawer.frames.iter().rposition(|frame| frame.kind == kind::PAGES).context("no pages")?;
    let mut frames = drawer.frames.clone();
    let last = &mut frames[changed];
    let mut body = last.body.to_vec();
    body[PrivateHead::LEN + 4095] ^= 1;
    last.body = Bytes::from(body);
    let mut builder = begun(drawer)?;
    let differs = read_out(&frames[..=whole], &mut builder).err().context("a changed page is not found")?;
    ensure!(differs.to_string().contains("verification failed"), "{differs}");
    builder.destroy();
    ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "something is left of it");
    Ok(())
}

/// Writes the conversation down, and answers for a target that agrees to everything.
#[derive(Debug, Default)]
struct Drawer {
    description: Option<Description>,
    frames: Vec<Frame>,
    answer: Option<ToSource>,
    bytes: u64,
}

impl Drawer {
    fn keep(&mut self, kind: u16, body: Vec<u8>) {
        self.bytes += body.len() as u64;
        self.frames.push(Frame { kind, body: body.into() });
    }
}

impl Destination for Drawer {
    fn say(&mut self, message: &ToTarget) -> Result<(), MigrateError> {
        let now = ulpm::sys::time::initial_clocks();
        self.answer = match message {
            ToTarget::Clock => Some(ToSource::Clock(now.monotonic_ns, now.boottime_ns)),
            ToTarget::Describe(description) => {
                self.description = Some((**description).clone());
                Some(ToSource::Preflight { obstacles: Vec::new(), notes: Vec::new() })
            }
            ToTarget::Begin { .. } => {
                let first = self.description.iter().flat_map(|d| &d.tree.processes).next();
                first.map(|process| ToSource::Ready { pids: vec![process.pid], namespace: false })
            }
            ToTarget::RoundEnd(n) => Some(ToSource::RoundApplied(*n)),
            ToTarget::State(..) => {
                Some(ToSource::Prepared { apply_ms: 0.0, verify_ms: 0.0, verified: false })
            }
            ToTarget::Commit(_) => {
                let pid = self.description.iter().flat_map(|d| &d.tree.processes).map(|p| p.pid).sum();
                let at_boottime_ns = now.boottime_ns;
                Some(ToSource::Running { pid, at_boottime_ns, journal_ms: 0.0, resume_ms: 0.0 })
            }
            ToTarget::Signals { first, signals, .. } => {
                Some(ToSource::SignalsTaken(first + signals.len() as u32))
            }
            _ => None,
        };
        if !matches!(
            message,
            ToTarget::Clock | ToTarget::Describe(_) | ToTarget::Signals { .. } | ToTarget::Goodbye
        ) {
            let frame = Frame::of(message).expect("a message can be encoded");
            self.keep(frame.kind, frame.body.to_vec());
        }
        Ok(())
    }

    fn hear(&mut self, step: &'static str) -> Result<ToSource, MigrateError> {
        self.answer.take().ok_or(MigrateError::Silent { seconds: 0, step })
    }

    fn hear_meanwhile(
        &mut self,
        step: &'static str,
        meanwhile: &mut dyn FnMut() -> Result<(), MigrateError>,
    ) -> Result<ToSource, MigrateError> {
        meanwhile()?;
        self.hear(step)
    }

    fn nudge(&mut self) -> Result<(), MigrateError> {
        Ok(())
    }

    fn flush(&mut self) -> Result<(), MigrateError> {
        Ok(())
    }

    fn idle(&mut self, span: Duration) -> Result<(), MigrateError> {
        std::thread::sleep(span);
        Ok(())
    }

    fn drain(&mut self) -> Result<Instant, MigrateError> {
        Ok(Instant::now())
    }

    fn watch(&mut self) {}

    fn ignore_cancel(&mut self) {}

    fn name(&self) -> String {
        "nobody".to_owned()
    }

    fn reconnect(&mut self) -> Result<(), MigrateError> {
        Ok(())
    }

    fn bytes_sent(&self) -> u64 {
        self.bytes
    }

    fn same_machine(&self) -> bool {
        true
    }
}

impl PageSink for Drawer {
    fn pages(&mut self, of: ProcessIndex, addr: u64, data: Bytes) -> Result<(), PreloadError> {
        self.keep(kind::PAGES, [&PrivateHead { of, start: addr }.encode()[..], &data].concat());
        Ok(())
    }

    fn zero(&mut self, of: ProcessIndex, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.say(&ToTarget::Zero(of, ranges)).map_err(|e| PreloadError::Sink(Box::new(e)))
    }

    fn gone(&mut self, of: ProcessIndex, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.say(&ToTarget::Drop(of, ranges)).map_err(|e| PreloadError::Sink(Box::new(e)))
    }

    fn object_pages(&mut self, id: ObjectId, offset: u64, data: Bytes) -> Result<(), PreloadError> {
        let head = ObjectHead { id, start: offset }.encode();
        self.keep(kind::OBJECT_PAGES, [&head[..], &data].concat());
        Ok(())
    }

    fn object_holes(&mut self, id: ObjectId, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.say(&ToTarget::ObjectHoles(id, ranges)).map_err(|e| PreloadError::Sink(Box::new(e)))
    }
}
