//! Checkpoints outlive the kernel: made in machine `a`, restored by another boot of it. What is on its disk is carried over by hand.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::mover::{Mover, STOP};
use super::programs::{start_python, start_redis};
use super::trial;
use super::victims::ACROSS;
use crate::lab::needs::Need;
use crate::lab::{SOON, ULPM, victims};
use crate::vm::machine::{Job, Machine};
use crate::vm::pair::Pair;

pub(super) fn trials() -> Vec<Trial> {
    let needs = [Need::Program("python3"), Need::Program("redis-server"), Need::Program("redis-cli")];
    vec![trial("vm reboot", &needs, reboot)]
}

/// It insists that the time of day keeps its distance to the other clocks: in the drawer it alone goes on.
const BY_THE_WALL: &str = "clock";

/// A process in a directory, and what was read of that.
struct Drawn {
    name: String,
    job: Job,
    files: Vec<(String, Vec<u8>)>,
}

fn reboot(pair: &mut Pair) -> Result<()> {
    let mut drawn = Vec::new();
    for name in ACROSS.into_iter().filter(|name| *name != BY_THE_WALL) {
        let victim = Mover::start(pair, &[&victims::program(name)?])?;
        drawn.push(Drawn::of(&pair.a, name, victim.into_job())?);
    }
    let python = start_python(pair)?;
    drawn.push(Drawn::of(&pair.a, "python3", python.into_job())?);
    let (redis, digest) = start_redis(pair)?;
    let redis = Drawn::of(&pair.a, "redis", redis)?;
    let again = pair.booted_again().context("machine a, booted again")?;
    let done = drawn.iter().try_for_each(|one| one.goes_on(&again)).and_then(|()| {
        redis.restore(&again)?;
        let there = again.must(&["redis-cli", "-h", "127.0.0.1", "DEBUG", "DIGEST"])?;
        ensure!(there.trim() == digest, "the digest is {there}, was {digest}");
        Ok(())
    });
    done.with_context(|| format!("console of the second boot:\n{}", again.console()))
}

impl Drawn {
    /// Writes it down, and ends it.
    fn of(machine: &Machine, name: &str, job: Job) -> Result<Self> {
        let dir = format!("/srv/{name}");
        let argv = [ULPM, "checkpoint", "--pid", &job.pid.to_string(), "--dir", &dir];
        let ended = machine.run_for(&argv, SOON * 3)?;
        ensure!(ended.exit == 0 && !machine.is_alive(job.pid)?, "checkpoint of {name}: {ended:?}");
        let names = machine.must(&["ls", &dir])?;
        let read = |file: &str| Ok((file.to_owned(), machine.read(&format!("{dir}/{file}"), 0)?));
        let files = names.split_whitespace().map(read).collect::<Result<Vec<_>>>()?;
        ensure!(files.iter().any(|(file, content)| file == "state" && !content.is_empty()), "{names}");
        Ok(Drawn { name: name.to_owned(), job, files })
    }

    /// It is made of what is on the disk, under its pid.
    fn restore(&self, machine: &Machine) -> Result<()> {
        let dir = format!("/srv/{}", self.name);
        machine.must(&["mkdir", "-m", "700", &dir])?;
        for (file, content) in &self.files {
            machine.write(&format!("{dir}/{file}"), content.clone())?;
        }
        let ended = machine.run_for(&[ULPM, "restore", "--dir", &dir, "--pid-mode", "same"], SOON * 3)?;
        ensure!(ended.exit == 0, "restore of {}: {ended:?}", self.name);
        let (alive, said) = (machine.is_alive(self.job.pid)?, machine.said(&self.job)?);
        ensure!(alive, "{} does not run, and has said {said:?}: {ended:?}", self.name);
        Ok(())
    }

    /// The same, and what it says of itself.
    fn goes_on(&self, machine: &Machine) -> Result<()> {
        machine.must(&["rm", "-f", STOP])?;
        self.restore(machine)?;
        // works on for a while where it is now
        std::thread::sleep(std::time::Duration::from_millis(500));
        machine.write(STOP, "")?;
        let said = machine.until(&self.job, &["PASS", "FAIL"], SOON * 3).context("its last word")?;
        ensure!(said.contains("PASS") && !said.contains("FAIL"), "{} says: {said}", self.name);
        Ok(())
    }
}
