//! The first root of a machine: busybox, the kernel's modules, ulpm, this very test program as the agent, victims and
//! real programs with the libraries that they need.
//!
//! All programs but busybox are this machine's own, so that what is tested is what was built; they stand under the
//! same paths. `/init` is `init.sh`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::cpio::Archive;
use super::packages::{Packages, run};
use crate::lab::needs::find_program;
use crate::lab::{ULPM, victims};

/// What the machines need of the kernel's modules; those that these depend on come by themselves.
const MODULES: [&str; 15] = [
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    "veth",
    "tun",
    "lzo_rle",
    "zram",
    "loop",
    "unix_diag",
    "tcp_diag",
    "udp_diag",
    "netlink_diag",
    "sch_netem",
    "sch_tbf",
    "overlay",
];
/// What python programs of the tests import.
const PYTHON_IMPORTS: &str =
    "hashlib, os, sys, threading, time, socket, random, mmap, ctypes, zlib, json, select, signal";
/// Prints the files of all modules that are loaded then.
const PYTHON_FILES: &str = "
for module in list(sys.modules.values()):
    for name in (getattr(module, '__file__', None), getattr(module, '__cached__', None)):
        if name and os.path.exists(name):
            print(name)
";

/// Writes the image.
pub(super) fn write(to: &Path, packages: &Packages, cache: &Path) -> Result<()> {
    let mut image = Image {
        archive: Archive::new(BufWriter::new(File::create(to)?)),
        stripped: cache.join("stripped"),
        libraries: BTreeSet::new(),
    };
    fs::create_dir_all(&image.stripped)?;
    image.base(packages)?;
    image.modules(&packages.modules)?;
    image.tested()?;
    image.real_programs()?;
    image.asked_for()?;
    image.archive.finish()?;
    Ok(())
}

struct Image {
    archive: Archive<BufWriter<File>>,
    stripped: PathBuf,
    /// Those that are in it already.
    libraries: BTreeSet<PathBuf>,
}

impl Image {
    fn base(&mut self, packages: &Packages) -> Result<()> {
        for directory in [
            "/proc",
            "/sys",
            "/dev",
            "/tmp",
            "/run",
            "/root",
            "/srv",
            "/var/lib",
            "/usr/bin",
            "/sbin",
            "/usr/sbin",
        ] {
            self.archive.directory(Path::new(directory))?;
        }
        self.archive.content(Path::new("/init"), 0o755, include_bytes!("init.sh"))?;
        self.archive.content(Path::new("/etc/passwd"), 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
        self.archive.content(
            Path::new("/etc/machine-id"),
            0o444,
            &[[b'7'; 32].as_slice(), b"\n"].concat(),
        )?;
        self.archive.content(Path::new("/etc/group"), 0o644, b"root:x:0:\n")?;
        self.archive.file(Path::new("/bin/busybox"), &packages.busybox)?;
        Ok(())
    }

    /// Modules in the order in which they can be loaded.
    fn modules(&mut self, root: &Path) -> Result<()> {
        let mut files = BTreeMap::new();
        find_modules(&root.join("kernel"), &mut files)?;
        let mut order = Vec::new();
        for name in MODULES {
            put_in_order(name, &files, &mut order)?;
        }
        for (number, name) in order.iter().enumerate() {
            let place = format!("/lib/modules/load/{number:02}-{name}.ko");
            self.archive.file(Path::new(&place), &files[name])?;
        }
        Ok(())
    }

    /// What is tested, and what tests it.
    fn tested(&mut self) -> Result<()> {
        self.program(Path::new(ULPM), Path::new(ULPM))?;
        self.archive.link(Path::new("/bin/ulpm"), ULPM)?;
        self.program(Path::new("/agent"), &std::env::current_exe()?)?;
        for name in victims::names() {
            let program = PathBuf::from(victims::program(&name)?);
            self.archive.file(&program, &program)?;
            self.needs(&program)?;
        }
        // The lab inside a machine takes the names of the victims from their sources.
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/victims");
        self.tree(&sources)
    }

    /// All files below a directory, where they are.
    fn tree(&mut self, directory: &Path) -> Result<()> {
        for entry in fs::read_dir(directory)?.flatten() {
            match entry.file_type()?.is_dir() {
                true => self.tree(&entry.path())?,
                false => self.archive.file(&entry.path(), &entry.path())?,
            }
        }
        Ok(())
    }

    /// Those that the machine has; a trial says which it needs.
    fn real_programs(&mut self) -> Result<()> {
        for name in ["redis-server", "redis-cli", "redis-benchmark", "setpriv", "tc"] {
            if let Some(path) = find_program(name) {
                self.archive.file(Path::new(&path), Path::new(&path))?;
                self.needs(Path::new(&path))?;
            }
        }
        let Some(python) = find_program("python3") else { return Ok(()) };
        self.archive.file(Path::new(&python), Path::new(&python))?;
        self.needs(Path::new(&python))?;
        let script = format!("import {PYTHON_IMPORTS}{PYTHON_FILES}");
        let said = run(Command::new(&python).args(["-I", "-c", &script]))?;
        for path in said.lines().map(Path::new) {
            self.archive.file(path, path)?;
            if path.extension().is_some_and(|extension| extension == "so") {
                self.needs(path)?;
            }
        }
        Ok(())
    }

    /// Programs that whoever runs the lab wants to have there: paths in `ULPM_VM_ADD`, as in `PATH`.
    fn asked_for(&mut self) -> Result<()> {
        let paths = std::env::var_os("ULPM_VM_ADD").unwrap_or_default();
        for path in std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()) {
            let name =
                path.file_name().with_context(|| format!("ULPM_VM_ADD: {} has no name", path.display()))?;
            self.program(&Path::new("/bin").join(name), &path)?;
        }
        Ok(())
    }

    /// A program without its debug information (most of its size) and with its libraries.
    fn program(&mut self, path: &Path, from: &Path) -> Result<()> {
        let name = from.file_name().context("a program without a name")?;
        let stripped = self.stripped.join(name);
        let time = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        if time(&stripped).is_none_or(|made| Some(made) < time(from)) {
            let fresh = self.stripped.join(format!("fresh.{}", std::process::id()));
            match run(Command::new("strip").arg("-o").arg(&fresh).arg(from)) {
                Ok(_) => fs::rename(&fresh, &stripped)?,
                Err(error) => {
                    eprintln!("note: {error:#}; the image is larger than it need be");
                    fs::copy(from, &stripped)?;
                }
            }
        }
        self.archive.file(path, &stripped)?;
        self.needs(from)
    }

    /// The libraries of a program, and its loader: `NAME => PATH (0x…)` or `PATH (0x…)`.
    fn needs(&mut self, program: &Path) -> Result<()> {
        let said = run(Command::new("ldd").arg(program))?;
        for line in said.lines() {
            ensure!(!line.contains("not found"), "{}: {line}", program.display());
            let paths = line.split_whitespace().filter(|word| word.starts_with('/'));
            for path in paths.map(PathBuf::from) {
                if self.libraries.insert(path.clone()) {
                    self.archive.file(&path, &path)?;
                }
            }
        }
        Ok(())
    }
}

/// All modules by name, with `_` for `-` as the kernel has it.
fn find_modules(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find_modules(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
            files.insert(name, path);
        }
    }
    Ok(())
}

/// A module after those that it depends on, which its `.modinfo` section names.
fn put_in_order(name: &str, files: &BTreeMap<String, PathBuf>, order: &mut Vec<String>) -> Result<()> {
    if order.iter().any(|before| before == name) {
        return Ok(());
    }
    let file = files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
    let content = fs::read(file)?;
    let mark = b"\0depends=";
    let at = content.windows(mark.len()).position(|window| window == mark);
    let named = at.map(|at| content[at + mark.len()..].split(|byte| *byte == 0).next().unwrap_or_default());
    let named = String::from_utf8_lossy(named.unwrap_or_default()).replace('-', "_");
    for needed in named.split(',').filter(|needed| !needed.is_empty()) {
        put_in_order(needed, files, order)?;
    }
    order.push(name.to_owned());
    Ok(())
}
