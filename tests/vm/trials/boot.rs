//! The machines themselves: another kernel, a wire between them, ulpm in both.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::lab::ULPM;
use crate::vm::pair::Pair;
use crate::vm::wire::Sink;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("vm boot", &[], boot), trial("vm commands", &[], commands)]
}

fn boot(pair: &mut Pair) -> Result<()> {
    eprintln!(
        "both machines booted Linux {} in {:.1} s, image {} MiB",
        pair.release,
        pair.boot.as_secs_f64(),
        pair.image_bytes >> 20
    );
    for (machine, other) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
        ensure!(machine.must(&["uname", "-r"])?.trim() == pair.release, "another kernel");
        machine.must(&["ping", "-c", "3", "-i", "0.2", "-w", "20", &other.address.to_string()])?;
        let mounts = machine.must(&["cat", "/proc/mounts"])?;
        for place in [
            "/proc ",
            "/sys ",
            "/dev/pts ",
            "/dev/shm ",
            "/tmp ",
            "/sys/fs/cgroup cgroup2 ",
            "/dev/hugepages ",
        ] {
            ensure!(mounts.contains(place), "{place} is not mounted in {}: {mounts}", machine.name);
        }
        ensure!(machine.must(&["cat", "/proc/swaps"])?.contains("zram0"), "no swap");
        ensure!(machine.must(&["cat", "/proc/sys/vm/nr_hugepages"])?.trim() == "16", "no huge pages");
        ensure!(machine.must(&["ls", "/proc/self/ns"])?.contains("time"), "no time namespaces");
        let modules = machine.must(&["cat", "/proc/modules"])?;
        ensure!(modules.contains("virtio_net ") && modules.contains("unix_diag "), "{modules}");
        let console = machine.console();
        ensure!(!console.contains("not loaded"), "{console}");
        let check = machine.run(&[ULPM, "check"])?;
        eprintln!("{}", check.stdout.trim_end());
        ensure!(check.exit == 0 && check.stdout.contains("to receive"), "ulpm check: {check:?}");
        let trusted = machine.must(&[ULPM, "trust", "list"])?;
        ensure!(trusted.contains("SHA256:") && trusted.contains(other.name), "{trusted}");
    }
    pair.serve()?;
    Ok(())
}

/// The channel: exit codes, outputs, the background, several at once, nothing left by a reset.
fn commands(pair: &mut Pair) -> Result<()> {
    let a = &pair.a;
    let ended = a.run(&["sh", "-c", "echo out; echo err >&2; exit 7"])?;
    ensure!((ended.exit, &*ended.stdout, &*ended.stderr) == (7, "out\n", "err\n"), "{ended:?}");
    ensure!(a.run(&["sh", "-c", "kill -9 $$"])?.exit == 137, "the signal is not in the exit code");
    ensure!(a.run(&["no-such-program"]).is_err(), "a program that does not exist was started");
    let large = a.run(&["head", "-c", "3000000", "/dev/zero"])?.stdout.len();
    ensure!(large == 3_000_000, "{large} bytes instead of 3000000");
    a.write("/tmp/file", "content")?;
    ensure!(a.read("/tmp/file", 3)? == b"tent", "another content");
    let waiting = a.start_job(
        &["sh", "-c", "until [ -e /tmp/go ]; do sleep 0.01; done; echo gone; exit 3"],
        &[],
        Sink::Ear,
    )?;
    ensure!(a.is_alive(waiting.pid)?, "it does not run");
    // While one question waits, others are answered.
    std::thread::scope(|scope| -> Result<()> {
        let said = scope.spawn(|| a.until(&waiting, &["gone"], crate::lab::SOON));
        a.write("/tmp/go", "")?;
        let said = said.join().map_err(|_| anyhow::anyhow!("the asker panicked"))??;
        ensure!(said == "gone\n", "it said {said:?}");
        Ok(())
    })?;
    ensure!(a.wait(waiting.pid, crate::lab::SOON)? == 3, "another exit code");
    let left = a.start_job(&["sleep", "1000"], &[], Sink::File)?;
    a.reset()?;
    ensure!(!a.is_alive(left.pid)?, "a reset leaves something");
    Ok(())
}
