//! redis-server with 300 MiB of data: its digest before and after, a client that writes until the freeze.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::process::Proc;
use crate::lab::{Lab, SOON, wait_until};
use crate::trials::checkpoint;
use crate::trials::victims::is_gone;

const PORT: u16 = 6379;
/// With 1000 bytes each about 300 MiB.
const KEYS: u32 = 280_000;

/// There and back while nobody writes: the digest stays, and it accepts at the target.
pub(super) fn quiet(lab: &mut Lab) -> Result<()> {
    lab.serve("a")?;
    lab.serve("b")?;
    let redis = start(lab)?;
    let before = digest(lab, "a")?;
    ensure!(digest(lab, "a")? == before, "the digest is not stable");
    let mut pid = redis.pid();
    let mut from = "a";
    for to in super::moves(2) {
        let outside = lab.host(from).outside_pid(Pid::from_raw(pid))?.as_raw();
        pid = lab.live(from, pid, to, &["--verify"])?.moved()?;
        ensure!(is_gone(outside), "the source's copy still exists");
        ensure!(digest(lab, to)? == before, "another digest after the move to {to}");
        ensure!(ask(lab, to, "SET after move")?.starts_with("+OK"), "cannot write in {to}");
        ask(lab, to, "DEL after")?;
        from = to;
    }
    let outside = lab.host(from).outside_pid(Pid::from_raw(pid))?;
    kill(outside, Signal::SIGTERM)?;
    wait_until("redis ends at SIGTERM", SOON, || redis.output().contains("bye bye"))
}

/// Into a checkpoint and out of it while nobody writes: the digest stays.
pub(in crate::trials) fn drawn(lab: &mut Lab) -> Result<()> {
    let redis = start_with(lab, KEYS / 20)?;
    let (before, dir) = (digest(lab, "a")?, lab.dir().join("kept"));
    let outside = redis.outside_pid();
    let ended = checkpoint::checkpoint(lab, redis.pid(), &dir, &["--pre-copy"])?;
    ensure!(ended.exit == 0 && is_gone(outside), "{ended:?}");
    let pid = checkpoint::restored(&checkpoint::restore(lab, &dir, &[])?)?;
    ensure!(pid == redis.pid() && digest(lab, "a")? == before, "another digest than before");
    ensure!(ask(lab, "a", "SET after move")?.starts_with("+OK"), "cannot write");
    kill(lab.host("a").outside_pid(Pid::from_raw(pid))?, Signal::SIGTERM)?;
    wait_until("redis ends at SIGTERM", SOON, || redis.output().contains("bye bye"))
}

/// A client writes all the time, with a new connection whenever the old one breaks: all that it was told to be
/// written must be there at the target.
pub(super) fn with_writer(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let redis = start(lab)?;
    let before = digest(lab, "a")?;
    let stop = AtomicBool::new(false);
    let (outcome, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| lab.host("a").in_network(|| write_until(&stop)));
        std::thread::sleep(Duration::from_secs(1));
        let outcome = lab.live("a", redis.pid(), "b", &["--verify", "--tcp", "close"]);
        stop.store(true, Ordering::Relaxed);
        (outcome, writer.join())
    });
    outcome?.moved()?;
    let written = written.map_err(|_| anyhow::anyhow!("the writer panicked"))???;
    ensure!(written > 1000, "the writer wrote {written} values only");
    lab.note(format!("{written} values were written and confirmed"));
    let got = ask(lab, "b", "GET counter")?;
    let counter: u64 = got.trim().parse().with_context(|| format!("the counter is {got:?}"))?;
    // The last one may have been written and its confirmation lost with the connection.
    ensure!(
        counter == written || counter == written + 1,
        "the counter is {counter} after {written} confirmed writes"
    );
    ask(lab, "b", "DEL counter")?;
    ensure!(digest(lab, "b")? == before, "another digest after the move, the counter apart");
    Ok(())
}

/// Does something while a client overwrites values all over the data, about so many times a second.
pub(in crate::trials) fn under_load<T>(lab: &Lab, per_s: u64, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| lab.host("a").in_network(|| overwrite_until(&stop, per_s)));
        let done = act();
        stop.store(true, Ordering::Relaxed);
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))???;
        ensure!(written > 100, "the writer wrote {written} values only");
        lab.note(format!("{written} values were overwritten"));
        done
    })
}

/// Without `--tcp close` an established connection is named, and redis goes on.
pub(super) fn refused(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let redis = start(lab)?;
    let held = lab.host("a").in_network(connect)??;
    let mut held = BufReader::new(held);
    ensure!(command(&mut held, "PING")? == "+PONG", "the connection carries nothing");
    lab.live("a", redis.pid(), "b", &[])?.refused(3, &["tcp", "--tcp close", "6379"])?;
    ensure!(command(&mut held, "PING")? == "+PONG", "the connection was hurt");
    Ok(())
}

pub(in crate::trials) fn start(lab: &Lab) -> Result<Proc> {
    start_with(lab, KEYS)
}

fn start_with(lab: &Lab, keys: u32) -> Result<Proc> {
    let port = PORT.to_string();
    let args = ["redis-server", "--port", &port, "--bind", "0.0.0.0", "--save", "", "--appendonly", "no"];
    let debug = ["--enable-debug-command", "yes", "--protected-mode", "no"];
    let redis = lab.spawn("a", &[&args[..], &debug].concat())?;
    wait_until("redis accepts", SOON, || redis.output().contains("Ready to accept"))?;
    let filled = ask(lab, "a", &format!("DEBUG POPULATE {keys} key 1000"))?;
    ensure!(filled.starts_with("+OK"), "populate: {filled}");
    Ok(redis)
}

fn digest(lab: &Lab, host: &str) -> Result<String> {
    let digest = ask(lab, host, "DEBUG DIGEST")?;
    ensure!(digest.len() > 40, "no digest: {digest}");
    Ok(digest)
}

/// One command on a connection of its own, which is gone at redis when this returns.
fn ask(lab: &Lab, host: &str, text: &str) -> Result<String> {
    let answer = lab.host(host).in_network(|| -> Result<String> {
        let mut stream = BufReader::new(connect()?);
        let answer = command(&mut stream, text)?;
        command(&mut stream, "QUIT")?;
        ensure!(stream.read_line(&mut String::new())? == 0, "QUIT does not end the connection");
        Ok(answer)
    })??;
    Ok(answer)
}

fn connect() -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// Sends an inline command and reads one answer; a bulk answer without its header.
fn command(stream: &mut BufReader<TcpStream>, text: &str) -> Result<String> {
    // In one piece: the second of two would wait 40 ms for the first one's acknowledgement.
    stream.get_mut().write_all(format!("{text}\r\n").as_bytes())?;
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        bail!("redis closed the connection");
    }
    if line.starts_with('$') {
        line.clear();
        stream.read_line(&mut line)?;
    }
    Ok(line.trim_end().to_owned())
}

/// Counts up in redis until told to stop or until redis has gone; returns how many were confirmed.
fn write_until(stop: &AtomicBool) -> Result<u64> {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(stream) = connect() else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut stream = BufReader::new(stream);
        while !stop.load(Ordering::Relaxed) {
            match command(&mut stream, &format!("SET counter {}", written + 1)) {
                Ok(answer) if answer == "+OK" => written += 1,
                Ok(answer) => bail!("redis says {answer}"),
                Err(_) => break,
            }
        }
    }
    Ok(written)
}

/// Overwrites values of `DEBUG POPULATE`, so many a second, until told to stop, or until redis has gone; returns how many.
fn overwrite_until(stop: &AtomicBool, per_s: u64) -> Result<u64> {
    let mut written = 0;
    let Ok(stream) = connect() else { return Ok(0) };
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut stream = BufReader::new(stream);
    let mut seed = 1u64;
    let begun = std::time::Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if written > begun.elapsed().as_millis() as u64 * per_s / 1000 {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = (seed >> 33) % u64::from(KEYS);
        match command(&mut stream, &format!("SETRANGE key:{key} 500 {written:016}")) {
            Ok(answer) if answer.starts_with(':') => written += 1,
            Ok(answer) => bail!("redis says {answer}"),
            // it was moved away
            Err(_) => break,
        }
    }
    Ok(written)
}
