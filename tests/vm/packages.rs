//! The kernel and busybox, taken out of Debian's packages without installing them, once, into `target/vm/`.
//!
//! A kernel package must not be installed on the machine that runs the tests: `apt-get download` and
//! `dpkg-deb -x` need no root and change nothing but that directory. If the machine's own package lists are absent
//! or too old, lists of our own are fetched beside it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Depends on the newest kernel of its kind.
const KERNEL: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";

/// What was taken out.
#[derive(Debug)]
pub(super) struct Packages {
    pub(super) kernel: PathBuf,
    /// Where its modules are.
    pub(super) modules: PathBuf,
    pub(super) busybox: PathBuf,
}

impl Packages {
    /// What is in the cache, fetched if there is nothing.
    pub(super) fn fetched(cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache)?;
        let lock = File::create(cache.join("lock"))?;
        // Another test run may be fetching.
        lock.lock()?;
        let root = cache.join("root");
        if !root.exists() {
            let fresh = cache.join("fresh");
            let _ = fs::remove_dir_all(&fresh);
            fs::create_dir_all(&fresh)?;
            fetch(cache, &fresh)?;
            fs::rename(&fresh, &root)?;
        }
        let kernel = only_child(&root.join("boot"), "vmlinuz-")?;
        let modules = only_child(&root.join("lib/modules"), "")?;
        Ok(Self { kernel, modules, busybox: root.join("bin/busybox") })
    }

    /// The kernel's version.
    pub(super) fn release(&self) -> String {
        self.modules.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

fn only_child(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found = fs::read_dir(directory)
        .with_context(|| format!("list {}", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    found.next().with_context(|| format!("no {prefix}* in {}", directory.display()))
}

/// Downloads both and unpacks them.
fn fetch(cache: &Path, to: &Path) -> Result<()> {
    let apt = match download(&Apt { lists: None }, to) {
        Ok(()) => return unpack(to),
        Err(first) => {
            eprintln!("note: {first:#}; trying with fresh package lists");
            Apt { lists: Some(cache.join("apt")) }
        }
    };
    apt.update()?;
    download(&apt, to)?;
    unpack(to)
}

/// `apt-get` and `apt-cache`, with the machine's lists or with our own.
struct Apt {
    lists: Option<PathBuf>,
}

impl Apt {
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8").args(["-q", "-o", "APT::Sandbox::User=root"]);
        if let Some(lists) = &self.lists {
            for (option, place) in [("State", "state"), ("State::Lists", "lists"), ("Cache", "cache")] {
                command.arg("-o").arg(format!("Dir::{option}={}", lists.join(place).display()));
            }
            command.args(["-o", "Dir::State::status=/var/lib/dpkg/status"]);
        }
        command.args(args);
        command
    }

    fn update(&self) -> Result<()> {
        for place in self.lists.iter().flat_map(|lists| {
            ["state", "lists/partial", "cache/archives/partial"].map(|place| lists.join(place))
        }) {
            fs::create_dir_all(place)?;
        }
        run(&mut self.command("apt-get", &["update"])).map(|_| ())
    }
}

fn download(apt: &Apt, to: &Path) -> Result<()> {
    let said = run(&mut apt.command("apt-cache", &["depends", "--important", KERNEL]))?;
    let kernel = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{KERNEL} depends on no kernel: {said}"))?;
    run(apt.command("apt-get", &["download", kernel, BUSYBOX]).current_dir(to)).map(|_| ())
}

fn unpack(to: &Path) -> Result<()> {
    for entry in fs::read_dir(to)?.flatten() {
        let package = entry.path();
        if package.extension() == Some(OsStr::new("deb")) {
            run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(to))?;
            fs::remove_file(package)?;
        }
    }
    Ok(())
}

/// Runs a command to its end and gives its output; an error says what it said.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
