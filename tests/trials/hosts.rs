//! The lab itself: hosts are apart, wires carry, the proxy does what it says, nothing is left.

use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use ulpm::demo::hosts::{Host, HostOptions, Stdio3};

use super::{trial, trial_in};
use crate::lab::needs::Need;
use crate::lab::udp_proxy::UdpProxy;
use crate::lab::{Lab, LabOptions, SOON, ULPM, wait_until};

pub(super) fn trials() -> Vec<Trial> {
    let private = LabOptions { private: vec!["/srv".into()], ..LabOptions::default() };
    vec![
        trial("hosts are apart", &[], apart),
        trial("hosts reap and translate pids", &[], reap),
        trial("hosts reach each other", &[Need::Program("python3")], reach),
        trial("hosts limit the rate", &[Need::TokenBucket], |lab| lab.limit_rate("a", "100mbit")),
        trial("hosts end with all that runs in them", &[], end),
        trial_in(private, "hosts have private directories", &[], private_directories),
        trial("proxy carries, loses, doubles, delays and cuts", &[], proxy),
    ]
}

fn apart(lab: &mut Lab) -> Result<()> {
    for name in ["a", "b"] {
        let said = lab.run(name, &["sh", "-c", "hostname; echo $$; cut -d' ' -f1 /proc/uptime"], SOON)?;
        let lines: Vec<&str> = said.stdout.lines().collect();
        ensure!(said.exit == 0 && lines.len() == 3 && lines[0] == name, "{said:?}");
        let first = if name == "a" { 2000 } else { 17_000 };
        ensure!(lines[1] == first.to_string(), "pids begin at {first}: {said:?}");
        let day_ahead = lines[2].parse::<f64>()? > 172_800.0;
        ensure!(day_ahead == (name == "b"), "the clock of {name}: {said:?}");
    }
    let script = "sed -n 's/^Sig[BI].*:[[:space:]]*//p' /proc/self/status; ls /proc/self/fd | wc -l; \
                  cut -d' ' -f7 /proc/$$/stat";
    let state = lab.run("a", &["sh", "-c", script], SOON)?;
    let lines: Vec<&str> = state.stdout.lines().collect();
    for mask in &lines[..2] {
        // Above 31 are the C library's own, which may be ignored from the start.
        ensure!(
            u64::from_str_radix(mask, 16)? & 0x7fff_ffff == 0,
            "signals are not as at a login: {state:?}"
        );
    }
    ensure!(lines[2] == "4", "a descriptor leaked: {state:?}");
    ensure!(lines[3] == "0", "a controlling terminal: {state:?}");
    Ok(())
}

fn reap(lab: &mut Lab) -> Result<()> {
    let mut sleeper = lab.spawn("a", &["sleep", "100"])?;
    let outside = lab.host("a").outside_pid(Pid::from_raw(sleeper.pid()))?;
    ensure!(outside.as_raw() == sleeper.outside_pid(), "both ways give one outside pid");
    let comm = fs::read_to_string(format!("/proc/{outside}/comm"))?;
    ensure!(comm.trim() == "sleep", "outside pid {outside} is {comm}");
    sleeper.signal(Signal::SIGTERM)?;
    let ended = sleeper.finish(SOON)?;
    ensure!(ended.exit == 128 + 15, "{ended:?}");
    let orphans = lab.run("a", &["sh", "-c", "(sh -c 'sleep 0.2 & exit 0' &) ; exit 7"], SOON)?;
    ensure!(orphans.exit == 7, "{orphans:?}");
    wait_until("neither the orphan nor a zombie is left", SOON, || {
        let left = lab.run("a", &["sh", "-c", "cat /proc/[0-9]*/stat | grep -c '(sleep)\\| Z '; true"], SOON);
        left.is_ok_and(|left| left.stdout.trim() == "0")
    })?;
    ensure!(lab.spawn("a", &["/no/such/program"]).is_err(), "a missing program is an error");
    Ok(())
}

fn reach(lab: &mut Lab) -> Result<()> {
    let listen = "import socket; s=socket.create_server(('0.0.0.0', 7000)); print('up', flush=True); \
                  c,a=s.accept(); c.sendall(b'hello')";
    let server = lab.spawn("b", &["python3", "-c", listen])?;
    wait_until("the server listens", SOON, || server.output().contains("up"))?;
    let connect = "import socket; print(socket.create_connection(('b', 7000), 5).recv(9))";
    let said = lab.run("a", &["python3", "-c", connect], SOON)?;
    ensure!(said.stdout.contains("hello"), "{said:?}");
    Ok(())
}

fn end(lab: &mut Lab) -> Result<()> {
    let stubborn = lab.spawn("a", &["sh", "-c", "trap '' TERM INT HUP; setsid sleep 300 & sleep 300"])?;
    let outside = stubborn.outside_pid();
    let replacement = Lab::two_hosts()?;
    let first = std::mem::replace(lab, replacement);
    let begin = Instant::now();
    drop(first);
    ensure!(begin.elapsed() < SOON, "it was waited for its end: {:?}", begin.elapsed());
    ensure!(!Path::new(&format!("/proc/{outside}")).exists(), "process {outside} outlived its host");
    Ok(())
}

fn private_directories(lab: &mut Lab) -> Result<()> {
    let options =
        HostOptions { private: vec!["/tmp".into()], program: Some(ULPM.into()), ..HostOptions::default() };
    let host = Host::create("c", &options)?;
    let (out, seen) = (File::create(lab.dir().join("c.out"))?, lab.dir().join("c.out"));
    let script = ["sh", "-c", "ls /tmp; cd \"$ULPM_HOME\" && touch here"];
    let mut process = host.spawn(&script, Path::new("/"), Stdio3::to_files(out.try_clone()?, out)?)?;
    process.wait(SOON)?.context("the command in c does not end")?;
    let home = host.home().to_owned();
    let only = home.file_name().context("a home has a name")?.to_string_lossy().into_owned();
    ensure!(fs::read_to_string(&seen)?.trim() == only, "its /tmp holds: {}", fs::read_to_string(&seen)?);
    ensure!(home.join("ulpm/here").exists(), "its home is not the real one");
    drop(host);
    ensure!(!home.exists(), "its home outlived it");
    let wrote = lab.run("a", &["sh", "-c", "echo x > /srv/of-a"], SOON)?;
    let seen = lab.run("b", &["ls", "/srv"], SOON)?;
    ensure!(wrote.exit == 0 && seen.stdout.is_empty(), "{wrote:?} {seen:?}");
    ensure!(!Path::new("/srv/of-a").exists(), "outside nothing is seen");
    Ok(())
}

fn proxy(lab: &mut Lab) -> Result<()> {
    let far = lab.host("b").in_network(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 3490)))??;
    let near = lab.host("a").in_network(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))??;
    let proxy = UdpProxy::between(lab.host("a"), lab.host("b"), 3490)?;
    for socket in [&far, &near] {
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    }
    let mut buffer = [0; 100];
    let mut send_and_count = |count: usize| -> Result<usize> {
        for _ in 0..count {
            near.send_to(b"0123456789", proxy.address())?;
        }
        Ok(std::iter::from_fn(|| far.recv_from(&mut buffer).ok()).count())
    };
    ensure!(send_and_count(10)? == 10 && proxy.forwarded() == 100, "plain");
    proxy.duplicate(1000);
    ensure!(send_and_count(10)? == 20, "doubled");
    proxy.duplicate(0);
    proxy.lose(500);
    let arrived = send_and_count(100)?;
    ensure!((20..80).contains(&arrived), "half of 100 lost: {arrived} arrived");
    proxy.lose(0);
    proxy.cut_after(proxy.forwarded() + 45);
    ensure!(send_and_count(10)? == 4 && proxy.is_cut(), "cut after 45 bytes");
    proxy.heal();
    ensure!(send_and_count(3)? == 3, "healed");
    proxy.cut();
    ensure!(send_and_count(3)? == 0, "cut by hand");
    proxy.heal();
    proxy.delay(Duration::from_millis(100));
    proxy.rate(1_000_000);
    let begin = Instant::now();
    near.send_to(b"x", proxy.address())?;
    let (_, client) = far.recv_from(&mut buffer).context("delayed packet")?;
    far.send_to(b"y", client)?;
    near.recv_from(&mut buffer).context("answer")?;
    ensure!(begin.elapsed() >= Duration::from_millis(200), "both ways delayed: {:?}", begin.elapsed());
    ensure!(proxy.returned() == 1, "one byte came back");
    Ok(())
}
